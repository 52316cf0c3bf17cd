//! What noxd tells about itself: its log. (Metrics will have their one list of names here.)

use std::{fs::File, io::IsTerminal as _, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Mutex};

use tracing_subscriber::EnvFilter;

/// Logs to standard error. A filter that cannot be read is told and replaced by `info`.
pub fn log_to_stderr(filter: &str) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().with_env_filter(parse(filter)).with_ansi(colours);
    // A subscriber that is there already, in a test, stays.
    let _ = subscriber.with_writer(std::io::stderr).try_init();
}

/// Logs to a file, for a run whose terminal shows its progress.
///
/// # Errors
/// Where the file cannot be made.
pub fn log_to_file(path: &Path, filter: &str) -> std::io::Result<()> {
    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(parse(filter)).with_ansi(false);
    // A subscriber that is there already, in a test, stays.
    let _ = subscriber.with_writer(Mutex::new(file)).try_init();
    Ok(())
}

fn parse(filter: &str) -> EnvFilter {
    // The store's and the transport's own chatter is for their developers. What h2 warns of is a line for each frame of a
    // peer that floods; that its connection was closed is noxd's to tell.
    let quiet = |filter: &str| format!("{filter},sled=warn,h2=error,hyper=warn,tower=warn");
    EnvFilter::try_new(quiet(filter)).unwrap_or_else(|error| {
        anstream::eprintln!("noxd: the log filter `{filter}` cannot be read ({error}); `info` is taken");
        EnvFilter::new(quiet("info"))
    })
}
