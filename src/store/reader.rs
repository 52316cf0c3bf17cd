//! Reads: the overlay laid over the base, as of one moment.
//!
//! # Why a read is consistent while layers are merged under it
//! A read copies what it needs of the overlay under a short lock, notes the newest batch `B` that the copy shows, and
//! reads the base without any lock. Meanwhile the merge may
//!
//! * write a layer that the copy covers (its last batch is at most `B`): whatever the base shows of it, the copy has the
//!   same rows and hides it;
//! * retire such a layer: the copy still holds its rows;
//! * begin a layer with batches after `B`: only then could the base show rows that are newer than the copy, and one batch
//!   in part. The merge announces that in [`Shared::merging`] before its first write, so the read looks there when it is
//!   done and, if so, starts again. That takes a whole new segment each time; after a few times the read holds the
//!   announcement back while it runs.
//!
//! A row that is not in the copy was merged before the copy was taken, so the base has it.

use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use super::error::StoreError;
use super::overlay::{LayerRow, Window};
use super::shared::Shared;
use super::span::{Direction, Span};

/// A cheap handle for reading. It sees every batch that was committed before the call, each whole or not at all.
///
/// It keeps the directory locked and sled open after [`super::Store::close`], until the last one is dropped.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

/// How often a read lets itself be overtaken by a merge.
const OVERTAKEN_LIMIT: u32 = 3;

impl Reader {
    /// The row under `key`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is damaged; [`StoreError::Base`] when sled failed, which ends commits as well.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.consistently(|shared| {
            let overlay = shared.overlay();
            let (found, published) = (overlay.get(key), overlay.published());
            drop(overlay);
            let row = match found {
                Some(row) => Ok(row),
                None => shared.rows.get(key),
            };
            (published, row)
        })
    }

    /// At most `limit` rows in ascending order: keys that begin with `prefix` and are not less than `from`.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.rows(&Span::from(prefix, from), Direction::Ascending, limit)
    }

    /// At most `limit` rows in descending order: keys that begin with `prefix`, from `through` down.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn scan_back(
        &self,
        prefix: &[u8],
        through: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.rows(&Span::through(prefix, through), Direction::Descending, limit)
    }

    /// How many reads there were so far, of everybody.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.shared.reads.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn rows(&self, span: &Span, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if limit == 0 || span.is_empty() {
            return Ok(Vec::new());
        }
        self.consistently(|shared| {
            let window = shared.overlay().window(span, direction, limit);
            (window.published, lay_over(shared, window, span, direction, limit))
        })
    }

    /// Runs a read, which says up to which batch its copy of the overlay goes, until no merge has overtaken it.
    fn consistently<T>(&self, read: impl Fn(&Shared) -> (u64, Result<T, StoreError>)) -> Result<T, StoreError> {
        let shared = &*self.shared;
        #[cfg(test)]
        shared.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let merging = || shared.merging.read().expect("nobody panics while holding the number");
        for _ in 0..OVERTAKEN_LIMIT {
            let (published, result) = read(shared);
            if *merging() <= published {
                return self.judged(result);
            }
        }
        let _held_back = merging();
        let (_, result) = read(shared);
        self.judged(result)
    }

    /// An error of sled leaves it in an unknown state: no more commits may rely on it.
    fn judged<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Base { .. }) = &result {
            self.shared.poison(error);
        }
        result
    }
}

/// The first `limit` live rows of the window laid over the base.
///
/// A window that was cut holds `limit` live rows, so the result is full before a row of the base from beyond it counts.
fn lay_over(
    shared: &Shared,
    window: Window,
    span: &Span,
    direction: Direction,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut merged = Merged { over: window.rows.into_iter().peekable(), rows: Vec::new(), direction, limit };
    shared.rows.walk(span, direction, &mut |key, stored| merged.meet(key, stored))?;
    merged.finish();
    let mut rows = Vec::with_capacity(merged.rows.len());
    for (key, origin) in merged.rows {
        let value = match origin {
            Origin::Overlay(value) => value,
            Origin::Base(stored) => shared.rows.complete(&key, shared.rows.value(&key, stored)?)?,
        };
        rows.push((key, value));
    }
    Ok(rows)
}

/// Two sorted sequences becoming one, the overlay's word over the base's.
struct Merged {
    over: Peekable<vec::IntoIter<LayerRow>>,
    rows: Vec<(Bytes, Origin)>,
    direction: Direction,
    limit: usize,
}

enum Origin {
    Overlay(Bytes),
    /// As stored; checked when the walk is over.
    Base(Bytes),
}

impl Merged {
    /// Takes in the next row of the base.
    fn meet(&mut self, key: &[u8], stored: &[u8]) -> ControlFlow<()> {
        let direction = self.direction;
        while self.rows.len() < self.limit
            && let Some(row) = self.over.next_if(|row| direction.meets_first(&row.0, key))
        {
            self.push_over(row);
        }
        if self.rows.len() < self.limit {
            match self.over.next_if(|row| row.0 == key) {
                Some(row) => self.push_over(row),
                None => self.rows.push((Bytes::copy_from_slice(key), Origin::Base(Bytes::copy_from_slice(stored)))),
            }
        }
        if self.rows.len() < self.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// The base has no more rows.
    fn finish(&mut self) {
        while self.rows.len() < self.limit
            && let Some(row) = self.over.next()
        {
            self.push_over(row);
        }
    }

    fn push_over(&mut self, (key, value): LayerRow) {
        if let Some(value) = value {
            self.rows.push((key, Origin::Overlay(value)));
        }
    }
}
