//! `ExecutionService`: shows what executions did and do, repeats them, and takes people's answers.

use std::collections::BTreeSet;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api, EventStream, Reading,
    caller::{actor, request_id},
    convert::{self, definition, ends::Ends, event::EventRenderer, execution as render},
    logs,
    page::{PAGE_BYTES, Page},
    status::{self, Reason, invalid_field, refused},
    stream,
    workflow::{execution_id, wait_of, workflow_id},
};
use crate::{
    engine::{Request as EngineRequest, Wanted, read::Reads, watch::Scope},
    machine::{
        approval::MAX_COMMENT_BYTES,
        execution::Execution,
        ids::{ExecutionId, TaskIndex, WorkflowId},
        message::{Command, Output, Reply},
        rerun,
        task::TaskStatus,
        workflow,
    },
    proto::v1::{self, execution_service_server::ExecutionService},
};

/// Rows looked at for one page: a filter that nothing passes ends the page, not the server.
const MAX_SCANNED: usize = 20_000;

/// The service.
pub struct Executions {
    api: Api,
}

impl Executions {
    /// The service over an engine.
    pub fn new(api: Api) -> Self {
        Self { api }
    }
}

/// An execution and one of its tasks.
fn task_of(reads: &Reads, id: ExecutionId, task_id: &str) -> Reading<(Execution, TaskIndex)> {
    let execution = reads.execution(id)?.ok_or_else(|| status::no_execution(id))?;
    let Some(task) = execution.definition.index_of(task_id) else {
        return Err(status::no_task(task_id).into());
    };
    Ok((execution, task))
}

/// What a rerun would keep and do.
fn planned(reads: &Reads, source: ExecutionId, tasks: &[String]) -> Reading<v1::RerunExecutionResponse> {
    let execution = reads.execution(source)?.ok_or_else(|| status::no_execution(source))?;
    let plan = rerun::plan(&execution, tasks).map_err(|rejection| refused(&rejection.into()))?;
    let name = |task: TaskIndex| execution.definition.task(task).id.clone();
    Ok(v1::RerunExecutionResponse {
        execution: None,
        reused_task_ids: plan.reused.iter().map(|kept| name(kept.task)).collect(),
        redone_task_ids: plan.redone.iter().map(|task| name(*task)).collect(),
    })
}

/// One page of executions, newest first.
pub(super) async fn list(
    api: &Api,
    mut request: v1::ListExecutionsRequest,
) -> Result<v1::ListExecutionsResponse, Status> {
    let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
    let page = Page::parse("ListExecutions", size, &token, &request)?;
    let workflow = if request.workflow_id.is_empty() { None } else { Some(workflow_id(&request.workflow_id)?) };
    api.read(move |reads| list_page(reads, &request, workflow.as_ref(), &page)).await
}

fn list_page(
    reads: &Reads,
    request: &v1::ListExecutionsRequest,
    workflow: Option<&WorkflowId>,
    page: &Page,
) -> Reading<v1::ListExecutionsResponse> {
    let statuses: BTreeSet<i32> = request.statuses.iter().copied().collect();
    let from = request.created_after.as_ref().map(convert::time_of);
    let before = request.created_before.as_ref().map(convert::time_of);
    let mut at = page.position()?.map(|bytes| ExecutionId(u128::from_be_bytes(bytes)));
    let mut executions = Vec::new();
    let (mut scanned, mut bytes) = (0, 0);
    loop {
        let ids = reads.executions(workflow, at, 256)?;
        let Some(last) = ids.last() else { break };
        at = Some(*last);
        for id in ids {
            scanned += 1;
            let Some(summary) = reads.summary(id)? else { continue };
            let labelled = request.labels.iter().all(|(key, value)| summary.labels.get(key) == Some(value));
            let in_time = from.is_none_or(|from| summary.started_at >= from)
                && before.is_none_or(|before| summary.started_at < before);
            let status = definition::status(summary.status) as i32;
            let wanted = statuses.is_empty() || statuses.contains(&status);
            if labelled && in_time && wanted {
                let shown = listed(reads, id, &summary)?;
                bytes += shown.encoded_len();
                executions.push(shown);
            }
            if executions.len() == page.size || bytes >= PAGE_BYTES || scanned >= MAX_SCANNED {
                let next_page_token = page.token(&id.0.to_be_bytes());
                return Ok(v1::ListExecutionsResponse { executions, next_page_token });
            }
        }
    }
    Ok(v1::ListExecutionsResponse { executions, next_page_token: String::new() })
}

/// A summary says all of an execution that has ended; one that runs is read as it stands.
fn listed(reads: &Reads, id: ExecutionId, summary: &crate::store::layout::Summary) -> Reading<v1::WorkflowExecution> {
    let failed = summary.first_failure.is_some();
    if summary.status.is_terminal() && !failed {
        return Ok(render::summarised(summary, None));
    }
    match reads.execution(id)? {
        Some(execution) => Ok(render::without_tasks(&execution, reads)?),
        None => Ok(render::summarised(summary, None)),
    }
}

#[tonic::async_trait]
impl ExecutionService for Executions {
    async fn get_execution(
        &self,
        request: Request<v1::GetExecutionRequest>,
    ) -> Result<Response<v1::GetExecutionResponse>, Status> {
        let request = request.into_inner();
        let id = execution_id(&request.execution_id)?;
        let execution = match wait_of(request.wait.as_ref())? {
            Some(wait) => self.api.execution_after(id, wait).await?,
            None => self.api.execution(id).await?,
        };
        Ok(Response::new(v1::GetExecutionResponse { execution: Some(execution) }))
    }

    async fn list_executions(
        &self,
        request: Request<v1::ListExecutionsRequest>,
    ) -> Result<Response<v1::ListExecutionsResponse>, Status> {
        Ok(Response::new(list(&self.api, request.into_inner()).await?))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let mut request = request.into_inner();
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::parse("ListTasks", size, &token, &request)?;
        let id = execution_id(&request.execution_id)?;
        let response = self
            .api
            .read(move |reads| {
                let execution = reads.execution(id)?.ok_or_else(|| status::no_execution(id))?;
                list_tasks(reads, &execution, &request.statuses, &page)
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::GetTaskResponse>, Status> {
        let request = request.into_inner();
        let id = execution_id(&request.execution_id)?;
        let task = self
            .api
            .read(move |reads| {
                let (execution, task) = task_of(reads, id, &request.task_id)?;
                let mut ends = Ends::default();
                let ran_in = ends.read_one(&execution, task, reads)?;
                let mut shown = render::one_task(&execution, task, &ends);
                if shown.output_truncated
                    && let Some(json) = reads.output(ran_in, task)?
                {
                    let size = json.len() as u64;
                    shown.output = Some(render::value_of(&Output { json: json.into(), size }));
                    shown.output_truncated = false;
                }
                Ok(shown)
            })
            .await?;
        Ok(Response::new(v1::GetTaskResponse { task: Some(task) }))
    }

    type WatchExecutionStream = EventStream<v1::WatchExecutionResponse>;

    async fn watch_execution(
        &self,
        request: Request<v1::WatchExecutionRequest>,
    ) -> Result<Response<Self::WatchExecutionStream>, Status> {
        let request = request.into_inner();
        let id = execution_id(&request.execution_id)?;
        let found = self.api.read(move |reads| Ok(reads.summary(id)?.ok_or_else(|| status::no_execution(id))?)).await?;
        let watch = self.api.watch(Scope::Execution(id), request.after_revision)?;
        let shape = |revision, event| v1::WatchExecutionResponse { revision, event, progress: None };
        let stream = if request.with_progress {
            stream::with_progress(&self.api, watch, id, found.counts.total())
        } else {
            stream::events(&self.api, watch, shape)
        };
        Ok(self.api.with_store_id(stream))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let mut request = request.into_inner();
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::parse("ListEvents", size, &token, &request)?;
        let id = execution_id(&request.execution_id)?;
        let position = page.position()?.map(u64::from_be_bytes);
        let after = position.or(request.after_revision).unwrap_or(0);
        let response = self
            .api
            .read(move |reads| {
                reads.summary(id)?.ok_or_else(|| status::no_execution(id))?;
                let mut found = reads.events(id, after, page.size + 1)?;
                let more = found.len() > page.size;
                found.truncate(page.size);
                let mut renderer = EventRenderer::new(reads.clone());
                let events = found.iter().map(|recorded| renderer.render(recorded)).collect::<Result<Vec<_>, _>>()?;
                let last = found.last().filter(|_| more);
                let next_page_token = last.map(|last| page.token(&last.revision.to_be_bytes())).unwrap_or_default();
                Ok(v1::ListEventsResponse { events, next_page_token })
            })
            .await?;
        Ok(Response::new(response))
    }

    type StreamTaskLogsStream = EventStream<v1::StreamTaskLogsResponse>;

    async fn stream_task_logs(
        &self,
        request: Request<v1::StreamTaskLogsRequest>,
    ) -> Result<Response<Self::StreamTaskLogsStream>, Status> {
        let request = request.into_inner();
        let id = execution_id(&request.execution_id)?;
        let task_id = request.task_id.clone();
        let (id, newest, mut running) = self
            .api
            .read(move |reads| {
                let (execution, task) = task_of(reads, id, &task_id)?;
                let mut ends = Ends::default();
                let origin = ends.origin(&execution, task, reads)?;
                let state = &origin.tasks[task as usize];
                let alive = state.status == TaskStatus::Running;
                Ok((origin.id, state.attempt, logs::Running { task, alive, since: origin.revision }))
            })
            .await?;
        let attempt = if request.attempt == 0 { newest } else { request.attempt };
        if newest == 0 {
            let words = format!("task `{}` has not started, so it has no log yet", request.task_id);
            return Err(status::status(Reason::LogNotFound, words));
        }
        if attempt > newest {
            let words = format!("the newest attempt of task `{}` is {newest}; 0 asks for the newest", request.task_id);
            return Err(invalid_field("attempt", workflow::Reason::InvalidValue, words));
        }
        running.alive &= attempt == newest;
        logs::stream(&self.api, id, request, attempt, running).await
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        let request = request.into_inner();
        let id = execution_id(&request.execution_id)?;
        let task_id = request.task_id.clone();
        let status = self
            .api
            .read(move |reads| {
                let (execution, task) = task_of(reads, id, &task_id)?;
                Ok(render::task_status(execution.tasks[task as usize].status) as i32)
            })
            .await?;
        let blockers = self.api.engine.explain(id, request.task_id).await.map_err(|refusal| refused(&refusal))?;
        let blockers = blockers.iter().map(render::blocker).collect();
        Ok(Response::new(v1::ExplainTaskResponse { blockers, status }))
    }

    async fn rerun_execution(
        &self,
        request: Request<v1::RerunExecutionRequest>,
    ) -> Result<Response<v1::RerunExecutionResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let request_id = request_id(&by, "RerunExecution", &request.request_id, &request)?;
        let (source, tasks) = (execution_id(&request.execution_id)?, request.task_ids);
        let mut response = {
            let tasks = tasks.clone();
            self.api.read(move |reads| planned(reads, source, &tasks)).await?
        };
        if !request.validate_only {
            let command = Command::RerunExecution { execution: convert::new_execution_id(), source, tasks };
            let wanted = EngineRequest { wanted: Wanted::Command(command), actor: by, id: request_id };
            let answer = self.api.engine.submit(wanted).await.map_err(|refusal| refused(&refusal))?;
            let Reply::Executions(ids) = answer.reply else {
                return Err(status::status(Reason::Internal, "the engine answered something else"));
            };
            let started = ids.first().ok_or_else(|| status::status(Reason::Internal, "the engine started nothing"))?;
            response.execution = Some(self.api.execution(*started).await?);
        }
        Ok(Response::new(response))
    }

    async fn resolve_approval(
        &self,
        request: Request<v1::ResolveApprovalRequest>,
    ) -> Result<Response<v1::ResolveApprovalResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let request_id = request_id(&by, "ResolveApproval", &request.request_id, &request)?;
        let id = execution_id(&request.execution_id)?;
        if request.comment.len() > MAX_COMMENT_BYTES {
            let words = format!("{} bytes; at most {MAX_COMMENT_BYTES} are allowed", request.comment.len());
            return Err(invalid_field("comment", workflow::Reason::LimitExceeded, words));
        }
        let command = Command::ResolveApproval {
            execution: id,
            task: request.task_id,
            approved: request.approved,
            comment: request.comment,
        };
        let wanted = EngineRequest { wanted: Wanted::Command(command), actor: by, id: request_id };
        self.api.engine.submit(wanted).await.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(v1::ResolveApprovalResponse { execution: Some(self.api.execution(id).await?) }))
    }

    type WatchEventsStream = EventStream<v1::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let wanted: BTreeSet<String> = request.workflow_ids.into_iter().collect();
        let watch = self.api.watch(Scope::All, request.after_revision)?;
        let shape = move |revision, event: Option<v1::Event>| {
            // What nobody asked for still moves the cursor, as a bookmark.
            let event = event.filter(|event| wanted.is_empty() || wanted.contains(&event.workflow_id));
            v1::WatchEventsResponse { revision, event }
        };
        Ok(self.api.with_store_id(stream::events(&self.api, watch, shape)))
    }
}

fn list_tasks(reads: &Reads, execution: &Execution, statuses: &[i32], page: &Page) -> Reading<v1::ListTasksResponse> {
    let position = page.position()?.map(u32::from_be_bytes);
    let from = position.map_or(0, |last| last as usize + 1);
    let mut tasks = Vec::new();
    let mut room = render::Room::of_answer();
    let mut ends = Ends::default();
    for (task, state) in (0..).zip(&execution.tasks).skip(from) {
        if !statuses.is_empty() && !statuses.contains(&(render::task_status(state.status) as i32)) {
            continue;
        }
        ends.read_one(execution, task, reads)?;
        tasks.push(room.fit(render::one_task(execution, task, &ends)));
        if tasks.len() == page.size {
            let next_page_token = page.token(&task.to_be_bytes());
            return Ok(v1::ListTasksResponse { tasks, next_page_token });
        }
    }
    Ok(v1::ListTasksResponse { tasks, next_page_token: String::new() })
}
