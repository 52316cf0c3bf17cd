//! A new store with what is proved of a damaged one.
//!
//! A workflow or an execution that is not whole is left out with all its rows; definitions stay, as executions that are
//! whole run them. Every revision keeps its number: where the events are lost, the batch says so
//! ([`Subject::Lost`]), so that watches from any revision go on. The new store has the same identity, so that noxd finds
//! the processes that the old one left behind.

use std::{path::Path, sync::Arc};

use super::check::{Findings, each};
use crate::{
    engine::read::ReadError,
    machine::{
        ids::{ExecutionId, Revision, ScheduleId, TemplateId, WorkflowId},
        message::Reply,
    },
    store::{
        Batch, Examined, RealDisk, RowWrite, Store, StoreConfig, StoreError,
        layout::{BatchRow, RequestRow, Subject, key},
    },
};

/// What one commit holds at most.
const ROWS_PER_BATCH: usize = 1_000;
const BYTES_PER_BATCH: usize = 1024 * 1024;

/// Why there is no copy.
pub enum CopyError {
    /// The new store cannot be written.
    Store(StoreError),
    /// The old one cannot be read.
    Read(ReadError),
}

impl From<ReadError> for CopyError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Copies what is proved into a new store at `new`; returns how many rows it has.
pub fn copy(examined: &Examined, findings: &Findings, new: &Path) -> Result<usize, CopyError> {
    let config = StoreConfig::new(new, examined.store_id);
    let store = Store::open(config, Arc::new(RealDisk)).map_err(CopyError::Store)?;
    let mut copy = Copy { store, revision: examined.revision, rows: Vec::new(), bytes: 0, count: 0, failed: None };
    for (from, to) in &findings.gaps {
        for (first, batch) in filled(findings, *from, *to) {
            copy.put(key::batch(first), batch.encode());
        }
    }
    let reader = examined.reader();
    each(&reader, b"", |row, value| {
        match row.first() {
            Some(b'q') => copy.remember(findings, row, value),
            // Made anew with each request that is remembered.
            Some(b'p') => {}
            _ => {
                if let Some(value) = kept(findings, row, value) {
                    copy.put(row.to_vec(), value);
                }
            }
        }
        Ok(())
    })?;
    copy.commit();
    match copy.failed {
        Some(error) => Err(CopyError::Store(error)),
        None => copy.store.close().map_err(CopyError::Store).map(|()| copy.count),
    }
}

struct Copy {
    store: Store,
    revision: Revision,
    rows: Vec<RowWrite>,
    bytes: usize,
    count: usize,
    /// The first failure; nothing is written after it.
    failed: Option<StoreError>,
}

impl Copy {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.count += 1;
        self.rows.push(RowWrite { key, value: Some(value) });
        if self.rows.len() >= ROWS_PER_BATCH || self.bytes >= BYTES_PER_BATCH {
            self.commit();
        }
    }

    /// A request, by the two rows that remember it. That of a workflow that is left out is forgotten, so that it can be
    /// created again by a repeat. That of an execution is not: it may have had its effects, and is not to have them twice.
    fn remember(&mut self, findings: &Findings, row: &[u8], value: &[u8]) {
        let (Some(hash), Ok(request)) = (row.get(1..).and_then(|hash| hash.try_into().ok()), RequestRow::decode(value))
        else {
            return;
        };
        if let Reply::Workflow { workflow, .. } = &request.reply
            && !findings.keeps(&Subject::Workflow(workflow.clone()))
        {
            return;
        }
        if let Reply::Template { template, .. } = &request.reply
            && findings.lost_templates.contains_key(template)
        {
            return;
        }
        if let Reply::Schedule { schedule, .. } = &request.reply
            && findings.lost_schedules.contains_key(schedule)
        {
            return;
        }
        self.put(key::request_by_age(request.time, &hash), Vec::new());
        self.put(row.to_vec(), value.to_vec());
    }

    fn commit(&mut self) {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        if self.failed.is_none() {
            self.failed = self.store.commit(Batch { revision: self.revision, rows }).err();
        }
    }
}

/// What becomes of a row; `None` where it is left out.
fn kept(findings: &Findings, row: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (kind, rest) = row.split_first()?;
    let execution = |id: Option<ExecutionId>| id.is_some_and(|id| findings.keeps(&Subject::Execution(id)));
    let workflow = |id: &[u8]| {
        let id = std::str::from_utf8(id).ok().and_then(|id| WorkflowId::parse(id).ok());
        id.is_some_and(|id| findings.keeps(&Subject::Workflow(id)))
    };
    let template = |id: &[u8]| {
        let id = std::str::from_utf8(id).ok().and_then(|id| TemplateId::parse(id).ok());
        id.is_some_and(|id| !findings.lost_templates.contains_key(&id))
    };
    let schedule = |id: &[u8]| {
        let id = std::str::from_utf8(id).ok().and_then(|id| ScheduleId::parse(id).ok());
        id.is_some_and(|id| !findings.lost_schedules.contains_key(&id))
    };
    let first_id = || rest.first_chunk::<16>().map(|id| ExecutionId(u128::from_be_bytes(*id)));
    let keeps = match kind {
        b'r' => {
            let mut batch = BatchRow::decode(value).ok()?;
            for (subject, _) in &mut batch.runs {
                if !findings.keeps(subject) {
                    *subject = Subject::Lost;
                }
            }
            return Some(batch.encode());
        }
        b'e' | b's' | b'x' | b'a' | b'o' => execution(first_id()),
        b'y' => execution(key::execution_in(row)),
        b'w' => workflow(rest),
        b't' => workflow(rest.get(8..)?),
        b'v' | b'u' => workflow(rest.get(..rest.len().checked_sub(9)?)?),
        b'm' => template(rest),
        b'h' => template(rest.get(8..)?),
        b'g' => template(rest.get(..rest.len().checked_sub(9)?)?),
        b'c' | b'f' => schedule(rest),
        b'k' => schedule(rest.get(8..)?),
        b'n' => findings.keeps(&Subject::Noxd),
        b'd' | b'l' => true,
        _ => false,
    };
    keeps.then(|| value.to_vec())
}

/// Batches for revisions of which none tells: with the events that were found, and with nobody's between them. Each has
/// one run, which is of one row: whoever reads a batch looks for one row of each subject in it.
fn filled(findings: &Findings, from: Revision, to: Revision) -> Vec<(Revision, BatchRow)> {
    let (time, elapsed) = findings.clocks;
    let nobodys = (Subject::Lost, 0);
    let whose = |revision: Revision| match findings.in_gaps.get(&revision) {
        Some(found) if findings.keeps(&found.subject) => (found.subject.clone(), found.row),
        _ => nobodys.clone(),
    };
    let mut batches: Vec<(Revision, BatchRow)> = Vec::new();
    let mut last = None;
    for revision in from..=to {
        let owner = whose(revision);
        match batches.last_mut().and_then(|(_, batch)| batch.runs.last_mut()) {
            Some((_, count)) if last.as_ref() == Some(&owner) && *count < u32::MAX => *count += 1,
            _ => batches.push((revision, BatchRow { runs: vec![(owner.0.clone(), 1)], time, elapsed })),
        }
        last = Some(owner);
    }
    batches
}
