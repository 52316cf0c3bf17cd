//! Stories of executions that nobody watches: what a schedule says of their retries.

use std::time::Duration;

use crate::{
    calls::{approval, reason, span},
    command_line::{all_text, noxctl, text},
    schedules::cron,
    support::{Noxd, shell},
};
use noxd::{cli::connect, proto::v1};
use tonic_types::StatusExt as _;

/// Up to so many attempts, 10 ms apart.
fn retries(max_attempts: u32) -> v1::RetryConfig {
    let delay = span(Duration::from_millis(10));
    let backoff_strategy = Some(v1::retry_config::BackoffStrategy::Fixed(v1::FixedBackoff { delay }));
    v1::RetryConfig { max_attempts, backoff_strategy, ..Default::default() }
}

/// Of workflow `w`, every New Year's night.
fn yearly(retry_config: Option<v1::RetryConfig>) -> v1::ScheduledWorkflow {
    let schedule = Some(cron("@yearly", ""));
    v1::ScheduledWorkflow { id: "yearly".into(), workflow_id: "w".into(), schedule, retry_config, ..Default::default() }
}

impl Noxd {
    /// Starts an execution of a schedule now.
    async fn trigger(&self, id: &str) -> String {
        let request = v1::TriggerScheduleRequest { schedule_id: id.into(), ..Default::default() };
        let answer = connect::schedules(self.channel().await).trigger_schedule(request).await.expect("triggered");
        answer.into_inner().execution.expect("an execution").id
    }

    /// How many attempts each task of an execution had, once it is over.
    async fn attempts(&self, execution: &str) -> Vec<(String, usize)> {
        let ended = self.ended(execution).await;
        ended.tasks.into_iter().map(|task| (task.task_id, task.attempts.len())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_says_how_often_its_tasks_are_tried_where_they_do_not_say_so_themselves() {
    // S-SCHED-8, S-RETRY-1
    let mut noxd = Noxd::start().await;
    let own = v1::Task { retry_config: Some(retries(2)), ..shell("own", "exit 3", &[]) };
    noxd.create("w", vec![own, shell("bare", "exit 3", &[])]).await;
    let tried = |own: usize, bare: usize| vec![("own".to_owned(), own), ("bare".to_owned(), bare)];
    let stored = noxd.store_schedule(yearly(Some(retries(4)))).await.expect("stored");
    assert_eq!(stored.retry_config, Some(retries(4)), "it reads back as it was given");

    let first = noxd.trigger("yearly").await;
    assert_eq!(noxd.attempts(&first).await, tried(2, 4));
    let by_hand = noxd.execute("w").await;
    assert_eq!(noxd.attempts(&by_hand).await, tried(2, 1), "what the schedule says is about its executions alone");

    // What an execution was started with stays with it, over a kill and in its repetition.
    noxd.kill_now();
    noxd.start_again().await;
    let changed = noxd.update_schedule(yearly(Some(retries(3))), &["retry_config"], false).await.expect("changed");
    assert_eq!((changed.version, changed.retry_config), (2, Some(retries(3))));
    let again = noxd.rerun(&first, &[]).await.expect("started").execution.expect("an execution").id;
    assert_eq!(noxd.attempts(&again).await, tried(2, 4));
    let second = noxd.trigger("yearly").await;
    assert_eq!(noxd.attempts(&second).await, tried(2, 3));
    let events = noxd.watch_to_end(&second, 0).await;
    let started = events.iter().find_map(|event| match &event.kind {
        Some(v1::event::Kind::ExecutionStarted(started)) => Some(started.retry_config.clone()),
        _ => None,
    });
    assert_eq!(started, Some(Some(retries(3))), "its first event says so");

    let shown = noxctl(&noxd, &["execution", "show", &second]);
    let line = "retries    up to 3 attempts, where a task does not say so itself";
    assert!(text(&shown.stdout).contains(line), "{}", all_text(&shown));
    let shown = noxctl(&noxd, &["schedule", "show", "yearly"]);
    assert!(text(&shown.stdout).contains("up to 3 attempts"), "{}", all_text(&shown));
    let file = noxctl(&noxd, &["schedule", "show", "yearly", "-o", "yaml"]);
    assert!(text(&file.stdout).contains("maxAttempts: 3"), "{}", all_text(&file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_once_whatever_a_schedule_says_of_retries() {
    // S-SCHED-8, S-RETRY-4
    let noxd = Noxd::start().await;
    noxd.create("w", vec![approval("ask", &[], &[])]).await;
    noxd.store_schedule(yearly(Some(retries(4)))).await.expect("stored");
    let execution = noxd.trigger("yearly").await;
    noxd.task_becomes(&execution, "ask", v1::TaskStatus::Waiting).await;
    noxd.answer(&execution, "ask", false, "no").await.expect("answered");
    let ended = noxd.ended(&execution).await;
    assert_eq!(ended.status(), v1::WorkflowStatus::Failed);
    assert!(ended.tasks[0].attempts.len() <= 1, "{:?}", ended.tasks[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_whose_policies_are_none_is_refused_with_each_fault() {
    // S-SCHED-8
    let noxd = Noxd::start().await;
    noxd.create("w", vec![shell("bare", "exit 3", &[])]).await;
    let mut wrong = yearly(Some(v1::RetryConfig { jitter: 2.0, retry_on_errors: vec!["/(/".into()], ..retries(0) }));
    wrong.notification_config = Some(v1::NotificationConfig::default());
    let refused = noxd.store_schedule(wrong).await.expect_err("four faults");
    let details = refused.get_error_details();
    let faults = &details.bad_request().expect("fields").field_violations;
    let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
    let expected =
        ["retry_config.max_attempts", "retry_config.jitter", "retry_config.retry_on_errors[0]", "notification_config"];
    assert_eq!(fields, expected);
    let later = v1::ScheduledWorkflow { notification_config: Some(v1::NotificationConfig::default()), ..yearly(None) };
    assert_eq!(reason(&noxd.store_schedule(later).await.expect_err("not yet")), "NOT_SUPPORTED");
}
