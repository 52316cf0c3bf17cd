//! The rows that are durable in the journal but not yet merged into the base: one layer per segment, in memory.
//!
//! It does no I/O and decides no bound: [`super::Store`] publishes a batch here only after its sync and holds the writer
//! back when too much is sealed; [`super::merge`] retires the oldest layer once the base has it for good. Start with
//! [`Overlay::window`], which is what a reader takes away.

use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use super::rows::Applied;
use super::segment::Segment;
use super::span::{Direction, Span};

/// A row in a layer: `None` says that it was deleted.
pub(super) type LayerRow = (Bytes, Option<Bytes>);

/// What one more row costs besides its bytes: a node's share and two handles. An estimate, for the bounds.
const ROW_OVERHEAD_BYTES: u64 = 96;

/// The newest value of every row that one segment wrote.
#[derive(Debug, Default)]
pub(super) struct Layer {
    rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: u64,
    journal_bytes: u64,
    last_batch: u64,
    revision: u64,
    /// The segment that the layer was read from or written to; known once it is sealed.
    segment: Option<Segment>,
}

impl Layer {
    /// The rows in ascending order of their keys.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.rows.iter()
    }

    /// The bytes its rows take, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it counts against the bound. A row written over and over takes little memory but much journal, and the
    /// journal must be read at the next open: the greater of the two counts.
    pub(super) fn weight(&self) -> u64 {
        self.bytes.max(self.journal_bytes)
    }

    /// The number of the last batch in it.
    pub(super) fn last_batch(&self) -> u64 {
        self.last_batch
    }

    /// The newest revision after its last batch.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The file that may be recycled once the layer is merged.
    pub(super) fn segment(&self) -> Option<&Segment> {
        self.segment.as_ref()
    }

    fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| value.len() as u64);
        self.bytes += size(&value);
        let key_bytes = key.len() as u64;
        match self.rows.insert(key, value) {
            Some(replaced) => self.bytes -= size(&replaced),
            None => self.bytes += key_bytes + ROW_OVERHEAD_BYTES,
        }
    }
}

/// All layers, the newest of which still grows.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    active: Layer,
    /// From the oldest to the newest.
    sealed: VecDeque<Arc<Layer>>,
    published: u64,
    revision: u64,
}

/// A copy of the part of the overlay that a read needs, taken at one moment.
#[derive(Debug)]
pub(super) struct Window {
    /// In the direction of the read, each key once with its newest value.
    pub rows: Vec<LayerRow>,
    /// The number of the newest batch the copy shows.
    pub published: u64,
}

impl Overlay {
    /// An overlay over a base that has everything up to `applied`.
    pub(super) fn above(applied: Applied) -> Overlay {
        Overlay { published: applied.batch, revision: applied.revision, ..Overlay::default() }
    }

    /// Shows a durable batch. The caller's write lock makes it atomic.
    pub(super) fn publish(
        &mut self,
        batch: u64,
        revision: u64,
        journal_bytes: u64,
        rows: impl IntoIterator<Item = LayerRow>,
    ) {
        for (key, value) in rows {
            self.active.put(key, value);
        }
        self.active.journal_bytes += journal_bytes;
        self.published = batch;
        self.revision = revision;
    }

    /// Closes the newest layer, which is that of `segment`, and begins another.
    pub(super) fn seal(&mut self, segment: Segment) {
        let layer = std::mem::take(&mut self.active);
        let (last_batch, revision) = (self.published, self.revision);
        self.sealed.push_back(Arc::new(Layer { last_batch, revision, segment: Some(segment), ..layer }));
    }

    /// The oldest sealed layer.
    pub(super) fn oldest(&self) -> Option<Arc<Layer>> {
        self.sealed.front().cloned()
    }

    /// Forgets the oldest sealed layer, which the base has durably now.
    pub(super) fn retire_oldest(&mut self) {
        self.sealed.pop_front();
    }

    /// What the sealed layers count against the bound.
    pub(super) fn sealed_weight(&self) -> u64 {
        self.sealed.iter().map(|layer| layer.weight()).sum()
    }

    /// What the newest layer will count once it is sealed.
    pub(super) fn active_weight(&self) -> u64 {
        self.active.weight()
    }

    /// The newest word on a key: `None` when no layer has it, `Some(None)` when it was deleted.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.newest_first().find_map(|layer| layer.rows.get(key).cloned())
    }

    /// The number of the newest batch that readers see.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// The newest revision that readers see.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Copies the rows of a span until `limit` live ones were met.
    ///
    /// Deletions on the way are copied too, as they hide rows of the base; their number is bounded by the overlay's own
    /// bound. With `limit` live rows copied, a read of that many rows never needs to look beyond the last of them.
    pub(super) fn window(&self, span: &Span, direction: Direction, limit: usize) -> Window {
        let mut window = Window { rows: Vec::new(), published: self.published };
        if span.is_empty() || limit == 0 {
            return window;
        }
        let mut cursors: Vec<Peekable<Cursor<'_>>> =
            self.newest_first().map(|layer| cursor(layer, span, direction).peekable()).collect();
        let mut live = 0;
        while let Some((key, value)) = take_first(&mut cursors, direction) {
            live += usize::from(value.is_some());
            window.rows.push((key.clone(), value.clone()));
            if live == limit {
                break;
            }
        }
        window
    }

    fn newest_first(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.active).chain(self.sealed.iter().rev().map(Arc::as_ref))
    }
}

type Cursor<'a> = Box<dyn Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a>;

fn cursor<'a>(layer: &'a Layer, span: &Span, direction: Direction) -> Cursor<'a> {
    let range = layer.rows.range::<[u8], _>(span.bounds());
    match direction {
        Direction::Ascending => Box::new(range),
        Direction::Descending => Box::new(range.rev()),
    }
}

/// The first row of all cursors, which are ordered from the newest layer to the oldest; older versions are passed over.
fn take_first<'a>(
    cursors: &mut [Peekable<Cursor<'a>>],
    direction: Direction,
) -> Option<(&'a Bytes, &'a Option<Bytes>)> {
    let mut first: Option<(&Bytes, &Option<Bytes>)> = None;
    for cursor in cursors.iter_mut() {
        if let Some(row) = cursor.peek()
            && first.is_none_or(|first| direction.meets_first(row.0, first.0))
        {
            first = Some(*row);
        }
    }
    let (key, _) = first?;
    for cursor in cursors.iter_mut() {
        cursor.next_if(|row| row.0 == key);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: Option<&str>) -> LayerRow {
        (Bytes::copy_from_slice(key.as_bytes()), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
    }

    fn segment() -> Segment {
        Segment { path: "1.segment".into(), length: 4096 }
    }

    fn three_layers() -> Overlay {
        let mut overlay = Overlay::above(Applied::default());
        overlay.publish(1, 1, 10, [row("a", Some("1")), row("b", Some("1")), row("d", Some("1"))]);
        overlay.seal(segment());
        overlay.publish(2, 2, 10, [row("b", None), row("c", Some("2"))]);
        overlay.seal(segment());
        overlay.publish(3, 3, 10, [row("a", Some("3"))]);
        overlay
    }

    #[test]
    fn the_newest_layer_has_the_word_and_a_deletion_is_a_word() {
        let overlay = three_layers();
        assert_eq!(overlay.get(b"a"), Some(Some("3".into())));
        assert_eq!(overlay.get(b"b"), Some(None));
        assert_eq!(overlay.get(b"x"), None);
    }

    #[test]
    fn a_window_is_cut_after_enough_live_rows_and_keeps_the_deletions_on_its_way() {
        let overlay = three_layers();
        let up = overlay.window(&Span::from(b"", b""), Direction::Ascending, 2);
        assert_eq!(up.rows, [row("a", Some("3")), row("b", None), row("c", Some("2"))]);
        assert_eq!(up.published, 3);
        let down = overlay.window(&Span::from(b"", b""), Direction::Descending, 9);
        assert_eq!(down.rows, [row("d", Some("1")), row("c", Some("2")), row("b", None), row("a", Some("3"))]);
    }

    #[test]
    fn a_row_written_over_and_over_counts_its_journal_bytes() {
        let mut overlay = Overlay::above(Applied::default());
        for batch in 1..=100 {
            overlay.publish(batch, batch, 512, [row("k", Some("value"))]);
        }
        assert_eq!(overlay.active_weight(), 51_200);
        assert_eq!(overlay.active.bytes(), 1 + 5 + ROW_OVERHEAD_BYTES);
        assert_eq!(overlay.sealed_weight(), 0);
        overlay.seal(segment());
        assert_eq!(overlay.sealed_weight(), 51_200);
    }
}
