//! `update_mask`: which fields of a definition an update sets.

use tonic::Status;

use super::status::{self, Reason};
use crate::proto::v1;

/// The stored definition with some fields of the given one.
///
/// # Errors
/// Where a path names no field that an update can set.
pub(super) fn applied(mut stored: v1::Workflow, given: v1::Workflow, paths: &[String]) -> Result<v1::Workflow, Status> {
    for path in paths {
        match path.as_str() {
            "name" => stored.name.clone_from(&given.name),
            "description" => stored.description.clone_from(&given.description),
            "tasks" => stored.tasks.clone_from(&given.tasks),
            "metadata" => stored.metadata.clone_from(&given.metadata),
            "labels" => stored.labels.clone_from(&given.labels),
            "notification_config" => stored.notification_config.clone_from(&given.notification_config),
            "concurrency_limits" => stored.concurrency_limits.clone_from(&given.concurrency_limits),
            "failure_policy" => stored.failure_policy = given.failure_policy,
            "on_failure" => stored.on_failure.clone_from(&given.on_failure),
            "finally" => stored.finally.clone_from(&given.finally),
            "execution_timeout" => stored.execution_timeout.clone_from(&given.execution_timeout),
            "inputs" => stored.inputs.clone_from(&given.inputs),
            other => {
                let words = format!(
                    "`{other}` is no field that an update can set; use name, description, tasks, metadata, labels, \
                     notification_config, concurrency_limits, failure_policy, on_failure, finally, execution_timeout \
                     or inputs"
                );
                return Err(status::status(Reason::InvalidUpdateMask, words));
            }
        }
    }
    Ok(stored)
}
