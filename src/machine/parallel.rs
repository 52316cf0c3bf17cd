//! Who may start next: the queue of ready tasks and the slots they need (S-PAR).
//!
//! A slot is a live attempt, never a counter, so that limits are exact after a restart. The order is: strict priority
//! classes; within one, round robin over executions; within one execution, definition order.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{AttemptKey, ExecutionId, TaskIndex},
    workflow::Priority,
};

/// Tasks that run and tasks that wait for a slot.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Most attempts alive at once.
    limit: u32,
    live: BTreeSet<AttemptKey>,
    classes: BTreeMap<Priority, Class>,
    /// Tasks in all queues.
    waiting: usize,
}

/// One priority class.
#[derive(Clone, Debug, Default)]
struct Class {
    /// Whose turn it is: the lowest number is next.
    turns: BTreeMap<u64, ExecutionId>,
    queues: BTreeMap<ExecutionId, Queue>,
    next_turn: u64,
}

#[derive(Clone, Debug)]
struct Queue {
    turn: u64,
    tasks: BTreeSet<TaskIndex>,
}

impl Admission {
    /// Nothing runs and nothing waits.
    pub fn new(limit: u32) -> Self {
        Self { limit, live: BTreeSet::new(), classes: BTreeMap::new(), waiting: 0 }
    }

    /// Most attempts alive at once.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Attempts alive.
    pub fn running(&self) -> usize {
        self.live.len()
    }

    /// Tasks that wait for a slot.
    pub fn queued(&self) -> usize {
        self.waiting
    }

    /// The task that starts next; none while every slot is taken or nothing waits.
    pub fn next(&self) -> Option<(ExecutionId, TaskIndex)> {
        if self.live.len() >= self.limit as usize {
            return None;
        }
        self.classes.values().find_map(Class::next)
    }

    /// A task waits for a slot.
    pub fn enqueue(&mut self, execution: ExecutionId, task: TaskIndex, priority: Priority) {
        self.waiting += usize::from(self.classes.entry(priority).or_default().enqueue(execution, task));
    }

    /// A task got its slot; the next turn is another execution's.
    pub fn admit(&mut self, attempt: AttemptKey, priority: Priority) {
        if let Some(class) = self.classes.get_mut(&priority) {
            self.waiting -= usize::from(class.take(attempt.execution, attempt.task));
        }
        self.live.insert(attempt);
    }

    /// An attempt that lives already, found at recovery.
    pub fn found_alive(&mut self, attempt: AttemptKey) {
        self.live.insert(attempt);
    }

    /// An attempt is over: its slot is free.
    pub fn release(&mut self, attempt: AttemptKey) {
        self.live.remove(&attempt);
    }

    /// No task of this execution waits any more: it is paused or cancelled.
    pub fn withdraw(&mut self, execution: ExecutionId) {
        for class in self.classes.values_mut() {
            if let Some(queue) = class.queues.remove(&execution) {
                class.turns.remove(&queue.turn);
                self.waiting -= queue.tasks.len();
            }
        }
    }

    /// Live attempts of an execution.
    pub fn live_of(&self, execution: ExecutionId) -> impl Iterator<Item = AttemptKey> + '_ {
        let from = AttemptKey { execution, task: 0, attempt: 0 };
        self.live.range(from..).take_while(move |key| key.execution == execution).copied()
    }

    /// All live attempts.
    pub fn live(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.live.iter().copied()
    }

    /// Whether a task of this execution runs or waits for a slot.
    pub fn concerns(&self, execution: ExecutionId) -> bool {
        self.live_of(execution).next().is_some()
            || self.classes.values().any(|class| class.queues.contains_key(&execution))
    }
}

impl Class {
    fn next(&self) -> Option<(ExecutionId, TaskIndex)> {
        let (_, execution) = self.turns.first_key_value()?;
        let task = self.queues.get(execution)?.tasks.first()?;
        Some((*execution, *task))
    }

    /// Whether it was not there before.
    fn enqueue(&mut self, execution: ExecutionId, task: TaskIndex) -> bool {
        let Self { turns, queues, next_turn } = self;
        let queue = queues.entry(execution).or_insert_with(|| {
            let turn = *next_turn;
            *next_turn += 1;
            turns.insert(turn, execution);
            Queue { turn, tasks: BTreeSet::new() }
        });
        queue.tasks.insert(task)
    }

    /// Whether it was there.
    fn take(&mut self, execution: ExecutionId, task: TaskIndex) -> bool {
        let Some(queue) = self.queues.get_mut(&execution) else { return false };
        let waited = queue.tasks.remove(&task);
        self.turns.remove(&queue.turn);
        if queue.tasks.is_empty() {
            self.queues.remove(&execution);
        } else {
            queue.turn = self.next_turn;
            self.turns.insert(self.next_turn, execution);
            self.next_turn += 1;
        }
        waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ExecutionId = ExecutionId(1);
    const B: ExecutionId = ExecutionId(2);

    fn key(execution: ExecutionId, task: TaskIndex) -> AttemptKey {
        AttemptKey { execution, task, attempt: 1 }
    }

    /// Admits as long as there is room and work, and says who.
    fn admit_all(admission: &mut Admission, priority: impl Fn(ExecutionId, TaskIndex) -> Priority) -> Vec<(u128, u32)> {
        let mut order = Vec::new();
        while let Some((execution, task)) = admission.next() {
            admission.admit(key(execution, task), priority(execution, task));
            order.push((execution.0, task));
        }
        order
    }

    #[test]
    fn executions_take_turns_and_each_keeps_its_definition_order() {
        // S-PAR-3
        let mut admission = Admission::new(100);
        for task in [2, 0, 1] {
            admission.enqueue(A, task, Priority::Medium);
        }
        admission.enqueue(B, 7, Priority::Medium);
        assert_eq!(admit_all(&mut admission, |_, _| Priority::Medium), [(1, 0), (2, 7), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_higher_class_goes_first() {
        // S-PAR-3
        let mut admission = Admission::new(100);
        admission.enqueue(A, 0, Priority::Low);
        admission.enqueue(A, 1, Priority::Critical);
        admission.enqueue(B, 0, Priority::High);
        let priority = |execution, task| match (execution, task) {
            (A, 0) => Priority::Low,
            (A, _) => Priority::Critical,
            _ => Priority::High,
        };
        assert_eq!(admit_all(&mut admission, priority), [(1, 1), (2, 0), (1, 0)]);
    }

    #[test]
    fn the_limit_holds_and_a_freed_slot_is_used() {
        // S-PAR-1
        let mut admission = Admission::new(2);
        for task in 0..3 {
            admission.enqueue(A, task, Priority::Medium);
        }
        assert_eq!(admit_all(&mut admission, |_, _| Priority::Medium), [(1, 0), (1, 1)]);
        assert_eq!((admission.running(), admission.queued()), (2, 1));
        admission.release(key(A, 0));
        assert_eq!(admit_all(&mut admission, |_, _| Priority::Medium), [(1, 2)]);
    }

    #[test]
    fn what_is_withdrawn_does_not_start() {
        // S-STATE-7
        let mut admission = Admission::new(9);
        admission.enqueue(A, 0, Priority::High);
        admission.enqueue(B, 0, Priority::Low);
        admission.withdraw(A);
        assert!(!admission.concerns(A));
        assert_eq!(admit_all(&mut admission, |_, _| Priority::Low), [(2, 0)]);
        assert!(admission.concerns(B));
    }
}
