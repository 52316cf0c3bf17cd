//! What a peer sends, counted as it comes: the head of each HTTP/2 frame, and no more.
//!
//! Two limits that the transport has not. The handshake has to be over in time: without it a peer that says half a
//! preface keeps its connection for ever. And frames that ask for work but are no request (PING, SETTINGS,
//! WINDOW_UPDATE, RST_STREAM, PRIORITY, CONTINUATION, empty DATA) have a rate: each is answered or looked at, so that a
//! flood of them takes a processor from everybody else. A client that does 5,000 calls a second sends a few thousand.
//!
//! Everything else (streams at once, resets, header sizes, small DATA frames) is bounded by the transport: see
//! `listen::server`. Read first: [`FrameMeter`].

use std::time::Duration;

/// How many such frames a peer may send at once, and again each second.
const FRAMES_PER_SECOND: u64 = 10_000;
/// What every client says first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// Of a frame: three bytes length, one type, one flags, four stream (RFC 9113, 4.1).
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// Of its payload: the last stream, and why.
const GOAWAY_BYTES: usize = 8;
/// Of SETTINGS: they answer ours. Of DATA: the last of its stream.
const ACK_OR_END: u8 = 1;

/// What has come over one connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// Bytes that belong to what is known already: the preface, then payloads.
    skip: usize,
    head: [u8; HEAD_BYTES],
    in_head: usize,
    has_settings: bool,
    has_acknowledged: bool,
    left: u64,
    /// When `left` was last filled up, since the connection began.
    filled_at: Duration,
}

/// The peer sends more than it may.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {FRAMES_PER_SECOND} frames a second that are no requests")]
pub(super) struct Flood;

impl FrameMeter {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            in_head: 0,
            has_settings: false,
            has_acknowledged: false,
            left: FRAMES_PER_SECOND,
            filled_at: Duration::ZERO,
        }
    }

    /// Whether both sides have told each other their settings.
    pub(super) fn is_open(&self) -> bool {
        self.has_settings && self.has_acknowledged
    }

    /// Takes what came, that long after the connection began.
    ///
    /// # Errors
    /// It was too much.
    pub(super) fn take(&mut self, mut bytes: &[u8], at: Duration) -> Result<(), Flood> {
        let since = at.saturating_sub(self.filled_at).as_millis();
        let more = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(FRAMES_PER_SECOND / 1_000);
        if more > 0 {
            self.filled_at = at;
            self.left = self.left.saturating_add(more).min(FRAMES_PER_SECOND);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(HEAD_BYTES - self.in_head);
            self.head[self.in_head..self.in_head + taken].copy_from_slice(&bytes[..taken]);
            self.in_head += taken;
            bytes = &bytes[taken..];
            if self.in_head == HEAD_BYTES {
                self.in_head = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_first = flags & ACK_OR_END == 0;
        self.has_settings |= kind == SETTINGS && is_first;
        self.has_acknowledged |= kind == SETTINGS && !is_first;
        let is_request = kind == HEADERS || kind == DATA && (self.skip > 0 || !is_first);
        if !is_request {
            self.left = self.left.checked_sub(1).ok_or(Flood)?;
        }
        Ok(())
    }
}

/// What the transport says last to a peer that it closes for what it did: GOAWAY with an error (RFC 9113, 6.8).
#[derive(Debug, Default)]
pub(super) struct Farewell {
    /// Bytes of payloads that are no farewell.
    skip: usize,
    head: [u8; HEAD_BYTES + GOAWAY_BYTES],
    in_head: usize,
}

impl Farewell {
    /// Whether it is in what was written.
    pub(super) fn is_said_in(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.in_head >= HEAD_BYTES { self.head.len() } else { HEAD_BYTES };
            let taken = bytes.len().min(wanted - self.in_head);
            self.head[self.in_head..self.in_head + taken].copy_from_slice(&bytes[..taken]);
            self.in_head += taken;
            bytes = &bytes[taken..];
            let [high, middle, low, kind, ..] = self.head;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if self.in_head == HEAD_BYTES && (kind != GOAWAY || length < GOAWAY_BYTES) {
                (self.in_head, self.skip) = (0, length);
            } else if self.in_head == self.head.len() {
                (self.in_head, self.skip) = (0, length - GOAWAY_BYTES);
                // The last stream, then why: 0 is without a fault.
                if self.head[HEAD_BYTES + 4..] != [0; 4] {
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_for_a_fault_is_heard_however_it_is_cut_and_one_without_is_not() {
        let farewell = |why| [&[0, 0, 9, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, why, b'x'][..], &PING].concat();
        for piece in 1..40 {
            let hears = |said: &[u8]| {
                let mut heard = Farewell::default();
                said.chunks(piece).any(|part| heard.is_said_in(part))
            };
            assert!(hears(&[&PING[..], &SETTINGS_ACK, &farewell(11)].concat()), "in pieces of {piece}");
            assert!(!hears(&[&PING[..], &SETTINGS_ACK, &farewell(0)].concat()), "in pieces of {piece}");
        }
    }

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const SETTINGS_FRAME: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

    #[test]
    fn a_connection_is_open_when_both_have_told_their_settings_however_it_is_cut() {
        let said = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &SETTINGS_FRAME, &SETTINGS_ACK].concat();
        for piece in 1..said.len() {
            let mut meter = FrameMeter::new();
            for part in said[..said.len() - 1].chunks(piece) {
                assert_eq!(meter.take(part, Duration::ZERO), Ok(()));
            }
            assert!(!meter.is_open(), "in pieces of {piece}");
            assert_eq!(meter.take(&said[said.len() - 1..], Duration::ZERO), Ok(()));
            assert!(meter.is_open(), "in pieces of {piece}");
        }
    }

    #[test]
    fn pings_have_a_rate_and_requests_have_none() {
        let mut meter = FrameMeter::new();
        let preface = [0; PREFACE_BYTES];
        assert_eq!(meter.take(&preface, Duration::ZERO), Ok(()));
        for _ in 0..FRAMES_PER_SECOND {
            assert_eq!(meter.take(&PING, Duration::ZERO), Ok(()));
        }
        let request = [0, 0, 1, HEADERS, 4, 0, 0, 0, 1, 0x82, 0, 0, 1, DATA, 0, 0, 0, 0, 1, 7];
        assert_eq!(meter.take(&request, Duration::ZERO), Ok(()));
        assert_eq!(meter.take(&PING, Duration::from_millis(1)), Ok(()), "again after a while");
        assert_eq!(meter.take(&PING.repeat(10), Duration::from_millis(1)), Err(Flood));
    }

    #[test]
    fn data_without_an_end_and_without_a_byte_is_no_request() {
        let mut meter = FrameMeter::new();
        assert_eq!(meter.take(&[0; PREFACE_BYTES], Duration::ZERO), Ok(()));
        let empty = [0, 0, 0, DATA, 0, 0, 0, 0, 1].repeat(10_001);
        assert_eq!(meter.take(&empty, Duration::ZERO), Err(Flood));
        let mut meter = FrameMeter::new();
        assert_eq!(meter.take(&[0; PREFACE_BYTES], Duration::ZERO), Ok(()));
        assert_eq!(meter.take(&[0, 0, 0, DATA, 1, 0, 0, 0, 1].repeat(10_001), Duration::ZERO), Ok(()));
    }
}
