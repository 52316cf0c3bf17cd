//! Streams what an attempt wrote, during and after it, from its log file.

use std::{path::PathBuf, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{
    Api, EventStream,
    convert::timestamp,
    status::{self, Reason},
};
use crate::{
    engine::watch::{Scope, Watch},
    executor::logs::{Frame, LogError, LogReader, LogStream},
    machine::{
        ids::{ExecutionId, Revision, TaskIndex, Timestamp},
        message::Event,
    },
    proto::v1,
};

/// Frames on their way to one client.
const WINDOW: usize = 16;
/// Bytes read at once.
const BYTES_AT_ONCE: usize = 256 * 1_024;
/// How often a log that is followed is looked at: a file tells nobody that it grew.
const LOOK_EVERY: Duration = Duration::from_millis(100);

type Sent = Result<v1::StreamTaskLogsResponse, Status>;

/// How the task stood when its log was asked for.
pub(super) struct Running {
    /// Its index.
    pub task: TaskIndex,
    /// Whether the attempt was alive.
    pub alive: bool,
    /// The execution's newest event then.
    pub since: Revision,
}

/// The stream of an attempt's log.
///
/// # Errors
/// Where there is no log, or no frame begins at the offset.
pub(super) async fn stream(
    api: &Api,
    id: ExecutionId,
    request: v1::StreamTaskLogsRequest,
    attempt: u32,
    running: Running,
) -> Result<Response<EventStream<v1::StreamTaskLogsResponse>>, Status> {
    let path = api.layout.log_file(id, &request.task_id, attempt);
    // What is over grows no more. Whoever follows may have come before the process wrote anything.
    let follow = request.follow && running.alive;
    let mut log = Log { path, reader: None, offset: request.from_offset, attempt };
    if !follow || log.path.exists() {
        log = log.opened().await?;
    }
    let (messages, out) = mpsc::channel::<Sent>(WINDOW);
    let stop = api.stop.clone();
    let ended = Ended { watch: api.engine.watch(Scope::Execution(id), running.since), task: running.task, attempt };
    api.streams.spawn(async move {
        tokio::select! {
            () = copy(log, follow, ended, &messages) => {}
            () = messages.closed() => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(out))))
}

struct Log {
    path: PathBuf,
    reader: Option<LogReader>,
    offset: u64,
    attempt: u32,
}

impl Log {
    /// Opens the file and looks whether a frame begins at the offset.
    async fn opened(self) -> Result<Self, Status> {
        let (log, first) = self.read(1).await;
        first.map_err(|error| refused(&error))?;
        Ok(log)
    }

    /// Frames from the offset on, away from the threads that serve.
    async fn read(mut self, most: usize) -> (Self, Result<Vec<Frame>, LogError>) {
        let read = tokio::task::spawn_blocking(move || {
            let frames = self.frames(most);
            (self, frames)
        });
        match read.await {
            Ok(read) => read,
            // Only a shutdown of the runtime cancels it: then nobody reads on.
            Err(_) => std::future::pending().await,
        }
    }

    fn frames(&mut self, most: usize) -> Result<Vec<Frame>, LogError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(LogReader::open(&self.path)?),
        };
        reader.read_frames(self.offset, most)
    }
}

async fn copy(mut log: Log, follow: bool, ended: Ended, messages: &mpsc::Sender<Sent>) {
    let mut ended = std::pin::pin!(ended.wait());
    let mut over = !follow;
    loop {
        let (back, frames) = log.read(BYTES_AT_ONCE).await;
        log = back;
        let frames = match frames {
            Ok(frames) => frames,
            // The process has not begun to write, or never did.
            Err(LogError::Unreadable { .. }) if !over => Vec::new(),
            Err(LogError::Unreadable { .. }) if follow => return,
            Err(error) => {
                // A client that went away needs no error.
                let _ = messages.send(Err(refused(&error))).await;
                return;
            }
        };
        let read = !frames.is_empty();
        for frame in frames {
            log.offset = frame.next_offset;
            if messages.send(Ok(shown(frame, log.attempt))).await.is_err() {
                return;
            }
        }
        if read {
            continue;
        }
        if over {
            return;
        }
        // Everything is in the file when the attempt's end is recorded: one more look after that is the last.
        over = tokio::select! {
            () = &mut ended => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
    }
}

/// Waits for the end of an attempt.
struct Ended {
    watch: Watch,
    task: TaskIndex,
    attempt: u32,
}

impl Ended {
    async fn wait(mut self) {
        while let Ok(Some(recorded)) = self.watch.next().await {
            if let Event::TaskEnded { task, attempt, .. } = &recorded.event
                && (*task, *attempt) == (self.task, self.attempt)
            {
                return;
            }
        }
    }
}

fn shown(frame: Frame, attempt: u32) -> v1::StreamTaskLogsResponse {
    v1::StreamTaskLogsResponse {
        offset: frame.offset,
        next_offset: frame.next_offset,
        stream: match frame.stream {
            LogStream::Stdout => v1::LogStream::Stdout,
            LogStream::Stderr => v1::LogStream::Stderr,
            LogStream::Note => v1::LogStream::Note,
        } as i32,
        time: Some(timestamp(Timestamp(frame.time_micros))),
        data: frame.bytes,
        attempt,
    }
}

fn refused(error: &LogError) -> Status {
    match error {
        LogError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            status::status(Reason::LogNotFound, "the attempt has left no log: it ran no program")
        }
        LogError::NotABoundary { offset, .. } | LogError::BeyondEnd { offset, .. } => {
            let words = format!("no frame of this log begins at {offset}; use 0, or a `next_offset` of an answer");
            status::status(Reason::LogOffsetUnknown, words)
        }
        other => {
            tracing::error!(error = %other, "a log could not be read");
            status::status(Reason::Internal, "the log could not be read; noxd's own log says why")
        }
    }
}
