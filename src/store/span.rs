//! A contiguous stretch of keys and the direction to walk it: what every layer of a read is asked for.

use std::ops::Bound;

/// Which end of a span a walk begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the smallest key up.
    Ascending,
    /// From the greatest key down.
    Descending,
}

impl Direction {
    /// Whether a walk meets `one` before `other`.
    pub(super) fn meets_first(self, one: &[u8], other: &[u8]) -> bool {
        match self {
            Direction::Ascending => one < other,
            Direction::Descending => one > other,
        }
    }
}

/// The keys from `lower` (inclusive) to `upper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub lower: Vec<u8>,
    pub upper: Bound<Vec<u8>>,
}

impl Span {
    /// The keys `>= from` that begin with `prefix`.
    pub(super) fn from(prefix: &[u8], from: &[u8]) -> Span {
        Span { lower: prefix.max(from).to_vec(), upper: end_of_prefix(prefix) }
    }

    /// The keys up to `through` that begin with `prefix`.
    pub(super) fn through(prefix: &[u8], through: Bound<&[u8]>) -> Span {
        let end = end_of_prefix(prefix);
        let beyond = |key: &[u8]| matches!(&end, Bound::Excluded(end) if key >= end.as_slice());
        let upper = match through {
            Bound::Included(key) if !beyond(key) => Bound::Included(key.to_vec()),
            Bound::Excluded(key) if !beyond(key) => Bound::Excluded(key.to_vec()),
            _ => end,
        };
        Span { lower: prefix.to_vec(), upper }
    }

    /// Whether no key can be inside. (`BTreeMap::range` panics on a reversed range, so it is asked first.)
    pub(super) fn is_empty(&self) -> bool {
        match &self.upper {
            Bound::Included(upper) => self.lower > *upper,
            Bound::Excluded(upper) => self.lower >= *upper,
            Bound::Unbounded => false,
        }
    }

    /// Whether the key is inside.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        key >= self.lower.as_slice()
            && match &self.upper {
                Bound::Included(upper) => key <= upper.as_slice(),
                Bound::Excluded(upper) => key < upper.as_slice(),
                Bound::Unbounded => true,
            }
    }

    /// The bounds as `BTreeMap::range` wants them.
    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(&self.lower), self.upper.as_ref().map(Vec::as_slice))
    }
}

/// The first key after all those that begin with `prefix`.
fn end_of_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(254), Just(255)], 0..4)
    }

    proptest! {
        #[test]
        fn a_span_holds_exactly_the_keys_its_words_say(prefix in key(), edge in key(), probe in key()) {
            let inside = probe.starts_with(&prefix);
            prop_assert_eq!(Span::from(&prefix, &edge).contains(&probe), inside && probe >= edge);
            prop_assert_eq!(Span::through(&prefix, Bound::Included(&edge)).contains(&probe), inside && probe <= edge);
            prop_assert_eq!(Span::through(&prefix, Bound::Excluded(&edge)).contains(&probe), inside && probe < edge);
            prop_assert_eq!(Span::through(&prefix, Bound::Unbounded).contains(&probe), inside);
            if Span::through(&prefix, Bound::Excluded(&edge)).is_empty() {
                prop_assert!(!(inside && probe < edge));
            }
        }
    }
}
