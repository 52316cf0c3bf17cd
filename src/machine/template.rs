//! Templates: tasks with parameters in them, stored in versions that never change, of which workflows are made
//! (S-TPL-1).
//!
//! Here is what a template is, and what commands do to it. `template/check.rs` says what is wrong with one,
//! `template/parameter.rs` takes values, `template/instance.rs` goes through all texts of a workflow, and
//! `template/text.rs` fills in one. Nothing here runs anything: what comes out is a checked workflow like any other.

use std::sync::Arc;

use super::{
    decide::Decided,
    ids::{Actor, TemplateId, Tick, Timestamp, WorkflowId},
    message::{Event, Rejection, Reply, WorkflowChange},
    state::State,
    workflow::{Definition, InputSpec, Violation, WorkflowSpec},
};

mod check;
mod instance;
mod parameter;
mod text;

pub use check::MAX_TASKS;

/// Most versions of one template: each is kept for ever.
pub const MAX_VERSIONS: u64 = 10_000;
/// Most bytes of text that values can make of a template.
pub const MAX_INSTANCE_BYTES: usize = 32 * 1_024 * 1_024;

/// A template as its author wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateSpec {
    /// Its unique name.
    pub id: TemplateId,
    /// What it may or must be given.
    pub parameters: Vec<InputSpec>,
    /// What it is made into. Its name and description are the template's own.
    pub body: WorkflowSpec,
}

impl TemplateSpec {
    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        self.body.weight() + self.parameters.iter().map(InputSpec::weight).sum::<usize>()
    }

    /// Every fault that it has whatever the values, in the order of the fields.
    ///
    /// # Errors
    /// All of them.
    pub fn check(&self) -> Result<(), Vec<Violation>> {
        let faults = check::faults(self);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The workflow that it makes of some values, and these with the defaults of those that are not given, as a JSON
    /// object.
    ///
    /// # Errors
    /// Every fault of the values at once (`parameters.env`); where they have none, every fault of what they make.
    pub fn instantiate(
        &self,
        workflow: WorkflowId,
        given: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(Arc<Definition>, Arc<str>), Vec<Violation>> {
        let values = parameter::resolve(&self.parameters, &instance::used(self), given)?;
        let mut spec = WorkflowSpec { id: workflow, ..self.body.clone() };
        let filled = instance::fill(&mut spec, &values);
        if !filled.faults.is_empty() {
            return Err(filled.faults);
        }
        let definition = Definition::check(spec)?;
        Ok((definition, parameter::as_object(&self.parameters, &values).into()))
    }
}

/// A template as it is stored: its newest version.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateRecord {
    /// Counts all versions under this id, from 1.
    pub version: u64,
    /// When the first version was stored.
    pub created_at: Timestamp,
    /// When this version was stored.
    pub updated_at: Timestamp,
    /// Who stored the first version.
    pub created_by: Actor,
    /// Whether it was deleted. The record stays, so that versions go on counting.
    pub deleted: bool,
    /// What it says.
    pub spec: Arc<TemplateSpec>,
}

impl TemplateRecord {
    /// Changes with the template alone: a version is never stored twice.
    pub fn etag(&self) -> String {
        format!("v{}", self.version)
    }
}

/// What a workflow was made of (S-TPL-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateOrigin {
    /// Which template.
    pub template: TemplateId,
    /// Which version of it.
    pub version: u64,
    /// The values: a JSON object.
    pub parameters: Arc<str>,
}

fn stored<'a>(state: &'a State, id: &TemplateId) -> Result<&'a Arc<TemplateRecord>, Rejection> {
    let record = state.templates.get(id).filter(|record| !record.deleted);
    record.ok_or_else(|| Rejection::TemplateNotFound(id.clone()))
}

fn check_etag(id: &TemplateId, record: &TemplateRecord, etag: Option<String>) -> Result<(), Rejection> {
    match etag {
        Some(given) if given != record.etag() => {
            Err(Rejection::TemplateEtagMismatch { template: id.clone(), current: record.etag(), given })
        }
        _ => Ok(()),
    }
}

fn changed(template: TemplateId, change: WorkflowChange, record: TemplateRecord) -> (Vec<Decided>, Reply) {
    let version = record.version;
    let reply = Reply::Template { template: template.clone(), version };
    let event = Event::TemplateChanged { template, change, version, record: Some(Arc::new(record)) };
    (vec![Decided { workflow: None, execution: None, event }], reply)
}

/// Stores a template under an id that is free.
pub(super) fn create(
    state: &State,
    spec: Arc<TemplateSpec>,
    actor: &Actor,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let id = spec.id.clone();
    let before = state.templates.get(&id);
    if before.is_some_and(|record| !record.deleted) {
        return Err(Rejection::TemplateExists(id));
    }
    let version = next_version(&id, before.map_or(0, |record| record.version))?;
    let (created_at, updated_at) = (tick.wall, tick.wall);
    let record = TemplateRecord { version, created_at, updated_at, created_by: actor.clone(), deleted: false, spec };
    Ok(changed(id, WorkflowChange::Created, record))
}

/// Stores another version.
pub(super) fn update(
    state: &State,
    spec: Arc<TemplateSpec>,
    etag: Option<String>,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let id = spec.id.clone();
    let before = stored(state, &id)?;
    check_etag(&id, before, etag)?;
    let version = next_version(&id, before.version)?;
    let record = TemplateRecord { version, updated_at: tick.wall, spec, ..before.as_ref().clone() };
    Ok(changed(id, WorkflowChange::Updated, record))
}

/// Forgets a template. What was made of it stays.
pub(super) fn delete(
    state: &State,
    id: TemplateId,
    etag: Option<String>,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let before = stored(state, &id)?;
    check_etag(&id, before, etag)?;
    let record = TemplateRecord { deleted: true, updated_at: tick.wall, ..before.as_ref().clone() };
    Ok(changed(id, WorkflowChange::Deleted, record))
}

fn next_version(id: &TemplateId, before: u64) -> Result<u64, Rejection> {
    if before >= MAX_VERSIONS { Err(Rejection::TooManyVersions(id.clone())) } else { Ok(before + 1) }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
