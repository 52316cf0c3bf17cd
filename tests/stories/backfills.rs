//! Stories of times of the past that somebody has made up: over a kill, by a person, and refused.

use std::collections::BTreeSet;

use crate::{
    calls::reason,
    command_line::{all_text, noxctl, text},
    schedules::{cron, with_gate},
    support::Noxd,
};
use noxd::{cli::connect, proto::v1};
use tokio_stream::StreamExt as _;

/// 2026-10-01T00:00:00Z.
const OCTOBER: i64 = 1_790_812_800;
const HOUR: i64 = 3_600;
const NONE: [i64; 0] = [];

fn at(seconds: i64) -> Option<pbjson_types::Timestamp> {
    Some(pbjson_types::Timestamp { seconds, nanos: 0 })
}

/// A schedule of `w` at each full hour that does not fire by itself.
async fn hourly_but_disabled(noxd: &Noxd) {
    let schedule = Some(cron("0 * * * *", ""));
    let hourly = v1::ScheduledWorkflow {
        id: "s".into(),
        workflow_id: "w".into(),
        schedule,
        enabled: Some(false),
        ..Default::default()
    };
    noxd.store_schedule(hourly).await.expect("stored");
}

/// The times of the first hours of October.
fn first_hours(hours: i64, request_id: &str) -> v1::BackfillScheduleRequest {
    v1::BackfillScheduleRequest {
        schedule_id: "s".into(),
        from: at(OCTOBER),
        to: at(OCTOBER + hours * HOUR),
        request_id: request_id.into(),
        ..Default::default()
    }
}

impl Noxd {
    async fn backfill(
        &self,
        request: v1::BackfillScheduleRequest,
    ) -> Result<v1::BackfillScheduleResponse, tonic::Status> {
        let answer = connect::schedules(self.channel().await).backfill_schedule(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// The hours of October that executions are for, each a backfill of the schedule; none has two.
    async fn hours_made_up(&self) -> Vec<i64> {
        let executions = self.all_executions().await;
        let hours: BTreeSet<i64> = executions
            .iter()
            .map(|execution| {
                assert!(execution.backfill && execution.schedule_id == "s", "{execution:?}");
                (execution.scheduled_for.as_ref().expect("it is for a time").seconds - OCTOBER) / HOUR
            })
            .collect();
        assert_eq!(hours.len(), executions.len(), "none was made up twice");
        hours.into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_goes_on_after_a_kill_and_makes_up_each_time_once() {
    // S-SCHED-6, S-SCHED-7, S-SAFE-1, S-SAFE-3
    let mut noxd = Noxd::start().await;
    let go = with_gate(&noxd).await;
    hourly_but_disabled(&noxd).await;
    let answer = noxd.backfill(first_hours(40, "october")).await.expect("taken");
    assert_eq!(answer.firings.len(), 40);
    assert_eq!(answer.overlap_policy(), v1::OverlapPolicy::BufferAll);
    noxd.schedule_becomes("s", |schedule| schedule.backfill_waiting == 39).await;
    // The first one waits at its gate, and all the others for it.
    noxd.kill_now();
    noxd.start_again().await;
    assert_eq!(noxd.hours_made_up().await, [1]);
    std::fs::write(&go, "").expect("open");
    noxd.schedule_becomes("s", |schedule| schedule.backfill_count >= 5).await;
    // Now while they run one after the other.
    noxd.kill_now();
    noxd.start_again().await;
    let schedule = noxd.schedule_becomes("s", |schedule| schedule.backfill_waiting == 0).await;
    assert_eq!((schedule.backfill_count, schedule.execution_count, schedule.skipped_count), (40, 40, 0));
    assert_eq!(noxd.hours_made_up().await, (1..=40).collect::<Vec<_>>());
    assert_eq!((schedule.last_execution, schedule.next_execution), (None, None), "it shifts nothing");
    // A repeat of the request is the same request.
    noxd.backfill(first_hours(40, "october")).await.expect("the same");
    let after = noxd.schedule("s").await;
    assert_eq!((after.backfill_count, after.backfill_waiting), (40, 0));
    for execution in noxd.all_executions().await {
        assert_eq!(noxd.ended(&execution.id).await.status(), v1::WorkflowStatus::Completed);
    }
    let order = fired_in_order(&noxd).await;
    assert_eq!(order, (1..=40).collect::<Vec<_>>(), "in their order");
}

/// The hours of October in the order in which they were made up.
async fn fired_in_order(noxd: &Noxd) -> Vec<i64> {
    let request = v1::WatchEventsRequest { after_revision: Some(0), ..Default::default() };
    let mut events = noxd.executions().await.watch_events(request).await.expect("events").into_inner();
    let mut hours = Vec::new();
    while hours.len() < 40 {
        let event = events.next().await.expect("it is told before the end").expect("an event").event;
        if let Some(v1::event::Kind::ScheduleFired(fired)) = event.and_then(|event| event.kind) {
            assert!(fired.backfill && !fired.triggered);
            hours.push((fired.time.expect("a time").seconds - OCTOBER) / HOUR);
        }
    }
    hours
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_a_backfill_would_start_and_cancels_what_waits() {
    // S-SCHED-6
    let noxd = Noxd::start().await;
    let go = with_gate(&noxd).await;
    hourly_but_disabled(&noxd).await;
    let backfill = |more: &[&str]| {
        let span = ["schedule", "backfill", "s", "--from=2026-10-01T00:00:00Z", "--to=2026-10-01T12:00:00Z"];
        noxctl(&noxd, &[&span[..], more].concat())
    };
    let dry = backfill(&["--dry-run"]);
    assert!(dry.status.success(), "{}", all_text(&dry));
    assert_eq!(text(&dry.stdout).lines().count(), 13, "{}", all_text(&dry));
    assert!(text(&dry.stdout).lines().all(|line| line.chars().count() <= 80));
    assert!(text(&dry.stderr).contains("12 executions of workflow w, one after the other; nothing was started"));
    let unasked = backfill(&[]);
    assert_eq!(unasked.status.code(), Some(2), "{}", all_text(&unasked));
    assert!(text(&unasked.stderr).contains("and 2 more") && text(&unasked.stderr).contains("say --yes"));
    assert_eq!(noxd.hours_made_up().await, NONE);

    let done = backfill(&["--yes", "--overlap=buffer-all"]);
    assert_eq!(text(&done.stdout), "s  12 times are made up, one after the other\n", "{}", all_text(&done));
    let schedule = noxd.schedule_becomes("s", |schedule| schedule.backfill_count == 1).await;
    assert_eq!(schedule.backfill_waiting, 11);
    let shown = text(&noxctl(&noxd, &["schedule", "show", "s"]).stdout);
    assert!(shown.contains("to make up      11"), "{shown}");
    let execution = noxd.all_executions().await.remove(0);
    let shown = text(&noxctl(&noxd, &["execution", "show", &execution.id]).stdout);
    assert!(shown.lines().any(|line| line.starts_with("schedule") && line.ends_with("(backfill)")), "{shown}");

    let cancelled = noxctl(&noxd, &["schedule", "cancel-backfill", "s"]);
    assert!(text(&cancelled.stderr).contains("waits to be made up any more"), "{}", all_text(&cancelled));
    std::fs::write(&go, "").expect("open");
    assert_eq!(noxd.ended(&execution.id).await.status(), v1::WorkflowStatus::Completed);
    assert_eq!((noxd.hours_made_up().await, noxd.schedule("s").await.backfill_waiting), (vec![1], 0));
    // One alone is not asked about.
    let one = noxctl(
        &noxd,
        &[
            "schedule",
            "backfill",
            "s",
            "--from=2026-10-02T00:30:00Z",
            "--to=2026-10-02T01:00:00Z",
            "--overlap=allow-all",
        ],
    );
    assert_eq!(text(&one.stdout), "s  1 time is made up\n", "{}", all_text(&one));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_cannot_be_says_what_can() {
    // S-SCHED-6
    let noxd = Noxd::start().await;
    with_gate(&noxd).await;
    hourly_but_disabled(&noxd).await;
    let many = v1::BackfillScheduleRequest { from: at(OCTOBER - 5_000 * HOUR), ..first_hours(0, "") };
    let refused = noxd.backfill(many).await.expect_err("too many");
    assert_eq!(reason(&refused), "LIMIT_EXCEEDED");
    assert!(refused.message().contains("5000 times") && refused.message().contains("first"), "{}", refused.message());
    let skip = v1::OverlapPolicy::Skip as i32;
    let skipping = v1::BackfillScheduleRequest { overlap_policy: skip, from: None, ..first_hours(2, "") };
    let refused = noxd.backfill(skipping).await.expect_err("two faults at once");
    assert!(refused.message().starts_with("2 faults; the first is from: "), "{}", refused.message());
    let nobody = v1::BackfillScheduleRequest { schedule_id: "nobody".into(), ..first_hours(2, "") };
    assert_eq!(reason(&noxd.backfill(nobody).await.expect_err("nobody")), "SCHEDULE_NOT_FOUND");
    let planned = v1::BackfillScheduleRequest { validate_only: true, ..first_hours(2, "planned") };
    assert_eq!(noxd.backfill(planned).await.expect("a plan").firings.len(), 2);
    assert_eq!(noxd.hours_made_up().await, NONE, "nothing of all this started anything");
}
