//! A gRPC client that costs little: HTTP/2 frames without channels, middleware or code for what is not asked.
//!
//! The driver shares its two cores with noxd, so what it costs is taken from what it measures. It speaks ordinary gRPC,
//! and reads of an answer only what it checks; it does not retry, reconnect or balance.

use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Uri, header};
use prost::Message;
use tokio::net::UnixStream;

/// One HTTP/2 connection; copies share it.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Bytes>,
    headers: HeaderMap,
}

/// A method: where it is.
#[derive(Clone)]
pub struct Call(Uri);

impl Call {
    /// A method of a service of `nox.v1`.
    pub fn new(service: &str, method: &str) -> Self {
        Self(format!("http://localhost/nox.v1.{service}/{method}").parse().expect("a path"))
    }
}

/// A message with its frame, ready to be sent any number of times.
pub fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).expect("a message is small"));
    message.encode(&mut frame).expect("there is room");
    frame.freeze()
}

impl Connection {
    /// Connects to a Unix socket.
    pub async fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.expect("noxd listens");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1_024 * 1_024).initial_connection_window_size(4 * 1_024 * 1_024);
        let (send, connection) = builder.handshake(stream).await.expect("it speaks HTTP/2");
        tokio::spawn(async move {
            // noxd is killed at the end of a run.
            let _ = connection.await;
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/grpc".parse().expect("a value"));
        headers.insert(header::TE, "trailers".parse().expect("a value"));
        Self { send, headers }
    }

    /// Sends a framed message and reads the one answer.
    pub async fn call<A: Message + Default>(&self, call: &Call, framed: Bytes) -> A {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = call.0.clone();
        *request.headers_mut() = self.headers.clone();
        let mut send = self.send.clone().ready().await.expect("the connection lives");
        let (response, mut stream) = send.send_request(request, false).expect("a stream");
        stream.send_data(framed, true).expect("sent");
        let mut body = response.await.expect("an answer").into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.expect("more of it");
            body.flow_control().release_capacity(data.len()).expect("a window");
            answer.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.expect("trailers");
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        assert_eq!(status.map(http::HeaderValue::as_bytes), Some(&b"0"[..]), "{trailers:?}");
        A::decode(answer.split_off(5)).expect("the answer is a message")
    }
}
