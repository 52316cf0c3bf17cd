//! Where noxd keeps its files: the store, and what executions leave.
//!
//! ```text
//! DATA/store/                        journal, rows
//! DATA/executions/EXECUTION/work/    the scratch directory that its tasks share
//!                          /inputs.json
//!                          /logs/TASK.ATTEMPT.log, TASK.ATTEMPT.output
//! ```
//! All names are the server's own or checked ids, so none can leave its directory.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::machine::ids::ExecutionId;

/// The paths under noxd's data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DataLayout {
    root: Arc<Path>,
}

impl DataLayout {
    /// Paths under this directory, which is absolute.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The directory that the tasks of an execution share.
    pub fn work_dir(&self, execution: ExecutionId) -> PathBuf {
        self.execution(execution).join("work")
    }

    /// What an execution was given.
    pub fn inputs_file(&self, execution: ExecutionId) -> PathBuf {
        self.execution(execution).join("inputs.json")
    }

    /// What an attempt wrote.
    pub fn log_file(&self, execution: ExecutionId, task_id: &str, attempt: u32) -> PathBuf {
        self.execution(execution).join("logs").join(format!("{task_id}.{attempt}.log"))
    }

    /// Where an attempt may leave its output.
    pub fn output_file(&self, execution: ExecutionId, task_id: &str, attempt: u32) -> PathBuf {
        self.execution(execution).join("logs").join(format!("{task_id}.{attempt}.output"))
    }

    /// Makes an execution's directories and its inputs file, where they are not there yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_execution(&self, execution: ExecutionId, inputs: &str) -> io::Result<()> {
        let logs = self.execution(execution).join("logs");
        if logs.exists() {
            return Ok(());
        }
        let work = self.work_dir(execution);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&work)?;
        let file = self.inputs_file(execution);
        if !file.exists() {
            fs::write(&file, format!("{inputs}\n"))?;
        }
        // Last: once the logs directory is there, so is the rest.
        builder.create(logs)
    }

    fn execution(&self, execution: ExecutionId) -> PathBuf {
        self.root.join("executions").join(execution.to_string())
    }
}
