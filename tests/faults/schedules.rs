//! Stories of the clock on the wall: noxd is away for a day, or its clock is put, and every time of every schedule has one
//! fate, the documented one (S-SCHED-4, S-SCHED-5, S-SCHED-7).
//!
//! There is a schedule for each policy of overlaps, of catching up, for three windows, with executions that end at once
//! and such that run on.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt as _};

use noxd::{
    cli::connect,
    proto::v1::{self, CatchUpPolicy, OverlapPolicy, event::Kind},
};
use tokio_stream::StreamExt as _;

use crate::{
    clock::WallClock,
    daemon::Daemon,
    fates::{self, Documented, Fate, HOUR, MINUTE, ZERO, story_time},
    load,
    support::{DEADLINE, eventually, noop},
    tell,
};

struct Story {
    daemon: Daemon,
    clock: WallClock,
    /// What the clock shows at most, so far, in seconds of the story: times before that are decided about.
    now: i64,
    documented: Vec<Documented>,
}

impl Story {
    /// A noxd half an hour before the first time of these schedules.
    async fn begin(documented: Vec<Documented>) -> Self {
        let mut daemon = Daemon::new();
        let clock = WallClock::of(&mut daemon);
        let now = HOUR / 2;
        clock.put(ZERO + now);
        daemon.start().await.expect("it serves");
        let ask =
            v1::Task { action: Some(v1::task::Action::Approval(v1::ApprovalAction::default())), ..noop("ask", &[]) };
        load::create_with(&daemon, "runs-on", vec![ask]).await.expect("stored");
        load::create_with(&daemon, "ends", vec![noop("t", &[])]).await.expect("stored");
        let story = Self { daemon, clock, now, documented };
        for (at, documented) in story.documented.iter().enumerate() {
            story.store(documented, at % 2 == 0).await;
        }
        story
    }

    async fn store(&self, documented: &Documented, by_cron: bool) {
        use v1::schedule::ScheduleType::{Cron, Interval};
        let every = Some(pbjson_types::Duration { seconds: documented.every, nanos: 0 });
        let cron = if documented.every == HOUR { "0 * * * *" } else { "* * * * * *" };
        let schedule = v1::Schedule {
            schedule_type: Some(match by_cron {
                true => Cron(v1::CronSchedule { expression: cron.into() }),
                false => Interval(v1::IntervalSchedule { interval: every }),
            }),
            start_at: Some(pbjson_types::Timestamp { seconds: ZERO + HOUR, nanos: 0 }),
            ..Default::default()
        };
        let schedule = v1::ScheduledWorkflow {
            id: documented.name(),
            workflow_id: if documented.runs_on { "runs-on" } else { "ends" }.into(),
            schedule: Some(schedule),
            overlap_policy: documented.overlap.into(),
            catch_up: documented.catch_up.into(),
            catch_up_window: documented.window.map(|seconds| pbjson_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let request = v1::CreateScheduleRequest { schedule: Some(schedule), ..Default::default() };
        let channel = connect::socket_channel(&self.daemon.socket()).await.expect("it answers");
        connect::schedules(channel).create_schedule(request).await.expect("stored");
    }

    /// An hour comes in time.
    async fn comes(&mut self, hour: i64) {
        self.now = hour * HOUR + 1;
        self.clock.put(ZERO + self.now);
        self.documented.iter_mut().for_each(|documented| documented.come(&[hour * HOUR]));
        self.is_as_documented().await;
    }

    /// Until then noxd was away, or the clock jumped over the time.
    fn passes(&mut self, until: i64) {
        self.clock.put(ZERO + until);
        for documented in &mut self.documented {
            documented.was_away(&documented.times(self.now, until), until);
        }
        self.now = until;
    }

    /// noxd starts and goes through the times, and is killed at its first look at the clock, at its second, and so on.
    /// Gives how often that was before it served.
    async fn is_killed_at_each_look(&mut self, kills: i64) -> i64 {
        let mut starting = 0;
        for look in 1..=kills {
            self.clock.kills_at_look(look);
            let status = match self.daemon.start().await {
                Err(status) => {
                    starting += 1;
                    status
                }
                Ok(()) => self.daemon.ends_within(DEADLINE).await.expect("it looks at its clock every second"),
            };
            assert_eq!(status.signal(), Some(9), "{}", self.daemon.log());
        }
        self.clock.kills_at_look(0);
        self.daemon.start().await.expect("it serves");
        assert!((1..kills).contains(&starting), "void: {starting} of {kills} kills came before it served");
        starting
    }

    async fn schedules(&self) -> BTreeMap<String, v1::ScheduledWorkflow> {
        let channel = connect::socket_channel(&self.daemon.socket()).await.expect("it answers");
        let request = v1::ListSchedulesRequest { page_size: 1_000, ..Default::default() };
        let answer = connect::schedules(channel).list_schedules(request).await.expect("listed").into_inner();
        answer.schedules.into_iter().map(|schedule| (schedule.id.clone(), schedule)).collect()
    }

    /// Everything that was told, up to now.
    async fn events(&self) -> Vec<v1::Event> {
        let until = self.daemon.revision().await;
        let request = v1::WatchEventsRequest { after_revision: Some(0), ..Default::default() };
        let mut stream = self.daemon.executions().await.watch_events(request).await.expect("watched").into_inner();
        let mut events: Vec<v1::Event> = Vec::new();
        while events.last().is_none_or(|event| event.revision < until) {
            events.extend(stream.next().await.expect("it is told before the end").expect("no error").event);
        }
        events
    }

    async fn executions(&self) -> Vec<v1::WorkflowExecution> {
        let mut request = v1::ListExecutionsRequest { page_size: 1_000, ..Default::default() };
        let mut all = Vec::new();
        loop {
            let page =
                self.daemon.executions().await.list_executions(request.clone()).await.expect("listed").into_inner();
            all.extend(page.executions);
            if page.next_page_token.is_empty() {
                return all;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Two durable commands, each decided after the schedules were asked: what was due is decided about.
    async fn noxd_looks_at_its_clock(&self) {
        for _ in 0..2 {
            let id = format!("look-{}", self.daemon.revision().await);
            load::create_with(&self.daemon, &id, vec![noop("t", &[])]).await.expect("stored");
        }
    }

    /// Waits until the counters are as documented, and then compares everything that can be read. Gives what schedules
    /// told.
    async fn is_as_documented(&self) -> Vec<v1::Event> {
        let expected: BTreeMap<String, fates::Counts> =
            self.documented.iter().map(|one| (one.name(), fates::counts(&one.fates))).collect();
        let count = |one: &v1::ScheduledWorkflow| {
            (one.execution_count, one.buffered.len(), one.skipped_count, one.missed_count)
        };
        let settled = || async {
            let counted: BTreeMap<String, fates::Counts> =
                self.schedules().await.iter().map(|(id, schedule)| (id.clone(), count(schedule))).collect();
            (counted == expected).then_some(())
        };
        if tokio::time::timeout(DEADLINE / 2, eventually("settled", settled)).await.is_err() {
            let schedules = self.schedules().await;
            let differ = expected.iter().filter(|(id, counts)| count(&schedules[*id]) != **counts);
            let words: Vec<String> = differ
                .map(|(id, counts)| format!("{id}: {:?}, documented {counts:?}", count(&schedules[id])))
                .collect();
            panic!("fired, waiting, skipped, missed:\n{}", words.join("\n"));
        }
        self.noxd_looks_at_its_clock().await;
        let events = self.events().await;
        let times: Vec<(i64, i32)> =
            events.iter().filter_map(|event| event.time.as_ref()).map(|at| (at.seconds, at.nanos)).collect();
        assert!(times.is_sorted(), "noxd's wall clock never goes back");
        let every = self.documented.iter().map(|one| (one.name(), one.every)).collect();
        let told = fates::told(&events, &every);
        let schedules = self.schedules().await;
        let mut fired: BTreeMap<(String, i64), String> = BTreeMap::new();
        for documented in &self.documented {
            let name = documented.name();
            let differ = told[&name].fates.iter().zip(&documented.fates).find(|(told, documented)| told != documented);
            assert_eq!(differ, None, "{name}: what was told, and what is documented");
            assert_eq!(told[&name].fates.len(), documented.fates.len(), "{name}: every time has a fate");
            let schedule = &schedules[&name];
            assert_eq!(count(schedule), expected[&name], "{name}: the counters");
            let waiting = schedule.buffered.iter().map(|time| story_time(Some(time)));
            let wait = |fates: &fates::Fates| fates.clone().into_iter().filter(|(_, fate)| *fate == Fate::Waiting);
            assert!(waiting.eq(wait(&documented.fates).map(|(time, _)| time)), "{name}: which wait");
            let next = (self.now / documented.every + 1) * documented.every;
            assert_eq!(story_time(schedule.next_execution.as_ref()), next, "{name}: the next time");
            fired.extend(told[&name].executions.iter().map(|(at, execution)| ((name.clone(), *at), execution.clone())));
        }
        let mut started: BTreeMap<(String, i64), String> = BTreeMap::new();
        for execution in self.executions().await {
            let of = (execution.schedule_id.clone(), story_time(execution.scheduled_for.as_ref()));
            let before = started.insert(of, execution.id.clone());
            assert_eq!(before, None, "S-SCHED-5: {execution:?} is for a time that has an execution");
        }
        assert_eq!(started, fired, "what was told to have fired is what there is");
        events.into_iter().filter(|event| event.kind.as_ref().is_some_and(is_of_schedule)).collect()
    }

    /// Answers whoever asks, until nobody does; noxd is killed so often in between, each time when it has answered some.
    async fn everybody_ends(&mut self, kills: usize) {
        self.documented.iter_mut().for_each(Documented::ended);
        for round in 0.. {
            let mut client = self.daemon.executions().await;
            let request = v1::ListExecutionsRequest {
                page_size: 1_000,
                statuses: vec![v1::WorkflowStatus::Running.into()],
                ..Default::default()
            };
            let mut asking = client.list_executions(request).await.expect("listed").into_inner().executions;
            asking.retain(|execution| execution.workflow_id == "runs-on");
            if asking.is_empty() {
                assert!(round >= kills, "void: {kills} kills, and all had ended after {round} rounds");
                return;
            }
            let answered = if round < kills { asking.len() / 2 + 1 } else { asking.len() };
            for execution in asking.into_iter().take(answered) {
                let (execution_id, task_id) = (execution.id, "ask".to_owned());
                let request =
                    v1::ResolveApprovalRequest { execution_id, task_id, approved: true, ..Default::default() };
                client.resolve_approval(request).await.expect("taken");
            }
            if round < kills {
                self.daemon.kill_now();
                self.daemon.start().await.expect("it serves");
            }
        }
    }
}

fn is_of_schedule(kind: &Kind) -> bool {
    let of_time = matches!(kind, Kind::ScheduleFired(_) | Kind::ScheduleBuffered(_) | Kind::ScheduleSkipped(_));
    of_time || matches!(kind, Kind::ScheduleMissed(_))
}

/// A schedule of every policy.
fn of_every_policy(every: i64, windows: &[Option<i64>], runs_on: &[bool]) -> Vec<Documented> {
    let mut all = Vec::new();
    // 0 says nothing of it; one that is added is told of too.
    for overlap in (1..).map_while(|number| OverlapPolicy::try_from(number).ok()) {
        for catch_up in (1..).map_while(|number| CatchUpPolicy::try_from(number).ok()) {
            for window in windows {
                all.extend(runs_on.iter().map(|runs_on| Documented::new(every, overlap, catch_up, *window, *runs_on)));
            }
        }
    }
    all
}

fn of_each_hour() -> Vec<Documented> {
    of_every_policy(HOUR, &[None, Some(6 * HOUR), Some(10 * MINUTE)], &[true, false])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_absence_and_kills_at_each_look_at_the_clock_give_each_hour_its_one_documented_fate() {
    const KILLS: i64 = 20;
    const ENDS_KILLED: usize = 3;
    let mut story = Story::begin(of_each_hour()).await;
    story.comes(1).await;
    story.comes(2).await;
    let before = story.is_as_documented().await;
    story.daemon.kill_now();
    story.passes(26 * HOUR + HOUR / 2);
    let starting = story.is_killed_at_each_look(KILLS).await;
    let after = story.is_as_documented().await;
    assert_eq!(after[..before.len()], before, "what was told stays");
    let schedules = story.schedules().await;
    story.daemon.kill_now();
    story.daemon.start().await.expect("it serves");
    assert_eq!(story.is_as_documented().await, after, "nothing fires again, and nothing is told again");
    assert_eq!(story.schedules().await, schedules);
    story.everybody_ends(ENDS_KILLED).await;
    story.is_as_documented().await;
    let hours: usize = story.documented.iter().map(|documented| documented.fates.len()).sum();
    let words = format!("{} schedules, {hours} hours, each with one fate", story.documented.len());
    let kills = format!("{KILLS} kills, {starting} of them before it served, and {ENDS_KILLED} between ends");
    tell(&format!("a day of absence: {words}; {kills}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_seconds_that_were_missed_is_gone_through_in_pieces_over_kills() {
    // As above; a day of one of these is some 340 pieces, and all of them take several batches.
    const KILLS: i64 = 16;
    // Behind the last piece of 256 are 30 that are not late by themselves: they are of the absence all the same.
    const SECONDS: i64 = 344 * 256 + 30;
    let mut story = Story::begin(of_every_policy(1, &[None], &[false])).await;
    story.daemon.kill_now();
    story.passes(HOUR + SECONDS - 1);
    let starting = story.is_killed_at_each_look(KILLS).await;
    let after = story.is_as_documented().await;
    story.daemon.kill_now();
    story.daemon.start().await.expect("it serves");
    assert_eq!(story.is_as_documented().await, after, "nothing fires again, and nothing is told again");
    let times: usize = story.documented.iter().map(|documented| documented.fates.len()).sum();
    let words = format!("{} schedules, {times} seconds, told in {} events", story.documented.len(), after.len());
    tell(&format!("a day of seconds: {words}; {KILLS} kills, {starting} of them before it served"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_put_back_repeats_nothing_and_one_that_is_put_ahead_is_an_absence() {
    let mut story = Story::begin(of_each_hour()).await;
    story.comes(1).await;
    story.comes(2).await;
    let before = story.is_as_documented().await;
    // An hour back, and then up to where it was: nothing, at each step.
    for clock in [HOUR + 1, HOUR - MINUTE, 2 * HOUR - 1, 2 * HOUR, 2 * HOUR + 1] {
        story.clock.put(ZERO + clock);
        story.noxd_looks_at_its_clock().await;
        assert_eq!(story.is_as_documented().await, before, "at {clock} s nothing fires again");
    }
    story.comes(3).await;
    // Back over a restart: noxd knows how far its clock was.
    let before = story.is_as_documented().await;
    story.clock.put(ZERO + HOUR + 1);
    story.daemon.kill_now();
    story.daemon.start().await.expect("it serves");
    assert_eq!(story.is_as_documented().await, before, "nothing fires again after a restart");
    story.comes(4).await;
    // A day ahead.
    story.passes(28 * HOUR + HOUR / 2);
    story.is_as_documented().await;
    story.everybody_ends(0).await;
    story.is_as_documented().await;
    // And the clock is put right again: the day that it was ahead by is silent.
    let before = story.is_as_documented().await;
    story.clock.put(ZERO + 5 * HOUR);
    story.noxd_looks_at_its_clock().await;
    assert_eq!(story.is_as_documented().await, before, "nothing until the clock is where it was");
    story.comes(29).await;
}
