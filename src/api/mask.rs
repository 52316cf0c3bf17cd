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

/// The stored schedule with some fields of the given one. Without them, it is as before whether it fires, and how often it
/// is to start one is not said.
///
/// # Errors
/// Where a path names no field that an update can set.
pub(super) fn applied_to_schedule(
    stored: v1::ScheduledWorkflow,
    given: &v1::ScheduledWorkflow,
    paths: &[String],
) -> Result<v1::ScheduledWorkflow, Status> {
    let mut applied = v1::ScheduledWorkflow { enabled: None, remaining_runs: None, ..stored };
    for path in paths {
        match path.as_str() {
            "workflow_id" => applied.workflow_id.clone_from(&given.workflow_id),
            "schedule" => applied.schedule.clone_from(&given.schedule),
            "enabled" => applied.enabled = given.enabled,
            "overlap_policy" => applied.overlap_policy = given.overlap_policy,
            "catch_up" => applied.catch_up = given.catch_up,
            "catch_up_window" => applied.catch_up_window.clone_from(&given.catch_up_window),
            "remaining_runs" => applied.remaining_runs = given.remaining_runs,
            "inputs" => applied.inputs.clone_from(&given.inputs),
            "labels" => applied.labels.clone_from(&given.labels),
            "retry_config" => applied.retry_config.clone_from(&given.retry_config),
            "notification_config" => applied.notification_config.clone_from(&given.notification_config),
            "description" => applied.description.clone_from(&given.description),
            other => {
                let words = format!(
                    "`{other}` is no field that an update can set; use workflow_id, schedule, enabled, overlap_policy, \
                     catch_up, catch_up_window, remaining_runs, inputs, labels, retry_config, notification_config or description"
                );
                return Err(status::status(Reason::InvalidUpdateMask, words));
            }
        }
    }
    Ok(applied)
}
