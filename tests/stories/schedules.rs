//! Stories of schedules: previewed at a terminal, stored, fired over a kill.

use std::time::Duration;

use crate::{
    calls::{gate, reason, span},
    command_line::{all_text, noxctl, text},
    support::{Noxd, eventually},
};
use noxd::{cli::connect, proto::v1};
use tokio_stream::StreamExt as _;
use tonic_types::StatusExt as _;

/// When the clocks of a zone show what an expression says.
pub fn cron(expression: &str, timezone: &str) -> v1::Schedule {
    let schedule_type = Some(v1::schedule::ScheduleType::Cron(v1::CronSchedule { expression: expression.into() }));
    v1::Schedule { schedule_type, timezone: timezone.into(), ..v1::Schedule::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_tells_local_times_offsets_and_what_the_clocks_do_and_every_fault_with_its_column() {
    // S-SCHED-2, S-SCHED-3, S-SCHED-6
    let noxd = Noxd::start().await;
    let output = noxctl(
        &noxd,
        &["schedule", "preview", "30 2 * * *", "--timezone=Europe/Berlin", "--from=2026-10-24T00:00:00Z", "--count=3"],
    );
    let shown = text(&output.stdout);
    let lines: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert_eq!(lines[0][..5], ["Sat", "2026-10-24", "02:30:00", "+02:00", "CEST"], "{shown}");
    assert!(shown.lines().nth(2).is_some_and(|line| line.contains("CEST") && line.contains("first pass")), "{shown}");
    assert_eq!(lines[2][..5], ["Mon", "2026-10-26", "02:30:00", "+01:00", "CET"], "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    let mut client = connect::schedules(noxd.channel().await);
    let wrong =
        v1::PreviewScheduleRequest { schedule: Some(cron("60 22-2 * * *", "Europe/Berln")), ..Default::default() };
    let refused = client.preview_schedule(wrong).await.expect_err("two faults of the expression, one of the zone");
    assert_eq!(reason(&refused), "INVALID_CRON_EXPRESSION");
    let details = refused.get_error_details();
    let fields = &details.bad_request().expect("fields").field_violations;
    let seen: Vec<&str> = fields.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(seen, ["schedule.cron.expression", "schedule.cron.expression", "schedule.timezone"]);
    assert!(fields[1].description.starts_with("column 4: `22-2`"), "{}", fields[1].description);
    assert!(fields[2].description.contains("Europe/Berlin"), "{}", fields[2].description);

    let never = v1::PreviewScheduleRequest { schedule: Some(cron("0 0 31 2 *", "")), ..Default::default() };
    assert!(client.preview_schedule(never).await.expect_err("never").message().contains("never fires"));
    let output = noxctl(&noxd, &["schedule", "preview", "--every=soon"]);
    assert_eq!(output.status.code(), Some(2), "{}", all_text(&output));
}

/// A workflow `w` of one task that waits for a file, and so runs as long as the story wants.
pub async fn with_gate(noxd: &Noxd) -> std::path::PathBuf {
    let go = noxd.path("go");
    noxd.create("w", vec![gate("t", &go, &[])]).await;
    go
}

/// A schedule of `w` that fires each second.
pub fn every_second(id: &str) -> v1::ScheduledWorkflow {
    let interval = Some(v1::IntervalSchedule { interval: span(Duration::from_secs(1)) });
    let schedule_type = interval.map(v1::schedule::ScheduleType::Interval);
    let schedule = Some(v1::Schedule { schedule_type, ..v1::Schedule::default() });
    v1::ScheduledWorkflow { id: id.into(), workflow_id: "w".into(), schedule, ..Default::default() }
}

impl Noxd {
    /// Stores a schedule.
    pub async fn store_schedule(
        &self,
        schedule: v1::ScheduledWorkflow,
    ) -> Result<v1::ScheduledWorkflow, tonic::Status> {
        let request = v1::CreateScheduleRequest { schedule: Some(schedule), ..Default::default() };
        let answer = connect::schedules(self.channel().await).create_schedule(request).await?;
        Ok(answer.into_inner().schedule.expect("a schedule"))
    }

    /// A schedule as it stands.
    pub async fn schedule(&self, id: &str) -> v1::ScheduledWorkflow {
        let request = v1::GetScheduleRequest { schedule_id: id.into() };
        let answer = connect::schedules(self.channel().await).get_schedule(request).await.expect("there");
        answer.into_inner().schedule.expect("a schedule")
    }

    /// The schedule, once it is as the story waits for.
    pub async fn schedule_becomes(
        &self,
        id: &str,
        is: impl Fn(&v1::ScheduledWorkflow) -> bool,
    ) -> v1::ScheduledWorkflow {
        let found = || async { Some(self.schedule(id).await).filter(&is) };
        eventually(&format!("schedule {id} is as the story waits for"), found).await
    }

    /// All that was started.
    pub async fn all_executions(&self) -> Vec<v1::WorkflowExecution> {
        let request = v1::ListExecutionsRequest { page_size: 1_000, ..Default::default() };
        self.executions().await.list_executions(request).await.expect("listed").into_inner().executions
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_fires_over_a_kill_and_no_time_has_two_executions() {
    // S-SCHED-5, S-SCHED-7
    let mut noxd = Noxd::start().await;
    let go = with_gate(&noxd).await;
    std::fs::write(&go, "").expect("open");
    let all = v1::CatchUpPolicy::All as i32;
    noxd.store_schedule(v1::ScheduledWorkflow { catch_up: all, ..every_second("s") }).await.expect("stored");
    noxd.schedule_becomes("s", |schedule| schedule.execution_count >= 2).await;
    noxd.kill_now();
    noxd.start_again().await;
    let before = noxd.schedule("s").await.execution_count;
    noxd.schedule_becomes("s", |schedule| schedule.execution_count >= before + 2).await;
    let request = v1::PauseScheduleRequest { schedule_id: "s".into(), note: "enough".into(), ..Default::default() };
    connect::schedules(noxd.channel().await).pause_schedule(request).await.expect("paused");
    let schedule = noxd.schedule("s").await;
    assert_eq!((schedule.enabled, schedule.note.as_str(), schedule.next_execution), (Some(false), "enough", None));
    let executions = noxd.all_executions().await;
    assert_eq!(executions.len() as u64, schedule.execution_count, "each firing has its execution, and each one counts");
    let mut times: Vec<(i64, i32)> = executions
        .iter()
        .map(|execution| {
            assert_eq!(execution.schedule_id, "s");
            assert_eq!(execution.trigger(), v1::ExecutionTrigger::Schedule);
            let at = execution.scheduled_for.as_ref().expect("it is for a time");
            (at.seconds, at.nanos)
        })
        .collect();
    times.sort_unstable();
    times.dedup();
    assert_eq!(times.len(), executions.len(), "no time has two");
    let last = *times.last().expect("some");
    let spanned = u64::try_from(last.0 - times[0].0).expect("in order") + 1;
    assert!(schedule.execution_count + schedule.skipped_count + schedule.missed_count >= spanned, "none is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_stores_pauses_triggers_and_deletes_a_schedule() {
    // S-SCHED-4, S-SCHED-6, S-SAFE-3
    let noxd = Noxd::start().await;
    let go = with_gate(&noxd).await;
    let file = noxd.path("nightly.yaml");
    let yaml = "id: nightly\nworkflow_id: w\nschedule: {cron: {expression: '30 2 * * *'}, timezone: Europe/Berlin, \
                jitter: 5m}\noverlap_policy: buffer-one\ncatch_up: all\ncatch_up_window: 12h\n";
    std::fs::write(&file, yaml).expect("a file");
    let file = file.display().to_string();
    let said = |arguments: &[&str]| {
        let output = noxctl(&noxd, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", all_text(&output));
        text(&output.stdout)
    };
    assert!(said(&["schedule", "create", "-f", &file]).contains("nightly  version 1  next "));
    let shown = said(&["schedule", "show", "nightly"]);
    for words in ["30 2 * * * Europe/Berlin", "BUFFER_ONE", "ALL"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    // What is shown is a file again.
    let again = noxd.path("again.yaml");
    std::fs::write(&again, said(&["schedule", "show", "nightly", "-o", "yaml"])).expect("a file");
    assert!(said(&["schedule", "update", "-f", &again.display().to_string()]).contains("nightly  version 2"));
    let stale = noxctl(&noxd, &["schedule", "update", "-f", &again.display().to_string()]);
    assert!(all_text(&stale).contains("etag v2"), "{}", all_text(&stale));

    assert!(said(&["schedule", "disable", "nightly", "--note=holiday"]).contains("disabled"));
    assert!(said(&["schedule", "show", "nightly"]).contains("holiday"));
    let execution = said(&["schedule", "trigger", "nightly"]).trim().to_owned();
    assert_eq!(noxd.execution(&execution).await.scheduled_for, None, "it is for no time");
    assert!(said(&["schedule", "enable", "nightly"]).contains("next "));
    assert!(said(&["schedule", "list", "--workflow=w"]).contains("nightly"));
    assert_eq!(noxd.schedule("nightly").await.execution_count, 1);
    std::fs::write(&go, "").expect("open");
    assert_eq!(noxd.ended(&execution).await.status(), v1::WorkflowStatus::Completed);

    // A repeat has no second effect.
    let request = v1::TriggerScheduleRequest { schedule_id: "nightly".into(), request_id: "once".into() };
    let mut client = connect::schedules(noxd.channel().await);
    let first = client.trigger_schedule(request.clone()).await.expect("triggered").into_inner().execution;
    let second = client.trigger_schedule(request).await.expect("the same").into_inner().execution;
    assert_eq!(first.expect("one").id, second.expect("one").id);

    said(&["schedule", "delete", "nightly", "--yes"]);
    let request = v1::GetScheduleRequest { schedule_id: "nightly".into() };
    assert_eq!(reason(&client.get_schedule(request).await.expect_err("gone")), "SCHEDULE_NOT_FOUND");
    let wrong = v1::ScheduledWorkflow { workflow_id: "nobody".into(), ..every_second("s") };
    assert_eq!(reason(&noxd.store_schedule(wrong).await.expect_err("no workflow")), "WORKFLOW_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_one_runs_is_told_with_its_reason() {
    // S-SCHED-4
    let noxd = Noxd::start().await;
    with_gate(&noxd).await;
    noxd.store_schedule(every_second("s")).await.expect("stored");
    let schedule = noxd.schedule_becomes("s", |schedule| schedule.skipped_count >= 1).await;
    assert_eq!(schedule.execution_count, 1);
    let request = v1::WatchEventsRequest { after_revision: Some(0), ..Default::default() };
    let mut events = noxd.executions().await.watch_events(request).await.expect("events").into_inner();
    let skipped = loop {
        let event = events.next().await.expect("it is told before the end").expect("an event").event;
        if let Some(v1::event::Kind::ScheduleSkipped(skipped)) = event.and_then(|event| event.kind) {
            break skipped;
        }
    };
    assert_eq!((skipped.schedule_id.as_str(), skipped.reason.as_str()), ("s", "the execution before has not ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_schedules_can_be_stored() {
    // S-SCHED-1
    let noxd = Noxd::start().await;
    with_gate(&noxd).await;
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/schedules");
    let mut stored = 0;
    for example in std::fs::read_dir(examples).expect("examples") {
        let path = example.expect("an entry").path();
        let mut schedule = noxd::cli::file::read_scheduled_workflow(&path).expect("a schedule");
        schedule.workflow_id = "w".into();
        schedule.inputs = None;
        noxd.store_schedule(schedule).await.unwrap_or_else(|status| panic!("{}: {status}", path.display()));
        stored += 1;
    }
    assert!(stored >= 3, "void: only {stored} examples");
}

impl Noxd {
    pub async fn update_schedule(
        &self,
        schedule: v1::ScheduledWorkflow,
        mask: &[&str],
        validate_only: bool,
    ) -> Result<v1::ScheduledWorkflow, tonic::Status> {
        let update_mask = Some(pbjson_types::FieldMask { paths: mask.iter().map(ToString::to_string).collect() });
        let schedule = Some(schedule);
        let request = v1::UpdateScheduleRequest { schedule, update_mask, validate_only, ..Default::default() };
        let answer = connect::schedules(self.channel().await).update_schedule(request).await?;
        Ok(answer.into_inner().schedule.expect("a schedule"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_with_a_mask_takes_the_named_fields_alone() {
    // S-SCHED-6, S-DEF-4
    let noxd = Noxd::start().await;
    with_gate(&noxd).await;
    let nightly = v1::ScheduledWorkflow {
        id: "nightly".into(),
        workflow_id: "w".into(),
        schedule: Some(cron("30 2 * * *", "Europe/Berlin")),
        enabled: Some(false),
        catch_up: v1::CatchUpPolicy::All as i32,
        remaining_runs: Some(7),
        description: "before".into(),
        ..Default::default()
    };
    let stored = noxd.store_schedule(nightly).await.expect("stored");
    let change = v1::ScheduledWorkflow {
        id: "nightly".into(),
        description: "after".into(),
        overlap_policy: v1::OverlapPolicy::BufferOne as i32,
        ..Default::default()
    };
    let changed = noxd.update_schedule(change.clone(), &["description"], false).await.expect("changed");
    let expected = v1::ScheduledWorkflow {
        description: "after".into(),
        version: 2,
        etag: "v2".into(),
        updated_at: changed.updated_at,
        ..stored
    };
    assert_eq!(changed, expected, "all else stays, and so do the runs that are left");
    let both = noxd.update_schedule(change.clone(), &["overlap_policy", "remaining_runs", "enabled"], false).await;
    let both = both.expect("changed");
    assert_eq!((both.overlap_policy(), both.remaining_runs), (v1::OverlapPolicy::BufferOne, None));
    assert_eq!(both.enabled, Some(false), "what is not said of it stays");
    let unknown = noxd.update_schedule(change.clone(), &["description", "note"], false).await.expect_err("a slip");
    assert_eq!(reason(&unknown), "INVALID_UPDATE_MASK");
    let nothing = noxd.update_schedule(change.clone(), &["schedule"], false).await.expect_err("it must fire some time");
    assert_eq!(reason(&nothing), "MISSING_VALUE");
    let stale = v1::ScheduledWorkflow { etag: "v1".into(), ..change.clone() };
    let stale = noxd.update_schedule(stale, &["description"], false).await.expect_err("somebody was faster");
    assert_eq!(reason(&stale), "ETAG_MISMATCH");
    let nobody = v1::ScheduledWorkflow { id: "nobody".into(), ..change };
    let nobody = noxd.update_schedule(nobody, &["description"], false).await.expect_err("nobody");
    assert_eq!(reason(&nobody), "SCHEDULE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_is_only_checked_is_answered_as_if_and_not_stored() {
    // S-DEF-1, S-SCHED-6
    let noxd = Noxd::start().await;
    with_gate(&noxd).await;
    let nightly = v1::ScheduledWorkflow {
        id: "nightly".into(),
        workflow_id: "w".into(),
        schedule: Some(cron("30 2 * * *", "")),
        ..Default::default()
    };
    let check = |schedule: &v1::ScheduledWorkflow| {
        let schedule = Some(schedule.clone());
        v1::CreateScheduleRequest { schedule, validate_only: true, ..Default::default() }
    };
    let mut client = connect::schedules(noxd.channel().await);
    let checked = client.create_schedule(check(&nightly)).await.expect("sound").into_inner().schedule.expect("one");
    assert_eq!(checked.version, 1);
    let first = checked.next_execution.expect("its first time").seconds % 86_400;
    assert_eq!(first, 2 * 3_600 + 30 * 60);
    let request = v1::GetScheduleRequest { schedule_id: "nightly".into() };
    assert_eq!(reason(&client.get_schedule(request).await.expect_err("not stored")), "SCHEDULE_NOT_FOUND");

    let nowhere = v1::ScheduledWorkflow { workflow_id: "nowhere".into(), ..nightly.clone() };
    assert_eq!(reason(&client.create_schedule(check(&nowhere)).await.expect_err("none")), "WORKFLOW_NOT_FOUND");
    let wrong = v1::ScheduledWorkflow { schedule: Some(cron("61 2 * *", "Mars")), id: "..".into(), ..nightly.clone() };
    let faults = client.create_schedule(check(&wrong)).await.expect_err("faults");
    assert!(faults.message().starts_with("3 faults"), "{faults}");

    noxd.store_schedule(nightly.clone()).await.expect("stored");
    assert_eq!(reason(&client.create_schedule(check(&nightly)).await.expect_err("taken")), "ALREADY_EXISTS");
    let hourly = v1::ScheduledWorkflow { schedule: Some(cron("@hourly", "")), ..nightly.clone() };
    let checked = noxd.update_schedule(hourly.clone(), &[], true).await.expect("sound");
    assert_eq!((checked.version, checked.next_execution.expect("a time").seconds % 3_600), (2, 0));
    let inputs = serde_json::from_value(serde_json::json!({"none": "such"})).expect("values");
    let unfit = v1::ScheduledWorkflow { inputs: Some(inputs), ..hourly };
    let unfit = noxd.update_schedule(unfit, &["inputs"], true).await.expect_err("the workflow takes none");
    assert!(unfit.message().contains("none"), "{unfit}");
    let stays = noxd.schedule("nightly").await;
    assert_eq!((stays.version, stays.schedule), (1, Some(cron("30 2 * * *", ""))));

    let by_hand = ["schedule", "create", "weekly", "--workflow=w", "--cron=@weekly", "--dry-run"];
    let output = noxctl(&noxd, &by_hand);
    assert!(text(&output.stdout).starts_with("weekly  version 1  next "), "{}", all_text(&output));
    assert_eq!(text(&output.stderr), "nothing was stored\n");
    let list = noxctl(&noxd, &["schedule", "list"]);
    assert!(!text(&list.stdout).contains("weekly"), "{}", all_text(&list));
}
