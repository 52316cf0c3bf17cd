//! Processes whose parents have died come to noxd, not to the machine's first process: reaped when they end, and ended
//! when no attempt is left that can have made them.
//!
//! A process that left its session, cleared its environment and took off its [`tag`](super::tag) belongs to nobody that
//! `termination` could ask for. But its parents' line ends at noxd, and noxd starts nothing but attempts. So a child of
//! noxd that noxd did not start is of an attempt that began before it; once those have all ended, it is a leftover. One
//! that still names an attempt is a leftover as soon as that one has ended.
//! Where a stranger could become a child of noxd (as the first process of a container, or when noxd was started with
//! children), orphans are only reaped. Those of a dead noxd are not seen here: `leftovers`.
//!
//! Read first: [`adopt`], then [`strangers`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::WaitOptions;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    census::{Census, Mark, Process, raw_pid},
    tag::{Carried, Tag},
    termination::{self, Patience, Roster},
};

/// How soon orphans are looked for again: a pass over `/proc` each time.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a look is tried while programs are being started, [`MOMENT`] apart, before it is put off.
const TRIES: usize = 50;
const MOMENT: Duration = Duration::from_millis(10);

/// What noxd itself has started, and is starting.
static CHILDREN: Mutex<Children> =
    Mutex::new(Children { started: BTreeMap::new(), starting: BTreeSet::new(), next_start: 0 });

/// Something was reaped.
static REAPED: Notify = Notify::const_new();

/// What noxd itself has started and not yet reaped.
pub(super) struct Children {
    /// By pid, with the start time where it is known. A pid in here cannot be used again.
    started: BTreeMap<u32, First>,
    /// Starts that have begun, and whose child may be there without being known.
    starting: BTreeSet<u64>,
    next_start: u64,
}

impl Children {
    /// The strangers among `seen`, unless a start that began before `horizon` goes on.
    fn strangers_after(&self, horizon: u64, seen: &[&Process]) -> Option<Vec<Orphan>> {
        self.starting.first().is_none_or(|oldest| *oldest >= horizon).then(|| strangers(seen, &self.started))
    }
}

/// The first process of an attempt.
#[derive(Clone, Copy)]
struct First {
    /// Where it is known already.
    start_time: Option<u64>,
    tag: Option<Tag>,
}

/// A start that has begun. Until it is dropped, nobody takes its child for an orphan.
pub(super) struct Start(u64);

impl Start {
    /// Begins one.
    pub(super) fn begin() -> Self {
        let mut children = children();
        let number = children.next_start;
        children.next_start += 1;
        children.starting.insert(number);
        Self(number)
    }

    /// Its child is there. It is known until [`reap`] has taken its end.
    pub(super) fn gave(&self, pid: u32, start_time: Option<u64>, tag: Option<Tag>) {
        children().started.insert(pid, First { start_time, tag });
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        children().starting.remove(&self.0);
    }
}

/// Takes the end of a child that noxd started: `wait` says whether it has ended.
pub(super) fn reap<T>(pid: u32, wait: impl FnOnce() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    // Under the lock: once it is reaped, its pid can be that of another start.
    let mut children = children();
    let reaped = wait()?;
    if reaped.is_some() {
        children.started.remove(&pid);
        REAPED.notify_one();
    }
    Ok(reaped)
}

fn children() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes noxd the one to whom orphans of its attempts come, and minds them for ever.
pub(super) async fn adopt(grace: Duration) {
    let ourselves = rustix::process::getpid();
    if let Err(error) = rustix::process::set_child_subreaper(Some(ourselves)) {
        tracing::warn!(%error, "orphans of tasks go to the first process of the machine");
    }
    let Ok(mut ends) = signal(SignalKind::child()) else { return };
    // Who was there before can have children that are no attempt's.
    let may_end = !ourselves.is_init() && matches!(orphans().await, Ok(Some(before)) if before.is_empty());
    loop {
        tokio::select! {
            _ = ends.recv() => {}
            () = REAPED.notified() => {}
        }
        sleep_until(next_look()).await;
        match orphans().await {
            Ok(Some(orphans)) => mind(orphans, may_end, grace).await,
            Ok(None) => REAPED.notify_one(),
            Err(error) => {
                tracing::warn!(%error, "the process table cannot be read: orphans of tasks are not looked for");
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a pause between two looks; nothing depends on its length")]
fn next_look() -> Instant {
    Instant::now() + PAUSE
}

/// A process that came to noxd when its parent died.
struct Orphan {
    mark: Mark,
    alive: bool,
    /// The attempt of which it says that it is.
    tag: Option<Tag>,
    /// That attempt, or if it does not say any that can have made it, still runs.
    may_belong: bool,
}

/// Children of noxd that it did not start; `None` if that cannot be told now.
async fn orphans() -> io::Result<Option<Vec<Orphan>>> {
    let census = Census::taken_after_now().await?;
    let is_child = |process: &&Process| process.parent == std::process::id();
    let seen: Vec<&Process> = census.processes.iter().filter(is_child).collect();
    // Whoever was being started while the census came by has to be known first; that takes milliseconds.
    let horizon = children().next_start;
    for _ in 0..TRIES {
        if let Some(orphans) = children().strangers_after(horizon, &seen) {
            return Ok(Some(orphans));
        }
        tokio::time::sleep(MOMENT).await;
    }
    Ok(None)
}

fn strangers(seen: &[&Process], started: &BTreeMap<u32, First>) -> Vec<Orphan> {
    // One whose start time is not known may be the oldest of all.
    let oldest = started.values().map(|first| first.start_time.unwrap_or(0)).min();
    let is_ours = |process: &Process| {
        let first = started.get(&process.mark.pid);
        first.is_some_and(|first| first.start_time.is_none_or(|known| known == process.mark.start_time))
    };
    let orphan = |process: &Process| {
        let tag = process.carried().and_then(Carried::attempt);
        let may_belong = match tag {
            Some(tag) => started.values().any(|first| first.tag == Some(tag)),
            None => oldest.is_some_and(|oldest| oldest <= process.mark.start_time),
        };
        Orphan { mark: process.mark, alive: process.alive, tag, may_belong }
    };
    seen.iter().filter(|process| !is_ours(process)).map(|process| orphan(process)).collect()
}

async fn mind(orphans: Vec<Orphan>, may_end: bool, grace: Duration) {
    let (mut left, mut tags) = (Vec::new(), Vec::new());
    for orphan in orphans {
        if !orphan.alive {
            take_end(orphan.mark);
        } else if may_end && !orphan.may_belong {
            left.push(orphan.mark);
            tags.extend(orphan.tag.filter(|tag| !tags.contains(tag)));
        }
    }
    if left.is_empty() {
        return;
    }
    let patience = Patience { settle: Duration::ZERO, grace };
    let mut ended = 0;
    // By its tag each with all of its attempt, which may fork on; then those without.
    for tag in tags.into_iter().map(Some).chain([None]) {
        let mut roster = Roster::of_orphans(std::mem::take(&mut left), tag);
        ended += termination::end(&mut roster, patience, std::future::pending()).await.ended;
    }
    tracing::info!(ended, "ended processes that hid from the attempts that left them behind");
}

/// Reaps an orphan that has ended. Not if noxd has started another with its pid since.
fn take_end(orphan: Mark) {
    let children = children();
    let Some(pid) = raw_pid(orphan.pid).filter(|_| !children.started.contains_key(&orphan.pid)) else { return };
    if let Err(error) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
        tracing::debug!(pid = orphan.pid, %error, "an orphan was reaped by somebody else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S-SAFE-4
    #[test]
    fn an_orphan_may_belong_to_the_attempt_that_it_names_or_else_to_any_that_began_before_it() {
        let tag = |attempt: &str| Tag::of_attempt(["s", "e", "t", attempt]);
        let child = |pid, start_time| Process::imagined(Mark { pid, start_time }, std::process::id(), pid, &[]);
        let (root, orphan, early, tagged) =
            (child(10, 50), child(11, 60), child(12, 40), child(13, 60).tagged(tag("1")));
        let told = |started: &[(u32, u64, &str)]| {
            let first = |start_time, name: &str| First { start_time: Some(start_time), tag: Some(tag(name)) };
            let started = started.iter().map(|(pid, start_time, name)| (*pid, first(*start_time, name))).collect();
            let found = strangers(&[&root, &orphan, &early, &tagged], &started);
            found.iter().map(|orphan| (orphan.mark.pid, orphan.may_belong)).collect::<Vec<_>>()
        };
        assert_eq!(told(&[(10, 50, "1")]), [(11, true), (12, false), (13, true)], "what is older is not of it");
        assert_eq!(told(&[(10, 50, "2")]), [(11, true), (12, false), (13, false)], "nor what names another");
        assert_eq!(told(&[(10, 50, "2"), (9, 30, "3")]), [(11, true), (12, true), (13, false)]);
        assert_eq!(told(&[(10, 49, "1")]).len(), 4, "a pid that was used again is another process");
        assert_eq!(told(&[(99, 70, "2")]), [(10, false), (11, false), (12, false), (13, false)]);
    }
}
