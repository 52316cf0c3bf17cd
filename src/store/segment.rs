//! One segment of the journal: a preallocated, zero-filled file with a header in its first sector and records after it.
//!
//! It knows how a segment is named, filled, headed and read; which segments there must be is the business of
//! [`super::journal`], and what a record is that of [`super::record`]. Read [`Header`] first.
//!
//! The header sector, little-endian: magic (8 bytes), version (4), store id (16), sequence (8), number of the first batch
//! (8), length of the file (8), zeros, and in the last four bytes the crc32c of all before. It is synced before the file
//! takes its final name, so unlike a record it is never torn.

use std::path::{Path, PathBuf};

use super::disk::DiskFile;
use super::error::StoreError;
use super::record::{self, PAYLOAD_LIMIT_BYTES, SECTOR_BYTES, Tags, Verdict};

/// The bytes before the first record.
pub(super) const HEADER_BYTES: u64 = SECTOR_BYTES as u64;
/// No segment is longer: one record of the greatest size with its sector tags, and the header.
pub(super) const LENGTH_LIMIT_BYTES: u64 = PAYLOAD_LIMIT_BYTES + PAYLOAD_LIMIT_BYTES / 64;
const MAGIC: &[u8; 8] = b"noxdjrnl";
const VERSION: u32 = 1;
const SUFFIX: &str = ".segment";
/// Bytes zeroed and synced at a time.
const FILL_BYTES: usize = 1024 * 1024;

/// What the first sector of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The store that wrote it.
    pub store_id: u128,
    /// Its place among the segments, from 1.
    pub sequence: u64,
    /// The number that its first record has or will have.
    pub first_batch: u64,
    /// The length of the file in bytes, so that a shortened file is noticed.
    pub length: u64,
}

impl Header {
    /// Writes the header into its sector; the caller syncs.
    pub(super) fn write(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        file.write_at(&self.encode(), 0)
    }

    fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        sector[0..8].copy_from_slice(MAGIC);
        sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
        sector[12..28].copy_from_slice(&self.store_id.to_le_bytes());
        sector[28..36].copy_from_slice(&self.sequence.to_le_bytes());
        sector[36..44].copy_from_slice(&self.first_batch.to_le_bytes());
        sector[44..52].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32c::crc32c(&sector[..SECTOR_BYTES - 4]);
        sector[SECTOR_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Reads the header of the segment `sequence` of the store and holds it against the file.
    pub(super) fn read(file: &dyn DiskFile, path: &Path, store_id: u128, sequence: u64) -> Result<Header, StoreError> {
        let length = file.length().map_err(StoreError::io("measure", path))?;
        if !(2 * HEADER_BYTES..=LENGTH_LIMIT_BYTES).contains(&length) || !length.is_multiple_of(HEADER_BYTES) {
            return Err(StoreError::corrupt(path, 0, format!("a segment cannot be {length} bytes long")));
        }
        let mut sector = [0; SECTOR_BYTES];
        file.read_at(&mut sector, 0).map_err(StoreError::io("read", path))?;
        let header = Header::decode(&sector).map_err(|what| StoreError::corrupt(path, 0, what))?;
        let fault = if header.store_id != store_id {
            "it belongs to another store".to_owned()
        } else if header.sequence != sequence {
            format!("it is segment {:016x} under another's name", header.sequence)
        } else if header.length != length {
            format!("it is {length} bytes long and was made with {}", header.length)
        } else {
            return Ok(header);
        };
        Err(StoreError::corrupt(path, 0, fault))
    }

    fn decode(sector: &[u8; SECTOR_BYTES]) -> Result<Header, &'static str> {
        if record::le_u32(&sector[SECTOR_BYTES - 4..]) != crc32c::crc32c(&sector[..SECTOR_BYTES - 4]) {
            return Err("the segment's header does not match its checksum");
        }
        if &sector[0..8] != MAGIC || record::le_u32(&sector[8..]) != VERSION {
            return Err("the segment's header is of an unknown format");
        }
        let store_id = u128::from(record::le_u64(&sector[12..])) | u128::from(record::le_u64(&sector[20..])) << 64;
        Ok(Header {
            store_id,
            sequence: record::le_u64(&sector[28..]),
            first_batch: record::le_u64(&sector[36..]),
            length: record::le_u64(&sector[44..]),
        })
    }
}

/// A segment that is no longer written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// The length of the file in bytes.
    pub length: u64,
}

/// What a segment held when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scan {
    /// The end of the last whole record, in bytes from the start of the file.
    pub tail: u64,
    /// The number the next batch must have.
    pub next_batch: u64,
    /// Whether a record that was never finished stands at the tail.
    pub torn: bool,
}

/// Reads every record and hands it, in order, to `visit(batch, revision, rows)`.
///
/// # Errors
/// [`StoreError::Corrupt`] for anything but whole records with consecutive numbers, then a torn one or nothing.
#[expect(clippy::cast_possible_truncation, reason = "held against the limit of a segment when the header was read")]
pub(super) fn scan(
    file: &dyn DiskFile,
    path: &Path,
    header: &Header,
    mut visit: impl FnMut(u64, u64, Vec<(bytes::Bytes, Option<bytes::Bytes>)>),
) -> Result<Scan, StoreError> {
    // The length was held against its limit when the header was read.
    let mut segment = vec![0; header.length as usize];
    file.read_at(&mut segment, 0).map_err(StoreError::io("read", path))?;
    let tags = Tags::new(header.store_id, header.sequence);
    let mut scan = Scan { tail: HEADER_BYTES, next_batch: header.first_batch, torn: false };
    while scan.tail < header.length {
        match record::read(&segment, tags, scan.tail as usize) {
            Verdict::Record { batch, revision, rows, extent } => {
                if batch != scan.next_batch {
                    let what = format!("batch {batch} stands where batch {} is due", scan.next_batch);
                    return Err(StoreError::corrupt(path, scan.tail, what));
                }
                visit(batch, revision, rows);
                scan.next_batch = batch.saturating_add(1);
                scan.tail += extent as u64;
            }
            Verdict::End => break,
            Verdict::Torn => {
                scan.torn = true;
                break;
            }
            Verdict::Corrupt { offset, what } => {
                return Err(StoreError::corrupt(path, offset as u64, what));
            }
        }
    }
    Ok(scan)
}

/// Writes zeros from `from` to `length`, synced.
#[expect(clippy::cast_possible_truncation, reason = "FILL_BYTES bounds both")]
pub(super) fn fill_with_zeros(file: &dyn DiskFile, from: u64, length: u64) -> std::io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min((length - from) as usize)];
    let mut offset = from;
    while offset < length {
        let bytes = (length - offset).min(zeros.len() as u64);
        file.write_at(&zeros[..bytes as usize], offset)?;
        // Piece by piece: one sync of the whole would hold up the syncs of commits for as long as it takes.
        file.sync_data()?;
        offset += bytes;
    }
    Ok(())
}

/// The length of a segment for one record of `extent` bytes, at least the usual length.
pub(super) fn length_for(extent: u64, usual: u64) -> u64 {
    usual.max(extent + HEADER_BYTES)
}

/// Where segment `sequence` is kept.
pub(super) fn path(journal: &Path, sequence: u64) -> PathBuf {
    journal.join(format!("{sequence:016x}{SUFFIX}"))
}

/// The sequence in a file name: `None` when it is not a segment's, `Some(None)` when it wants to be one and is not.
pub(super) fn sequence_of(name: &str) -> Option<Option<u64>> {
    let stem = name.strip_suffix(SUFFIX)?;
    let well_formed = stem.len() == 16 && stem.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Some(if well_formed { u64::from_str_radix(stem, 16).ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_any_bit_flipped_is_refused() {
        let header = Header { store_id: 1 << 100 | 5, sequence: 3, first_batch: 9, length: 4096 };
        let sector = header.encode();
        assert_eq!(Header::decode(&sector), Ok(header));
        for bit in 0..SECTOR_BYTES * 8 {
            let mut damaged = sector;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn only_the_exact_name_is_a_segments_name() {
        assert_eq!(sequence_of("00000000000000ff.segment"), Some(Some(255)));
        assert_eq!(sequence_of("00000000000000FF.segment"), Some(None));
        assert_eq!(sequence_of("+0000000000000ff.segment"), Some(None));
        assert_eq!(sequence_of("spare"), None);
    }
}
