//! A leaf as it stands in its slot: up to 64 rows, serialised, compressed, padded, with a checksum at the end.

use super::{decompress, take_bytes, take_u64};

/// The slots' sizes in bytes, which are the names of the slabs' files.
pub(super) const SLOT_BYTES: [u64; 78] = {
    let mut sizes = [0; 78];
    let (mut at, mut base) = (0, 64);
    // Four to each doubling up to 64 KiB, two from there on, and one of 160 KiB besides.
    while at < 78 {
        let steps = if base < 65_536 { 4 } else { 2 };
        let mut step = 0;
        while step < steps && at < 78 {
            if step == 1 && base == 131_072 {
                sizes[at] = 163_840;
                at += 1;
            }
            sizes[at] = base + base / steps * step;
            at += 1;
            step += 1;
        }
        base *= 2;
    }
    sizes
};

/// No leaf that noxd makes comes near: 64 rows of 256 KiB with keys of 64 KiB.
const LEAF_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// sled turns its checksums by this, so that zeros have none.
const CRC_TURN: u32 = 0xAF;

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Leaf {
    /// The first key it may hold.
    pub low_key: Vec<u8>,
    /// Its rows in the order of their keys.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its size when it is decompressed.
    pub bytes: u64,
}

impl Leaf {
    /// Reads a whole slot.
    pub(super) fn decode(slot: &[u8]) -> Result<Leaf, String> {
        let (body, crc) = slot.split_last_chunk::<4>().ok_or("a slot has a checksum")?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(body) ^ CRC_TURN {
            return Err("it does not match its checksum".into());
        }
        let length = match slot.len() {
            0..=0xFF => body.split_last().map(|(length, rest)| (usize::from(*length), rest)),
            0x100..=0xFFFF => {
                body.split_last_chunk().map(|(rest, length)| (usize::from(u16::from_le_bytes(*length)), rest))
            }
            0x1_0000..=0xFFFF_FFFF => {
                body.split_last_chunk().map(|(rest, length)| (u32::from_le_bytes(*length) as usize, rest))
            }
            _ => None,
        };
        let bytes = length.and_then(|(length, rest)| rest.get(..length)).ok_or("its length cannot be")?;
        let whole = decompress(bytes, LEAF_LIMIT_BYTES)?;
        Leaf::parse(&whole).ok_or_else(|| "it is no leaf".into())
    }

    /// bincode's plain form: lengths are 8 bytes, little-endian.
    fn parse(whole: &[u8]) -> Option<Leaf> {
        let mut rest = whole;
        let low_key = take_bytes(&mut rest)?.to_vec();
        let (has_end, after) = rest.split_first()?;
        rest = after;
        match has_end {
            0 => {}
            // Where it ends. The next leaf says the same, by its own low key.
            1 => drop(take_bytes(&mut rest)?),
            _ => return None,
        }
        // All its keys begin with so much of the low key, and are kept without it.
        let prefix = low_key.get(..usize::try_from(take_u64(&mut rest)?).ok()?)?;
        let count = take_u64(&mut rest)?;
        let mut rows = Vec::new();
        for _ in 0..count {
            let key = take_bytes(&mut rest)?;
            let value = take_bytes(&mut rest)?;
            rows.push(([prefix, key].concat(), value.to_vec()));
        }
        // Two counters that mean nothing on the disk.
        take_u64(&mut rest)?;
        take_u64(&mut rest)?;
        let ordered = rows.is_sorted_by(|one, other| one.0 < other.0);
        (rest.is_empty() && ordered).then_some(Leaf { low_key, rows, bytes: whole.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_are_those_that_sled_makes() {
        let directory = tempfile::tempdir().unwrap();
        drop(crate::store::sled::SledBase::open(directory.path(), 1 << 20).unwrap());
        let names = std::fs::read_dir(directory.path().join("slabs")).unwrap();
        let mut made: Vec<u64> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap()).collect();
        made.sort_unstable();
        assert_eq!(made, SLOT_BYTES);
    }
}
