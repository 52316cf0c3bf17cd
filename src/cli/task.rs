//! `noxctl execution show ID TASK`: one task of an execution, with its tries and its whole output.

use super::{
    Context, connect,
    execution::{local, role, took},
    output::properties,
    status::CliError,
    table::{Column, Table},
    text,
};
use crate::proto::v1::{GetTaskRequest, TaskExecution};

/// Shows a task; the exit code.
pub(super) async fn show(execution_id: &str, task_id: &str, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::executions(context.channel().await?);
    let request = GetTaskRequest { execution_id: execution_id.to_owned(), task_id: task_id.to_owned() };
    let task = client.get_task(request).await?.into_inner().task.ok_or(CliError::Incomplete("the task"))?;
    let width = context.output.width();
    let output = output_text(&task)?;
    context.output.resource(&task, || details(&task) + "\n" + &attempts(&task).render(width) + &output)?;
    Ok(0)
}

fn details(task: &TaskExecution) -> String {
    let error = task.error.clone().unwrap_or_default();
    properties(&[
        ("task", task.task_id.clone()),
        ("title", task.title.clone()),
        ("status", text::task_status(task.status).to_owned()),
        ("role", role(task)),
        ("result", if task.reused { "that of the execution which this one repeats".to_owned() } else { String::new() }),
        ("after", task.dependencies.join(", ")),
        ("before", task.dependents.join(", ")),
        ("waits for", task.waiting_for.join(", ")),
        ("blocked by", task.blocked_by.clone()),
        ("started", local(task.started_at.as_ref())),
        ("ended", local(task.completed_at.as_ref())),
        ("took", took(task.started_at.as_ref(), task.completed_at.as_ref())),
        ("error", error.message),
        ("remedy", error.remedy),
    ])
}

fn attempts(task: &TaskExecution) -> Table {
    let mut table = Table::new(&[
        Column::Whole("TRY"),
        Column::Whole("STATUS"),
        Column::Whole("TOOK"),
        Column::Optional("CPU"),
        Column::Optional("MEMORY"),
        Column::Flexible("ERROR"),
        Column::Optional("NEXT TRY"),
    ]);
    for attempt in &task.attempts {
        let cpu = attempt.cpu_time.as_ref().and_then(|cpu| std::time::Duration::try_from(*cpu).ok());
        let memory = attempt.peak_memory_bytes >> 20;
        table.row(vec![
            attempt.number.to_string(),
            text::task_status(attempt.status).to_owned(),
            took(attempt.started_at.as_ref(), attempt.completed_at.as_ref()),
            cpu.map(text::span).unwrap_or_default(),
            if memory > 0 { format!("{memory} MiB") } else { String::new() },
            attempt.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            local(attempt.next_retry_at.as_ref()),
        ]);
    }
    table
}

/// The output as a person reads it: text as it is, anything else as JSON.
fn output_text(task: &TaskExecution) -> Result<String, CliError> {
    use pbjson_types::value::Kind;
    Ok(match task.output.as_ref().and_then(|output| output.kind.as_ref()) {
        None => String::new(),
        Some(Kind::StringValue(words)) => format!("\n{}\n", text::escape_lines(words)),
        Some(_) => {
            let json = super::output::canonical(&task.output)?;
            let json = serde_json::to_string_pretty(&json).map_err(std::io::Error::from)?;
            format!("\n{}\n", text::escape_json(&json))
        }
    })
}
