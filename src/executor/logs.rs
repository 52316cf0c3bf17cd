//! The log of one attempt: one append-only file of frames, written while the attempt runs and read at any time.
//!
//! A frame is `{length: u32 LE, stream: u8, time: i64 LE, bytes}`: `length` counts `bytes` alone, `time` is
//! microseconds since the Unix epoch. An *offset* is always the file position of a frame's first byte, so a
//! reader that remembers `next_offset` can go on from there, during the attempt and for ever after (S-VIEW-3).
//!
//! Nothing here is synced: logs are outside S-SAFE-1. Bytes are kept raw; escaping control characters is the
//! business of whoever shows them. All calls block on the file and belong on a thread that may.
//!
//! Read first: [`LogWriter`], then [`LogReader`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags};

/// How much of a log is kept unless the attempt says otherwise, in bytes of file.
pub const DEFAULT_LOG_CAP: u64 = 64 * 1024 * 1024;

/// The most bytes one frame carries. A reader refuses a longer one as corruption.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// `length`, `stream` and `time` in front of every frame's bytes.
const HEADER_BYTES: usize = 4 + 1 + 8;

/// Where a frame's bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogStream {
    /// The program's standard output.
    Stdout = 1,
    /// The program's standard error.
    Stderr = 2,
    /// A remark of noxd's own, such as the mark where the cap was reached.
    Note = 3,
}

impl LogStream {
    fn from_tag(tag: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Note].into_iter().find(|stream| *stream as u8 == tag)
    }
}

/// One frame as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// File position of this frame, in bytes.
    pub offset: u64,
    /// File position of the frame after it: where to read on.
    pub next_offset: u64,
    /// Who wrote the bytes.
    pub stream: LogStream,
    /// When noxd read them, in microseconds since the Unix epoch.
    pub time_micros: i64,
    /// The bytes as they were written, at most [`MAX_FRAME_BYTES`].
    pub bytes: Vec<u8>,
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file is missing, or the system refused it.
    #[error("the log `{}` could not be read", path.display())]
    Unreadable {
        /// The log file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The offset lies inside a frame.
    #[error("offset {offset} is not a frame boundary of the log `{}`: use a frame's `next_offset`", path.display())]
    NotABoundary {
        /// The log file.
        path: PathBuf,
        /// The offset that was asked for.
        offset: u64,
    },
    /// The offset lies behind the last whole frame.
    #[error("offset {offset} is beyond the end of the log `{}`, which is {end}", path.display())]
    BeyondEnd {
        /// The log file.
        path: PathBuf,
        /// The offset that was asked for.
        offset: u64,
        /// Where the last whole frame ends.
        end: u64,
    },
    /// A header that no writer makes stands where a frame should begin.
    #[error("the log `{}` is corrupt at offset {offset}", path.display())]
    Corrupt {
        /// The log file.
        path: PathBuf,
        /// Where the bad header is.
        offset: u64,
    },
}

/// Appends frames to the log of one attempt until its cap is reached; from there bytes are counted, not kept.
///
/// A failing disk must not fail the attempt: after a failed write the torn frame is cut off, the rest counts as
/// dropped, and the failure is logged once.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    path: PathBuf,
    cap: u64,
    length: u64,
    kept: u64,
    dropped: u64,
    state: WriterState,
}

/// Open → Capped, Open → Broken, Capped → Broken; there is no way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterState {
    Open,
    Capped,
    Broken,
}

impl LogWriter {
    /// Opens the log at `path` for appending, made with mode 0600 if it is missing. `cap` bounds the file in
    /// bytes, frame headers included; only noxd's own notes may stand beyond it. A frame torn by an earlier
    /// crash is cut off.
    ///
    /// # Errors
    /// What the system says when the file cannot be made or opened; a symbolic link or anything but a regular
    /// file is refused, and so is a file that holds no log.
    pub fn open(path: &Path, cap: u64) -> io::Result<Self> {
        let flags =
            OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        require_regular(&file)?;
        let mut length = file.metadata()?.len();
        if length > 0 {
            let mut walk = LogReader::over(file.try_clone()?, path);
            let end = walk.end().map_err(io::Error::other)?;
            if end < length {
                file.set_len(end)?;
                length = end;
            }
        }
        let path = path.to_path_buf();
        Ok(Self { file, path, cap, length, kept: 0, dropped: 0, state: WriterState::Open })
    }

    /// Appends `bytes` of one of the program's streams, now. Never fails; see the type.
    pub fn append(&mut self, stream: LogStream, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_FRAME_BYTES) {
            let room = match self.state {
                WriterState::Open => self.cap.saturating_sub(self.length + HEADER_BYTES as u64),
                WriterState::Capped | WriterState::Broken => 0,
            };
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(piece.len());
            let kept = if self.write_frame(stream, &piece[..fits]) { fits } else { 0 };
            self.kept += kept as u64;
            self.dropped += (piece.len() - kept) as u64;
            if fits < piece.len() && self.state == WriterState::Open {
                self.state = WriterState::Capped;
                self.note(&format!(
                    "the log's cap of {} bytes is reached; what follows is counted, not kept",
                    self.cap
                ));
            }
        }
    }

    /// Appends a remark of noxd's own, also beyond the cap.
    pub fn note(&mut self, remark: &str) {
        let end = remark.floor_char_boundary(MAX_FRAME_BYTES);
        self.write_frame(LogStream::Note, &remark.as_bytes()[..end]);
    }

    /// Bytes of program output that this writer kept, headers and notes not counted.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Bytes of program output that were counted but not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the whole frame is in the file now.
    fn write_frame(&mut self, stream: LogStream, bytes: &[u8]) -> bool {
        if bytes.is_empty() || self.state == WriterState::Broken {
            return false;
        }
        let header = encode_header(stream, bytes.len(), micros_since_epoch());
        match write_both(&self.file, &header, bytes) {
            Ok(()) => {
                self.length += (HEADER_BYTES + bytes.len()) as u64;
                true
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the attempt's log cannot be written; its output is no longer kept");
                // Readers would take the torn frame for the end anyway; cutting it off keeps the file clean.
                if let Err(error) = self.file.set_len(self.length) {
                    tracing::warn!(path = %self.path.display(), %error, "the torn end of the attempt's log stays");
                }
                self.state = WriterState::Broken;
                false
            }
        }
    }
}

/// Reads the frames of one log. Keep it to follow a growing log: what it has walked once it does not walk again.
///
/// A frame carries no magic number, so the only proof that an offset is a boundary is to walk the headers from
/// one that is known; the reader remembers the last such boundary.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    path: PathBuf,
    /// A proved boundary, and where `file` stands.
    boundary: u64,
}

impl LogReader {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// [`LogError::Unreadable`] if it cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(io::Error::from)
            .map(File::from)
            .and_then(|file| require_regular(&file).map(|()| Self::over(file, path)))
            .map_err(|source| LogError::Unreadable { path: path.to_path_buf(), source })
    }

    /// The frames from `from_offset` on: as many whole ones as fit in `max_bytes` of payload, but at least one
    /// if there is one, so that a small `max_bytes` still gets on. None at the end of the log; a last frame that
    /// is not whole (a crash, or a writer at work) counts as the end.
    ///
    /// # Errors
    /// Each [`LogError`], naming the file and the offset.
    pub fn read_frames(&mut self, from_offset: u64, max_bytes: usize) -> Result<Vec<Frame>, LogError> {
        self.walk_to(from_offset)?;
        let mut frames = Vec::new();
        let mut total = 0;
        while let Some(header) = self.header()? {
            if !frames.is_empty() && header.length > max_bytes.saturating_sub(total) {
                break;
            }
            let Some(bytes) = self.payload(header.length)? else { break };
            let (offset, next_offset) = (self.boundary, self.boundary + (HEADER_BYTES + header.length) as u64);
            self.boundary = next_offset;
            total += header.length;
            frames.push(Frame { offset, next_offset, stream: header.stream, time_micros: header.time_micros, bytes });
        }
        // Whatever was read past the last boundary must be read again next time.
        self.seek(self.boundary)?;
        Ok(frames)
    }

    fn over(file: File, path: &Path) -> Self {
        Self { file: BufReader::new(file), path: path.to_path_buf(), boundary: 0 }
    }

    /// Where the last whole frame ends.
    fn end(&mut self) -> Result<u64, LogError> {
        match self.walk_to(u64::MAX) {
            Err(LogError::BeyondEnd { end, .. }) => Ok(end),
            Ok(()) => Ok(self.boundary),
            Err(error) => Err(error),
        }
    }

    /// Stands on `offset` afterwards, having proved that it is a boundary.
    fn walk_to(&mut self, offset: u64) -> Result<(), LogError> {
        let file_length = self.file.get_ref().metadata().map_err(|source| self.unreadable(source))?.len();
        // A log only grows while it lives, so a shorter file means that it was replaced under us.
        let start = if offset < self.boundary || file_length < self.boundary { 0 } else { self.boundary };
        self.seek(start)?;
        self.boundary = start;
        while self.boundary < offset {
            let whole = match self.header()? {
                Some(header) => Some(self.boundary + (HEADER_BYTES + header.length) as u64),
                None => None,
            };
            match whole.filter(|next| *next <= file_length) {
                None => {
                    let (path, end) = (self.path.clone(), self.boundary);
                    self.seek(end)?;
                    return Err(LogError::BeyondEnd { path, offset, end });
                }
                Some(next) if next > offset => {
                    self.seek(self.boundary)?;
                    return Err(LogError::NotABoundary { path: self.path.clone(), offset });
                }
                Some(next) => {
                    self.seek(next)?;
                    self.boundary = next;
                }
            }
        }
        Ok(())
    }

    /// The header at the boundary, or `None` where the file ends before it is whole.
    fn header(&mut self) -> Result<Option<Header>, LogError> {
        let mut raw = [0; HEADER_BYTES];
        if !self.read_whole(&mut raw)? {
            return Ok(None);
        }
        match decode_header(raw) {
            Some(header) => Ok(Some(header)),
            None => Err(LogError::Corrupt { path: self.path.clone(), offset: self.boundary }),
        }
    }

    fn payload(&mut self, length: usize) -> Result<Option<Vec<u8>>, LogError> {
        let mut bytes = vec![0; length];
        Ok(self.read_whole(&mut bytes)?.then_some(bytes))
    }

    /// False where the file ends first.
    fn read_whole(&mut self, into: &mut [u8]) -> Result<bool, LogError> {
        match self.file.read_exact(into) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(self.unreadable(source)),
        }
    }

    /// Goes to `position`, keeping what is buffered when it is near.
    fn seek(&mut self, position: u64) -> Result<(), LogError> {
        let here = self.file.stream_position().map_err(|source| self.unreadable(source))?;
        let ahead = position.checked_sub(here).filter(|ahead| *ahead <= self.file.buffer().len() as u64);
        match ahead.and_then(|ahead| usize::try_from(ahead).ok()) {
            Some(ahead) => {
                self.file.consume(ahead);
                Ok(())
            }
            None => match self.file.seek(SeekFrom::Start(position)) {
                Ok(_) => Ok(()),
                Err(source) => Err(self.unreadable(source)),
            },
        }
    }

    fn unreadable(&self, source: io::Error) -> LogError {
        LogError::Unreadable { path: self.path.clone(), source }
    }
}

/// Reads once from the log at `path`: [`LogReader::open`], then [`LogReader::read_frames`]. To follow a log,
/// keep a [`LogReader`] instead.
///
/// # Errors
/// Each [`LogError`].
pub fn read_frames(path: &Path, from_offset: u64, max_bytes: usize) -> Result<Vec<Frame>, LogError> {
    LogReader::open(path)?.read_frames(from_offset, max_bytes)
}

struct Header {
    length: usize,
    stream: LogStream,
    time_micros: i64,
}

#[expect(clippy::cast_possible_truncation, reason = "a frame has at most MAX_FRAME_BYTES")]
fn encode_header(stream: LogStream, length: usize, time_micros: i64) -> [u8; HEADER_BYTES] {
    debug_assert!((1..=MAX_FRAME_BYTES).contains(&length), "a frame carries 1 to {MAX_FRAME_BYTES} bytes");
    let mut raw = [0; HEADER_BYTES];
    raw[..4].copy_from_slice(&(length as u32).to_le_bytes());
    raw[4] = stream as u8;
    raw[5..].copy_from_slice(&time_micros.to_le_bytes());
    raw
}

fn decode_header(raw: [u8; HEADER_BYTES]) -> Option<Header> {
    let [l0, l1, l2, l3, tag, time @ ..] = raw;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    let stream = LogStream::from_tag(tag)?;
    (1..=MAX_FRAME_BYTES).contains(&length).then(|| Header { length, stream, time_micros: i64::from_le_bytes(time) })
}

/// One system call for header and bytes in the usual case.
fn write_both(mut file: &File, header: &[u8], bytes: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(header), IoSlice::new(bytes)];
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn require_regular(file: &File) -> io::Result<()> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    if FileType::from_raw_mode(mode) == FileType::RegularFile {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// A clock before 1970 or after the year 294,000 is clamped, not an error: the time is for people.
#[expect(clippy::disallowed_methods, reason = "the time of a frame is for people, nothing is decided by it")]
fn micros_since_epoch() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A log in a directory of its own, with the frames `(stream, bytes)` in it.
    fn log_with(frames: &[(LogStream, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("1.log");
        let mut writer = LogWriter::open(&path, DEFAULT_LOG_CAP).unwrap();
        for (stream, bytes) in frames {
            writer.append(*stream, bytes);
        }
        (room, path)
    }

    // S-VIEW-3
    #[test]
    fn frames_come_back_as_written_and_each_next_offset_leads_to_the_next() {
        let written: [(LogStream, &[u8]); 3] =
            [(LogStream::Stdout, b"one\n"), (LogStream::Stderr, b"\xff\x00\x1b[31m"), (LogStream::Stdout, b"three")];
        let before = micros_since_epoch();
        let (_room, path) = log_with(&written);
        let all = read_frames(&path, 0, usize::MAX).unwrap();
        assert_eq!(all.iter().map(|f| (f.stream, &f.bytes[..])).collect::<Vec<_>>(), written);
        assert!(all.iter().all(|f| (before..=micros_since_epoch()).contains(&f.time_micros)));

        let mut offset = 0;
        for frame in &all {
            let one = read_frames(&path, offset, 1).unwrap();
            assert_eq!(one, std::slice::from_ref(frame), "one frame even if it is too large");
            offset = frame.next_offset;
        }
        assert_eq!(offset, path.metadata().unwrap().len());
        assert_eq!(read_frames(&path, offset, 1).unwrap(), []);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    // S-VIEW-3
    #[test]
    fn a_reader_follows_a_log_that_grows() {
        let (_room, path) = log_with(&[(LogStream::Stdout, b"early")]);
        let mut reader = LogReader::open(&path).unwrap();
        let first = reader.read_frames(0, usize::MAX).unwrap().pop().unwrap();
        assert_eq!(reader.read_frames(first.next_offset, usize::MAX).unwrap(), []);

        LogWriter::open(&path, DEFAULT_LOG_CAP).unwrap().append(LogStream::Stdout, b"late");
        let second = reader.read_frames(first.next_offset, usize::MAX).unwrap();
        assert_eq!(second[0].bytes, b"late");
        assert_eq!(reader.read_frames(0, 5).unwrap(), [first], "and it can go back");
    }

    // S-VIEW-3
    #[test]
    fn an_offset_inside_a_frame_or_behind_the_end_is_refused_by_name() {
        let (_room, path) = log_with(&[(LogStream::Stdout, b"one"), (LogStream::Stdout, b"two")]);
        let end = path.metadata().unwrap().len();
        let inside: Vec<u64> = (1..end).filter(|offset| *offset != end / 2).collect();
        for offset in inside {
            let error = read_frames(&path, offset, 100).unwrap_err();
            assert!(matches!(error, LogError::NotABoundary { offset: o, .. } if o == offset), "{error}");
        }
        let error = read_frames(&path, end + 1, 100).unwrap_err().to_string();
        assert!(error.contains(&format!("offset {} is beyond", end + 1)) && error.contains("1.log"), "{error}");
        let missing = read_frames(&path.with_extension("gone"), 0, 1).unwrap_err();
        assert!(matches!(missing, LogError::Unreadable { .. }), "{missing}");
    }

    #[test]
    fn a_torn_last_frame_is_the_end_wherever_the_crash_cut_it_and_a_writer_removes_it() {
        let (_room, path) = log_with(&[(LogStream::Stdout, b"whole"), (LogStream::Stdout, b"torn")]);
        let whole = read_frames(&path, 0, 1).unwrap().pop().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for length in (whole.next_offset..path.metadata().unwrap().len()).rev() {
            file.set_len(length).unwrap();
            assert_eq!(read_frames(&path, 0, usize::MAX).unwrap(), std::slice::from_ref(&whole), "cut at {length}");
            assert_eq!(read_frames(&path, whole.next_offset, 9).unwrap(), []);
        }
        file.set_len(whole.next_offset + 3).unwrap();
        LogWriter::open(&path, DEFAULT_LOG_CAP).unwrap().append(LogStream::Stderr, b"after");
        let again = read_frames(&path, whole.next_offset, usize::MAX).unwrap();
        assert_eq!(again[0].bytes, b"after");
    }

    #[test]
    fn a_header_no_writer_makes_is_corruption_with_its_offset() {
        let (_room, path) = log_with(&[(LogStream::Stdout, b"good")]);
        let offset = path.metadata().unwrap().len();
        let too_long = [&(MAX_FRAME_BYTES as u32 + 1).to_le_bytes()[..], &[1], &[0; 8]].concat();
        let no_stream = [&4_u32.to_le_bytes()[..], &[9], &[0; 8], b"what"].concat();
        for bad in [too_long, no_stream] {
            let file = File::options().append(true).open(&path).unwrap();
            file.set_len(offset).unwrap();
            (&file).write_all(&bad).unwrap();
            let error = read_frames(&path, 0, usize::MAX).unwrap_err();
            assert!(matches!(error, LogError::Corrupt { offset: o, .. } if o == offset), "{error}");
            assert!(LogWriter::open(&path, 1).is_err(), "and nothing is appended behind it");
        }
    }

    // S-AGENT-4
    #[test]
    fn the_cap_bounds_the_file_is_marked_once_and_everything_is_counted() {
        let (_room, path) = log_with(&[]);
        let cap = 1_000;
        let mut writer = LogWriter::open(&path, cap).unwrap();
        for _ in 0..10 {
            writer.append(LogStream::Stdout, &[b'x'; 300]);
        }
        assert_eq!(writer.kept() + writer.dropped(), 3_000);
        let frames = read_frames(&path, 0, usize::MAX).unwrap();
        let notes: Vec<_> = frames.iter().filter(|f| f.stream == LogStream::Note).collect();
        assert_eq!(notes.len(), 1);
        assert!(String::from_utf8_lossy(&notes[0].bytes).contains("cap of 1000 bytes"));
        assert_eq!(notes[0].offset, cap, "filled to the brim, then the mark");
        let kept: usize = frames.iter().filter(|f| f.stream == LogStream::Stdout).map(|f| f.bytes.len()).sum();
        assert_eq!(kept as u64, writer.kept());
    }

    #[test]
    fn a_long_piece_is_cut_into_bounded_frames() {
        let long: Vec<u8> = (0..3 * MAX_FRAME_BYTES + 7).map(|i| i as u8).collect();
        let (_room, path) = log_with(&[(LogStream::Stdout, &long)]);
        let frames = read_frames(&path, 0, usize::MAX).unwrap();
        assert_eq!(frames.len(), 4);
        assert_eq!(frames.iter().flat_map(|f| f.bytes.clone()).collect::<Vec<_>>(), long);
    }

    #[test]
    fn a_symbolic_link_or_a_pipe_is_not_a_log() {
        let (room, path) = log_with(&[]);
        let link = room.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(LogWriter::open(&link, 10).is_err());
        assert!(matches!(LogReader::open(&link), Err(LogError::Unreadable { .. })));
        assert!(matches!(LogReader::open(room.path()), Err(LogError::Unreadable { .. })));
    }

    // S-AGENT-4
    #[test]
    fn a_full_disk_loses_bytes_but_counts_them_and_does_not_fail() {
        let (_room, path) = log_with(&[]);
        let mut writer = LogWriter::open(&path, DEFAULT_LOG_CAP).unwrap();
        writer.file = File::options().write(true).open("/dev/full").unwrap();
        writer.append(LogStream::Stdout, b"12345");
        writer.append(LogStream::Stdout, b"678");
        assert_eq!((writer.kept(), writer.dropped()), (0, 8));
    }
}
