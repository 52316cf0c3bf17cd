//! The doors: a Unix socket for this user, and TCP on loopback, with the limits of HTTP/2 set.
//!
//! The accept loops are noxd's own: they bound connections, also of one peer, back off when descriptors run out, and
//! close a connection that does not come to the point. What a connection may do after that is bounded by [`server`],
//! `frames` and `body`.

use std::{
    fs,
    future::Future as _,
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::Sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use tower::util::MapRequestLayer;

use super::{
    Api,
    body::LargeBodies,
    frames::{Farewell, FrameMeter},
    places::{Place, Places},
};

/// Connections at once, over both doors; at most half of the descriptors that noxd may have, since tasks need some.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a new connection may say nothing.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// How long it may take from there until both sides have told each other their settings.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the accept loop rests when the system has no descriptor left.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);
/// How long calls and connections have to end at shutdown. Streams and waits have ended by themselves before.
const DRAIN: Duration = Duration::from_secs(3);

/// A door that is open.
pub enum Door {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener, SocketFile),
}

/// The name of a socket, removed with it.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it first saved us the work.
        let _ = fs::remove_file(&self.0);
    }
}

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// An address that is not loopback.
    #[error(
        "{0} can be reached from other machines, but this build has neither TLS nor authentication; \
         listen on 127.0.0.1, or say --insecure if everybody who can reach it may run programs as you"
    )]
    NotLoopback(SocketAddr),
    /// TCP.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another noxd has the socket.
    #[error("another process listens on the socket {}; stop it, or give another --socket", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} exists and is no socket; remove it, or give another --socket", .0.display())]
    NotASocket(PathBuf),
    /// Somebody else could exchange the socket.
    #[error("the directory {} belongs to another user; give another --socket", .0.display())]
    ForeignDirectory(PathBuf),
    /// The socket.
    #[error("cannot make the socket {}: {source}", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens a TCP door. Anything but loopback needs to be asked for aloud.
///
/// # Errors
/// Where the address is not loopback, or taken.
pub async fn tcp(address: SocketAddr, insecure: bool) -> Result<Door, DoorError> {
    if !address.ip().is_loopback() && !insecure {
        return Err(DoorError::NotLoopback(address));
    }
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "--insecure: everybody who can reach this address may run programs as this user");
    }
    TcpListener::bind(address).await.map(Door::Tcp).map_err(|source| DoorError::Tcp { address, source })
}

/// Opens a Unix socket that only this user can use. A socket that a dead noxd left behind is replaced.
///
/// # Errors
/// Where it is taken, or its directory is not this user's.
pub async fn unix(path: &Path) -> Result<Door, DoorError> {
    let failed = |source| DoorError::Unix { path: path.to_path_buf(), source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        own_directory(directory)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(DoorError::NotASocket(path.to_path_buf())),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(DoorError::Taken(path.to_path_buf())),
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    // The socket is made with the mode it keeps: there is no moment in which others could connect.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(failed)?;
    Ok(Door::Unix(listener, SocketFile(path.to_path_buf())))
}

fn own_directory(directory: &Path) -> Result<(), DoorError> {
    let failed = |source| DoorError::Unix { path: directory.to_path_buf(), source };
    if !directory.exists() {
        fs::create_dir_all(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let found = fs::metadata(directory).map_err(failed)?;
    let owner = found.uid();
    let sticky = found.mode() & 0o1000 != 0;
    if owner != rustix::process::geteuid().as_raw() && owner != 0 || (found.mode() & 0o002 != 0 && !sticky) {
        return Err(DoorError::ForeignDirectory(directory.to_path_buf()));
    }
    Ok(())
}

impl Door {
    /// Where it is, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "tcp".into(), |address| address.to_string()),
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }
}

/// Why serving ended in an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The services could not be put together.
    #[error("reflection cannot read its own descriptors")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the transport failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves at all doors until `stop`, then lets calls end, for a bounded time.
///
/// # Errors
/// Where the services cannot be put together, or the transport fails.
pub async fn serve(api: Api, doors: Vec<Door>, stop: CancellationToken) -> Result<(), ServeError> {
    let services = super::services(&api).await?;
    let (connections, incoming) = mpsc::channel::<io::Result<Connection>>(16);
    let places = Arc::new(Places::new(most_connections()));
    for door in doors {
        api.streams.spawn(accept(door, connections.clone(), Arc::clone(&places), stop.clone()));
    }
    drop(connections);
    let bodies = LargeBodies::new();
    let ended = server()
        .layer(MapRequestLayer::new(move |request| bodies.bounded(request)))
        .serve_with_incoming_shutdown(services, ReceiverStream::new(incoming), stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    let outcome = tokio::select! {
        outcome = ended => outcome,
        () = drained => Ok(()),
    };
    Ok(outcome?)
}

/// The limits of HTTP/2: set, not defaulted.
fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(Some(128))
        .http2_max_local_error_reset_streams(Some(256))
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_header_list_size(Some(16 * 1_024))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        // What a peer can have us keep unread: enough for 5 MB/s over 50 ms, and for all that a machine itself can do.
        .initial_stream_window_size(Some(256 * 1_024))
        .initial_connection_window_size(Some(512 * 1_024))
        .tcp_nodelay(true)
}

/// How many connections there may be with the descriptors that noxd may have.
fn most_connections() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = descriptors.map_or(MAX_CONNECTIONS, |most| usize::try_from(most / 2).unwrap_or(MAX_CONNECTIONS));
    half.clamp(1, MAX_CONNECTIONS)
}

/// Takes connections. One for which there is no place is closed at once: its client learns it now, and not at a deadline.
#[expect(clippy::disallowed_methods, reason = "ends by itself after FIRST_BYTE, and with `stop`")]
async fn accept(
    door: Door,
    connections: mpsc::Sender<io::Result<Connection>>,
    places: Arc<Places>,
    stop: CancellationToken,
) {
    let mut was_full = false;
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(EXHAUSTED_REST).await;
                continue;
            }
        };
        let peer = stream.peer();
        let Some(place) = Places::take(&places, &peer) else {
            // Once, not for each of a flood.
            if !was_full {
                tracing::warn!(?peer, "too many connections: further ones are closed");
            }
            was_full = true;
            continue;
        };
        was_full = false;
        let (connections, stop) = (connections.clone(), stop.clone());
        tokio::spawn(async move {
            let speaks = async {
                tokio::time::sleep(place.rest()).await;
                tokio::time::timeout(FIRST_BYTE, stream.spoke()).await
            };
            tokio::select! {
                spoke = speaks => {
                    if matches!(spoke, Ok(Ok(()))) {
                        // A server that stops takes no more.
                        let _ = connections.send(Ok(Connection::new(stream, peer, place))).await;
                    }
                }
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Door {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without it small answers wait for the peer's acknowledgement.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?.uid();
                let own = rustix::process::geteuid().as_raw();
                if peer != own && peer != 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        format!("user {peer} is not user {own}"),
                    ));
                }
                Ok(Stream::Unix(stream))
            }
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn peer(&self) -> Peer {
        match self {
            Self::Tcp(stream) => Peer::Tcp(stream.peer_addr().ok()),
            Self::Unix(stream) => Peer::Unix(stream.peer_cred().ok().map(|peer| peer.uid())),
        }
    }

    /// Waits until the peer has said something.
    async fn spoke(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.ready(Interest::READABLE).await,
            Self::Unix(stream) => stream.ready(Interest::READABLE).await,
        }
        .map(|_| ())
    }
}

/// A connection that holds its place, and whose frames are counted.
struct Connection {
    stream: Stream,
    peer: Peer,
    meter: FrameMeter,
    began: Instant,
    /// Until both sides have told each other their settings.
    handshake: Option<Pin<Box<Sleep>>>,
    farewell: Farewell,
    place: Place,
}

impl Connection {
    #[expect(clippy::disallowed_methods, reason = "a rate of frames, nothing that outlives the connection")]
    fn new(stream: Stream, peer: Peer, place: Place) -> Self {
        let handshake = Some(Box::pin(tokio::time::sleep(HANDSHAKE)));
        Self {
            stream,
            peer,
            meter: FrameMeter::new(),
            began: Instant::now(),
            handshake,
            farewell: Farewell::default(),
            place,
        }
    }

    /// Counts what has come. An error ends the connection.
    fn check(&mut self, came: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        if let Err(flood) = self.meter.take(came, self.began.elapsed()) {
            tracing::warn!(peer = ?self.peer, %flood, "a connection was closed");
            self.place.was_abused();
            return Err(io::Error::other(flood));
        }
        let Some(handshake) = &mut self.handshake else { return Ok(()) };
        if self.meter.is_open() {
            self.handshake = None;
        } else if handshake.as_mut().poll(cx).is_ready() {
            tracing::debug!(peer = ?self.peer, "a connection was closed: its handshake took too long");
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// Who is at the other end; in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// An address.
    Tcp(Option<SocketAddr>),
    /// A user.
    Unix(Option<u32>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        self.check(&buf.filled()[before..], cx)?;
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        if let Poll::Ready(Ok(length)) = written
            && self.farewell.is_said_in(&buf[..length])
        {
            tracing::warn!(peer = ?self.peer, "a connection was closed: it broke the rules of HTTP/2, or asked for too much");
            self.place.was_abused();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
