//! `SystemService`: about the daemon itself.

use tonic::{Request, Response, Status};

use super::{Api, convert};
use crate::proto::v1::{self, system_service_server::SystemService};

/// What this build can do, for clients that talk to several.
const FEATURES: [&str; 18] = [
    "workflows",
    "commands",
    "noop",
    "approvals",
    "timeouts",
    "priorities",
    "logs",
    "trigger-rules",
    "conditions",
    "placeholders",
    "inputs",
    "retries",
    "handlers",
    "limits",
    "explain",
    "reruns",
    "templates",
    "schedules",
];

/// The service.
pub struct System {
    api: Api,
}

impl System {
    /// The service over an engine.
    pub fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl SystemService for System {
    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let status = self.api.engine.status();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let grace = u64::try_from(self.api.about.termination_grace.as_micros()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            store_id: format!("{:032x}", self.api.engine.store_id()),
            started_at: Some(convert::timestamp(self.api.about.started_at)),
            revision: self.api.engine.revision(),
            oldest_revision: 0,
            concurrency_limit: status.concurrency_limit,
            running_tasks: count(status.running_tasks),
            active_executions: count(status.active_executions),
            termination_grace: Some(convert::duration(grace)),
            features: FEATURES.map(Into::into).to_vec(),
            queued_tasks: count(status.queued_tasks),
        }))
    }
}
