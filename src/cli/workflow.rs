//! `noxctl workflow …`: one function per command.

use std::{collections::HashMap, path::PathBuf};

use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::{
    Context, Labels, approval, connect,
    display::Display,
    execution::{self, ExecutionRows},
    file,
    inputs::{self, InputArgs},
    output::{Consent, Output, canonical, confirm, properties, talk},
    parse_label, parse_workflow_status,
    progress::{Happening, Progress},
    run::{self, request_id},
    status::{CliError, violation_line},
    table::{Column, Table},
    telling, text,
    watch::{News, Subject, Watcher},
};
use crate::proto::v1::{
    CancelWorkflowRequest, CreateWorkflowRequest, DeleteWorkflowRequest, ExecuteWorkflowRequest, GetWorkflowRequest,
    GetWorkflowStatusRequest, ListWorkflowHistoryRequest, ListWorkflowHistoryResponse, ListWorkflowsRequest,
    ListWorkflowsResponse, PauseWorkflowRequest, ResumeWorkflowRequest, UpdateWorkflowRequest, ValidateWorkflowRequest,
    Workflow, WorkflowExecution, WorkflowInput, WorkflowStatus, event::Kind, task,
};

/// Define, run and steer workflows.
#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Store a workflow from a file.
    #[command(after_help = "Example:\n  noxctl workflow create -f release.yaml\n  jq … | noxctl workflow create -f -")]
    Create(CreateArgs),
    /// Store a new version of a workflow; its executions keep theirs.
    Update(UpdateArgs),
    /// Check a file and show how it would run; nothing is stored.
    Validate(FileArgs),
    /// List workflows, newest first.
    List(ListArgs),
    /// Show a workflow and its tasks; `-o yaml` gives a file again.
    Show(ShowArgs),
    /// Show how far its latest execution is, or another one.
    Status(StatusArgs),
    /// Start an execution.
    #[command(
        after_help = "Examples:\n  noxctl workflow execute release\n  noxctl workflow execute release --watch\n  \
                      noxctl workflow execute release --wait=30m && echo done\n  \
                      noxctl workflow execute release --input env=prod --input replicas=3"
    )]
    Execute(ExecuteArgs),
    /// Pause: nothing new starts, running tasks finish.
    Pause(SteerArgs),
    /// Let paused executions go on.
    Resume(SteerArgs),
    /// Cancel: what has not started never does, what runs is told to end.
    Cancel(CancelArgs),
    /// Delete a workflow; the history of its executions stays.
    Delete(DeleteArgs),
    /// List the executions of a workflow, newest first.
    History(HistoryArgs),
    /// Follow a workflow and all its executions.
    Watch(WatchArgs),
}

/// Where a definition is.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// A workflow in YAML or JSON; `-` for standard input.
    #[arg(short, long)]
    file: PathBuf,
}

/// Of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Store it even with faults, as a draft.
    #[arg(long)]
    draft: bool,
}

/// Of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Refuse if it was changed since this etag was read; the file's own `etag` does the same.
    #[arg(long, default_value = "")]
    etag: String,
}

/// Of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only with this status, as READY or RUNNING; may be repeated.
    #[arg(long, value_parser = parse_workflow_status)]
    status: Vec<WorkflowStatus>,
    /// Only with this label; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Only with this text in id, name or description.
    #[arg(long, default_value = "")]
    text: String,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The workflow.
    id: String,
    /// An older version.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    version: u64,
}

/// Of `execute`.
#[derive(Debug, Args)]
pub struct ExecuteArgs {
    /// The workflow.
    id: String,
    /// Added to the workflow's labels; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    inputs: InputArgs,
    /// Wait for the end, or at most so long (`--wait=10m`); the exit code is the outcome.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "watch")]
    wait: Option<String>,
    /// Show its progress to the end; the exit code is the outcome.
    #[arg(long)]
    watch: bool,
}

/// Of `pause` and `resume`.
#[derive(Debug, Args)]
pub struct SteerArgs {
    /// The workflow.
    id: String,
    /// Only this execution; without it, every active one.
    #[arg(long, default_value = "", hide_default_value = true)]
    execution: String,
}

/// Of `cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    #[command(flatten)]
    steer: SteerArgs,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The workflow.
    id: String,
    /// Refuse if it was changed since this etag was read.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The workflow.
    id: String,
    /// This execution of it.
    #[arg(long, default_value = "", hide_default_value = true)]
    execution: String,
}

/// Of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The workflow.
    id: String,
    /// Only with this status, as FAILED; may be repeated.
    #[arg(long, value_parser = parse_workflow_status)]
    status: Vec<WorkflowStatus>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// What to watch.
    pub(super) id: String,
    /// Begin after this revision; 0: at the first event.
    #[arg(long, value_name = "REVISION")]
    pub(super) from: Option<u64>,
}

/// Does a `workflow` command; the exit code.
pub async fn run(command: WorkflowCommand, context: &mut Context) -> Result<u8, CliError> {
    // A bad file is told before a daemon is sought.
    match command {
        WorkflowCommand::Create(args) => {
            let workflow = file::read_workflow(&args.file.file)?;
            create(workflow, args.draft, context).await
        }
        WorkflowCommand::Update(args) => {
            let workflow = file::read_workflow(&args.file.file)?;
            update(workflow, args.etag, context).await
        }
        WorkflowCommand::Validate(args) => {
            let workflow = file::read_workflow(&args.file)?;
            validate(workflow, context).await
        }
        WorkflowCommand::List(args) => list(args, context).await,
        WorkflowCommand::Show(args) => show(args, context).await,
        WorkflowCommand::Status(args) => status(args, context).await,
        WorkflowCommand::Execute(args) => execute(args, context).await,
        WorkflowCommand::Pause(args) => {
            let request =
                PauseWorkflowRequest { workflow_id: args.id, execution_id: args.execution, request_id: request_id() };
            let answer = connect::workflows(context.channel().await?).pause_workflow(request).await?.into_inner();
            steered(&answer, &answer.executions, &mut context.output)
        }
        WorkflowCommand::Resume(args) => {
            let request =
                ResumeWorkflowRequest { workflow_id: args.id, execution_id: args.execution, request_id: request_id() };
            let answer = connect::workflows(context.channel().await?).resume_workflow(request).await?.into_inner();
            steered(&answer, &answer.executions, &mut context.output)
        }
        WorkflowCommand::Cancel(args) => cancel(args, context).await,
        WorkflowCommand::Delete(args) => delete(args, context).await,
        WorkflowCommand::History(args) => history(args, context).await,
        WorkflowCommand::Watch(args) => watch(args, context).await,
    }
}

async fn create(workflow: Workflow, draft: bool, context: &mut Context) -> Result<u8, CliError> {
    let request = CreateWorkflowRequest {
        workflow: Some(workflow),
        save_as_draft: draft,
        request_id: request_id(),
        ..CreateWorkflowRequest::default()
    };
    let answer = connect::workflows(context.channel().await?).create_workflow(request).await?.into_inner();
    stored(&answer.workflow.ok_or(CliError::Incomplete("the workflow"))?, &mut context.output)
}

async fn update(mut workflow: Workflow, etag: String, context: &mut Context) -> Result<u8, CliError> {
    if workflow.id.is_empty() {
        return Err(CliError::Usage("the file must have the `id` of the workflow to update".to_owned()));
    }
    let etag = if etag.is_empty() { std::mem::take(&mut workflow.etag) } else { etag };
    let request = UpdateWorkflowRequest { workflow: Some(workflow), etag, request_id: request_id(), update_mask: None };
    let answer = connect::workflows(context.channel().await?).update_workflow(request).await?.into_inner();
    stored(&answer.workflow.ok_or(CliError::Incomplete("the workflow"))?, &mut context.output)
}

fn stored(workflow: &Workflow, output: &mut Output) -> Result<u8, CliError> {
    output.resource(workflow, || {
        let mut told = line(workflow);
        for fault in &workflow.violations {
            told += &format!("  {}\n", violation_line(&fault.field, &fault.description, &fault.reason));
        }
        told
    })?;
    Ok(0)
}

/// `release  version 3  READY  7 tasks`.
pub(super) fn line(workflow: &Workflow) -> String {
    let (id, status) = (text::escape(&workflow.id), text::workflow_status(workflow.status));
    format!("{id}  version {}  {status}  {} tasks\n", workflow.version, workflow.tasks.len())
}

async fn validate(workflow: Workflow, context: &mut Context) -> Result<u8, CliError> {
    let request = ValidateWorkflowRequest { workflow: Some(workflow) };
    let answer = connect::workflows(context.channel().await?).validate_workflow(request).await?.into_inner();
    context.output.resource(&answer, || {
        let mut told = String::new();
        for warning in &answer.warnings {
            told += &format!("warning: {}\n", violation_line(&warning.field, &warning.description, &warning.reason));
        }
        for fault in &answer.violations {
            told += &format!("fault: {}\n", violation_line(&fault.field, &fault.description, &fault.reason));
        }
        if let Some(plan) = answer.plan.as_ref().filter(|_| answer.violations.is_empty()) {
            told += &format!(
                "valid: {} tasks, {} dependencies, {} stages\n",
                plan.task_count,
                plan.dependency_count,
                plan.stages.len()
            );
            let kinds = [
                ("", &plan.stages),
                ("after a failure:\n", &plan.on_failure_stages),
                ("at the end:\n", &plan.finally_stages),
            ];
            for (heading, stages) in kinds.into_iter().filter(|(_, stages)| !stages.is_empty()) {
                told += heading;
                for (index, stage) in stages.iter().enumerate() {
                    told += &format!("  {}. {}\n", index + 1, telling::names(&stage.task_ids));
                }
            }
        }
        told
    })?;
    // A definition with faults is a bad file.
    Ok(if answer.violations.is_empty() { 0 } else { 2 })
}

async fn list(args: ListArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::workflows(context.channel().await?);
    let mut listed = ListWorkflowsResponse::default();
    let labels: Labels = args.label.into_iter().collect();
    loop {
        let request = ListWorkflowsRequest {
            page_size: execution::page_size(args.limit, listed.workflows.len()),
            page_token: listed.next_page_token,
            statuses: args.status.iter().map(|status| *status as i32).collect(),
            labels: labels.clone(),
            text: args.text.clone(),
        };
        let page = client.list_workflows(request).await?.into_inner();
        listed.workflows.extend(page.workflows);
        listed.next_page_token = page.next_page_token;
        if listed.next_page_token.is_empty() || execution::reached(args.limit, listed.workflows.len()) {
            break;
        }
    }
    let mut table = Table::new(&[
        Column::Whole("ID"),
        Column::Flexible("NAME"),
        Column::Whole("STATUS"),
        Column::Optional("VERSION"),
        Column::Whole("UPDATED"),
    ]);
    for workflow in &listed.workflows {
        table.row(vec![
            workflow.id.clone(),
            workflow.name.clone(),
            text::workflow_status(workflow.status).to_owned(),
            workflow.version.to_string(),
            execution::local(workflow.updated_at.as_ref()),
        ]);
    }
    let width = context.output.width();
    context.output.resource(&listed, || table.render(width))?;
    execution::say_more(&listed.next_page_token);
    Ok(0)
}

async fn show(args: ShowArgs, context: &mut Context) -> Result<u8, CliError> {
    let request = GetWorkflowRequest { workflow_id: args.id, version: args.version };
    let answer = connect::workflows(context.channel().await?).get_workflow(request).await?.into_inner();
    let workflow = answer.workflow.ok_or(CliError::Incomplete("the workflow"))?;
    let width = context.output.width();
    context.output.resource(&workflow, || {
        let mut told = properties(&[
            ("id", workflow.id.clone()),
            ("name", workflow.name.clone()),
            ("description", workflow.description.clone()),
            ("status", text::workflow_status(workflow.status).to_owned()),
            ("version", workflow.version.to_string()),
            ("etag", workflow.etag.clone()),
            ("labels", execution::labels(&workflow.labels)),
            ("inputs", declared_inputs(&workflow)),
            ("made of", origin(&workflow)),
            ("parameters", origin_values(&workflow)),
            ("created", execution::local(workflow.created_at.as_ref())),
            ("created by", workflow.created_by.clone()),
            ("updated", execution::local(workflow.updated_at.as_ref())),
            ("last run", execution::local(workflow.started_at.as_ref())),
        ]);
        for fault in &workflow.violations {
            told += &format!("fault: {}\n", violation_line(&fault.field, &fault.description, &fault.reason));
        }
        told + "\n" + &tasks_table(&workflow).render(width)
    })?;
    Ok(0)
}

async fn status(args: StatusArgs, context: &mut Context) -> Result<u8, CliError> {
    let request = GetWorkflowStatusRequest { workflow_id: args.id, execution_id: args.execution };
    let answer = connect::workflows(context.channel().await?).get_workflow_status(request).await?.into_inner();
    context.output.resource(&answer, || {
        properties(&[
            ("status", text::workflow_status(answer.status).to_owned()),
            ("execution", answer.execution_id.clone()),
            ("tasks", answer.task_counts.map(execution::counted).unwrap_or_default()),
            ("progress", execution::progress(answer.progress, answer.estimate_basis(), answer.estimated_from)),
            ("expected", execution::local(answer.eta.as_ref())),
        ])
    })?;
    Ok(0)
}

/// `template release, version 3`.
fn origin(workflow: &Workflow) -> String {
    let origin = workflow.template.as_ref();
    origin.map(|origin| format!("template {}, version {}", origin.template_id, origin.version)).unwrap_or_default()
}

/// `{"env":"staging"}`.
fn origin_values(workflow: &Workflow) -> String {
    let values = workflow.template.as_ref().and_then(|origin| origin.parameters.as_ref());
    // What cannot be written as JSON has no words here.
    values.and_then(|values| canonical(values).ok()).map(|values| values.to_string()).unwrap_or_default()
}

/// `env (required), replicas`.
fn declared_inputs(workflow: &Workflow) -> String {
    let shown = |input: &WorkflowInput| {
        if input.required { format!("{} (required)", input.name) } else { input.name.clone() }
    };
    workflow.inputs.iter().map(shown).collect::<Vec<_>>().join(", ")
}

pub(super) fn tasks_table(workflow: &Workflow) -> Table {
    let mut table = Table::new(&[
        Column::Whole("TASK"),
        Column::Flexible("DOES"),
        Column::Flexible("AFTER"),
        Column::Optional("AGENT"),
        Column::Optional("TIMEOUT"),
    ]);
    for task in &workflow.tasks {
        let does = match &task.action {
            Some(task::Action::Command(command)) => command.argv.join(" "),
            Some(task::Action::Noop(_)) => "nothing".to_owned(),
            Some(task::Action::Approval(approval)) => format!("asks: {}", approval.prompt),
            None => task.title.clone(),
        };
        let timeout = task.timeout.and_then(|timeout| std::time::Duration::try_from(timeout).ok());
        table.row(vec![
            task.id.clone(),
            does,
            task.dependencies.join(", "),
            task.agent_id.clone(),
            timeout.map(text::span).unwrap_or_default(),
        ]);
    }
    table
}

async fn execute(args: ExecuteArgs, context: &mut Context) -> Result<u8, CliError> {
    let patience = match args.wait.as_deref() {
        None | Some("") => None,
        Some(wait) => Some(wait_bound(wait)?),
    };
    let channel = context.channel().await?;
    let declared = match args.inputs.needs_declarations() {
        true => declared(channel.clone(), &args.id).await?,
        false => Vec::new(),
    };
    let request = ExecuteWorkflowRequest {
        inputs: inputs::message(args.inputs.read(&declared)?)?,
        workflow_id: args.id,
        labels: args.label.into_iter().collect(),
        request_id: request_id(),
        ..ExecuteWorkflowRequest::default()
    };
    let answer = connect::workflows(channel.clone()).execute_workflow(request).await?.into_inner();
    let started = answer.execution.ok_or(CliError::Incomplete("the execution"))?;
    if args.watch {
        let titles = fetched_titles(channel.clone(), &started).await?;
        talk(&format!("execution {}", text::escape(&started.id)));
        return execution::watch_to_end(channel, &started, titles, Some(0), context).await;
    }
    if args.wait.is_some() {
        return execution::wait_to_end(channel, &started, patience, context).await;
    }
    context.output.resource(&started, || format!("{}\n", text::escape(&started.id)))?;
    Ok(0)
}

/// The inputs that a workflow declares: only they say whether `3` is a number or a text.
async fn declared(channel: Channel, id: &str) -> Result<Vec<WorkflowInput>, CliError> {
    let request = GetWorkflowRequest { workflow_id: id.to_owned(), version: 0 };
    let answer = connect::workflows(channel).get_workflow(request).await?.into_inner();
    Ok(answer.workflow.ok_or(CliError::Incomplete("the workflow"))?.inputs)
}

pub(super) fn wait_bound(wait: &str) -> Result<std::time::Duration, CliError> {
    let span = text::parse_span(wait).map_err(|error| CliError::Usage(error.to_string()))?;
    span.try_into().map_err(|_| CliError::Usage(format!("`{wait}` is negative: nobody can wait so long")))
}

/// Titles are decoration: without them, as after a delete, the display shows ids.
async fn fetched_titles(channel: Channel, started: &WorkflowExecution) -> Result<HashMap<String, String>, CliError> {
    let request = GetWorkflowRequest { workflow_id: started.workflow_id.clone(), version: started.workflow_version };
    let answer = connect::workflows(channel).get_workflow(request).await;
    Ok(answer.ok().and_then(|answer| answer.into_inner().workflow).as_ref().map(run::titles).unwrap_or_default())
}

fn steered<T: serde::Serialize>(
    answer: &T,
    executions: &[WorkflowExecution],
    output: &mut Output,
) -> Result<u8, CliError> {
    let width = output.width();
    output.resource(answer, || ExecutionRows(executions).table().render(width))?;
    Ok(0)
}

async fn cancel(args: CancelArgs, context: &mut Context) -> Result<u8, CliError> {
    let SteerArgs { id, execution } = args.steer;
    let what = match execution.as_str() {
        "" => format!("every active execution of {}", text::escape(&id)),
        execution => format!("execution {}", text::escape(execution)),
    };
    confirm(&format!("Cancel {what}?"), Consent::from(args.yes))?;
    let request = CancelWorkflowRequest { workflow_id: id, execution_id: execution, request_id: request_id() };
    let answer = connect::workflows(context.channel().await?).cancel_workflow(request).await?.into_inner();
    steered(&answer, &answer.executions, &mut context.output)
}

async fn delete(args: DeleteArgs, context: &mut Context) -> Result<u8, CliError> {
    confirm(&format!("Delete workflow {}?", text::escape(&args.id)), Consent::from(args.yes))?;
    let told = format!("workflow {} is deleted; its history stays", text::escape(&args.id));
    let request = DeleteWorkflowRequest { workflow_id: args.id, etag: args.etag, request_id: request_id() };
    connect::workflows(context.channel().await?).delete_workflow(request).await?;
    talk(&told);
    Ok(0)
}

async fn history(args: HistoryArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::workflows(context.channel().await?);
    let mut listed = ListWorkflowHistoryResponse::default();
    loop {
        let request = ListWorkflowHistoryRequest {
            workflow_id: args.id.clone(),
            page_size: execution::page_size(args.limit, listed.executions.len()),
            page_token: listed.next_page_token,
            statuses: args.status.iter().map(|status| *status as i32).collect(),
        };
        let page = client.list_workflow_history(request).await?.into_inner();
        listed.executions.extend(page.executions);
        listed.next_page_token = page.next_page_token;
        if listed.next_page_token.is_empty() || execution::reached(args.limit, listed.executions.len()) {
            break;
        }
    }
    let width = context.output.width();
    context.output.resource(&listed, || ExecutionRows(&listed.executions).table().render(width))?;
    execution::say_more(&listed.next_page_token);
    Ok(0)
}

/// Plain lines for every execution of the workflow, told apart by the end of their ids: ids made in the same hour
/// begin alike.
async fn watch(args: WatchArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut watcher = Watcher::new(context.channel().await?, Subject::Workflow(args.id), args.from);
    let mut executions: HashMap<String, Progress> = HashMap::new();
    let mut messages = context.messages();
    while let Some(news) = watcher.next().await? {
        let News::Event(event) = news else { continue };
        if let Display::Messages(output) = &mut messages {
            output.message(&event)?;
            continue;
        }
        let told = match &event.kind {
            Some(Kind::WorkflowCreated(it)) => Some(format!("workflow created, version {}", it.version)),
            Some(Kind::WorkflowUpdated(it)) => Some(format!("workflow updated, version {}", it.version)),
            Some(Kind::WorkflowDeleted(it)) => Some(format!("workflow deleted at version {}", it.version)),
            _ => {
                let progress = executions.entry(event.execution_id.clone()).or_default();
                let told = match progress.apply(&event) {
                    Some(Happening::Ended(outcome)) => Some(format!("execution {}", outcome.word())),
                    Some(happening) => telling::plain_line(&happening, progress),
                    None => None,
                };
                if let Some(Kind::ApprovalRequested(_)) = &event.kind {
                    talk(&approval::hint(&event.execution_id, &event.task_id));
                }
                let tail = event.execution_id.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
                told.map(|told| format!("{} {told}", text::escape(&event.execution_id[tail..])))
            }
        };
        if executions.get(&event.execution_id).is_some_and(|progress| progress.outcome.is_some()) {
            executions.remove(&event.execution_id);
        }
        if let Some(told) = told {
            context.output.text(&format!("{} {told}\n", text::clock(event.time.as_ref())))?;
        }
    }
    Ok(0)
}
