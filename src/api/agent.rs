//! `AgentService`: how many attempts may be alive at once.

use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{actor, request_id},
    status::{invalid_field, refused},
};
use crate::{
    engine::{Request as EngineRequest, Wanted},
    machine::{ids::check_name, message::Command, workflow::Reason},
    proto::v1::{self, agent_service_server::AgentService},
};

/// The service.
pub struct Agents {
    api: Api,
}

impl Agents {
    /// The service over an engine.
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    /// The limits that hold: that of all first.
    fn limits(&self) -> Vec<v1::ConcurrencyLimit> {
        let status = self.api.engine.status();
        let running = u32::try_from(status.running_tasks).unwrap_or(u32::MAX);
        let all = v1::ConcurrencyLimit { agent_id: String::new(), limit: status.concurrency_limit, running };
        let agents = status.agent_limits.iter().map(|limit| v1::ConcurrencyLimit {
            agent_id: limit.agent.to_string(),
            limit: limit.most,
            running: u32::try_from(limit.running).unwrap_or(u32::MAX),
        });
        std::iter::once(all).chain(agents).collect()
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn set_concurrency_limit(
        &self,
        request: Request<v1::SetConcurrencyLimitRequest>,
    ) -> Result<Response<v1::SetConcurrencyLimitResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "SetConcurrencyLimit", &request.request_id, &request)?;
        if !request.agent_id.is_empty() {
            check_name(&request.agent_id).map_err(|words| invalid_field("agent_id", Reason::InvalidId, words))?;
        }
        let agent = (!request.agent_id.is_empty()).then(|| request.agent_id.as_str().into());
        let command = Command::SetConcurrencyLimit { agent, limit: request.limit };
        let answer = self.api.engine.submit(EngineRequest { wanted: Wanted::Command(command), actor: by, id }).await;
        answer.map_err(|refusal| refused(&refusal))?;
        let found = self.limits().into_iter().find(|limit| limit.agent_id == request.agent_id);
        let limit = found.unwrap_or(v1::ConcurrencyLimit { agent_id: request.agent_id, limit: 0, running: 0 });
        Ok(Response::new(v1::SetConcurrencyLimitResponse { limit: Some(limit) }))
    }

    async fn list_concurrency_limits(
        &self,
        _request: Request<v1::ListConcurrencyLimitsRequest>,
    ) -> Result<Response<v1::ListConcurrencyLimitsResponse>, Status> {
        Ok(Response::new(v1::ListConcurrencyLimitsResponse { limits: self.limits() }))
    }
}
