//! Events as clients see them: with task ids instead of indices.

use std::sync::Arc;

use super::{definition::render_retry, duration, execution, schedule, timestamp};
use crate::{
    engine::read::{ReadError, Reads},
    machine::{
        ids::{ExecutionId, TaskIndex},
        message::{Event, ExecutionEnd, Recorded, ScheduleChange, TaskEnd, Waited, WorkflowChange},
        parallel::LimitName,
        schedule::{Cause, Outcome},
        workflow::{Action, Definition},
    },
    proto::v1::{self, event::Kind},
};

/// Turns events into what clients see. It remembers the definition of the execution that it saw last.
pub struct EventRenderer {
    reads: Reads,
    last: Option<(ExecutionId, Arc<Definition>)>,
}

impl EventRenderer {
    /// A renderer that reads definitions here.
    pub fn new(reads: Reads) -> Self {
        Self { reads, last: None }
    }

    /// An event as clients see it.
    ///
    /// # Errors
    /// Where its definition cannot be read.
    pub fn render(&mut self, recorded: &Recorded) -> Result<v1::Event, ReadError> {
        let definition = match recorded.execution {
            Some(id) => Some(self.definition(id, recorded)?),
            None => None,
        };
        let name = |task: TaskIndex| definition.as_ref().map_or_else(String::new, |d| d.task(task).id.clone());
        let (task, attempt) = subject(&recorded.event);
        let kind = match (&recorded.event, recorded.execution) {
            (Event::ExecutionEnded { end: ExecutionEnd::Failed }, Some(id)) => {
                Kind::ExecutionFailed(v1::ExecutionFailed { error: self.first_failure(id, recorded, &name)? })
            }
            (Event::ApprovalRequested { task }, _) => {
                Kind::ApprovalRequested(match definition.as_ref().map(|d| &d.task(*task).action) {
                    Some(Some(Action::Approval(approval))) => {
                        v1::ApprovalRequested { prompt: approval.prompt.clone(), approvers: approval.approvers.clone() }
                    }
                    _ => v1::ApprovalRequested::default(),
                })
            }
            (event, _) => kind_of(event, recorded, &name),
        };
        Ok(v1::Event {
            revision: recorded.revision,
            time: Some(timestamp(recorded.time)),
            workflow_id: recorded.workflow.as_ref().map(|id| id.as_str().into()).unwrap_or_default(),
            execution_id: recorded.execution.map(|id| id.to_string()).unwrap_or_default(),
            task_id: task.map(name).unwrap_or_default(),
            attempt,
            actor: recorded.actor.as_str().into(),
            kind: Some(kind),
        })
    }

    fn definition(&mut self, id: ExecutionId, recorded: &Recorded) -> Result<Arc<Definition>, ReadError> {
        if let Some((last, definition)) = &self.last
            && *last == id
        {
            return Ok(Arc::clone(definition));
        }
        let version = match &recorded.event {
            Event::ExecutionStarted { version, .. } => *version,
            _ => {
                let summary = self.reads.summary(id)?;
                summary.ok_or_else(|| ReadError::Missing(format!("execution {id}")))?.version
            }
        };
        let workflow = recorded.workflow.as_ref();
        let workflow = workflow.ok_or_else(|| ReadError::Missing(format!("the workflow of execution {id}")))?;
        let definition = self.reads.definition(workflow, version)?;
        self.last = Some((id, Arc::clone(&definition)));
        Ok(definition)
    }

    fn first_failure(
        &self,
        id: ExecutionId,
        recorded: &Recorded,
        name: &dyn Fn(TaskIndex) -> String,
    ) -> Result<Option<v1::ExecutionError>, ReadError> {
        let Some(summary) = self.reads.summary(id)? else { return Ok(None) };
        if let Some(timeout_micros) = summary.timed_out_micros {
            return Ok(Some(execution::out_of_time(timeout_micros)));
        }
        let failure = summary.first_failure.filter(|(_, revision)| *revision < recorded.revision);
        let Some((task, revision)) = failure else { return Ok(None) };
        let failure = self.reads.event_at(id, revision)?;
        Ok(failure.and_then(|failure| execution::failure_of(&name(task), &failure)))
    }
}

fn subject(event: &Event) -> (Option<TaskIndex>, u32) {
    match event {
        Event::TaskStarted { task, attempt, .. }
        | Event::TaskSpawned { task, attempt, .. }
        | Event::TaskTimeoutReached { task, attempt, .. }
        | Event::TaskEnded { task, attempt, .. } => (Some(*task), *attempt),
        Event::TasksBlocked { cause: task, .. }
        | Event::ExecutionFailFast { cause: task, .. }
        | Event::TaskReady { task }
        | Event::TaskRetryDue { task }
        | Event::ConditionError { task, .. }
        | Event::ApprovalRequested { task }
        | Event::ApprovalResolved { task, .. } => (Some(*task), 0),
        _ => (None, 0),
    }
}

fn kind_of(event: &Event, recorded: &Recorded, name: &dyn Fn(TaskIndex) -> String) -> Kind {
    match event {
        Event::WorkflowChanged { change, version, .. } => match change {
            WorkflowChange::Created => Kind::WorkflowCreated(v1::WorkflowCreated { version: *version }),
            WorkflowChange::Updated => Kind::WorkflowUpdated(v1::WorkflowUpdated { version: *version }),
            WorkflowChange::Deleted => Kind::WorkflowDeleted(v1::WorkflowDeleted { version: *version }),
        },
        Event::TemplateChanged { template, change, version, .. } => {
            let (template_id, version) = (template.as_str().into(), *version);
            match change {
                WorkflowChange::Created => Kind::TemplateCreated(v1::TemplateCreated { template_id, version }),
                WorkflowChange::Updated => Kind::TemplateUpdated(v1::TemplateUpdated { template_id, version }),
                WorkflowChange::Deleted => Kind::TemplateDeleted(v1::TemplateDeleted { template_id, version }),
            }
        }
        Event::ScheduleChanged { schedule, change, version, .. } => {
            let (schedule_id, version) = (schedule.as_str().into(), *version);
            match change {
                ScheduleChange::Created => Kind::ScheduleCreated(v1::ScheduleCreated { schedule_id, version }),
                ScheduleChange::Updated => Kind::ScheduleUpdated(v1::ScheduleUpdated { schedule_id, version }),
                ScheduleChange::Deleted => Kind::ScheduleDeleted(v1::ScheduleDeleted { schedule_id, version }),
                ScheduleChange::Paused { note } => {
                    Kind::SchedulePaused(v1::SchedulePaused { schedule_id, note: note.clone() })
                }
                ScheduleChange::Resumed => Kind::ScheduleResumed(v1::ScheduleResumed { schedule_id }),
                ScheduleChange::BackfillRequested { from, to, count, overlap } => {
                    Kind::ScheduleBackfillRequested(v1::ScheduleBackfillRequested {
                        schedule_id,
                        from: Some(timestamp(*from)),
                        to: Some(timestamp(*to)),
                        count: *count,
                        overlap_policy: schedule::overlap_policy(*overlap) as i32,
                    })
                }
                ScheduleChange::BackfillCancelled { count } => {
                    Kind::ScheduleBackfillCancelled(v1::ScheduleBackfillCancelled { schedule_id, count: *count })
                }
            }
        }
        Event::ScheduleAdvanced { schedule, nominal, outcome, next } => {
            let (schedule_id, time) = (schedule.as_str().into(), Some(timestamp(*nominal)));
            let next_execution = next.map(|next| timestamp(next.nominal));
            match outcome {
                Outcome::Fired { execution, cause } => Kind::ScheduleFired(v1::ScheduleFired {
                    schedule_id,
                    time,
                    execution_id: execution.to_string(),
                    triggered: *cause == Cause::Call,
                    next_execution,
                    backfill: *cause == Cause::Backfill,
                }),
                Outcome::Buffered => Kind::ScheduleBuffered(v1::ScheduleBuffered { schedule_id, time, next_execution }),
                Outcome::Skipped { reason, cause } => {
                    let (reason, backfill) = (reason.clone(), *cause == Cause::Backfill);
                    Kind::ScheduleSkipped(v1::ScheduleSkipped { schedule_id, time, reason, next_execution, backfill })
                }
                Outcome::Missed { first, count, .. } => Kind::ScheduleMissed(v1::ScheduleMissed {
                    schedule_id,
                    first: Some(timestamp(*first)),
                    last: time,
                    count: *count,
                    next_execution,
                }),
            }
        }
        Event::ExecutionStarted { version, task_count, labels, trigger, inputs, reused, expected, retry } => {
            Kind::ExecutionStarted(v1::ExecutionStarted {
                workflow_version: *version,
                task_count: *task_count,
                labels: labels.clone().into_iter().collect(),
                trigger: execution::trigger(trigger) as i32,
                inputs: execution::inputs_of(inputs),
                rerun_of: execution::rerun_of(trigger),
                schedule_id: execution::schedule_of(trigger),
                scheduled_for: execution::scheduled_for(trigger),
                backfill: execution::is_backfill(trigger),
                reused_tasks: u32::try_from(reused.len()).unwrap_or(u32::MAX),
                estimated_from: expected.as_ref().map_or(0, |expected| expected.executions()),
                retry_config: retry.as_deref().map(render_retry),
            })
        }
        Event::ExecutionPaused => Kind::ExecutionPaused(v1::ExecutionPaused {}),
        Event::ExecutionResumed => Kind::ExecutionResumed(v1::ExecutionResumed {}),
        Event::ExecutionCancelRequested { running, finally_too } => {
            let told = v1::ExecutionCancelRequested { running_tasks: *running, finally_too: *finally_too };
            Kind::ExecutionCancelRequested(told)
        }
        Event::ExecutionFailFast { running, .. } => {
            Kind::ExecutionFailFast(v1::ExecutionFailFast { running_tasks: *running })
        }
        Event::ExecutionTimeoutReached { timeout_micros, running } => {
            let told =
                v1::ExecutionTimeoutReached { timeout: Some(duration(*timeout_micros)), running_tasks: *running };
            Kind::ExecutionTimeoutReached(told)
        }
        Event::HandlersStarted { role } => Kind::HandlersStarted(v1::HandlersStarted { kind: role.as_str().into() }),
        Event::TaskReady { .. } => Kind::TaskReady(v1::TaskReady {}),
        Event::TaskRetryDue { .. } => Kind::TaskRetryDue(v1::TaskRetryDue {}),
        Event::ConditionError { expression, values, message, .. } => Kind::ConditionError(v1::ConditionError {
            expression: expression.clone(),
            values: values.clone(),
            message: message.clone(),
        }),
        // What is asked stands in the definition.
        Event::ApprovalRequested { .. } => Kind::ApprovalRequested(v1::ApprovalRequested::default()),
        Event::ApprovalResolved { approved, comment, .. } => {
            Kind::ApprovalResolved(v1::ApprovalResolved { approved: *approved, comment: comment.clone() })
        }
        Event::ConcurrencyLimitSet { agent, limit } => Kind::ConcurrencyLimitSet(v1::ConcurrencyLimitSet {
            agent_id: agent.as_deref().unwrap_or_default().into(),
            limit: limit.unwrap_or(0),
        }),
        Event::ExecutionEnded { end } => match end {
            ExecutionEnd::Completed => Kind::ExecutionCompleted(v1::ExecutionCompleted {}),
            ExecutionEnd::Failed => Kind::ExecutionFailed(v1::ExecutionFailed { error: None }),
            ExecutionEnd::Cancelled => Kind::ExecutionCancelled(v1::ExecutionCancelled {}),
        },
        Event::TaskStarted { ready_at, queued_at, waited: times, held_up_by, .. } => {
            Kind::TaskStarted(v1::TaskStarted {
                ready_at: Some(timestamp(*ready_at)),
                queued_at: Some(timestamp(*queued_at)),
                waited: waited(times, held_up_by.as_ref()),
            })
        }
        Event::TaskSpawned { process, .. } => Kind::TaskSpawned(v1::TaskSpawned {
            pid: process.pid,
            start_time: process.start_time,
            boot_id: process.boot_id.to_string(),
        }),
        Event::TaskTimeoutReached { timeout_micros, limit, .. } => Kind::TaskTimeoutReached(v1::TaskTimeoutReached {
            timeout: Some(duration(*timeout_micros)),
            limit: limit.as_str().into(),
        }),
        Event::TaskEnded { end, .. } => ended(*end, recorded),
        Event::TasksBlocked { tasks, cause } => Kind::TasksBlocked(v1::TasksBlocked {
            task_ids: tasks.iter().map(|task| name(*task)).collect(),
            cause_task_id: name(*cause),
        }),
        Event::TasksSkipped { tasks, reason } => Kind::TasksSkipped(v1::TasksSkipped {
            task_ids: tasks.iter().map(|task| name(*task)).collect(),
            reason: reason.clone(),
        }),
        Event::TasksCancelled { tasks } => {
            Kind::TasksCancelled(v1::TasksCancelled { task_ids: tasks.iter().map(|task| name(*task)).collect() })
        }
    }
}

fn ended(end: TaskEnd, recorded: &Recorded) -> Kind {
    let result = execution::attempt_of(recorded);
    let Event::TaskEnded { result: details, .. } = &recorded.event else {
        return Kind::TaskFailed(v1::TaskFailed { result });
    };
    match end {
        TaskEnd::Completed => Kind::TaskCompleted(v1::TaskCompleted {
            result,
            output_size: details.output.as_ref().map_or(0, |output| output.size),
        }),
        TaskEnd::Failed => Kind::TaskFailed(v1::TaskFailed { result }),
        TaskEnd::TimedOut => Kind::TaskTimedOut(v1::TaskTimedOut { result }),
        TaskEnd::Cancelled => Kind::TaskCancelled(v1::TaskCancelled { result }),
        TaskEnd::Retrying { delay_micros } => {
            Kind::TaskRetryScheduled(v1::TaskRetryScheduled { result, delay: Some(duration(delay_micros)) })
        }
        TaskEnd::Interrupted => {
            let reason = details.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
            Kind::TaskInterrupted(v1::TaskInterrupted { reason, result })
        }
    }
}

fn waited(times: &Waited, held_up_by: Option<&LimitName>) -> Vec<v1::WaitedTime> {
    let limit = held_up_by.map(limit_name).unwrap_or_default();
    let causes = [
        ("dependency", times.dependency, String::new()),
        ("pause", times.pause, String::new()),
        ("backoff", times.backoff, String::new()),
        ("limit", times.limit, limit),
        ("queue", times.queue, String::new()),
    ];
    let known = causes.into_iter().filter(|(_, micros, _)| *micros > 0);
    known
        .map(|(cause, micros, limit)| v1::WaitedTime { cause: cause.into(), duration: Some(duration(micros)), limit })
        .collect()
}

fn limit_name(limit: &LimitName) -> String {
    match limit {
        LimitName::Global => "global".into(),
        LimitName::Agent(agent) => format!("agent:{agent}"),
        LimitName::ExecutionAll => "execution:*".into(),
        LimitName::ExecutionAgent(agent) => format!("execution:agent:{agent}"),
        LimitName::ExecutionGroup(group) => format!("execution:group:{group}"),
    }
}
