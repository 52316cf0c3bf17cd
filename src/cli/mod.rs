//! `noxctl`: the API at the command line, and the client half of `noxd run`.
//!
//! A client and nothing else: what it knows it has from the API, and it keeps nothing. Read [`Cli`] first; one file
//! per noun has the commands, `run.rs` is what the daemon's binary uses, `connect.rs` says where a daemon is.

use std::{collections::HashMap, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tonic::transport::Channel;

use crate::proto::v1::WorkflowStatus;

pub mod agent;
pub mod approval;
pub mod connect;
pub mod display;
pub mod execution;
pub mod explain;
pub mod file;
pub mod inputs;
pub mod logs;
pub mod output;
pub mod progress;
pub mod run;
pub mod schedule;
pub mod status;
pub mod table;
mod task;
pub mod telling;
pub mod template;
pub mod text;
pub mod watch;
mod words;
pub mod workflow;

use connect::ServerChoice;
use display::Display;
use output::{Format, Output};
use status::CliError;

/// Talk to noxd, the durable workflow engine.
#[derive(Debug, Parser)]
#[command(
    name = "noxctl",
    version,
    after_help = "Examples:\n  \
        noxctl workflow create -f release.yaml\n  \
        noxctl workflow execute release --watch\n  \
        noxctl execution list --status failed\n  \
        noxctl execution logs 0199f3c1-7d2e-7000-8000-000000000001 build --follow\n\n\
        Exit codes:\n  \
        0  done; the execution that was waited for is COMPLETED\n  \
        1  it FAILED, or the call was refused\n  \
        2  the command line or a file is wrong\n  \
        3  the execution was CANCELLED\n  \
        4  no noxd was reached"
)]
pub struct Cli {
    /// Where noxd listens: HOST:PORT, http://HOST:PORT or unix:PATH [env: NOXD_SERVER] [default: its socket, then
    /// 127.0.0.1:4690].
    #[arg(long, global = true, value_name = "ADDR", conflicts_with = "socket")]
    server: Option<String>,
    /// The Unix socket where noxd listens [env: NOXD_SOCKET].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How data is written.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Define, run and steer workflows.
    #[command(subcommand, visible_alias = "wf")]
    Workflow(workflow::WorkflowCommand),
    /// See what executions did and do.
    #[command(subcommand, visible_alias = "ex")]
    Execution(execution::ExecutionCommand),
    /// Store templates and make workflows of them.
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Start workflows at their times.
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// See and change how much each agent does at once.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
}

/// What every command has at hand.
pub struct Context {
    choice: ServerChoice,
    channel: Option<Channel>,
    output: Output,
}

impl Context {
    /// A channel to the daemon, made at the first call: a command that fails before it needs none says its own fault.
    pub(crate) async fn channel(&mut self) -> Result<Channel, CliError> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let choice = std::mem::take(&mut self.choice);
        let places = connect::addresses(choice, ServerChoice::from_environment(), connect::default_socket_here());
        let channel = connect::connect(&places).await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// How a watch is shown in the format asked for.
    fn messages(&self) -> Display {
        match self.output.format() {
            Format::Table => Display::for_terminal(),
            format => Display::Messages(Output::stdout(format)),
        }
    }
}

/// The whole of `noxctl`: reads the command line, does what it says, tells what went wrong.
pub fn main() -> ExitCode {
    // clap itself exits with 2 for what it cannot read, and with 0 after help.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::talk(&format!("noxctl: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(dispatch(cli)) {
        Ok(code) => code,
        Err(error) => {
            tell(&error);
            error.exit_code()
        }
    };
    ExitCode::from(code)
}

/// Tells an error at standard error, unless nobody reads any more.
pub fn tell(error: &CliError) {
    if error.is_silent() {
        return;
    }
    match std::error::Error::source(error) {
        Some(cause) => output::talk(&format!("noxctl: {error}: {cause}")),
        None => output::talk(&format!("noxctl: {error}")),
    }
}

/// Does what a command line says; the exit code.
pub async fn dispatch(cli: Cli) -> Result<u8, CliError> {
    let choice = ServerChoice { server: cli.server, socket: cli.socket };
    let mut context = Context { choice, channel: None, output: Output::stdout(cli.output) };
    match cli.command {
        Command::Workflow(command) => workflow::run(command, &mut context).await,
        Command::Execution(command) => execution::run(command, &mut context).await,
        Command::Template(command) => template::run(command, &mut context).await,
        Command::Schedule(command) => schedule::run(command, &mut context).await,
        Command::Agent(command) => agent::run(command, &mut context).await,
    }
}

type Labels = HashMap<String, String>;

/// `key=value`; the value may be empty and may hold `=`.
fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

/// A status by its short or long word, in any case.
fn parse_workflow_status(text: &str) -> Result<WorkflowStatus, String> {
    words::workflow_status(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_and_labels_are_read_as_people_write_them() {
        assert_eq!(parse_workflow_status("failed"), Ok(WorkflowStatus::Failed));
        assert_eq!(parse_workflow_status("WORKFLOW_STATUS_READY"), Ok(WorkflowStatus::Ready));
        assert!(parse_workflow_status("broken").unwrap_err().contains("COMPLETED"));
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_label("=b").is_err());
        let parsed = Cli::try_parse_from(["noxctl", "workflow", "execute", "w", "--wait=10m"]).unwrap();
        assert!(format!("{parsed:?}").contains("wait: Some(\"10m\")"));
        let parsed = Cli::try_parse_from(["noxctl", "wf", "execute", "--wait", "w", "-o", "json"]).unwrap();
        assert!(format!("{parsed:?}").contains("wait: Some(\"\")"));
    }
}
