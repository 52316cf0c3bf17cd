//! How values become words for people: escaped text, spans of time, moments, short enum words.
//!
//! Everything here is pure: the present is an argument. It does not print and knows no command.

use std::fmt::Write as _;

use chrono::{DateTime, Datelike, TimeZone};
use pbjson_types::{Duration, Timestamp};

use crate::proto::v1::{TaskStatus, WorkflowStatus};

/// Text from outside with its control and direction-changing characters made visible, so that a task's title or a
/// server's message can neither move the cursor nor reorder a line. Newlines and tabs are escaped too.
pub fn escape(text: &str) -> String {
    escape_except(text, &[])
}

/// As [`escape`], but newlines and tabs stay: for text of several lines.
pub fn escape_lines(text: &str) -> String {
    escape_except(text, &['\n', '\t'])
}

/// JSON text with the control and direction-changing characters that JSON itself leaves alone as `\uNNNN`, which means
/// the same to every reader. They can only stand inside strings there.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if changes_direction(character) || (character.is_control() && character != '\n') {
            push_escaped(&mut escaped, format_args!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn escape_except(text: &str, kept: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if (character.is_control() || changes_direction(character)) && !kept.contains(&character) {
            match character {
                '\n' => escaped.push_str("\\n"),
                '\t' => escaped.push_str("\\t"),
                '\r' => escaped.push_str("\\r"),
                other if u32::from(other) < 0x80 => {
                    push_escaped(&mut escaped, format_args!("\\x{:02x}", u32::from(other)));
                }
                other => push_escaped(&mut escaped, format_args!("\\u{{{:x}}}", u32::from(other))),
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn push_escaped(text: &mut String, escaped: std::fmt::Arguments<'_>) {
    text.write_fmt(escaped).expect("writing into a String cannot fail");
}

/// The marks, embeddings, overrides and isolates of the bidirectional algorithm, and the two line separators, which
/// some terminals obey like newlines.
fn changes_direction(character: char) -> bool {
    matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes a stream of bytes safe for a terminal: pieces may end in the middle of a character.
#[derive(Debug, Default)]
pub struct StreamEscaper {
    // The beginning of a character whose rest is in the next piece: at most three bytes.
    pending: Vec<u8>,
}

impl StreamEscaper {
    /// The piece as text to show. Newlines and tabs stay, `\r\n` is a newline, bytes that are no UTF-8 are `\xNN`.
    pub fn escape(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(piece);
        let mut shown = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    shown.push_str(&escape_lines(&self.hold_return(text)));
                    return shown;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            let text = std::str::from_utf8(valid).expect("from_utf8 said that it is valid up to here");
            shown.push_str(&escape_lines(&text.replace("\r\n", "\n")));
            let Some(length) = error.error_len() else {
                self.pending = invalid.to_vec();
                return shown;
            };
            for byte in &invalid[..length] {
                push_escaped(&mut shown, format_args!("\\x{byte:02x}"));
            }
            rest = &invalid[length..];
        }
    }

    /// What is left at the end of the stream: an unfinished character.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.pending).iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// A final `\r` may be half of a `\r\n`: it waits for the next piece.
    fn hold_return(&mut self, text: &str) -> String {
        let text = match text.strip_suffix('\r') {
            Some(before) => {
                self.pending.push(b'\r');
                before
            }
            None => text,
        };
        text.replace("\r\n", "\n")
    }
}

/// A span in the two units that matter: `340ms`, `1.2s`, `3m 04s`, `2h 05m`, `3d 04h`.
pub fn span(span: std::time::Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        // Rounding would make 999.6 ms into 1000 ms: cut instead.
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{}.{}s", seconds, span.subsec_millis() / 100),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The span between two moments, zero when they are reversed; none while one of them is missing.
pub fn between(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Option<std::time::Duration> {
    Some((moment(to?)? - moment(from?)?).to_std().unwrap_or_default())
}

/// A protobuf time as a moment; none when it is outside of what a calendar holds.
pub fn moment(time: &Timestamp) -> Option<DateTime<chrono::Utc>> {
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}

/// A moment as people near `now` say it, in their time zone, with the distance: `14:03:12, 2m ago`.
pub fn when<Tz: TimeZone<Offset: std::fmt::Display>>(time: &DateTime<Tz>, now: &DateTime<Tz>) -> String {
    let form = if time.date_naive() == now.date_naive() {
        "%H:%M:%S"
    } else if time.year() == now.year() {
        "%b %d %H:%M"
    } else {
        "%Y-%m-%d"
    };
    let distance = now.clone().signed_duration_since(time.clone());
    let relative = match distance.to_std() {
        Ok(ago) if ago.as_secs() == 0 => "now".to_owned(),
        Ok(ago) => format!("{} ago", coarse(ago)),
        Err(_) => format!("in {}", coarse((-distance).to_std().unwrap_or_default())),
    };
    format!("{}, {relative}", time.format(form))
}

/// A span in its largest unit.
fn coarse(span: std::time::Duration) -> String {
    match span.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `12:03:04` in the local time zone; the time of an event in a plain line.
pub fn clock(time: Option<&Timestamp>) -> String {
    match time.and_then(moment) {
        Some(time) => time.with_timezone(&chrono::Local).format("%H:%M:%S").to_string(),
        None => "--:--:--".to_owned(),
    }
}

/// Text cut to `width` characters, the last one `…`, where it is longer.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Why a text is no span of time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpanError {
    /// No number where one must be, or a unit that is none.
    #[error("`{0}` is no duration: write it like `30s`, `1.5s`, `500ms`, `10m` or `1h30m`")]
    Malformed(String),
    /// A bare number: seconds and milliseconds are both plausible, so neither is assumed.
    #[error("`{0}` has no unit: write `{0}s` for seconds")]
    NoUnit(String),
    /// More than a protobuf duration holds.
    #[error("`{0}` is too long: a duration is at most 10,000 years")]
    TooLong(String),
}

/// Reads `30s`, `1.5s`, `500ms`, `10m`, `1h30m`, `2d`: parts with falling units `d`, `h`, `m`, `s`, `ms`, `us`, `ns`,
/// of which seconds alone may have decimals. Canonical proto3 JSON (`1.5s`, `-3s`) is a special case of it.
pub fn parse_span(text: &str) -> Result<Duration, SpanError> {
    let malformed = || SpanError::Malformed(text.to_owned());
    let (negative, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(SpanError::NoUnit(text.trim().to_owned()));
    }
    let mut nanos: i128 = 0;
    let mut largest = usize::MAX;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let rank = SPAN_UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(malformed)?;
        // `30m1h` and `1s1s` are slips, not spans.
        if rank >= largest {
            return Err(malformed());
        }
        largest = rank;
        let part = decimal_nanos(number, unit, SPAN_UNITS[rank].1).ok_or_else(malformed)?;
        nanos = nanos.checked_add(part).ok_or_else(|| SpanError::TooLong(text.to_owned()))?;
        rest = after;
    }
    if largest == usize::MAX {
        return Err(malformed());
    }
    if nanos > MAX_SPAN_SECONDS * NANOS_PER_SECOND {
        return Err(SpanError::TooLong(text.to_owned()));
    }
    let nanos = if negative { -nanos } else { nanos };
    let seconds = i64::try_from(nanos / NANOS_PER_SECOND).expect("bounded by MAX_SPAN_SECONDS");
    let below = i32::try_from(nanos % NANOS_PER_SECOND).expect("the rest of a division by 10^9");
    Ok(Duration { seconds, nanos: below })
}

/// `number` units in nanoseconds; none for anything but digits, with decimals for seconds alone.
fn decimal_nanos(number: &str, unit: &str, unit_nanos: i128) -> Option<i128> {
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) if unit == "s" && (1..=9).contains(&decimals.len()) => (whole, decimals),
        Some(_) => return None,
        None => (number, ""),
    };
    let whole: i128 = whole.parse().ok()?;
    let decimals: i128 = format!("{decimals:0<9}").parse().ok()?;
    whole.checked_mul(unit_nanos)?.checked_add(decimals)
}

const NANOS_PER_SECOND: i128 = 1_000_000_000;
// The bound of google.protobuf.Duration.
const MAX_SPAN_SECONDS: i128 = 315_576_000_000;
// From small to large: a part's unit must come before the unit of the part before it.
const SPAN_UNITS: [(&str, i128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
    ("d", 86_400 * NANOS_PER_SECOND),
];

/// The short word of a workflow's or an execution's status.
pub fn workflow_status(status: i32) -> &'static str {
    WorkflowStatus::try_from(status).map_or("UNKNOWN", |status| short(status.as_str_name(), "WORKFLOW_STATUS_"))
}

/// The short word of a task's status.
pub fn task_status(status: i32) -> &'static str {
    TaskStatus::try_from(status).map_or("UNKNOWN", |status| short(status.as_str_name(), "TASK_STATUS_"))
}

fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, TimeDelta};

    use super::*;

    #[test]
    fn text_from_outside_cannot_drive_the_terminal() {
        assert_eq!(
            escape("a\x1b[31mred\nb\t\u{202e}evil\u{7f}\u{9b}"),
            "a\\x1b[31mred\\nb\\t\\u{202e}evil\\x7f\\u{9b}"
        );
        assert_eq!(escape_lines("one\n\ttwo\x07"), "one\n\ttwo\\x07");
        assert_eq!(escape_json("{\n\"a\": \"\u{202e}\u{9b}ü\"}"), "{\n\"a\": \"\\u202e\\u009bü\"}");
        assert_eq!(escape("Zürich – 東京 🎉"), "Zürich – 東京 🎉");
    }

    #[test]
    fn a_log_cut_inside_a_character_is_shown_whole() {
        let mut escaper = StreamEscaper::default();
        let bytes = "ü→\r\nx\x1b\r".as_bytes();
        let shown: String = bytes.iter().map(|byte| escaper.escape(&[*byte])).collect();
        assert_eq!(shown + &escaper.finish(), "ü→\nx\\x1b\\x0d");
        assert_eq!(escaper.escape(b"\xff ok \xe2\x82"), "\\xff ok ");
        assert_eq!(escaper.finish(), "\\xe2\\x82");
    }

    #[test]
    fn spans_are_read_in_every_documented_form() {
        let read = |text| parse_span(text).map(|span| (span.seconds, span.nanos));
        assert_eq!(read("3s"), Ok((3, 0)));
        assert_eq!(read("1.5s"), Ok((1, 500_000_000)));
        assert_eq!(read("-1.5s"), Ok((-1, -500_000_000)));
        assert_eq!(read("500ms"), Ok((0, 500_000_000)));
        assert_eq!(read("1h30m"), Ok((5_400, 0)));
        assert_eq!(read("1d2h3m4s5ms"), Ok((93_784, 5_000_000)));
        assert_eq!(read("315576000000s"), Ok((315_576_000_000, 0)));
        assert_eq!(read("315576000001s"), Err(SpanError::TooLong("315576000001s".into())));
        assert_eq!(read("30"), Err(SpanError::NoUnit("30".into())));
        for slip in ["", "-", "s", "1 s", "30m1h", "1s1s", "1.s", "1.5m", "1..5s", "1.0000000001s", "1w", "1e3s", "ten"]
        {
            assert_eq!(read(slip), Err(SpanError::Malformed(slip.into())), "{slip}");
        }
    }

    #[test]
    fn spans_and_moments_read_like_speech() {
        let spans = [340, 999, 1_250, 59_999, 184_000, 7_500_000, 273_600_000].map(std::time::Duration::from_millis);
        assert_eq!(spans.map(span), ["340ms", "999ms", "1.2s", "59.9s", "3m 04s", "2h 05m", "3d 04h"]);
        let zone = FixedOffset::east_opt(3600).unwrap();
        let now = zone.with_ymd_and_hms(2026, 11, 22, 14, 5, 0).unwrap();
        assert_eq!(when(&now, &now), "14:05:00, now");
        assert_eq!(when(&(now - TimeDelta::seconds(108)), &now), "14:03:12, 1m ago");
        assert_eq!(when(&(now - TimeDelta::days(3)), &now), "Nov 19 14:05, 3d ago");
        assert_eq!(when(&(now - TimeDelta::days(400)), &now), "2025-10-18, 400d ago");
        assert_eq!(when(&(now + TimeDelta::minutes(5)), &now), "14:10:00, in 5m");
    }
}
