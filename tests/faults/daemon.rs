//! A real noxd whose disk and system calls can be taken from it.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use noxd::{
    cli::connect,
    proto::v1::{
        self, execution_service_client::ExecutionServiceClient, system_service_client::SystemServiceClient,
        workflow_service_client::WorkflowServiceClient,
    },
};
use tonic::transport::Channel;

use crate::support::{DEADLINE, eventually, signal};

/// A noxd. Its data may lie elsewhere than its socket and log.
pub struct Daemon {
    own: tempfile::TempDir,
    data: PathBuf,
    tracer: Vec<OsString>,
    child: Option<Child>,
    /// A tracer that was started later.
    beside: Option<Child>,
    /// The process that runs, or ran last.
    last: u32,
}

impl Daemon {
    /// One with its data beside its socket, not started.
    pub fn new() -> Self {
        let own = tempfile::Builder::new().prefix("noxd-fault-").tempdir().expect("a directory");
        let data = own.path().join("data");
        Self { own, data, tracer: Vec::new(), child: None, beside: None, last: 0 }
    }

    /// One with its data at this place, not started.
    pub fn on(data: PathBuf) -> Self {
        let mut daemon = Self::new();
        daemon.data = data;
        daemon
    }

    /// From the next start on its calls are traced into the file `trace`, with these options.
    pub fn traced(&mut self, options: &[impl AsRef<str>]) {
        // -D: noxd is the child, and strace watches from beside.
        self.tracer = [vec!["strace".into(), "-D".into()], self.tracing(options)].concat();
    }

    /// From the next start on it is started by this program, such as `prlimit`, which becomes it.
    pub fn within(&mut self, words: &[&str]) {
        self.tracer = words.iter().map(OsString::from).collect();
    }

    fn tracing(&self, options: &[impl AsRef<str>]) -> Vec<OsString> {
        let mut words = ["-f", "-ttt", "--signal=none", "-o"].map(OsString::from).to_vec();
        words.push(self.path("trace").into());
        words.extend(options.iter().map(|option| option.as_ref().into()));
        words
    }

    /// Traces its calls from now on. The tracer ends with it.
    pub async fn attach(&mut self, options: &[impl AsRef<str>]) {
        let pid = self.pid();
        let mut strace = Command::new("strace");
        strace.args(self.tracing(options)).args(["-p", &pid.to_string()]);
        self.beside = Some(strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace starts"));
        eventually("every thread is traced", || async move {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let traced = |thread: std::io::Result<std::fs::DirEntry>| {
                let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
                status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")).then_some(())
            };
            threads.map(traced).collect::<Option<()>>()
        })
        .await;
    }

    /// From the next start on nobody traces it.
    pub fn untraced(&mut self) {
        self.tracer.clear();
    }

    /// Starts it and waits until it serves; its status if it ends instead.
    pub async fn start(&mut self) -> Result<(), ExitStatus> {
        let serve = ["serve", "--listen", "none", "--termination-grace", "0.1", "--drain-timeout", "1"];
        let mut words = self.tracer.clone();
        words.push(env!("CARGO_BIN_EXE_noxd").into());
        words.extend(serve.map(OsString::from));
        words.extend(["--data-dir".into(), self.data.clone().into(), "--socket".into(), self.socket().into()]);
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("NOXD_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("it starts");
        self.last = child.id();
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        let mut interval = tokio::time::interval(Duration::from_millis(2));
        loop {
            interval.tick().await;
            // That the socket takes a connection says nothing yet: it is there before the store is open.
            if tokio::time::timeout(Duration::from_millis(200), self.answers()).await.is_ok_and(|answers| answers) {
                return Ok(());
            }
            if let Some(status) = self.running().try_wait().expect("it can be waited for") {
                self.child = None;
                return Err(status);
            }
            assert!(Instant::now() < deadline, "noxd neither serves nor ends\n{}", self.log());
        }
    }

    async fn answers(&self) -> bool {
        let Ok(channel) = connect::socket_channel(&self.socket()).await else { return false };
        SystemServiceClient::new(channel).get_server_info(v1::GetServerInfoRequest {}).await.is_ok()
    }

    fn running(&mut self) -> &mut Child {
        self.child.as_mut().expect("it runs")
    }

    /// Its process.
    pub fn pid(&mut self) -> u32 {
        self.running().id()
    }

    /// SIGKILL.
    pub fn kill_now(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        let status = child.wait().expect("it can be waited for");
        assert_eq!(status.signal(), Some(9), "it ended by itself before it was killed: {status}\n{}", self.log());
    }

    /// SIGTERM, and its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        signal(self.pid(), "TERM");
        self.ends_within(DEADLINE).await.expect("it stops when it is told to").code()
    }

    /// Its status if it ends by itself in that time.
    pub async fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let mut interval = tokio::time::interval(Duration::from_millis(5));
        while Instant::now() < deadline {
            interval.tick().await;
            if let Some(status) = self.running().try_wait().expect("it can be waited for") {
                self.child = None;
                return Some(status);
            }
        }
        None
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.running().try_wait().expect("it can be waited for").is_some()
    }

    /// Stops every thread of it where it stands.
    pub async fn freeze(&mut self) {
        let pid = self.pid();
        signal(pid, "STOP");
        eventually("all threads stand still", || async move {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let stands = |thread: std::io::Result<std::fs::DirEntry>| {
                let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
                stat.rsplit_once(") ")?.1.starts_with(['T', 't']).then_some(())
            };
            threads.map(stands).collect::<Option<()>>()
        })
        .await;
    }

    /// What was traced, once the tracer has written its last word.
    pub async fn trace(&self) -> String {
        let (path, main) = (self.path("trace"), format!("{} ", self.last));
        let whole = || async {
            let text = std::fs::read_to_string(&path).ok()?;
            // The end of the main thread is told last.
            text.lines().any(|line| line.starts_with(&main) && line.contains("+++")).then_some(text)
        };
        eventually("the trace is whole", whole).await
    }

    /// Beside its socket.
    pub fn path(&self, name: &str) -> PathBuf {
        self.own.path().join(name)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.path("sock")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    async fn channel(&self) -> Channel {
        connect::socket_channel(&self.socket()).await.expect("it answers")
    }

    /// Its workflows.
    pub async fn workflows(&self) -> WorkflowServiceClient<Channel> {
        connect::workflows(self.channel().await)
    }

    /// Its executions.
    pub async fn executions(&self) -> ExecutionServiceClient<Channel> {
        connect::executions(self.channel().await)
    }

    /// The newest durable revision.
    pub async fn revision(&self) -> u64 {
        let mut client = SystemServiceClient::new(self.channel().await);
        client.get_server_info(v1::GetServerInfoRequest {}).await.expect("told").into_inner().revision
    }

    /// Processes that tasks of it started and that are still there, with their command lines.
    pub fn survivors(&self) -> Vec<String> {
        let mark = self.data.to_string_lossy().into_owned();
        let of_it = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.ok()?.path();
            path.file_name()?.to_str()?.parse::<u32>().ok()?;
            let environment = String::from_utf8_lossy(&std::fs::read(path.join("environ")).ok()?).into_owned();
            let words = String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
            (environment.contains("NOX_STORE_ID=") && environment.contains(&mark)).then_some(words)
        };
        std::fs::read_dir("/proc").expect("processes").filter_map(of_it).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                crate::tell(&state(child.id()));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(mut tracer) = self.beside.take() {
            let _ = tracer.wait();
        }
        if std::thread::panicking() {
            crate::tell(&format!("--- what noxd said last ---\n{}", tail(&self.log(), 40)));
        }
    }
}

/// How a process is: whether it runs, sleeps or was stopped, and what it has open.
fn state(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let words = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or(name).to_owned();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    format!("--- noxd {pid}: {}, {}, {open} descriptors", words("State:"), words("Threads:"))
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
