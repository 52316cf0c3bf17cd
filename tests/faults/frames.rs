//! HTTP/2 by hand, for peers that do what no library would (RFC 9113).

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call, without compression (RFC 7541, 6.2.2).
pub fn call_headers(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    // POST, http; then literals: :path is name 4 of the static table, :authority 1, content-type 31.
    [
        vec![0x83, 0x86, 0x04],
        text(path),
        vec![0x01],
        text("noxd"),
        vec![0x0f, 0x10],
        text("application/grpc"),
        vec![0x00],
        text("te"),
        text("trailers"),
    ]
    .concat()
}

/// A peer with a connection.
pub struct Peer(UnixStream);

impl Peer {
    /// One that has only connected.
    pub async fn silent(socket: &Path) -> Self {
        Self(UnixStream::connect(socket).await.expect("it takes connections"))
    }

    /// One that has said what every client says first.
    pub async fn polite(socket: &Path) -> Self {
        let mut peer = Self::silent(socket).await;
        // Its own settings, and that it has seen the server's.
        peer.say(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, 1, 0, &[])].concat()).await;
        peer
    }

    /// Says something. False if nobody listens any more, or for three seconds: one may have to rest for one.
    pub async fn say(&mut self, bytes: &[u8]) -> bool {
        tokio::time::timeout(Duration::from_secs(3), self.0.write_all(bytes)).await.is_ok_and(|said| said.is_ok())
    }

    /// Says the same again and again, until the connection is closed or nobody reads.
    pub async fn flood(&mut self, times: usize, mut bytes: impl FnMut(u32) -> Vec<u8>) {
        const AT_ONCE: u32 = 64;
        for round in (0..u32::try_from(times).expect("few")).step_by(AT_ONCE as usize) {
            let some: Vec<u8> = (round..round + AT_ONCE).flat_map(&mut bytes).collect();
            if !self.say(&some).await {
                return;
            }
            // What is answered is read, or the flood would end by itself.
            let mut answers = vec![0; 65_536];
            while self.0.try_read(&mut answers).is_ok_and(|length| length > 0) {}
        }
    }

    /// Whether these bytes come before the connection is closed.
    pub async fn hears(&mut self, wanted: Vec<u8>) -> bool {
        let hear = async {
            let (mut heard, mut answers) = (Vec::new(), vec![0; 65_536]);
            while let Ok(length) = self.0.read(&mut answers).await
                && length > 0
            {
                heard.extend_from_slice(&answers[..length]);
                if heard.windows(wanted.len()).any(|window| window == wanted) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(PATIENCE, hear).await.unwrap_or(false)
    }

    /// Whether the other side closes the connection in that time.
    pub async fn is_closed_within(&mut self, limit: Duration) -> bool {
        let end = async {
            let mut answers = vec![0; 65_536];
            while self.0.read(&mut answers).await.is_ok_and(|length| length > 0) {}
        };
        tokio::time::timeout(limit, end).await.is_ok()
    }
}

/// The stream of a client's `at`th request.
pub fn stream(at: u32) -> u32 {
    2 * at + 1
}
