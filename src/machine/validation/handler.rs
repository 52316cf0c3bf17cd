//! Handlers: tasks that run after the ordinary ones, and what that means for who may wait for whom (S-STATE-5).
//!
//! It says what is a fault; when handlers run is `execution`'s business.

use std::collections::BTreeMap;

use super::{Faults, shortened};
use crate::machine::{
    ids::TaskIndex,
    workflow::{MAX_TASKS, Reason, WorkflowSpec},
};

/// What part a task has in an execution, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Ordinary,
    OnFailure,
    Finally,
}

impl Role {
    fn field(self) -> &'static str {
        match self {
            Self::Ordinary => "tasks",
            Self::OnFailure => "on_failure",
            Self::Finally => "finally",
        }
    }
}

/// The role of every task, by index.
pub(super) fn roles(spec: &WorkflowSpec, index: &BTreeMap<&str, TaskIndex>, faults: &mut Faults) -> Vec<Role> {
    let mut roles = vec![Role::Ordinary; spec.tasks.len()];
    for (role, ids) in [(Role::OnFailure, &spec.on_failure), (Role::Finally, &spec.finally)] {
        let name = role.field();
        if ids.len() > MAX_TASKS {
            // Far too many are not looked at one by one.
            faults.longer_than(name, ids.len(), MAX_TASKS, "ids");
            continue;
        }
        for (at, id) in ids.iter().enumerate() {
            let field = format!("{name}[{at}]");
            let Some(&task) = index.get(id.as_str()) else {
                let id = shortened(id);
                let words = format!("no task has the id `{}`; a handler is one of `tasks`", id.escape_debug());
                faults.add(&field, Reason::InvalidValue, words);
                continue;
            };
            let before = std::mem::replace(&mut roles[task as usize], role);
            if before == role {
                let words = format!("`{id}` is in `{name}` already; name it once");
                faults.add(&field, Reason::InvalidValue, words);
            } else if before != Role::Ordinary {
                let words = format!("`{id}` is in `{}` already; a task is one of the two", before.field());
                faults.add(&field, Reason::InvalidValue, words);
            }
        }
    }
    if !roles.is_empty() && !roles.contains(&Role::Ordinary) {
        let words = "all tasks are handlers; a workflow needs one that is neither in `on_failure` nor in `finally`";
        faults.add("tasks", Reason::MissingValue, words.into());
    }
    roles
}

/// Handlers wait for handlers of their own kind only, and nothing else waits for them.
pub(super) fn dependencies(
    spec: &WorkflowSpec,
    index: &BTreeMap<&str, TaskIndex>,
    roles: &[Role],
    faults: &mut Faults,
) {
    for (position, (task, &role)) in spec.tasks.iter().zip(roles).enumerate() {
        for (at, dependency) in task.dependencies.iter().enumerate() {
            let Some(&before) = index.get(dependency.as_str()) else { continue };
            let other = roles[before as usize];
            if other == role {
                continue;
            }
            let words = if role == Role::Ordinary {
                format!(
                    "`{dependency}` is in `{0}`, which runs after all ordinary tasks, so `{1}` cannot wait for it; \
                     remove the dependency, or put `{1}` into `{0}` too",
                    other.field(),
                    task.id
                )
            } else {
                let order = if other < role { "has ended before it starts anyway" } else { "runs after it" };
                format!(
                    "`{}` is in `{}` and may depend only on tasks that are there too; remove the dependency: \
                     `{dependency}` {order}",
                    task.id,
                    role.field(),
                )
            };
            faults.add(&format!("tasks[{position}].dependencies[{at}]"), Reason::InvalidValue, words);
        }
    }
}
