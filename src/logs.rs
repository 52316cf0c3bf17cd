//! `noxd logs DIR TASK`: what a task of a finished run wrote, from the files alone, without a daemon.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::executor::logs::{LogError, LogReader, LogStream};

/// Bytes read at once.
const BYTES_AT_ONCE: usize = 256 * 1_024;

/// What `noxd logs` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct LogsArgs {
    /// The directory of the run, as `noxd run` printed it
    dir: PathBuf,
    /// The task
    task: String,
    /// Which attempt [default: the newest]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// No such log.
    #[error("no attempt of task `{task}` has left a log in {}", dir.display())]
    None {
        /// The task.
        task: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Prints a log: what went to standard output to standard output, the rest to standard error.
///
/// # Errors
/// Where there is no such log, or it cannot be read.
pub fn print(args: &LogsArgs) -> Result<(), LogsError> {
    let path = newest(&args.dir, &args.task, args.attempt)?
        .ok_or_else(|| LogsError::None { task: args.task.clone(), dir: args.dir.clone() })?;
    let mut reader = LogReader::open(&path)?;
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let mut offset = 0;
    loop {
        let frames = reader.read_frames(offset, BYTES_AT_ONCE)?;
        let Some(last) = frames.last() else { break };
        offset = last.next_offset;
        for frame in frames {
            let written = match frame.stream {
                LogStream::Stdout => out.write_all(&frame.bytes),
                LogStream::Stderr => err.write_all(&frame.bytes),
                LogStream::Note => writeln!(err, "[noxd: {}]", String::from_utf8_lossy(&frame.bytes)),
            };
            match written {
                // Who reads no more, as `head` does, has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => other?,
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// The newest log of a task: of the newest execution that has one, since their ids sort by birth, the highest attempt.
fn newest(dir: &Path, task: &str, attempt: Option<u32>) -> io::Result<Option<PathBuf>> {
    let mut executions: Vec<PathBuf> = match fs::read_dir(dir.join("executions")) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    executions.sort();
    for execution in executions.iter().rev() {
        let logs = execution.join("logs");
        let number = |path: &Path| -> Option<u32> {
            path.file_name()?.to_str()?.strip_prefix(task)?.strip_prefix('.')?.strip_suffix(".log")?.parse().ok()
        };
        let Ok(entries) = fs::read_dir(&logs) else { continue };
        let numbers = entries.filter_map(|entry| number(&entry.ok()?.path()));
        let found = numbers.filter(|number| attempt.is_none_or(|wanted| wanted == *number)).max();
        if let Some(number) = found {
            return Ok(Some(logs.join(format!("{task}.{number}.log"))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_attempt_of_the_newest_execution_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |execution: &str, name: &str| {
            let logs = dir.path().join("executions").join(execution).join("logs");
            fs::create_dir_all(&logs).expect("made");
            fs::write(logs.join(name), "").expect("made");
        };
        for (execution, name) in
            [("1", "t.1.log"), ("2", "t.2.log"), ("2", "t.10.log"), ("2", "t.x.11.log"), ("3", "u.1.log")]
        {
            make(execution, name);
        }
        let found = |task: &str, attempt| {
            newest(dir.path(), task, attempt)
                .expect("readable")
                .map(|path| path.strip_prefix(dir.path()).expect("below").to_path_buf())
        };
        assert_eq!(found("t", None), Some("executions/2/logs/t.10.log".into()));
        assert_eq!(found("t", Some(2)), Some("executions/2/logs/t.2.log".into()));
        assert_eq!(found("t", Some(1)), Some("executions/1/logs/t.1.log".into()));
        assert_eq!(found("t.x", None), Some("executions/2/logs/t.x.11.log".into()));
        assert_eq!(found("v", None), None);
    }
}
