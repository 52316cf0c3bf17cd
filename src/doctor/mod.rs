//! `noxd doctor DIR`: whether a store is sound, what is affected where it is not, and a copy of what is proved.
//!
//! It needs no daemon and refuses where one runs. It writes nothing into `DIR`. What is wrong with files is found by
//! [`crate::store::examine`], what is wrong with executions by [`check`], and [`copy`] makes the copy. What it prints is
//! for people; its exit code is for programs: 0 sound, 1 damaged, 2 not examined.

mod check;
mod copy;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use check::Findings;

use crate::{
    engine::read::ReadError,
    store::{self, Examined, RealDisk, StoreError},
};

/// What `noxd doctor` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The data directory; no noxd may be running on it
    dir: PathBuf,
    /// Copy what is sound to this new data directory, which noxd can start on
    #[arg(long, value_name = "NEW")]
    copy_to: Option<PathBuf>,
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The store cannot be looked at.
    #[error("cannot examine the store")]
    Examine(#[source] StoreError),
    /// The rows cannot be read.
    #[error("cannot read the store")]
    Read(#[from] ReadError),
    /// There is something where the copy shall be.
    #[error("{} is there already; --copy-to makes a new directory", .0.display())]
    Occupied(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write the copy")]
    Copy(#[source] StoreError),
    /// The copy is not what it should be.
    #[error("the copy in {} is not sound; tell the authors of noxd", .0.display())]
    Unsound(PathBuf),
}

/// What was found, in words, and whether all is well.
pub struct Report {
    /// For standard output.
    pub text: String,
    /// Whether nothing is wrong.
    pub is_sound: bool,
}

/// Examines, and copies where that was asked for. `tell` hears how far it has come.
///
/// # Errors
/// Where nothing could be said, or the copy was not made.
pub fn run(args: &DoctorArgs, tell: &dyn Fn(&str)) -> Result<Report, DoctorError> {
    let store = store_in(&args.dir);
    if let Some(new) = args.copy_to.as_ref().filter(|new| is_occupied(new)) {
        return Err(DoctorError::Occupied(new.clone()));
    }
    let mut steps = Steps { tell, told: None };
    let examined = store::examine(&store, Arc::new(RealDisk), &mut |what, done, all| steps.step(what, done, all));
    let examined = examined.map_err(DoctorError::Examine)?;
    let findings = check::check(&examined, &mut |what, done| steps.rows(what, done))?;
    let is_sound = examined.faults.is_empty() && findings.is_sound();
    let mut text = report(&store, &examined, &findings, is_sound);
    if let Some(new) = &args.copy_to {
        tell(&format!("copying what is sound to {}", new.display()));
        let rows = copy::copy(&examined, &findings, &store_of_new(new)).map_err(|error| match error {
            copy::CopyError::Store(error) => DoctorError::Copy(error),
            copy::CopyError::Read(error) => DoctorError::Read(error),
        })?;
        prove(new)?;
        let _ = write!(
            text,
            "copied  {rows} rows to {new}, where they were checked again\n\
             next    cp -a {old}/executions {new}/   # logs and scratch directories\n\
             \x20       noxd serve --data-dir {new}\n",
            new = new.display(),
            old = args.dir.display()
        );
    } else if !is_sound {
        let _ = writeln!(text, "next    noxd doctor {} --copy-to NEW", args.dir.display());
    }
    Ok(Report { text, is_sound })
}

/// The store of a data directory, or the directory itself where that is a store.
fn store_in(dir: &Path) -> PathBuf {
    let inside = store_of_new(dir);
    if inside.is_dir() { inside } else { dir.to_path_buf() }
}

fn store_of_new(dir: &Path) -> PathBuf {
    dir.join("store")
}

fn is_occupied(new: &Path) -> bool {
    match new.read_dir() {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => new.exists(),
    }
}

/// The copy is examined as every store is: a copy that is not sound is worse than none.
fn prove(new: &Path) -> Result<(), DoctorError> {
    let store = store_of_new(new);
    let examined = store::examine(&store, Arc::new(RealDisk), &mut |_, _, _| {}).map_err(DoctorError::Examine)?;
    let findings = check::check(&examined, &mut |_, _| {})?;
    let sound = examined.faults.is_empty() && findings.is_sound();
    if sound { Ok(()) } else { Err(DoctorError::Unsound(new.to_path_buf())) }
}

/// Says every tenth of a long work.
struct Steps<'a> {
    tell: &'a dyn Fn(&str),
    told: Option<(String, usize)>,
}

/// Work that is shorter says nothing.
const LONG: usize = 1_000;
/// Rows looked at between two words.
const ROWS_PER_WORD: usize = 100_000;

impl Steps<'_> {
    fn step(&mut self, what: &str, done: usize, all: usize) {
        let tenth = done * 10 / all.max(1);
        let is_new = self.told.as_ref().is_none_or(|(told, tenths)| told != what || *tenths != tenth);
        if all >= LONG && is_new {
            (self.tell)(&format!("{what}: {done} of {all}"));
            self.told = Some((what.to_owned(), tenth));
        }
    }

    fn rows(&mut self, what: &str, done: usize) {
        if done > 0 && done.is_multiple_of(ROWS_PER_WORD) {
            (self.tell)(&format!("{what}: {done}"));
        }
    }
}

/// Of each kind so many are named; the rest is counted.
const NAMED: usize = 50;

fn report(store: &Path, examined: &Examined, findings: &Findings, is_sound: bool) -> String {
    let mut text = String::new();
    let Findings { workflows, executions, events, .. } = findings;
    let _ = writeln!(text, "store   {}", store.display());
    let _ = writeln!(
        text,
        "holds   {workflows} workflows, {executions} executions, {events} events up to revision {}",
        examined.revision
    );
    if is_sound {
        let _ = writeln!(text, "sound   every file, row and event is as it was written");
        return text;
    }
    let _ = writeln!(text, "DAMAGED");
    let faults: Vec<String> = examined.faults.iter().map(fault).collect();
    list(&mut text, "what is wrong in its files", &faults);
    if let Some((first, last)) = examined.lost_batches {
        let _ = writeln!(
            text,
            "lost: batches {first} to {last} of the journal were acknowledged, and are not proved; what is proved ends \
             with revision {}",
            examined.revision
        );
    }
    let lost: Vec<String> = findings.lost_workflows.iter().map(|(id, why)| format!("workflow `{id}`: {why}")).collect();
    list(&mut text, "workflows that are not whole", &lost);
    let lost: Vec<String> = findings.lost_executions.iter().map(|(id, why)| format!("{id}: {why}")).collect();
    list(&mut text, "executions that are not whole", &lost);
    list(&mut text, "and besides", &findings.others());
    let _ = writeln!(
        text,
        "proved  {} of {workflows} workflows, {} of {executions} executions",
        workflows - findings.lost_workflows.len().min(*workflows),
        executions - findings.lost_executions.len().min(*executions)
    );
    text
}

fn list(text: &mut String, head: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "{head}:");
    for line in lines.iter().take(NAMED) {
        let _ = writeln!(text, "  {line}");
    }
    if lines.len() > NAMED {
        let _ = writeln!(text, "  and {} more", lines.len() - NAMED);
    }
}

/// A fault, without the advice to ask the doctor.
fn fault(error: &StoreError) -> String {
    match error {
        StoreError::Corrupt { file, offset, what } => format!("{} at byte {offset}: {what}", file.display()),
        StoreError::Format { file, what } => format!("{}: {what}", file.display()),
        other => other.to_string(),
    }
}
