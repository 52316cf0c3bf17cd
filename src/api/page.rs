//! Pages of lists: sizes and opaque tokens that are bound to their filter.

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::status::{Reason, invalid_field, status};
use crate::machine::workflow;

/// Entries of a page, where the client does not say.
const DEFAULT_PAGE: usize = 50;
/// Most entries of a page.
const MAX_PAGE: usize = 1_000;

/// Bytes after which a page ends before its size is reached: what clients take without being told to is 4 MiB.
pub const PAGE_BYTES: usize = 3 * 1_024 * 1_024;

/// A page to be read: how many entries, and after which position.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// How many.
    pub size: usize,
    /// The position of the last entry of the page before.
    pub after: Option<Vec<u8>>,
    filter: [u8; 4],
}

impl Page {
    /// Reads a request's paging. `filter` is the request without it.
    ///
    /// # Errors
    /// A negative or too large size; a token that is not from this list with this filter.
    pub fn parse(rpc: &str, size: i32, token: &str, filter: &impl Serialize) -> Result<Self, Status> {
        let size = match usize::try_from(size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) if size <= MAX_PAGE => size,
            _ => {
                let words = format!("{size} is no page size; it is between 1 and {MAX_PAGE}, or 0 for {DEFAULT_PAGE}");
                return Err(invalid_field("page_size", workflow::Reason::InvalidValue, words));
            }
        };
        let filter = digest(rpc, filter)?;
        let after = if token.is_empty() { None } else { Some(position(token, filter)?) };
        Ok(Self { size, after, filter })
    }

    /// The position to go on after, where positions have this many bytes.
    ///
    /// # Errors
    /// A token that somebody made up.
    pub fn position<const N: usize>(&self) -> Result<Option<[u8; N]>, Status> {
        let Some(after) = &self.after else { return Ok(None) };
        let position = <[u8; N]>::try_from(after.as_slice());
        position.map(Some).map_err(|_| status(Reason::InvalidPageToken, NOT_A_TOKEN))
    }

    /// The token for what comes after this position.
    pub fn token(&self, last: &[u8]) -> String {
        let bytes = [&self.filter, last].concat();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What is said of a token that is none.
pub const NOT_A_TOKEN: &str = "this is no page token; give one from `next_page_token`";

fn position(token: &str, filter: [u8; 4]) -> Result<Vec<u8>, Status> {
    let wrong = |words| status(Reason::InvalidPageToken, words);
    let bytes = unhex(token).ok_or_else(|| wrong(NOT_A_TOKEN))?;
    match bytes.split_first_chunk::<4>() {
        Some((of, position)) if *of == filter => Ok(position.to_vec()),
        _ => Err(wrong("this page token is of another list or filter; begin again without one")),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    // A token names a position, which is a key of at most some hundred bytes.
    if text.len() > 1_024 || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn digest(rpc: &str, filter: &impl Serialize) -> Result<[u8; 4], Status> {
    // Sorted keys: the same filter gives the same digest.
    let value = serde_json::to_value(filter).and_then(|value| serde_json::to_vec(&(rpc, value)));
    let bytes = value.map_err(|error| {
        let words = format!("a value of the filter is none that it can have: {error}");
        invalid_field("filter", workflow::Reason::InvalidValue, words)
    })?;
    let digest = Sha256::digest(bytes);
    Ok([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_continues_its_own_list_and_no_other() {
        let page = Page::parse("List", 0, "", &"a filter").expect("a page");
        assert_eq!((page.size, &page.after), (50, &None));
        let token = page.token(b"position");
        let next = Page::parse("List", 1_000, &token, &"a filter").expect("a page");
        assert_eq!(next.after.as_deref(), Some(&b"position"[..]));
        assert!(next.position::<8>().is_ok() && next.position::<16>().is_err(), "8 bytes are no 16");
        assert!(Page::parse("List", 0, &token, &"another filter").is_err());
        assert!(Page::parse("ListOthers", 0, &token, &"a filter").is_err());
        for nonsense in ["x", "zz", "ü", "00", &"0".repeat(5_000)] {
            assert!(Page::parse("List", 0, nonsense, &"a filter").is_err(), "{nonsense}");
        }
        for size in [-1, 1_001] {
            assert!(Page::parse("List", size, "", &"a filter").is_err(), "{size}");
        }
    }
}
