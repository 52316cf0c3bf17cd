//! `noxctl execution …`: one function per command, and how executions are shown.

use std::{collections::HashMap, time::Duration};

use clap::{Args, Subcommand};
use pbjson_types::Timestamp;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::{
    Context, Labels, approval, connect,
    display::Display,
    explain, logs,
    output::{Format, properties, talk},
    parse_label, parse_workflow_status,
    progress::Progress,
    run,
    status::CliError,
    table::{Column, Table},
    task, text,
    watch::{self, Subject, Watcher, outcome_of},
    workflow::WatchArgs,
};
use crate::proto::v1::{
    EstimateBasis, GetExecutionRequest, ListExecutionsRequest, ListExecutionsResponse, ListTasksRequest, RetryConfig,
    TaskCounts, TaskExecution, TaskStatus, WorkflowExecution, WorkflowStatus,
};

/// See what executions did and do.
#[derive(Debug, Subcommand)]
pub enum ExecutionCommand {
    /// List executions, newest first.
    List(ListArgs),
    /// Show an execution and its tasks, or one task with its output.
    Show(ShowArgs),
    /// Show its progress to the end; the exit code is the outcome.
    Watch(WatchArgs),
    /// Print what a task wrote.
    #[command(
        after_help = "What the task wrote to standard output goes to standard output, the rest to standard error.\n\n\
                      Examples:\n  noxctl execution logs 0199… build --follow\n  noxctl execution logs 0199… build 2>/dev/null | tail"
    )]
    Logs(logs::LogsArgs),
    /// Say why a task does not run.
    Explain(explain::ExplainArgs),
    /// Run an execution that has ended again; what succeeded keeps its result.
    #[command(after_help = "Examples:\n  noxctl execution rerun 0199… --dry-run\n  noxctl execution rerun 0199…\n  \
                      noxctl execution rerun 0199… build")]
    Rerun(explain::RerunArgs),
    /// Say yes to a task that waits for an answer.
    Approve(approval::AnswerArgs),
    /// Say no to a task that waits for an answer: it fails.
    Reject(approval::AnswerArgs),
}

/// Of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only of this workflow.
    #[arg(long, default_value = "", hide_default_value = true)]
    workflow: String,
    /// Only with this status, as FAILED; may be repeated.
    #[arg(long, value_parser = parse_workflow_status)]
    status: Vec<WorkflowStatus>,
    /// Only with this label; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The execution.
    id: String,
    /// One of its tasks: with all its tries and its whole output.
    task: Option<String>,
}

/// Does an `execution` command; the exit code.
pub async fn run(command: ExecutionCommand, context: &mut Context) -> Result<u8, CliError> {
    match command {
        ExecutionCommand::List(args) => list(args, context).await,
        ExecutionCommand::Show(args) => {
            if let Some(task) = &args.task {
                return task::show(&args.id, task, context).await;
            }
            let channel = context.channel().await?;
            let execution = fetch(channel.clone(), &args.id).await?;
            show(channel, &execution, context).await?;
            Ok(0)
        }
        ExecutionCommand::Watch(args) => {
            let channel = context.channel().await?;
            let execution = fetch(channel.clone(), &args.id).await?;
            let titles = run::task_titles(&execution);
            watch_to_end(channel, &execution, titles, args.from, context).await
        }
        ExecutionCommand::Logs(args) => logs::print(args, context).await,
        ExecutionCommand::Explain(args) => explain::explain(args, context).await,
        ExecutionCommand::Rerun(args) => explain::rerun(args, context).await,
        ExecutionCommand::Approve(args) => approval::answer(args, true, context).await,
        ExecutionCommand::Reject(args) => approval::answer(args, false, context).await,
    }
}

async fn list(args: ListArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::executions(context.channel().await?);
    let mut listed = ListExecutionsResponse::default();
    let labels: Labels = args.label.into_iter().collect();
    loop {
        let request = ListExecutionsRequest {
            page_size: page_size(args.limit, listed.executions.len()),
            page_token: listed.next_page_token,
            workflow_id: args.workflow.clone(),
            statuses: args.status.iter().map(|status| *status as i32).collect(),
            labels: labels.clone(),
            ..ListExecutionsRequest::default()
        };
        let page = client.list_executions(request).await?.into_inner();
        listed.executions.extend(page.executions);
        listed.next_page_token = page.next_page_token;
        if listed.next_page_token.is_empty() || reached(args.limit, listed.executions.len()) {
            break;
        }
    }
    let width = context.output.width();
    context.output.resource(&listed, || ExecutionRows(&listed.executions).table().render(width))?;
    say_more(&listed.next_page_token);
    Ok(0)
}

/// Shows progress until the execution has ended; the exit code is the outcome. An interrupt only ends the watching.
pub(super) async fn watch_to_end(
    channel: Channel,
    execution: &WorkflowExecution,
    titles: HashMap<String, String>,
    from: Option<u64>,
    context: &mut Context,
) -> Result<u8, CliError> {
    let options = run::RunOptions {
        log_hint: "noxctl execution logs {execution} {task}".to_owned(),
        answer_hint: "noxctl execution approve {execution} {task} (or reject)".to_owned(),
        ..run::RunOptions::default()
    };
    let mut display = context.messages();
    // Lines and messages may begin anywhere; a picture of the whole needs the whole, which is short.
    if from.is_none_or(|from| from == 0) && !matches!(display, Display::Messages(_)) {
        let (_nobody, interrupts) = mpsc::channel(1);
        let outcome = run::run_execution(channel, execution, titles, display, options, interrupts).await?;
        return Ok(outcome.exit_code());
    }
    let mut progress = Progress::with_titles(titles);
    if !matches!(display, Display::Messages(_)) {
        display = Display::Plain;
    }
    let mut watcher = Watcher::new(channel.clone(), Subject::Execution(execution.id.clone()), Some(from.unwrap_or(0)));
    watch::follow(&mut watcher, &mut progress, &mut display).await?;
    let ended = fetch(channel, &execution.id).await?;
    let outcome = outcome_of(&ended).ok_or(CliError::Incomplete("the execution's end"))?;
    if display.is_plain() {
        talk(&format!("execution {}", outcome.word()));
    }
    Ok(outcome.exit_code())
}

/// Waits for the end without a word, at most `patience`, then shows the execution; the exit code is the outcome.
pub(super) async fn wait_to_end(
    channel: Channel,
    started: &WorkflowExecution,
    patience: Option<Duration>,
    context: &mut Context,
) -> Result<u8, CliError> {
    let mut watcher = Watcher::new(channel.clone(), Subject::Execution(started.id.clone()), Some(0));
    let mut progress = Progress::default();
    let mut display = Display::Quiet;
    let end = watch::follow(&mut watcher, &mut progress, &mut display);
    match patience {
        Some(patience) => match tokio::time::timeout(patience, end).await {
            Ok(ended) => ended?,
            Err(_) => talk(&format!("it has not ended within {}", text::span(patience))),
        },
        None => end.await?,
    }
    let execution = fetch(channel.clone(), &started.id).await?;
    show(channel, &execution, context).await?;
    match outcome_of(&execution) {
        Some(outcome) => Ok(outcome.exit_code()),
        None => Err(CliError::NotYet(format!(
            "execution {} is {}",
            text::escape(&execution.id),
            text::workflow_status(execution.status)
        ))),
    }
}

async fn fetch(channel: Channel, id: &str) -> Result<WorkflowExecution, CliError> {
    let request = GetExecutionRequest { execution_id: id.to_owned(), wait: None };
    let answer = connect::executions(channel).get_execution(request).await?.into_inner();
    answer.execution.ok_or(CliError::Incomplete("the execution"))
}

async fn show(channel: Channel, execution: &WorkflowExecution, context: &mut Context) -> Result<(), CliError> {
    let width = context.output.width();
    context.output.resource(execution, || details(execution) + "\n")?;
    if context.output.format() != Format::Table {
        return Ok(());
    }
    if !execution.tasks.is_empty() {
        return context.output.text(&tasks_table(&execution.tasks).render(width));
    }
    // Above 1,000 tasks the answer leaves them out, and they are shown page by page.
    let mut client = connect::executions(channel);
    let mut page_token = String::new();
    loop {
        let request =
            ListTasksRequest { execution_id: execution.id.clone(), page_size: PAGE, page_token, statuses: Vec::new() };
        let page = client.list_tasks(request).await?.into_inner();
        context.output.text(&tasks_table(&page.tasks).render(width))?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

/// `1 completed, 2 running of 3`.
pub(super) fn counted(counts: TaskCounts) -> String {
    let counted: Vec<String> = [
        (counts.completed, "completed"),
        (counts.running, "running"),
        (counts.queued, "queued"),
        (counts.pending, "pending"),
        (counts.waiting, "waiting"),
        (counts.retrying, "retrying"),
        (counts.failed, "failed"),
        (counts.timed_out, "timed out"),
        (counts.skipped, "skipped"),
        (counts.blocked, "blocked"),
        (counts.cancelled, "cancelled"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    format!("{} of {}", counted.join(", "), counts.total)
}

fn details(execution: &WorkflowExecution) -> String {
    properties(&[
        ("execution", execution.id.clone()),
        ("workflow", format!("{} (version {})", execution.workflow_id, execution.workflow_version)),
        ("status", status(execution)),
        ("tasks", counted(execution.task_counts.unwrap_or_default())),
        ("progress", progress(execution.progress, execution.estimate_basis(), execution.estimated_from)),
        ("expected", local(execution.eta.as_ref())),
        ("inputs", inputs(execution)),
        ("repeats", execution.rerun_of.clone()),
        ("schedule", scheduled(execution)),
        ("retries", execution.retry_config.as_ref().map(retries).unwrap_or_default()),
        ("labels", labels(&execution.labels)),
        ("started", local(execution.started_at.as_ref())),
        ("ended", local(execution.completed_at.as_ref())),
        ("took", took(execution.started_at.as_ref(), execution.completed_at.as_ref())),
        ("by", execution.created_by.clone()),
        ("error", execution.error.as_ref().map(|error| error.message.clone()).unwrap_or_default()),
        ("remedy", remedy(execution)),
    ])
}

/// `30%, by how long tasks took in 12 earlier executions`; empty at the end.
pub(super) fn progress(percent: f64, basis: EstimateBasis, executions: u64) -> String {
    let by = match (basis, executions) {
        (EstimateBasis::Unspecified, _) => return String::new(),
        (EstimateBasis::Count, _) => "by the number of tasks".to_owned(),
        (EstimateBasis::History, 1) => "by how long tasks took in 1 earlier execution".to_owned(),
        (EstimateBasis::History, executions) => format!("by how long tasks took in {executions} earlier executions"),
    };
    format!("{:.0}%, {by}", percent.floor())
}

/// What it was given, as JSON.
fn inputs(execution: &WorkflowExecution) -> String {
    let json = execution.inputs.as_ref().and_then(|inputs| super::output::canonical(inputs).ok());
    json.map(|json| json.to_string()).unwrap_or_default()
}

/// `up to 5 attempts, where a task does not say so itself`
pub(super) fn retries(retry: &RetryConfig) -> String {
    format!("up to {} attempts, where a task does not say so itself", retry.max_attempts)
}

/// `nightly, for 2026-10-24 02:30:00 (backfill)`
fn scheduled(execution: &WorkflowExecution) -> String {
    let schedule = &execution.schedule_id;
    match &execution.scheduled_for {
        _ if schedule.is_empty() => String::new(),
        None => format!("{schedule}, triggered"),
        at if execution.backfill => format!("{schedule}, for {} (backfill)", local(at.as_ref())),
        at => format!("{schedule}, for {}", local(at.as_ref())),
    }
}

fn remedy(execution: &WorkflowExecution) -> String {
    let error = execution.error.as_ref().and_then(|error| error.task_error.as_ref());
    error.map(|error| error.remedy.clone()).unwrap_or_default()
}

fn tasks_table(tasks: &[TaskExecution]) -> Table {
    let mut columns = vec![
        Column::Whole("TASK"),
        Column::Whole("STATUS"),
        Column::Whole("TOOK"),
        Column::Flexible("NOTE"),
        Column::Optional("TRIES"),
    ];
    // Most workflows have neither, and the room is the note's.
    let (roles, agents) =
        (tasks.iter().any(|task| !role(task).is_empty()), tasks.iter().any(|task| !task.agent_id.is_empty()));
    columns.extend(
        [(roles, "ROLE"), (agents, "AGENT")].iter().filter(|(any, _)| *any).map(|(_, name)| Column::Optional(name)),
    );
    let mut table = Table::new(&columns);
    for task in tasks {
        let mut row = vec![
            task.task_id.clone(),
            text::task_status(task.status).to_owned(),
            took(task.started_at.as_ref(), task.completed_at.as_ref()),
            note(task),
            task.attempts.len().to_string(),
        ];
        row.extend(roles.then(|| role(task)));
        row.extend(agents.then(|| task.agent_id.clone()));
        table.row(row);
    }
    table
}

/// `on_failure` or `finally`; empty for an ordinary task.
pub(super) fn role(task: &TaskExecution) -> String {
    if task.role == "ordinary" { String::new() } else { task.role.clone() }
}

/// What a person wants to know next about a task: why it failed, what holds it up, or what it is.
fn note(task: &TaskExecution) -> String {
    if !task.blocked_by.is_empty() {
        return format!("blocked by {}", task.blocked_by);
    }
    match (&task.error, task.waiting_for.as_slice()) {
        (Some(error), _) if task.status() != TaskStatus::Completed => error.message.clone(),
        (_, []) if task.reused => "its result is that of the execution before".to_owned(),
        (_, []) => task.title.clone(),
        (_, waiting_for) => waiting_for.join(", "),
    }
}

/// Executions as rows of a table.
pub(super) struct ExecutionRows<'a>(pub &'a [WorkflowExecution]);

impl ExecutionRows<'_> {
    /// The table.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&[
            Column::Whole("EXECUTION"),
            Column::Flexible("WORKFLOW"),
            Column::Whole("STATUS"),
            Column::Whole("STARTED"),
            Column::Optional("TOOK"),
        ]);
        for execution in self.0 {
            table.row(vec![
                execution.id.clone(),
                execution.workflow_id.clone(),
                status(execution),
                local(execution.started_at.as_ref().or(execution.created_at.as_ref())),
                match &execution.eta {
                    Some(eta) => left(eta),
                    None => took(execution.started_at.as_ref(), execution.completed_at.as_ref()),
                },
            ]);
        }
        table
    }
}

/// `RUNNING 45%`, `RUNNING, cancelling`, `FAILED`.
fn status(execution: &WorkflowExecution) -> String {
    let word = text::workflow_status(execution.status);
    match outcome_of(execution) {
        Some(_) => word.to_owned(),
        None if execution.cancel_requested_at.is_some() => format!("{word} ending"),
        None => format!("{word} {:.0}%", execution.progress.floor()),
    }
}

/// From one moment to another; empty when there is none.
pub(super) fn took(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    text::between(from, to).map(text::span).unwrap_or_default()
}

/// `3m 04s left`, of what has not ended.
#[expect(clippy::disallowed_methods, reason = "how long it takes still, as a person is shown it")]
fn left(eta: &Timestamp) -> String {
    let left = text::between(Some(&chrono::Utc::now().into()), Some(eta)).unwrap_or_default();
    format!("{} left", text::span(left))
}

/// A moment in the local time zone, and how long ago; empty when there is none.
#[expect(clippy::disallowed_methods, reason = "how long ago, as a person is shown it")]
pub(super) fn local(time: Option<&Timestamp>) -> String {
    let moment = time.and_then(text::moment).map(|time| time.with_timezone(&chrono::Local));
    moment.map(|moment| text::when(&moment, &chrono::Local::now())).unwrap_or_default()
}

/// `env=prod, team=core`, in the order of the alphabet: a map has none.
pub(super) fn labels(labels: &Labels) -> String {
    let mut pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort_unstable();
    pairs.join(", ")
}

/// How many to ask for when `have` of `limit` are here.
pub(super) fn page_size(limit: u32, have: usize) -> i32 {
    let missing = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(have);
    i32::try_from(missing).unwrap_or(PAGE).clamp(1, PAGE)
}

/// Whether there are as many as were asked for.
pub(super) fn reached(limit: u32, have: usize) -> bool {
    usize::try_from(limit).is_ok_and(|limit| have >= limit)
}

/// Says that a list is not all there is.
pub(super) fn say_more(next_page_token: &str) {
    if !next_page_token.is_empty() {
        talk("there are more: raise --limit");
    }
}

// The most that the server gives at once.
const PAGE: i32 = 1_000;
