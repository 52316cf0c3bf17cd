//! The composition root: opens everything in order, joins the channels, and closes everything in order.
//!
//! Start: doors opened, not served → store and recovery → leftovers of a dead noxd ended → executor → interrupted
//! attempts queued again → work admitted, doors served.
//! Stop: nothing new is admitted → running tasks end, or are ended → streams and calls end → the writer stops.

use std::{path::PathBuf, sync::Arc};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{
        About, Api,
        listen::{self, DoorError, ServeError},
    },
    config::Config,
    engine::{Engine, EngineConfig, Handle, OpenError, Request, Stopped, Wanted, clock, recovery::LostAttempt},
    executor::{self, Executor, ExecutorConfig, files::DataLayout, leftovers},
    machine::{
        ids::Actor,
        message::{AttemptEnd, AttemptOutcome, Command},
    },
    notify::Supervisor,
    store::{Store, StoreConfig, StoreError, disk::RealDisk},
};

pub use crate::engine::chain;

/// A daemon that runs.
pub struct Daemon {
    engine: Engine,
    executor: Executor,
    /// Until its end was taken.
    serving: Option<JoinHandle<Result<(), ServeError>>>,
    stop_serving: CancellationToken,
    streams: TaskTracker,
    drain_timeout: std::time::Duration,
    supervisor: Supervisor,
    /// Tells the supervisor that noxd is alive.
    watchdog: JoinHandle<()>,
    /// Where it listens, for people.
    pub doors: Vec<String>,
}

/// How often, and how soon again, is looked whether something is released: for two seconds in all, which a child on a
/// busy machine may need to run its program.
const LOOKS: u32 = 40;
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("cannot make the data directory {}: {source}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A door.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The runtime ended meanwhile.
    #[error("noxd was stopped while it started")]
    Stopped,
}

/// Why a daemon that ran ended in an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine could not go on.
    #[error(transparent)]
    Engine(#[from] Stopped),
    /// The API could not go on.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Daemon {
    /// Starts everything. When this returns, it serves.
    ///
    /// # Errors
    /// Why it could not start; everything is closed again then.
    #[expect(clippy::disallowed_methods, reason = "their handles are kept, and shut_down ends both")]
    pub async fn start(config: &Config, supervisor: Supervisor) -> Result<Self, StartError> {
        let layout = DataLayout::new(&config.data_dir);
        make_private(&config.data_dir)?;
        // First, since nothing may run in a noxd that cannot serve, nor while the mask for new files is another.
        let is_taken = |error: &DoorError| match error {
            DoorError::Taken(_) => true,
            DoorError::Tcp { source, .. } => source.kind() == std::io::ErrorKind::AddrInUse,
            _ => false,
        };
        let doors = once_released(async || open_doors(config).await, is_taken).await?;
        supervisor.status("recovering");
        let is_locked = |error: &StartError| matches!(error, StartError::Store(StoreError::Locked { .. }));
        let mut engine = once_released(async || open(config, &layout).await, is_locked).await?;
        let store_id = format!("{:032x}", engine.handle.store_id());
        let interrupted = std::mem::take(&mut engine.interrupted);
        supervisor.status("ending what a noxd before this one left running");
        end_leftovers(&store_id, &interrupted, config).await;
        let effects = std::mem::replace(&mut engine.effects, tokio::sync::mpsc::channel(1).1);
        let executor_config = ExecutorConfig {
            layout: layout.clone(),
            store_id,
            grace: config.termination_grace,
            log_cap: config.log_cap,
        };
        let executor = Executor::start(executor_config, engine.handle.clone(), effects);
        report_interrupted(&engine.handle, &interrupted).await;
        // An engine that has stopped meanwhile tells why in `run_until`.
        let _ = engine.handle.begin().await;
        let stop_serving = CancellationToken::new();
        let streams = TaskTracker::new();
        let api = Api {
            engine: engine.handle.clone(),
            layout,
            stop: stop_serving.clone(),
            streams: streams.clone(),
            about: Arc::new(About { started_at: clock::wall_now(), termination_grace: config.termination_grace }),
        };
        let described = doors.iter().map(listen::Door::describe).collect();
        let serving = tokio::spawn(listen::serve(api, doors, stop_serving.clone()));
        // The doors are open and take calls from here on.
        supervisor.ready();
        let watchdog = tokio::spawn(supervisor.clone().watch(engine.handle.clone()));
        Ok(Self {
            engine,
            executor,
            serving: Some(serving),
            stop_serving,
            streams,
            drain_timeout: config.drain_timeout,
            supervisor,
            watchdog,
            doors: described,
        })
    }

    /// Runs until `stop`, then closes everything in order.
    ///
    /// # Errors
    /// Why it could not go on: nothing more was acknowledged from there.
    pub async fn run_until(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let Some(mut serving) = self.serving.take() else { return self.shut_down().await };
        tokio::select! {
            stopped = &mut self.engine.stopped => {
                self.stop_serving.cancel();
                let reason: Arc<str> = "the writer ended unasked; see the log".into();
                return Err(stopped.unwrap_or(Ok(())).err().unwrap_or(Stopped { reason }).into());
            }
            served = &mut serving => {
                // What runs is ended in order all the same.
                self.shut_down().await?;
                return match served {
                    Ok(Err(error)) => Err(error.into()),
                    Ok(Ok(())) | Err(_) => Err(Stopped { reason: "serving ended unasked; see the log".into() }.into()),
                };
            }
            () = stop.cancelled() => {}
        }
        self.serving = Some(serving);
        self.shut_down().await
    }

    /// Ends running attempts without waiting for them or their grace, then closes everything in order.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until).
    pub async fn kill(self) -> Result<(), RunError> {
        self.executor.kill_all();
        self.shut_down().await
    }

    async fn shut_down(self) -> Result<(), RunError> {
        self.supervisor.stopping();
        let drain = Request { wanted: Wanted::Command(Command::Drain), actor: Actor::Noxd, id: None };
        if self.engine.handle.submit(drain).await.is_ok() {
            tracing::info!(running = self.executor.running(), "draining");
        }
        self.executor.shut_down(self.drain_timeout).await;
        self.stop_serving.cancel();
        self.streams.close();
        self.streams.wait().await;
        if let Some(serving) = self.serving
            && let Ok(Err(error)) = serving.await
        {
            tracing::warn!(%error, "serving ended in an error");
        }
        self.watchdog.abort();
        self.engine.handle.stop().await;
        let mut engine = self.engine;
        let outcome = (&mut engine.stopped).await.unwrap_or(Ok(()));
        // The thread has told its end: joining it waits for nothing more.
        engine.join();
        Ok(outcome?)
    }
}

/// Takes something that a noxd before this one may hold for a moment after it was killed: until a child that it was
/// just making runs its program, that child has all of its parent's files.
async fn once_released<T, E>(
    mut take: impl AsyncFnMut() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..LOOKS {
        match take().await {
            Err(error) if is_held(&error) => tokio::time::sleep(LOOK_AGAIN).await,
            taken => return taken,
        }
    }
    take().await
}

fn make_private(directory: &std::path::Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| StartError::DataDir { path: directory.to_path_buf(), source })
}

/// Recovery reads the disk: away from the threads that serve.
#[expect(clippy::disallowed_methods, reason = "where chance enters: the identity of a new store, and the seed")]
async fn open(config: &Config, layout: &DataLayout) -> Result<Engine, StartError> {
    let (store_id, chance) = (uuid::Uuid::new_v4().as_u128(), uuid::Uuid::new_v4().as_u64_pair().0);
    let store_config = StoreConfig { cache_bytes: config.cache_bytes, ..StoreConfig::new(layout.store(), store_id) };
    let engine_config =
        EngineConfig { concurrency_limit: config.concurrency_limit, seed: chance, at_once: executor::at_once };
    let opened = tokio::task::spawn_blocking(move || -> Result<Engine, StartError> {
        let store = Store::open(store_config, Arc::new(RealDisk))?;
        Ok(Engine::open(engine_config, store)?)
    });
    opened.await.map_err(|_| StartError::Stopped)?
}

/// Processes of a dead noxd on this store are ended before their tasks are tried again (S-RETRY-7, S-SAFE-4).
async fn end_leftovers(store_id: &str, interrupted: &[LostAttempt], config: &Config) {
    use crate::executor::process::ProcessIdentity;
    let known: Vec<ProcessIdentity> = interrupted
        .iter()
        .filter_map(|lost| lost.process.as_ref())
        .map(|process| ProcessIdentity {
            pid: process.pid,
            start_time: process.start_time,
            boot_id: process.boot_id.to_string(),
        })
        .collect();
    let ended = leftovers::end_all(store_id, &config.data_dir, &known, config.termination_grace).await;
    if ended > 0 {
        tracing::info!(ended, "ended processes that a noxd before this one had left behind");
    }
}

async fn report_interrupted(engine: &Handle, interrupted: &[LostAttempt]) {
    if interrupted.is_empty() {
        return;
    }
    tracing::info!(attempts = interrupted.len(), "attempts were interrupted; their tasks are queued again");
    for some in interrupted.chunks(1_000) {
        let facts = some.iter().map(|lost| Command::AttemptEnded {
            attempt: lost.key,
            outcome: Box::new(AttemptOutcome::bare(AttemptEnd::Interrupted("noxd went down while it ran"))),
        });
        // An engine that has stopped tells so itself.
        let _ = engine.report(facts.collect()).await;
    }
}

async fn open_doors(config: &Config) -> Result<Vec<listen::Door>, DoorError> {
    let mut doors = Vec::new();
    if let Some(socket) = &config.socket {
        doors.push(listen::unix(socket).await?);
    }
    if let Some(address) = config.listen {
        doors.push(listen::tcp(address, config.insecure).await?);
    }
    Ok(doors)
}
