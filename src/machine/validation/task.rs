//! One task by itself: its fields and its action. What it has to do with other tasks is looked at elsewhere.

use super::{Faults, MAX_DESCRIPTION_BYTES, MAX_SPAN_MICROS, notes, shortened};
use crate::machine::{
    ids::check_name,
    retry,
    workflow::{
        Action, ApprovalAction, BackoffSpec, CommandAction, OnInterrupt, Reason, RetrySpec, TaskSpec, TriggerRule,
    },
};

const MAX_TITLE_BYTES: usize = 1_024;
const MAX_ARGV: usize = 4_096;
const MAX_ARGV_BYTES: usize = 1_024 * 1_024;
/// Linux refuses one longer argument, whatever the others.
const MAX_ARGUMENT_BYTES: usize = 128 * 1_024 - 1;
/// PATH_MAX of Linux.
const MAX_PATH_BYTES: usize = 4_096;
pub(super) const MAX_STDIN_BYTES: usize = 1_024 * 1_024;
/// Each attempt is a row for ever; who needs more tries has a loop to write.
const MAX_ATTEMPTS: u32 = 1_000;
const MAX_RETRY_ERRORS: usize = 64;
const MAX_PROMPT_BYTES: usize = 4 * 1_024;
const MAX_APPROVERS: usize = 64;
const MAX_APPROVER_BYTES: usize = 256;

/// Checks the fields of the task at `position`.
pub(super) fn fields(position: usize, task: &TaskSpec, faults: &mut Faults) {
    let field = |name: &str| format!("tasks[{position}].{name}");
    faults.longer_than(&field("title"), task.title.len(), MAX_TITLE_BYTES, "bytes");
    faults.longer_than(&field("description"), task.description.len(), MAX_DESCRIPTION_BYTES, "bytes");
    faults.0.extend(notes(&field("metadata"), &task.metadata));
    for (name, value) in [("agent_id", &task.agent_id), ("parallel_group", &task.parallel_group)] {
        if !value.is_empty()
            && let Err(words) = check_name(value)
        {
            faults.add(&field(name), Reason::InvalidId, words);
        }
    }
    if task.trigger_rule != TriggerRule::AllSucceeded && task.dependencies.is_empty() {
        let words = "a trigger rule is about dependencies, and this task has none; give it some, or leave the rule out";
        faults.add(&field("trigger_rule"), Reason::InvalidValue, words.into());
    }
    faults.timeout(&field("timeout"), task.timeout_micros);
    faults.timeout(&field("queue_timeout"), task.queue_timeout_micros);
    faults.timeout(&field("idle_timeout"), task.idle_timeout_micros);
    if let Some(retry) = &task.retry {
        retry_fields(&field("retry_config"), retry, faults);
    }
    match &task.action {
        Some(Action::Command(command)) => command_fields(&field("command"), command, faults),
        Some(Action::Noop { duration_micros }) => {
            faults.span(&field("noop.duration"), *duration_micros);
            if task.idle_timeout_micros.is_some() {
                let words = "`noop` says nothing that could fall silent; use `timeout`, or leave it out";
                faults.add(&field("idle_timeout"), Reason::InvalidValue, words.into());
            }
        }
        Some(Action::Approval(approval)) => {
            approval_fields(&field("approval"), approval, faults);
            fields_of_attempts(&field, task, faults);
        }
        None => {}
    }
}

/// An approval has no attempts and no place in a queue: what bounds or repeats those would mean nothing.
fn fields_of_attempts(field: &dyn Fn(&str) -> String, task: &TaskSpec, faults: &mut Faults) {
    const TIMEOUT: &str = "an approval has no attempt to bound; use `approval.timeout` for the wait for an answer";
    let given = [
        ("timeout", task.timeout_micros.is_some(), TIMEOUT),
        ("queue_timeout", task.queue_timeout_micros.is_some(), "an approval waits in no queue; use `approval.timeout`"),
        ("idle_timeout", task.idle_timeout_micros.is_some(), "an approval has no output; use `approval.timeout`"),
        ("retry_config", task.retry.is_some(), "a person's answer is not tried again; leave it out"),
        (
            "on_interrupt",
            task.on_interrupt == OnInterrupt::Fail,
            "an approval goes on waiting over a restart and is never interrupted; leave it out",
        ),
    ];
    for (name, _, words) in given.into_iter().filter(|(_, given, _)| *given) {
        faults.add(&field(name), Reason::InvalidValue, words.into());
    }
}

fn approval_fields(field: &str, approval: &ApprovalAction, faults: &mut Faults) {
    faults.longer_than(&format!("{field}.prompt"), approval.prompt.len(), MAX_PROMPT_BYTES, "bytes");
    faults.timeout(&format!("{field}.timeout"), approval.timeout_micros);
    let approvers = format!("{field}.approvers");
    faults.longer_than(&approvers, approval.approvers.len(), MAX_APPROVERS, "entries");
    for (at, approver) in approval.approvers.iter().enumerate() {
        let one = format!("{approvers}[{at}]");
        faults.longer_than(&one, approver.len(), MAX_APPROVER_BYTES, "bytes");
        if approver.trim().is_empty() {
            let words = "name a caller as events do, `uid:1000`; leave the list out to let anybody answer";
            faults.add(&one, Reason::MissingValue, words.into());
        }
    }
}

fn command_fields(field: &str, command: &CommandAction, faults: &mut Faults) {
    let argv = format!("{field}.argv");
    if command.argv.first().is_none_or(String::is_empty) {
        faults.add(&argv, Reason::MissingValue, "name the program to run, then its arguments".into());
    }
    faults.longer_than(&argv, command.argv.len(), MAX_ARGV, "elements");
    faults.longer_than(&argv, command.argv.iter().map(String::len).sum(), MAX_ARGV_BYTES, "bytes");
    for (at, element) in command.argv.iter().enumerate() {
        let field = format!("{argv}[{at}]");
        faults.longer_than(&field, element.len(), MAX_ARGUMENT_BYTES, "bytes");
        no_nul(&field, element, faults);
    }
    for (name, value) in &command.env {
        env_entry(&format!("{field}.env[{:?}]", shortened(name)), name, value, faults);
    }
    let directory = format!("{field}.working_dir");
    no_nul(&directory, &command.working_dir, faults);
    faults.longer_than(&directory, command.working_dir.len(), MAX_PATH_BYTES, "bytes");
    if !command.working_dir.is_empty() && !command.working_dir.starts_with('/') {
        let words = format!(
            "`{}` is relative, but the server has no directory of yours; give an absolute path, \
             or use `noxd run` or `noxctl -f`, which resolve it against the file",
            shortened(&command.working_dir)
        );
        faults.add(&directory, Reason::InvalidValue, words);
    }
    faults.longer_than(&format!("{field}.stdin"), command.stdin.len(), MAX_STDIN_BYTES, "bytes");
}

fn no_nul(field: &str, text: &str, faults: &mut Faults) {
    if text.contains('\0') {
        faults.add(field, Reason::InvalidValue, "a NUL byte cannot reach a program; remove it".into());
    }
}

fn env_entry(field: &str, name: &str, value: &str, faults: &mut Faults) {
    if name.is_empty() || name.contains(['=', '\0']) {
        faults.add(field, Reason::InvalidValue, "a variable's name is not empty and has no `=` and no NUL".into());
    }
    if name.starts_with("NOX_") {
        faults.add(field, Reason::InvalidValue, "names that begin with `NOX_` are noxd's own; choose another".into());
    }
    no_nul(field, value, faults);
    faults.longer_than(field, name.len() + value.len(), MAX_ARGUMENT_BYTES, "bytes");
}

/// A backoff with one attempt is no fault: who turns retries off for a while keeps the rest.
pub(super) fn retry_fields(field: &str, retry: &RetrySpec, faults: &mut Faults) {
    let attempts = format!("{field}.max_attempts");
    if retry.max_attempts == 0 {
        let words = "max_attempts counts the first try, so it is at least 1";
        faults.add(&attempts, Reason::InvalidValue, words.into());
    }
    if retry.max_attempts > MAX_ATTEMPTS {
        let words = format!("{} attempts; at most {MAX_ATTEMPTS} are allowed", retry.max_attempts);
        faults.add(&attempts, Reason::LimitExceeded, words);
    }
    let mut span = |name: &str, seconds: f64| {
        #[expect(clippy::cast_precision_loss, reason = "the bound is a round number")]
        let longest = MAX_SPAN_MICROS as f64 / 1e6;
        if !(0.0..=longest).contains(&seconds) {
            let words = format!("{seconds} s is no delay; it is not negative and at most a hundred years");
            faults.add(&format!("{field}.{name}"), Reason::InvalidValue, words);
        }
    };
    let mut multiplier = None;
    match &retry.backoff {
        None => {}
        Some(BackoffSpec::Fixed { delay }) => span("fixed.delay", *delay),
        Some(BackoffSpec::Linear { initial_delay, increment }) => {
            span("linear.initial_delay", *initial_delay);
            span("linear.increment", *increment);
        }
        Some(BackoffSpec::Exponential { initial_delay, multiplier: given }) => {
            span("exponential.initial_delay", *initial_delay);
            multiplier = Some(*given);
        }
    }
    if let Some(seconds) = retry.max_delay_seconds {
        span("max_delay", seconds);
    }
    if let Some(multiplier) = multiplier.filter(|given| !given.is_finite() || *given < 1.0) {
        let words = format!("{multiplier} is no multiplier; it is finite and at least 1");
        faults.add(&format!("{field}.exponential.multiplier"), Reason::InvalidValue, words);
    }
    if !(0.0..=1.0).contains(&retry.jitter) {
        let words = format!("{} is no jitter; it is between 0 and 1", retry.jitter);
        faults.add(&format!("{field}.jitter"), Reason::InvalidValue, words);
    }
    let errors = format!("{field}.retry_on_errors");
    faults.longer_than(&errors, retry.retry_on_errors.len(), MAX_RETRY_ERRORS, "entries");
    for (at, entry) in retry.retry_on_errors.iter().enumerate().take(MAX_RETRY_ERRORS) {
        if let Err(words) = retry_entry(entry) {
            faults.add(&format!("{errors}[{at}]"), Reason::InvalidValue, words);
        }
    }
}

/// An error kind, `EXIT_CODE=75`, or `/regex/` (S-RETRY-2).
fn retry_entry(entry: &str) -> Result<(), String> {
    const KINDS: [&str; 10] =
        ["TIMEOUT", "EXIT_CODE", "SIGNAL", "SPAWN", "LOST", "AGENT", "RATE_LIMITED", "OUTPUT", "TEMPLATE", "INTERNAL"];
    if let Some(regex) = entry.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        return match regex::RegexBuilder::new(regex).size_limit(retry::MAX_REGEX_BYTES).build() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("`{}` is no regular expression: {error}", shortened(entry))),
        };
    }
    let known = KINDS.contains(&entry)
        || entry.strip_prefix("EXIT_CODE=").is_some_and(|code| code.parse::<u8>().is_ok_and(|code| code > 0));
    if known {
        return Ok(());
    }
    Err(format!(
        "`{}` is no error kind; use one of {}, EXIT_CODE=1 to 255, or /regex/",
        shortened(entry),
        KINDS.join(", ")
    ))
}
