//! Shows a [`Progress`] to people: live on a terminal, in plain lines elsewhere.
//!
//! The texts are pure functions of the progress and the present; [`Display`] is the thin part that draws them.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pbjson_types::Timestamp;

use super::{
    output,
    progress::{Counts, Failure, Happening, Outcome, Progress, Running},
    status::CliError,
    text,
};
use crate::proto::v1::Event;

/// Where and how progress is shown.
pub enum Display {
    /// Drawn on the terminal at standard error.
    Live(Live),
    /// One line per event at standard output.
    Plain,
    /// One JSON or YAML message per event.
    Messages(output::Output),
    /// Not at all.
    Quiet,
}

impl Display {
    /// Live when both standard output and standard error are terminals, else plain lines.
    pub fn for_terminal() -> Self {
        use std::io::IsTerminal as _;
        let live = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        // A dumb terminal cannot move its cursor: drawing would fill it with copies.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if live && !dumb { Self::Live(Live::new()) } else { Self::Plain }
    }

    /// Whether it writes plain lines.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Shows what an event meant.
    pub fn happened(
        &mut self,
        event: &Event,
        happening: Option<&Happening>,
        progress: &Progress,
    ) -> Result<(), CliError> {
        match (self, happening) {
            (Self::Messages(output), _) => output.message(event),
            (Self::Live(live), Some(happening)) => live.happened(happening, progress),
            (Self::Plain, Some(happening)) => {
                let Some(line) = plain_line(happening, progress) else { return Ok(()) };
                let line = format!("{} {line}\n", text::clock(event.time.as_ref()));
                write_out(&line)
            }
            (Self::Quiet, _) | (_, None) => Ok(()),
        }
    }

    /// Draws the present; called some ten times a second.
    pub fn tick(&mut self, progress: &Progress, link_broken: &Arc<AtomicBool>) -> Result<(), CliError> {
        match self {
            Self::Live(live) => live.draw(progress, link_broken.load(Ordering::Relaxed)),
            _ => Ok(()),
        }
    }

    /// Says something between the lines.
    pub fn note(&mut self, words: &str) -> Result<(), CliError> {
        match self {
            Self::Live(live) => live.scroll(words),
            _ => {
                output::talk(words);
                Ok(())
            }
        }
    }

    /// Takes the live part away and tells how it went.
    pub fn finish(&mut self, progress: &Progress, log_hint: &str) -> Result<(), CliError> {
        match self {
            Self::Live(live) => {
                let told = summary(progress, log_hint, live.style);
                live.clear()?;
                output::talk(told.trim_end());
                Ok(())
            }
            Self::Plain => write_out(&summary(progress, log_hint, Style::Plain)),
            Self::Messages(_) | Self::Quiet => Ok(()),
        }
    }
}

fn write_out(text: &str) -> Result<(), CliError> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// The drawing at the bottom of the terminal: a line per running task, and one for the whole.
pub struct Live {
    multi: MultiProgress,
    rows: Vec<ProgressBar>,
    bottom: ProgressBar,
    style: Style,
    frame: usize,
    // What ended in a large execution and is not told one by one.
    untold: Counts,
    told_at: std::time::Instant,
}

impl Live {
    #[expect(clippy::disallowed_methods, reason = "paces what a person is told")]
    fn new() -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(12));
        let bottom = multi.add(line_bar());
        let coloured = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
        let style = if coloured { Style::Coloured } else { Style::Plain };
        Self {
            multi,
            rows: Vec::new(),
            bottom,
            style,
            frame: 0,
            untold: Counts::default(),
            told_at: std::time::Instant::now(),
        }
    }

    fn happened(&mut self, happening: &Happening, progress: &Progress) -> Result<(), CliError> {
        if progress.total > MANY_TASKS {
            match happening {
                Happening::TaskCompleted(_, took) if took.is_none_or(|took| took < WORTH_A_LINE) => {
                    self.untold.completed += 1;
                    return self.tell_batch(BATCH_INTERVAL);
                }
                // The summary has the first failures whole; a storm of them is only counted.
                Happening::TaskFailed(_) if progress.counts.failed > MANY_FAILURES => {
                    self.untold.failed += 1;
                    return self.tell_batch(BATCH_INTERVAL);
                }
                _ => {}
            }
        }
        match scroll_text(happening, self.style) {
            Some(text) => self.scroll(&text),
            None => Ok(()),
        }
    }

    /// One line for all that was not told since the last such line, when that is `interval` ago.
    #[expect(clippy::disallowed_methods, reason = "paces what a person is told")]
    fn tell_batch(&mut self, interval: std::time::Duration) -> Result<(), CliError> {
        let Counts { completed, failed, .. } = self.untold;
        if completed + failed == 0 || self.told_at.elapsed() < interval {
            return Ok(());
        }
        self.untold = Counts::default();
        self.told_at = std::time::Instant::now();
        for (number, mark, word) in [
            (completed, self.style.paint(Paint::Green, "✓"), "completed"),
            (failed, self.style.paint(Paint::Red, "✗"), "failed"),
        ] {
            if number > 0 {
                self.scroll(&format!("{mark} {number} more {word}"))?;
            }
        }
        Ok(())
    }

    fn scroll(&mut self, text: &str) -> Result<(), CliError> {
        Ok(self.multi.println(text)?)
    }

    fn draw(&mut self, progress: &Progress, link_broken: bool) -> Result<(), CliError> {
        self.frame += 1;
        self.tell_batch(BATCH_INTERVAL)?;
        let (columns, lines) = output::terminal_size();
        let now = now();
        let room = usize::from(lines).saturating_sub(4).max(1);
        let wanted = running_lines(progress, &now, room, self.frame, self.style);
        while self.rows.len() > wanted.len() {
            if let Some(row) = self.rows.pop() {
                row.finish_and_clear();
                self.multi.remove(&row);
            }
        }
        while self.rows.len() < wanted.len() {
            self.rows.push(self.multi.insert_before(&self.bottom, line_bar()));
        }
        for (row, line) in self.rows.iter().zip(wanted) {
            row.set_message(line);
        }
        self.bottom.set_message(bottom_line(progress, &now, usize::from(columns), link_broken, self.style));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), CliError> {
        self.tell_batch(std::time::Duration::ZERO)?;
        self.multi.clear()?;
        // Bars draw themselves once more when they are dropped, over what is told next.
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
        Ok(())
    }
}

fn line_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}").expect("the template is constant and well-formed");
    ProgressBar::new_spinner().with_style(style)
}

#[expect(clippy::disallowed_methods, reason = "running times that a person is shown")]
fn now() -> Timestamp {
    chrono::Utc::now().into()
}

/// Whether lines have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// ANSI colours.
    Coloured,
    /// None.
    Plain,
}

#[derive(Clone, Copy)]
enum Paint {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
    Dim = 2,
}

impl Style {
    fn paint(self, paint: Paint, text: &str) -> String {
        match self {
            Self::Coloured => format!("\x1b[{}m{text}\x1b[0m", paint as u8),
            Self::Plain => text.to_owned(),
        }
    }
}

/// A line for each running task, the oldest first, and one for those that have no room.
fn running_lines(progress: &Progress, now: &Timestamp, room: usize, frame: usize, style: Style) -> Vec<String> {
    let running = progress.running();
    let (all, shown) = (running.len(), if running.len() > room { room.saturating_sub(1) } else { room });
    let spinner = style.paint(Paint::Cyan, SPINNER[frame % SPINNER.len()]);
    let line = |task: &Running| {
        let elapsed = text::between(task.since.as_ref(), Some(now)).unwrap_or_default();
        let title = if task.title.is_empty() { String::new() } else { format!("  {}", text::escape(&task.title)) };
        let ending = if task.timed_out { style.paint(Paint::Yellow, "  time is up, ending it") } else { String::new() };
        let again = if task.attempt > 1 { format!(" (attempt {})", task.attempt) } else { String::new() };
        // The time stands before the title: a long title is cut by the terminal's edge, the time never is.
        format!(
            "{spinner} {}{again}  {}{ending}{}",
            text::escape(&task.task_id),
            coarse(elapsed),
            style.paint(Paint::Dim, &title)
        )
    };
    let mut lines: Vec<String> = running.take(shown).map(line).collect();
    if all > shown {
        lines.push(style.paint(Paint::Dim, &format!("  … and {} more", all - shown)));
    }
    lines
}

/// Whole seconds while something runs: tenths only flicker.
fn coarse(span: std::time::Duration) -> String {
    if span.as_secs() < 60 { format!("{}s", span.as_secs()) } else { text::span(span) }
}

/// `━━━━━━──── 12/40  30%  1m 04s  2 failed`.
fn bottom_line(progress: &Progress, now: &Timestamp, columns: usize, link_broken: bool, style: Style) -> String {
    let width = (columns / 4).clamp(8, 30);
    let filled = width * usize::try_from(progress.percent()).unwrap_or(0) / 100;
    let bar = style.paint(Paint::Green, &"━".repeat(filled)) + &style.paint(Paint::Dim, &"─".repeat(width - filled));
    let counts = progress.counts;
    let mut line = format!(
        "{bar} {}/{}  {}%  {}",
        counts.ended(),
        progress.total,
        progress.percent(),
        coarse(progress.elapsed(now))
    );
    for (number, word, paint) in [
        (counts.failed, "failed", Paint::Red),
        (counts.blocked, "blocked", Paint::Yellow),
        (counts.cancelled, "cancelled", Paint::Yellow),
    ] {
        if number > 0 {
            line += &style.paint(paint, &format!("  {number} {word}"));
        }
    }
    for (holds, words) in [
        (progress.cancelling, "  cancelling"),
        (progress.paused, "  paused"),
        (link_broken, "  connection lost, trying again"),
    ] {
        if holds {
            line += &style.paint(Paint::Yellow, words);
        }
    }
    line
}

/// What stays above the live part; nothing for what the live part shows by itself.
fn scroll_text(happening: &Happening, style: Style) -> Option<String> {
    let yellow = |words: &str| style.paint(Paint::Yellow, words);
    match happening {
        Happening::Started | Happening::TaskStarted(_) | Happening::TaskTimeUp(_) | Happening::Ended(_) => None,
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
        Happening::Started => Some(format!("execution started, {}", tasks(progress.total as usize))),
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
    match happening {
        Happening::TaskTimeUp(task) => Some(format!("{} reached its timeout and is being ended", text::escape(task))),
        Happening::TaskCancelled(task) => Some(format!("{} cancelled", text::escape(task))),
        Happening::TaskInterrupted(task, reason) => {
            Some(format!("{} interrupted ({}), queued again", text::escape(task), text::escape(reason)))
        }
        Happening::Blocked(ids, cause) => {
            Some(format!("{} blocked by {}: {}", tasks(ids.len()), text::escape(cause), names(ids)))
        }
        Happening::Cancelled(ids) => Some(format!("{} cancelled before starting: {}", tasks(ids.len()), names(ids))),
        Happening::Paused => Some("paused: nothing new starts, running tasks finish".to_owned()),
        Happening::Resumed => Some("resumed".to_owned()),
        Happening::CancelRequested(0) => Some("cancel requested".to_owned()),
        Happening::CancelRequested(running) => Some(format!("cancel requested, {running} running told to end")),
        _ => None,
    }
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
pub fn summary(progress: &Progress, log_hint: &str, style: Style) -> String {
    let counts = progress.counts;
    let took = text::span(progress.elapsed(&now()));
    let parts: Vec<String> = [
        (counts.completed, "completed"),
        (counts.failed - counts.timed_out, "failed"),
        (counts.timed_out, "timed out"),
        (counts.blocked, "blocked"),
        (counts.cancelled, "cancelled"),
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
    if !log_hint.is_empty() {
        told += &format!("  full log: {}\n", log_hint.replace("{task}", &task));
    }
    told
}

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
// Beyond this a line per task is noise.
const MANY_TASKS: u32 = 200;
const MANY_FAILURES: u32 = 50;
const WORTH_A_LINE: std::time::Duration = std::time::Duration::from_secs(5);
const BATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);
const TAIL_LINES: usize = 5;
const SUMMARY_TAIL_LINES: usize = 10;
const FAILURES_TOLD: usize = 10;
const NAMES_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::{super::progress::tests::*, *};
    use crate::proto::v1::{TaskStarted, event::Kind};

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
            summary(&progress, "noxctl execution logs E {task}", Style::Plain),
            "FAILED in 9.0s: 2 completed, 1 failed, 2 blocked of 5 tasks\n\n\
             ✗ test  EXIT_CODE, exit code 3, after 2.0s\n  the program exited with code 3\n  │ assertion\n  │ failed\n  \
             remedy: read its log\n  full log: noxctl execution logs E test\n"
        );
    }

    #[test]
    fn a_failure_scrolls_by_with_its_last_words() {
        let mut progress = Progress::default();
        let happening = progress.apply(&event(0, "test", failed(3, "\x1b[31mno\n\nway\n"))).unwrap();
        assert_eq!(scroll_text(&happening, Style::Plain).unwrap(), "✗ test  exit code 3\n    \\x1b[31mno\n    way");
    }

    #[test]
    fn more_running_tasks_than_lines_are_counted() {
        let mut progress = Progress::default();
        progress.apply(&event(0, "", started(40)));
        for index in 1..=16 {
            progress.apply(&event(index, &format!("t{index}"), Kind::TaskStarted(TaskStarted::default())));
        }
        let now = Timestamp { seconds: 75, nanos: 0 };
        let lines = running_lines(&progress, &now, 5, 0, Style::Plain);
        assert_eq!(lines, ["⠋ t1  1m 14s", "⠋ t2  1m 13s", "⠋ t3  1m 12s", "⠋ t4  1m 11s", "  … and 12 more"]);
        assert_eq!(running_lines(&progress, &now, 16, 0, Style::Plain).len(), 16);
        assert_eq!(
            bottom_line(&progress, &now, 40, true, Style::Plain),
            "────────── 0/40  0%  1m 15s  connection lost, trying again"
        );
    }
}
