//! One record of the journal: how a batch becomes sectors, and how sectors are judged when they are read back.
//!
//! # Layout
//! A record begins at a sector boundary (512 bytes) and fills whole sectors. Every sector begins with a nonzero tag that
//! belongs to its segment: [`Tags::start`] in the first sector of a record, [`Tags::next`] in the others. What remains of
//! the sectors carries, in order and little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | payload length |
//! | 4 | crc32c of the payload |
//! | 8 | batch number |
//! | 8 | revision |
//! | 4 | crc32c of the tag, the record's offset and the four fields above |
//! | n | payload: row count, then per row key length, key, 0 or 1, and after a 1 value length and value |
//!
//! # Torn or corrupt
//! The one assumption: **a disk writes a sector of 512 bytes whole or not at all.** Segments are zero-filled and synced
//! before use, so a sector that power loss kept from being written reads as zeros, and no written sector does. Hence a
//! damaged record is *torn* only if some sector of it is all zeros and nothing follows it; any other damage was
//! durable once and is corruption. [`Verdict`] is that rule; start there.
//!
//! This file knows no files: it works on bytes, and [`super::segment`] supplies them.

use bytes::Bytes;

use super::RowWrite;

/// The unit in which disks write whole.
pub(super) const SECTOR_BYTES: usize = 512;
/// What a sector carries besides its tag.
const BODY_BYTES: usize = SECTOR_BYTES - TAG_BYTES;
const TAG_BYTES: usize = 4;
const HEADER_BYTES: usize = 28;
/// The greatest payload, in bytes. A batch must be held in memory several times over while it is committed.
pub(super) const PAYLOAD_LIMIT_BYTES: u64 = 256 * 1024 * 1024;

/// The tags of one segment. They differ between segments, so that a sector of another life of the file is a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tags {
    /// The tag of a record's first sector.
    pub start: u32,
    /// The tag of its other sectors.
    pub next: u32,
}

impl Tags {
    /// The tags of segment `sequence` of a store. Two bits are always set, so that no single flipped bit makes a zero.
    #[expect(clippy::cast_possible_truncation, reason = "folds on purpose")]
    pub(super) fn new(store_id: u128, sequence: u64) -> Tags {
        let folded = (store_id as u64) ^ ((store_id >> 64) as u64);
        let mixed = mix(folded ^ mix(sequence));
        let start = (mixed as u32) | 0x8000_0001;
        Tags { start, next: start ^ 0x0F0F_0F0E }
    }
}

/// What stands at one place of a segment where a record is due.
#[derive(Debug)]
pub(super) enum Verdict {
    /// A whole record.
    Record {
        /// Its batch number.
        batch: u64,
        /// The newest revision after it.
        revision: u64,
        /// Its rows in the order they were written.
        rows: Vec<(Bytes, Option<Bytes>)>,
        /// Bytes it fills, a multiple of the sector.
        extent: usize,
    },
    /// Nothing but zeros to the end of the segment.
    End,
    /// A record that was never wholly written, and nothing after it.
    Torn,
    /// Damage that no interrupted write explains.
    Corrupt {
        /// Where, in bytes from the start of the segment.
        offset: usize,
        /// What is wrong.
        what: String,
    },
}

/// The bytes a record with such rows fills, or the size of the payload when that is over the limit.
#[expect(clippy::cast_possible_truncation, reason = "bounded by PAYLOAD_LIMIT_BYTES")]
pub(super) fn extent_of(rows: &[RowWrite]) -> Result<usize, u64> {
    let payload = rows.iter().fold(4_u64, |sum, row| {
        let value = row.value.as_ref().map_or(0, |value| 4 + value.len() as u64);
        sum + 4 + row.key.len() as u64 + 1 + value
    });
    if payload > PAYLOAD_LIMIT_BYTES {
        return Err(payload);
    }
    Ok(extent_of_payload(payload as usize))
}

/// Writes the record for `rows` into `frame` (cleared first), as it shall stand at `offset` of its segment.
#[expect(clippy::cast_possible_truncation, reason = "extent_of was asked before: bounded by PAYLOAD_LIMIT_BYTES")]
pub(super) fn encode(frame: &mut Vec<u8>, tags: Tags, offset: u64, batch: u64, revision: u64, rows: &[RowWrite]) {
    let mut payload = Vec::new();
    put_length(&mut payload, rows.len());
    for row in rows {
        put_length(&mut payload, row.key.len());
        payload.extend_from_slice(&row.key);
        payload.push(u8::from(row.value.is_some()));
        if let Some(value) = &row.value {
            put_length(&mut payload, value.len());
            payload.extend_from_slice(value);
        }
    }
    let header = Header { length: payload.len() as u32, payload_crc: crc32c::crc32c(&payload), batch, revision };
    let header = header.encode(tags, offset);

    frame.clear();
    frame.reserve(extent_of_payload(payload.len()));
    let (head, rest) = payload.split_at(payload.len().min(BODY_BYTES - HEADER_BYTES));
    frame.extend_from_slice(&tags.start.to_le_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(head);
    for body in rest.chunks(BODY_BYTES) {
        frame.extend_from_slice(&tags.next.to_le_bytes());
        frame.extend_from_slice(body);
    }
    frame.resize(frame.len().next_multiple_of(SECTOR_BYTES), 0);
}

/// Judges what stands at `offset` of `segment`, which must be a multiple of the sector and inside the segment.
pub(super) fn read(segment: &[u8], tags: Tags, offset: usize) -> Verdict {
    let rest = &segment[offset..];
    let corrupt = |at: usize, what: &str| Verdict::Corrupt { offset: offset + at, what: what.into() };
    match Sector::of(rest, tags) {
        Sector::Zero => return read_after_zero(rest, tags, offset),
        Sector::Start => {}
        Sector::Next => return corrupt(0, "the middle of a record stands where one should begin"),
        Sector::Foreign => return corrupt(0, "bytes that are no record of this segment"),
    }
    let Some(header) = Header::decode(&rest[TAG_BYTES..TAG_BYTES + HEADER_BYTES], tags, offset as u64) else {
        return corrupt(0, "the record's header does not match its checksum");
    };
    if u64::from(header.length) > PAYLOAD_LIMIT_BYTES {
        return corrupt(0, "the record is greater than any batch may be");
    }
    let extent = extent_of_payload(header.length as usize);
    let Some(record) = rest.get(..extent) else {
        return corrupt(0, "the record reaches past the end of its segment");
    };
    let mut unwritten = false;
    for (index, sector) in record.chunks_exact(SECTOR_BYTES).enumerate().skip(1) {
        match Sector::of(sector, tags) {
            Sector::Next => {}
            Sector::Zero => unwritten = true,
            Sector::Start | Sector::Foreign => {
                return corrupt(index * SECTOR_BYTES, "a sector inside a record does not belong to it");
            }
        }
    }
    if unwritten {
        return match first_nonzero(&rest[extent..]) {
            None => Verdict::Torn,
            Some(at) => corrupt(extent + at, "data follows a record that was never finished"),
        };
    }
    let payload = gather(record, header.length as usize);
    if crc32c::crc32c(&payload) != header.payload_crc {
        return corrupt(0, "the record's payload does not match its checksum");
    }
    match decode_rows(&payload) {
        Some(rows) => Verdict::Record { batch: header.batch, revision: header.revision, rows, extent },
        None => corrupt(0, "the record's payload is not a list of rows"),
    }
}

/// The first sector is zeros: the end, or a record that lost its beginning, whose other sectors may have been written.
fn read_after_zero(rest: &[u8], tags: Tags, offset: usize) -> Verdict {
    let mut torn = false;
    for (index, sector) in rest.chunks_exact(SECTOR_BYTES).enumerate() {
        match Sector::of(sector, tags) {
            Sector::Zero => {}
            Sector::Next => torn = true,
            Sector::Start | Sector::Foreign => {
                let what = "data follows a place that was never written".into();
                return Verdict::Corrupt { offset: offset + index * SECTOR_BYTES, what };
            }
        }
    }
    if torn { Verdict::Torn } else { Verdict::End }
}

/// About the bytes that a record with rows of so many bytes fills.
pub(super) fn sectors(bytes: usize) -> u64 {
    extent_of_payload(bytes) as u64
}

/// Where the first byte that is not zero stands.
pub(super) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte != 0)
}

/// A well-spread function of 64 bits (splitmix64's finaliser).
pub(super) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// What one sector is.
enum Sector {
    Zero,
    Start,
    Next,
    Foreign,
}

impl Sector {
    fn of(sector: &[u8], tags: Tags) -> Sector {
        let sector = &sector[..SECTOR_BYTES];
        match le_u32(sector) {
            tag if tag == tags.start => Sector::Start,
            tag if tag == tags.next => Sector::Next,
            0 if first_nonzero(sector).is_none() => Sector::Zero,
            _ => Sector::Foreign,
        }
    }
}

struct Header {
    length: u32,
    payload_crc: u32,
    batch: u64,
    revision: u64,
}

impl Header {
    fn encode(&self, tags: Tags, offset: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.batch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.revision.to_le_bytes());
        let crc = Header::crc(&bytes[..24], tags, offset);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], tags: Tags, offset: u64) -> Option<Header> {
        let header = Header {
            length: le_u32(bytes),
            payload_crc: le_u32(&bytes[4..]),
            batch: le_u64(&bytes[8..]),
            revision: le_u64(&bytes[16..]),
        };
        (Header::crc(&bytes[..24], tags, offset) == le_u32(&bytes[24..])).then_some(header)
    }

    /// Covers the place as well, so that a record copied elsewhere is not taken for one that was written there.
    fn crc(fields: &[u8], tags: Tags, offset: u64) -> u32 {
        let crc = crc32c::crc32c(&tags.start.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &offset.to_le_bytes()), fields)
    }
}

fn extent_of_payload(payload: usize) -> usize {
    (HEADER_BYTES + payload).div_ceil(BODY_BYTES) * SECTOR_BYTES
}

/// The payload of a record whose sectors are all present.
fn gather(record: &[u8], length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(record.len());
    for sector in record.chunks_exact(SECTOR_BYTES) {
        bytes.extend_from_slice(&sector[TAG_BYTES..]);
    }
    Bytes::from(bytes).slice(HEADER_BYTES..HEADER_BYTES + length)
}

/// The rows of a payload; `None` when it is not exactly a list of rows.
fn decode_rows(payload: &Bytes) -> Option<Vec<(Bytes, Option<Bytes>)>> {
    let mut rest = payload.clone();
    let count = take_length(&mut rest)?;
    // A row takes five bytes at least: a count beyond that is a lie and must not become an allocation.
    let mut rows = Vec::with_capacity(count.min(rest.len() / 5));
    for _ in 0..count {
        let length = take_length(&mut rest)?;
        // Copied, not sliced: a slice would keep the whole payload in memory for as long as one row of it lives.
        let key = Bytes::copy_from_slice(&take(&mut rest, length)?);
        let value = match take(&mut rest, 1)?[0] {
            0 => None,
            1 => {
                let length = take_length(&mut rest)?;
                Some(Bytes::copy_from_slice(&take(&mut rest, length)?))
            }
            _ => return None,
        };
        rows.push((key, value));
    }
    rest.is_empty().then_some(rows)
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn take_length(rest: &mut Bytes) -> Option<usize> {
    take(rest, 4).map(|bytes| le_u32(&bytes) as usize)
}

/// Appends a length; [`extent_of`] was asked before and bounds each of them far below `u32::MAX`.
#[expect(clippy::cast_possible_truncation, reason = "extent_of was asked before: bounded by PAYLOAD_LIMIT_BYTES")]
fn put_length(payload: &mut Vec<u8>, length: usize) {
    payload.extend_from_slice(&(length as u32).to_le_bytes());
}

/// The first four bytes of a slice that has them.
pub(super) fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("a slice of four has four bytes"))
}

/// The first eight bytes of a slice that has them.
pub(super) fn le_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("a slice of eight has eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEGMENT_BYTES: usize = 16 * SECTOR_BYTES;

    fn tags() -> Tags {
        Tags::new(7, 3)
    }

    fn put(key: &str, length: usize) -> RowWrite {
        RowWrite { key: key.into(), value: Some(vec![b'v'; length]) }
    }

    /// A segment of zeros with the given batches written one after the other; returns where each begins.
    fn segment(batches: &[Vec<RowWrite>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; SEGMENT_BYTES];
        let (mut frame, mut offset, mut starts) = (Vec::new(), 0, Vec::new());
        for (index, rows) in batches.iter().enumerate() {
            encode(&mut frame, tags(), offset as u64, index as u64 + 1, 9, rows);
            assert_eq!(frame.len(), extent_of(rows).unwrap());
            bytes[offset..offset + frame.len()].copy_from_slice(&frame);
            starts.push(offset);
            offset += frame.len();
        }
        starts.push(offset);
        (bytes, starts)
    }

    #[test]
    fn a_record_that_lost_any_of_its_sectors_is_torn_and_only_at_the_tail() {
        // S-SAFE-5: nothing half-written is visible, and nothing acknowledged is taken for a torn tail.
        let (whole, starts) = segment(&[vec![put("a", 10)], vec![put("b", 3000)], vec![put("c", 10)]]);
        let mut tail = whole.clone();
        tail[starts[2]..].fill(0);
        for sector in (starts[1]..starts[2]).step_by(SECTOR_BYTES) {
            let mut torn = tail.clone();
            torn[sector..sector + SECTOR_BYTES].fill(0);
            assert!(matches!(read(&torn, tags(), starts[1]), Verdict::Torn), "sector {sector}");
            let mut followed = whole.clone();
            followed[sector..sector + SECTOR_BYTES].fill(0);
            assert!(matches!(read(&followed, tags(), starts[1]), Verdict::Corrupt { .. }), "sector {sector}");
        }
        assert!(matches!(read(&tail, tags(), starts[2]), Verdict::End));
    }

    #[test]
    fn a_record_moved_to_another_place_or_segment_is_a_stranger() {
        let (mut bytes, starts) = segment(&[vec![put("a", 10)], vec![]]);
        bytes.copy_within(0..SECTOR_BYTES, starts[2]);
        assert!(matches!(read(&bytes, tags(), starts[2]), Verdict::Corrupt { .. }));
        assert!(matches!(read(&bytes, Tags::new(7, 4), 0), Verdict::Corrupt { .. }));
        assert!(matches!(read(&bytes, Tags::new(8, 3), 0), Verdict::Corrupt { .. }));
    }

    #[test]
    fn a_batch_over_the_limit_is_known_before_it_is_encoded() {
        let half = (PAYLOAD_LIMIT_BYTES / 2) as usize;
        let row = || RowWrite { key: vec![], value: Some(vec![0; half]) };
        assert_eq!(extent_of(&[row(), row()]), Err(PAYLOAD_LIMIT_BYTES + 22));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(
            rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..900))), 0..6),
        ) {
            let writes: Vec<_> = rows.iter().cloned().map(|(key, value)| RowWrite { key, value }).collect();
            let (bytes, starts) = segment(&[writes]);
            let Verdict::Record { batch: 1, revision: 9, rows: read, extent } = read(&bytes, tags(), 0) else {
                panic!("not read back");
            };
            prop_assert_eq!(extent, starts[1]);
            let read: Vec<_> = read.into_iter().map(|(k, v)| (k.to_vec(), v.map(|v| v.to_vec()))).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            (mut bytes, starts) in Just(segment(&[vec![put("a", 700)], vec![put("b", 3000)]])),
            edits in prop::collection::vec((0..SEGMENT_BYTES, any::<u8>()), 0..40),
        ) {
            for (at, byte) in edits {
                bytes[at] = byte;
            }
            for offset in starts {
                let verdict = read(&bytes, tags(), offset);
                if let Verdict::Corrupt { offset, .. } = verdict {
                    prop_assert!(offset < bytes.len());
                }
            }
        }

        #[test]
        fn no_payload_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(rows) = decode_rows(&Bytes::from(bytes.clone())) {
                prop_assert!(rows.len() * 5 <= bytes.len());
            }
        }
    }
}
