//! `noxctl schedule …`: one function per command.

use std::path::PathBuf;

use chrono::{DateTime, NaiveDateTime};
use clap::{Args, Subcommand};

use super::{
    Context, connect, execution, file,
    output::{Consent, Output, confirm, properties, talk},
    run::request_id,
    status::CliError,
    table::{Column, Table},
    text,
};
use crate::proto::v1::{
    CreateScheduleRequest, CronSchedule, DeleteScheduleRequest, GetScheduleRequest, IntervalSchedule,
    ListSchedulesRequest, ListSchedulesResponse, PauseScheduleRequest, PreviewScheduleRequest, ResumeScheduleRequest,
    Schedule, ScheduleFiring, ScheduledWorkflow, TriggerScheduleRequest, UpdateScheduleRequest, schedule::ScheduleType,
};

mod backfill;

/// Start workflows at their times.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Store a schedule from a file, or from an expression.
    #[command(after_help = "Examples:\n  noxctl schedule create -f nightly.yaml\n  \
                            noxctl schedule create nightly --workflow audit --cron \"30 2 * * *\" --timezone Europe/Berlin")]
    Create(CreateArgs),
    /// Store a new version of a schedule; what it started goes on.
    Update(UpdateArgs),
    /// List schedules, when they fire next and what became of their times, newest first.
    List(ListArgs),
    /// Show a schedule; `-o yaml` gives a file again.
    Show(IdArgs),
    /// Let a schedule go on, with the first time after now.
    Enable(IdArgs),
    /// Let a schedule start nothing; what it started goes on.
    Disable(DisableArgs),
    /// Start an execution now; the times of the schedule stay as they are.
    Trigger(IdArgs),
    /// Start executions for times of the past.
    #[command(after_help = "Examples:\n  \
                            noxctl schedule backfill nightly --from 2026-10-01T00:00:00Z --to now --dry-run\n  \
                            noxctl schedule backfill nightly --from 2026-10-01T00:00:00Z --to 2026-10-08T00:00:00Z")]
    Backfill(backfill::BackfillArgs),
    /// Forget the times of backfills that still wait; what was started goes on.
    CancelBackfill(IdArgs),
    /// Delete a schedule; what it started goes on.
    Delete(DeleteArgs),
    /// Show when a schedule would fire: an expression, an interval, or a file.
    #[command(after_help = "Examples:\n  noxctl schedule preview \"0 9 * * 1-5\" --timezone Europe/Berlin\n  \
                            noxctl schedule preview \"30 2 * * *\" --timezone Europe/Berlin --from 2026-10-24T00:00:00Z\n  \
                            noxctl schedule preview --every 90m --count 5")]
    Preview(PreviewArgs),
}

/// Of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its id, without a file; noxd makes one where it is left out.
    #[arg(conflicts_with = "file")]
    id: Option<String>,
    /// A schedule in YAML or JSON; `-` for standard input.
    #[arg(short, long, conflicts_with_all = ["workflow", "cron", "every", "timezone"], required_unless_present = "workflow")]
    file: Option<PathBuf>,
    /// The workflow that it starts.
    #[arg(long)]
    workflow: Option<String>,
    /// A cron expression, such as `0 9 * * 1-5`.
    #[arg(long, conflicts_with = "every", required_unless_present_any = ["every", "file"])]
    cron: Option<String>,
    /// An interval, such as `90m`.
    #[arg(long, value_name = "DURATION")]
    every: Option<String>,
    /// The IANA time zone whose clocks count, such as `Europe/Berlin`; without it, UTC.
    #[arg(long, default_value = "", hide_default_value = true)]
    timezone: String,
    /// Only check it, and tell when it would fire first.
    #[arg(long)]
    dry_run: bool,
}

/// Of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// A schedule in YAML or JSON; `-` for standard input.
    #[arg(short, long)]
    file: PathBuf,
    /// Refuse if it was changed since this etag was read; the file's own `etag` does the same.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Only check it, and tell when it would fire next.
    #[arg(long)]
    dry_run: bool,
}

/// Of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this workflow.
    #[arg(long, default_value = "", hide_default_value = true)]
    workflow: String,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Of commands about one schedule.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The schedule.
    id: String,
}

/// Of `disable`.
#[derive(Debug, Args)]
pub struct DisableArgs {
    /// The schedule.
    id: String,
    /// Why, for people.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

/// Of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The schedule.
    id: String,
    /// Refuse if it was changed since this etag was read.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Of `preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// A cron expression, such as `0 9 * * 1-5`, or a macro, such as `@daily`.
    #[arg(required_unless_present_any = ["every", "file"])]
    expression: Option<String>,
    /// An interval instead, such as `90m`.
    #[arg(long, value_name = "DURATION", conflicts_with = "expression")]
    every: Option<String>,
    /// The schedule of a file instead, in YAML or JSON; `-` for standard input.
    #[arg(short, long, conflicts_with_all = ["expression", "every", "timezone"])]
    file: Option<PathBuf>,
    /// The IANA time zone whose clocks count, such as `Europe/Berlin`; without it, UTC.
    #[arg(long, default_value = "", hide_default_value = true)]
    timezone: String,
    /// How many firings, at most 1,000.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    count: i32,
    /// Only firings after this time, such as `2026-10-24T00:00:00Z`; without it, after now.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
}

/// Does a `schedule` command; the exit code.
pub async fn run(command: ScheduleCommand, context: &mut Context) -> Result<u8, CliError> {
    const MISSING: CliError = CliError::Incomplete("the schedule");
    match command {
        ScheduleCommand::Create(args) => create(args, context).await,
        ScheduleCommand::Update(args) => update(args, context).await,
        ScheduleCommand::List(args) => list(args, context).await,
        ScheduleCommand::Show(args) => show(args, context).await,
        ScheduleCommand::Enable(args) => {
            let request = ResumeScheduleRequest { schedule_id: args.id, request_id: request_id() };
            let answer = connect::schedules(context.channel().await?).resume_schedule(request).await?.into_inner();
            stored(&answer.schedule.ok_or(MISSING)?, &mut context.output)
        }
        ScheduleCommand::Disable(args) => {
            let request = PauseScheduleRequest { schedule_id: args.id, note: args.note, request_id: request_id() };
            let answer = connect::schedules(context.channel().await?).pause_schedule(request).await?.into_inner();
            stored(&answer.schedule.ok_or(MISSING)?, &mut context.output)
        }
        ScheduleCommand::Trigger(args) => {
            let request = TriggerScheduleRequest { schedule_id: args.id, request_id: request_id() };
            let answer = connect::schedules(context.channel().await?).trigger_schedule(request).await?.into_inner();
            let started = answer.execution.ok_or(CliError::Incomplete("the execution"))?;
            context.output.resource(&started, || format!("{}\n", text::escape(&started.id)))?;
            Ok(0)
        }
        ScheduleCommand::Backfill(args) => backfill::backfill(args, context).await,
        ScheduleCommand::CancelBackfill(args) => backfill::cancel(args.id, context).await,
        ScheduleCommand::Delete(args) => delete(args, context).await,
        ScheduleCommand::Preview(args) => preview(args, context).await,
    }
}

async fn create(args: CreateArgs, context: &mut Context) -> Result<u8, CliError> {
    let schedule = match (args.file, args.workflow) {
        (Some(file), _) => file::read_scheduled_workflow(&file)?,
        (None, workflow) => ScheduledWorkflow {
            id: args.id.unwrap_or_default(),
            workflow_id: workflow.unwrap_or_default(),
            schedule: Some(times(args.cron, args.every, args.timezone)?),
            ..ScheduledWorkflow::default()
        },
    };
    let (schedule, validate_only) = (Some(schedule), args.dry_run);
    let request = CreateScheduleRequest { schedule, request_id: request_id(), validate_only };
    let answer = connect::schedules(context.channel().await?).create_schedule(request).await?.into_inner();
    stored(&answer.schedule.ok_or(CliError::Incomplete("the schedule"))?, &mut context.output)?;
    say_if_dry(validate_only);
    Ok(0)
}

/// When it fires, of an expression or an interval.
fn times(expression: Option<String>, every: Option<String>, timezone: String) -> Result<Schedule, CliError> {
    let schedule_type = match expression {
        Some(expression) => ScheduleType::Cron(CronSchedule { expression }),
        None => {
            let interval = text::parse_span(&every.unwrap_or_default());
            let interval = interval.map_err(|error| CliError::Usage(format!("--every: {error}")))?;
            ScheduleType::Interval(IntervalSchedule { interval: Some(interval) })
        }
    };
    Ok(Schedule { schedule_type: Some(schedule_type), timezone, ..Schedule::default() })
}

async fn update(args: UpdateArgs, context: &mut Context) -> Result<u8, CliError> {
    let schedule = file::read_scheduled_workflow(&args.file)?;
    if schedule.id.is_empty() {
        return Err(CliError::Usage("the file must have the `id` of the schedule to update".to_owned()));
    }
    let (schedule, etag, validate_only) = (Some(schedule), args.etag, args.dry_run);
    let request = UpdateScheduleRequest { schedule, etag, request_id: request_id(), update_mask: None, validate_only };
    let answer = connect::schedules(context.channel().await?).update_schedule(request).await?.into_inner();
    stored(&answer.schedule.ok_or(CliError::Incomplete("the schedule"))?, &mut context.output)?;
    say_if_dry(validate_only);
    Ok(0)
}

fn say_if_dry(dry: bool) {
    if dry {
        talk("nothing was stored");
    }
}

fn stored(schedule: &ScheduledWorkflow, output: &mut Output) -> Result<u8, CliError> {
    output.resource(schedule, || {
        let next = match (schedule.enabled(), &schedule.next_execution) {
            (false, _) => "disabled".to_owned(),
            (true, None) => "no time to come".to_owned(),
            (true, next) => format!("next {}", execution::local(next.as_ref())),
        };
        format!("{}  version {}  {next}\n", text::escape(&schedule.id), schedule.version)
    })?;
    Ok(0)
}

async fn list(args: ListArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::schedules(context.channel().await?);
    let mut listed = ListSchedulesResponse::default();
    loop {
        let request = ListSchedulesRequest {
            page_size: execution::page_size(args.limit, listed.schedules.len()),
            page_token: listed.next_page_token,
            workflow_id: args.workflow.clone(),
        };
        let page = client.list_schedules(request).await?.into_inner();
        listed.schedules.extend(page.schedules);
        listed.next_page_token = page.next_page_token;
        if listed.next_page_token.is_empty() || execution::reached(args.limit, listed.schedules.len()) {
            break;
        }
    }
    let width = context.output.width();
    context.output.resource(&listed, || schedules_table(&listed.schedules).render(width))?;
    execution::say_more(&listed.next_page_token);
    Ok(0)
}

fn schedules_table(schedules: &[ScheduledWorkflow]) -> Table {
    let mut table = Table::new(&[
        Column::Whole("ID"),
        Column::Flexible("WORKFLOW"),
        Column::Whole("TIMES"),
        Column::Whole("NEXT"),
        Column::Optional("FIRED"),
        Column::Optional("SKIPPED"),
        Column::Optional("MISSED"),
        Column::Optional("LAST"),
    ]);
    for schedule in schedules {
        table.row(vec![
            schedule.id.clone(),
            schedule.workflow_id.clone(),
            // Half an expression means something else: usual ones are shown whole.
            text::shorten(&schedule.schedule.as_ref().map(times_in_words).unwrap_or_default(), 36),
            if schedule.enabled() { execution::local(schedule.next_execution.as_ref()) } else { "disabled".to_owned() },
            schedule.execution_count.to_string(),
            schedule.skipped_count.to_string(),
            schedule.missed_count.to_string(),
            execution::local(schedule.last_execution.as_ref()),
        ]);
    }
    table
}

/// `0 9 * * 1-5 Europe/Berlin`, `every 1h 30m`, `once 2026-10-24 00:00:00Z`.
fn times_in_words(times: &Schedule) -> String {
    match &times.schedule_type {
        Some(ScheduleType::Cron(cron)) => format!("{} {}", cron.expression, times.timezone).trim_end().to_owned(),
        Some(ScheduleType::Interval(every)) => {
            let span = every.interval.and_then(|span| std::time::Duration::try_from(span).ok()).unwrap_or_default();
            format!("every {}", text::span(span))
        }
        Some(ScheduleType::Once(once)) => {
            let at = once.execute_at.as_ref().and_then(text::moment);
            format!("once {}", at.map(|at| at.format("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default())
        }
        None => String::new(),
    }
}

async fn show(args: IdArgs, context: &mut Context) -> Result<u8, CliError> {
    let request = GetScheduleRequest { schedule_id: args.id };
    let answer = connect::schedules(context.channel().await?).get_schedule(request).await?.into_inner();
    let schedule = answer.schedule.ok_or(CliError::Incomplete("the schedule"))?;
    let some = |count: u64| if count == 0 { String::new() } else { count.to_string() };
    context.output.resource(&schedule, || {
        let short = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_owned();
        properties(&[
            ("id", schedule.id.clone()),
            ("description", schedule.description.clone()),
            ("workflow", schedule.workflow_id.clone()),
            ("times", schedule.schedule.as_ref().map(times_in_words).unwrap_or_default()),
            ("enabled", if schedule.enabled() { "yes" } else { "no" }.to_owned()),
            ("note", schedule.note.clone()),
            ("overlap", short(schedule.overlap_policy().as_str_name(), "OVERLAP_POLICY_")),
            ("catch up", short(schedule.catch_up().as_str_name(), "CATCH_UP_POLICY_")),
            ("retries", schedule.retry_config.as_ref().map(execution::retries).unwrap_or_default()),
            ("next", execution::local(schedule.next_execution.as_ref())),
            ("runs left", schedule.remaining_runs.map(|left| left.to_string()).unwrap_or_default()),
            ("last", execution::local(schedule.last_execution.as_ref())),
            ("last execution", schedule.last_execution_id.clone()),
            ("fired", schedule.execution_count.to_string()),
            ("skipped", some(schedule.skipped_count)),
            ("missed", some(schedule.missed_count)),
            ("waiting", some(schedule.buffered.len() as u64)),
            ("backfills", some(schedule.backfill_count)),
            ("to make up", some(schedule.backfill_waiting.into())),
            ("version", schedule.version.to_string()),
            ("etag", schedule.etag.clone()),
            ("created", execution::local(schedule.created_at.as_ref())),
            ("created by", schedule.created_by.clone()),
        ])
    })?;
    Ok(0)
}

async fn delete(args: DeleteArgs, context: &mut Context) -> Result<u8, CliError> {
    confirm(&format!("Delete schedule {}?", text::escape(&args.id)), Consent::from(args.yes))?;
    let told = format!("schedule {} is deleted; what it started goes on", text::escape(&args.id));
    let request = DeleteScheduleRequest { schedule_id: args.id, etag: args.etag, request_id: request_id() };
    connect::schedules(context.channel().await?).delete_schedule(request).await?;
    talk(&told);
    Ok(0)
}

async fn preview(args: PreviewArgs, context: &mut Context) -> Result<u8, CliError> {
    let schedule = match args.file {
        Some(file) => file::read_scheduled_workflow(&file)?.schedule.unwrap_or_default(),
        None => times(args.expression, args.every, args.timezone)?,
    };
    let from = args.from.as_deref().map(|from| time_of("--from", from)).transpose()?;
    let request = PreviewScheduleRequest { schedule: Some(schedule), from, count: args.count };
    let answer = connect::schedules(context.channel().await?).preview_schedule(request).await?.into_inner();
    let width = context.output.width();
    context.output.resource(&answer, || firings_table(&answer.firings).render(width))?;
    Ok(0)
}

#[expect(clippy::disallowed_methods, reason = "`now` is when a person says it")]
fn time_of(flag: &str, text: &str) -> Result<pbjson_types::Timestamp, CliError> {
    if text == "now" {
        return Ok(chrono::Utc::now().into());
    }
    let time = DateTime::parse_from_rfc3339(text);
    let words =
        format!("{flag}: `{}` is no time: write one such as 2026-10-24T00:00:00Z, or `now`", text::escape(text));
    Ok(time.map_err(|_| CliError::Usage(words))?.to_utc().into())
}

fn firings_table(firings: &[ScheduleFiring]) -> Table {
    let mut table = Table::new(&[
        Column::Whole("DAY"),
        Column::Whole("LOCAL TIME"),
        Column::Whole("OFFSET"),
        Column::Whole("ZONE"),
        Column::Whole("UTC"),
        Column::Flexible("NOTE"),
    ]);
    for firing in firings {
        let day = firing.local_time.parse::<NaiveDateTime>().map(|local| local.format("%a").to_string());
        let utc = firing.time.as_ref().and_then(text::moment);
        table.row(vec![
            day.unwrap_or_default(),
            firing.local_time.replace('T', " "),
            firing.utc_offset.clone(),
            firing.abbreviation.clone(),
            utc.map(|time| time.format("%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
            firing.note.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_80_columns_a_preview_has_the_day_the_offset_and_what_the_clocks_do() {
        // S-SCHED-6
        let firing = ScheduleFiring {
            time: Some(pbjson_types::Timestamp { seconds: 1_774_746_000, nanos: 0 }),
            local_time: "2026-03-29T03:00:00".into(),
            utc_offset: "+02:00".into(),
            note: "after the gap".into(),
            abbreviation: "CEST".into(),
        };
        let shown = anstream::adapter::strip_str(&firings_table(&[firing]).render(Some(80))).to_string();
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for words in ["Sun", "2026-03-29 03:00:00", "+02:00", "CEST", "03-29 01:00:00Z", "after the gap"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    #[test]
    fn at_80_columns_a_list_says_what_fires_when() {
        // S-SCHED-6
        let times = Schedule {
            schedule_type: Some(ScheduleType::Cron(CronSchedule { expression: "0 9 * * 1-5".into() })),
            timezone: "Europe/Berlin".into(),
            ..Schedule::default()
        };
        let schedule = ScheduledWorkflow {
            id: "weekday-mornings".into(),
            workflow_id: "audit".into(),
            schedule: Some(times),
            enabled: Some(false),
            ..ScheduledWorkflow::default()
        };
        let shown = schedules_table(&[schedule]).render(Some(80));
        let shown = anstream::adapter::strip_str(&shown).to_string();
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for words in ["weekday-mornings", "audit", "0 9 * * 1-5 Europe/Berlin", "disabled"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    #[test]
    fn a_time_is_read_as_it_is_written_elsewhere_or_refused() {
        assert_eq!(time_of("--from", "2026-03-29T03:00:00+02:00").expect("a time").seconds, 1_774_746_000);
        assert!(time_of("--to", "tomorrow").unwrap_err().to_string().contains("--to: `tomorrow` is no time"));
    }
}
