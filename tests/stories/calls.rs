//! What stories ask a noxd for beside tasks that run: inputs, answers, explanations, reruns, limits.

use std::time::Duration;

use crate::support::Noxd;
use noxd::{cli::connect, proto::v1};
use tonic::Status;

impl Noxd {
    /// Stores a definition.
    pub async fn store(&self, workflow: v1::Workflow) {
        let request = v1::CreateWorkflowRequest { workflow: Some(workflow), ..Default::default() };
        self.workflows().await.create_workflow(request).await.expect("stored");
    }

    /// Starts an execution with inputs and gives its id, or says why not.
    pub async fn execute_with(&self, workflow: &str, inputs: serde_json::Value) -> Result<String, Status> {
        let inputs = serde_json::from_value(inputs).expect("an object");
        let request =
            v1::ExecuteWorkflowRequest { workflow_id: workflow.into(), inputs: Some(inputs), ..Default::default() };
        let response = self.workflows().await.execute_workflow(request).await?.into_inner();
        Ok(response.execution.expect("an execution").id)
    }

    /// One task of an execution, with its whole output.
    pub async fn task(&self, execution: &str, task: &str) -> v1::TaskExecution {
        let request = v1::GetTaskRequest { execution_id: execution.into(), task_id: task.into() };
        self.executions().await.get_task(request).await.expect("there").into_inner().task.expect("a task")
    }

    /// Answers a question.
    pub async fn answer(&self, execution: &str, task: &str, approved: bool, comment: &str) -> Result<(), Status> {
        let request = v1::ResolveApprovalRequest {
            execution_id: execution.into(),
            task_id: task.into(),
            approved,
            comment: comment.into(),
            ..Default::default()
        };
        self.executions().await.resolve_approval(request).await.map(drop)
    }

    /// What a task waits for.
    pub async fn explain(&self, execution: &str, task: &str) -> Vec<v1::TaskBlocker> {
        let request = v1::ExplainTaskRequest { execution_id: execution.into(), task_id: task.into() };
        self.executions().await.explain_task(request).await.expect("explained").into_inner().blockers
    }

    /// Runs an execution again, or says why not.
    pub async fn rerun(&self, execution: &str, tasks: &[&str]) -> Result<v1::RerunExecutionResponse, Status> {
        let task_ids = tasks.iter().map(ToString::to_string).collect();
        let request = v1::RerunExecutionRequest { execution_id: execution.into(), task_ids, ..Default::default() };
        Ok(self.executions().await.rerun_execution(request).await?.into_inner())
    }

    /// Sets the limit of an agent, or with an empty name that of all.
    pub async fn limit(&self, agent: &str, limit: Option<u32>) {
        let request = v1::SetConcurrencyLimitRequest { agent_id: agent.into(), limit, ..Default::default() };
        connect::agents(self.channel().await).set_concurrency_limit(request).await.expect("set");
    }

    /// Agent, limit and attempts alive of every limit that holds.
    pub async fn limits(&self) -> Vec<(String, u32, u32)> {
        let request = v1::ListConcurrencyLimitsRequest {};
        let answer = connect::agents(self.channel().await).list_concurrency_limits(request).await.expect("listed");
        let limits = answer.into_inner().limits.into_iter();
        limits.map(|limit| (limit.agent_id, limit.limit, limit.running)).collect()
    }
}

/// A span of the API.
pub fn span(span: Duration) -> Option<pbjson_types::Duration> {
    Some(span.into())
}

/// A task that asks these people, or anybody.
pub fn approval(id: &str, approvers: &[&str], dependencies: &[&str]) -> v1::Task {
    let action = v1::ApprovalAction {
        prompt: "Go on?".into(),
        approvers: approvers.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    v1::Task { action: Some(v1::task::Action::Approval(action)), ..crate::support::noop(id, dependencies) }
}

/// A task that waits until a file is there.
pub fn gate(id: &str, file: &std::path::Path, dependencies: &[&str]) -> v1::Task {
    crate::support::shell(id, &format!("until [ -e '{}' ]; do sleep 0.02; done", file.display()), dependencies)
}

/// The status of every task, in definition order.
pub fn statuses(execution: &v1::WorkflowExecution) -> Vec<(&str, v1::TaskStatus)> {
    execution.tasks.iter().map(|task| (task.task_id.as_str(), task.status())).collect()
}

/// An output as JSON.
pub fn output(task: &v1::TaskExecution) -> serde_json::Value {
    serde_json::to_value(&task.output).expect("JSON")
}

/// The stable reason of an error.
pub fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
