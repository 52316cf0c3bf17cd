//! The clauses of S-PAR as small stories, and what an operation costs.

use super::*;
use crate::machine::{
    ids::WorkflowId,
    workflow::{TaskSpec, WorkflowSpec},
};

const A: ExecutionId = ExecutionId(1);
const B: ExecutionId = ExecutionId(2);

/// Tasks as `<class> <agent> <group>`, each word optional: `high`, `low claude`, `medium claude gpu`; and limits of the
/// execution's own.
pub(super) fn definition(tasks: &[&str], limits: &[(&str, u32)]) -> Arc<Definition> {
    let id = WorkflowId::parse("w").expect("a name");
    let task = |(index, words): (usize, &&str)| {
        let mut words = words.split(' ');
        let priority = match words.next() {
            Some("critical") => Priority::Critical,
            Some("high") => Priority::High,
            Some("medium") => Priority::Medium,
            Some("low") => Priority::Low,
            other => panic!("a class, not {other:?}"),
        };
        let agent_id = words.next().unwrap_or_default().to_string();
        let parallel_group = words.next().unwrap_or_default().to_string();
        TaskSpec { id: format!("t{index}"), priority, agent_id, parallel_group, ..TaskSpec::default() }
    };
    let tasks = tasks.iter().enumerate().map(task).collect();
    let concurrency_limits = limits.iter().map(|(key, most)| ((*key).to_string(), *most)).collect();
    Definition::stored(WorkflowSpec { tasks, concurrency_limits, ..WorkflowSpec::named(id) }).expect("a graph")
}

/// An admission and its clock.
struct Story {
    admission: Admission,
    now: Elapsed,
}

impl Story {
    fn new(limit: u32) -> Self {
        Self { admission: Admission::new(limit), now: Elapsed(0) }
    }

    fn queue(&mut self, execution: ExecutionId, definition: &Arc<Definition>) {
        for task in 0..TaskIndex::try_from(definition.task_count()).expect("few") {
            self.admission.enqueue(execution, task, definition, self.now);
        }
    }

    /// Admits one, if there is room and work.
    fn admit(&mut self) -> Option<(u128, u32)> {
        let (execution, task) = self.admission.next(self.now)?;
        self.admission.admit(key(execution, task), self.now);
        Some((execution.0, task))
    }

    /// Admits as long as there is room and work.
    fn admit_all(&mut self) -> Vec<(u128, u32)> {
        std::iter::from_fn(|| self.admit()).collect()
    }
}

fn key(execution: ExecutionId, task: TaskIndex) -> AttemptKey {
    AttemptKey { execution, task, attempt: 1 }
}

#[test]
fn executions_take_turns_and_each_keeps_its_definition_order() {
    // S-PAR-3
    let mut story = Story::new(100);
    let definition = definition(&["medium"; 8], &[]);
    for task in [2, 0, 1] {
        story.admission.enqueue(A, task, &definition, Elapsed(0));
    }
    story.admission.enqueue(B, 7, &definition, Elapsed(0));
    assert_eq!(story.admit_all(), [(1, 0), (2, 7), (1, 1), (1, 2)]);
}

#[test]
fn a_higher_class_goes_first() {
    // S-PAR-3
    let mut story = Story::new(100);
    story.queue(A, &definition(&["low", "critical"], &[]));
    story.queue(B, &definition(&["high"], &[]));
    assert_eq!(story.admit_all(), [(1, 1), (2, 0), (1, 0)]);
}

#[test]
fn the_limit_holds_and_a_freed_slot_is_used() {
    // S-PAR-1
    let mut story = Story::new(2);
    story.queue(A, &definition(&["medium"; 3], &[]));
    assert_eq!(story.admit_all(), [(1, 0), (1, 1)]);
    assert_eq!((story.admission.running(), story.admission.queued()), (2, 1));
    story.admission.release(key(A, 0));
    assert_eq!(story.admit_all(), [(1, 2)]);
}

#[test]
fn an_agent_has_its_limit_over_all_executions_and_holds_up_nobody_else() {
    // S-PAR-1, S-PAR-3
    let mut story = Story::new(100);
    let definition = definition(&["critical claude", "critical claude", "low codex", "low"], &[]);
    story.admission.set_agent_limit("claude", Some(1));
    story.queue(A, &definition);
    story.queue(B, &definition);
    assert_eq!(story.admit_all(), [(1, 0), (1, 2), (2, 2), (1, 3), (2, 3)]);
    story.admission.release(key(A, 0));
    assert_eq!(story.admit_all(), [(2, 0)], "it was the other's turn");
    assert_eq!(story.admission.agent_limits().collect::<Vec<_>>(), [("claude", 1)]);
}

#[test]
fn what_waited_knows_which_limit_held_it_up_last() {
    // S-VIEW-6
    let definition = definition(&["medium claude gpu"; 6], &[("group:gpu", 3), ("*", 5)]);
    let mut story = Story::new(2);
    story.admission.set_agent_limit("claude", Some(4));
    story.queue(A, &definition);
    let held_up_by = |story: &Story, task| story.admission.held_up_by(A, task, Elapsed(0));
    assert_eq!((story.admit_all().len(), held_up_by(&story, 2)), (2, None), "nothing is free again yet");
    story.admission.at(Elapsed(10));
    story.admission.set_limit(9);
    assert_eq!(held_up_by(&story, 2), Some(LimitName::Global));
    assert_eq!(story.admission.held_up_by(A, 2, Elapsed(10)), None, "one that came then did not wait for it");
    assert_eq!(story.admit_all().len(), 1, "the group is full");
    story.admission.at(Elapsed(20));
    story.admission.release(key(A, 0));
    assert_eq!(held_up_by(&story, 3), Some(LimitName::ExecutionGroup("gpu".into())));
    story.admission.set_agent_limit("claude", Some(2));
    story.admission.at(Elapsed(30));
    story.admission.set_agent_limit("claude", Some(4));
    assert_eq!(held_up_by(&story, 3), Some(LimitName::Agent("claude".into())), "the last");
}

#[test]
fn an_execution_keeps_to_limits_of_its_own() {
    // S-PAR-1
    let tasks = ["medium claude", "medium claude", "medium codex gpu", "medium other gpu", "medium", "medium"];
    let definition = definition(&tasks, &[("claude", 1), ("group:gpu", 1), ("*", 3)]);
    let mut story = Story::new(100);
    story.queue(A, &definition);
    assert_eq!(story.admit_all(), [(1, 0), (1, 2), (1, 4)]);
    story.queue(B, &definition);
    assert_eq!(story.admit_all(), [(2, 0), (2, 2), (2, 4)], "another execution has slots of its own");
    story.admission.release(key(A, 4));
    assert_eq!(story.admit_all(), [(1, 5)], "neither the agent nor the group has room");
    story.admission.release(key(A, 2));
    assert_eq!(story.admit_all(), [(1, 3)]);
    story.admission.release(key(A, 0));
    assert_eq!(story.admit_all(), [(1, 1)]);
}

#[test]
fn a_limit_without_a_name_limits_nobody() {
    // S-PAR-1: no check of a definition lets one through.
    let definition = definition(&["medium"; 3], &[("", 1), ("group:", 1)]);
    let mut story = Story::new(9);
    story.queue(A, &definition);
    assert_eq!(story.admit_all().len(), 3);
}

#[test]
fn a_limit_counts_at_once_and_a_lower_one_stops_nothing() {
    // S-PAR-4
    let definition = definition(&["medium claude"; 6], &[]);
    let mut story = Story::new(4);
    story.queue(A, &definition);
    assert_eq!(story.admit_all().len(), 4);
    story.admission.set_agent_limit("claude", Some(2));
    story.admission.set_limit(10);
    assert_eq!(story.admission.limit(), 10);
    assert_eq!((story.admission.running(), story.admit()), (4, None));
    for task in [0, 1] {
        story.admission.release(key(A, task));
        assert_eq!(story.admit(), None);
    }
    story.admission.release(key(A, 2));
    assert_eq!(story.admit_all(), [(1, 4)]);
    story.admission.set_agent_limit("claude", None);
    assert_eq!(story.admit_all(), [(1, 5)]);
    assert_eq!(story.admission.agent_limits().next(), None);
}

#[test]
fn what_lives_after_a_restart_counts_against_every_limit() {
    // S-PAR-1
    let definition = definition(&["medium claude gpu"; 3], &[("group:gpu", 1)]);
    let mut story = Story::new(10);
    story.admission.found_alive(key(A, 1), &definition);
    story.admission.enqueue(A, 0, &definition, Elapsed(0));
    story.admission.enqueue(B, 0, &definition, Elapsed(0));
    assert_eq!(story.admit_all(), [(2, 0)]);
    story.admission.set_agent_limit("claude", Some(2));
    story.admission.release(key(A, 1));
    assert_eq!(story.admit_all(), [(1, 0)]);
    story.admission.release(key(A, 0));
    story.admission.release(key(B, 0));
    assert!(!story.admission.concerns(A) && !story.admission.concerns(B));
}

#[test]
fn every_fourth_admission_goes_to_the_longest_waiting_while_some_are_overdue() {
    // S-PAR-3
    let urgent = definition(&["critical"; 20], &[]);
    let mut story = Story::new(100);
    story.admission.set_patience(10);
    story.queue(A, &definition(&["low"], &[]));
    story.now = Elapsed(5);
    story.queue(ExecutionId(3), &definition(&["low"], &[]));
    story.queue(B, &urgent);
    story.now = Elapsed(10);
    let order: Vec<_> = (0..5).filter_map(|_| story.admit()).collect();
    assert_eq!(order, [0, 1, 2, 3, 4].map(|task| (2, task)), "nobody has waited over the patience yet");
    story.now = Elapsed(11);
    let order: Vec<_> = (0..5).filter_map(|_| story.admit()).collect();
    assert_eq!(order, [(1, 0), (2, 5), (2, 6), (2, 7), (2, 8)], "one is overdue; then nobody");
    story.now = Elapsed(1_000);
    let order: Vec<_> = (0..5).filter_map(|_| story.admit()).collect();
    assert_eq!(
        order,
        [(2, 9), (2, 10), (2, 11), (2, 12), (2, 13)].map(|(e, t)| if t == 9 { (3, 0) } else { (e, t - 1) })
    );
}

#[test]
fn patience_is_ten_minutes_where_nobody_says_otherwise() {
    // S-PAR-3
    let mut story = Story::new(100);
    story.queue(A, &definition(&["low"], &[]));
    story.queue(B, &definition(&["critical"; 5], &[]));
    assert_eq!([0; 3].map(|_| story.admit()), [0, 1, 2].map(|task| Some((2, task))));
    story.now = Elapsed(600_000_000);
    assert_eq!(story.admit(), Some((2, 3)));
    story.now = Elapsed(600_000_001);
    assert_eq!(story.admit(), Some((1, 0)));
}

#[test]
fn an_overdue_task_without_room_holds_up_nobody() {
    // S-PAR-3
    let mut story = Story::new(100);
    story.admission.set_patience(10);
    story.admission.set_agent_limit("claude", Some(1));
    story.admission.found_alive(key(ExecutionId(9), 0), &definition(&["low claude"], &[]));
    story.queue(A, &definition(&["low claude"], &[]));
    story.now = Elapsed(1);
    story.queue(B, &definition(&["low", "medium", "medium", "medium", "medium", "medium"], &[]));
    story.now = Elapsed(100);
    assert_eq!(story.admit_all(), [(2, 1), (2, 2), (2, 3), (2, 0), (2, 4), (2, 5)]);
    story.admission.release(key(ExecutionId(9), 0));
    assert_eq!(story.admit_all(), [(1, 0)]);
}

#[test]
fn what_is_withdrawn_does_not_start() {
    // S-STATE-7
    let mut story = Story::new(9);
    story.queue(A, &definition(&["high claude", "low"], &[]));
    story.queue(B, &definition(&["low"; 2], &[]));
    story.admission.withdraw(A);
    assert!(!story.admission.concerns(A));
    story.admission.withdraw_task(B, 0);
    story.admission.withdraw_task(B, 0);
    assert_eq!(story.admission.queued(), 1);
    assert_eq!(story.admit_all(), [(2, 1)]);
    story.admission.withdraw(B);
    assert!(story.admission.concerns(B), "what lives of it keeps its slot");
    story.admission.release(key(B, 1));
    assert!(!story.admission.concerns(B));
}

#[test]
fn a_task_that_waits_knows_which_limits_and_who_holds_their_slots() {
    // S-PAR-1
    let definition = definition(&["medium claude gpu"; 14], &[("*", 12), ("claude", 12), ("group:gpu", 13)]);
    let mut story = Story::new(12);
    assert_eq!(story.admission.blockers(A, 0, &definition), []);
    story.admission.set_agent_limit("claude", Some(1));
    story.queue(A, &definition);
    assert_eq!(story.admission.blockers(A, 0, &definition), [], "it waits only for its turn");
    assert_eq!(story.admit_all(), [(1, 0)]);
    let agent = LimitName::Agent("claude".to_string());
    let reached = LimitReached { limit: agent.clone(), most: 1, holders: vec![key(A, 0)], held: 1 };
    assert_eq!(story.admission.blockers(A, 1, &definition), std::slice::from_ref(&reached));
    assert_eq!(story.admission.blockers(B, 1, &definition), [reached], "nothing of B is here");
    story.admission.set_agent_limit("claude", Some(13));
    story.admit_all();
    story.admission.set_agent_limit("claude", Some(2));
    let reached = story.admission.blockers(A, 13, &definition);
    let limits: Vec<_> = reached.iter().map(|reached| (reached.limit.clone(), reached.most, reached.held)).collect();
    let own = LimitName::ExecutionAgent("claude".to_string());
    assert_eq!(
        limits,
        [(LimitName::Global, 12, 12), (agent, 2, 12), (LimitName::ExecutionAll, 12, 12), (own, 12, 12)],
        "the group has room for one more"
    );
    assert!(reached.iter().all(|reached| reached.holders == (0..10).map(|task| key(A, task)).collect::<Vec<_>>()));
}

/// Runs an operation, and holds what it moved to a bound that no number of waiting tasks changes.
fn cheap<R>(story: &mut Story, operation: impl FnOnce(&mut Story) -> R) -> R {
    let before = story.admission.agents.moves;
    let result = operation(story);
    let moved = story.admission.agents.moves - before;
    assert!(moved <= 4, "{moved} moves for one operation");
    result
}

#[test]
fn a_crowd_behind_a_full_agent_costs_nothing_to_those_who_flow() {
    // S-PAR-3: 50,000 executions wait, 200,000 operations go past them or through them.
    let mut story = Story::new(1_000);
    story.admission.set_agent_limit("slow", Some(1));
    let slow = definition(&["critical slow"], &[]);
    let fast = definition(&["low fast"], &[]);
    for id in 0..50_000 {
        cheap(&mut story, |story| story.admission.enqueue(ExecutionId(id), 0, &slow, Elapsed(0)));
    }
    assert_eq!(story.admit(), Some((0, 0)));
    story.now = Elapsed(DEFAULT_PATIENCE_MICROS + 1);
    for round in 1..=40_000 {
        let id = ExecutionId(1_000_000 + round);
        cheap(&mut story, |story| story.admission.enqueue(id, 0, &fast, story.now));
        assert_eq!(cheap(&mut story, Story::admit), Some((id.0, 0)));
        cheap(&mut story, |story| story.admission.release(key(id, 0)));
        cheap(&mut story, |story| story.admission.release(key(ExecutionId(round - 1), 0)));
        assert_eq!(cheap(&mut story, Story::admit), Some((round, 0)), "the agent's slot is used at once");
    }
    assert_eq!(story.admission.queued(), 9_999);
}

#[test]
fn one_execution_with_100_000_queued_tasks_is_admitted_at_the_cost_of_each() {
    // S-PAR-3
    let definition = definition(&["medium claude"; 100_000], &[("*", 2)]);
    let mut story = Story::new(1_000);
    for task in 0..100_000 {
        // A third comes at times of its own.
        let since = Elapsed(if task % 3 == 0 { u64::from(task) } else { 0 });
        cheap(&mut story, |story| story.admission.enqueue(A, task, &definition, since));
    }
    assert_eq!(story.admit_all(), [(1, 0), (1, 1)]);
    for task in 2..100_000 {
        cheap(&mut story, |story| story.admission.release(key(A, task - 2)));
        assert_eq!(cheap(&mut story, Story::admit), Some((1, task)));
    }
    assert_eq!((story.admission.queued(), story.admission.running()), (0, 2));
    assert!(story.admission.agents.moves >= 200_000, "void: nothing counted what was moved");
}
