//! Stories of attempts that fail and are made again, and of limits of time.

use std::time::Duration;

use crate::{
    calls::{gate, span, statuses},
    support::{Noxd, noop, shell},
};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus, event::Kind, retry_config::BackoffStrategy};

fn millis(millis: u64) -> Option<pbjson_types::Duration> {
    span(Duration::from_millis(millis))
}

fn retried(task: v1::Task, max_attempts: u32, backoff: BackoffStrategy) -> v1::Task {
    let config = v1::RetryConfig { max_attempts, backoff_strategy: Some(backoff), ..Default::default() };
    v1::Task { retry_config: Some(config), ..task }
}

fn fixed(delay: u64) -> BackoffStrategy {
    BackoffStrategy::Fixed(v1::FixedBackoff { delay: millis(delay) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_is_followed_by_others_as_the_backoff_says() {
    // S-RETRY-1, S-RETRY-3, S-RETRY-6
    let noxd = Noxd::start().await;
    let linear = BackoffStrategy::Linear(v1::LinearBackoff { initial_delay: millis(20), increment: millis(30) });
    let exponential =
        BackoffStrategy::Exponential(v1::ExponentialBackoff { initial_delay: millis(20), multiplier: 3.0 });
    let slow = v1::Task { timeout: millis(50), ..shell("timed", "exec tail -f /dev/null", &[]) };
    let tasks = vec![
        retried(shell("fixed", "exit 1", &[]), 4, fixed(40)),
        retried(shell("linear", "exit 1", &[]), 4, linear),
        retried(shell("exponential", "exit 1", &[]), 4, exponential),
        retried(shell("third", "[ $NOX_ATTEMPT = 3 ]", &[]), 5, fixed(1)),
        retried(slow, 2, fixed(1)),
    ];
    noxd.create("w", tasks).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    let expected = [
        ("fixed", TaskStatus::Failed),
        ("linear", TaskStatus::Failed),
        ("exponential", TaskStatus::Failed),
        ("third", TaskStatus::Completed),
        ("timed", TaskStatus::TimedOut),
    ];
    assert_eq!(statuses(&ended), expected);
    let events = noxd.watch_to_end(&ended.id, 0).await;
    let delays = |task: &str| -> Vec<u128> {
        let scheduled = events.iter().filter(|event| event.task_id == task).filter_map(|event| match &event.kind {
            Some(Kind::TaskRetryScheduled(scheduled)) => scheduled.delay,
            _ => None,
        });
        scheduled.map(|delay| Duration::try_from(delay).expect("a span").as_millis()).collect()
    };
    assert_eq!(delays("fixed"), [40, 40, 40]);
    assert_eq!(delays("linear"), [20, 50, 80]);
    assert_eq!(delays("exponential"), [20, 60, 180]);
    assert_eq!(delays("third"), [1, 1]);
    for task in &ended.tasks {
        let last = task.attempts.len() - 1;
        for (before, after) in task.attempts.iter().zip(&task.attempts[1..]) {
            let due = before.next_retry_at.expect("the next try is due");
            let began = after.started_at.expect("it started");
            assert!((began.seconds, began.nanos) >= (due.seconds, due.nanos), "{}: no sooner than due", task.task_id);
            assert!(before.error.is_some());
        }
        assert_eq!(task.attempts[last].next_retry_at, None);
    }
    assert_eq!(ended.tasks[4].attempts.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_policy_names_is_tried_again() {
    // S-RETRY-2
    let noxd = Noxd::start().await;
    let on = |task: v1::Task, entries: &[&str]| {
        let mut task = retried(task, 3, fixed(1));
        let config = task.retry_config.as_mut().expect("it has one");
        config.retry_on_errors = entries.iter().map(ToString::to_string).collect();
        task
    };
    let tasks = vec![
        on(shell("named", "exit 75", &[]), &["EXIT_CODE=75"]),
        on(shell("other", "exit 1", &[]), &["EXIT_CODE=75", "TIMEOUT"]),
        on(shell("words", "exit 2", &[]), &["/code [23]$/"]),
    ];
    noxd.create("w", tasks).await;
    let ended = noxd.ended(&noxd.execute("w").await).await;
    let tries: Vec<usize> = ended.tasks.iter().map(|task| task.attempts.len()).collect();
    assert_eq!(tries, [3, 1, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backoff_holds_no_slot_and_survives_sigkill() {
    // S-RETRY-1, S-RETRY-4, S-RETRY-7
    let mut noxd = Noxd::start_with(&["--concurrency-limit", "1"]).await;
    noxd.create("w", vec![retried(shell("flaky", "[ $NOX_ATTEMPT = 2 ]", &[]), 2, fixed(3_000))]).await;
    noxd.create("other", vec![noop("a", &[])]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "flaky", TaskStatus::Retrying).await;
    // The only slot is free meanwhile.
    let other = noxd.execute("other").await;
    assert_eq!(noxd.ended(&other).await.status(), WorkflowStatus::Completed);
    let waiting = noxd.task(&id, "flaky").await;
    assert_eq!(waiting.waiting_for, ["the delay after attempt 1"]);
    let due = waiting.attempts[0].next_retry_at.expect("the next try is due");
    noxd.kill_now();
    noxd.start_again().await;
    let ended = noxd.ended(&id).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    let attempts = &ended.tasks[0].attempts;
    assert_eq!(attempts.len(), 2, "a restart is no attempt");
    let began = attempts[1].started_at.expect("it started");
    assert!((began.seconds, began.nanos) >= (due.seconds, due.nanos), "no sooner than it was due");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_noxd_interrupted_does_not_count_unless_the_task_says_so() {
    // S-RETRY-7
    let mut noxd = Noxd::start().await;
    let once = "[ $NOX_ATTEMPT != 1 ] || exec tail -f /dev/null";
    let never = v1::Task { on_interrupt: v1::OnInterrupt::Fail as i32, ..shell("never", once, &[]) };
    noxd.create("w", vec![never, shell("again", once, &[])]).await;
    let id = noxd.execute("w").await;
    for task in ["never", "again"] {
        noxd.task_becomes(&id, task, TaskStatus::Running).await;
    }
    noxd.kill_now();
    noxd.start_again().await;
    let ended = noxd.ended(&id).await;
    assert_eq!(statuses(&ended), [("never", TaskStatus::Failed), ("again", TaskStatus::Completed)]);
    let error = ended.tasks[0].error.as_ref().expect("an error");
    assert_eq!(error.kind, "LOST");
    assert!(error.message.contains("on_interrupt: FAIL"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_in_the_queue_and_a_silence_have_limits_of_their_own() {
    // S-RETRY-5
    let noxd = Noxd::start_with(&["--concurrency-limit", "2"]).await;
    let open = noxd.path("gate");
    let queued = v1::Task { queue_timeout: millis(200), ..noop("queued", &[]) };
    let silent = v1::Task { idle_timeout: millis(400), ..shell("silent", "echo once; exec tail -f /dev/null", &[]) };
    let talking = v1::Task {
        idle_timeout: millis(2_000),
        ..shell("talking", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done", &[])
    };
    noxd.create("w", vec![gate("one", &open, &[]), gate("two", &open, &[]), queued]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "queued", TaskStatus::TimedOut).await;
    std::fs::write(&open, "").expect("the gate opens");
    let ended = noxd.ended(&id).await;
    let task = &ended.tasks[2];
    assert_eq!((task.status(), task.attempts.len()), (TaskStatus::TimedOut, 0));
    let error = task.error.as_ref().expect("an error");
    assert_eq!(error.message, "the task waited in the queue longer than its `queue_timeout` of 200 ms");
    assert_eq!(ended.status(), WorkflowStatus::Failed);

    noxd.create("v", vec![silent, talking]).await;
    let ended = noxd.ended(&noxd.execute("v").await).await;
    assert_eq!(statuses(&ended), [("silent", TaskStatus::TimedOut), ("talking", TaskStatus::Completed)]);
    let error = ended.tasks[0].error.as_ref().expect("an error");
    assert_eq!(error.message, "the silent attempt ran into its `idle_timeout` of 400 ms and was ended");
}
