//! Clients that ask for executions, and the book of what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use noxd::{
    cli::connect,
    proto::v1::{self, WorkflowStatus, workflow_service_client::WorkflowServiceClient},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use crate::{
    daemon::Daemon,
    support::{DEADLINE, eventually, noop},
};

/// The workflow that is executed.
pub const WORKFLOW: &str = "load";

/// What was asked for, and what is known to have come of it.
#[derive(Default)]
pub struct Book {
    /// Request id to execution: these have to be there.
    pub acknowledged: BTreeMap<String, String>,
    /// Request ids without an answer: these may be there, once.
    pub unknown: BTreeSet<String>,
    /// When each acknowledged one was asked for.
    pub asked: Vec<SystemTime>,
}

/// A book that clients write into.
pub type SharedBook = Arc<Mutex<Book>>;

/// Asks for one execution.
pub async fn execute(
    client: &mut WorkflowServiceClient<Channel>,
    workflow: &str,
    request_id: &str,
) -> Result<v1::WorkflowExecution, Status> {
    let request = v1::ExecuteWorkflowRequest {
        workflow_id: workflow.into(),
        request_id: request_id.into(),
        ..Default::default()
    };
    Ok(client.execute_workflow(request).await?.into_inner().execution.expect("an execution"))
}

/// Stores the workflow.
pub async fn create(daemon: &Daemon) -> Result<(), Status> {
    create_with(daemon, WORKFLOW, vec![noop("a", &[]), noop("b", &["a"])]).await
}

/// Stores a workflow.
pub async fn create_with(daemon: &Daemon, id: &str, tasks: Vec<v1::Task>) -> Result<(), Status> {
    let channel = connect::socket_channel(&daemon.socket()).await;
    create_with_channel(channel.map_err(|error| Status::unavailable(error.to_string()))?, id, tasks).await
}

/// Stores a workflow over a connection that is there.
pub async fn create_with_channel(channel: Channel, id: &str, tasks: Vec<v1::Task>) -> Result<(), Status> {
    let workflow = v1::Workflow { id: id.into(), tasks, ..v1::Workflow::default() };
    let request = v1::CreateWorkflowRequest { workflow: Some(workflow), request_id: id.into(), ..Default::default() };
    connect::workflows(channel).create_workflow(request).await.map(|_| ())
}

/// Clients at work.
pub struct Load {
    clients: JoinSet<()>,
    stop: CancellationToken,
    book: SharedBook,
}

impl Load {
    /// Starts some, each asking for one execution after the other, for what is unknown first.
    pub fn start(clients: u64, daemon: &Daemon, book: &SharedBook) -> Self {
        let (mut set, stop) = (JoinSet::new(), CancellationToken::new());
        for client in 0..clients {
            let (socket, book, end) = (daemon.socket(), Arc::clone(book), stop.clone());
            set.spawn(async move {
                end.run_until_cancelled(ask(client, socket, book)).await;
            });
        }
        Self { clients: set, stop, book: Arc::clone(book) }
    }

    /// Waits until so many more have been acknowledged, or `ended` says that there will be none.
    pub async fn acknowledged(&self, more: usize, mut ended: impl FnMut() -> bool) {
        let count = || self.book.lock().expect("no client panics").acknowledged.len();
        let goal = count() + more;
        let reached = || {
            let there = count() >= goal || ended();
            async move { there.then_some(()) }
        };
        eventually("the clients get answers", reached).await;
    }

    /// Ends them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client was told what it may not be told");
        }
    }
}

async fn ask(client: u64, socket: PathBuf, book: SharedBook) {
    let mut interval = tokio::time::interval(Duration::from_millis(2));
    let mine = format!("client-{client}-");
    let is_mine = |id: &str| id.starts_with(&mine);
    let mut done = book.lock().expect("no client panics").acknowledged.keys().filter(|id| is_mine(id)).count();
    loop {
        interval.tick().await;
        let Ok(channel) = connect::socket_channel(&socket).await else { continue };
        let mut workflows = connect::workflows(channel);
        loop {
            let request_id = {
                let mut book = book.lock().expect("no client panics");
                let open = book.unknown.iter().find(|id| is_mine(id)).cloned();
                let id = open.unwrap_or_else(|| format!("{mine}{done}"));
                book.unknown.insert(id.clone());
                id
            };
            let asked = SystemTime::now();
            match execute(&mut workflows, WORKFLOW, &request_id).await {
                Ok(execution) => {
                    let mut book = book.lock().expect("no client panics");
                    book.unknown.remove(&request_id);
                    book.asked.push(asked);
                    book.acknowledged.insert(request_id, execution.id);
                    done += 1;
                }
                // Nothing that a healthy client with a new request id is to hear.
                Err(status)
                    if matches!(status.code(), Code::NotFound | Code::AlreadyExists | Code::InvalidArgument) =>
                {
                    panic!("{request_id}: {status}")
                }
                Err(_) => break,
            }
        }
    }
}

/// Asks for every request id again: S-SAFE-3 says that it gives the acknowledged execution, S-SAFE-1 that it is there.
/// Then waits until each has ended. Gives how many they are.
///
/// # Errors
/// The promise that was broken.
pub async fn compare(daemon: &Daemon, book: &SharedBook) -> Result<usize, String> {
    let acknowledged = book.lock().expect("no client panics").acknowledged.clone();
    compare_these(daemon, &acknowledged).await?;
    Ok(acknowledged.len())
}

/// [`compare`] for some of a book.
///
/// # Errors
/// The promise that was broken.
pub async fn compare_these(daemon: &Daemon, acknowledged: &BTreeMap<String, String>) -> Result<(), String> {
    const AT_ONCE: usize = 8;
    let mut parts: Vec<Vec<(String, String)>> = vec![Vec::new(); AT_ONCE];
    for (at, (request_id, id)) in acknowledged.iter().enumerate() {
        parts[at % AT_ONCE].push((request_id.clone(), id.clone()));
    }
    let mut askers: JoinSet<Result<(), String>> = JoinSet::new();
    for part in parts {
        let mut client = daemon.workflows().await;
        askers.spawn(async move {
            for (request_id, id) in part {
                ended(&mut client, &request_id, &id).await?;
            }
            Ok(())
        });
    }
    while let Some(answer) = askers.join_next().await {
        answer.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn ended(client: &mut WorkflowServiceClient<Channel>, request_id: &str, id: &str) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    while tokio::time::Instant::now() < deadline {
        let again = execute(client, WORKFLOW, request_id).await.map_err(|status| format!("{request_id}: {status}"))?;
        if again.id != id {
            return Err(format!("{request_id} was acknowledged as {id} and is now {}: lost, or done twice", again.id));
        }
        match again.status() {
            WorkflowStatus::Completed => return Ok(()),
            WorkflowStatus::Running => interval.tick().await,
            other => return Err(format!("{request_id}: {id} ended {other:?}")),
        };
    }
    Err(format!("{request_id}: {id} did not end"))
}
