//! `noxctl schedule backfill`: shows which times of the past are meant, asks, and has them made up.

use clap::Args;

use super::{firings_table, time_of};
use crate::{
    cli::{
        Context, connect,
        output::{Consent, confirm, talk},
        run::request_id,
        status::CliError,
        text,
    },
    proto::v1::{BackfillScheduleRequest, BackfillScheduleResponse, CancelBackfillRequest, OverlapPolicy},
};

/// Times that are shown to a person who is asked; `--dry-run` shows all.
const SHOWN: usize = 10;

/// Of `backfill`.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// The schedule.
    id: String,
    /// Only times after this one, such as `2026-10-24T00:00:00Z`.
    #[arg(long, value_name = "TIME")]
    from: String,
    /// Only times up to this one, and it; `now` is a time.
    #[arg(long, value_name = "TIME")]
    to: String,
    /// One after the other, or all at once; without it, all at once where the schedule says ALLOW_ALL.
    #[arg(long, value_name = "POLICY", value_parser = ["buffer-all", "allow-all"])]
    overlap: Option<String>,
    /// Only tell which times they are.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Has times of the past made up; the exit code.
pub(super) async fn backfill(args: BackfillArgs, context: &mut Context) -> Result<u8, CliError> {
    let overlap = match args.overlap.as_deref() {
        None => OverlapPolicy::Unspecified,
        Some("allow-all") => OverlapPolicy::AllowAll,
        Some(_) => OverlapPolicy::BufferAll,
    };
    let mut request = BackfillScheduleRequest {
        schedule_id: args.id,
        from: Some(time_of("--from", &args.from)?),
        to: Some(time_of("--to", &args.to)?),
        overlap_policy: overlap as i32,
        validate_only: true,
        request_id: String::new(),
    };
    let mut client = connect::schedules(context.channel().await?);
    let width = context.output.width();
    if args.dry_run || !args.yes {
        let planned = client.backfill_schedule(request.clone()).await?.into_inner();
        if args.dry_run {
            context.output.resource(&planned, || firings_table(&planned.firings).render(width))?;
            talk(&format!("{}; nothing was started", would_start(&planned)));
            return Ok(0);
        }
        if planned.firings.len() > 1 {
            talk(&listed(&planned, width));
            confirm(&format!("{}. Start them?", would_start(&planned)), Consent::Sought)?;
        }
    }
    (request.validate_only, request.request_id) = (false, request_id());
    let answer = client.backfill_schedule(request).await?.into_inner();
    context.output.resource(&answer, || taken(&answer))?;
    Ok(0)
}

/// The first times, and how many there are besides.
fn listed(planned: &BackfillScheduleResponse, width: Option<u16>) -> String {
    let shown = planned.firings.len().min(SHOWN);
    let table = firings_table(&planned.firings[..shown]).render(width);
    match planned.firings.len() - shown {
        0 => table.trim_end().to_owned(),
        more => format!("{table}… and {more} more; --dry-run shows all"),
    }
}

/// `24 executions of workflow audit, one after the other`
fn would_start(planned: &BackfillScheduleResponse) -> String {
    let workflow = planned.schedule.as_ref().map(|schedule| text::escape(&schedule.workflow_id)).unwrap_or_default();
    match planned.firings.len() {
        0 => "the schedule has no time in this span".to_owned(),
        1 => format!("1 execution of workflow {workflow}"),
        many => format!("{many} executions of workflow {workflow}, {}", order(planned)),
    }
}

fn order(planned: &BackfillScheduleResponse) -> &'static str {
    if planned.overlap_policy() == OverlapPolicy::AllowAll { "all at once" } else { "one after the other" }
}

fn taken(answer: &BackfillScheduleResponse) -> String {
    let id = answer.schedule.as_ref().map(|schedule| text::escape(&schedule.id)).unwrap_or_default();
    match answer.firings.len() {
        0 => format!("{id}  no time in this span\n"),
        1 => format!("{id}  1 time is made up\n"),
        many => format!("{id}  {many} times are made up, {}\n", order(answer)),
    }
}

/// Forgets the times that still wait; the exit code.
pub(super) async fn cancel(id: String, context: &mut Context) -> Result<u8, CliError> {
    let told =
        format!("no time of schedule {} waits to be made up any more; what was started goes on", text::escape(&id));
    let request = CancelBackfillRequest { schedule_id: id, request_id: request_id() };
    connect::schedules(context.channel().await?).cancel_backfill(request).await?;
    talk(&told);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{ScheduleFiring, ScheduledWorkflow};

    fn planned(times: i64, policy: OverlapPolicy) -> BackfillScheduleResponse {
        let firing = |minute| ScheduleFiring {
            time: Some(pbjson_types::Timestamp { seconds: 1_774_746_000 + 60 * minute, nanos: 0 }),
            local_time: "2026-03-29T03:00:00".into(),
            utc_offset: "+02:00".into(),
            ..ScheduleFiring::default()
        };
        let schedule =
            Some(ScheduledWorkflow { id: "s".into(), workflow_id: "audit".into(), ..ScheduledWorkflow::default() });
        let firings = (0..times).map(firing).collect();
        BackfillScheduleResponse { firings, schedule, overlap_policy: policy as i32 }
    }

    #[test]
    fn who_is_asked_sees_what_would_start_at_80_columns() {
        // S-SCHED-6
        let many = planned(24, OverlapPolicy::BufferAll);
        let shown = anstream::adapter::strip_str(&listed(&many, Some(80))).to_string();
        assert_eq!(shown.lines().count(), 1 + SHOWN + 1, "{shown}");
        assert!(shown.ends_with("… and 14 more; --dry-run shows all"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert_eq!(would_start(&many), "24 executions of workflow audit, one after the other");
        assert_eq!(taken(&planned(2, OverlapPolicy::AllowAll)), "s  2 times are made up, all at once\n");
        assert_eq!(would_start(&planned(0, OverlapPolicy::AllowAll)), "the schedule has no time in this span");
        assert_eq!(taken(&planned(1, OverlapPolicy::BufferAll)), "s  1 time is made up\n");
    }
}
