//! What an attempt hands on: one JSON value, made from the `NOX_OUTPUT` file or from standard output (S-DATA-1).
//!
//! - The file wins when it is not empty; a missing or empty one means standard output.
//! - The declared format governs both sources. Text becomes a JSON string without its final newline; bytes that
//!   are not UTF-8 become U+FFFD (the log keeps them raw). With `output_format: JSON` the whole text must be one
//!   JSON value; it is passed on compact, with its numbers and the order of its keys as they were written.
//! - The value is at most [`MAX_OUTPUT_BYTES`], both as written and as JSON.
//!
//! It decides nothing: a fault is a fact for the report. Read first: [`collect`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::spawn::while_full;

/// The largest output, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// How much of standard output is a text output, in bytes, counted from its end.
pub const TEXT_TAIL_BYTES: usize = 64 * 1024;

/// Why an attempt has no output (error kind OUTPUT).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OutputFault {
    /// One sentence for a person: what was wrong, where, and what to do.
    pub message: String,
}

/// How the output is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Plain text, handed on as a JSON string.
    Text,
    /// One JSON value (`output_format: JSON`).
    Json,
}

/// The part of standard output that may become the output, in bounded memory: the last 64 KiB of text, or the
/// first 1 MiB and a byte of JSON (the byte tells "too large" from "just fits").
#[derive(Debug)]
pub struct StdoutCapture {
    format: OutputFormat,
    head: Vec<u8>,
    tail: Tail,
}

impl StdoutCapture {
    /// An empty capture.
    pub fn new(format: OutputFormat) -> Self {
        Self { format, head: Vec::new(), tail: Tail::new(TEXT_TAIL_BYTES) }
    }

    /// Takes what was read next.
    pub fn push(&mut self, bytes: &[u8]) {
        match self.format {
            OutputFormat::Text => self.tail.push(bytes),
            OutputFormat::Json => {
                let room = MAX_OUTPUT_BYTES + 1 - self.head.len();
                self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
            }
        }
    }
}

/// The last bytes of a stream.
#[derive(Debug)]
pub struct Tail {
    limit: usize,
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    /// An empty tail that keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: VecDeque::new(), cut: false }
    }

    /// Takes what was read next and lets go of what no longer fits.
    pub fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.limit);
        self.cut |= excess > 0 || kept.len() < bytes.len();
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// As text of at most the limit: not UTF-8 becomes U+FFFD, and a character that the cut went through is left out.
    pub fn into_text(mut self) -> String {
        let limit = self.limit;
        let bytes = self.bytes.make_contiguous();
        // A UTF-8 character has at most three bytes after its first.
        let split = if self.cut { bytes.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count() } else { 0 };
        let mut text = String::from_utf8_lossy(&bytes[split..]).into_owned();
        // Each U+FFFD is longer than the byte it stands for.
        let start = text.ceil_char_boundary(text.len().saturating_sub(limit));
        text.drain(..start);
        text
    }
}

/// The attempt's output as compact JSON text, from the file at `output_file` if it is not empty, else from what
/// was captured of standard output. Blocks on the file.
///
/// # Errors
/// A fault in a sentence, when the output is too large, is not the JSON it was declared to be (with line and
/// column), or when the file was replaced by something that is not a regular file or cannot be read.
pub fn collect(output_file: &Path, stdout: StdoutCapture) -> Result<Vec<u8>, OutputFault> {
    let written = read_output_file(output_file)?;
    match (stdout.format, written.is_empty()) {
        (OutputFormat::Text, true) => text_value(stdout.tail.into_text(), Source::Stdout),
        (OutputFormat::Text, false) => text_value(String::from_utf8_lossy(&written).into_owned(), Source::File),
        (OutputFormat::Json, true) => json_value(&stdout.head, Source::Stdout),
        (OutputFormat::Json, false) => json_value(&written, Source::File),
    }
}

/// Which of the two the words of a fault are about.
#[derive(Clone, Copy)]
enum Source {
    File,
    Stdout,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::File => "the NOX_OUTPUT file",
            Self::Stdout => "standard output",
        }
    }

    fn too_large(self) -> OutputFault {
        let source = self.name();
        fault(format!(
            "the output in {source} is larger than {MAX_OUTPUT_BYTES} bytes: write the bulk to a file of your own and hand on its path"
        ))
    }
}

/// Empty if it is missing or empty; never follows a link, never waits on a pipe.
fn read_output_file(path: &Path) -> Result<Vec<u8>, OutputFault> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match while_full(|| Ok(rustix::fs::open(path, flags, Mode::empty())?)) {
        Ok(file) => File::from(file),
        Err(error) => {
            return match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => Ok(Vec::new()),
                Some(Errno::LOOP | Errno::NXIO) => Err(not_regular()),
                _ => Err(unreadable(&error)),
            };
        }
    };
    let meta = rustix::fs::fstat(&file).map_err(|error| unreadable(&error.into()))?;
    if FileType::from_raw_mode(meta.st_mode) != FileType::RegularFile {
        return Err(not_regular());
    }
    let mut written = Vec::new();
    let limit = MAX_OUTPUT_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut written).map_err(|error| unreadable(&error))?;
    if written.len() > MAX_OUTPUT_BYTES { Err(Source::File.too_large()) } else { Ok(written) }
}

fn text_value(mut text: String, source: Source) -> Result<Vec<u8>, OutputFault> {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    let json = serde_json::Value::String(text).to_string().into_bytes();
    if json.len() > MAX_OUTPUT_BYTES { Err(source.too_large()) } else { Ok(json) }
}

fn json_value(raw: &[u8], source: Source) -> Result<Vec<u8>, OutputFault> {
    let name = source.name();
    if raw.len() > MAX_OUTPUT_BYTES {
        return Err(source.too_large());
    }
    if raw.trim_ascii().is_empty() {
        return Err(fault(format!(
            "the task declares `output_format: JSON` but {name} holds nothing: write one JSON value to it or to the file named by NOX_OUTPUT"
        )));
    }
    // Parsed to be judged, by the parser that will read it again later; passed on in its own words, because a
    // parsed value would lose digits of large numbers and the order of keys.
    match serde_json::from_slice::<serde_json::Value>(raw) {
        Ok(_) => Ok(compact(raw)),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let what = error.to_string();
            let what = what.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&what);
            Err(fault(format!(
                "{name} is not JSON, which `output_format: JSON` demands: {what}, at line {line} column {column}"
            )))
        }
    }
}

/// Leaves out the white space between tokens of a valid JSON text.
fn compact(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in json {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}

fn not_regular() -> OutputFault {
    fault("the NOX_OUTPUT file was replaced by something that is not a regular file: write to it in place, or rename a regular file over it".to_owned())
}

fn unreadable(error: &io::Error) -> OutputFault {
    fault(format!("the NOX_OUTPUT file could not be read: {error}"))
}

fn fault(message: String) -> OutputFault {
    OutputFault { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of a task that wrote `file` to NOX_OUTPUT (`None`: removed it) and `stdout` in small pieces.
    fn output(format: OutputFormat, file: Option<&[u8]>, stdout: &[u8]) -> Result<String, String> {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("output");
        if let Some(file) = file {
            std::fs::write(&path, file).unwrap();
        }
        let mut capture = StdoutCapture::new(format);
        stdout.chunks(1_000).for_each(|piece| capture.push(piece));
        collect(&path, capture).map(|json| String::from_utf8(json).unwrap()).map_err(|fault| fault.message)
    }

    // S-DATA-1
    #[test]
    fn text_is_a_json_string_without_its_final_newline_and_the_file_wins() {
        use OutputFormat::Text;
        assert_eq!(output(Text, Some(b""), b"a \"b\"\nc\n").unwrap(), r#""a \"b\"\nc""#);
        assert_eq!(output(Text, None, b"x\n\n").unwrap(), r#""x\n""#);
        assert_eq!(output(Text, Some(b""), b"").unwrap(), r#""""#);
        assert_eq!(output(Text, Some(b"{\"a\": 1}\r\n"), b"ignored").unwrap(), r#""{\"a\": 1}""#);
        assert_eq!(output(Text, Some(b""), b"\xffz\n").unwrap(), "\"\u{FFFD}z\"");
    }

    // S-DATA-1
    #[test]
    fn long_text_keeps_its_last_64_kib_cut_between_characters() {
        let long = "é".repeat(TEXT_TAIL_BYTES) + "!\n";
        let text: String = serde_json::from_str(&output(OutputFormat::Text, None, long.as_bytes()).unwrap()).unwrap();
        // The limit falls on the second byte of an é, which is left out whole.
        assert_eq!(text, "é".repeat((TEXT_TAIL_BYTES - 2) / 2) + "!");
    }

    // S-DATA-1
    #[test]
    fn declared_json_is_compacted_with_its_digits_and_key_order_kept() {
        use OutputFormat::Json;
        let raw = b" { \"z\" : [ 1.50 , 123456789012345678901 ] ,\n\t\"a b\" : \"x \\\" \\\\\" , \"c\" : null }\r\n";
        let compacted = r#"{"z":[1.50,123456789012345678901],"a b":"x \" \\","c":null}"#;
        assert_eq!(output(Json, Some(b""), raw).unwrap(), compacted);
        assert_eq!(output(Json, Some(raw), b"not json").unwrap(), compacted);
        assert_eq!(output(Json, None, b"true\n").unwrap(), "true");
    }

    // S-DATA-1
    #[test]
    fn bad_json_names_its_source_line_and_column() {
        use OutputFormat::Json;
        let message = output(Json, Some(b""), b"{\n  \"a\": oops\n}").unwrap_err();
        assert!(
            message.starts_with("standard output is not JSON") && message.ends_with("line 2 column 8"),
            "{message}"
        );
        let message = output(Json, Some(b"{} {}"), b"{}").unwrap_err();
        assert!(message.starts_with("the NOX_OUTPUT file is not JSON") && message.contains("line 1"), "{message}");
        assert!(output(Json, None, b"\"\\ud800\"").is_err(), "a lone surrogate would fail its next reader");
        assert!(output(Json, None, "[".repeat(100_000).as_bytes()).is_err(), "depth is bounded");
        assert!(output(Json, None, b" \n").unwrap_err().contains("holds nothing"));
    }

    // S-DATA-1
    #[test]
    fn one_mebibyte_is_an_output_and_one_byte_more_is_not() {
        let json = |length: usize| format!("\"{}\"", "j".repeat(length - 2)).into_bytes();
        for (file, stdout) in [(true, false), (false, true)] {
            let run = |length: usize| {
                let raw = json(length);
                output(OutputFormat::Json, file.then_some(&raw[..]), if stdout { &raw } else { b"" })
            };
            assert_eq!(run(MAX_OUTPUT_BYTES).unwrap().len(), MAX_OUTPUT_BYTES);
            assert!(run(MAX_OUTPUT_BYTES + 1).unwrap_err().contains("larger than 1048576 bytes"));
        }
        let escapes = vec![1; MAX_OUTPUT_BYTES / 2];
        assert!(output(OutputFormat::Text, Some(&escapes), b"").is_err(), "\\u0001 is six bytes of JSON");
    }

    #[test]
    fn a_link_a_directory_or_a_pipe_in_place_of_the_file_is_a_fault_not_a_read() {
        let room = tempfile::tempdir().unwrap();
        let secret = room.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let link = room.path().join("link");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        let pipe = room.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [link, pipe, room.path().to_path_buf()] {
            let fault = collect(&path, StdoutCapture::new(OutputFormat::Text)).unwrap_err();
            assert!(fault.message.contains("not a regular file"), "{}: {fault}", path.display());
        }
    }

    // S-AGENT-4
    #[test]
    fn what_is_kept_in_memory_is_bounded_however_much_is_written() {
        for format in [OutputFormat::Text, OutputFormat::Json] {
            let mut capture = StdoutCapture::new(format);
            (0..200).for_each(|_| capture.push(&[b'x'; 64 * 1024]));
            assert!(capture.tail.bytes.capacity() <= 2 * TEXT_TAIL_BYTES);
            assert!(capture.head.len() <= MAX_OUTPUT_BYTES + 1);
        }
        let mut stderr = Tail::new(4);
        stderr.push(b"ab\xff\xff\xff\xff");
        assert_eq!(stderr.into_text(), "\u{FFFD}", "four bytes of room for replacement characters of three");
    }
}
