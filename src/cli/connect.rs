//! Where the daemon is and how to reach it: a Unix socket first, then TCP.
//!
//! Read [`Address`] first. Nothing here starts a daemon, and no call is made: a channel is all it gives.

use std::{
    ffi::OsStr,
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::status::CliError;
use crate::proto::v1::{
    agent_service_client::AgentServiceClient, execution_service_client::ExecutionServiceClient,
    schedule_service_client::ScheduleServiceClient, template_service_client::TemplateServiceClient,
    workflow_service_client::WorkflowServiceClient,
};

/// Where a daemon may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket that was named.
    Socket(PathBuf),
    /// The Unix socket where a daemon of this user listens by default; it need not exist.
    DefaultSocket(PathBuf),
    /// `host:port` or `http://host:port`.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) | Self::DefaultSocket(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(server) => formatter.write_str(server),
        }
    }
}

/// What the command line and the environment say about the daemon's place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerChoice {
    /// `--server`: `host:port`, `http://host:port` or `unix:PATH`.
    pub server: Option<String>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
}

impl ServerChoice {
    /// What `NOXD_SERVER` and `NOXD_SOCKET` say. An empty variable says nothing.
    pub fn from_environment() -> Self {
        let server = std::env::var("NOXD_SERVER").ok().filter(|server| !server.is_empty());
        let socket = std::env::var_os("NOXD_SOCKET").filter(|socket| !socket.is_empty()).map(PathBuf::from);
        Self { server, socket }
    }

    fn addresses(self) -> Vec<Address> {
        let socket = self.socket.map(Address::Socket);
        let server = self.server.map(|server| match server.strip_prefix("unix:") {
            Some(path) => Address::Socket(PathBuf::from(path.strip_prefix("//").unwrap_or(path))),
            None => Address::Tcp(server),
        });
        socket.into_iter().chain(server).collect()
    }
}

/// The places to try, in order: what the flags say, else what the environment says, else the defaults.
pub fn addresses(flags: ServerChoice, environment: ServerChoice, default_socket: PathBuf) -> Vec<Address> {
    for choice in [flags, environment] {
        let named = choice.addresses();
        if !named.is_empty() {
            return named;
        }
    }
    vec![Address::DefaultSocket(default_socket), Address::Tcp(DEFAULT_SERVER.to_owned())]
}

/// Where a daemon of user `uid` listens unless told otherwise: `$XDG_RUNTIME_DIR/noxd/noxd.sock`, for root
/// `/run/noxd/noxd.sock`, for others `/tmp/noxd-<uid>/noxd.sock`. The daemon calls this too, so both always agree.
pub fn default_socket(xdg_runtime_dir: Option<&OsStr>, uid: u32) -> PathBuf {
    // The base directory specification: a relative path is invalid and is ignored.
    let runtime_dir = xdg_runtime_dir.map(Path::new).filter(|dir| dir.is_absolute());
    let dir = match runtime_dir {
        Some(dir) => dir.join("noxd"),
        None if uid == 0 => PathBuf::from("/run/noxd"),
        None => PathBuf::from(format!("/tmp/noxd-{uid}")),
    };
    dir.join("noxd.sock")
}

/// [`default_socket`] for the user and the environment of this process.
pub fn default_socket_here() -> PathBuf {
    default_socket(std::env::var_os("XDG_RUNTIME_DIR").as_deref(), rustix::process::getuid().as_raw())
}

/// A channel to the first place that answers; [`CliError::Unreachable`] names every place that was tried.
pub async fn connect(addresses: &[Address]) -> Result<Channel, CliError> {
    let mut tried = Vec::new();
    for address in addresses {
        match connect_to(address).await {
            Ok(channel) => return Ok(channel),
            Err(reason) => tried.push(format!("{address} ({reason})")),
        }
    }
    Err(CliError::Unreachable(format!(
        "no noxd answers at {}; start one with `noxd serve`, or name its place with --socket or --server",
        tried.join(" or at ")
    )))
}

async fn connect_to(address: &Address) -> Result<Channel, String> {
    let connected = match address {
        Address::Socket(path) => socket_channel(path).await,
        Address::DefaultSocket(path) => {
            trusted(path, rustix::process::getuid().as_raw())?;
            socket_channel(path).await
        }
        Address::Tcp(server) => {
            let origin = if server.contains("://") { server.clone() } else { format!("http://{server}") };
            if origin.starts_with("https://") {
                return Err("noxd itself speaks no TLS: name the proxy's plain side, or a socket".to_owned());
            }
            let endpoint = Endpoint::from_shared(origin).map_err(|_| "that is no address".to_owned())?;
            configured(endpoint).connect().await
        }
    };
    connected.map_err(|error| innermost(&error))
}

/// A channel over the Unix socket at `path`, connected.
pub async fn socket_channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // gRPC wants an authority even where there is no host.
    configured(Endpoint::from_static("http://localhost")).connect_with_connector(connector).await
}

/// The workflow service behind a channel, ready for definitions of any size that the server sends.
pub fn workflows(channel: Channel) -> WorkflowServiceClient<Channel> {
    WorkflowServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// The execution service behind a channel.
pub fn executions(channel: Channel) -> ExecutionServiceClient<Channel> {
    ExecutionServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// The agent service behind a channel.
pub fn agents(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel)
}

/// The template service behind a channel, ready for templates of any size that the server sends.
pub fn templates(channel: Channel) -> TemplateServiceClient<Channel> {
    TemplateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// The schedule service behind a channel.
pub fn schedules(channel: Channel) -> ScheduleServiceClient<Channel> {
    ScheduleServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Keep-alives end a watch whose peer went away without a word, so that it can be resumed.
fn configured(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .user_agent(concat!("noxctl/", env!("CARGO_PKG_VERSION")))
        .expect("a name and a version are a valid header value")
}

/// The default socket is only believed when its directory is this user's or root's: in `/tmp` anybody could have made
/// it first, to be handed workflows, or to answer in the daemon's name.
fn trusted(socket: &Path, uid: u32) -> Result<(), String> {
    let dir = socket.parent().unwrap_or(socket);
    let owner = std::fs::metadata(dir).map_err(|error| plain(&error))?.uid();
    if owner == uid || owner == 0 { Ok(()) } else { Err(format!("{} belongs to user {owner}", dir.display())) }
}

/// The error at the bottom of the chain: "connection refused" rather than "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => plain(error),
        None => cause.to_string(),
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        kind => kind.to_string(),
    }
}

/// Where a daemon with a TCP listener is, unless it was told otherwise.
pub const DEFAULT_SERVER: &str = "127.0.0.1:4690";
// A definition of 100,000 tasks takes some 20 MiB; an answer beyond this is a fault.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket_follows_the_user() {
        let socket = |dir: Option<&str>, uid| default_socket(dir.map(OsStr::new), uid);
        assert_eq!(socket(Some("/run/user/1000"), 1000), Path::new("/run/user/1000/noxd/noxd.sock"));
        assert_eq!(socket(None, 0), Path::new("/run/noxd/noxd.sock"));
        assert_eq!(socket(None, 1000), Path::new("/tmp/noxd-1000/noxd.sock"));
        assert_eq!(socket(Some(""), 1000), Path::new("/tmp/noxd-1000/noxd.sock"));
        assert_eq!(socket(Some("run"), 0), Path::new("/run/noxd/noxd.sock"));
    }

    #[test]
    fn flags_win_over_the_environment_and_both_over_the_defaults() {
        let nothing = ServerChoice::default;
        let server = |name: &str| ServerChoice { server: Some(name.into()), socket: None };
        let default = PathBuf::from("/d");
        let tcp = |name: &str| Address::Tcp(name.into());
        assert_eq!(
            addresses(nothing(), nothing(), default.clone()),
            [Address::DefaultSocket("/d".into()), tcp("127.0.0.1:4690")]
        );
        assert_eq!(addresses(nothing(), server("a:1"), default.clone()), [tcp("a:1")]);
        assert_eq!(addresses(server("b:2"), server("a:1"), default.clone()), [tcp("b:2")]);
        let both = ServerChoice { server: Some("b:2".into()), socket: Some("/s".into()) };
        assert_eq!(addresses(both, nothing(), default.clone()), [Address::Socket("/s".into()), tcp("b:2")]);
        assert_eq!(addresses(server("unix:///run/x"), nothing(), default), [Address::Socket("/run/x".into())]);
    }

    #[tokio::test]
    async fn an_unreachable_daemon_is_one_sentence_that_says_where_it_was_sought() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("noxd.sock");
        let places = [Address::DefaultSocket(socket.clone()), Address::Tcp("127.0.0.1:1".into())];
        let error = connect(&places).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "no noxd answers at unix:{} (no such file) or at 127.0.0.1:1 (connection refused); \
                 start one with `noxd serve`, or name its place with --socket or --server",
                socket.display()
            )
        );
        assert_eq!(error.exit_code(), 4);
    }
}
