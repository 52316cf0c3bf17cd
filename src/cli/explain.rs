//! `noxctl execution explain` and `rerun`: why a task does not run, and an execution once more.

use clap::Args;

use super::{
    Context, connect,
    execution::local,
    output::{Format, talk},
    run::request_id,
    status::CliError,
    table::{Column, Table},
    telling, text,
};
use crate::proto::v1::{
    ExplainTaskRequest, ExplainTaskResponse, RerunExecutionRequest, RerunExecutionResponse, TaskStatus,
};

/// Of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The execution.
    execution: String,
    /// One of its tasks.
    task: String,
}

/// Of `rerun`.
#[derive(Debug, Args)]
pub struct RerunArgs {
    /// The execution; it has ended.
    execution: String,
    /// Tasks to do again although they succeeded, with all that comes after them.
    tasks: Vec<String>,
    /// Only tell what would be kept and what done.
    #[arg(long)]
    dry_run: bool,
}

/// Says why a task does not run; the exit code.
pub(super) async fn explain(args: ExplainArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::executions(context.channel().await?);
    let request = ExplainTaskRequest { execution_id: args.execution, task_id: args.task.clone() };
    let answer = client.explain_task(request).await?.into_inner();
    let width = context.output.width();
    context.output.resource(&answer, || explained(&args.task, &answer, width))?;
    Ok(0)
}

fn explained(task: &str, answer: &ExplainTaskResponse, width: Option<u16>) -> String {
    let status = text::task_status(answer.status);
    let task = text::escape(task);
    if answer.blockers.is_empty() {
        return match answer.status() {
            TaskStatus::Running => format!("{task} is {status}: it waits for nothing\n"),
            _ => format!("{task} is {status}: it is over\n"),
        };
    }
    let mut told = format!("{task} is {status}, since\n");
    for blocker in &answer.blockers {
        told += &wrapped(&blocker.description, width);
    }
    let mut table = Table::new(&[Column::Whole("KIND"), Column::Whole("SINCE"), Column::Whole("UNTIL AT THE LATEST")]);
    for blocker in &answer.blockers {
        table.row(vec![blocker.kind.clone(), local(blocker.since.as_ref()), local(blocker.until.as_ref())]);
    }
    told + "\n" + &table.render(width)
}

/// An indented line, broken between words where the terminal ends.
fn wrapped(words: &str, width: Option<u16>) -> String {
    let room = width.map_or(usize::MAX, |width| usize::from(width).saturating_sub(INDENT.len()).max(20));
    let mut lines = vec![String::new()];
    for word in text::escape(words).split(' ') {
        let last = lines.last_mut().expect("there is always one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else {
            *last += if last.is_empty() { "" } else { " " };
            *last += word;
        }
    }
    lines.iter().map(|line| format!("{INDENT}{line}\n")).collect()
}

/// Runs an execution again; the exit code.
pub(super) async fn rerun(args: RerunArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::executions(context.channel().await?);
    let request = RerunExecutionRequest {
        execution_id: args.execution,
        task_ids: args.tasks,
        validate_only: args.dry_run,
        request_id: if args.dry_run { String::new() } else { request_id() },
    };
    let answer = client.rerun_execution(request).await?.into_inner();
    // What was started is data, as of `workflow execute`; what it is made of is talk.
    match (&answer.execution, context.output.format()) {
        (Some(execution), Format::Table) => {
            context.output.text(&format!("{}\n", text::escape(&execution.id)))?;
            talk(planned(&answer).trim_end());
        }
        _ => context.output.resource(&answer, || planned(&answer))?,
    }
    Ok(0)
}

fn planned(answer: &RerunExecutionResponse) -> String {
    let kinds = [("keeps", &answer.reused_task_ids), ("does again", &answer.redone_task_ids)];
    let mut told = String::new();
    for (word, tasks) in kinds.into_iter().filter(|(_, tasks)| !tasks.is_empty()) {
        let count = if tasks.len() == 1 { "1 task".to_owned() } else { format!("{} tasks", tasks.len()) };
        told += &format!("{word} {count}: {}\n", telling::names(tasks));
    }
    told
}

const INDENT: &str = "  ";

#[cfg(test)]
mod tests {
    use crate::proto::v1::TaskBlocker;

    use super::*;

    #[test]
    fn what_stands_in_the_way_is_said_in_words() {
        // S-DEP-5
        let blocker = |kind: &str, words: &str| TaskBlocker {
            kind: kind.into(),
            description: words.into(),
            ..TaskBlocker::default()
        };
        let answer = ExplainTaskResponse {
            blockers: vec![blocker("PAUSE", "the execution is paused"), blocker("LIMIT", "the limit of 3 is reached")],
            status: TaskStatus::Queued as i32,
        };
        let told = explained("deploy", &answer, Some(24));
        assert!(
            told.starts_with("deploy is QUEUED, since\n  the execution is\n  paused\n  the limit of 3 is\n  reached\n"),
            "{told}"
        );
        assert!(told.contains("PAUSE") && told.contains("LIMIT"), "{told}");
        let over = ExplainTaskResponse { blockers: Vec::new(), status: TaskStatus::Skipped as i32 };
        assert_eq!(explained("deploy", &over, None), "deploy is SKIPPED: it is over\n");
        let runs = ExplainTaskResponse { blockers: Vec::new(), status: TaskStatus::Running as i32 };
        assert_eq!(explained("deploy", &runs, None), "deploy is RUNNING: it waits for nothing\n");
    }

    #[test]
    fn a_rerun_says_what_is_kept_and_what_is_done_again() {
        let answer = RerunExecutionResponse {
            execution: None,
            reused_task_ids: vec!["build".into()],
            redone_task_ids: vec!["test".into(), "ship".into()],
        };
        assert_eq!(planned(&answer), "keeps 1 task: build\ndoes again 2 tasks: test, ship\n");
    }
}
