//! `ScheduleService`: starts workflows at their times.

use tonic::{Request, Response, Status};

use super::{
    Api,
    convert::{schedule, time_of},
    status::{invalid, invalid_field},
    workflow::missing,
};
use crate::{
    calendar::tzdb_version,
    machine::workflow,
    proto::v1::{self, schedule_service_server::ScheduleService},
};

/// Firings of a preview, where the client does not say.
const DEFAULT_COUNT: usize = 10;
/// Most firings of a preview.
const MAX_COUNT: usize = 1_000;

/// The service.
pub struct Schedules {
    api: Api,
}

impl Schedules {
    /// The service over an engine.
    pub fn new(api: Api) -> Self {
        Self { api }
    }
}

fn count_of(count: i32) -> Result<usize, Status> {
    match usize::try_from(count) {
        Ok(0) => Ok(DEFAULT_COUNT),
        Ok(count) if count <= MAX_COUNT => Ok(count),
        _ => {
            let words = format!("{count} is no count; it is between 1 and {MAX_COUNT}, or 0 for {DEFAULT_COUNT}");
            Err(invalid_field("count", workflow::Reason::InvalidValue, words))
        }
    }
}

#[tonic::async_trait]
impl ScheduleService for Schedules {
    async fn preview_schedule(
        &self,
        request: Request<v1::PreviewScheduleRequest>,
    ) -> Result<Response<v1::PreviewScheduleResponse>, Status> {
        let request = request.into_inner();
        let count = count_of(request.count)?;
        let from = request.from.as_ref().map_or_else(|| self.api.now(), time_of);
        let wanted = request.schedule.ok_or_else(|| missing("schedule"))?;
        // Away from the threads that serve: years may lie between two firings.
        let firings = move |_: &_| {
            let calendar = schedule::upcoming(&wanted, from).map_err(|faults| invalid(&faults))?;
            Ok(calendar.firings(from).take(count).map(|one| schedule::firing(&calendar, &one)).collect())
        };
        let firings = self.api.read(firings).await?;
        Ok(Response::new(v1::PreviewScheduleResponse { firings, tzdb_version: tzdb_version().into() }))
    }
}
