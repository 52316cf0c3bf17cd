//! Stories of schedules: previewed at a terminal, stored, fired over a kill.

use crate::{
    calls::reason,
    command_line::{all_text, noxctl, text},
    support::Noxd,
};
use noxd::{cli::connect, proto::v1};
use tonic_types::StatusExt as _;

fn cron(expression: &str, timezone: &str) -> v1::Schedule {
    let schedule_type = Some(v1::schedule::ScheduleType::Cron(v1::CronSchedule { expression: expression.into() }));
    v1::Schedule { schedule_type, timezone: timezone.into(), ..v1::Schedule::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_tells_local_times_offsets_and_what_the_clocks_do_and_every_fault_with_its_column() {
    // S-SCHED-2, S-SCHED-3, S-SCHED-6
    let noxd = Noxd::start().await;
    let output = noxctl(
        &noxd,
        &["schedule", "preview", "30 2 * * *", "--timezone=Europe/Berlin", "--from=2026-10-24T00:00:00Z", "--count=3"],
    );
    let shown = text(&output.stdout);
    let lines: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert_eq!(lines[0][..5], ["Sat", "2026-10-24", "02:30:00", "+02:00", "CEST"], "{shown}");
    assert!(shown.lines().nth(2).is_some_and(|line| line.contains("CEST") && line.contains("first pass")), "{shown}");
    assert_eq!(lines[2][..5], ["Mon", "2026-10-26", "02:30:00", "+01:00", "CET"], "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    let mut client = connect::schedules(noxd.channel().await);
    let wrong =
        v1::PreviewScheduleRequest { schedule: Some(cron("60 22-2 * * *", "Europe/Berln")), ..Default::default() };
    let refused = client.preview_schedule(wrong).await.expect_err("two faults of the expression, one of the zone");
    assert_eq!(reason(&refused), "INVALID_CRON_EXPRESSION");
    let details = refused.get_error_details();
    let fields = &details.bad_request().expect("fields").field_violations;
    let seen: Vec<&str> = fields.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(seen, ["schedule.cron.expression", "schedule.cron.expression", "schedule.timezone"]);
    assert!(fields[1].description.starts_with("column 4: `22-2`"), "{}", fields[1].description);
    assert!(fields[2].description.contains("Europe/Berlin"), "{}", fields[2].description);

    let never = v1::PreviewScheduleRequest { schedule: Some(cron("0 0 31 2 *", "")), ..Default::default() };
    assert!(client.preview_schedule(never).await.expect_err("never").message().contains("never fires"));
    let output = noxctl(&noxd, &["schedule", "preview", "--every=soon"]);
    assert_eq!(output.status.code(), Some(2), "{}", all_text(&output));
}
