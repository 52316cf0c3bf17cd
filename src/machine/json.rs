//! JSON values that keep what their author wrote: the order of the keys and every digit of a number.
//!
//! An output or the inputs are parsed once into a tree of [`Json`] that is cheap to share, and written back compact.
//! Nothing here knows of expressions; see `scope` for that.

use std::{fmt, sync::Arc};

/// Deepest nesting that is read; outputs have at most 30 levels.
const MAX_DEPTH: usize = 128;

/// A JSON value. To clone one is cheap.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number of 64 bits, written plainly.
    Integer(i64),
    /// Any other number, as it was written.
    Number(Arc<str>),
    /// A string, unescaped.
    Text(Arc<str>),
    /// `[…]`
    List(Arc<List>),
    /// `{…}`
    Map(Arc<Map>),
}

/// The elements of an array.
#[derive(PartialEq)]
pub struct List(pub Vec<Json>);

/// The members of an object, in the order in which they were written.
#[derive(PartialEq)]
pub struct Map {
    pairs: Vec<(Arc<str>, Json)>,
    /// Places in `pairs`, by key.
    sorted: Vec<u32>,
}

// A container may hold a megabyte: whoever prints one for debugging wants its kind.
impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} elements]", self.0.len())
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{} members}}", self.pairs.len())
    }
}

impl Map {
    /// Of several members with one key, the last counts.
    pub fn new(mut pairs: Vec<(Arc<str>, Json)>) -> Self {
        let mut sorted = order(&pairs);
        let same = |two: &[u32]| pairs[two[0] as usize].0 == pairs[two[1] as usize].0;
        if sorted.windows(2).any(same) {
            let mut last = vec![true; pairs.len()];
            for two in sorted.windows(2).filter(|two| same(two)) {
                last[two[0] as usize] = false;
            }
            let mut last = last.into_iter();
            pairs.retain(|_| last.next().unwrap_or(true));
            sorted = order(&pairs);
        }
        Self { pairs, sorted }
    }

    /// The member of that key.
    pub fn get(&self, key: &str) -> Option<&Json> {
        let found = self.sorted.binary_search_by(|&at| (*self.pairs[at as usize].0).cmp(key)).ok()?;
        Some(&self.pairs[self.sorted[found] as usize].1)
    }

    /// The members in the order of their keys.
    pub fn by_key(&self) -> impl Iterator<Item = &(Arc<str>, Json)> {
        self.sorted.iter().map(|&at| &self.pairs[at as usize])
    }

    /// The members in the order in which they were written.
    pub fn pairs(&self) -> &[(Arc<str>, Json)] {
        &self.pairs
    }
}

/// Places by key; those with one key in the order in which they stand.
fn order(pairs: &[(Arc<str>, Json)]) -> Vec<u32> {
    let mut sorted: Vec<u32> = (0..).take(pairs.len()).collect();
    sorted.sort_by(|&a, &b| pairs[a as usize].0.cmp(&pairs[b as usize].0));
    sorted
}

impl Json {
    /// A string.
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    /// An object.
    pub fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Map(Arc::new(Map::new(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())))
    }

    /// Reads one JSON document.
    ///
    /// # Errors
    /// Says at which byte it is no JSON, or that it is nested too deep.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.fault("something follows the value"));
        }
        Ok(value)
    }

    /// What kind of value it is, for words to people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "an array",
            Self::Map(_) => "an object",
        }
    }

    /// What a key, or the decimal number of an element, leads to.
    pub fn member(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(map) => map.get(key),
            Self::List(list) => list.0.get(key.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// What a JSON Pointer leads to (RFC 6901). `Err` has the part of it that leads nowhere.
    pub fn pointer<'a>(&self, pointer: &'a str) -> Result<&Self, &'a str> {
        let mut value = self;
        let mut done = 0;
        for token in pointer.split('/').skip(1) {
            done += 1 + token.len();
            // The RFC knows no leading zeros, so that each element has one pointer.
            let is_padded = matches!(value, Self::List(_)) && token.len() > 1 && token.starts_with('0');
            let key = token.replace("~1", "/").replace("~0", "~");
            value = if is_padded { None } else { value.member(&key) }.ok_or(&pointer[..done])?;
        }
        Ok(value)
    }

    /// Writes it compact: no space, keys in their order, numbers as they were written.
    pub fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Self::Null => out.write_str("null"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Integer(value) => write!(out, "{value}"),
            Self::Number(value) => out.write_str(value),
            Self::Text(value) => write_string(value, out),
            Self::List(list) => {
                out.write_char('[')?;
                for (at, value) in list.0.iter().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    value.write(out)?;
                }
                out.write_char(']')
            }
            Self::Map(map) => {
                out.write_char('{')?;
                for (at, (key, value)) in map.pairs.iter().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    write_string(key, out)?;
                    out.write_char(':')?;
                    value.write(out)?;
                }
                out.write_char('}')
            }
        }
    }

    /// What it is as text: a string as it is, anything else as compact JSON.
    ///
    /// # Errors
    /// Where that would be more than so many bytes.
    pub fn as_text(&self, most: usize) -> Result<Arc<str>, TooLong> {
        if let Self::Text(text) = self {
            return if text.len() > most { Err(TooLong(most)) } else { Ok(Arc::clone(text)) };
        }
        let mut out = Bounded::new(most);
        self.write(&mut out).map_err(|fmt::Error| TooLong(most))?;
        Ok(out.into_text().into())
    }

    /// For words to people: compact JSON of at most so many bytes, then `…`.
    pub fn shown(&self, most: usize) -> String {
        let mut out = Bounded::new(most);
        match self.write(&mut out) {
            Ok(()) => out.into_text(),
            Err(fmt::Error) => out.into_text() + "…",
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// A text would have more than so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// Text that refuses to grow past a bound, and holds then what fits.
pub struct Bounded {
    text: String,
    most: usize,
}

impl Bounded {
    /// Of at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self { text: String::new(), most }
    }

    /// What was written.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.most - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        // Nothing may follow the gap.
        self.most = self.text.len();
        Err(fmt::Error)
    }
}

fn write_string(text: &str, out: &mut dyn fmt::Write) -> fmt::Result {
    out.write_char('"')?;
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate().filter(|(_, byte)| *byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.write_str(&text[plain..at])?;
        plain = at + 1;
        match byte {
            b'"' => out.write_str("\\\"")?,
            b'\\' => out.write_str("\\\\")?,
            b'\n' => out.write_str("\\n")?,
            b'\r' => out.write_str("\\r")?,
            b'\t' => out.write_str("\\t")?,
            0x08 => out.write_str("\\b")?,
            0x0C => out.write_str("\\f")?,
            control => write!(out, "\\u{control:04x}")?,
        }
    }
    out.write_str(&text[plain..])?;
    out.write_char('"')
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn fault(&self, what: &str) -> String {
        format!("it is no JSON at byte {}: {what}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err(self.fault("it is nested too deep"));
        }
        self.space();
        match self.peek() {
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'"') => Ok(Json::Text(self.string()?.into())),
            Some(b'[') => {
                let mut list = Vec::new();
                self.members(b']', |parser| {
                    list.push(parser.value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Json::List(Arc::new(List(list))))
            }
            Some(b'{') => {
                let mut pairs = Vec::new();
                self.members(b'}', |parser| {
                    let key = parser.string()?;
                    parser.space();
                    if parser.peek() != Some(b':') {
                        return Err(parser.fault("`:` is missing"));
                    }
                    parser.at += 1;
                    pairs.push((key.into(), parser.value(depth + 1)?));
                    Ok(())
                })?;
                Ok(Json::Map(Arc::new(Map::new(pairs))))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.fault("a value is missing")),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, String> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.fault("a value is missing"));
        }
        self.at += word.len();
        Ok(value)
    }

    /// What stands between brackets, with commas between.
    fn members(&mut self, end: u8, mut member: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        self.at += 1;
        self.space();
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            member(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fault("`,` or the closing bracket is missing")),
            }
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let whole = self.digits()?;
        if whole > 1 && self.text.as_bytes()[self.at - whole] == b'0' {
            return Err(self.fault("a number has no leading zero"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let written = &self.text[start..self.at];
        // `-0` is a number that no integer writes.
        match written.parse::<i64>() {
            Ok(value) if written != "-0" => Ok(Json::Integer(value)),
            _ => Ok(Json::Number(written.into())),
        }
    }

    fn digits(&mut self) -> Result<usize, String> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("a digit is missing")) } else { Ok(self.at - start) }
    }

    fn string(&mut self) -> Result<String, String> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("a string is missing"));
        }
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let plain = rest.iter().position(|&byte| byte < 0x20 || matches!(byte, b'"' | b'\\'));
            let Some(plain) = plain else { return Err(self.fault("a string does not end")) };
            out.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain + 1;
            match rest[plain] {
                b'"' => return Ok(out),
                b'\\' => out.push(self.escape()?),
                _ => return Err(self.fault("a control character stands in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let escape = self.peek();
        self.at += 1;
        Ok(match escape {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{C}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let high = self.hex()?;
                let low = (0xD800..0xDC00).contains(&high) && self.text[self.at..].starts_with("\\u");
                let ahead = self.at;
                if low {
                    self.at += 2;
                    let low = self.hex()?;
                    if (0xDC00..0xE000).contains(&low) {
                        let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = ahead;
                }
                // Half of a pair is no character; what others read leniently is not refused here.
                char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err(self.fault("an unknown escape")),
        })
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()));
        let code = digits.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let code = code.ok_or_else(|| self.fault("four hexadecimal digits are missing"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_comes_back_in_its_order_and_with_all_its_digits() {
        // S-DATA-2
        for (written, compact) in [
            (r#" { "z" : 1 , "a" : [ true , null ] } "#, r#"{"z":1,"a":[true,null]}"#),
            (
                "12345678901234567890123456789012345678901234567890",
                "12345678901234567890123456789012345678901234567890",
            ),
            ("1.10", "1.10"),
            ("-0", "-0"),
            ("1e400", "1e400"),
            (r#""\u00e9\ud83d\ude00\/\n""#, "\"é😀/\\n\""),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"b":2,"a":3}"#),
            (r#""\ud800""#, "\"\u{FFFD}\""),
        ] {
            assert_eq!(Json::parse(written).expect(written).to_string(), compact);
        }
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        for bad in ["", "01", "1.", "[1,]", "{\"a\"}", "nul", "1 2", "\"\n\"", "\"\\x\"", "\"\\u12\"", "-", "[", &deep]
        {
            assert!(Json::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pointer_leads_to_one_value_or_says_where_it_ends() {
        // S-COND-2, RFC 6901
        let json = Json::parse(r#"{"a/b":{"m~n":[10,20]},"":1}"#).expect("JSON");
        assert_eq!(json.pointer("/a~1b/m~0n/1"), Ok(&Json::Integer(20)));
        assert_eq!(json.pointer("/"), Ok(&Json::Integer(1)));
        assert_eq!(json.pointer(""), Ok(&json));
        assert_eq!(json.pointer("/a~1b/m~0n/2/x"), Err("/a~1b/m~0n/2"));
        assert_eq!(json.pointer("/a~1b/m~0n/01"), Err("/a~1b/m~0n/01"));
        assert_eq!(json.pointer("/nope"), Err("/nope"));
    }

    proptest! {
        #[test]
        fn strings_are_read_as_serde_json_writes_them_and_the_other_way_round(text in "\\PC*|[\\x00-\\x7f]*|.*") {
            let written = serde_json::to_string(&text).expect("a string");
            prop_assert_eq!(Json::parse(&written), Ok(Json::text(&text)));
            prop_assert_eq!(Json::text(&text).to_string(), written);
        }

        #[test]
        fn what_is_json_and_what_is_not_is_what_serde_json_says(text in "[\\[\\]{},:\"\\\\ntrue0-9.eE+\\- u]{0,24}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let ours = Json::parse(&text);
            // serde_json refuses halves of pairs and numbers beyond a double.
            prop_assert!(ours.is_ok() || theirs.is_err(), "{text}");
            if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
                let again: serde_json::Value = serde_json::from_str(&ours.to_string()).expect("JSON");
                prop_assert_eq!(&again, theirs);
            }
        }
    }
}
