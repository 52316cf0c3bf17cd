//! What a peer can do to an HTTP/2 server with frames that are each allowed, or nearly. Used by `abuse` and by
//! `cargo bench --bench abuse`.

use crate::frames::{
    CONTINUATION, DATA, HEADERS, PING, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, call_headers, frame, stream,
};

/// A call that costs noxd least.
pub const CALL: &str = "/nox.v1.SystemService/GetServerInfo";

/// What one connection does, over and over.
pub async fn abuse(name: &str, peer: &mut Peer) {
    let headers = call_headers(CALL);
    match name {
        "20,000 streams" => peer.flood(20_000, |at| frame(HEADERS, 4, stream(at), &headers)).await,
        "streams that are reset at once" => {
            let reset = |at| [frame(HEADERS, 5, stream(at), &headers), frame(RST_STREAM, 0, stream(at), &[0, 0, 0, 8])];
            peer.flood(20_000, |at| reset(at).concat()).await;
        }
        "streams that the server has to reset" => {
            // A window cannot grow by nothing.
            let reset = |at| [frame(HEADERS, 4, stream(at), &headers), frame(WINDOW_UPDATE, 0, stream(at), &[0; 4])];
            peer.flood(20_000, |at| reset(at).concat()).await;
        }
        "headers without an end" => {
            peer.say(&frame(HEADERS, 0, 1, &headers)).await;
            peer.flood(100_000, |_| frame(CONTINUATION, 0, 1, &[])).await;
        }
        "headers of 16 MiB" => {
            peer.say(&frame(HEADERS, 0, 1, &headers)).await;
            let large = [&[0x00, 1, b'x', 0x7f, 0x81, 0x7d], &[b'y'; 16_000][..]].concat();
            peer.flood(1_024, |_| frame(CONTINUATION, 0, 1, &large)).await;
        }
        "pings" => peer.flood(1_000_000, |_| frame(PING, 0, 0, &[7; 8])).await,
        "settings" => peer.flood(1_000_000, |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])).await,
        "data of one byte" => {
            // The message that it announces is never whole.
            peer.say(&[frame(HEADERS, 4, 1, &headers), frame(DATA, 0, 1, &[0, 0, 10, 0, 0])].concat()).await;
            peer.flood(300_000, |_| frame(DATA, 0, 1, b"x")).await;
        }
        "data of no byte" => {
            peer.say(&frame(HEADERS, 4, 1, &headers)).await;
            peer.flood(300_000, |_| frame(DATA, 0, 1, b"")).await;
        }
        other => panic!("nobody knows how to do {other}"),
    }
}

/// All that is known here.
pub const ABUSES: &[&str] = &[
    "20,000 streams",
    "streams that are reset at once",
    "streams that the server has to reset",
    "headers without an end",
    "headers of 16 MiB",
    "pings",
    "settings",
    "data of one byte",
    "data of no byte",
];
