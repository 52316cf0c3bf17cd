//! `noxctl agent …`: how many attempts may be alive at once, of one agent or of all.

use clap::{Args, Subcommand};

use super::{
    Context, connect,
    run::request_id,
    status::CliError,
    table::{Column, Table},
};
use crate::proto::v1::{ConcurrencyLimit, ListConcurrencyLimitsRequest, SetConcurrencyLimitRequest};

/// See and change how much each agent does at once.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Show the limits of noxd and of agents, and how much of each is taken.
    Limits,
    /// Change a limit, at once and for ever: nothing that runs is stopped.
    #[command(after_help = "Examples:\n  noxctl agent limit coder 4\n  noxctl agent limit coder none\n  \
                            noxctl agent limit --all 32")]
    Limit(LimitArgs),
}

/// Of `limit`.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// The agent, as tasks name it in `agent_id`.
    #[arg(required_unless_present = "all")]
    agent: Option<String>,
    /// Most attempts alive at once; `none`: the agent has no limit of its own.
    #[arg(required_unless_present = "all")]
    limit: Option<String>,
    /// The limit of all attempts of this noxd instead.
    #[arg(long, value_name = "LIMIT", conflicts_with_all = ["agent", "limit"])]
    all: Option<u32>,
}

impl LimitArgs {
    fn request(self) -> Result<SetConcurrencyLimitRequest, CliError> {
        let limit = match (self.all, self.limit.as_deref()) {
            (Some(all), _) => Some(all),
            (None, Some("none")) => None,
            (None, given) => {
                let given = given.unwrap_or_default();
                let number = given.parse().map_err(|_| {
                    CliError::Usage(format!("`{}` is no limit: write a number or `none`", given.escape_debug()))
                })?;
                Some(number)
            }
        };
        Ok(SetConcurrencyLimitRequest { agent_id: self.agent.unwrap_or_default(), limit, request_id: request_id() })
    }
}

/// Does an `agent` command; the exit code.
pub async fn run(command: AgentCommand, context: &mut Context) -> Result<u8, CliError> {
    match command {
        AgentCommand::Limits => {
            let mut client = connect::agents(context.channel().await?);
            let answer = client.list_concurrency_limits(ListConcurrencyLimitsRequest {}).await?.into_inner();
            let width = context.output.width();
            context.output.resource(&answer, || table(&answer.limits).render(width))?;
        }
        AgentCommand::Limit(args) => {
            let request = args.request()?;
            let mut client = connect::agents(context.channel().await?);
            let answer = client.set_concurrency_limit(request).await?.into_inner();
            let limit = answer.limit.ok_or(CliError::Incomplete("the limit"))?;
            let width = context.output.width();
            context.output.resource(&limit, || table(std::slice::from_ref(&limit)).render(width))?;
        }
    }
    Ok(0)
}

fn table(limits: &[ConcurrencyLimit]) -> Table {
    let mut table = Table::new(&[Column::Whole("OF"), Column::Whole("LIMIT"), Column::Whole("RUNNING")]);
    for limit in limits {
        let of = if limit.agent_id.is_empty() { "all attempts".into() } else { limit.agent_id.clone() };
        let most = if limit.limit == 0 { "none".into() } else { limit.limit.to_string() };
        table.row(vec![of, most, limit.running.to_string()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_none() {
        // S-PAR-4
        let request = |agent: &str, limit: &str| {
            LimitArgs { agent: Some(agent.into()), limit: Some(limit.into()), all: None }.request()
        };
        let of = |request: SetConcurrencyLimitRequest| (request.agent_id, request.limit);
        assert_eq!(of(request("coder", "7").unwrap()), ("coder".into(), Some(7)));
        assert_eq!(of(request("coder", "none").unwrap()), ("coder".into(), None));
        assert_eq!(request("coder", "many").unwrap_err().exit_code(), 2);
        let all = LimitArgs { agent: None, limit: None, all: Some(9) }.request().unwrap();
        assert_eq!(of(all), (String::new(), Some(9)));
    }
}
