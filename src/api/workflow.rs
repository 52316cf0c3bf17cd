//! `WorkflowService`: stores workflows and runs them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{
    Api, EventStream, Reading,
    caller::{actor, request_id},
    convert::{self, definition, execution},
    mask,
    page::{NOT_A_TOKEN, PAGE_BYTES, Page},
    status::{self, Reason, invalid, invalid_field, refused},
    stream,
};
use crate::{
    engine::{Answer, read::Reads, watch::Scope},
    engine::{Request as EngineRequest, Wanted, requests::RequestId},
    machine::{
        ids::{Actor, ExecutionId, WorkflowId},
        message::{Command, Content, Inputs, Operation, Reply, Trigger, WorkflowRecord},
        validation,
        workflow::{self, Violation},
    },
    proto::v1::{self, workflow_service_server::WorkflowService},
    store::layout::{Summary, key},
};

/// Definitions above this size are large: two of them are looked at at a time.
const LARGE_TASKS: usize = 2_000;
/// Longest `wait`.
const MAX_WAIT: Duration = Duration::from_secs(3_600);
/// Most requests in a batch.
const MAX_BATCH: usize = 1_000;
/// Rows looked at for one page: a filter that nothing passes ends the page, not the server.
pub(super) const MAX_SCANNED: usize = 20_000;

/// The service.
pub struct Workflows {
    api: Api,
    large: Arc<Semaphore>,
}

impl Workflows {
    /// The service over an engine.
    pub fn new(api: Api) -> Self {
        Self { api, large: Arc::new(Semaphore::new(2)) }
    }

    /// Checks a definition away from the threads that serve.
    async fn content(&self, workflow: v1::Workflow, draft: bool) -> Result<Content, Status> {
        let _turn = if workflow.tasks.len() > LARGE_TASKS { self.large.acquire().await.ok() } else { None };
        let checked = tokio::task::spawn_blocking(move || definition::parse(workflow).into_content(draft)).await;
        checked.map_err(|_| status::status(Reason::Draining, "noxd is shutting down"))?.map_err(|all| invalid(&all))
    }

    /// A workflow with what its executions add.
    async fn shown(&self, record: Arc<WorkflowRecord>) -> Result<v1::Workflow, Status> {
        self.api.read(move |reads| with_latest(reads, definition::render(&record), &record)).await
    }

    async fn stored(&self, id: &WorkflowId) -> Result<Arc<WorkflowRecord>, Status> {
        let (id, wanted) = (id.clone(), id.clone());
        let record = self.api.read(move |reads| Ok(reads.workflow(&id)?)).await?;
        let record = record.filter(|record| !record.deleted).ok_or_else(|| status::no_workflow(wanted))?;
        Ok(Arc::new(record))
    }

    async fn store(&self, command: Command, by: Actor, id: Option<RequestId>) -> Result<v1::Workflow, Status> {
        let answer = self.api.engine.submit(EngineRequest { wanted: Wanted::Command(command), actor: by, id }).await;
        let Reply::Workflow { workflow, .. } = answer.map_err(|refusal| refused(&refusal))?.reply else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        let record = self.stored(&workflow).await?;
        self.shown(record).await
    }

    async fn control(
        &self,
        operation: Operation,
        workflow: &str,
        execution: &str,
        by: Actor,
        id: Option<RequestId>,
    ) -> Result<Vec<v1::WorkflowExecution>, Status> {
        let workflow = workflow_id(workflow)?;
        let wanted = if execution.is_empty() {
            Wanted::ControlAll { operation, workflow }
        } else {
            Wanted::Command(Command::Control { operation, workflow, execution: execution_id(execution)? })
        };
        let answer = self.api.engine.submit(EngineRequest { wanted, actor: by, id }).await;
        let answer = answer.map_err(|refusal| refused(&refusal))?;
        if let Some(shown) = answer.shown {
            return Ok(vec![execution::without_tasks_at_hand(&shown)]);
        }
        let Reply::Executions(ids) = answer.reply else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        self.without_tasks(ids).await
    }

    async fn started(&self, answer: Answer, wait: Option<Duration>) -> Result<v1::WorkflowExecution, Status> {
        let Reply::Executions(ids) = answer.reply else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        let Some(&id) = ids.first() else {
            return Err(status::status(Reason::Internal, "the engine started nothing"));
        };
        match (wait, answer.shown) {
            (Some(wait), _) => self.api.execution_after(id, wait).await,
            (None, Some(shown)) => Ok(execution::whole_at_hand(&shown)),
            (None, None) => self.api.execution(id).await,
        }
    }

    /// Without tasks: the answer to a thousand requests stays small.
    async fn started_in_batch(&self, answer: Answer) -> Result<v1::WorkflowExecution, Status> {
        if let Some(shown) = answer.shown {
            return Ok(execution::without_tasks_at_hand(&shown));
        }
        let Reply::Executions(ids) = answer.reply else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        self.without_tasks(ids).await?.pop().ok_or_else(|| status::status(Reason::Internal, "nothing was started"))
    }

    async fn without_tasks(&self, ids: Vec<ExecutionId>) -> Result<Vec<v1::WorkflowExecution>, Status> {
        self.api
            .read(move |reads| {
                let mut shown = Vec::with_capacity(ids.len());
                for id in ids {
                    if let Some(one) = reads.execution(id)? {
                        shown.push(execution::without_tasks(&one, reads)?);
                    }
                }
                Ok(shown)
            })
            .await
    }
}

/// The latest execution of a workflow. One that was deleted and stored anew does not answer for its former life.
fn latest_of(reads: &Reads, record: &WorkflowRecord) -> Reading<Option<Summary>> {
    let latest = reads.executions(Some(&record.content.spec().id), None, 1)?;
    let summary = latest.first().map(|latest| reads.summary(*latest)).transpose()?.flatten();
    Ok(summary.filter(|summary| summary.started_at >= record.created_at))
}

/// What the latest execution adds to a workflow.
pub(super) fn with_latest(reads: &Reads, mut shown: v1::Workflow, record: &WorkflowRecord) -> Reading<v1::Workflow> {
    if let Some(summary) = latest_of(reads, record)? {
        shown.started_at = Some(convert::timestamp(summary.started_at));
        shown.completed_at = summary.ended_at.map(convert::timestamp);
        if matches!(record.content, Content::Ready(_)) {
            shown.status = definition::status(summary.status) as i32;
        }
    }
    Ok(shown)
}

pub(super) fn workflow_id(text: &str) -> Result<WorkflowId, Status> {
    WorkflowId::parse(text).map_err(|words| invalid_field("workflow_id", workflow::Reason::InvalidId, words))
}

pub(super) fn execution_id(text: &str) -> Result<ExecutionId, Status> {
    text.parse().map_err(|words: String| invalid_field("execution_id", workflow::Reason::InvalidId, words))
}

pub(super) fn missing(field: &str) -> Status {
    invalid_field(field, workflow::Reason::MissingValue, "it must be given")
}

fn start(request: &v1::ExecuteWorkflowRequest) -> Result<Command, Status> {
    let labels = request.labels.clone().into_iter().collect();
    let mut faults: Vec<Violation> = validation::notes("labels", &labels);
    let inputs = values_of("inputs", request.inputs.as_ref()).map_err(|fault| faults.push(fault)).unwrap_or_default();
    if !faults.is_empty() {
        return Err(invalid(&faults));
    }
    Ok(Command::StartExecution {
        execution: convert::new_execution_id(),
        workflow: workflow_id(&request.workflow_id)?,
        labels,
        inputs: Inputs(Arc::new(inputs)),
        trigger: Trigger::Manual,
    })
}

/// Values by name.
pub(super) fn values_of(
    field: &str,
    given: Option<&pbjson_types::Struct>,
) -> Result<serde_json::Map<String, serde_json::Value>, Violation> {
    let Some(given) = given else { return Ok(serde_json::Map::new()) };
    match serde_json::to_value(given) {
        Ok(serde_json::Value::Object(values)) => Ok(values),
        Ok(_) => Ok(serde_json::Map::new()),
        Err(error) => Err(Violation {
            field: field.into(),
            reason: workflow::Reason::InvalidValue,
            description: format!("a value is none that it can have: {error}"),
        }),
    }
}

/// How long a call may wait for an end.
pub(super) fn wait_of(wait: Option<&pbjson_types::Duration>) -> Result<Option<Duration>, Status> {
    let Some(wait) = wait else { return Ok(None) };
    let wait = Duration::from_micros(convert::micros_of("wait", wait).map_err(|fault| invalid(&[fault]))?);
    if wait > MAX_WAIT {
        let words = "a call waits for an hour at most; watch the execution instead";
        return Err(invalid_field("wait", workflow::Reason::InvalidValue, words));
    }
    Ok(Some(wait))
}

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn create_workflow(
        &self,
        request: Request<v1::CreateWorkflowRequest>,
    ) -> Result<Response<v1::CreateWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "CreateWorkflow", &request.request_id, &request)?;
        let content = self.content(request.workflow.ok_or_else(|| missing("workflow"))?, request.save_as_draft).await?;
        let workflow = if request.validate_only {
            let record = WorkflowRecord {
                version: 1,
                created_at: self.api.now(),
                updated_at: self.api.now(),
                created_by: by,
                deleted: false,
                origin: None,
                content,
            };
            definition::render(&record)
        } else {
            self.store(Command::CreateWorkflow { content }, by, id).await?
        };
        Ok(Response::new(v1::CreateWorkflowResponse { workflow: Some(workflow) }))
    }

    async fn get_workflow(
        &self,
        request: Request<v1::GetWorkflowRequest>,
    ) -> Result<Response<v1::GetWorkflowResponse>, Status> {
        let request = request.into_inner();
        let id = workflow_id(&request.workflow_id)?;
        let record = self.stored(&id).await?;
        let version = request.version;
        let mut workflow = self.shown(Arc::clone(&record)).await?;
        if version != 0 && version != record.version {
            let (reader, wanted) = (id.clone(), id);
            let spec = self.api.read(move |reads| Ok(reads.workflow_version(&reader, version)?)).await?;
            let spec = spec.ok_or_else(|| {
                status::not_found(
                    Reason::WorkflowNotFound,
                    "version",
                    &format!("{version} of workflow {wanted}"),
                    "0 asks for the newest",
                )
            })?;
            // The definition is the older one's; what the server says is of the workflow.
            workflow = v1::Workflow {
                version,
                etag: format!("v{version}"),
                status: workflow.status,
                created_at: workflow.created_at,
                updated_at: workflow.updated_at,
                started_at: workflow.started_at,
                completed_at: workflow.completed_at,
                created_by: workflow.created_by,
                violations: workflow.violations,
                template: workflow.template,
                ..definition::render_spec(&spec)
            };
        }
        Ok(Response::new(v1::GetWorkflowResponse { workflow: Some(workflow) }))
    }

    async fn list_workflows(
        &self,
        request: Request<v1::ListWorkflowsRequest>,
    ) -> Result<Response<v1::ListWorkflowsResponse>, Status> {
        let mut request = request.into_inner();
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::parse("ListWorkflows", size, &token, &request)?;
        if page.after.as_deref().is_some_and(|after| key::workflow_of_age(after).is_none()) {
            return Err(status::status(Reason::InvalidPageToken, NOT_A_TOKEN));
        }
        let response = self.api.read(move |reads| list_workflows(reads, &request, &page)).await?;
        Ok(Response::new(response))
    }

    async fn update_workflow(
        &self,
        request: Request<v1::UpdateWorkflowRequest>,
    ) -> Result<Response<v1::UpdateWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "UpdateWorkflow", &request.request_id, &request)?;
        let given = request.workflow.ok_or_else(|| missing("workflow"))?;
        let mut etag = Some(if request.etag.is_empty() { given.etag.clone() } else { request.etag });
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let workflow = if paths.is_empty() {
            given
        } else {
            let stored = self.stored(&workflow_id(&given.id)?).await?;
            // What is kept of the stored one must still be the stored one when the change is made.
            etag = etag.filter(|etag| !etag.is_empty()).or_else(|| Some(stored.etag()));
            mask::applied(definition::render_spec(stored.content.spec()), given, &paths)?
        };
        workflow_id(&workflow.id)?;
        let content = self.content(workflow, false).await?;
        let command = Command::UpdateWorkflow { content, etag: etag.filter(|etag| !etag.is_empty()) };
        let workflow = self.store(command, by, id).await?;
        Ok(Response::new(v1::UpdateWorkflowResponse { workflow: Some(workflow) }))
    }

    async fn delete_workflow(
        &self,
        request: Request<v1::DeleteWorkflowRequest>,
    ) -> Result<Response<v1::DeleteWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "DeleteWorkflow", &request.request_id, &request)?;
        let etag = Some(request.etag).filter(|etag| !etag.is_empty());
        let command = Command::DeleteWorkflow { workflow: workflow_id(&request.workflow_id)?, etag };
        let answer = self.api.engine.submit(EngineRequest { wanted: Wanted::Command(command), actor: by, id }).await;
        answer.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(v1::DeleteWorkflowResponse {}))
    }

    async fn validate_workflow(
        &self,
        request: Request<v1::ValidateWorkflowRequest>,
    ) -> Result<Response<v1::ValidateWorkflowResponse>, Status> {
        let workflow = request.into_inner().workflow.ok_or_else(|| missing("workflow"))?;
        let _turn = if workflow.tasks.len() > LARGE_TASKS { self.large.acquire().await.ok() } else { None };
        let checked = tokio::task::spawn_blocking(move || definition::parse(workflow).into_content(false)).await;
        let response = match checked.map_err(|_| status::status(Reason::Draining, "noxd is shutting down"))? {
            Ok(content) => v1::ValidateWorkflowResponse { plan: plan_of(&content), ..Default::default() },
            Err(faults) => v1::ValidateWorkflowResponse {
                violations: faults.iter().map(definition::violation).collect(),
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn execute_workflow(
        &self,
        request: Request<v1::ExecuteWorkflowRequest>,
    ) -> Result<Response<v1::ExecuteWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "ExecuteWorkflow", &request.request_id, &request)?;
        let wait = wait_of(request.wait.as_ref())?;
        let command = start(&request)?;
        let answer = self.api.engine.submit(EngineRequest { wanted: Wanted::Command(command), actor: by, id }).await;
        let execution = self.started(answer.map_err(|refusal| refused(&refusal))?, wait).await?;
        Ok(Response::new(v1::ExecuteWorkflowResponse { execution: Some(execution) }))
    }

    async fn batch_execute_workflows(
        &self,
        request: Request<v1::BatchExecuteWorkflowsRequest>,
    ) -> Result<Response<v1::BatchExecuteWorkflowsResponse>, Status> {
        let by = actor(&request);
        let requests = request.into_inner().requests;
        if requests.len() > MAX_BATCH {
            let words = format!("{} requests; at most {MAX_BATCH} go into one batch", requests.len());
            return Err(invalid_field("requests", workflow::Reason::LimitExceeded, words));
        }
        // Those that are no commands at all are refused here; the others are one commit.
        let prepared: Vec<Result<EngineRequest, Status>> = requests
            .iter()
            .map(|request| {
                if request.wait.is_some() {
                    let words = "a batch is answered at once; watch the executions instead";
                    return Err(invalid_field("wait", workflow::Reason::NotSupported, words));
                }
                let id = request_id(&by, "ExecuteWorkflow", &request.request_id, request)?;
                Ok(EngineRequest { wanted: Wanted::Command(start(request)?), actor: by.clone(), id })
            })
            .collect();
        let commands = prepared.iter().filter_map(|one| one.as_ref().ok().cloned()).collect();
        let answers = self.api.engine.submit_all(commands).await.map_err(|stopped| refused(&stopped.into()))?;
        let mut answers = answers.into_iter();
        let mut results = Vec::with_capacity(prepared.len());
        for one in prepared {
            let outcome = match (one, &mut answers) {
                (Err(status), _) => Err(status),
                (Ok(_), answers) => match answers.next() {
                    Some(Ok(answer)) => self.started_in_batch(answer).await,
                    Some(Err(refusal)) => Err(refused(&refusal)),
                    None => Err(status::status(Reason::Internal, "the engine left a request unanswered")),
                },
            };
            results.push(batch_result(outcome));
        }
        Ok(Response::new(v1::BatchExecuteWorkflowsResponse { results }))
    }

    async fn pause_workflow(
        &self,
        request: Request<v1::PauseWorkflowRequest>,
    ) -> Result<Response<v1::PauseWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "PauseWorkflow", &request.request_id, &request)?;
        let executions = self.control(Operation::Pause, &request.workflow_id, &request.execution_id, by, id).await?;
        Ok(Response::new(v1::PauseWorkflowResponse { executions }))
    }

    async fn resume_workflow(
        &self,
        request: Request<v1::ResumeWorkflowRequest>,
    ) -> Result<Response<v1::ResumeWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "ResumeWorkflow", &request.request_id, &request)?;
        let executions = self.control(Operation::Resume, &request.workflow_id, &request.execution_id, by, id).await?;
        Ok(Response::new(v1::ResumeWorkflowResponse { executions }))
    }

    async fn cancel_workflow(
        &self,
        request: Request<v1::CancelWorkflowRequest>,
    ) -> Result<Response<v1::CancelWorkflowResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "CancelWorkflow", &request.request_id, &request)?;
        let executions = self.control(Operation::Cancel, &request.workflow_id, &request.execution_id, by, id).await?;
        Ok(Response::new(v1::CancelWorkflowResponse { executions }))
    }

    async fn get_workflow_status(
        &self,
        request: Request<v1::GetWorkflowStatusRequest>,
    ) -> Result<Response<v1::GetWorkflowStatusResponse>, Status> {
        let request = request.into_inner();
        let id = workflow_id(&request.workflow_id)?;
        let latest = if request.execution_id.is_empty() {
            let record = self.stored(&id).await?;
            let latest = self.api.read(move |reads| latest_of(reads, &record)).await?;
            latest.map(|summary| summary.id)
        } else {
            Some(execution_id(&request.execution_id)?)
        };
        let Some(execution) = latest else {
            let record = self.stored(&id).await?;
            let status = definition::render(&record).status;
            return Ok(Response::new(v1::GetWorkflowStatusResponse { status, ..Default::default() }));
        };
        let found = self.api.read(move |reads| Ok(reads.execution(execution)?)).await?;
        let found = found.filter(|found| found.workflow == id).ok_or_else(|| status::no_execution(execution))?;
        let far = execution::progress(&found, self.api.now());
        Ok(Response::new(v1::GetWorkflowStatusResponse {
            status: definition::status(found.status) as i32,
            execution_id: execution.to_string(),
            progress: far.progress,
            task_counts: far.task_counts,
            eta: far.eta,
            revision: found.revision,
            estimate_basis: far.estimate_basis,
            estimated_from: far.estimated_from,
        }))
    }

    async fn list_workflow_history(
        &self,
        request: Request<v1::ListWorkflowHistoryRequest>,
    ) -> Result<Response<v1::ListWorkflowHistoryResponse>, Status> {
        let request = request.into_inner();
        let listed = v1::ListExecutionsRequest {
            page_size: request.page_size,
            page_token: request.page_token,
            workflow_id: workflow_id(&request.workflow_id)?.to_string(),
            statuses: request.statuses,
            ..Default::default()
        };
        let list = super::execution::list(&self.api, listed).await?;
        let (executions, next_page_token) = (list.executions, list.next_page_token);
        Ok(Response::new(v1::ListWorkflowHistoryResponse { executions, next_page_token }))
    }

    type WatchWorkflowStream = EventStream<v1::WatchWorkflowResponse>;

    async fn watch_workflow(
        &self,
        request: Request<v1::WatchWorkflowRequest>,
    ) -> Result<Response<Self::WatchWorkflowStream>, Status> {
        let request = request.into_inner();
        let id = workflow_id(&request.workflow_id)?;
        let of = id.clone();
        let known = self
            .api
            .read(move |reads| Ok(reads.workflow(&of)?.is_some() || !reads.executions(Some(&of), None, 1)?.is_empty()))
            .await?;
        if !known {
            return Err(status::no_workflow(id));
        }
        let watch = self.api.watch(Scope::Workflow(id), request.after_revision)?;
        let shape = |revision, event| v1::WatchWorkflowResponse { revision, event };
        Ok(self.api.with_store_id(stream::events(&self.api, watch, shape)))
    }
}

fn list_workflows(
    reads: &Reads,
    request: &v1::ListWorkflowsRequest,
    page: &Page,
) -> Reading<v1::ListWorkflowsResponse> {
    let statuses: BTreeSet<i32> = request.statuses.iter().copied().collect();
    let text = request.text.to_lowercase();
    let mut workflows = Vec::new();
    let mut after = page.after.clone();
    let (mut scanned, mut bytes) = (0, 0);
    loop {
        let rows = reads.workflows(after.as_deref(), 100)?;
        let Some((last, _)) = rows.last() else { break };
        let last = last.clone();
        for (position, id) in rows {
            scanned += 1;
            if scanned > MAX_SCANNED {
                let next_page_token = page.token(&position);
                return Ok(v1::ListWorkflowsResponse { workflows, next_page_token });
            }
            let Some(record) = reads.workflow(&id)?.filter(|record| !record.deleted) else { continue };
            let spec = record.content.spec();
            let labelled = request.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value));
            let named =
                [id.as_str(), &spec.name, &spec.description].iter().any(|field| field.to_lowercase().contains(&text));
            if !labelled || !named {
                continue;
            }
            let mut shown = with_latest(reads, definition::render(&record), &record)?;
            if !statuses.is_empty() && !statuses.contains(&shown.status) {
                continue;
            }
            shown.tasks.clear();
            shown.violations.clear();
            if let Some(origin) = &mut shown.template {
                origin.parameters = None;
            }
            bytes += shown.encoded_len();
            workflows.push(shown);
            if workflows.len() == page.size || bytes >= PAGE_BYTES {
                let next_page_token = page.token(&position);
                return Ok(v1::ListWorkflowsResponse { workflows, next_page_token });
            }
        }
        after = Some(last);
    }
    Ok(v1::ListWorkflowsResponse { workflows, next_page_token: String::new() })
}

fn plan_of(content: &Content) -> Option<v1::WorkflowPlan> {
    let Content::Ready(checked) = content else { return None };
    let spec = checked.spec();
    let on_failure: BTreeSet<&str> = spec.on_failure.iter().map(String::as_str).collect();
    let finally: BTreeSet<&str> = spec.finally.iter().map(String::as_str).collect();
    // Tasks of one kind depend on each other only, so each kind has stages of its own.
    let stages = |chosen: &dyn Fn(&str) -> bool| {
        let stages = checked.graph().stages().iter().map(|stage| {
            let ids = stage.iter().map(|task| &checked.task(*task).id).filter(|id| chosen(id));
            v1::WorkflowStage { task_ids: ids.cloned().collect() }
        });
        stages.filter(|stage| !stage.task_ids.is_empty()).collect()
    };
    Some(v1::WorkflowPlan {
        stages: stages(&|id| !on_failure.contains(id) && !finally.contains(id)),
        on_failure_stages: stages(&|id| on_failure.contains(id)),
        finally_stages: stages(&|id| finally.contains(id)),
        task_count: u32::try_from(checked.task_count()).unwrap_or(u32::MAX),
        dependency_count: u32::try_from(checked.graph().dependency_count()).unwrap_or(u32::MAX),
    })
}

fn batch_result(outcome: Result<v1::WorkflowExecution, Status>) -> v1::BatchExecuteResult {
    use tonic_types::StatusExt as _;
    use v1::batch_execute_result::Result as Outcome;
    let result = match outcome {
        Ok(execution) => Outcome::Execution(execution),
        Err(status) => Outcome::Error(v1::RequestError {
            code: status.code() as i32,
            reason: status.get_details_error_info().map(|info| info.reason).unwrap_or_default(),
            message: status.message().into(),
        }),
    };
    v1::BatchExecuteResult { result: Some(result) }
}
