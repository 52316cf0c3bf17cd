//! What noxd tells the supervisor that started it: that it is ready, what it does, that it is alive, that it stops.
//!
//! The protocol of `sd_notify(3)`: datagrams of `NAME=value` to the Unix socket named by `NOTIFY_SOCKET`. Without that
//! variable nobody asked, and nothing is sent. What cannot be sent is told to the log: no supervisor may stop noxd by
//! not listening. Read first: [`Supervisor`].

use std::{
    ffi::OsString,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use crate::engine::Handle;

/// Who started noxd, if that wants to be told.
#[derive(Clone, Debug)]
pub struct Supervisor {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours).map(Duration::from_micros);
        match std::env::var_os("NOTIFY_SOCKET").map(open).transpose() {
            Ok(socket) => Self { socket: socket.map(Arc::new), watchdog },
            Err(error) => {
                tracing::warn!(%error, "the supervisor's NOTIFY_SOCKET cannot be used: it is not told that noxd is ready");
                Self::nobody()
            }
        }
    }

    /// Nobody who wants to be told.
    pub fn nobody() -> Self {
        Self { socket: None, watchdog: None }
    }

    /// noxd serves.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// noxd ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// What noxd does now, in one line.
    pub fn status(&self, words: &str) {
        self.tell(&format!("STATUS={words}"));
    }

    /// Tells, until the engine stops, that noxd is alive, as often as it was asked to, and only as long as the writer answers: it is
    /// what everything waits for.
    pub async fn watch(self, engine: Handle) {
        let Some(most) = self.watchdog.filter(|_| self.socket.is_some()) else { return };
        // Twice in the time given, as sd_watchdog_enabled(3) recommends.
        let mut interval = tokio::time::interval(most / 2);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            // Answered by the writer when it has nothing before it.
            if engine.submit_all(Vec::new()).await.is_err() {
                return;
            }
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, words: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.0.send_to_addr(words.as_bytes(), &socket.1) {
            tracing::warn!(%error, words, "the supervisor could not be told");
        }
    }
}

/// A path, or with `@` a name that is in no directory.
fn open(name: OsString) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not read must not hold up anything.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
