//! Ending processes: the one way, whatever the cause (cancel, timeout, shutdown, leftovers of an attempt that
//! ended by itself, leftovers of a dead daemon).
//!
//! SIGTERM (and SIGCONT, so that a stopped process can act on it), a grace, SIGKILL, then look again until a
//! census finds nobody; whoever forks faster than that is stopped first (`hunt`). Who belongs is a [`Roster`]: the group and
//! session of its root, everybody who carries its tag or its `NOX_*` variables (a grandchild that called setsid), their
//! descendants, and everybody who was seen to belong once. Every single process is signalled through a pidfd whose start time was checked; a whole group only while
//! an unreaped root of ours keeps its id from being used again.
//!
//! It does not reap the root and knows nothing of pipes. Read first: [`Roster`], then [`end`].

use std::collections::BTreeSet;
use std::io;
use std::pin::pin;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};
use tokio::time::{sleep, timeout};

use super::census::{Census, Mark, Process, raw_pid};
use super::hunt;
use super::tag::Tag;

/// How long SIGKILL is given to take effect before a process counts as impossible to end.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Who is to be ended.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Everybody seen to belong, dead or alive.
    known: BTreeSet<Mark>,
    /// Those of them that were signalled.
    signalled: BTreeSet<Mark>,
    /// First processes of sessions. While a census shows one, zombie or not, its pid means its group and session.
    roots: Vec<Mark>,
    /// The group of a root that is our own unreaped child: its id cannot be used again, so it may be signalled whole.
    pinned_group: Option<u32>,
    /// `NAME=value` entries that a member's environment holds all of. Empty: nobody is known by environment.
    variables: Vec<Vec<u8>>,
    /// What a member carries as its limits.
    tag: Option<Tag>,
    /// Pids never to be touched.
    spared: Vec<u32>,
}

impl Roster {
    /// The processes of an attempt, whose first one, `root`, is a child of ours that nobody else reaps.
    pub(super) fn of_attempt(root: Mark, variables: Vec<Vec<u8>>, tag: Option<Tag>) -> Self {
        let spared = vec![std::process::id()];
        Self { roots: vec![root], pinned_group: Some(root.pid), variables, tag, spared, ..Self::default() }
    }

    /// The processes that a dead daemon left: the sessions of `roots` and whoever carries `variables` or `tag`, but
    /// never one of `spared`.
    pub(super) fn of_strays(roots: Vec<Mark>, variables: Vec<Vec<u8>>, tag: Option<Tag>, spared: Vec<u32>) -> Self {
        Self { roots, variables, tag, spared, ..Self::default() }
    }

    /// These very processes, whoever carries `tag`, and their descendants.
    pub(super) fn of_orphans(known: Vec<Mark>, tag: Option<Tag>) -> Self {
        Self { known: known.into_iter().collect(), tag, spared: vec![std::process::id()], ..Self::default() }
    }

    /// Whether `pid` is never to be touched.
    #[cfg(test)]
    pub(super) fn spares(&self, pid: u32) -> bool {
        self.spared.contains(&pid)
    }

    /// Who belongs and is alive now.
    async fn alive(&mut self) -> io::Result<Vec<Mark>> {
        Ok(self.members(&*Census::taken_after_now().await?))
    }

    fn members(&mut self, census: &Census) -> Vec<Mark> {
        let rooted: Vec<u32> = self
            .roots
            .iter()
            .filter(|root| census.find(root.pid).is_some_and(|p| p.mark == **root))
            .map(|r| r.pid)
            .collect();
        let oldest = self.oldest();
        let mut members = Vec::new();
        let mut others = Vec::new();
        for process in census.processes.iter().filter(|process| !self.spared.contains(&process.mark.pid)) {
            let belongs = self.known.contains(&process.mark)
                || rooted.contains(&process.group)
                || rooted.contains(&process.session)
                // An attempt's processes are no older than its first: the others' limits and environments stay unread.
                || (oldest.is_none_or(|oldest| process.mark.start_time >= oldest) && self.carries_sign(process));
            if belongs { members.push(process) } else { others.push(process) }
        }
        // The descendants, a generation at a time: a child of a member is a member.
        let mut parents: BTreeSet<u32> = members.iter().map(|process| process.mark.pid).collect();
        while !parents.is_empty() {
            let (children, rest): (Vec<_>, Vec<_>) =
                others.into_iter().partition(|p: &&Process| parents.contains(&p.parent));
            parents = children.iter().map(|process| process.mark.pid).collect();
            members.extend(children);
            others = rest;
        }
        // A daemon's strays are never ours to reap: it was not us who started them.
        if self.pinned_group.is_some() {
            let dead = members.iter().filter(|process| !process.alive && !self.roots.contains(&process.mark));
            dead.for_each(|process| reap_adopted(process));
        }
        let alive: Vec<Mark> = members.iter().filter(|process| process.alive).map(|process| process.mark).collect();
        self.known.extend(&alive);
        alive
    }

    fn carries_sign(&self, process: &Process) -> bool {
        let carried = self.tag.zip(process.carried());
        if carried.is_some_and(|(tag, carried)| tag.is_another(carried)) {
            return false;
        }
        carried.is_some_and(|(tag, carried)| tag.is_on(carried)) || self.carries_variables(process)
    }

    fn carries_variables(&self, process: &Process) -> bool {
        !self.variables.is_empty() && self.variables.iter().all(|variable| process.nox_variables().contains(variable))
    }

    /// Whether a process belongs by itself, whatever its parents are.
    pub(super) fn is_shown_by(&self, process: &Process) -> bool {
        let is_old = self.oldest().is_some_and(|oldest| process.mark.start_time < oldest);
        !self.spared.contains(&process.mark.pid)
            && (self.known.contains(&process.mark) || (!is_old && self.carries_sign(process)))
    }

    /// Whether somebody may be there whom no census has shown: where there was more than the one process that we have
    /// started, or we did not start them.
    fn can_hide(&self) -> bool {
        self.pinned_group.is_none() && !self.signalled.is_empty() || self.known.len() > 1
    }

    /// When the first process of an attempt started: its others are no older.
    fn oldest(&self) -> Option<u64> {
        self.pinned_group.and_then(|_| self.roots.iter().map(|root| root.start_time).min())
    }

    /// Sends `signal` to all of `members`. A refusal is told to the log: nobody else could do better.
    fn signal<'a>(&mut self, members: impl IntoIterator<Item = &'a Mark> + Clone, signal: Signal) {
        self.signalled.extend(members.clone());
        // The group first and at once: it has no gap through which a fork could slip.
        if let Some(group) = self.pinned_group.and_then(raw_pid)
            && let Err(error) = rustix::process::kill_process_group(group, signal)
            && error != Errno::SRCH
        {
            tracing::warn!(group = group.as_raw_pid(), %error, "a process group could not be signalled");
        }
        for member in members {
            let in_group = self.pinned_group.is_some()
                && Process::read(member.pid)
                    .is_ok_and(|now| now.mark == *member && Some(now.group) == self.pinned_group);
            if !in_group && let Err(error) = member.signal(signal) {
                tracing::warn!(pid = member.pid, %error, "a process could not be signalled");
            }
        }
    }
}

/// How long each kind of end is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Before SIGTERM: for those who are on the last steps of an exit of their own.
    pub(super) settle: Duration,
    /// After SIGTERM, before SIGKILL.
    pub(super) grace: Duration,
}

/// How an ending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// How many processes had to be ended and are gone.
    pub(super) ended: usize,
    /// How many would not go.
    pub(super) survivors: usize,
}

/// Ends everybody on the roster: at most the grace after SIGTERM, or as soon as `hurry` is ready, comes SIGKILL.
/// Returns when nobody is left, or [`KILL_PATIENCE`] after SIGKILL; survivors are told to the log.
///
/// Whoever is found first is asked once: who was forked in the grace may be the clean-up of somebody asked, and is
/// left to its parent as long as that one lives.
pub(super) async fn end(roster: &mut Roster, patience: Patience, hurry: impl Future<Output = ()>) -> Ending {
    let survivors = match end_or_say_why(roster, patience, hurry).await {
        Ok(survivors) => survivors,
        Err(error) => {
            tracing::error!(%error, "the process table cannot be read: only the process group was killed");
            roster.signal([], Signal::KILL);
            0
        }
    };
    Ending { ended: roster.signalled.len().saturating_sub(survivors), survivors }
}

async fn end_or_say_why(roster: &mut Roster, patience: Patience, hurry: impl Future<Output = ()>) -> io::Result<usize> {
    let mut left = roster.alive().await?;
    if !patience.settle.is_zero() && !left.is_empty() {
        // Too long is the usual case, and what the rest of this function is for.
        timeout(patience.settle, all_ended(&left)).await.unwrap_or_default();
        left = roster.alive().await?;
    }
    let mut hurry = pin!(hurry);
    let mut grace_ends = pin!(sleep(patience.grace));
    let mut polite = true;
    while polite && !left.is_empty() {
        roster.signal(&left, Signal::TERM);
        roster.signal(&left, Signal::CONT);
        tokio::select! {
            // The ends of patience first: a process that forks and exits for ever keeps the last branch ready.
            biased;
            () = &mut hurry => polite = false,
            () = &mut grace_ends => polite = false,
            () = all_ended(&left) => left = roster.alive().await?,
        }
    }
    let mut patience_ends = pin!(sleep(KILL_PATIENCE));
    let mut killed: BTreeSet<Mark> = BTreeSet::new();
    loop {
        while !left.is_empty() {
            // The census is taken again first: members may have come since.
            let mut now: BTreeSet<Mark> = roster.alive().await?.into_iter().chain(left).collect();
            if !killed.is_empty() && !now.is_subset(&killed) {
                // They fork while they are killed: whoever dies makes room for another.
                roster.signal(&now, Signal::STOP);
                now.extend(hunt::stop_all(roster).await?);
            }
            roster.signal(&now, Signal::KILL);
            killed.extend(&now);
            tokio::select! {
                biased;
                () = &mut patience_ends => {
                    for mark in &now {
                        tracing::error!(pid = mark.pid, "a process cannot be ended even by SIGKILL; noxd gives it up");
                    }
                    return Ok(now.len());
                }
                () = all_ended(&now) => left = roster.alive().await?,
            }
        }
        if !roster.can_hide() {
            return Ok(0);
        }
        left = hunt::stop_all(roster).await?;
        if left.is_empty() {
            return Ok(0);
        }
    }
}

/// Waits for one after the other: all have to go, so the order does not matter and one descriptor is enough.
async fn all_ended(members: impl IntoIterator<Item = &Mark>) {
    for member in members {
        if let Err(error) = member.ended().await {
            // Out of descriptors, say. The deadline of our caller still holds.
            tracing::warn!(pid = member.pid, %error, "a process cannot be waited for");
            std::future::pending::<()>().await;
        }
    }
}

/// As pid 1 of a container, or as a subreaper, noxd inherits orphans: dead members of an attempt that nobody else
/// will reap. They are in the attempt's session or were seen alive in it, so no other part of noxd waits for them.
fn reap_adopted(process: &Process) {
    if process.parent == std::process::id()
        && let Some(pid) = raw_pid(process.mark.pid)
        && let Err(error) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)
    {
        tracing::debug!(pid = process.mark.pid, %error, "an orphan was reaped by somebody else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [u32; 0] = [];
    const ROOT: Mark = Mark { pid: 100, start_time: 50 };

    fn attempt() -> Roster {
        let tag = Tag::of_attempt(["s", "e", "t", "1"]);
        Roster::of_attempt(ROOT, vec![b"NOX_STORE_ID=s".to_vec(), b"NOX_ATTEMPT=1".to_vec()], Some(tag))
    }

    /// Pids that belong according to a census of `processes`: pid, parent, group and session, start time, variables.
    fn members(roster: &mut Roster, processes: &[(u32, u32, u32, u64, &[&str])]) -> Vec<u32> {
        let processes = processes.iter().map(|(pid, parent, session, start_time, variables)| {
            Process::imagined(Mark { pid: *pid, start_time: *start_time }, *parent, *session, variables)
        });
        let mut members: Vec<u32> =
            roster.members(&Census::imagined(processes.collect())).iter().map(|mark| mark.pid).collect();
        members.sort_unstable();
        members
    }

    // S-STATE-8
    #[test]
    fn the_session_the_carriers_of_all_variables_and_their_descendants_belong() {
        let all: &[&str] = &["NOX_ATTEMPT=1", "NOX_OUTPUT=/x", "NOX_STORE_ID=s"];
        let found = members(
            &mut attempt(),
            &[
                (1, 0, 1, 0, &[]),
                (100, 7, 100, 50, &[]),
                (101, 100, 100, 51, &[]),
                (102, 1, 102, 52, all),
                (105, 104, 105, 55, &[]),
                (104, 102, 104, 54, &[]),
                (106, 1, 106, 56, &["NOX_STORE_ID=s", "NOX_ATTEMPT=2"]),
                (107, 1, 107, 57, &["NOX_STORE_ID=s"]),
                (99, 1, 99, 49, all),
            ],
        );
        assert_eq!(found, [100, 101, 102, 104, 105], "not the next attempt, not what is older than this one");
    }

    // S-STATE-8
    #[test]
    fn who_carries_the_tag_belongs_whatever_else_it_has_shed() {
        let imagined = |pid, start_time| Process::imagined(Mark { pid, start_time }, 1, pid, &[]);
        let tag = |attempt| Tag::of_attempt(["s", "e", "t", attempt]);
        let store = Tag::of_store("s", std::path::Path::new("/s"));
        let found = attempt().members(&Census::imagined(vec![
            imagined(101, 51).tagged(tag("1")),
            imagined(102, 52).tagged(tag("2")),
            imagined(103, 53).tagged(store),
            imagined(99, 49).tagged(tag("1")),
        ]));
        assert_eq!(found, [Mark { pid: 101, start_time: 51 }]);
        let mut strays = Roster::of_strays(vec![], vec![], Some(store), vec![103]);
        let census = vec![imagined(101, 51).tagged(store), imagined(103, 53).tagged(store), imagined(104, 54)];
        assert_eq!(strays.members(&Census::imagined(census)), [Mark { pid: 101, start_time: 51 }]);
    }

    // S-SAFE-4
    #[test]
    fn a_root_whose_pid_was_used_again_means_neither_itself_nor_its_session() {
        let mut roster = Roster::of_strays(vec![ROOT], vec![], None, vec![]);
        assert_eq!(members(&mut roster, &[(100, 1, 100, 51, &[]), (101, 100, 100, 52, &[])]), NOBODY);
        assert_eq!(members(&mut roster, &[(101, 1, 100, 52, &["NOX_STORE_ID=s"])]), NOBODY, "and so without any root");
    }

    // S-STATE-8
    #[test]
    fn who_belonged_once_belongs_when_its_parent_is_gone_but_a_new_holder_of_its_pid_does_not() {
        let mut roster = attempt();
        assert_eq!(members(&mut roster, &[(100, 7, 100, 50, &[]), (101, 100, 101, 51, &[])]), [100, 101]);
        assert_eq!(members(&mut roster, &[(101, 1, 101, 51, &[])]), [101]);
        assert_eq!(members(&mut roster, &[(101, 1, 101, 60, &[])]), NOBODY);
    }

    #[test]
    fn we_are_never_a_member_whatever_we_carry() {
        let all: &[&str] = &["NOX_ATTEMPT=1", "NOX_STORE_ID=s"];
        assert_eq!(members(&mut attempt(), &[(std::process::id(), 100, 100, 60, all)]), NOBODY);
    }
}
