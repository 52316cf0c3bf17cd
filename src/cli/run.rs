//! The client half of `noxd run FILE` and of `noxctl workflow execute --watch`: create, execute, watch, tell.
//!
//! It knows a channel and nothing of the daemon behind it. Handling of signals is the caller's: an interrupt arrives
//! here as a message.

use std::{collections::HashMap, future::Future, pin::Pin, pin::pin};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tonic::{Status, transport::Channel};
use uuid::Uuid;

use super::{
    approval::{Answers, Questions},
    connect,
    display::Display,
    progress::{Outcome, Progress},
    status::CliError,
    watch::{self, News, Subject, Watcher},
};
use crate::proto::v1::{
    CancelWorkflowRequest, CreateWorkflowRequest, ExecuteWorkflowRequest, GetExecutionRequest, Workflow,
    WorkflowExecution,
};

/// How a run is shown.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// What is shown while it runs.
    pub view: View,
    /// The command that shows a failed task's whole log: `{execution}` and `{task}` in it are replaced. Empty: none.
    pub log_hint: String,
    /// The command that approves what a task asks, with the same replacements. Empty: none.
    pub answer_hint: String,
    /// Where answers to such questions come from.
    pub answers: Answers,
}

/// What is shown while an execution runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// Live on a terminal, plain lines elsewhere.
    #[default]
    Automatic,
    /// Plain lines.
    Plain,
    /// Nothing.
    Quiet,
}

impl From<View> for Display {
    fn from(view: View) -> Self {
        match view {
            View::Automatic => Self::for_terminal(),
            View::Plain => Self::Plain,
            View::Quiet => Self::Quiet,
        }
    }
}

/// Stores the workflow, executes it and shows it to the end. `interrupts` has one message per Ctrl-C: the first
/// cancels, and with the second this returns [`Outcome::Killed`] at once, whatever still runs.
pub async fn run_workflow(
    channel: Channel,
    workflow: Workflow,
    inputs: Option<pbjson_types::Struct>,
    options: RunOptions,
    interrupts: mpsc::Receiver<()>,
) -> Result<Outcome, CliError> {
    let titles = titles(&workflow);
    let mut workflows = connect::workflows(channel.clone());
    let create = CreateWorkflowRequest {
        workflow: Some(workflow),
        request_id: request_id(),
        ..CreateWorkflowRequest::default()
    };
    let created = workflows.create_workflow(create).await?.into_inner().workflow;
    let created = created.ok_or(CliError::Incomplete("the workflow"))?;
    let execute = ExecuteWorkflowRequest {
        workflow_id: created.id,
        inputs,
        request_id: request_id(),
        ..ExecuteWorkflowRequest::default()
    };
    let execution = workflows.execute_workflow(execute).await?.into_inner().execution;
    let execution = execution.ok_or(CliError::Incomplete("the execution"))?;
    run_execution(channel, &execution, titles, options.view.into(), options, interrupts).await
}

/// Shows an execution that exists already, from its first event to its last, so that the picture is complete.
pub async fn resume_workflow(
    channel: Channel,
    execution_id: &str,
    options: RunOptions,
    interrupts: mpsc::Receiver<()>,
) -> Result<Outcome, CliError> {
    let request = GetExecutionRequest { execution_id: execution_id.to_owned(), wait: None };
    let execution = connect::executions(channel.clone()).get_execution(request).await?.into_inner().execution;
    let execution = execution.ok_or(CliError::Incomplete("the execution"))?;
    let titles = task_titles(&execution);
    run_execution(channel, &execution, titles, options.view.into(), options, interrupts).await
}

/// The lines for people of a definition's tasks.
pub fn titles(workflow: &Workflow) -> HashMap<String, String> {
    workflow.tasks.iter().map(|task| (task.id.clone(), task.title.clone())).collect()
}

/// The lines for people of an execution's tasks, as far as the answer has them.
pub fn task_titles(execution: &WorkflowExecution) -> HashMap<String, String> {
    execution.tasks.iter().map(|task| (task.task_id.clone(), task.title.clone())).collect()
}

/// A name for a mutating call that makes its repetition harmless.
#[expect(clippy::disallowed_methods, reason = "the client names its own requests; noxd remembers the name")]
pub fn request_id() -> String {
    Uuid::now_v7().to_string()
}

/// Shows an execution to its end and cancels it on an interrupt.
pub(super) async fn run_execution(
    channel: Channel,
    execution: &WorkflowExecution,
    titles: HashMap<String, String>,
    mut display: Display,
    options: RunOptions,
    mut interrupts: mpsc::Receiver<()>,
) -> Result<Outcome, CliError> {
    let mut progress = Progress::with_titles(titles);
    let mut watcher = Watcher::new(channel.clone(), Subject::Execution(execution.id.clone()), Some(0));
    let broken = watcher.broken();
    let mut ticks = tokio::time::interval(watch::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cancel: Option<CancelCall> = None;
    let mut interrupted = false;
    let log_hint = options.log_hint.replace("{execution}", &execution.id);
    let answer_hint = options.answer_hint.replace("{execution}", &execution.id);
    let mut questions = Questions::new(channel.clone(), &execution.id, &answer_hint, options.answers);
    loop {
        // Pinned outside of the select: neither a tick nor an interrupt may begin a reconnect anew.
        let mut next = pin!(watcher.next());
        let news = loop {
            tokio::select! {
                news = &mut next => break news?,
                _ = ticks.tick() => display.tick(&progress, &broken)?,
                Some(()) = interrupts.recv() => {
                    if interrupted {
                        display.finish(&progress, &log_hint)?;
                        return Ok(Outcome::Killed);
                    }
                    interrupted = true;
                    display.note("cancelling: running tasks are told to end; interrupt again to kill them at once")?;
                    cancel = Some(cancel_call(channel.clone(), execution));
                }
                words = questions.word() => display.note(&words)?,
                result = answer_of(&mut cancel) => {
                    cancel = None;
                    if let Err(status) = result {
                        display.note(&format!("the cancel was refused: {}", CliError::from(status)))?;
                        // The next interrupt asks again rather than kills.
                        interrupted = false;
                    }
                }
            }
        };
        let event = match news {
            None => break,
            Some(News::Progress(far)) => {
                progress.told(*far);
                continue;
            }
            Some(News::Event(event)) => event,
        };
        let happening = progress.apply(&event);
        display.happened(&event, happening.as_ref(), &progress)?;
        if let Some(words) = happening.and_then(|happening| questions.happened(&happening)) {
            display.note(&words)?;
        }
    }
    display.finish(&progress, &log_hint)?;
    progress.outcome.ok_or(CliError::Incomplete("the execution's end"))
}

type CancelCall = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

fn cancel_call(channel: Channel, execution: &WorkflowExecution) -> CancelCall {
    let request = CancelWorkflowRequest {
        workflow_id: execution.workflow_id.clone(),
        execution_id: execution.id.clone(),
        request_id: request_id(),
    };
    Box::pin(async move { connect::workflows(channel).cancel_workflow(request).await.map(drop) })
}

/// The answer to the cancel that is under way; never, if none is.
async fn answer_of(cancel: &mut Option<CancelCall>) -> Result<(), Status> {
    match cancel {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::progress::tests as events, *};
    use crate::proto::v1::{
        ExecutionCancelRequested, ExecutionCancelled, ExecutionCompleted, TaskCompleted, TaskStarted, event::Kind,
    };
    use fake::Fake;

    /// A daemon of a few answers: it breaks the first watch in the middle, and ends only when it is told to cancel if
    /// it is `endless`.
    mod fake {
        use std::sync::{Arc, Mutex};

        use tokio::sync::{mpsc, watch};
        use tokio_stream::wrappers::ReceiverStream;
        use tonic::{Code, Request, Response, Status};

        use super::*;
        use crate::proto::v1::{execution_service_server as executions, workflow_service_server as workflows, *};

        #[derive(Clone)]
        pub struct Fake {
            pub events: Vec<Event>,
            pub after_cancel: Vec<Event>,
            pub watched_after: Arc<Mutex<Vec<Option<u64>>>>,
            pub cancelled: watch::Sender<bool>,
        }

        impl Fake {
            pub fn new(events: Vec<Event>, after_cancel: Vec<Event>) -> Self {
                Self { events, after_cancel, watched_after: Arc::default(), cancelled: watch::Sender::new(false) }
            }

            /// Serves on a socket in a fresh directory until it is dropped.
            pub async fn serve(&self) -> (Channel, tempfile::TempDir) {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("noxd.sock");
                let listener = tokio::net::UnixListener::bind(&path).unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(workflows::WorkflowServiceServer::new(self.clone()))
                    .add_service(executions::ExecutionServiceServer::new(self.clone()))
                    .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
                tokio::spawn(server);
                (connect::socket_channel(&path).await.unwrap(), dir)
            }
        }

        fn unused<T>() -> Result<Response<T>, Status> {
            Err(Status::unimplemented("not part of this story"))
        }

        macro_rules! unused {
            ($($name:ident $request:ident $response:ident;)*) => {
                $(fn $name<'a: 'b, 'b>(
                    &'a self,
                    _: Request<$request>,
                ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
                where
                    Self: 'b,
                {
                    Box::pin(async { unused() })
                })*
            };
        }

        type Answers<T> = ReceiverStream<Result<T, Status>>;

        #[tonic::async_trait]
        impl workflows::WorkflowService for Fake {
            type WatchWorkflowStream = Answers<WatchWorkflowResponse>;

            async fn create_workflow(
                &self,
                request: Request<CreateWorkflowRequest>,
            ) -> Result<Response<CreateWorkflowResponse>, Status> {
                let mut workflow = request.into_inner().workflow.unwrap();
                workflow.id = "w".into();
                Ok(Response::new(CreateWorkflowResponse { workflow: Some(workflow) }))
            }

            async fn execute_workflow(
                &self,
                request: Request<ExecuteWorkflowRequest>,
            ) -> Result<Response<ExecuteWorkflowResponse>, Status> {
                let workflow_id = request.into_inner().workflow_id;
                let execution = WorkflowExecution { id: "e".into(), workflow_id, ..WorkflowExecution::default() };
                Ok(Response::new(ExecuteWorkflowResponse { execution: Some(execution) }))
            }

            async fn cancel_workflow(
                &self,
                request: Request<CancelWorkflowRequest>,
            ) -> Result<Response<CancelWorkflowResponse>, Status> {
                assert_eq!(request.into_inner().execution_id, "e");
                self.cancelled.send_replace(true);
                Ok(Response::new(CancelWorkflowResponse::default()))
            }

            async fn watch_workflow(
                &self,
                _: Request<WatchWorkflowRequest>,
            ) -> Result<Response<Self::WatchWorkflowStream>, Status> {
                unused()
            }

            unused! {
                get_workflow GetWorkflowRequest GetWorkflowResponse;
                list_workflows ListWorkflowsRequest ListWorkflowsResponse;
                update_workflow UpdateWorkflowRequest UpdateWorkflowResponse;
                delete_workflow DeleteWorkflowRequest DeleteWorkflowResponse;
                validate_workflow ValidateWorkflowRequest ValidateWorkflowResponse;
                batch_execute_workflows BatchExecuteWorkflowsRequest BatchExecuteWorkflowsResponse;
                pause_workflow PauseWorkflowRequest PauseWorkflowResponse;
                resume_workflow ResumeWorkflowRequest ResumeWorkflowResponse;
                get_workflow_status GetWorkflowStatusRequest GetWorkflowStatusResponse;
                list_workflow_history ListWorkflowHistoryRequest ListWorkflowHistoryResponse;
            }
        }

        #[tonic::async_trait]
        impl executions::ExecutionService for Fake {
            type WatchExecutionStream = Answers<WatchExecutionResponse>;
            type StreamTaskLogsStream = Answers<StreamTaskLogsResponse>;
            type WatchEventsStream = Answers<WatchEventsResponse>;

            async fn watch_execution(
                &self,
                request: Request<WatchExecutionRequest>,
            ) -> Result<Response<Self::WatchExecutionStream>, Status> {
                let after = request.into_inner().after_revision;
                let first = {
                    let mut watched = self.watched_after.lock().unwrap();
                    watched.push(after);
                    watched.len() == 1
                };
                let (answers, stream) = mpsc::channel(16);
                let fake = self.clone();
                tokio::spawn(async move {
                    let seen = after.unwrap_or_default();
                    for event in fake.events.iter().filter(|event| event.revision > seen) {
                        if first && event.revision > 2 {
                            let _gone = answers.send(Err(Status::new(Code::Unavailable, "restarting"))).await;
                            return;
                        }
                        let _gone = answers.send(Ok(message(event))).await;
                    }
                    let mut cancelled = fake.cancelled.subscribe();
                    if !fake.after_cancel.is_empty() && cancelled.wait_for(|cancelled| *cancelled).await.is_ok() {
                        for event in &fake.after_cancel {
                            let _gone = answers.send(Ok(message(event))).await;
                        }
                    }
                });
                Ok(Response::new(ReceiverStream::new(stream)))
            }

            async fn stream_task_logs(
                &self,
                _: Request<StreamTaskLogsRequest>,
            ) -> Result<Response<Self::StreamTaskLogsStream>, Status> {
                unused()
            }

            async fn watch_events(
                &self,
                _: Request<WatchEventsRequest>,
            ) -> Result<Response<Self::WatchEventsStream>, Status> {
                unused()
            }

            unused! {
                get_execution GetExecutionRequest GetExecutionResponse;
                list_executions ListExecutionsRequest ListExecutionsResponse;
                list_tasks ListTasksRequest ListTasksResponse;
                get_task GetTaskRequest GetTaskResponse;
                list_events ListEventsRequest ListEventsResponse;
                explain_task ExplainTaskRequest ExplainTaskResponse;
                rerun_execution RerunExecutionRequest RerunExecutionResponse;
                resolve_approval ResolveApprovalRequest ResolveApprovalResponse;
            }
        }

        fn message(event: &Event) -> WatchExecutionResponse {
            WatchExecutionResponse { revision: event.revision, event: Some(event.clone()), progress: None }
        }
    }

    fn quiet() -> RunOptions {
        RunOptions { view: View::Quiet, ..RunOptions::default() }
    }

    #[tokio::test]
    async fn a_run_survives_a_broken_stream() {
        let events = vec![
            events::event(0, "", events::started(1)),
            events::event(1, "a", Kind::TaskStarted(TaskStarted::default())),
            events::event(2, "a", Kind::TaskCompleted(TaskCompleted::default())),
            events::event(3, "", Kind::ExecutionCompleted(ExecutionCompleted {})),
        ];
        let fake = Fake::new(events, Vec::new());
        let (channel, _dir) = fake.serve().await;
        let (_interrupt, interrupts) = mpsc::channel(2);
        let outcome = run_workflow(channel, Workflow::default(), None, quiet(), interrupts).await.unwrap();
        assert_eq!(outcome, Outcome::Completed);
        assert_eq!(*fake.watched_after.lock().unwrap(), [Some(0), Some(2)]);
    }

    #[tokio::test]
    async fn the_first_interrupt_cancels() {
        let events = vec![events::event(0, "", events::started(1))];
        let end = vec![
            events::event(1, "", Kind::ExecutionCancelRequested(ExecutionCancelRequested::default())),
            events::event(2, "", Kind::ExecutionCancelled(ExecutionCancelled {})),
        ];
        let (channel, _dir) = Fake::new(events, end).serve().await;
        let (interrupt, interrupts) = mpsc::channel(2);
        interrupt.send(()).await.unwrap();
        let outcome = run_workflow(channel, Workflow::default(), None, quiet(), interrupts).await.unwrap();
        assert_eq!(outcome, Outcome::Cancelled);
    }

    #[tokio::test]
    async fn the_second_interrupt_does_not_wait() {
        let events = vec![events::event(0, "", events::started(1))];
        // Something is left to say after the cancel, but never the end.
        let requested = Kind::ExecutionCancelRequested(ExecutionCancelRequested::default());
        let (channel, _dir) = Fake::new(events, vec![events::event(1, "", requested)]).serve().await;
        let (interrupt, interrupts) = mpsc::channel(2);
        interrupt.send(()).await.unwrap();
        interrupt.send(()).await.unwrap();
        let outcome = run_workflow(channel, Workflow::default(), None, quiet(), interrupts).await.unwrap();
        assert_eq!(outcome, Outcome::Killed);
    }
}
