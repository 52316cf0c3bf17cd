//! `noxctl execution logs`: what an attempt wrote, as it wrote it.
//!
//! Into a pipe or a file the bytes go as they are. On a terminal, control characters are made visible: a log must not
//! be able to drive the terminal of whoever reads it.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use clap::Args;
use tonic::{Code, Status, transport::Channel};

use super::{
    Context, connect,
    output::{Format, on_terminal, talk},
    status::CliError,
    text::{self, StreamEscaper},
};
use crate::proto::v1::{LogStream, StreamTaskLogsRequest, StreamTaskLogsResponse};

/// Of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The execution.
    execution: String,
    /// The task.
    task: String,
    /// Which attempt; without it, the newest.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    attempt: u32,
    /// Wait for more until the attempt has ended.
    #[arg(short = 'F', long)]
    follow: bool,
    /// Begin at this offset: 0, or a `nextOffset` from `-o json`.
    #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
    from: u64,
}

/// Prints the log. A broken connection is taken up again where it broke.
#[expect(clippy::disallowed_methods, reason = "how long a person is kept waiting for a broken connection")]
pub(super) async fn print(args: LogsArgs, context: &mut Context) -> Result<u8, CliError> {
    let channel = context.channel().await?;
    let mut request = StreamTaskLogsRequest {
        execution_id: args.execution,
        task_id: args.task,
        attempt: args.attempt,
        from_offset: args.from,
        follow: args.follow,
    };
    let mut sink = Sink::new();
    let mut broken_since: Option<Instant> = None;
    loop {
        let offset = request.from_offset;
        let status = match pieces(channel.clone(), &mut request, &mut sink, context).await {
            Ok(()) => return sink.finish().map(|()| 0),
            Err(CliError::Refused(status)) if may_pass(&status) => status,
            Err(other) => return Err(other),
        };
        // A long log may break more than once; each break has its own minute.
        let since = broken_since.filter(|_| request.from_offset == offset);
        if since.is_some_and(|since| since.elapsed() > PATIENCE) {
            return Err(CliError::Refused(status));
        }
        if since.is_none() {
            talk(&format!("the connection broke at offset {}, trying again", request.from_offset));
        }
        broken_since = since.or_else(|| Some(Instant::now()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One stream, to its end; `request` moves along with what was printed.
async fn pieces(
    channel: Channel,
    request: &mut StreamTaskLogsRequest,
    sink: &mut Sink,
    context: &mut Context,
) -> Result<(), CliError> {
    let mut stream = connect::executions(channel).stream_task_logs(request.clone()).await?.into_inner();
    while let Some(piece) = stream.message().await? {
        match context.output.format() {
            Format::Table => sink.write(&piece)?,
            Format::Json | Format::Yaml => context.output.message(&piece)?,
        }
        request.from_offset = piece.next_offset;
        // A retry that starts meanwhile must not change which attempt is read.
        request.attempt = piece.attempt;
    }
    Ok(())
}

fn may_pass(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Both streams, each escaped if a terminal shows it.
struct Sink {
    stdout: Pipe<io::Stdout>,
    stderr: Pipe<io::Stderr>,
}

impl Sink {
    fn new() -> Self {
        let (stdout, stderr) = on_terminal();
        Self { stdout: Pipe::new(io::stdout(), stdout), stderr: Pipe::new(io::stderr(), stderr) }
    }

    fn write(&mut self, piece: &StreamTaskLogsResponse) -> Result<(), CliError> {
        match piece.stream() {
            LogStream::Stdout | LogStream::Unspecified => self.stdout.write(&piece.data)?,
            LogStream::Stderr => self.stderr.write(&piece.data)?,
            LogStream::Note => {
                talk(&format!("noxd: {}", text::escape(String::from_utf8_lossy(&piece.data).trim_end())));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), CliError> {
        self.stdout.finish()?;
        self.stderr.finish()?;
        Ok(())
    }
}

struct Pipe<W> {
    to: W,
    escaper: Option<StreamEscaper>,
}

impl<W: Write> Pipe<W> {
    fn new(to: W, terminal: bool) -> Self {
        Self { to, escaper: terminal.then(StreamEscaper::default) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.escaper {
            Some(escaper) => self.to.write_all(escaper.escape(bytes).as_bytes())?,
            None => self.to.write_all(bytes)?,
        }
        self.to.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(escaper) = &mut self.escaper {
            self.to.write_all(escaper.finish().as_bytes())?;
        }
        self.to.flush()
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_the_bytes_and_a_terminal_what_is_safe() {
        let shown = |terminal| {
            let mut pipe = Pipe::new(Vec::new(), terminal);
            pipe.write(b"\x1b[2Jok\n\xff\xc3").unwrap();
            pipe.write(b"\xbc\t!").unwrap();
            pipe.finish().unwrap();
            pipe.to
        };
        assert_eq!(shown(false), b"\x1b[2Jok\n\xff\xc3\xbc\t!");
        assert_eq!(String::from_utf8(shown(true)).unwrap(), "\\x1b[2Jok\n\\xffü\t!");
    }
}
