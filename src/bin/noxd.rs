//! The daemon: `noxd serve` runs it, `noxd run FILE` runs one workflow file with a daemon of its own.

#![warn(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unreachable,
    clippy::unwrap_used
)]

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use noxd::{
    config::{ConfigError, Settings},
    daemon::{Daemon, RunError, StartError, chain},
    doctor::{self, DoctorArgs, DoctorError},
    logs::{self, LogsArgs, LogsError},
    notify::Supervisor,
    run::{self, RunArgs, RunFailure},
    telemetry,
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which has the same number in its versions 2 and 3.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Milliseconds after which memory that is free goes back to the system. By itself mimalloc 3 keeps it for a second: at
/// the full rate that was a third of noxd, and giving it back sooner takes no time that can be measured.
const KEPT_FREE_MILLIS: std::ffi::c_long = 10;

/// A durable workflow engine for AI agents and other programs.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or SIGINT
    Serve {
        /// A file of settings (TOML); flags and the environment go over it
        #[arg(long, env = "NOXD_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Run one workflow file to its end, with a daemon of its own
    Run(RunArgs),
    /// Show what a task of a finished run wrote
    Logs(LogsArgs),
    /// Examine the store of a data directory: exits with 0 when it is sound, with 1 when it is damaged
    Doctor(DoctorArgs),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Serve(#[from] RunError),
    #[error(transparent)]
    Run(#[from] RunFailure),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    #[error("cannot start the runtime")]
    Runtime(#[from] std::io::Error),
}

fn main() -> ExitCode {
    give_memory_back();
    match start(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            noxd::cli::output::talk(&format!("noxd: {}", chain(&failure)));
            ExitCode::from(match &failure {
                Failure::Config(_) | Failure::Doctor(_) => 2,
                Failure::Run(failure) => failure.exit_code(),
                _ => 1,
            })
        }
    }
}

/// Unless MIMALLOC_PURGE_DELAY says otherwise.
#[expect(unsafe_code, reason = "mimalloc takes its settings by a foreign function alone")]
fn give_memory_back() {
    // SAFETY: it writes one number of mimalloc's own table of options, whose length is above the index given.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT_FREE_MILLIS) }
}

fn start(command: Command) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Serve { config, settings } => serve(config, settings).await,
            Command::Run(args) => Ok(run::run(args).await?),
            Command::Logs(args) => {
                logs::print(&args)?;
                Ok(0)
            }
            Command::Doctor(args) => {
                let report = doctor::run(&args, &noxd::cli::output::talk)?;
                print(&report.text)?;
                Ok(u8::from(!report.is_sound))
            }
        }
    })
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes())
}

async fn serve(file: Option<PathBuf>, settings: Settings) -> Result<u8, Failure> {
    let below = file.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let config = settings.over(below).into_config()?;
    telemetry::log_to_stderr(&config.log);
    let stop = CancellationToken::new();
    run::stop_on_signals(stop.clone())?;
    let daemon = Daemon::start(&config, Supervisor::from_environment()).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), doors = ?daemon.doors, data = %config.data_dir.display(), "serving");
    daemon.run_until(stop).await?;
    tracing::info!("stopped");
    Ok(0)
}
