//! `noxctl schedule …`: one function per command.

use std::path::PathBuf;

use chrono::{DateTime, NaiveDateTime};
use clap::{Args, Subcommand};

use super::{
    Context, connect, file,
    status::CliError,
    table::{Column, Table},
    text,
};
use crate::proto::v1::{
    CronSchedule, IntervalSchedule, PreviewScheduleRequest, Schedule, ScheduleFiring, schedule::ScheduleType,
};

/// Start workflows at their times.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Show when a schedule would fire: an expression, an interval, or a file.
    #[command(after_help = "Examples:\n  noxctl schedule preview \"0 9 * * 1-5\" --timezone Europe/Berlin\n  \
                            noxctl schedule preview \"30 2 * * *\" --timezone Europe/Berlin --from 2026-10-24T00:00:00Z\n  \
                            noxctl schedule preview --every 90m --count 5")]
    Preview(PreviewArgs),
}

/// Of `preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// A cron expression, such as `0 9 * * 1-5`, or a macro, such as `@daily`.
    #[arg(required_unless_present_any = ["every", "file"])]
    expression: Option<String>,
    /// An interval instead, such as `90m`.
    #[arg(long, value_name = "DURATION", conflicts_with = "expression")]
    every: Option<String>,
    /// The schedule of a file instead, in YAML or JSON; `-` for standard input.
    #[arg(short, long, conflicts_with_all = ["expression", "every", "timezone"])]
    file: Option<PathBuf>,
    /// The IANA time zone whose clocks count, such as `Europe/Berlin`; without it, UTC.
    #[arg(long, default_value = "", hide_default_value = true)]
    timezone: String,
    /// How many firings, at most 1,000.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    count: i32,
    /// Only firings after this time, such as `2026-10-24T00:00:00Z`; without it, after now.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
}

/// Does a `schedule` command; the exit code.
pub async fn run(command: ScheduleCommand, context: &mut Context) -> Result<u8, CliError> {
    match command {
        ScheduleCommand::Preview(args) => preview(args, context).await,
    }
}

async fn preview(args: PreviewArgs, context: &mut Context) -> Result<u8, CliError> {
    let schedule = match (args.file, args.expression, args.every) {
        (Some(file), ..) => file::read_schedule(&file)?,
        (None, Some(expression), _) => {
            let schedule_type = Some(ScheduleType::Cron(CronSchedule { expression }));
            Schedule { schedule_type, timezone: args.timezone, ..Schedule::default() }
        }
        (None, None, every) => {
            let interval = text::parse_span(&every.unwrap_or_default());
            let interval = interval.map_err(|error| CliError::Usage(format!("--every: {error}")))?;
            let schedule_type = Some(ScheduleType::Interval(IntervalSchedule { interval: Some(interval) }));
            Schedule { schedule_type, timezone: args.timezone, ..Schedule::default() }
        }
    };
    let from = args.from.as_deref().map(time_of).transpose()?;
    let request = PreviewScheduleRequest { schedule: Some(schedule), from, count: args.count };
    let answer = connect::schedules(context.channel().await?).preview_schedule(request).await?.into_inner();
    let width = context.output.width();
    context.output.resource(&answer, || firings_table(&answer.firings).render(width))?;
    Ok(0)
}

fn time_of(text: &str) -> Result<pbjson_types::Timestamp, CliError> {
    let time = DateTime::parse_from_rfc3339(text);
    let words = format!("--from: `{}` is no time: write one such as 2026-10-24T00:00:00Z", text::escape(text));
    Ok(time.map_err(|_| CliError::Usage(words))?.to_utc().into())
}

fn firings_table(firings: &[ScheduleFiring]) -> Table {
    let mut table = Table::new(&[
        Column::Whole("DAY"),
        Column::Whole("LOCAL TIME"),
        Column::Whole("OFFSET"),
        Column::Whole("ZONE"),
        Column::Whole("UTC"),
        Column::Flexible("NOTE"),
    ]);
    for firing in firings {
        let day = firing.local_time.parse::<NaiveDateTime>().map(|local| local.format("%a").to_string());
        let utc = firing.time.as_ref().and_then(text::moment);
        table.row(vec![
            day.unwrap_or_default(),
            firing.local_time.replace('T', " "),
            firing.utc_offset.clone(),
            firing.abbreviation.clone(),
            utc.map(|time| time.format("%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
            firing.note.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_80_columns_a_preview_has_the_day_the_offset_and_what_the_clocks_do() {
        // S-SCHED-6
        let firing = ScheduleFiring {
            time: Some(pbjson_types::Timestamp { seconds: 1_774_746_000, nanos: 0 }),
            local_time: "2026-03-29T03:00:00".into(),
            utc_offset: "+02:00".into(),
            note: "after the gap".into(),
            abbreviation: "CEST".into(),
        };
        let shown = anstream::adapter::strip_str(&firings_table(&[firing]).render(Some(80))).to_string();
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for words in ["Sun", "2026-03-29 03:00:00", "+02:00", "CEST", "03-29 01:00:00Z", "after the gap"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }

    #[test]
    fn a_time_is_read_as_it_is_written_elsewhere_or_refused() {
        assert_eq!(time_of("2026-03-29T03:00:00+02:00").expect("a time").seconds, 1_774_746_000);
        assert!(time_of("tomorrow").unwrap_err().to_string().contains("2026-10-24T00:00:00Z"));
    }
}
