//! The graph of a workflow over dense task indices: who comes before whom.
//!
//! It knows the shape alone. Whether a dependency is fulfilled is `execution`'s business; the questions here are asked
//! once, when a definition is checked, or cost as much as their answer ([`Graph::blocked_by`]).

use std::collections::BTreeMap;

use super::{
    ids::TaskIndex,
    workflow::{Reason, TaskSpec, Violation},
};

/// Dependencies of a workflow, without cycles. Neighbours of a task are one slice of one array.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    dependencies: Adjacency,
    dependents: Adjacency,
    stages: Vec<Vec<TaskIndex>>,
}

/// Neighbours of every task: those of task `i` are `edges[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, PartialEq)]
struct Adjacency {
    offsets: Vec<u32>,
    edges: Vec<TaskIndex>,
}

impl Graph {
    /// Builds the graph of the tasks, whose ids are in `index`.
    ///
    /// # Errors
    /// Every unknown, repeated or circular dependency.
    pub fn build(tasks: &[TaskSpec], index: &BTreeMap<&str, TaskIndex>) -> Result<Self, Vec<Violation>> {
        let mut faults = Vec::new();
        let dependencies = resolve(tasks, index, &mut faults);
        let dependents = reversed(&dependencies);
        // Cycles are looked for among the dependencies that exist, so that all faults are told at once.
        let graph = match stages(&dependencies, &dependents) {
            Ok(stages) => Self {
                dependencies: Adjacency::from_lists(&dependencies),
                dependents: Adjacency::from_lists(&dependents),
                stages,
            },
            Err(left) => {
                faults.extend(cycles(tasks, &dependencies, &left));
                return Err(faults);
            }
        };
        if faults.is_empty() { Ok(graph) } else { Err(faults) }
    }

    /// Tasks that come right before a task.
    pub fn dependencies(&self, task: TaskIndex) -> &[TaskIndex] {
        self.dependencies.of(task)
    }

    /// Tasks that come right after a task.
    pub fn dependents(&self, task: TaskIndex) -> &[TaskIndex] {
        self.dependents.of(task)
    }

    /// How many dependencies there are in all.
    pub fn dependency_count(&self) -> usize {
        self.dependencies.edges.len()
    }

    /// Tasks that can run at once, stage after stage; within one in definition order.
    pub fn stages(&self) -> &[Vec<TaskIndex>] {
        &self.stages
    }

    /// Whether `before` comes before `task`, at any distance.
    pub fn is_ancestor(&self, before: TaskIndex, task: TaskIndex) -> bool {
        let mut seen = vec![false; self.dependencies.offsets.len()];
        let mut open = vec![task];
        while let Some(next) = open.pop() {
            for &dependency in self.dependencies(next) {
                if dependency == before {
                    return true;
                }
                if !std::mem::replace(&mut seen[dependency as usize], true) {
                    open.push(dependency);
                }
            }
        }
        false
    }

    /// All tasks after `cause`, at any distance, for which `affected` holds; ascending. The search does not go on
    /// beyond a task that is not affected, so it costs as much as its answer (S-DEP-2).
    pub fn blocked_by(&self, cause: TaskIndex, affected: impl Fn(TaskIndex) -> bool) -> Vec<TaskIndex> {
        let mut blocked = std::collections::BTreeSet::new();
        let mut open = vec![cause];
        while let Some(next) = open.pop() {
            for &dependent in self.dependents(next) {
                if affected(dependent) && blocked.insert(dependent) {
                    open.push(dependent);
                }
            }
        }
        blocked.into_iter().collect()
    }
}

impl Adjacency {
    fn from_lists(lists: &[Vec<TaskIndex>]) -> Self {
        let mut offsets = Vec::with_capacity(lists.len() + 1);
        let mut edges = Vec::with_capacity(lists.iter().map(Vec::len).sum());
        offsets.push(0);
        for list in lists {
            edges.extend_from_slice(list);
            offsets.push(u32::try_from(edges.len()).expect("bounded: validation allows 1,000,000 dependencies"));
        }
        Self { offsets, edges }
    }

    fn of(&self, task: TaskIndex) -> &[TaskIndex] {
        let task = task as usize;
        &self.edges[self.offsets[task] as usize..self.offsets[task + 1] as usize]
    }
}

/// The dependencies by index, without those that are unknown or repeated, which are faults.
fn resolve(tasks: &[TaskSpec], index: &BTreeMap<&str, TaskIndex>, faults: &mut Vec<Violation>) -> Vec<Vec<TaskIndex>> {
    let mut lists = Vec::with_capacity(tasks.len());
    // A suggestion costs a look at many ids: who has made more mistakes than this sees the pattern.
    let mut suggestions = 32;
    for (position, task) in tasks.iter().enumerate() {
        let mut known: BTreeMap<TaskIndex, usize> = BTreeMap::new();
        let mut list = Vec::with_capacity(task.dependencies.len());
        for (at, dependency) in task.dependencies.iter().enumerate() {
            let mut fault = |reason, description| {
                faults.push(Violation { field: format!("tasks[{position}].dependencies[{at}]"), reason, description });
            };
            match index.get(dependency.as_str()) {
                None => {
                    let near = if suggestions > 0 { nearest(dependency, index.keys().copied()) } else { None };
                    suggestions -= usize::from(suggestions > 0);
                    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                    let words = format!("task `{}` depends on `{dependency}`, but no task has that id{near}", task.id);
                    fault(Reason::DependencyNotFound, words);
                }
                Some(&found) => match known.get(&found) {
                    Some(first) => fault(
                        Reason::InvalidValue,
                        format!("`{dependency}` is already dependencies[{first}] of task `{}`; name it once", task.id),
                    ),
                    None => {
                        known.insert(found, at);
                        list.push(found);
                    }
                },
            }
        }
        lists.push(list);
    }
    lists
}

/// The known name that differs least, where it differs by two characters at most.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A wrong id in a huge workflow is not worth a search through all of it.
    known
        .take(1_000)
        .filter(|known| known.len().abs_diff(wanted.len()) <= 2)
        .map(|known| (edit_distance(known.as_bytes(), wanted.as_bytes()), known))
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len())
        .min()
        .map(|(_, known)| known)
}

fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn reversed(lists: &[Vec<TaskIndex>]) -> Vec<Vec<TaskIndex>> {
    let mut reversed = vec![Vec::new(); lists.len()];
    for (task, list) in lists.iter().zip(0..).map(|(list, task)| (task, list)) {
        for &dependency in list {
            reversed[dependency as usize].push(task);
        }
    }
    reversed
}

/// Kahn's algorithm by stages. `Err` has, per task, whether it is left over: on a cycle, or after one.
fn stages(dependencies: &[Vec<TaskIndex>], dependents: &[Vec<TaskIndex>]) -> Result<Vec<Vec<TaskIndex>>, Vec<bool>> {
    let mut remaining: Vec<usize> = dependencies.iter().map(Vec::len).collect();
    let mut left = vec![true; remaining.len()];
    let mut stage: Vec<TaskIndex> = (0..).zip(&remaining).filter(|(_, count)| **count == 0).map(|(i, _)| i).collect();
    let mut stages = Vec::new();
    while !stage.is_empty() {
        let mut next = Vec::new();
        for &task in &stage {
            left[task as usize] = false;
            for &dependent in &dependents[task as usize] {
                remaining[dependent as usize] -= 1;
                if remaining[dependent as usize] == 0 {
                    next.push(dependent);
                }
            }
        }
        next.sort_unstable();
        stages.push(std::mem::replace(&mut stage, next));
    }
    if left.contains(&true) { Err(left) } else { Ok(stages) }
}

/// One fault per cycle that a walk backwards finds, printed as the cycle (S-DEF-1).
fn cycles(tasks: &[TaskSpec], dependencies: &[Vec<TaskIndex>], left: &[bool]) -> Vec<Violation> {
    let mut faults = Vec::new();
    let mut walked = vec![false; tasks.len()];
    for start in 0..tasks.len() {
        if !left[start] || walked[start] {
            continue;
        }
        // Each task that is left has a dependency that is left: walking back must meet the walk itself or an older one.
        let mut path: Vec<usize> = Vec::new();
        let mut position: BTreeMap<usize, usize> = BTreeMap::new();
        let mut next = start;
        while !walked[next] {
            walked[next] = true;
            position.insert(next, path.len());
            path.push(next);
            let Some(&before) = dependencies[next].iter().find(|d| left[**d as usize]) else { break };
            next = before as usize;
        }
        if let Some(&first) = position.get(&next) {
            faults.push(cycle_fault(tasks, dependencies, &path[first..]));
        }
    }
    faults
}

/// The path goes against the dependencies; people read the way the work would flow.
fn cycle_fault(tasks: &[TaskSpec], dependencies: &[Vec<TaskIndex>], path: &[usize]) -> Violation {
    const SHOWN: usize = 12;
    let task = path[0];
    let before = *path.get(1).unwrap_or(&task);
    let at = dependencies[task].iter().position(|d| *d as usize == before).unwrap_or_default();
    let mut flow: Vec<&str> = path.iter().rev().map(|&i| tasks[i].id.as_str()).collect();
    if flow.len() > SHOWN {
        flow.truncate(SHOWN - 1);
        flow.push("…");
    }
    let first = tasks[path[path.len() - 1]].id.as_str();
    flow.push(first);
    let words = if path.len() == 1 {
        format!("task `{first}` depends on itself; remove that dependency")
    } else {
        format!("{} tasks wait for each other: {}; remove one of these dependencies", path.len(), flow.join(" → "))
    };
    Violation {
        field: format!("tasks[{task}].dependencies[{at}]"),
        reason: Reason::CircularDependency,
        description: words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"c: a b"` is a task `c` after `a` and `b`.
    fn tasks(lines: &[&str]) -> Vec<TaskSpec> {
        lines
            .iter()
            .map(|line| {
                let (id, dependencies) = line.split_once(':').unwrap_or((line, ""));
                TaskSpec {
                    id: id.into(),
                    dependencies: dependencies.split_whitespace().map(Into::into).collect(),
                    ..TaskSpec::default()
                }
            })
            .collect()
    }

    fn graph(lines: &[&str]) -> Result<Graph, Vec<Violation>> {
        let tasks = tasks(lines);
        let index = tasks.iter().zip(0..).map(|(task, i)| (task.id.as_str(), i)).collect();
        Graph::build(&tasks, &index)
    }

    fn faults(lines: &[&str]) -> Vec<String> {
        graph(lines)
            .expect_err("faults")
            .iter()
            .map(|v| format!("{} {} {}", v.field, v.reason.as_str(), v.description))
            .collect()
    }

    #[test]
    fn a_diamond_runs_in_three_stages() {
        // S-DEP-1
        let graph = graph(&["end: left right", "left: start", "right: start", "start"]).expect("no faults");
        assert_eq!(graph.stages(), [vec![3], vec![1, 2], vec![0]]);
        assert_eq!(graph.dependents(3), [1, 2]);
        assert_eq!(graph.dependencies(0), [1, 2]);
        assert_eq!(graph.dependency_count(), 4);
        assert!(graph.is_ancestor(3, 0) && !graph.is_ancestor(0, 3) && !graph.is_ancestor(1, 2));
    }

    #[test]
    fn a_cycle_is_printed_as_the_cycle() {
        // S-DEF-1
        assert_eq!(
            faults(&["a: c", "b: a", "c: b", "after: c"]),
            ["tasks[0].dependencies[0] CIRCULAR_DEPENDENCY 3 tasks wait for each other: b → c → a → b; \
              remove one of these dependencies"]
        );
        assert_eq!(
            faults(&["a: a"]),
            ["tasks[0].dependencies[0] CIRCULAR_DEPENDENCY task `a` depends on itself; remove that dependency"]
        );
    }

    #[test]
    fn separate_cycles_and_unknown_ids_are_told_together() {
        // S-DEF-1
        let faults = faults(&["a: b", "b: a", "x: y", "y: x ghost", "build", "z: biuld build build"]);
        assert_eq!(faults.len(), 5, "{faults:#?}");
        assert!(faults[0].starts_with("tasks[3].dependencies[1] DEPENDENCY_NOT_FOUND task `y` depends on `ghost`"));
        assert!(faults[1].ends_with("did you mean `build`?"), "{}", faults[1]);
        assert!(faults[2].starts_with("tasks[5].dependencies[2] INVALID_VALUE"), "{}", faults[2]);
        assert!(faults[3].contains("b → a → b") || faults[3].contains("a → b → a"), "{}", faults[3]);
        assert!(faults[4].contains("x → y → x") || faults[4].contains("y → x → y"), "{}", faults[4]);
    }

    #[test]
    fn a_fault_names_the_dependency_that_closes_the_cycle() {
        // S-DEF-1
        let faults = faults(&["base", "a: base b", "b: base a"]);
        assert!(faults[0].starts_with("tasks[1].dependencies[1] CIRCULAR_DEPENDENCY"), "{faults:#?}");
    }

    #[test]
    fn a_long_cycle_is_cut_short_in_the_middle() {
        // S-DEF-1
        let ring = |count: usize| {
            let lines: Vec<String> =
                (0..count).map(|task| format!("t{task}: t{}", (task + count - 1) % count)).collect();
            let [fault] = &faults(&lines.iter().map(String::as_str).collect::<Vec<_>>())[..] else {
                panic!("one fault")
            };
            fault.split_once("each other: ").expect("a cycle").1.split(';').next().expect("words").to_string()
        };
        let eleven = "t1 → t2 → t3 → t4 → t5 → t6 → t7 → t8 → t9 → t10 → t11";
        assert_eq!(ring(12), format!("{eleven} → t0 → t1"));
        assert_eq!(ring(13), format!("{eleven} → … → t1"));
    }

    #[test]
    fn only_what_is_nearly_right_is_suggested_and_only_to_the_first_mistakes() {
        // S-DEF-1
        let is_suggested =
            |known: &str, wanted: &str| faults(&[known, &format!("z: {wanted}")])[0].contains("did you mean");
        assert!(is_suggested("build", "biuld") && is_suggested("build", "builder") && is_suggested("build", "bild"));
        assert!(!is_suggested("deploy", "depart"), "three letters differ");
        assert!(!is_suggested("ab", "xy"), "nothing is the same");
        let mistakes: Vec<String> = (0..40).map(|task| format!("t{task}: buidl")).chain(["build".into()]).collect();
        let faults = faults(&mistakes.iter().map(String::as_str).collect::<Vec<_>>());
        let suggested: Vec<bool> = faults.iter().map(|fault| fault.contains("did you mean `build`?")).collect();
        assert_eq!(suggested, (0..40).map(|fault| fault < 32).collect::<Vec<_>>());
    }

    #[test]
    fn names_differ_by_the_letters_that_must_be_typed() {
        // The examples of the literature on Levenshtein's distance.
        for (one, other, distance) in [
            ("kitten", "sitting", 3),
            ("saturday", "sunday", 3),
            ("flaw", "lawn", 2),
            ("gumbo", "gambol", 2),
            ("", "abc", 3),
            ("abc", "", 3),
            ("same", "same", 0),
        ] {
            assert_eq!(edit_distance(one.as_bytes(), other.as_bytes()), distance, "{one} {other}");
        }
    }

    #[test]
    fn a_failure_reaches_everything_after_it_and_nothing_else() {
        // S-DEP-2
        let graph = graph(&["a", "b: a", "c: b", "other", "d: c other"]).expect("no faults");
        assert_eq!(graph.blocked_by(0, |_| true), [1, 2, 4]);
        assert_eq!(graph.blocked_by(3, |_| true), [4]);
        assert_eq!(graph.blocked_by(0, |task| task != 2), [1]);
    }
}
