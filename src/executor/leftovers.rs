//! At start-up: ends the processes that a dead daemon left behind, before their tasks are tried again (S-SAFE-4).
//!
//! They are found twice over. By identity: pid, start time and boot of the attempts that the store knows; the
//! session of such a process goes with it. By what they inherited: whoever carries the store's [`tag`](super::tag), or
//! is of our own uid and carries our `NOX_STORE_ID`. That closes the gap between a fork and its durable record, and
//! finds grandchildren that called setsid.
//! A pid that was used again is a stranger and is left alone, and so are its group and session.
//!
//! Read first: [`end_all`].

use std::{path::Path, time::Duration};

use super::census::{Census, Mark, ProcessIdentity, boot_id};
use super::tag::Tag;
use super::termination::{self, Patience, Roster};

/// Ends every process that an earlier daemon of the store `store_id` at `place` left, those of `known` and all that carry the
/// id, in the usual way: SIGTERM, `grace`, SIGKILL. Returns how many were ended once they are gone.
///
/// Call it before the first attempt is started: it cannot tell this daemon's attempts from the last one's. This
/// process and its ancestors are spared, also when noxd itself was started from a task of the same store. An empty
/// `store_id` matches nobody. What cannot be done is told to the log.
pub async fn end_all(store_id: &str, place: &Path, known: &[ProcessIdentity], grace: Duration) -> usize {
    match roster(store_id, place, known).await {
        Ok(mut roster) => {
            termination::end(&mut roster, Patience { settle: Duration::ZERO, grace }, std::future::pending())
                .await
                .ended
        }
        Err(error) => {
            tracing::error!(%error, "the process table cannot be read: processes of an earlier noxd may still run");
            0
        }
    }
}

async fn roster(store_id: &str, place: &Path, known: &[ProcessIdentity]) -> std::io::Result<Roster> {
    let boot = boot_id()?;
    let roots: Vec<Mark> =
        known.iter().filter(|identity| identity.boot_id == boot).map(ProcessIdentity::mark).collect();
    let variables = if store_id.is_empty() { vec![] } else { vec![format!("NOX_STORE_ID={store_id}").into_bytes()] };
    let census = Census::taken_after_now().await?;
    let tag = (!store_id.is_empty()).then(|| Tag::of_store(store_id, place));
    Ok(Roster::of_strays(roots, variables, tag, ourselves_and_ancestors(&census)))
}

fn ourselves_and_ancestors(census: &Census) -> Vec<u32> {
    let mut line = vec![std::process::id()];
    let parent = |pid: u32| census.find(pid).map(|process| process.parent);
    while let Some(next) = line.last().and_then(|pid| parent(*pid)).filter(|pid| *pid != 0 && !line.contains(pid)) {
        line.push(next);
    }
    line
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Instant;

    use super::super::census::Process;
    use super::super::tag;
    use super::*;

    const GRACE: Duration = Duration::from_millis(200);
    const HERE: &str = "/here";

    /// A process in a session of its own that ignores SIGTERM, with `variable` in its environment. It is our child,
    /// so a test that fails can still end it.
    struct Stray(Child);

    impl Stray {
        fn start(folder: &Path, variable: (&str, &str), script: &str) -> Self {
            let ready = folder.join("ready");
            std::fs::remove_file(&ready).unwrap_or_default();
            let script = format!("trap '' TERM; {script} echo > ready; while :; do sleep 1; done");
            let mut command = Command::new("setsid");
            command.args(["sh", "-c", &script]).env(variable.0, variable.1).current_dir(folder);
            // With no tag on it: it is of none of the attempts that other tests start, and then end.
            let stray = Self(tag::dressed(None, || command.spawn()).unwrap());
            let since = Instant::now();
            while !ready.exists() {
                assert!(since.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(2));
            }
            stray
        }

        fn identity(&self) -> ProcessIdentity {
            ProcessIdentity::of(self.0.id()).unwrap()
        }

        fn lives(&self) -> bool {
            lives(self.0.id())
        }
    }

    impl Drop for Stray {
        fn drop(&mut self) {
            // Ended already, as it should be, in most tests.
            self.0.kill().unwrap_or_default();
            self.0.wait().unwrap();
        }
    }

    fn lives(pid: u32) -> bool {
        Process::read(pid).is_ok_and(|process| process.alive)
    }

    // S-SAFE-4
    #[tokio::test]
    async fn a_process_the_store_knows_is_ended_with_its_session() {
        let room = tempfile::tempdir().unwrap();
        let script = "sh -c 'trap \"\" TERM; echo $$ > member; while :; do sleep 1; done' & while [ ! -s member ]; do sleep 0.01; done;";
        let stray = Stray::start(room.path(), ("X", "x"), script);
        let member = std::fs::read_to_string(room.path().join("member")).unwrap().trim().parse().unwrap();
        let since = Instant::now();
        let ended = end_all("", Path::new(HERE), &[stray.identity()], GRACE).await;
        assert!(ended >= 2 && since.elapsed() < GRACE + Duration::from_secs(2), "{ended} in {:?}", since.elapsed());
        assert!(!stray.lives() && !lives(member));
    }

    // S-SAFE-4
    #[tokio::test]
    async fn a_process_the_store_never_heard_of_is_ended_by_the_id_it_carries_and_others_are_not() {
        let room = tempfile::tempdir().unwrap();
        let store = format!("ours-{}", std::process::id());
        let ours = Stray::start(room.path(), ("NOX_STORE_ID", &store), "");
        let theirs = Stray::start(room.path(), ("NOX_STORE_ID", &format!("{store}0")), "");
        assert!(end_all(&store, Path::new(HERE), &[], GRACE).await >= 1);
        assert!(!ours.lives() && theirs.lives());
        assert_eq!(end_all(&store, Path::new(HERE), &[], GRACE).await, 0, "nobody is left to be ended");
    }

    // S-SAFE-4
    #[tokio::test]
    async fn a_stranger_with_a_reused_pid_or_from_another_boot_is_spared() {
        let room = tempfile::tempdir().unwrap();
        let stranger = Stray::start(room.path(), ("X", "x"), "");
        let seen = stranger.identity();
        let reused = ProcessIdentity { start_time: seen.start_time - 1, ..seen.clone() };
        let other_boot = ProcessIdentity { boot_id: "00000000-0000-0000-0000-000000000000".to_owned(), ..seen };
        let nobody = ProcessIdentity { pid: u32::MAX, ..reused.clone() };
        assert_eq!(end_all("", Path::new(HERE), &[reused, other_boot, nobody], GRACE).await, 0);
        assert!(stranger.lives());
    }

    // S-SAFE-4
    #[tokio::test]
    async fn noxd_and_its_ancestors_are_never_ended() {
        let ourselves = ProcessIdentity::of(std::process::id()).unwrap();
        let parent = ProcessIdentity::of(std::os::unix::process::parent_id()).unwrap();
        let roster = roster("some-store", Path::new(HERE), &[ourselves.clone(), parent.clone()]).await.unwrap();
        assert!(roster.spares(ourselves.pid) && roster.spares(parent.pid));
        assert!(roster.spares(1) || parent.pid == 0, "up to the first process");
    }
}
