//! Durable transitions a second at several batch sizes, beside a raw append+fdatasync loop of the same bytes, in turns on
//! the same disk. `cargo bench --bench store`.
//!
//! A transition is the end of an attempt and the start of the next one, through the real machine, the real rows
//! (`engine::batch`) and `Store::commit` on the real disk, with the merge on. Only threads and calls are left out: so it
//! is what the writer's thread does for a batch. The figure is a ratio of two loops that take turns, the median of five
//! rounds, which is not what a harness for single functions gives.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use noxd::{
    engine::batch::{OpenRows, Rows},
    machine::{
        ids::{Actor, AttemptKey, Elapsed, ExecutionId, Tick, Timestamp, WorkflowId},
        message::{AttemptEnd, AttemptOutcome, Command, Content, Effect, Inputs, Trigger},
        state::State,
        step::{Machine, Step},
        workflow::{Action, Definition, TaskSpec, WorkflowSpec},
    },
    store::{Batch, RealDisk, Store, StoreConfig},
};

const ROUNDS: usize = 5;
/// Tasks of a chain: an execution ends seldom enough that what is measured are transitions.
const CHAIN: usize = 100;

fn main() {
    for (batch, commits) in [(1, 1_000), (64, 400), (1_024, 60)] {
        let directory =
            tempfile::Builder::new().prefix("noxd-store-").tempdir_in(".").expect("a directory on this disk");
        let mut world = World::new(directory.path(), batch);
        // The first commits meet an empty store.
        world.transitions(commits);
        let mut rounds: Vec<(f64, f64, f64)> = (0..ROUNDS).map(|_| world.round(directory.path(), commits)).collect();
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (ratio, durable, raw) = rounds[ROUNDS / 2];
        let per_commit = |spent: Duration| spent.as_secs_f64() * 1e6 / world.commits as f64;
        let [machine, rows, commit] = world.spent.map(per_commit);
        let each = batch as f64;
        println!(
            "batch {batch}: {:.0} durable transitions/s in {durable:.0} commits/s; raw append+fdatasync of the same bytes \
             {raw:.0}/s; ratio {ratio:.2} ({:.2} to {:.2}); a commit: machine {machine:.0} us, rows {rows:.0} us, \
             journal and overlay {commit:.0} us (raw {:.0} us)",
            durable * each,
            rounds[0].0,
            rounds[ROUNDS - 1].0,
            1e6 / raw,
        );
    }
}

struct World {
    machine: Machine,
    store: Store,
    open: OpenRows,
    workflow: WorkflowId,
    /// Attempts that run: one of each execution.
    live: Vec<AttemptKey>,
    executions: u128,
    now: u64,
    commits: u64,
    /// In the machine, in making rows of its events, and in the store, all in all.
    spent: [Duration; 3],
}

impl World {
    fn new(directory: &Path, at_once: usize) -> Self {
        let store = Store::open(StoreConfig::new(directory.join("store"), 1), Arc::new(RealDisk)).expect("a store");
        let workflow = WorkflowId::parse("w").expect("an id");
        let mut world = Self {
            machine: Machine::new(State::new(u32::MAX)),
            store,
            open: OpenRows::default(),
            workflow: workflow.clone(),
            live: Vec::new(),
            executions: 0,
            now: 1_700_000_000_000_000,
            commits: 0,
            spent: [Duration::ZERO; 3],
        };
        let tasks = (0..CHAIN).map(|number| TaskSpec {
            id: format!("t{number}"),
            dependencies: number.checked_sub(1).map(|before| format!("t{before}")).into_iter().collect(),
            action: Some(Action::Noop { duration_micros: 0 }),
            ..TaskSpec::default()
        });
        let spec = WorkflowSpec { tasks: tasks.collect(), ..WorkflowSpec::named(workflow) };
        let content = Content::Ready(Definition::check(spec).expect("no faults"));
        world.commit(vec![Command::CreateWorkflow { content }]);
        while world.live.len() < at_once {
            let start = world.start();
            world.commit(vec![start]);
        }
        world
    }

    fn start(&mut self) -> Command {
        self.executions += 1;
        Command::StartExecution {
            execution: ExecutionId(self.executions),
            workflow: self.workflow.clone(),
            labels: BTreeMap::new(),
            trigger: Trigger::Manual,
            inputs: Inputs::default(),
        }
    }

    /// Ends every attempt that runs, in one commit, so many times. Returns the bytes of each record.
    fn transitions(&mut self, commits: usize) -> Vec<usize> {
        (0..commits)
            .map(|_| {
                let ended = std::mem::take(&mut self.live).into_iter().map(|attempt| Command::AttemptEnded {
                    attempt,
                    outcome: Box::new(AttemptOutcome::bare(AttemptEnd::Succeeded)),
                });
                self.commit(ended.collect())
            })
            .collect()
    }

    /// One batch, as the writer makes it. An execution that ends is followed by another.
    fn commit(&mut self, commands: Vec<Command>) -> usize {
        self.now += 1_000;
        let wall = Timestamp(i64::try_from(self.now).expect("small"));
        let tick = Tick { wall, elapsed: Elapsed(self.now), seed: self.now };
        let began = Instant::now();
        let mut step = Step::default();
        let mut alive = self.machine.state().alive_count();
        for command in commands {
            self.machine.apply(command, &Actor::Noxd, tick, &mut step).expect("accepted");
            if self.machine.state().alive_count() < alive {
                let start = self.start();
                self.machine.apply(start, &Actor::Noxd, tick, &mut step).expect("accepted");
            }
            alive = self.machine.state().alive_count();
        }
        self.live.extend(step.effects.iter().filter_map(|effect| match effect {
            Effect::StartAttempt { attempt, .. } => Some(*attempt),
            Effect::StopAttempt { .. } => None,
        }));
        let decided = Instant::now();
        let mut rows = Rows::of_events(&step.events, self.machine.state(), &mut self.open);
        for id in std::mem::take(&mut rows.snapshots) {
            self.machine.state_mut().snapshot_written(id);
        }
        let touched = std::mem::take(&mut rows.touched);
        let batch = rows.into_batch(self.machine.state());
        let bytes = record_bytes(&batch);
        let encoded = Instant::now();
        self.store.commit(batch).expect("durable");
        let durable = Instant::now();
        self.machine.state_mut().drop_idle(touched);
        self.commits += 1;
        self.spent[0] += decided - began + durable.elapsed();
        self.spent[1] += encoded - decided;
        self.spent[2] += durable - encoded;
        bytes
    }

    /// The ratio of commits a second to raw ones of the same bytes, and both.
    fn round(&mut self, directory: &Path, commits: usize) -> (f64, f64, f64) {
        let began = Instant::now();
        let bytes = self.transitions(commits);
        let durable = commits as f64 / began.elapsed().as_secs_f64();
        let raw = commits as f64 / raw_seconds(directory, &bytes);
        (durable / raw, durable, raw)
    }
}

/// What the record of a batch fills: sectors of 512 bytes of which four are a tag, as `store::record` says.
fn record_bytes(batch: &Batch) -> usize {
    let rows = batch.rows.iter().map(|row| 9 + row.key.len() + row.value.as_ref().map_or(0, Vec::len));
    (28 + 4 + rows.sum::<usize>()).div_ceil(508) * 512
}

/// The same bytes, appended and synced one after the other into space that is allocated already.
fn raw_seconds(directory: &Path, bytes: &[usize]) -> f64 {
    let path = directory.join("raw");
    fs::write(&path, vec![0; bytes.iter().sum()]).expect("written");
    let mut file = fs::File::options().write(true).open(&path).expect("opened");
    file.sync_all().expect("synced");
    let block = vec![7; bytes.iter().copied().max().unwrap_or(0)];
    let began = Instant::now();
    for length in bytes {
        file.write_all(&block[..*length]).expect("written");
        file.sync_data().expect("synced");
    }
    began.elapsed().as_secs_f64()
}
