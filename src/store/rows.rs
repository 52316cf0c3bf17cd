//! How rows are laid out in the base, and the checks that every one of them passes on its way back.
//!
//! The base's keys begin with a kind byte, so that user rows, chunks and the store's own notes never collide:
//!
//! | key | value |
//! |---|---|
//! | `00` `applied` | the last merged batch and its revision, 8 bytes each |
//! | `10` row key | the row, or for a long one its length (8) and number of chunks (4) |
//! | `20` key length (4, big-endian) row key, index (4, big-endian) | one chunk of a long row |
//!
//! Every value begins with a crc32c over its key and the rest, then a byte that tells which of these it is: sled checks
//! its own pages, but not that a page is the one that belongs here. Long rows are cut into chunks since sled rewrites a
//! whole leaf, 64 rows, whenever one of them changes.
//!
//! This file neither knows the overlay nor decides when to merge. Start with [`Rows::walk`] and [`Rows::writes_for`].

use std::collections::HashSet;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes};

use super::error::StoreError;
use super::record::{le_u32, le_u64};
use super::sled::{Base, BaseBatch, Visit};
use super::span::{Direction, Span};

/// Values longer than this are cut into chunks of this size.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

const META: u8 = 0x00;
const ROW: u8 = 0x10;
const CHUNK: u8 = 0x20;
const APPLIED: &[u8] = b"\x00applied";

const KIND_WHOLE: u8 = 0;
const KIND_CHUNKED: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_META: u8 = 3;
/// Checksum and kind.
const SEAL_BYTES: usize = 5;

/// How far the base has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The number of the last batch merged; 0 for none.
    pub batch: u64,
    /// The newest revision after it.
    pub revision: u64,
}

/// A row as its base key holds it.
#[derive(Debug)]
pub(super) enum Value {
    /// The row itself.
    Whole(Bytes),
    /// A long row: its length in bytes and the number of its chunks, which are under keys of their own.
    Chunked { length: u64, chunks: u32 },
}

/// The merged rows.
pub(super) struct Rows {
    base: Arc<dyn Base>,
    directory: PathBuf,
    /// Which rows have chunks; looked up once, by the first merge.
    chunked: Mutex<Option<Chunked>>,
}

/// The keys of the rows that have chunks, so that a merge need not look for the chunks of every other row.
enum Chunked {
    These(HashSet<Vec<u8>>),
    /// More than are kept in memory: the rows themselves tell.
    TooMany,
}

/// Rows with chunks whose keys are kept. Each has 256 KiB at least.
const CHUNKED_KNOWN: usize = 4_096;

impl Chunked {
    fn may_have(&self, key: &[u8]) -> bool {
        match self {
            Chunked::These(keys) => keys.contains(key),
            Chunked::TooMany => true,
        }
    }

    /// Takes note of a row that is about to get chunks. One that loses them again stays noted, which costs a look.
    fn note(&mut self, key: &[u8]) {
        if let Chunked::These(keys) = self {
            keys.insert(key.to_vec());
            if keys.len() > CHUNKED_KNOWN {
                *self = Chunked::TooMany;
            }
        }
    }
}

impl Rows {
    /// The rows in `base`; `directory` is named in errors.
    pub(super) fn new(base: Arc<dyn Base>, directory: PathBuf) -> Rows {
        Rows { base, directory, chunked: Mutex::new(None) }
    }

    /// How far the merge has come.
    pub(super) fn applied(&self) -> Result<Applied, StoreError> {
        let Some(value) = self.base.get(APPLIED).map_err(self.failed("read"))? else {
            return Ok(Applied::default());
        };
        match self.unseal(APPLIED, value)? {
            (KIND_META, body) if body.len() == 16 => Ok(Applied { batch: le_u64(&body), revision: le_u64(&body[8..]) }),
            _ => Err(self.corrupt(APPLIED, "the note of what was merged is malformed")),
        }
    }

    /// The write that says how far the merge has come; it goes into the last batch of a layer.
    pub(super) fn applied_write(applied: Applied) -> (Vec<u8>, Option<Vec<u8>>) {
        let body = [applied.batch.to_le_bytes(), applied.revision.to_le_bytes()].concat();
        (APPLIED.to_vec(), Some(seal(APPLIED, KIND_META, &body)))
    }

    /// Adds the writes that make the row `key` be `value` and returns their size in bytes, about.
    ///
    /// They belong into one atomic batch: the row's head, its chunks, and the removal of chunks that an earlier, longer
    /// value left. So no crash leaves a chunk without a head or a head without its chunks.
    pub(super) fn writes_for(
        &self,
        key: &[u8],
        value: Option<&Bytes>,
        batch: &mut BaseBatch,
    ) -> Result<usize, StoreError> {
        let row_key = row_key(key);
        let old_chunks = self.chunks_of(key, &row_key, value)?;
        let before = batch.len();
        let mut chunks = 0;
        match value {
            None => batch.push((row_key, None)),
            Some(value) if value.len() <= CHUNK_BYTES => {
                let sealed = seal(&row_key, KIND_WHOLE, value);
                batch.push((row_key, Some(sealed)));
            }
            Some(value) => {
                for chunk in value.chunks(CHUNK_BYTES) {
                    let chunk_key = chunk_key(key, chunks);
                    let sealed = seal(&chunk_key, KIND_CHUNK, chunk);
                    batch.push((chunk_key, Some(sealed)));
                    chunks += 1;
                }
                let mut body = (value.len() as u64).to_le_bytes().to_vec();
                body.put_u32_le(chunks);
                let sealed = seal(&row_key, KIND_CHUNKED, &body);
                batch.push((row_key, Some(sealed)));
            }
        }
        batch.extend((chunks..old_chunks).map(|index| (chunk_key(key, index), None)));
        Ok(batch[before..].iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum())
    }

    /// How many chunks the row has before it becomes `value`.
    fn chunks_of(&self, key: &[u8], row_key: &[u8], value: Option<&Bytes>) -> Result<u32, StoreError> {
        let mut chunked = self.chunked.lock().expect("nobody panics while holding the keys");
        let known = match &mut *chunked {
            Some(known) => known,
            unknown => unknown.insert(self.find_chunked()?),
        };
        let may_have = known.may_have(key);
        if value.is_some_and(|value| value.len() > CHUNK_BYTES) {
            known.note(key);
        }
        if !may_have {
            return Ok(0);
        }
        match self.base.get(row_key).map_err(self.failed("read"))? {
            Some(old) => match self.value(key, old)? {
                Value::Chunked { chunks, .. } => Ok(chunks),
                Value::Whole(_) => Ok(0),
            },
            None => Ok(0),
        }
    }

    /// Finds the rows that have chunks: one step for each.
    fn find_chunked(&self) -> Result<Chunked, StoreError> {
        let mut keys = HashSet::new();
        let mut from = vec![CHUNK];
        loop {
            let mut found = None;
            let visit: Visit<'_> = &mut |key, _| {
                found = row_of_chunk(key).map(<[u8]>::to_vec);
                ControlFlow::Break(())
            };
            self.base.ascend(&from, visit).map_err(self.failed("scan"))?;
            let Some(key) = found else { return Ok(Chunked::These(keys)) };
            if keys.len() >= CHUNKED_KNOWN {
                return Ok(Chunked::TooMany);
            }
            from = chunk_key(&key, u32::MAX);
            keys.insert(key);
        }
    }

    /// Applies one atomic batch; not durable before [`Rows::flush`].
    pub(super) fn apply(&self, batch: BaseBatch) -> Result<(), StoreError> {
        self.base.apply(batch).map_err(self.failed("apply a batch"))
    }

    /// Makes every applied batch durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.base.flush().map_err(self.failed("flush"))
    }

    /// The whole value of a row.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.base.get(&row_key(key)).map_err(self.failed("read"))? {
            Some(stored) => self.complete(key, self.value(key, stored)?).map(Some),
            None => Ok(None),
        }
    }

    /// Walks the rows of a span, as stored: what the visitor keeps, it gives to [`Rows::value`]. It must not call back.
    pub(super) fn walk(&self, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError> {
        if span.is_empty() {
            return Ok(());
        }
        let mut inside = |key: &[u8], stored: &[u8]| match key.split_first() {
            Some((&ROW, key)) if span.contains(key) => visit(key, stored),
            // The walk down begins *at* its bound, which may be excluded or stand just behind the rows.
            _ if direction == Direction::Descending && beyond(key, span) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        match direction {
            Direction::Ascending => self.base.ascend(&row_key(&span.lower), &mut inside),
            Direction::Descending => self.base.descend(&upper_key(span), &mut inside),
        }
        .map_err(self.failed("scan"))
    }

    /// Checks a stored row.
    pub(super) fn value(&self, key: &[u8], stored: Bytes) -> Result<Value, StoreError> {
        let row_key = row_key(key);
        match self.unseal(&row_key, stored)? {
            (KIND_WHOLE, body) => Ok(Value::Whole(body)),
            (KIND_CHUNKED, body) if body.len() == 12 => {
                Ok(Value::Chunked { length: le_u64(&body), chunks: le_u32(&body[8..]) })
            }
            _ => Err(self.corrupt(&row_key, "the row is malformed")),
        }
    }

    /// Fetches the chunks of a long row.
    pub(super) fn complete(&self, key: &[u8], value: Value) -> Result<Bytes, StoreError> {
        let (length, chunks) = match value {
            Value::Whole(bytes) => return Ok(bytes),
            Value::Chunked { length, chunks } => (length, chunks),
        };
        let mut whole = Vec::new();
        for index in 0..chunks {
            let chunk_key = chunk_key(key, index);
            let stored = self.base.get(&chunk_key).map_err(self.failed("read"))?;
            match stored.map(|stored| self.unseal(&chunk_key, stored)).transpose()? {
                Some((KIND_CHUNK, body)) => whole.extend_from_slice(&body),
                _ => {
                    return Err(self.corrupt(&chunk_key, "a chunk of the row is missing or malformed"));
                }
            }
        }
        if whole.len() as u64 != length {
            return Err(self.corrupt(&row_key(key), "the row's chunks do not add up to its length"));
        }
        Ok(Bytes::from(whole))
    }

    /// Checks a value and returns its kind and body.
    fn unseal(&self, key: &[u8], mut stored: Bytes) -> Result<(u8, Bytes), StoreError> {
        if stored.len() < SEAL_BYTES || le_u32(&stored) != checksum(key, &stored[4..]) {
            return Err(self.corrupt(key, "a value does not match its checksum"));
        }
        let body = stored.split_off(SEAL_BYTES);
        Ok((stored[SEAL_BYTES - 1], body))
    }

    fn failed<'a>(&'a self, operation: &'static str) -> impl FnOnce(std::io::Error) -> StoreError + 'a {
        move |source| StoreError::Base { operation, directory: self.directory.clone(), source }
    }

    fn corrupt(&self, key: &[u8], what: &str) -> StoreError {
        StoreError::corrupt(&self.directory, 0, format!("{what} (key \"{}\")", key.escape_ascii()))
    }
}

/// Whether a key of the base lies behind the upper end of a span of rows.
fn beyond(key: &[u8], span: &Span) -> bool {
    match key.split_first() {
        Some((&ROW, key)) => key >= span.lower.as_slice() && !span.contains(key),
        Some((kind, _)) => *kind > ROW,
        None => false,
    }
}

/// The base key at which a walk down a span begins.
fn upper_key(span: &Span) -> Vec<u8> {
    match &span.upper {
        Bound::Included(key) | Bound::Excluded(key) => row_key(key),
        Bound::Unbounded => vec![ROW + 1],
    }
}

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut row_key = Vec::with_capacity(1 + key.len());
    row_key.push(ROW);
    row_key.extend_from_slice(key);
    row_key
}

#[expect(clippy::cast_possible_truncation, reason = "keys are far below 4 GiB: a record holds them whole")]
fn chunk_key(key: &[u8], index: u32) -> Vec<u8> {
    let mut chunk_key = Vec::with_capacity(9 + key.len());
    chunk_key.push(CHUNK);
    // The length keeps the chunks of "a" apart from those of a longer key that begins with "a".
    chunk_key.put_u32(key.len() as u32);
    chunk_key.extend_from_slice(key);
    chunk_key.put_u32(index);
    chunk_key
}

/// The key of the row that a chunk belongs to.
fn row_of_chunk(key: &[u8]) -> Option<&[u8]> {
    let (&CHUNK, rest) = key.split_first()? else { return None };
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

fn seal(key: &[u8], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + body.len());
    sealed.put_u32_le(0);
    sealed.push(kind);
    sealed.extend_from_slice(body);
    let crc = checksum(key, &sealed[4..]);
    sealed[..4].copy_from_slice(&crc.to_le_bytes());
    sealed
}

fn checksum(key: &[u8], kind_and_body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), kind_and_body)
}

// The notes of the store sort before all rows, the chunks after them: a walk over rows meets neither in between.
const _: () = assert!(META < ROW && ROW < CHUNK);
