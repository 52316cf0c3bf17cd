//! The pipes of one attempt: standard output and standard error drained at once into the log, standard input fed.
//!
//! Memory is fixed whatever the program writes: one buffer for reading and the bounded tails (S-AGENT-4). Draining
//! never stops before both pipes are at their end or [`Flow::closed`] is set, so a program never blocks on us.
//!
//! It knows no process. Read first: [`Pump`], then [`Flow`].

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::census::off_thread;
use super::logs::{LogStream, LogWriter};
use super::output::{StdoutCapture, Tail};

/// One read: what a pipe holds at most by default.
const CHUNK_BYTES: usize = 64 * 1024;

/// From here on a piece is worth a trip to a thread that may block. A program that writes in bulk can run into the
/// kernel's throttling of dirty pages; a line now and then cannot, and is written on the spot.
const BULK_BYTES: usize = 16 * 1024;

/// The most an ordinary user can let a pipe hold: what may still be in one when its last writer is gone.
const LAST_READ_BYTES: usize = 1024 * 1024;

/// How many bytes of standard error a report ends with.
const STDERR_TAIL_BYTES: usize = 4 * 1024;

/// How the pump and the one who minds the process tell each other.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Both pipes are at their end. Set by the pump.
    pub(super) drained: CancellationToken,
    /// Take what is there now and stop. Set by the one who minds the process.
    pub(super) closed: CancellationToken,
}

/// Where everything goes that a program writes.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) log: LogWriter,
    pub(super) stdout: StdoutCapture,
    pub(super) stderr_tail: Tail,
    /// A pipe was closed although somebody could still write to it.
    pub(super) cut_off: bool,
    /// Told whenever something was written.
    activity: Arc<Notify>,
    chunk: Vec<u8>,
}

impl Sink {
    pub(super) fn new(log: LogWriter, stdout: StdoutCapture, activity: Arc<Notify>) -> Self {
        // The chunk is made at the first byte: many programs write nothing.
        Self { log, stdout, stderr_tail: Tail::new(STDERR_TAIL_BYTES), cut_off: false, activity, chunk: Vec::new() }
    }

    fn take(&mut self, stream: LogStream, length: usize) {
        self.activity.notify_one();
        let bytes = &self.chunk[..length];
        match stream {
            LogStream::Stdout => self.stdout.push(bytes),
            LogStream::Stderr => self.stderr_tail.push(bytes),
            LogStream::Note => {}
        }
        self.log.append(stream, bytes);
    }
}

/// Drains both pipes into a [`Sink`].
#[derive(Debug)]
pub(super) struct Pump {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    sink: Sink,
}

impl Pump {
    /// # Errors
    /// The runtime cannot watch another descriptor.
    pub(super) fn new(stdout: io::PipeReader, stderr: io::PipeReader, sink: Sink) -> io::Result<Self> {
        let receiver = |reader: io::PipeReader| pipe::Receiver::from_owned_fd(reader.into());
        Ok(Self { stdout: Some(receiver(stdout)?), stderr: Some(receiver(stderr)?), sink })
    }

    /// Returns at the end of both pipes, or soon after `flow.closed`; closes them and gives the sink back. Not to
    /// be dropped half-way, or what was just read is lost.
    pub(super) async fn drain(mut self, flow: &Flow) -> Sink {
        while self.stdout.is_some() || self.stderr.is_some() {
            let stream = tokio::select! {
                () = flow.closed.cancelled() => break,
                () = readable(&self.stdout) => LogStream::Stdout,
                () = readable(&self.stderr) => LogStream::Stderr,
            };
            let pipe = if stream == LogStream::Stdout { &mut self.stdout } else { &mut self.stderr };
            let Some(receiver) = pipe else { continue };
            self.sink.chunk.resize(CHUNK_BYTES, 0);
            match receiver.try_read(&mut self.sink.chunk) {
                Ok(0) => *pipe = None,
                Ok(length) if length < BULK_BYTES => self.sink.take(stream, length),
                Ok(length) => {
                    let mut sink = self.sink;
                    let take = move || {
                        sink.take(stream, length);
                        sink
                    };
                    self.sink = off_thread(take).await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "a pipe of an attempt could not be read");
                    *pipe = None;
                }
            }
        }
        flow.drained.cancel();
        self.take_what_is_there();
        self.sink
    }

    /// Reads past the runtime, whose idea of readiness may lag behind the kernel's.
    fn take_what_is_there(&mut self) {
        for (stream, pipe) in [(LogStream::Stdout, &self.stdout), (LogStream::Stderr, &self.stderr)] {
            let Some(pipe) = pipe else { continue };
            let mut total = 0;
            self.sink.chunk.resize(CHUNK_BYTES, 0);
            loop {
                if total >= LAST_READ_BYTES {
                    self.sink.cut_off = true;
                    break;
                }
                match rustix::io::read(pipe, &mut self.sink.chunk[..]) {
                    Ok(0) => break,
                    Ok(length) => {
                        self.sink.take(stream, length);
                        total += length;
                    }
                    Err(Errno::INTR) => {}
                    // Empty, though somebody could still write: that is what closing is about.
                    Err(_) => {
                        self.sink.cut_off = true;
                        break;
                    }
                }
            }
        }
    }
}

/// Writes `bytes` to the program's standard input and closes it. A program that does not read it all is within its
/// rights; one that never reads is waited for until `flow.closed`.
pub(super) async fn feed(stdin: Option<(pipe::Sender, Vec<u8>)>, flow: &Flow) {
    let Some((mut sender, bytes)) = stdin else { return };
    tokio::select! {
        written = sender.write_all(&bytes) => match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                tracing::warn!(%error, "the standard input of an attempt could not be written");
            }
            _ => {}
        },
        () = flow.closed.cancelled() => {}
    }
}

/// Ready when there is something to read or the end is there; never for a pipe that was closed.
async fn readable(pipe: &Option<pipe::Receiver>) {
    match pipe {
        // An error here comes back from the read, which is where it is handled.
        Some(pipe) => pipe.readable().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
