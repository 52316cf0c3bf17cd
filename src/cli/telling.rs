//! What happens to an execution, in words for people: pure functions of a [`Progress`] and the present.
//!
//! `display.rs` decides where the words go and draws what moves.

use pbjson_types::Timestamp;

use super::{
    progress::{Failure, Happening, Outcome, Progress},
    text,
};

/// Whether lines have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// ANSI colours.
    Coloured,
    /// None.
    Plain,
}

/// A colour, or less light.
#[derive(Clone, Copy)]
pub(super) enum Paint {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
    Dim = 2,
}

impl Style {
    /// The text in that colour, where there are colours.
    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        match self {
            Self::Coloured => format!("\x1b[{}m{text}\x1b[0m", paint as u8),
            Self::Plain => text.to_owned(),
        }
    }
}

/// What stays above the live part; nothing for what the live part shows by itself.
pub(super) fn scroll_text(happening: &Happening, style: Style) -> Option<String> {
    let yellow = |words: &str| style.paint(Paint::Yellow, words);
    match happening {
        Happening::Started { kept: 0, .. }
        | Happening::TaskStarted(_)
        | Happening::TaskTimeUp(..)
        | Happening::Ended(_) => None,
        Happening::Started { rerun_of, kept } => Some(kept_text(*kept, rerun_of)),
        Happening::TaskCompleted(task, took) => {
            let took = took.map(|took| style.paint(Paint::Dim, &format!("  {}", text::span(took)))).unwrap_or_default();
            Some(format!("{} {}{took}", style.paint(Paint::Green, "✓"), text::escape(task)))
        }
        Happening::TaskFailed(failure) => {
            let mut told = format!(
                "{} {}  {}",
                style.paint(Paint::Red, "✗"),
                text::escape(&failure.task_id),
                style.paint(Paint::Red, &text::escape(&failure.brief()))
            );
            for line in last_lines(&failure.error.stderr_tail, TAIL_LINES) {
                told += &format!("\n    {line}");
            }
            Some(told)
        }
        other => plain_text(other).map(|line| format!("{} {line}", yellow("•"))),
    }
}

/// The line for an event where nothing can be drawn.
pub(super) fn plain_line(happening: &Happening, progress: &Progress) -> Option<String> {
    match happening {
        Happening::Started { rerun_of, kept } => {
            let kept = if *kept > 0 { format!("; {}", kept_text(*kept, rerun_of)) } else { String::new() };
            Some(format!("execution started, {}{kept}", tasks(progress.total as usize)))
        }
        Happening::TaskStarted(running) if running.attempt > 1 => {
            Some(format!("{} started, attempt {}", text::escape(&running.task_id), running.attempt))
        }
        Happening::TaskStarted(running) => Some(format!("{} started", text::escape(&running.task_id))),
        Happening::TaskCompleted(task, took) => {
            let took = took.map(|took| format!(" in {}", text::span(took))).unwrap_or_default();
            Some(format!("{} completed{took}", text::escape(task)))
        }
        Happening::TaskFailed(failure) => {
            let word = if failure.error.kind == "TIMEOUT" { "timed out" } else { "failed" };
            Some(format!("{} {word}: {}", text::escape(&failure.task_id), sentence(failure)))
        }
        // The summary says it.
        Happening::Ended(_) => None,
        other => plain_text(other),
    }
}

/// `1 task`, `2 tasks`.
fn tasks(count: usize) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

/// What is told in the same words everywhere.
fn plain_text(happening: &Happening) -> Option<String> {
    let told = |running: u32| match running {
        0 => String::new(),
        running => format!(", {running} running told to end"),
    };
    Some(match happening {
        Happening::TaskTimeUp(task, limit) => {
            let limit = if limit.is_empty() { "timeout" } else { limit };
            format!("{} reached its {limit} and is being ended", text::escape(task))
        }
        Happening::RetryScheduled { failure, delay } => {
            let (task, attempt, why) = (text::escape(&failure.task_id), failure.attempt, sentence(failure));
            format!("{task} attempt {attempt} failed: {why}; next attempt in {}", text::span(*delay))
        }
        Happening::ConditionError { task, expression, message } => {
            let (task, expression) = (text::escape(task), text::escape(expression));
            format!("{task}: `{expression}` cannot be evaluated: {}", text::escape(message))
        }
        Happening::Skipped(ids, reason) => {
            format!("{} skipped: {}, since {}", tasks(ids.len()), names(ids), text::escape(reason))
        }
        Happening::Asked { task, prompt, approvers } => {
            let who = if approvers.is_empty() { String::new() } else { format!(" ({})", names(approvers)) };
            format!("{} waits for an answer{who}: {}", text::escape(task), text::escape(prompt))
        }
        Happening::Answered { task, approved, by, comment } => {
            let word = if *approved { "approved" } else { "rejected" };
            let comment = if comment.is_empty() { String::new() } else { format!(": {}", text::escape(comment)) };
            format!("{} {word} by {}{comment}", text::escape(task), text::escape(by))
        }
        Happening::HandlersStarted(kind) => format!("now the tasks of `{}`", text::escape(kind)),
        Happening::FailFast(task, running) => {
            format!(
                "{} failed, and the workflow is FAIL_FAST: the rest is called off{}",
                text::escape(task),
                told(*running)
            )
        }
        Happening::ExecutionTimeUp(limit, running) => {
            let limit = limit.map(|limit| format!(" of {}", text::span(limit))).unwrap_or_default();
            format!("the execution_timeout{limit} is reached: the rest is called off{}", told(*running))
        }
        Happening::TaskCancelled(task) => format!("{} cancelled", text::escape(task)),
        Happening::TaskInterrupted(task, reason) => {
            format!("{} interrupted ({}), queued again", text::escape(task), text::escape(reason))
        }
        Happening::Blocked(ids, cause) => {
            format!("{} blocked by {}: {}", tasks(ids.len()), text::escape(cause), names(ids))
        }
        Happening::Cancelled(ids) => format!("{} cancelled before starting: {}", tasks(ids.len()), names(ids)),
        Happening::Paused => "paused: nothing new starts, running tasks finish".to_owned(),
        Happening::Resumed => "resumed".to_owned(),
        Happening::CancelRequested(running, false) => format!("cancel requested{}", told(*running)),
        Happening::CancelRequested(running, true) => {
            format!("second cancel requested, which ends `finally` too{}", told(*running))
        }
        Happening::Started { .. }
        | Happening::TaskStarted(_)
        | Happening::TaskCompleted(..)
        | Happening::TaskFailed(_)
        | Happening::Ended(_) => return None,
    })
}

/// `2 tasks keep their result from E`.
fn kept_text(kept: u32, rerun_of: &str) -> String {
    let verb = if kept == 1 { "keeps its" } else { "keep their" };
    format!("{} {verb} result from {}", tasks(kept as usize), text::escape(rerun_of))
}

/// The first few of many ids.
pub(super) fn names(ids: &[String]) -> String {
    let shown: Vec<String> = ids.iter().take(NAMES_SHOWN).map(|id| text::escape(id)).collect();
    let rest = if ids.len() > NAMES_SHOWN { format!(" and {} more", ids.len() - NAMES_SHOWN) } else { String::new() };
    shown.join(", ") + &rest
}

/// The error's own sentence, or at least its kind.
fn sentence(failure: &Failure) -> String {
    match failure.error.message.as_str() {
        "" => text::escape(&failure.brief()),
        message => text::escape(message),
    }
}

fn last_lines(tail: &str, count: usize) -> Vec<String> {
    // Only what could be told from noise: an empty line says nothing.
    let lines: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| text::escape(line)).collect()
}

/// How it went: status and time, then every failure with kind, sentence, exit code, last words and remedy.
/// `{task}` in `log_hint` becomes the task's id.
pub fn summary(progress: &Progress, now: &Timestamp, log_hint: &str, style: Style) -> String {
    let counts = progress.counts;
    let took = text::span(progress.elapsed(now));
    let parts: Vec<String> = [
        (counts.completed, "completed"),
        (counts.failed - counts.timed_out, "failed"),
        (counts.timed_out, "timed out"),
        (counts.skipped, "skipped"),
        (counts.blocked, "blocked"),
        (counts.cancelled, "cancelled"),
        (counts.kept, "kept"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    let (paint, word) = match progress.outcome {
        Some(Outcome::Completed) => (Paint::Green, "COMPLETED"),
        Some(Outcome::Failed) => (Paint::Red, "FAILED"),
        Some(Outcome::Cancelled | Outcome::Killed) => (Paint::Yellow, "CANCELLED"),
        None => (Paint::Yellow, "NOT ENDED"),
    };
    let mut told =
        format!("{} in {took}: {} of {}", style.paint(paint, word), parts.join(", "), tasks(progress.total as usize));
    told.push('\n');
    for failure in progress.failures.iter().take(FAILURES_TOLD) {
        told += &failure_text(failure, log_hint, style);
    }
    let untold = usize::try_from(counts.failed).unwrap_or(usize::MAX).saturating_sub(FAILURES_TOLD);
    if untold > 0 {
        told += &format!("\n… and {untold} more failed tasks\n");
    }
    // A failure without a failed task has its reason here alone.
    if progress.failures.is_empty() && !progress.failure_message.is_empty() {
        told += &format!("  {}\n", text::escape(&progress.failure_message));
    }
    told
}

fn failure_text(failure: &Failure, log_hint: &str, style: Style) -> String {
    let error = &failure.error;
    let kind = if error.kind.is_empty() { "FAILED" } else { &error.kind };
    let code = error.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    let took = failure.took.map(|took| format!(", after {}", text::span(took))).unwrap_or_default();
    let task = text::escape(&failure.task_id);
    let mut told = format!("\n{} {task}  {}{code}{took}\n", style.paint(Paint::Red, "✗"), text::escape(kind));
    told += &format!("  {}\n", sentence(failure));
    for line in last_lines(&error.stderr_tail, SUMMARY_TAIL_LINES) {
        told += &format!("  {} {line}\n", style.paint(Paint::Dim, "│"));
    }
    if !error.remedy.is_empty() {
        told += &format!("  remedy: {}\n", text::escape(&error.remedy));
    }
    if !log_hint.is_empty() && failure.attempt > 0 {
        told += &format!("  full log: {}\n", log_hint.replace("{task}", &task));
    }
    told
}

const TAIL_LINES: usize = 5;
const SUMMARY_TAIL_LINES: usize = 10;
const FAILURES_TOLD: usize = 10;
const NAMES_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::{super::progress::tests::*, *};

    #[test]
    fn plain_lines_tell_the_story() {
        let mut progress = Progress::default();
        let mut lines = Vec::new();
        for event in story() {
            let happening = progress.apply(&event).unwrap();
            lines.extend(plain_line(&happening, &progress));
        }
        assert_eq!(
            lines,
            [
                "execution started, 5 tasks",
                "build started",
                "build completed in 2.0s",
                "test started",
                "lint started",
                "test failed: the program exited with code 3",
                "2 tasks blocked by test: deploy, announce",
                "lint completed in 3.0s",
            ]
        );
        assert_eq!(
            summary(&progress, &Timestamp::default(), "noxctl execution logs E {task}", Style::Plain),
            "FAILED in 9.0s: 2 completed, 1 failed, 2 blocked of 5 tasks\n\n\
             ✗ test  EXIT_CODE, exit code 3, after 2.0s\n  the program exited with code 3\n  │ assertion\n  │ failed\n  \
             remedy: read its log\n  full log: noxctl execution logs E test\n"
        );
    }

    #[test]
    fn every_way_of_waiting_and_of_being_called_off_is_told_in_words() {
        let mut progress = Progress::default();
        let mut lines = Vec::new();
        for event in eventful() {
            let happening = progress.apply(&event);
            lines.extend(happening.and_then(|happening| plain_line(&happening, &progress)));
        }
        assert_eq!(
            lines,
            [
                "execution started, 9 tasks; 2 tasks keep their result from E0",
                "fetch started",
                "ask waits for an answer (uid:1000): Ship it?",
                "fetch attempt 1 failed: exit code 75; next attempt in 2.0s",
                "c: `tasks.a.output > 3` cannot be evaluated: task `a` left no output",
                "1 task skipped: c, since a condition could not be evaluated",
                "ask rejected by uid:0: not now",
                "ask failed: the program exited with code 1",
                "ask failed, and the workflow is FAIL_FAST: the rest is called off, 1 running told to end",
                "2 tasks cancelled before starting: fetch, d",
                "now the tasks of `finally`",
                "the execution_timeout of 1m 00s is reached: the rest is called off",
            ]
        );
        let told = summary(&progress, &Timestamp::default(), "", Style::Plain);
        assert!(told.contains("1 failed, 1 skipped, 2 cancelled, 2 kept of 9 tasks"), "{told}");
    }

    #[test]
    fn a_failure_scrolls_by_with_its_last_words() {
        let mut progress = Progress::default();
        let happening = progress.apply(&event(0, "test", failed(3, "\x1b[31mno\n\nway\n"))).unwrap();
        assert_eq!(scroll_text(&happening, Style::Plain).unwrap(), "✗ test  exit code 3\n    \\x1b[31mno\n    way");
    }
}
