//! `ScheduleService`: starts workflows at their times.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api, Reading,
    caller::{actor, request_id},
    convert::{self, schedule, time_of},
    mask,
    page::{NOT_A_TOKEN, PAGE_BYTES, Page},
    status::{self, Reason, invalid, invalid_field, refused},
    workflow::{MAX_SCANNED, missing, values_of, workflow_id},
};
use crate::{
    calendar::tzdb_version,
    engine::{Refusal, Request as EngineRequest, Wanted, read::Reads, requests::RequestId},
    machine::{
        decide,
        ids::{Actor, Elapsed, ScheduleId, Tick},
        message::{Command, Event, Reply},
        schedule::{Runs, ScheduleRecord, ScheduleSpec},
        state::State,
        workflow,
    },
    proto::v1::{self, schedule_service_server::ScheduleService},
    store::layout::key,
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

    async fn record(&self, id: &ScheduleId) -> Result<ScheduleRecord, Status> {
        let (id, wanted) = (id.clone(), id.clone());
        let record = self.api.read(move |reads| Ok(reads.schedule(&id)?)).await?;
        record.filter(|record| !record.deleted).ok_or_else(|| status::no_schedule(wanted))
    }

    async fn stored(&self, id: &ScheduleId) -> Result<v1::ScheduledWorkflow, Status> {
        Ok(schedule::render(&self.record(id).await?))
    }

    /// What the writer would decide about a command, on what is stored: the same rules say the same faults.
    async fn rehearse(&self, command: Command, by: Actor) -> Result<Option<Arc<ScheduleRecord>>, Status> {
        let tick = Tick { wall: self.api.now(), elapsed: Elapsed(0), seed: 0 };
        let rehearsed = move |reads: &Reads| {
            let mut state = State::new(1);
            // What it needs shows what else it needs.
            for _ in 0..2 {
                let needs = state.needs(&command);
                for id in needs.schedules {
                    reads.schedule(&id)?.into_iter().for_each(|record| state.load_schedule(record));
                }
                for id in needs.workflows {
                    reads.workflow(&id)?.into_iter().for_each(|record| state.load_workflow(id.clone(), record.into()));
                }
            }
            let decided = decide::command(&state, command, &by, tick);
            let (decided, _) = decided.map_err(|rejection| refused(&Refusal::Rejected(rejection)))?;
            Ok(decided.into_iter().find_map(|one| match one.event {
                Event::ScheduleChanged { record, .. } => record,
                _ => None,
            }))
        };
        self.api.read(rehearsed).await
    }

    async fn submit(&self, command: Command, by: Actor, id: Option<RequestId>) -> Result<Reply, Status> {
        let answer = self.api.engine.submit(EngineRequest { wanted: Wanted::Command(command), actor: by, id }).await;
        Ok(answer.map_err(|refusal| refused(&refusal))?.reply)
    }

    /// Does what is answered with the schedule.
    async fn change(
        &self,
        command: Command,
        by: Actor,
        id: Option<RequestId>,
    ) -> Result<v1::ScheduledWorkflow, Status> {
        let Reply::Schedule { schedule, .. } = self.submit(command, by, id).await? else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        self.stored(&schedule).await
    }

    /// The schedule as it would be stored.
    async fn rehearsed(&self, command: Command, by: Actor) -> Result<v1::ScheduledWorkflow, Status> {
        let record = self.rehearse(command, by).await?;
        let record = record.ok_or_else(|| status::status(Reason::Internal, "the rules decided something else"))?;
        Ok(schedule::render(&record))
    }

    fn parsed(&self, given: &v1::ScheduledWorkflow) -> Result<ScheduleSpec, Status> {
        let inputs = values_of("inputs", given.inputs.as_ref()).map_err(|fault| invalid(&[fault]))?;
        schedule::parse(given, inputs, self.api.now()).map_err(|faults| invalid(&faults))
    }
}

/// Longest note in bytes.
const MAX_NOTE_BYTES: usize = 4_096;

fn schedule_id(text: &str) -> Result<ScheduleId, Status> {
    ScheduleId::parse(text).map_err(|words| invalid_field("schedule_id", workflow::Reason::InvalidId, words))
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
    async fn create_schedule(
        &self,
        request: Request<v1::CreateScheduleRequest>,
    ) -> Result<Response<v1::CreateScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "CreateSchedule", &request.request_id, &request)?;
        let given = request.schedule.ok_or_else(|| missing("schedule"))?;
        let (enabled, remaining_runs) = (given.enabled.unwrap_or(true), given.remaining_runs);
        let command = Command::CreateSchedule { spec: self.parsed(&given)?.into(), enabled, remaining_runs };
        let schedule = Some(match request.validate_only {
            true => self.rehearsed(command, by).await?,
            false => self.change(command, by, id).await?,
        });
        Ok(Response::new(v1::CreateScheduleResponse { schedule }))
    }

    async fn get_schedule(
        &self,
        request: Request<v1::GetScheduleRequest>,
    ) -> Result<Response<v1::GetScheduleResponse>, Status> {
        let schedule = Some(self.stored(&schedule_id(&request.into_inner().schedule_id)?).await?);
        Ok(Response::new(v1::GetScheduleResponse { schedule }))
    }

    async fn list_schedules(
        &self,
        request: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        let mut request = request.into_inner();
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::parse("ListSchedules", size, &token, &request)?;
        if page.after.as_deref().is_some_and(|after| key::schedule_of_age(after).is_none()) {
            return Err(status::status(Reason::InvalidPageToken, NOT_A_TOKEN));
        }
        if !request.workflow_id.is_empty() {
            workflow_id(&request.workflow_id)?;
        }
        let response = self.api.read(move |reads| list_schedules(reads, &request, &page)).await?;
        Ok(Response::new(response))
    }

    async fn update_schedule(
        &self,
        request: Request<v1::UpdateScheduleRequest>,
    ) -> Result<Response<v1::UpdateScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "UpdateSchedule", &request.request_id, &request)?;
        let mut given = request.schedule.ok_or_else(|| missing("schedule"))?;
        let stored_id = schedule_id(&given.id)?;
        let etag = if request.etag.is_empty() { given.etag.clone() } else { request.etag };
        let mut etag = Some(etag).filter(|etag| !etag.is_empty());
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mut runs = Runs::Left(given.remaining_runs);
        if !paths.is_empty() {
            let stored = self.stored(&stored_id).await?;
            // What is kept of the stored one must still be the stored one when the change is made.
            etag = etag.or_else(|| Some(stored.etag.clone()));
            if !paths.iter().any(|path| path == "remaining_runs") {
                runs = Runs::Kept;
            }
            given = mask::applied_to_schedule(stored, &given, &paths)?;
        }
        let (spec, enabled) = (self.parsed(&given)?.into(), given.enabled);
        let command = Command::UpdateSchedule { spec, enabled, runs, etag };
        let schedule = Some(match request.validate_only {
            true => self.rehearsed(command, by).await?,
            false => self.change(command, by, id).await?,
        });
        Ok(Response::new(v1::UpdateScheduleResponse { schedule }))
    }

    async fn delete_schedule(
        &self,
        request: Request<v1::DeleteScheduleRequest>,
    ) -> Result<Response<v1::DeleteScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "DeleteSchedule", &request.request_id, &request)?;
        let etag = Some(request.etag).filter(|etag| !etag.is_empty());
        self.submit(Command::DeleteSchedule { schedule: schedule_id(&request.schedule_id)?, etag }, by, id).await?;
        Ok(Response::new(v1::DeleteScheduleResponse {}))
    }

    async fn pause_schedule(
        &self,
        request: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::PauseScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "PauseSchedule", &request.request_id, &request)?;
        if request.note.len() > MAX_NOTE_BYTES {
            let words = format!("it has {} bytes; the most is {MAX_NOTE_BYTES}", request.note.len());
            return Err(invalid_field("note", workflow::Reason::LimitExceeded, words));
        }
        let command = Command::PauseSchedule { schedule: schedule_id(&request.schedule_id)?, note: request.note };
        let schedule = Some(self.change(command, by, id).await?);
        Ok(Response::new(v1::PauseScheduleResponse { schedule }))
    }

    async fn resume_schedule(
        &self,
        request: Request<v1::ResumeScheduleRequest>,
    ) -> Result<Response<v1::ResumeScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "ResumeSchedule", &request.request_id, &request)?;
        let command = Command::ResumeSchedule { schedule: schedule_id(&request.schedule_id)? };
        let schedule = Some(self.change(command, by, id).await?);
        Ok(Response::new(v1::ResumeScheduleResponse { schedule }))
    }

    async fn trigger_schedule(
        &self,
        request: Request<v1::TriggerScheduleRequest>,
    ) -> Result<Response<v1::TriggerScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "TriggerSchedule", &request.request_id, &request)?;
        let (schedule, execution) = (schedule_id(&request.schedule_id)?, convert::new_execution_id());
        let reply = self.submit(Command::TriggerSchedule { schedule, execution }, by, id).await?;
        let Reply::Executions(started) = reply else {
            return Err(status::status(Reason::Internal, "the engine answered something else"));
        };
        let execution = self.api.execution(started.first().copied().unwrap_or(execution)).await?;
        Ok(Response::new(v1::TriggerScheduleResponse { execution: Some(execution) }))
    }

    async fn backfill_schedule(
        &self,
        request: Request<v1::BackfillScheduleRequest>,
    ) -> Result<Response<v1::BackfillScheduleResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "BackfillSchedule", &request.request_id, &request)?;
        let schedule = schedule_id(&request.schedule_id)?;
        let (from, to, overlap) = schedule::backfill(&request).map_err(|faults| invalid(&faults))?;
        let command = Command::BackfillSchedule { schedule: schedule.clone(), from, to, overlap };
        if request.validate_only {
            self.rehearse(command, by).await?;
        } else {
            self.submit(command, by, id).await?;
        }
        let (record, now) = (self.record(&schedule).await?, self.api.now());
        let shown = move |_: &Reads| {
            // Of a repeat, the times may have been changed to more than there may be.
            let firings = record.past_firings(from, to, now).unwrap_or_default();
            Ok(v1::BackfillScheduleResponse {
                firings: firings.iter().map(|one| schedule::firing(&record.calendar, one)).collect(),
                overlap_policy: schedule::overlap_policy(record.spec.overlap_of_backfill(overlap)) as i32,
                schedule: Some(schedule::render(&record)),
            })
        };
        Ok(Response::new(self.api.read(shown).await?))
    }

    async fn cancel_backfill(
        &self,
        request: Request<v1::CancelBackfillRequest>,
    ) -> Result<Response<v1::CancelBackfillResponse>, Status> {
        let by = actor(&request);
        let request = request.into_inner();
        let id = request_id(&by, "CancelBackfill", &request.request_id, &request)?;
        let command = Command::CancelBackfill { schedule: schedule_id(&request.schedule_id)? };
        let schedule = Some(self.change(command, by, id).await?);
        Ok(Response::new(v1::CancelBackfillResponse { schedule }))
    }

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

fn list_schedules(
    reads: &Reads,
    request: &v1::ListSchedulesRequest,
    page: &Page,
) -> Reading<v1::ListSchedulesResponse> {
    let mut schedules = Vec::new();
    let mut after = page.after.clone();
    let (mut scanned, mut bytes) = (0, 0);
    loop {
        let rows = reads.schedules(after.as_deref(), 100)?;
        let Some((last, _)) = rows.last() else { break };
        let last = last.clone();
        for (position, id) in rows {
            scanned += 1;
            if scanned > MAX_SCANNED {
                return Ok(v1::ListSchedulesResponse { schedules, next_page_token: page.token(&position) });
            }
            let Some(record) = reads.schedule(&id)?.filter(|record| !record.deleted) else { continue };
            if !request.workflow_id.is_empty() && record.spec.workflow.as_str() != request.workflow_id {
                continue;
            }
            let shown = schedule::render(&record);
            bytes += shown.encoded_len();
            schedules.push(shown);
            if schedules.len() == page.size || bytes >= PAGE_BYTES {
                return Ok(v1::ListSchedulesResponse { schedules, next_page_token: page.token(&position) });
            }
        }
        after = Some(last);
    }
    Ok(v1::ListSchedulesResponse { schedules, next_page_token: String::new() })
}
