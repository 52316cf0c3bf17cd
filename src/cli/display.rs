//! Shows a [`Progress`] to people: live on a terminal, in plain lines elsewhere.
//!
//! [`Display`] draws what moves; the words are in `telling.rs`.

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
    progress::{Counts, Happening, Progress, Running},
    status::CliError,
    telling::{Paint, Style, plain_line, scroll_text, summary},
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
                let told = summary(progress, &now(), log_hint, live.style);
                live.clear()?;
                output::talk(told.trim_end());
                Ok(())
            }
            Self::Plain => write_out(&summary(progress, &now(), log_hint, Style::Plain)),
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
    untold_retries: u32,
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
            untold_retries: 0,
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
                Happening::Skipped(ids, _) => {
                    self.untold.skipped += size(ids.len());
                    return self.tell_batch(BATCH_INTERVAL);
                }
                Happening::RetryScheduled { .. } => {
                    self.untold_retries += 1;
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
        let Counts { completed, failed, skipped, .. } = self.untold;
        let retries = self.untold_retries;
        if completed + failed + skipped + retries == 0 || self.told_at.elapsed() < interval {
            return Ok(());
        }
        (self.untold, self.untold_retries) = (Counts::default(), 0);
        self.told_at = std::time::Instant::now();
        for (number, mark, word) in [
            (completed, self.style.paint(Paint::Green, "✓"), "completed"),
            (failed, self.style.paint(Paint::Red, "✗"), "failed"),
            (skipped, self.style.paint(Paint::Yellow, "•"), "skipped"),
            (retries, self.style.paint(Paint::Yellow, "•"), "attempts failed and are tried again"),
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

/// `━━━━━━──── 12/40  30%  1m 04s, about 2m 10s left  2 failed`.
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
    if let Some(left) = progress.left(now) {
        line += &match left.as_secs() {
            0 => ", longer than expected".to_owned(),
            _ => format!(", about {} left", coarse(left)),
        };
    }
    for (number, word, paint) in [
        (counts.failed, "failed", Paint::Red),
        (counts.skipped, "skipped", Paint::Dim),
        (counts.blocked, "blocked", Paint::Yellow),
        (counts.cancelled, "cancelled", Paint::Yellow),
        (size(progress.retrying.len()), "retrying", Paint::Yellow),
        (size(progress.asking.len()), "waiting for an answer", Paint::Yellow),
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

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
// Beyond this a line per task is noise.
const MANY_TASKS: u32 = 200;
const MANY_FAILURES: u32 = 50;
const WORTH_A_LINE: std::time::Duration = std::time::Duration::from_secs(5);
const BATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(2);
#[cfg(test)]
mod tests {
    use super::{super::progress::tests::*, *};
    use crate::proto::v1::{ExecutionProgress, TaskStarted, event::Kind};

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

    #[test]
    fn the_bottom_says_how_long_it_takes_still_where_that_is_known() {
        // S-VIEW-1
        let mut progress = Progress::default();
        progress.apply(&event(0, "", started(4)));
        let eta = Some(Timestamp { seconds: 164, nanos: 0 });
        progress.told(ExecutionProgress { eta, ..ExecutionProgress::default() });
        let line = |seconds| bottom_line(&progress, &Timestamp { seconds, nanos: 0 }, 80, false, Style::Plain);
        assert!(line(40).ends_with(" 0/4  0%  40s, about 2m 04s left"), "{}", line(40));
        assert!(line(200).ends_with("3m 20s, longer than expected"), "{}", line(200));
    }

    #[test]
    fn what_waits_is_counted_at_the_bottom() {
        let mut progress = Progress::default();
        eventful()[..4].iter().for_each(|event| drop(progress.apply(event)));
        let now = Timestamp { seconds: 4, nanos: 0 };
        let line = bottom_line(&progress, &now, 80, false, Style::Plain);
        assert!(line.ends_with(" 2/9  22%  4s  1 retrying  1 waiting for an answer"), "{line}");
    }
}
