//! The gRPC services: requests in, commands to the engine; rows and events out.
//!
//! Nothing is decided here. [`serve`](listen::serve) puts the services on listeners with their limits; each service is a
//! file; `convert` is the one place that knows both protobuf and the machine; `status` makes every error.

mod agent;
mod body;
mod caller;
pub mod convert;
mod execution;
mod frames;
pub mod listen;
mod logs;
mod mask;
mod page;
mod places;
mod schedule;
mod services;
pub mod status;
mod stream;
mod system;
mod template;
mod workflow;

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio_stream::Stream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Status, service::Routes};

use self::{
    agent::Agents, execution::Executions, schedule::Schedules, services::Services, status::Reason, system::System,
    template::Templates, workflow::Workflows,
};
use crate::{
    engine::{
        Handle,
        clock::wall_now,
        read::{ReadError, Reads},
        recent::{End, SMALL_TASKS, Shown},
        watch::{Scope, Watch},
    },
    executor::files::DataLayout,
    machine::ids::{ExecutionId, Revision, Timestamp},
    proto::{self, v1},
};

/// A stream of answers.
pub type EventStream<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Largest request with a definition in it, in bytes.
const MAX_DEFINITION_BYTES: usize = 32 * 1_024 * 1_024;
/// Largest other request, in bytes.
const MAX_REQUEST_BYTES: usize = 4 * 1_024 * 1_024;
/// Largest answer, in bytes. A definition goes out as large as it came in.
const MAX_RESPONSE_BYTES: usize = 8 * 1_024 * 1_024;
/// The header of every stream that says which store its revisions are of.
const STORE_ID_HEADER: &str = "nox-store-id";

/// What the services share. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The engine.
    pub engine: Handle,
    /// Where attempts leave their logs.
    pub layout: DataLayout,
    /// Cancelled when noxd shuts down: streams end.
    pub stop: CancellationToken,
    /// Tasks behind streams.
    pub streams: TaskTracker,
    /// What GetServerInfo tells.
    pub about: Arc<About>,
}

/// What GetServerInfo tells of this process.
#[derive(Clone, Debug)]
pub struct About {
    /// When it began.
    pub started_at: Timestamp,
    /// How long a process has between SIGTERM and SIGKILL.
    pub termination_grace: Duration,
}

/// A read: the store's fault, or an answer of its own.
pub(crate) type Reading<T> = Result<T, ReadFailure>;

/// Why a read gave nothing.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// The store could not be read.
    Store(ReadError),
    /// What was asked for is not there, or the like.
    Status(Box<Status>),
}

impl From<ReadError> for ReadFailure {
    fn from(error: ReadError) -> Self {
        Self::Store(error)
    }
}

impl From<Status> for ReadFailure {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Api {
    /// Reads away from the threads that serve: a row may come from the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reads) -> Reading<T> + Send + 'static,
    ) -> Result<T, Status> {
        let reads = self.engine.reads().clone();
        match tokio::task::spawn_blocking(move || read(&reads)).await {
            Ok(answer) => answered(answer),
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "a read panicked");
                Err(status::status(Reason::Internal, "a read failed; noxd's log says why"))
            }
            Err(_) => Err(status::status(Reason::Draining, "noxd is shutting down")),
        }
    }

    /// An execution with its tasks. One that ended of late is at hand. Of the others, most that are asked for have just
    /// been written and are in memory still, so a small one is read at once; a large one is read away from the threads
    /// that serve.
    async fn execution(&self, id: ExecutionId) -> Result<v1::WorkflowExecution, Status> {
        if let Some(shown) = self.engine.ended(id).filter(Shown::is_alone) {
            return Ok(convert::execution::whole_at_hand(&shown));
        }
        let whole = move |reads: &Reads| {
            let execution = reads.execution(id)?.ok_or_else(|| status::no_execution(id))?;
            Ok(convert::execution::whole(&execution, reads)?)
        };
        let reads = self.engine.reads();
        let summary = reads.summary(id).map_err(|error| status::unreadable(&error))?;
        let tasks = summary.map_or(0, |summary| summary.counts.total());
        if tasks as usize > SMALL_TASKS { self.read(whole).await } else { answered(whole(reads)) }
    }

    /// An execution with its tasks, once it has ended or that long has passed.
    async fn execution_after(&self, id: ExecutionId, wait: Duration) -> Result<v1::WorkflowExecution, Status> {
        match self.wait_for_end(id, wait).await? {
            Some(shown) => Ok(convert::execution::whole_at_hand(&shown)),
            None => self.execution(id).await,
        }
    }

    /// A watch from after a revision; absent: from now.
    fn watch(&self, scope: Scope, after: Option<Revision>) -> Result<Watch, Status> {
        let newest = self.engine.revision();
        let after = after.unwrap_or(newest);
        // A reader can see a batch a moment before the hub tells it: whoever comes from there is not refused.
        if after > newest && after > self.newest_row()? {
            let words = format!(
                "revision {after} is above the newest, {newest}; after a restore revisions begin anew: \
                 compare the store id, and watch from 0"
            );
            return Err(status::status(Reason::RevisionUnknown, words));
        }
        Ok(self.engine.watch(scope, after))
    }

    fn newest_row(&self) -> Result<Revision, Status> {
        let newest = self.engine.reads().newest_batch().map_err(|error| status::unreadable(&error))?;
        Ok(newest.map_or(0, |(revision, _)| revision))
    }

    /// Waits until an execution has ended, or that long. Gives it where it has ended and is at hand.
    async fn wait_for_end(&self, id: ExecutionId, wait: Duration) -> Result<Option<Shown>, Status> {
        // Asked first and looked up then, so that an end between the two is not missed.
        let ended = match self.engine.end_of(id) {
            End::Reached(shown) => return Ok(Some(shown)),
            End::Ahead(ended) => ended,
        };
        let summary = self.engine.reads().summary(id).map_err(|error| status::unreadable(&error))?;
        if summary.is_none_or(|summary| summary.status.is_terminal()) {
            return Ok(None);
        }
        tokio::select! {
            // An engine that has stopped tells nobody any more: what is known is the answer then.
            ended = tokio::time::timeout(wait, ended) => Ok(ended.ok().and_then(Result::ok).flatten()),
            () = self.stop.cancelled() => Ok(None),
        }
    }

    fn now(&self) -> Timestamp {
        wall_now()
    }

    /// A stream's answer, with the store's id in its headers (S-VIEW-2).
    fn with_store_id<M>(&self, stream: EventStream<M>) -> Response<EventStream<M>> {
        let mut response = Response::new(stream);
        if let Ok(id) = format!("{:032x}", self.engine.store_id()).parse() {
            response.metadata_mut().insert(STORE_ID_HEADER, id);
        }
        response
    }
}

/// What a read gave, as an answer.
fn answered<T>(reading: Reading<T>) -> Result<T, Status> {
    reading.map_err(|failure| match failure {
        ReadFailure::Store(error) => status::unreadable(&error),
        ReadFailure::Status(status) => *status,
    })
}

/// All services, with health and reflection.
pub(crate) async fn services(api: &Api) -> Result<Services, tonic_reflection::server::Error> {
    use v1::{
        agent_service_server::AgentServiceServer, execution_service_server::ExecutionServiceServer,
        schedule_service_server::ScheduleServiceServer, system_service_server::SystemServiceServer,
        template_service_server::TemplateServiceServer, workflow_service_server::WorkflowServiceServer,
    };
    let workflows = WorkflowServiceServer::new(Workflows::new(api.clone()))
        .max_decoding_message_size(MAX_DEFINITION_BYTES)
        .max_encoding_message_size(MAX_DEFINITION_BYTES);
    let executions = ExecutionServiceServer::new(Executions::new(api.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let agents = AgentServiceServer::new(Agents::new(api.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let templates = TemplateServiceServer::new(Templates::new(api.clone()))
        .max_decoding_message_size(MAX_DEFINITION_BYTES)
        .max_encoding_message_size(MAX_DEFINITION_BYTES);
    let schedules = ScheduleServiceServer::new(Schedules::new(api.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let system = SystemServiceServer::new(System::new(api.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    // The engine has recovered before the API is made: everything that answers, serves.
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<WorkflowServiceServer<Workflows>>().await;
    reporter.set_serving::<ExecutionServiceServer<Executions>>().await;
    reporter.set_serving::<TemplateServiceServer<Templates>>().await;
    reporter.set_serving::<ScheduleServiceServer<Schedules>>().await;
    reporter.set_serving::<AgentServiceServer<Agents>>().await;
    reporter.set_serving::<SystemServiceServer<System>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::API_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients without generated code can read the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
    };
    let rest = Routes::new(system)
        .add_service(templates)
        .add_service(schedules)
        .add_service(agents)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // What Python's client asks for.
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok(Services { workflows, executions, rest })
}
