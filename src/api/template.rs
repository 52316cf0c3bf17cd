//! `TemplateService`: stores templates and makes workflows of them.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{
    Api, Reading,
    caller::{actor, request_id},
    convert::{self, definition, template},
    page::{NOT_A_TOKEN, PAGE_BYTES, Page},
    status::{self, Reason, invalid, invalid_field, refused},
    workflow::{MAX_SCANNED, missing, values_of, wait_of, with_latest},
};
use crate::{
    engine::{Request as EngineRequest, Wanted, read::Reads, requests, requests::RequestId},
    machine::{
        ids::{Actor, TemplateId, WorkflowId},
        message::{Command, Inputs, Reply, Start},
        template::{TemplateOrigin, TemplateRecord, TemplateSpec},
        validation,
        workflow::{self, Definition, Violation},
    },
    proto::v1::{self, template_service_server::TemplateService},
    store::layout::key,
};

/// Templates that are checked or filled in at a time: each may be of many megabytes for a moment.
const AT_ONCE: usize = 4;

/// The service.
pub struct Templates {
    api: Api,
    turns: Arc<Semaphore>,
}

impl Templates {
    /// The service over an engine.
    pub fn new(api: Api) -> Self {
        Self { api, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Works away from the threads that serve.
    async fn apart<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let _turn = self.turns.acquire().await.ok();
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| status::status(Reason::Draining, "noxd is shutting down"))
    }

    async fn stored(&self, id: &TemplateId) -> Result<Arc<TemplateRecord>, Status> {
        let (id, wanted) = (id.clone(), id.clone());
        let record = self.api.read(move |reads| Ok(reads.template(&id)?)).await?;
        let record = record.filter(|record| !record.deleted).ok_or_else(|| status::no_template(wanted))?;
        Ok(Arc::new(record))
    }

    /// A version of a template; 0: the newest.
    async fn version(&self, record: &TemplateRecord, version: u64) -> Result<(u64, Arc<TemplateSpec>), Status> {
        if version == 0 || version == record.version {
            return Ok((record.version, Arc::clone(&record.spec)));
        }
        let (id, wanted) = (record.spec.id.clone(), record.spec.id.clone());
        let spec = self.api.read(move |reads| Ok(reads.template_version(&id, version)?)).await?;
        let spec = spec.ok_or_else(|| {
            let words = format!("{version} of template {wanted}");
            status::not_found(Reason::TemplateNotFound, "version", &words, "0 asks for the newest")
        })?;
        Ok((version, Arc::new(spec)))
    }

    async fn submit(&self, command: Command, by: Actor, id: Option<RequestId>) -> Result<Reply, Status> {
        let answer = self.api.engine.submit(EngineRequest { wanted: Wanted::Command(command), actor: by, id }).await;
        Ok(answer.map_err(|refusal| refused(&refusal))?.reply)
    }

    async fn store(&self, command: Command, by: Actor, id: Option<RequestId>) -> Result<v1::TaskTemplate, Status> {
        let Reply::Template { template, .. } = self.submit(command, by, id).await? else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        Ok(template::render(&*self.stored(&template).await?))
    }

    /// Makes an instance.
    async fn instance(
        &self,
        request: &v1::InstantiateTemplateRequest,
        workflow: WorkflowId,
    ) -> Result<(Arc<Definition>, TemplateOrigin), Status> {
        let id = template_id(&request.template_id)?;
        let record = self.stored(&id).await?;
        let (version, spec) = self.version(&record, request.version).await?;
        let given = values_of("parameters", request.parameters.as_ref()).map_err(|fault| invalid(&[fault]))?;
        let made = self.apart(move || spec.instantiate(workflow, &given)).await?;
        let (definition, parameters) = made.map_err(|faults| invalid(&faults))?;
        Ok((definition, TemplateOrigin { template: id, version, parameters }))
    }

    /// What an earlier request with this id and body did: it is answered though the template may be another by now.
    async fn recalled(&self, id: Option<&RequestId>) -> Result<Option<Reply>, Status> {
        let Some(id) = id.copied() else { return Ok(None) };
        let row = self.api.read(move |reads| Ok(reads.request(&id.hash)?)).await?;
        let now = self.api.now();
        Ok(row.filter(|row| row.body_hash == id.body_hash && requests::is_remembered(row, now)).map(|row| row.reply))
    }

    async fn made(&self, reply: Reply, wait: Option<Duration>) -> Result<v1::InstantiateTemplateResponse, Status> {
        let (workflow, version, execution) = match reply {
            Reply::Workflow { workflow, version } => (workflow, version, None),
            Reply::Started { workflow, version, execution } => (workflow, version, Some(execution)),
            _ => return Err(status::status(Reason::Internal, "the engine answered something else")),
        };
        let shown = move |reads: &Reads| {
            let record = reads.workflow(&workflow)?.filter(|record| !record.deleted);
            let record = record.ok_or_else(|| status::no_workflow(&workflow))?;
            let spec = reads.workflow_version(&workflow, version)?;
            let tasks = spec.map(|spec| definition::tasks(&spec)).unwrap_or_default();
            Ok((tasks, with_latest(reads, definition::render(&record), &record)?))
        };
        let (tasks, workflow) = self.api.read(shown).await?;
        let execution = match (execution, wait) {
            (None, _) => None,
            (Some(id), None) => Some(self.api.execution(id).await?),
            (Some(id), Some(wait)) => Some(self.api.execution_after(id, wait).await?),
        };
        Ok(v1::InstantiateTemplateResponse { tasks, workflow: Some(workflow), execution })
    }
}

fn template_id(text: &str) -> Result<TemplateId, Status> {
    TemplateId::parse(text).map_err(|words| invalid_field("template_id", workflow::Reason::InvalidId, words))
}

/// What is only about an execution means nothing without one.
fn start(request: &v1::InstantiateTemplateRequest) -> Result<Option<Start>, Status> {
    let fault = |field: &str, words: &str| Violation {
        field: field.into(),
        reason: workflow::Reason::InvalidValue,
        description: words.into(),
    };
    let mut faults = Vec::new();
    if !request.execute {
        const WORDS: &str = "it is about an execution; set `execute`, or leave it out";
        let given = [
            ("inputs", request.inputs.is_some()),
            ("labels", !request.labels.is_empty()),
            ("wait", request.wait.is_some()),
        ];
        faults.extend(given.into_iter().filter(|(_, given)| *given).map(|(field, _)| fault(field, WORDS)));
        if !request.create_workflow && !request.workflow_id.is_empty() {
            faults.push(fault("workflow_id", "no workflow is stored; set `create_workflow`, or leave it out"));
        }
        return if faults.is_empty() { Ok(None) } else { Err(invalid(&faults)) };
    }
    let labels = request.labels.clone().into_iter().collect();
    faults.extend(validation::notes("labels", &labels));
    let inputs = values_of("inputs", request.inputs.as_ref()).map_err(|fault| faults.push(fault)).unwrap_or_default();
    if !faults.is_empty() {
        return Err(invalid(&faults));
    }
    Ok(Some(Start { execution: convert::new_execution_id(), labels, inputs: Inputs(Arc::new(inputs)), retry: None }))
}

#[tonic::async_trait]
impl TemplateService for Templates {
    async fn create_template(
        &self,
        request: Request<v1::CreateTemplateRequest>,
    ) -> Result<Response<v1::CreateTemplateResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "CreateTemplate", &request.request_id, &request)?;
        let given = request.template.ok_or_else(|| missing("template"))?;
        let spec = Arc::new(self.apart(move || template::parse(given)).await?.map_err(|faults| invalid(&faults))?);
        let template = if request.validate_only {
            let (created_at, updated_at) = (self.api.now(), self.api.now());
            let (version, deleted) = (1, false);
            template::render(&TemplateRecord { version, created_at, updated_at, created_by: by, deleted, spec })
        } else {
            self.store(Command::CreateTemplate { spec }, by, id).await?
        };
        Ok(Response::new(v1::CreateTemplateResponse { template: Some(template) }))
    }

    async fn get_template(
        &self,
        request: Request<v1::GetTemplateRequest>,
    ) -> Result<Response<v1::GetTemplateResponse>, Status> {
        let request = request.into_inner();
        let record = self.stored(&template_id(&request.template_id)?).await?;
        let (version, spec) = self.version(&record, request.version).await?;
        let template = template::render_version(&record, version, &spec);
        Ok(Response::new(v1::GetTemplateResponse { template: Some(template) }))
    }

    async fn list_templates(
        &self,
        request: Request<v1::ListTemplatesRequest>,
    ) -> Result<Response<v1::ListTemplatesResponse>, Status> {
        let mut request = request.into_inner();
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::parse("ListTemplates", size, &token, &request)?;
        if page.after.as_deref().is_some_and(|after| key::template_of_age(after).is_none()) {
            return Err(status::status(Reason::InvalidPageToken, NOT_A_TOKEN));
        }
        let response = self.api.read(move |reads| list_templates(reads, &request, &page)).await?;
        Ok(Response::new(response))
    }

    async fn update_template(
        &self,
        request: Request<v1::UpdateTemplateRequest>,
    ) -> Result<Response<v1::UpdateTemplateResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "UpdateTemplate", &request.request_id, &request)?;
        let given = request.template.ok_or_else(|| missing("template"))?;
        let mut etag = Some(if request.etag.is_empty() { given.etag.clone() } else { request.etag });
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let template = template_id(&given.id)?;
        let given = if paths.is_empty() {
            given
        } else {
            let stored = self.stored(&template).await?;
            // What is kept of the stored one must still be the stored one when the change is made.
            etag = etag.filter(|etag| !etag.is_empty()).or_else(|| Some(stored.etag()));
            template::masked(template::render(&stored), given, &paths)
                .map_err(|words| status::status(Reason::InvalidUpdateMask, words))?
        };
        let spec = Arc::new(self.apart(move || template::parse(given)).await?.map_err(|faults| invalid(&faults))?);
        let command = Command::UpdateTemplate { spec, etag: etag.filter(|etag| !etag.is_empty()) };
        let template = self.store(command, by, id).await?;
        Ok(Response::new(v1::UpdateTemplateResponse { template: Some(template) }))
    }

    async fn delete_template(
        &self,
        request: Request<v1::DeleteTemplateRequest>,
    ) -> Result<Response<v1::DeleteTemplateResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "DeleteTemplate", &request.request_id, &request)?;
        let etag = Some(request.etag).filter(|etag| !etag.is_empty());
        let command = Command::DeleteTemplate { template: template_id(&request.template_id)?, etag };
        self.submit(command, by, id).await?;
        Ok(Response::new(v1::DeleteTemplateResponse {}))
    }

    async fn instantiate_template(
        &self,
        request: Request<v1::InstantiateTemplateRequest>,
    ) -> Result<Response<v1::InstantiateTemplateResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "InstantiateTemplate", &request.request_id, &request)?;
        let wait = wait_of(request.wait.as_ref())?;
        let start = start(&request)?;
        let workflow = if request.workflow_id.is_empty() {
            WorkflowId::parse(&convert::new_execution_id().to_string()).expect("a UUID is an id")
        } else {
            super::workflow::workflow_id(&request.workflow_id)?
        };
        if let Some(reply) = self.recalled(id.as_ref()).await? {
            return Ok(Response::new(self.made(reply, wait).await?));
        }
        let (definition, origin) = self.instance(&request, workflow).await?;
        if !request.create_workflow && !request.execute {
            let tasks = definition::tasks(definition.spec());
            return Ok(Response::new(v1::InstantiateTemplateResponse { tasks, ..Default::default() }));
        }
        let command = Command::InstantiateTemplate { definition, origin: origin.into(), start };
        let reply = self.submit(command, by, id).await?;
        Ok(Response::new(self.made(reply, wait).await?))
    }
}

fn list_templates(
    reads: &Reads,
    request: &v1::ListTemplatesRequest,
    page: &Page,
) -> Reading<v1::ListTemplatesResponse> {
    let text = request.text.to_lowercase();
    let mut templates = Vec::new();
    let mut after = page.after.clone();
    let (mut scanned, mut bytes) = (0, 0);
    loop {
        let rows = reads.templates(after.as_deref(), 100)?;
        let Some((last, _)) = rows.last() else { break };
        let last = last.clone();
        for (position, id) in rows {
            scanned += 1;
            if scanned > MAX_SCANNED {
                return Ok(v1::ListTemplatesResponse { templates, next_page_token: page.token(&position) });
            }
            let Some(record) = reads.template(&id)?.filter(|record| !record.deleted) else { continue };
            let body = &record.spec.body;
            let named =
                [id.as_str(), &body.name, &body.description].iter().any(|field| field.to_lowercase().contains(&text));
            if !named {
                continue;
            }
            let mut shown = template::render(&record);
            shown.tasks.clear();
            bytes += shown.encoded_len();
            templates.push(shown);
            if templates.len() == page.size || bytes >= PAGE_BYTES {
                return Ok(v1::ListTemplatesResponse { templates, next_page_token: page.token(&position) });
            }
        }
        after = Some(last);
    }
    Ok(v1::ListTemplatesResponse { templates, next_page_token: String::new() })
}
