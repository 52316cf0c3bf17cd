//! A real noxd for tests: started on a directory of its own, called through its Unix socket, killed at will.
//!
//! Everything waits on a condition with a deadline; nothing sleeps for a fixed time and hopes.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use noxd::{
    cli::connect,
    proto::v1::{
        self, event::Kind, execution_service_client::ExecutionServiceClient,
        workflow_service_client::WorkflowServiceClient,
    },
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

/// How long anything may take before a test gives up: generous, since CI has two busy cores.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A noxd on a directory of its own.
pub struct Noxd {
    directory: tempfile::TempDir,
    child: Option<Child>,
    flags: Vec<String>,
}

impl Noxd {
    /// Starts one and waits until it serves.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with further flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("noxd-test-").tempdir().expect("a directory");
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut noxd = Self { directory, child: None, flags };
        noxd.start_again().await;
        noxd
    }

    /// Starts it again on the same directory.
    pub async fn start_again(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("noxd.log")).expect("a log");
        let child = self.command().stderr(log).stdout(Stdio::null()).spawn().expect("noxd starts");
        self.child = Some(child);
        let socket = self.socket();
        // It answers: for a moment, the last child of a killed noxd may hold the socket that is connected to.
        eventually("noxd serves", || async {
            let mut executions = connect::executions(connect::socket_channel(&socket).await.ok()?);
            executions.list_executions(v1::ListExecutionsRequest { page_size: 1, ..Default::default() }).await.ok()
        })
        .await;
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_noxd"));
        command.args(["serve", "--listen", "none", "--termination-grace", "1", "--drain-timeout", "1"]);
        command.arg("--data-dir").arg(self.path("data")).arg("--socket").arg(self.socket()).args(&self.flags);
        command.env("NOXD_LOG", "info");
        command
    }

    /// Below its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.path("noxd.sock")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("noxd.log")).unwrap_or_default()
    }

    /// SIGKILL: nothing in it gets to run any more.
    pub fn kill_now(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), "TERM");
        child.wait().expect("it can be waited for").code()
    }

    /// A channel to it.
    pub async fn channel(&self) -> Channel {
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

    /// Stores a workflow under this id.
    pub async fn create(&self, id: &str, tasks: Vec<v1::Task>) {
        let workflow = v1::Workflow { id: id.into(), tasks, ..v1::Workflow::default() };
        let request = v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() };
        self.workflows().await.create_workflow(request).await.expect("stored");
    }

    /// Starts an execution and gives its id.
    pub async fn execute(&self, workflow: &str) -> String {
        let request = v1::ExecuteWorkflowRequest { workflow_id: workflow.into(), ..Default::default() };
        let response = self.workflows().await.execute_workflow(request).await.expect("started").into_inner();
        response.execution.expect("an execution").id
    }

    /// An execution as it stands.
    pub async fn execution(&self, id: &str) -> v1::WorkflowExecution {
        let request = v1::GetExecutionRequest { execution_id: id.into(), wait: None };
        let response = self.executions().await.get_execution(request).await.expect("there").into_inner();
        response.execution.expect("an execution")
    }

    /// The execution when it has ended.
    pub async fn ended(&self, id: &str) -> v1::WorkflowExecution {
        let request =
            v1::WatchExecutionRequest { execution_id: id.into(), after_revision: Some(0), ..Default::default() };
        let mut stream = self.executions().await.watch_execution(request).await.expect("watched").into_inner();
        let ended = async {
            while let Some(message) = stream.next().await {
                let event = message.expect("no error").event;
                if event.and_then(|event| event.kind).is_some_and(|kind| is_end(&kind)) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.unwrap_or_else(|_| panic!("execution {id} did not end"));
        self.execution(id).await
    }

    /// Waits until a task of an execution has a status.
    pub async fn task_becomes(&self, execution: &str, task: &str, status: v1::TaskStatus) {
        let found = || async {
            let execution = self.execution(execution).await;
            execution.tasks.iter().any(|other| other.task_id == task && other.status() == status).then_some(())
        };
        eventually(&format!("task {task} becomes {status:?}"), found).await;
    }

    /// All events of an execution after a revision, to its end.
    pub async fn watch_to_end(&self, id: &str, after: u64) -> Vec<v1::Event> {
        let request =
            v1::WatchExecutionRequest { execution_id: id.into(), after_revision: Some(after), ..Default::default() };
        let stream = self.executions().await.watch_execution(request).await.expect("watched").into_inner();
        let all = stream.filter_map(|message| message.expect("no error").event).collect::<Vec<_>>();
        tokio::time::timeout(DEADLINE, all).await.expect("the stream ends after the last event")
    }

    /// Cancels an execution.
    pub async fn cancel(&self, workflow: &str, execution: &str) {
        let request = v1::CancelWorkflowRequest {
            workflow_id: workflow.into(),
            execution_id: execution.into(),
            ..Default::default()
        };
        self.workflows().await.cancel_workflow(request).await.expect("cancelled");
    }
}

impl Drop for Noxd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "TERM");
            child.wait().expect("it can be waited for");
        }
        if std::thread::panicking() {
            eprintln!("--- what noxd said ---\n{}", self.log());
        }
    }
}

/// Whether an event is the last of its execution.
pub fn is_end(kind: &Kind) -> bool {
    matches!(kind, Kind::ExecutionCompleted(_) | Kind::ExecutionFailed(_) | Kind::ExecutionCancelled(_))
}

/// A task that does nothing.
pub fn noop(id: &str, dependencies: &[&str]) -> v1::Task {
    v1::Task {
        id: id.into(),
        dependencies: dependencies.iter().map(ToString::to_string).collect(),
        action: Some(v1::task::Action::Noop(v1::NoopAction::default())),
        ..v1::Task::default()
    }
}

/// A task that runs a script of the shell.
pub fn shell(id: &str, script: &str, dependencies: &[&str]) -> v1::Task {
    let argv = ["sh", "-euc", script].map(Into::into).to_vec();
    v1::Task {
        action: Some(v1::task::Action::Command(v1::CommandAction { argv, ..Default::default() })),
        ..noop(id, dependencies)
    }
}

/// Waits for something to be there, looking again and again.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        let mut interval = tokio::time::interval(Duration::from_millis(5));
        loop {
            interval.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill runs");
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A number that a task wrote into a file.
pub async fn number_in(path: &Path) -> u32 {
    eventually(&format!("a number in {}", path.display()), || async {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    })
    .await
}
