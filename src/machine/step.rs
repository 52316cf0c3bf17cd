//! One step of the machine: a command, or a deadline, and everything that follows from it at once.
//!
//! [`Machine`] joins decisions and evolution and counts revisions. A successor becomes ready, and starts if it fits, in
//! the same step in which its last dependency ends (S-DEP-4).

use std::sync::Arc;

use super::{
    decide::{self, Decided, FollowUp},
    execution::Execution,
    ids::{Actor, AttemptKey, ExecutionId, ScheduleId, TaskIndex, Tick},
    message::{Command, Effect, Event, Filling, Recorded, Rejection, Reply, StopCause, TaskRead, Trigger},
    schedule,
    state::State,
};

/// The state and the steps it can take.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
}

/// What one step did: to be made durable first, then to be told and done.
#[derive(Debug, Default)]
pub struct Step {
    /// What happened, in order.
    pub events: Vec<Arc<Recorded>>,
    /// What the executor is to do.
    pub effects: Vec<Effect>,
    /// What tasks left that conditions look at and that is not here: load it ([`State::load_result`]), then
    /// [`Machine::settle`] until it is empty. Only then is the step whole.
    pub needs: Vec<(ExecutionId, TaskIndex)>,
}

impl Machine {
    /// A machine over a state.
    pub fn new(state: State) -> Self {
        Self { state }
    }

    /// What it knows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// To load what a command needs, and to drop what is idle.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Applies a command and everything that follows from it, adding to `step`.
    ///
    /// # Errors
    /// Why the command is refused; nothing has changed then.
    pub fn apply(&mut self, command: Command, actor: &Actor, tick: Tick, step: &mut Step) -> Result<Reply, Rejection> {
        let tick = self.forward(tick);
        let draining = matches!(command, Command::Drain);
        let (decided, reply) = decide::command(&self.state, command, actor, tick)?;
        self.state.draining |= draining;
        for one in decided {
            self.record(one, actor, tick, step);
        }
        self.settle(tick, step);
        Ok(reply)
    }

    /// Applies deadlines that have come, at most so many, adding to `step`. Returns how many.
    pub fn apply_due(&mut self, tick: Tick, most: usize, step: &mut Step) -> usize {
        let tick = self.forward(tick);
        let mut applied = 0;
        while applied < most {
            let decided = decide::due(&self.state, tick);
            if decided.is_empty() {
                break;
            }
            for one in decided {
                self.record(one, &Actor::Noxd, tick, step);
            }
            applied += 1;
        }
        self.settle(tick, step);
        applied
    }

    /// Decides about the times of a schedule that have come, and those that waited for an end, adding to `step`. Its
    /// record, its workflow and what it may cancel must be here ([`State::needs_of_firing`]).
    pub fn fire(&mut self, schedule: &ScheduleId, tick: Tick, step: &mut Step) {
        let tick = self.forward(tick);
        let decided = schedule::come(&self.state, schedule, tick);
        if decided.is_empty() {
            self.state.nothing_released(schedule);
        }
        for one in decided {
            self.record(one, &Actor::Noxd, tick, step);
        }
        self.settle(tick, step);
    }

    /// Time never goes back, whatever the clocks do.
    fn forward(&self, tick: Tick) -> Tick {
        let (wall, elapsed) = self.state.newest_time();
        Tick { wall: tick.wall.max(wall), elapsed: tick.elapsed.max(elapsed), ..tick }
    }

    /// What the machine does by itself now, until it has no more to do or needs something.
    pub fn settle(&mut self, tick: Tick, step: &mut Step) {
        let tick = self.forward(tick);
        step.needs.clear();
        loop {
            match decide::follow_up(&self.state, tick) {
                FollowUp::Decided(decided) => {
                    for one in decided {
                        self.record(one, &Actor::Noxd, tick, step);
                    }
                }
                FollowUp::Needs(needs) => {
                    step.needs = needs;
                    return;
                }
                FollowUp::Nothing => return,
            }
        }
    }

    fn record(&mut self, decided: Decided, actor: &Actor, tick: Tick, step: &mut Step) {
        let recorded = Arc::new(Recorded {
            revision: self.state.revision() + 1,
            time: tick.wall,
            elapsed: tick.elapsed,
            actor: actor.clone(),
            workflow: decided.workflow,
            execution: decided.execution,
            event: decided.event,
        });
        self.state.evolve(&recorded);
        self.effects_of(&recorded, &mut step.effects);
        step.events.push(recorded);
    }

    /// Effects follow from events.
    fn effects_of(&self, recorded: &Recorded, effects: &mut Vec<Effect>) {
        let Some(execution) = recorded.execution.and_then(|id| self.state.execution(id)) else { return };
        let key = |task, attempt| AttemptKey { execution: execution.id, task, attempt };
        match &recorded.event {
            Event::TaskStarted { task, attempt, .. } => effects.push(Effect::StartAttempt {
                attempt: key(*task, *attempt),
                workflow: execution.workflow.clone(),
                definition: Arc::clone(&execution.definition),
                inputs: Arc::clone(&execution.inputs),
                filling: filling(execution, *task),
            }),
            Event::TaskTimeoutReached { task, attempt, limit, .. } => {
                effects.push(Effect::StopAttempt { attempt: key(*task, *attempt), cause: StopCause::TimedOut(*limit) });
            }
            Event::ExecutionCancelRequested { .. }
            | Event::ExecutionFailFast { .. }
            | Event::ExecutionTimeoutReached { .. } => {
                let cause = match &recorded.event {
                    Event::ExecutionTimeoutReached { .. } => StopCause::ExecutionTimedOut,
                    _ => StopCause::Cancelled,
                };
                let told = |attempt: &AttemptKey| execution.tasks[attempt.task as usize].stopping == Some(cause);
                let live = self.state.admission().live_of(execution.id).filter(told);
                effects.extend(live.map(|attempt| Effect::StopAttempt { attempt, cause }));
            }
            _ => {}
        }
    }
}

/// What the placeholders of a task may look at.
fn filling(execution: &Execution, task: TaskIndex) -> Option<Box<Filling>> {
    let read = execution.definition.reads_of(task)?.iter();
    let reads = read.map(|&task| {
        let state = &execution.tasks[task as usize];
        let source = match &execution.trigger {
            Trigger::Rerun(source) if state.reused => *source,
            _ => execution.id,
        };
        TaskRead { task, status: state.status, attempts: state.attempt, source, last_end: state.last_end }
    });
    Some(Box::new(Filling {
        version: execution.version,
        started_at: execution.started_at,
        labels: execution.labels.clone(),
        reads: reads.collect(),
    }))
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "feature_tests.rs"]
mod features;
