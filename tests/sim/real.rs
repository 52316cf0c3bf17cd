//! The engine's rows, its recovery and the store under the machine, on a disk that loses and tears what was not synced.
//!
//! It makes a batch as `engine::writer` does (load, apply, settle, rows, commit, drop what is idle), without its thread.

use std::sync::Arc;

use noxd::{
    engine::{
        batch::{OpenRows, Rows},
        read::{ReadError, Reads},
        recovery,
    },
    machine::{
        ids::{Actor, AttemptKey, ExecutionId, ScheduleId, TaskIndex, Tick, WorkflowId},
        judgement::TaskResult,
        message::{Command, Recorded, Trigger},
        schedule::ScheduleRecord,
        state::State,
        step::{Machine, Step},
    },
    store::{RowWrite, Store, StoreConfig, StoreError, layout, simulated::SimulatedDisk},
};

use crate::{
    chance::Chance,
    light::{Engine, SCHEDULES_AT_ONCE, Told},
};

pub struct Real {
    machine: Machine,
    store: Option<Store>,
    reads: Reads,
    disk: SimulatedDisk,
    limit: u32,
    open: OpenRows,
    /// The power fails at the end of the batch at the latest.
    is_doomed: bool,
}

/// Segments of the journal, small enough to be filled and merged.
const SEGMENT_BYTES: u64 = 16 * 1_024;

fn open(disk: &SimulatedDisk) -> (Store, Reads) {
    let config = StoreConfig { segment_bytes: SEGMENT_BYTES, ..StoreConfig::new("/store", 7) };
    let store = Store::open_simulated(config, disk).unwrap_or_else(|error| panic!("the store does not open: {error}"));
    let reads = Reads::new(store.reader());
    (store, reads)
}

impl Real {
    pub fn new(limit: u32, seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let (store, reads) = open(&disk);
        let machine = Machine::new(State::new(limit));
        Self { machine, store: Some(store), reads, disk, limit, open: OpenRows::default(), is_doomed: false }
    }

    fn load(&mut self, command: &Command, loaded: &mut Vec<ExecutionId>) {
        let needs = self.machine.state().needs(command);
        for id in needs.workflows {
            self.load_workflow(&id);
        }
        for id in needs.templates {
            if let Some(record) = read(self.reads.template(&id)) {
                self.machine.state_mut().load_template(record);
            }
        }
        for id in needs.schedules {
            self.load_schedule(&id);
        }
        for id in needs.executions {
            let Some(summary) = read(self.reads.summary(id)) else { continue };
            if summary.status.is_terminal() {
                self.machine.state_mut().note_ended(id, summary.workflow, summary.status);
            } else {
                self.load_alive(id, loaded);
            }
        }
        for id in needs.sources {
            let held = self.machine.state().execution(id).cloned();
            let Some(source) = held.or_else(|| read(self.reads.execution(id))) else { continue };
            self.load_workflow(&source.workflow);
            self.machine.state_mut().load_source(source);
        }
        if let Some((id, version)) = self.machine.state().needs_durations(command) {
            let durations = read(self.reads.durations(&id, version));
            self.machine.state_mut().load_durations(id, version, durations);
        }
    }

    fn load_workflow(&mut self, id: &WorkflowId) {
        if !self.machine.state().holds_workflow(id)
            && let Some(record) = read(self.reads.workflow(id))
        {
            self.machine.state_mut().load_workflow(id.clone(), Arc::new(record));
        }
    }

    fn load_schedule(&mut self, id: &ScheduleId) {
        if self.machine.state().schedule(id).is_none() {
            let Some(record) = read(self.reads.schedule(id)) else { return };
            self.machine.state_mut().load_schedule(record);
        }
        let workflow = self.machine.state().schedule(id).map(|record| record.spec.workflow.clone());
        self.load_workflow(&workflow.expect("it is here"));
        if let Some((id, version)) = self.machine.state().needs_durations_of(id) {
            let durations = read(self.reads.durations(&id, version));
            self.machine.state_mut().load_durations(id, version, durations);
        }
    }

    fn fire(&mut self, tick: Tick, step: &mut Step, loaded: &mut Vec<ExecutionId>) {
        for _ in 0..SCHEDULES_AT_ONCE {
            let Some(id) = self.machine.state().first_firing(tick).cloned() else { return };
            self.load_schedule(&id);
            for running in self.machine.state().needs_of_firing(&id) {
                self.load_alive(running, loaded);
            }
            self.machine.fire(&id, tick, step);
            self.settle(tick, step);
        }
    }

    fn load_alive(&mut self, id: ExecutionId, loaded: &mut Vec<ExecutionId>) {
        let execution = read(self.reads.execution(id)).expect("it has not ended");
        self.machine.state_mut().load_execution(execution);
        loaded.push(id);
    }

    fn settle(&mut self, tick: Tick, step: &mut Step) {
        while !step.needs.is_empty() {
            for (id, task) in std::mem::take(&mut step.needs) {
                let result = self.result(id, task);
                self.machine.state_mut().load_result(id, task, result);
            }
            self.machine.settle(tick, step);
        }
    }

    fn result(&self, id: ExecutionId, task: TaskIndex) -> TaskResult {
        let held = self.machine.state().execution(id).map(|held| (&held.trigger, &held.tasks[task as usize]));
        read(match held {
            Some((Trigger::Rerun(source), state)) if state.reused => self.reads.result(*source, task),
            Some((_, state)) => self.reads.result_at(id, task, state.last_end),
            None => self.reads.result(id, task),
        })
    }

    /// A snapshot far more often than the engine writes one: what comes back must be what went in, and recovery goes on
    /// from it.
    fn snapshot(&self, id: ExecutionId) -> Option<RowWrite> {
        let held = self.machine.state().execution(id).filter(|held| !held.status.is_terminal())?;
        let bytes = layout::encode_snapshot(held);
        let definition = |_: &WorkflowId, _| Ok::<_, layout::LayoutError>(Arc::clone(&held.definition));
        let mut back = layout::decode_snapshot(id, &bytes, definition).expect("a snapshot can be read");
        back.events_since_snapshot = held.events_since_snapshot;
        assert_eq!(back, *held, "a snapshot forgets something");
        held.revision.is_multiple_of(5).then(|| RowWrite { key: layout::key::snapshot(id), value: Some(bytes) })
    }

    fn commit(&mut self, events: &[Arc<Recorded>], loaded: Vec<ExecutionId>) -> Result<(), StoreError> {
        let mut rows = Rows::of_events(events, self.machine.state(), &mut self.open);
        if rows.is_empty() {
            self.machine.state_mut().drop_idle(loaded);
            return Ok(());
        }
        let touched = std::mem::take(&mut rows.touched);
        for id in std::mem::take(&mut rows.snapshots) {
            self.machine.state_mut().snapshot_written(id);
        }
        for (id, mark) in std::mem::take(&mut rows.marks) {
            self.machine.state_mut().mark_written(id, mark);
        }
        let learnt = match rows.learn(self.machine.state(), &self.reads) {
            Err(ReadError::Store(error)) => return Err(error),
            learnt => read(learnt),
        };
        for (workflow, version, durations) in learnt {
            self.machine.state_mut().load_durations(workflow, version, durations);
        }
        let mut batch = rows.into_batch(self.machine.state());
        for id in &touched {
            batch.rows.extend(self.snapshot(*id));
        }
        self.store.as_mut().expect("it is open").commit(batch)?;
        self.machine.state_mut().drop_idle(touched.into_iter().chain(loaded));
        Ok(())
    }
}

/// The simulated disk has no faults but its power's, and those are looked for at the commit.
fn read<T>(found: Result<T, ReadError>) -> T {
    found.unwrap_or_else(|error| panic!("the store cannot be read: {}", noxd::engine::chain(&error)))
}

impl Engine for Real {
    fn batch(&mut self, tick: Tick, held: bool, wants: Vec<(Command, Actor)>) -> Option<Told> {
        let mut step = Step::default();
        let mut loaded = Vec::new();
        let mut answers = Vec::new();
        self.machine.state_mut().hold_admission(held);
        self.fire(tick, &mut step, &mut loaded);
        for (command, actor) in wants {
            self.load(&command, &mut loaded);
            answers.push(self.machine.apply(command, &actor, tick, &mut step));
            self.settle(tick, &mut step);
        }
        for id in self.machine.state().due_elsewhere(tick, 1_024) {
            self.load_alive(id, &mut loaded);
        }
        self.machine.apply_due(tick, 1_024, &mut step);
        self.settle(tick, &mut step);
        self.fire(tick, &mut step, &mut loaded);
        let is_unfinished = self.machine.state().first_firing(tick).is_some();
        if std::mem::take(&mut self.is_doomed) {
            // In one of the calls of the commit, or after it and before anybody hears.
            self.disk.fail_power_after(tick.seed % 4);
            _ = self.commit(&step.events, loaded);
            return None;
        }
        self.commit(&step.events, loaded).unwrap_or_else(|error| panic!("the commit failed: {error}"));
        if tick.seed.is_multiple_of(8) {
            let store = self.store.as_ref().expect("it is open");
            store.merge_by_hand().unwrap_or_else(|error| panic!("the merge failed: {error}"));
        }
        Some(Told { answers, events: step.events, effects: step.effects, is_unfinished })
    }

    fn let_power_fail(&mut self, _: &mut Chance) {
        self.is_doomed = true;
    }

    fn restart(&mut self) -> Vec<AttemptKey> {
        self.store = None;
        self.open = OpenRows::default();
        self.disk.crash();
        let (store, reads) = open(&self.disk);
        (self.store, self.reads) = (Some(store), reads);
        let recovered = recovery::recover(&self.reads, self.limit);
        let recovered = recovered.unwrap_or_else(|error| panic!("recovery failed: {}", noxd::engine::chain(&error)));
        self.machine = Machine::new(recovered.state);
        recovered.interrupted.into_iter().map(|lost| lost.key).collect()
    }

    fn history(&self) -> Vec<Arc<Recorded>> {
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(0, |recorded: &Arc<Recorded>| recorded.revision);
            let more = read(self.reads.all_events(after, 512));
            if more.is_empty() {
                return events;
            }
            events.extend(more.into_iter().map(Arc::new));
        }
    }

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn schedule(&self, id: &ScheduleId) -> Option<ScheduleRecord> {
        read(self.reads.schedule(id))
    }

    fn can_be_held(&self) -> bool {
        true
    }
}
