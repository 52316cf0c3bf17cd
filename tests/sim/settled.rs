//! What must be true whenever a batch is over: nothing that could be done is left undone, everything that waits has a
//! reason, and what the machine holds is what its events say.

use std::fmt::Display;

use noxd::machine::{
    execution::ExecutionStatus,
    explain::{self, BlockerKind},
    ids::{AttemptKey, ExecutionId, TaskIndex, Tick},
    progress,
    step::Machine,
    task::TaskStatus,
};

use crate::ledger::{Ledger, Run, Says};

impl Ledger {
    /// Looks at everything.
    pub fn settled(&mut self, machine: &Machine, tick: Tick) {
        let state = machine.state();
        let newest = self.log.last().map_or(0, |recorded| recorded.revision);
        self.require(state.revision() == newest, "the machine is not where its events are");
        let live: Vec<AttemptKey> = self.runs.iter().flat_map(|(id, run)| live_of(*id, run)).collect();
        self.require(state.admission().live().eq(live.iter().copied()), "S-PAR-1: a slot is a live attempt");
        let first = self.runs.values().flat_map(timers).min();
        let next = state.next_deadline().map(|at| at.0);
        self.require(next == first, format_args!("S-STATE-6: the next deadline is {next:?}, not {first:?}"));
        self.require(first.is_none_or(|at| at > tick.elapsed.0), "a deadline has come, and nothing was done");
        let ids = self.runs.iter().filter(|(_, run)| !run.is_looked_at).map(|(id, _)| *id);
        let ids: Vec<ExecutionId> = ids.collect();
        for id in ids {
            let run = &self.runs[&id];
            if !run.status.is_terminal() {
                self.nothing_left_to_do(run);
                self.no_slot_unused(id, run);
                self.explained(machine, id);
            }
            self.as_held(machine, id);
            self.goes_forward(id);
            let run = self.runs.get_mut(&id).expect("it is there");
            run.is_looked_at = run.status.is_terminal();
        }
    }

    /// S-VIEW-1: by what each task is expected to take, or by count, worked out here once more.
    fn goes_forward(&mut self, id: ExecutionId) {
        let run = self.runs.get_mut(&id).expect("it is there");
        let percent = progress::percent(&run.replayed);
        let before = std::mem::replace(&mut run.percent, percent);
        let run = &self.runs[&id];
        let known: Vec<u64> = run.replayed.expected.as_ref().map_or(Vec::new(), |known| known.tasks_micros().to_vec());
        let own: Vec<u64> = known.iter().copied().filter(|micros| *micros > 0).collect();
        let typical = own.iter().sum::<u64>().checked_div(own.len() as u64).unwrap_or(1);
        let weight = |task: usize| known.get(task).copied().filter(|micros| *micros > 0).unwrap_or(typical) as f64;
        let all: f64 = (0..run.tasks.len()).map(weight).sum();
        let is_over = |task: &usize| run.tasks[*task].status.is_terminal();
        let done: f64 = (0..run.tasks.len()).filter(is_over).map(weight).sum();
        let share = if run.status.is_terminal() { 100.0 } else { (done * 100.0 / all).min(99.0) };
        self.require((share - percent).abs() < 0.02, format_args!("S-VIEW-1: {percent} per cent, not {share}"));
        self.require(before <= percent, format_args!("S-VIEW-1: progress fell from {before} to {percent}"));
    }

    fn require(&self, holds: bool, why: impl Display) {
        if !holds {
            self.fail(why);
        }
    }

    fn nothing_left_to_do(&self, run: &Run) {
        match (0..3).find(|role| run.is_open(*role)) {
            None => self.fail("S-STATE-3: all tasks have ended, and the execution goes on"),
            Some(role) => {
                let is_started = role == 0 || run.handlers.contains(&role);
                self.require(is_started, "S-STATE-5: handlers that have their turn were not started");
            }
        }
        for task in 0..run.tasks.len() {
            let state = &run.tasks[task];
            if state.status == TaskStatus::Pending && run.has_turn(task) {
                let says = run.says(task);
                self.require(
                    says == Says::Open,
                    format_args!("S-DEP-4: task {task} is PENDING, and its rule says {says:?}"),
                );
            }
            let is_idle = !state.status.is_terminal() && state.status != TaskStatus::Running;
            self.require(
                !is_idle || !run.is_called_off(run.plan.role(task)),
                "S-STATE-8: what was called off waits on",
            );
            let has_timer = state.timer.is_some() || state.status != TaskStatus::Retrying;
            self.require(has_timer, "S-STATE-6: a task waits for a retry that never comes");
        }
    }

    fn no_slot_unused(&self, id: ExecutionId, run: &Run) {
        if self.held || self.draining || run.status == ExecutionStatus::Paused {
            return;
        }
        for task in (0..run.tasks.len()).filter(|task| run.tasks[*task].status == TaskStatus::Queued) {
            let full = self.limits(id, task).iter().any(|(_, most, held)| held >= most);
            self.require(full, format_args!("S-PAR-1: task {task} of {id} waits, and every limit has room"));
        }
    }

    /// S-DEP-5: it says why a task waits, exactly while it waits.
    fn explained(&self, machine: &Machine, id: ExecutionId) {
        if machine.state().execution(id).is_none() {
            return;
        }
        let run = &self.runs[&id];
        for task in 0..run.tasks.len() {
            let name = &run.plan.definition.spec().tasks[task].id;
            let told = match explain::explain(machine.state(), id, name) {
                Ok(blockers) => blockers.iter().map(|blocker| blocker.kind).collect::<Vec<_>>(),
                Err(rejection) => self.fail(format_args!("S-DEP-5: {rejection}")),
            };
            let expected = self.blockers(id, task);
            self.require(told == expected, format_args!("S-DEP-5: {name} waits for {told:?}, not {expected:?}"));
        }
    }

    fn blockers(&self, id: ExecutionId, task: usize) -> Vec<BlockerKind> {
        let run = &self.runs[&id];
        let paused = (run.status == ExecutionStatus::Paused).then_some(BlockerKind::Pause);
        match run.tasks[task].status {
            TaskStatus::Pending if !run.has_turn(task) => vec![BlockerKind::Handler],
            TaskStatus::Pending => {
                let open = run.plan.dependencies[task].iter();
                let open = open.filter(|before| !run.tasks[**before].status.is_terminal()).count();
                vec![BlockerKind::Dependency; open]
            }
            TaskStatus::Waiting => vec![BlockerKind::Approval],
            TaskStatus::Retrying => [Some(BlockerKind::Backoff), paused].into_iter().flatten().collect(),
            TaskStatus::Queued => {
                let limits = self.limits(id, task);
                let full = limits.iter().filter(|(_, most, held)| held >= most);
                let noxd = (self.held || self.draining).then_some(BlockerKind::Noxd);
                paused.into_iter().chain(noxd).chain(full.map(|_| BlockerKind::Limit)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn as_held(&mut self, machine: &Machine, id: ExecutionId) {
        let Some(held) = machine.state().execution(id) else { return };
        let run = self.runs.get_mut(&id).expect("it is there");
        // Only the writer knows when it wrote a snapshot.
        run.replayed.events_since_snapshot = held.events_since_snapshot;
        let run = &self.runs[&id];
        self.require(run.replayed == *held, format_args!("replay gives\n{:#?}\nand held is\n{held:#?}", run.replayed));
        let same = (0..run.tasks.len()).all(|task| run.tasks[task].status == held.tasks[task].status);
        self.require(same && run.status == held.status, "the statuses are not what the events say");
    }
}

fn live_of(id: ExecutionId, run: &Run) -> impl Iterator<Item = AttemptKey> + '_ {
    run.live().map(move |task| AttemptKey { execution: id, task: task as TaskIndex, attempt: run.tasks[task].attempt })
}

fn timers(run: &Run) -> impl Iterator<Item = u64> + '_ {
    run.tasks.iter().filter_map(|task| task.timer).chain(run.timer)
}
