//! Which service a request is for, by the beginning of its path.
//!
//! The two services that are called all the time are found here; everything else goes through tonic's router, which
//! costs more than many a call does. Nothing is decided here.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    server::NamedService,
    service::Routes,
};

use super::{execution::Executions, workflow::Workflows};
use crate::proto::v1::{
    execution_service_server::ExecutionServiceServer, workflow_service_server::WorkflowServiceServer,
};

type WorkflowService = WorkflowServiceServer<Workflows>;
type ExecutionService = ExecutionServiceServer<Executions>;

/// All services. Cheap to clone: every connection has one.
#[derive(Clone)]
pub(crate) struct Services {
    pub workflows: WorkflowService,
    pub executions: ExecutionService,
    /// All others.
    pub rest: Routes,
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // None of them ever makes a caller wait here.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next());
        match service {
            Some(WorkflowService::NAME) => self.workflows.call(request),
            Some(ExecutionService::NAME) => self.executions.call(request),
            _ => Box::pin(self.rest.call(request)),
        }
    }
}
