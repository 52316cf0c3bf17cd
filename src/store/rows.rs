//! How rows are laid out in the base, and the checks that every one of them passes on its way back.
//!
//! The base's keys begin with a kind byte, so that user rows, chunks and the store's own notes never collide:
//!
//! | key | value |
//! |---|---|
//! | `00` `applied` | the last merged batch and its revision, 8 bytes each |
//! | `00` `tally` | how many rows there are (8), and the sum of their marks (8): see [`Tally`] |
//! | `10` row key | the row, or for a long one its length (8), number of chunks (4) and crc32c (4) |
//! | `20` key length (4, big-endian) row key, index (4, big-endian) | one chunk of a long row |
//!
//! Every value begins with a crc32c over its key and the rest, then a byte that tells which of these it is: sled checks
//! its own pages, but not that a page is the one that belongs here. Long rows are cut into chunks since sled rewrites a
//! whole leaf, 64 rows, whenever one of them changes.
//!
//! A checksum cannot tell of a row that is gone, or that is an older one with the right checksum. The tally can: it goes
//! into every batch, and [`super::audit`] holds it against the rows at each open.
//!
//! This file neither knows the overlay nor decides when to merge. Start with [`Rows::walk`] and [`Rows::writes_for`].

use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes};

use super::error::StoreError;
use super::record::{le_u32, le_u64, mix};
use super::sled::{Base, BaseBatch, Visit};
use super::span::{Direction, Span};

/// Values longer than this are cut into chunks of this size.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

const META: u8 = 0x00;
const ROW: u8 = 0x10;
const CHUNK: u8 = 0x20;
const APPLIED: &[u8] = b"\x00applied";
const TALLY: &[u8] = b"\x00tally";

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
    Chunked { length: u64, chunks: u32, crc: u32 },
}

/// Which rows there are, in two numbers: kept with the rows, batch by batch, and counted anew when they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// How many; the chunks of long rows are not counted, as their heads speak for them.
    pub rows: u64,
    /// The sum of their marks, whatever their order.
    pub sum: u64,
}

impl Tally {
    /// Counts a row, as stored under its base key.
    pub(super) fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(mark(key, stored));
    }

    fn remove(&mut self, key: &[u8], stored: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(mark(key, stored));
    }
}

/// A number that depends on a row's key and, by its checksum, on its value.
fn mark(key: &[u8], stored: &[u8]) -> u64 {
    let crc = stored.first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
    mix(u64::from(crc32c::crc32c(key)) << 32 | u64::from(crc))
}

/// The merged rows.
pub(super) struct Rows {
    base: Arc<dyn Base>,
    directory: PathBuf,
    /// As after the writes that were made last; the merge alone changes it.
    tally: Mutex<Tally>,
}

impl Rows {
    /// The rows in `base`; `directory` is named in errors.
    pub(super) fn open(base: Arc<dyn Base>, directory: PathBuf) -> Result<Rows, StoreError> {
        let mut rows = Rows { base, directory, tally: Mutex::default() };
        if let Some(value) = rows.base.get(TALLY).map_err(rows.failed("read"))? {
            rows.tally = Mutex::new(tally(&value).ok_or_else(|| rows.corrupt(TALLY, "the tally is malformed"))?);
        } else if rows.applied()? != Applied::default() {
            return Err(rows.corrupt(TALLY, "the tally of the merged rows is missing"));
        }
        Ok(rows)
    }

    /// The rows in a base that is only read, whatever its notes say.
    pub(super) fn of_image(base: Arc<dyn Base>, directory: PathBuf) -> Rows {
        Rows { base, directory, tally: Mutex::default() }
    }

    /// How far the merge has come.
    pub(super) fn applied(&self) -> Result<Applied, StoreError> {
        let Some(value) = self.base.get(APPLIED).map_err(self.failed("read"))? else {
            return Ok(Applied::default());
        };
        applied(&value).ok_or_else(|| self.corrupt(APPLIED, "the note of what was merged is malformed"))
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
        let mut tally = self.tally.lock().expect("nobody panics while counting");
        // The leaf of the row is about to be written: looking into it first costs no further read.
        let old_chunks = match self.base.get(&row_key).map_err(self.failed("read"))? {
            Some(old) => {
                tally.remove(&row_key, &old);
                match self.value(key, old)? {
                    Value::Chunked { chunks, .. } => chunks,
                    Value::Whole(_) => 0,
                }
            }
            None => 0,
        };
        let before = batch.len();
        let mut chunks = 0;
        match value {
            None => batch.push((row_key, None)),
            Some(value) if value.len() <= CHUNK_BYTES => {
                let sealed = seal(&row_key, KIND_WHOLE, value);
                tally.add(&row_key, &sealed);
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
                body.put_u32_le(crc32c::crc32c(value));
                let sealed = seal(&row_key, KIND_CHUNKED, &body);
                tally.add(&row_key, &sealed);
                batch.push((row_key, Some(sealed)));
            }
        }
        batch.extend((chunks..old_chunks).map(|index| (chunk_key(key, index), None)));
        Ok(batch[before..].iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum())
    }

    /// Applies one atomic batch, with the tally as it is after it; not durable before [`Rows::flush`].
    pub(super) fn apply(&self, mut batch: BaseBatch) -> Result<(), StoreError> {
        let Tally { rows, sum } = *self.tally.lock().expect("nobody panics while counting");
        let body = [rows.to_le_bytes(), sum.to_le_bytes()].concat();
        batch.push((TALLY.to_vec(), Some(seal(TALLY, KIND_META, &body))));
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
        value(&row_key, stored).map_err(|what| self.corrupt(&row_key, what))
    }

    /// Fetches the chunks of a long row.
    pub(super) fn complete(&self, key: &[u8], value: Value) -> Result<Bytes, StoreError> {
        let (length, chunks, crc) = match value {
            Value::Whole(bytes) => return Ok(bytes),
            Value::Chunked { length, chunks, crc } => (length, chunks, crc),
        };
        let mut whole = Vec::new();
        for index in 0..chunks {
            let chunk_key = chunk_key(key, index);
            let stored = self.base.get(&chunk_key).map_err(self.failed("read"))?;
            match stored.and_then(|stored| unseal(&chunk_key, stored)) {
                Some((KIND_CHUNK, body)) => whole.extend_from_slice(&body),
                _ => {
                    return Err(self.corrupt(&chunk_key, "a chunk of the row is missing or malformed"));
                }
            }
        }
        if whole.len() as u64 != length || crc32c::crc32c(&whole) != crc {
            return Err(self.corrupt(&row_key(key), "the row's chunks do not add up to it"));
        }
        Ok(Bytes::from(whole))
    }

    /// The error of a base that has not what was merged into it.
    pub(super) fn behind(&self, merged: u64) -> StoreError {
        let what = format!("these are older rows: batch {merged} was merged into them, and they do not have it");
        StoreError::corrupt(&self.directory, 0, what)
    }

    fn failed<'a>(&'a self, operation: &'static str) -> impl FnOnce(std::io::Error) -> StoreError + 'a {
        move |source| StoreError::Base { operation, directory: self.directory.clone(), source }
    }

    fn corrupt(&self, key: &[u8], what: &str) -> StoreError {
        StoreError::corrupt(&self.directory, 0, format!("{what} (key \"{}\")", key.escape_ascii()))
    }
}

/// What a pair of the base is.
#[derive(Debug)]
pub(super) enum Pair {
    /// How far the merge has come.
    Applied(Applied),
    /// The tally.
    Tally(Tally),
    /// A row, under this key.
    Row(Vec<u8>, Value),
    /// One chunk of a long row.
    Chunk { key: Vec<u8>, index: u32, bytes: Bytes },
}

impl Pair {
    /// Checks a pair by itself; `Err` says what is wrong with it.
    pub(super) fn read(key: &[u8], stored: Bytes) -> Result<Pair, &'static str> {
        const MALFORMED: &str = "a note of the store's own is malformed";
        match key.split_first() {
            Some((&META, _)) if key == APPLIED => applied(&stored).map(Pair::Applied).ok_or(MALFORMED),
            Some((&META, _)) if key == TALLY => tally(&stored).map(Pair::Tally).ok_or(MALFORMED),
            Some((&ROW, row)) => Ok(Pair::Row(row.to_vec(), value(key, stored)?)),
            Some((&CHUNK, rest)) => {
                let Some((KIND_CHUNK, bytes)) = unseal(key, stored) else {
                    return Err("a chunk of a row does not match its checksum");
                };
                let of = rest.get(4..).and_then(<[u8]>::split_last_chunk::<4>);
                let (key, index) = of.ok_or("a chunk's key is malformed")?;
                Ok(Pair::Chunk { key: key.to_vec(), index: u32::from_be_bytes(*index), bytes })
            }
            _ => Err("a key that noxd does not write"),
        }
    }
}

/// A stored row; `Err` says what is wrong with it.
fn value(row_key: &[u8], stored: Bytes) -> Result<Value, &'static str> {
    match unseal(row_key, stored).ok_or("a value does not match its checksum")? {
        (KIND_WHOLE, body) => Ok(Value::Whole(body)),
        (KIND_CHUNKED, body) if body.len() == 16 => {
            Ok(Value::Chunked { length: le_u64(&body), chunks: le_u32(&body[8..]), crc: le_u32(&body[12..]) })
        }
        _ => Err("the row is malformed"),
    }
}

fn applied(stored: &Bytes) -> Option<Applied> {
    let (batch, revision) = two_numbers(APPLIED, stored)?;
    Some(Applied { batch, revision })
}

fn tally(stored: &Bytes) -> Option<Tally> {
    let (rows, sum) = two_numbers(TALLY, stored)?;
    Some(Tally { rows, sum })
}

fn two_numbers(key: &[u8], stored: &Bytes) -> Option<(u64, u64)> {
    match unseal(key, stored.clone())? {
        (KIND_META, body) if body.len() == 16 => Some((le_u64(&body), le_u64(&body[8..]))),
        _ => None,
    }
}

/// Checks a value and returns its kind and body.
fn unseal(key: &[u8], mut stored: Bytes) -> Option<(u8, Bytes)> {
    if stored.len() < SEAL_BYTES || le_u32(&stored) != checksum(key, &stored[4..]) {
        return None;
    }
    let body = stored.split_off(SEAL_BYTES);
    Some((stored[SEAL_BYTES - 1], body))
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

pub(super) fn row_key(key: &[u8]) -> Vec<u8> {
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
