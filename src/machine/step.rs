//! One step of the machine: a command, or a deadline, and everything that follows from it at once.
//!
//! [`Machine`] joins decisions and evolution and counts revisions. A successor becomes ready, and starts if it fits, in
//! the same step in which its last dependency ends (S-DEP-4).

use std::sync::Arc;

use super::{
    decide::{self, Decided},
    ids::{Actor, AttemptKey, Tick},
    message::{Command, Effect, Event, Recorded, Rejection, Reply, StopCause},
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
        while applied < most
            && let Some(decided) = decide::due(&self.state, tick)
        {
            self.record(decided, &Actor::Noxd, tick, step);
            applied += 1;
        }
        self.settle(tick, step);
        applied
    }

    /// Time never goes back, whatever the clocks do.
    fn forward(&self, tick: Tick) -> Tick {
        let (wall, elapsed) = self.state.newest_time();
        Tick { wall: tick.wall.max(wall), elapsed: tick.elapsed.max(elapsed), ..tick }
    }

    /// What the machine does by itself now.
    fn settle(&mut self, tick: Tick, step: &mut Step) {
        while let Some(decided) = decide::follow_up(&self.state, tick) {
            self.record(decided, &Actor::Noxd, tick, step);
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
        let Some(id) = recorded.execution else { return };
        match &recorded.event {
            Event::TaskStarted { task, attempt, .. } => {
                let Some(execution) = self.state.execution(id) else { return };
                effects.push(Effect::StartAttempt {
                    attempt: AttemptKey { execution: id, task: *task, attempt: *attempt },
                    workflow: recorded.workflow.clone(),
                    definition: Arc::clone(&execution.definition),
                });
            }
            Event::TaskTimeoutReached { task, attempt, .. } => effects.push(Effect::StopAttempt {
                attempt: AttemptKey { execution: id, task: *task, attempt: *attempt },
                cause: StopCause::TimedOut,
            }),
            Event::ExecutionCancelRequested { .. } => {
                let live = self.state.admission().live_of(id);
                effects.extend(live.map(|attempt| Effect::StopAttempt { attempt, cause: StopCause::Cancelled }));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
