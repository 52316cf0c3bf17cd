//! Follows events without losing one: a stream that breaks is taken up again after the last revision that was seen.
//!
//! [`Watcher`] gives the events; [`follow`] shows them until an execution has ended. `run.rs` adds interrupts to that.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    approval, connect,
    display::Display,
    progress::{Happening, Outcome, Progress},
    status::CliError,
};
use crate::proto::v1::{
    Event, ExecutionProgress, GetExecutionRequest, WatchExecutionRequest, WatchExecutionResponse, WatchWorkflowRequest,
    WatchWorkflowResponse, WorkflowExecution, WorkflowStatus, event::Kind,
};

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One execution, until it has ended.
    Execution(String),
    /// A workflow and all its executions, for ever.
    Workflow(String),
}

/// What a watch brings.
#[derive(Debug)]
pub enum News {
    /// Something happened.
    Event(Box<Event>),
    /// How far the execution is, as noxd sees it.
    Progress(Box<ExecutionProgress>),
}

/// The events of a subject after a revision.
pub struct Watcher {
    channel: Channel,
    subject: Subject,
    after: Option<u64>,
    stream: Option<Stream>,
    ended: bool,
    broken: Arc<AtomicBool>,
}

enum Stream {
    Execution(Box<Streaming<WatchExecutionResponse>>),
    Workflow(Box<Streaming<WatchWorkflowResponse>>),
}

impl Stream {
    async fn message(&mut self) -> Result<Option<(u64, Option<News>)>, Status> {
        let event = |event: Option<Event>| event.map(|event| News::Event(Box::new(event)));
        Ok(match self {
            Self::Execution(stream) => stream.message().await?.map(|message| {
                let news = event(message.event).or(message.progress.map(|far| News::Progress(Box::new(far))));
                (message.revision, news)
            }),
            Self::Workflow(stream) => stream.message().await?.map(|message| (message.revision, event(message.event))),
        })
    }
}

impl Watcher {
    /// Events with a revision above `after`; 0: from the start; none: from now.
    pub fn new(channel: Channel, subject: Subject, after: Option<u64>) -> Self {
        Self { channel, subject, after, stream: None, ended: false, broken: Arc::default() }
    }

    /// Whether the connection is lost at the moment and being sought again.
    pub fn broken(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.broken)
    }

    /// What is next; nothing after the last event of an execution. A broken connection is sought again for a minute.
    #[expect(clippy::disallowed_methods, reason = "how long a person is kept waiting for a broken connection")]
    pub async fn next(&mut self) -> Result<Option<News>, CliError> {
        let mut broken_since = None;
        let mut pause = FIRST_PAUSE;
        loop {
            if self.ended {
                return Ok(None);
            }
            let status = match self.message().await {
                Ok(Some((revision, news))) => {
                    self.broken.store(false, Ordering::Relaxed);
                    broken_since = None;
                    pause = FIRST_PAUSE;
                    self.after = Some(revision);
                    let Some(news) = news else { continue };
                    if let News::Event(event) = &news {
                        self.ended = matches!(self.subject, Subject::Execution(_)) && is_last(event);
                    }
                    return Ok(Some(news));
                }
                Ok(None) => match self.ended_unseen().await {
                    Ok(ended) => {
                        self.ended = ended;
                        None
                    }
                    Err(status) => Some(status),
                },
                Err(status) => Some(status),
            };
            self.stream = None;
            if let Some(status) = status {
                let since = *broken_since.get_or_insert_with(Instant::now);
                if !is_passing(&status) {
                    return Err(status.into());
                }
                if since.elapsed() > PATIENCE {
                    return Err(CliError::Unreachable(format!(
                        "the connection to noxd is lost ({}); what it runs goes on without you",
                        super::text::escape(status.message())
                    )));
                }
                self.broken.store(true, Ordering::Relaxed);
            }
            if !self.ended {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }

    async fn message(&mut self) -> Result<Option<(u64, Option<News>)>, Status> {
        if self.stream.is_none() {
            let after_revision = self.after;
            self.stream = Some(match &self.subject {
                Subject::Execution(id) => {
                    let request =
                        WatchExecutionRequest { execution_id: id.clone(), after_revision, with_progress: true };
                    let answer = connect::executions(self.channel.clone()).watch_execution(request).await?;
                    Stream::Execution(Box::new(answer.into_inner()))
                }
                Subject::Workflow(id) => {
                    let request = WatchWorkflowRequest { workflow_id: id.clone(), after_revision };
                    let answer = connect::workflows(self.channel.clone()).watch_workflow(request).await?;
                    Stream::Workflow(Box::new(answer.into_inner()))
                }
            });
        }
        match &mut self.stream {
            Some(stream) => stream.message().await,
            None => Ok(None),
        }
    }

    /// A stream that ends before the last event: either that event lies before the revision asked for, or the daemon
    /// went away.
    async fn ended_unseen(&self) -> Result<bool, Status> {
        let Subject::Execution(id) = &self.subject else { return Ok(false) };
        let request = GetExecutionRequest { execution_id: id.clone(), wait: None };
        let execution = connect::executions(self.channel.clone()).get_execution(request).await?.into_inner().execution;
        // Events up to its revision are seen, so the end is too, or it comes with the next stream.
        Ok(execution.is_some_and(|it| outcome_of(&it).is_some() && self.after.is_none_or(|after| after >= it.revision)))
    }
}

/// Whether an execution has no events after this one.
fn is_last(event: &Event) -> bool {
    matches!(event.kind, Some(Kind::ExecutionCompleted(_) | Kind::ExecutionFailed(_) | Kind::ExecutionCancelled(_)))
}

/// Whether trying again can help: the daemon drains or restarts, or the transport broke.
fn is_passing(status: &Status) -> bool {
    let from_transport = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => from_transport,
        _ => false,
    }
}

/// How an execution ended; none while it has not.
pub fn outcome_of(execution: &WorkflowExecution) -> Option<Outcome> {
    match execution.status() {
        WorkflowStatus::Completed => Some(Outcome::Completed),
        WorkflowStatus::Failed => Some(Outcome::Failed),
        WorkflowStatus::Cancelled => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// Shows the events of a watcher until they end. Between events, `display` is drawn.
pub async fn follow(watcher: &mut Watcher, progress: &mut Progress, display: &mut Display) -> Result<(), CliError> {
    let broken = watcher.broken();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Pinned outside of the select: a tick must not begin a reconnect anew.
        let mut next = pin!(watcher.next());
        let news = loop {
            tokio::select! {
                news = &mut next => break news?,
                _ = ticks.tick() => display.tick(progress, &broken)?,
            }
        };
        let event = match news {
            None => return Ok(()),
            Some(News::Progress(far)) => {
                progress.told(*far);
                continue;
            }
            Some(News::Event(event)) => event,
        };
        let happening = progress.apply(&event);
        display.happened(&event, happening.as_ref(), progress)?;
        // Who waits for an answer without a word would wait for ever.
        if let Some(Happening::Asked { task, .. }) = &happening {
            display.note(&approval::hint(&event.execution_id, task))?;
        }
    }
}

/// Between two drawings.
pub const TICK: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
// A restart of the daemon takes a second; a minute is for machines that restart with it.
const PATIENCE: Duration = Duration::from_secs(60);
