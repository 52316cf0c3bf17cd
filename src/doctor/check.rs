//! Whether the rows go together: every revision has its event, every event its row, every execution is what its events
//! make of it, and what lists show says the same.
//!
//! The rows of batches say whose events each revision has; so what is missing is known, and whose it is. An execution is
//! sound or lost as a whole. Read [`check`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    engine::read::{ReadError, Reads},
    machine::{
        ids::{Elapsed, ExecutionId, Revision, ScheduleId, TaskIndex, TemplateId, Timestamp, WorkflowId},
        message::Event,
    },
    store::{
        Examined, Reader,
        layout::{self, BatchRow, RequestRow, Subject, key},
    },
};

/// Rows read at once.
const ROWS_AT_ONCE: usize = 512;

/// What does not go together.
#[derive(Default)]
pub struct Findings {
    /// How many workflows there are, lost ones included.
    pub workflows: usize,
    /// How many executions.
    pub executions: usize,
    /// How many events that could be read.
    pub events: usize,
    /// Workflows that are not whole, and why.
    pub lost_workflows: BTreeMap<WorkflowId, String>,
    /// Executions that are not whole, and why.
    pub lost_executions: BTreeMap<ExecutionId, String>,
    /// Templates that are not whole, and why.
    pub lost_templates: BTreeMap<TemplateId, String>,
    /// Schedules that are not whole, and why.
    pub lost_schedules: BTreeMap<ScheduleId, String>,
    /// Whether noxd's own events are not whole.
    pub lost_own: bool,
    /// Revisions of which no batch tells, from the first to the last.
    pub gaps: Vec<(Revision, Revision)>,
    /// Events of those revisions that were found all the same.
    pub in_gaps: BTreeMap<Revision, Found>,
    /// The newest times.
    pub clocks: (Timestamp, Elapsed),
    loose: Vec<String>,
}

/// An event of which no batch tells.
pub struct Found {
    /// Whose it is.
    pub subject: Subject,
    /// The revision that names its row.
    pub row: Revision,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.lost_workflows.is_empty()
            && self.lost_executions.is_empty()
            && self.lost_templates.is_empty()
            && self.lost_schedules.is_empty()
            && self.gaps.is_empty()
            && self.loose.is_empty()
    }

    /// What is wrong and is no workflow's or execution's.
    pub fn others(&self) -> Vec<String> {
        let template = |(id, why): (&TemplateId, &String)| format!("template `{id}`: {why}");
        let gap = |(from, to): &(Revision, Revision)| {
            format!("revisions {from} to {to}: no batch tells whose events they are")
        };
        let templates = self.lost_templates.iter().map(template);
        let schedule = |(id, why): (&ScheduleId, &String)| format!("schedule `{id}`: {why}");
        let schedules = self.lost_schedules.iter().map(schedule);
        self.gaps.iter().map(gap).chain(templates).chain(schedules).chain(self.loose.iter().cloned()).collect()
    }

    /// Whether the events of a subject are to be kept.
    pub fn keeps(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Workflow(id) => !self.lost_workflows.contains_key(id),
            Subject::Execution(id) => !self.lost_executions.contains_key(id),
            Subject::Noxd => !self.lost_own,
            Subject::Lost => false,
        }
    }
}

/// Gives every row whose key begins with a prefix, in order.
///
/// # Errors
/// Where the store cannot be read.
pub fn each(
    reader: &Reader,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut from = prefix.to_vec();
    loop {
        let rows = reader.scan(prefix, &from, ROWS_AT_ONCE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        from = [last.as_ref(), &[0]].concat();
        for (key, value) in &rows {
            visit(key, value)?;
        }
    }
}

/// Checks the rows of a store. `progress` hears what is looked at and how many of them were.
///
/// # Errors
/// Where the store cannot be read.
pub fn check(examined: &Examined, progress: &mut dyn FnMut(&str, usize)) -> Result<Findings, ReadError> {
    let reader = examined.reader();
    let reads = Reads::new(reader.clone());
    let mut check = Check {
        reader,
        reads,
        findings: Findings::default(),
        due: BTreeMap::new(),
        broken: BTreeMap::new(),
        limits: BTreeMap::new(),
        templates: BTreeMap::new(),
        schedules: BTreeMap::new(),
        has_lost: false,
        outputs: BTreeMap::new(),
        progress,
    };
    check.batches(examined.revision)?;
    check.events()?;
    check.executions()?;
    check.workflows()?;
    check.templates()?;
    check.schedules()?;
    check.requests()?;
    check.limits()?;
    check.durations()?;
    Ok(check.findings)
}

struct Check<'a> {
    reader: Reader,
    reads: Reads,
    findings: Findings,
    /// The events that there must be, ascending. Rows of events may be of several batches.
    due: BTreeMap<Subject, Vec<Revision>>,
    /// Subjects whose events are not those.
    broken: BTreeMap<Subject, String>,
    /// Limits as noxd's own events set them.
    limits: BTreeMap<Option<Arc<str>>, u32>,
    /// Versions of templates as noxd's own events tell of them.
    templates: BTreeMap<TemplateId, u64>,
    /// Versions of schedules, in the same way.
    schedules: BTreeMap<ScheduleId, u64>,
    /// Some events were lost before: it is a copy that was made then.
    has_lost: bool,
    /// Outputs that have a row of their own, and their sizes.
    outputs: BTreeMap<ExecutionId, BTreeMap<TaskIndex, u64>>,
    progress: &'a mut dyn FnMut(&str, usize),
}

impl Check<'_> {
    fn batches(&mut self, newest: Revision) -> Result<(), ReadError> {
        let (mut next, mut seen) = (1, 0);
        let (findings, due, progress) = (&mut self.findings, &mut self.due, &mut self.progress);
        let has_lost = &mut self.has_lost;
        each(&self.reader, key::BATCHES, |row, value| {
            seen += 1;
            progress("batches", seen);
            let (Some(first), Ok(batch)) = (key::revision_in(row), BatchRow::decode(value)) else {
                findings.loose.push(format!("the batch \"{}\" cannot be read", row.escape_ascii()));
                return Ok(());
            };
            if first > next {
                findings.gaps.push((next, first - 1));
            } else if first < next {
                findings.loose.push(format!("the batch of revision {first} overlaps the one before it"));
                return Ok(());
            }
            findings.clocks = (findings.clocks.0.max(batch.time), findings.clocks.1.max(batch.elapsed));
            next = first;
            for (subject, count) in batch.runs {
                let run = next..next + u64::from(count);
                next = run.end;
                if subject == Subject::Lost {
                    *has_lost = true;
                } else {
                    due.entry(subject).or_default().extend(run);
                }
            }
            Ok(())
        })?;
        if next <= newest {
            self.findings.gaps.push((next, newest));
        }
        Ok(())
    }

    /// Holds the rows of events against what the batches say.
    fn events(&mut self) -> Result<(), ReadError> {
        let mut met: BTreeMap<Subject, Vec<Revision>> = BTreeMap::new();
        for prefix in [b"e", b"v", b"n"] {
            let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            let mut seen = 0;
            // Page by page, as judging a row needs all of this.
            let reader = self.reader.clone();
            each(&reader, prefix, |row, value| {
                seen += 1;
                (self.progress)("rows of events", seen);
                rows.push((row.to_vec(), value.to_vec()));
                for (row, value) in rows.drain(..) {
                    self.event_row(&row, &value, &mut met);
                }
                Ok(())
            })?;
        }
        for (subject, due) in std::mem::take(&mut self.due) {
            let found = met.remove(&subject).unwrap_or_default();
            let missing: Vec<&Revision> = due.iter().filter(|one| found.binary_search(one).is_err()).collect();
            let extra = found.iter().find(|one| due.binary_search(one).is_err());
            let why = match (missing.first(), extra) {
                (Some(first), _) => format!("{} events from revision {first} on are missing", missing.len()),
                (_, Some(first)) => format!("no batch knows its events from revision {first} on"),
                _ => {
                    self.due.insert(subject, due);
                    continue;
                }
            };
            self.broken.entry(subject.clone()).or_insert(why);
            self.due.insert(subject, due);
        }
        // What is left has events in gaps alone, or events that no batch knows.
        for (subject, rows) in met {
            if let Some(first) = rows.first() {
                let why = format!("no batch knows its events from revision {first} on");
                self.broken.entry(subject.clone()).or_insert(why);
            }
            self.due.entry(subject).or_default();
        }
        Ok(())
    }

    fn event_row(&mut self, row: &[u8], value: &[u8], met: &mut BTreeMap<Subject, Vec<Revision>>) {
        let Some((subject, workflow)) = subject_of(row) else {
            self.findings.loose.push(format!("the events \"{}\" are nobody's", row.escape_ascii()));
            return;
        };
        let events = match layout::decode_events(&subject, workflow.as_ref(), value) {
            Ok(events) => events,
            Err(error) => {
                self.broken.entry(subject).or_insert_with(|| error.to_string());
                return;
            }
        };
        let revisions: Vec<Revision> = events.iter().map(|recorded| recorded.revision).collect();
        let first = key::revision_in(row).unwrap_or(0);
        if revisions.first() != Some(&first) || !revisions.is_sorted_by(|one, other| one < other) {
            let why = format!("its events from revision {first} on are not in order");
            self.broken.entry(subject).or_insert(why);
            return;
        }
        self.findings.events += events.len();
        for recorded in &events {
            let (time, elapsed) = &mut self.findings.clocks;
            (*time, *elapsed) = ((*time).max(recorded.time), (*elapsed).max(recorded.elapsed));
            if let Event::TemplateChanged { template, version, .. } = &recorded.event {
                self.templates.insert(template.clone(), *version);
            }
            if let Event::ScheduleChanged { schedule, version, .. } = &recorded.event {
                self.schedules.insert(schedule.clone(), *version);
            }
            if let Event::ConcurrencyLimitSet { agent, limit } = &recorded.event {
                match limit {
                    Some(limit) => self.limits.insert(agent.clone(), *limit),
                    None => self.limits.remove(agent),
                };
            }
            let (Subject::Execution(id), Event::TaskEnded { task, result, .. }) = (&subject, &recorded.event) else {
                continue;
            };
            if let Some(output) = result.output.as_ref().filter(|output| output.size > output.json.len() as u64) {
                self.outputs.entry(*id).or_default().insert(*task, output.size);
            }
        }
        for revision in revisions {
            if self.findings.gaps.iter().any(|(from, to)| (*from..=*to).contains(&revision)) {
                self.due.entry(subject.clone()).or_default();
                self.findings.in_gaps.insert(revision, Found { subject: subject.clone(), row: first });
            } else {
                met.entry(subject.clone()).or_default().push(revision);
            }
        }
    }

    fn executions(&mut self) -> Result<(), ReadError> {
        let mut ids: BTreeSet<ExecutionId> = BTreeSet::new();
        ids.extend(self.due.keys().chain(self.broken.keys()).filter_map(|subject| match subject {
            Subject::Execution(id) => Some(*id),
            _ => None,
        }));
        for prefix in [key::SUMMARIES, key::ALIVE] {
            each(&self.reader, prefix, |row, _| {
                ids.extend(key::execution_in(row));
                Ok(())
            })?;
        }
        each(&self.reader, b"y", |row, _| {
            ids.extend(key::execution_in(row));
            Ok(())
        })?;
        self.findings.executions = ids.len();
        for (seen, id) in ids.into_iter().enumerate() {
            (self.progress)("executions", seen);
            if let Err(why) = self.execution(id) {
                self.findings.lost_executions.insert(id, why);
            }
        }
        Ok(())
    }

    /// `Err` says why it is not whole.
    fn execution(&self, id: ExecutionId) -> Result<(), String> {
        if let Some(why) = self.broken.get(&Subject::Execution(id)) {
            return Err(why.clone());
        }
        let words = |error: ReadError| in_full(&error);
        let summary = self.reads.summary(id).map_err(words)?.ok_or("what lists show of it is missing")?;
        let execution = self.reads.execution(id).map_err(words)?.ok_or("its events are missing")?;
        let (workflow, version, status) = (&execution.workflow, execution.version, execution.status);
        if (&summary.workflow, summary.version, summary.status) != (workflow, version, status) {
            return Err(format!("lists show it as {:?}, and its events as {status:?}", summary.status));
        }
        let has = |key: Vec<u8>| self.reader.get(&key).map(|row| row.is_some()).map_err(|error| error.to_string());
        if has(key::alive(id))? == status.is_terminal() {
            return Err(format!("it is {status:?}, and the mark of what has not ended says otherwise"));
        }
        if !has(key::execution_of(workflow, id))? {
            return Err(format!("the list of workflow `{workflow}` does not have it"));
        }
        for (task, size) in self.outputs.get(&id).into_iter().flatten() {
            let output = self.reads.output(id, *task).map_err(words)?;
            if output.is_none_or(|output| output.len() as u64 != *size) {
                return Err(format!("the output of task {task} is missing"));
            }
        }
        Ok(())
    }

    fn workflows(&mut self) -> Result<(), ReadError> {
        let mut ids: BTreeSet<WorkflowId> = BTreeSet::new();
        ids.extend(self.due.keys().chain(self.broken.keys()).filter_map(|subject| match subject {
            Subject::Workflow(id) => Some(id.clone()),
            _ => None,
        }));
        for prefix in [key::WORKFLOWS, key::WORKFLOWS_BY_AGE] {
            each(&self.reader, prefix, |row, _| {
                let id = if prefix == key::WORKFLOWS { row.get(1..) } else { row.get(9..) };
                ids.extend(id.and_then(|id| WorkflowId::parse(std::str::from_utf8(id).ok()?).ok()));
                Ok(())
            })?;
        }
        self.findings.workflows = ids.len();
        for id in ids {
            if let Err(why) = self.workflow(&id) {
                self.findings.lost_workflows.insert(id, why);
            }
        }
        Ok(())
    }

    /// `Err` says why it is not whole.
    fn workflow(&self, id: &WorkflowId) -> Result<(), String> {
        if let Some(why) = self.broken.get(&Subject::Workflow(id.clone())) {
            return Err(why.clone());
        }
        let words = |error: ReadError| in_full(&error);
        let record = self.reads.workflow(id).map_err(words)?.ok_or("its head is missing")?;
        for version in 1..=record.version {
            self.reads.workflow_version(id, version).map_err(words)?.ok_or(format!("version {version} is missing"))?;
        }
        let changes = self.due.get(&Subject::Workflow(id.clone())).map_or(0, Vec::len) as u64;
        let in_gaps = self.findings.in_gaps.values().any(|found| found.subject == Subject::Workflow(id.clone()));
        if changes < record.version && !in_gaps {
            return Err(format!("it is at version {}, and its events tell of fewer", record.version));
        }
        let aged = self.reader.get(&key::workflow_by_age(record.created_at, id)).map_err(|error| error.to_string())?;
        if aged.is_some() == record.deleted {
            return Err("the list of workflows by age says otherwise of it".into());
        }
        Ok(())
    }

    fn templates(&mut self) -> Result<(), ReadError> {
        let mut ids: BTreeSet<TemplateId> = self.templates.keys().cloned().collect();
        for prefix in [key::TEMPLATES, key::TEMPLATES_BY_AGE] {
            each(&self.reader, prefix, |row, _| {
                let id = if prefix == key::TEMPLATES { row.get(1..) } else { row.get(9..) };
                ids.extend(id.and_then(|id| TemplateId::parse(std::str::from_utf8(id).ok()?).ok()));
                Ok(())
            })?;
        }
        for id in ids {
            if let Err(why) = self.template(&id) {
                self.findings.lost_templates.insert(id, why);
            }
        }
        Ok(())
    }

    /// `Err` says why it is not whole.
    fn template(&self, id: &TemplateId) -> Result<(), String> {
        let words = |error: ReadError| in_full(&error);
        let record = self.reads.template(id).map_err(words)?.ok_or("its head is missing")?;
        for version in 1..=record.version {
            self.reads.template_version(id, version).map_err(words)?.ok_or(format!("version {version} is missing"))?;
        }
        let told = self.templates.get(id).copied().unwrap_or(0);
        // Where own events are lost, they need not tell of it.
        let all_told = self.findings.gaps.is_empty() && !self.has_lost && !self.broken.contains_key(&Subject::Noxd);
        if told != record.version && (all_told || told > record.version) {
            return Err(format!("it is at version {}, and its events at {told}", record.version));
        }
        let aged = self.reader.get(&key::template_by_age(record.created_at, id)).map_err(|error| error.to_string())?;
        if aged.is_some() == record.deleted {
            return Err("the list of templates by age says otherwise of it".into());
        }
        Ok(())
    }

    fn schedules(&mut self) -> Result<(), ReadError> {
        let mut ids: BTreeSet<ScheduleId> = self.schedules.keys().cloned().collect();
        for prefix in [key::SCHEDULES, key::SCHEDULES_BY_AGE] {
            each(&self.reader, prefix, |row, _| {
                ids.extend(if prefix == key::SCHEDULES { key::schedule_in(row) } else { key::schedule_of_age(row) });
                Ok(())
            })?;
        }
        for id in ids {
            if let Err(why) = self.schedule(&id) {
                self.findings.lost_schedules.insert(id, why);
            }
        }
        Ok(())
    }

    /// `Err` says why it is not whole.
    fn schedule(&self, id: &ScheduleId) -> Result<(), String> {
        let words = |error: ReadError| in_full(&error);
        let record = self.reads.schedule(id).map_err(words)?.ok_or("its head is missing")?;
        let told = self.schedules.get(id).copied().unwrap_or(0);
        // Where own events are lost, they need not tell of it.
        let all_told = self.findings.gaps.is_empty() && !self.has_lost && !self.broken.contains_key(&Subject::Noxd);
        if told != record.version && (all_told || told > record.version) {
            return Err(format!("it is at version {}, and its events at {told}", record.version));
        }
        let aged = self.reader.get(&key::schedule_by_age(record.created_at, id)).map_err(|error| error.to_string())?;
        if aged.is_some() == record.deleted {
            return Err("the list of schedules by age says otherwise of it".into());
        }
        Ok(())
    }

    /// The limits that were set are those that noxd's own events tell of.
    fn limits(&mut self) -> Result<(), ReadError> {
        if let Some(why) = self.broken.get(&Subject::Noxd) {
            self.findings.lost_own = true;
            self.findings.loose.push(format!("noxd's own events: {why}"));
            return Ok(());
        }
        let set = self.reads.limits()?.into_iter().map(|limit| (limit.agent, limit.most)).collect::<BTreeMap<_, _>>();
        if set != self.limits && self.findings.gaps.is_empty() && !self.has_lost {
            self.findings.loose.push("the limits that are set are not those that its events tell of".into());
        }
        Ok(())
    }

    /// What executions usually take can be read; it is a mean, and nothing else speaks of it.
    fn durations(&mut self) -> Result<(), ReadError> {
        let loose = &mut self.findings.loose;
        each(&self.reader, key::DURATIONS, |row, value| {
            let read = key::durations_in(row).map(|(id, version)| layout::decode_durations(&id, version, value));
            match read {
                Some(Ok(_)) => {}
                Some(Err(error)) => loose.push(error.to_string()),
                None => loose.push(format!("the durations \"{}\" are nobody's", row.escape_ascii())),
            }
            Ok(())
        })
    }

    /// A request is remembered by two rows.
    fn requests(&mut self) -> Result<(), ReadError> {
        let mut lost = 0_u64;
        each(&self.reader, b"q", |row, value| {
            let hash = row.get(1..).and_then(|hash| <[u8; 16]>::try_from(hash).ok());
            let (Some(hash), Ok(request)) = (hash, RequestRow::decode(value)) else {
                lost += 1;
                return Ok(());
            };
            lost += u64::from(self.reader.get(&key::request_by_age(request.time, &hash))?.is_none());
            Ok(())
        })?;
        each(&self.reader, key::REQUESTS_BY_AGE, |row, _| {
            let Some((_, hash)) = key::request_of_age(row) else {
                lost += 1;
                return Ok(());
            };
            lost += u64::from(self.reader.get(&key::request(&hash))?.is_none());
            Ok(())
        })?;
        if lost > 0 {
            let what = format!("{lost} remembered requests are not whole: repeated, they could have a second effect");
            self.findings.loose.push(what);
        }
        Ok(())
    }
}

/// Whose events a row has. An execution's workflow is not in the key, and not needed to look at revisions.
fn subject_of(row: &[u8]) -> Option<(Subject, Option<WorkflowId>)> {
    match row.split_first()? {
        (b'e', rest) => {
            let id = ExecutionId(u128::from_be_bytes(*rest.first_chunk::<16>()?));
            (rest.len() == 24).then_some((Subject::Execution(id), None))
        }
        (b'v', rest) => {
            let (id, revision) = rest.split_last_chunk::<8>().map(|(id, revision)| (id.split_last(), revision))?;
            let (0, id) = id? else { return None };
            let _ = revision;
            let id = WorkflowId::parse(std::str::from_utf8(id).ok()?).ok()?;
            Some((Subject::Workflow(id.clone()), Some(id)))
        }
        (b'n', rest) => (rest.len() == 8).then_some((Subject::Noxd, None)),
        _ => None,
    }
}

/// An error with everything behind it, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
