//! Stories of attempts. Each has a room of its own: a directory, a store id, and identities nobody else carries.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::super::census::Process;
use super::super::logs::{LogStream, read_frames};
use super::*;

/// Far beyond what any wait here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

struct Room {
    dir: TempDir,
}

impl Room {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, argv: &[&str]) -> ProcessSpec {
        static ATTEMPTS: AtomicU32 = AtomicU32::new(1);
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed).to_string();
        let store = format!("test-{}", std::process::id());
        let identity = [("STORE_ID", &*store), ("EXECUTION_ID", "e"), ("TASK_ID", "t"), ("ATTEMPT", &attempt)];
        ProcessSpec {
            activity: Arc::default(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: vec![],
            identity: identity.map(|(name, value)| (format!("NOX_{name}"), value.to_owned())).into(),
            working_dir: self.dir.path().to_path_buf(),
            stdin: None,
            output_file: self.path("output"),
            log_file: self.path("log"),
            log_cap: DEFAULT_LOG_CAP,
            json_output: false,
            grace: Duration::from_secs(10),
        }
    }

    fn script(&self, script: &str) -> ProcessSpec {
        self.command(&["sh", "-c", script])
    }

    /// What the log holds of one stream.
    fn logged(&self, stream: LogStream) -> Vec<u8> {
        let frames = read_frames(&self.path("log"), 0, usize::MAX).unwrap();
        frames.into_iter().filter(|frame| frame.stream == stream).flat_map(|frame| frame.bytes).collect()
    }

    fn notes(&self) -> String {
        String::from_utf8(self.logged(LogStream::Note)).unwrap()
    }

    /// Waits until the program has written a whole line to `name`, which it does as a sign that it is ready.
    async fn written(&self, name: &str) -> String {
        let path = self.path(name);
        let line = || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'));
        let since = Instant::now();
        loop {
            match line() {
                Some(line) => return line.trim().to_owned(),
                None => assert!(since.elapsed() < DEADLINE, "{name} was never written"),
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn finish(spec: ProcessSpec) -> ProcessReport {
    let (_stopper, signal) = Stopper::new();
    tokio::time::timeout(DEADLINE, run(spec, signal, |_| {})).await.expect("the attempt ends")
}

/// Runs `spec` and meanwhile `act`, which holds the stopper.
async fn finish_while(spec: ProcessSpec, act: impl AsyncFnOnce(Stopper)) -> ProcessReport {
    let (stopper, signal) = Stopper::new();
    let attempt = tokio::time::timeout(DEADLINE, run(spec, signal, |_| {}));
    tokio::join!(attempt, act(stopper)).0.expect("the attempt ends")
}

fn lives(pid: &str) -> bool {
    Process::read(pid.parse().unwrap()).is_ok_and(|process| process.alive)
}

/// Waits until the process has ended.
async fn gone(pid: &str) {
    let since = Instant::now();
    while lives(pid) {
        assert!(since.elapsed() < DEADLINE, "{pid} still lives");
        sleep(Duration::from_millis(2)).await;
    }
}

fn output(report: &ProcessReport) -> &str {
    std::str::from_utf8(report.output.as_ref().unwrap()).unwrap()
}

fn spawn_failure(report: ProcessReport) -> String {
    assert!(report.output.is_err() && report.stopped.is_none());
    match report.end {
        ProcessEnd::SpawnFailed { message } => message,
        end => panic!("it was started: {end:?}"),
    }
}

// S-DATA-1, S-RETRY-3
#[tokio::test]
async fn an_attempt_reports_its_exit_code_output_and_last_errors() {
    let room = Room::new();
    let mut born = None;
    let spec = room.script("echo hello; echo oops >&2; exit 75");
    let report = run(spec, Stopper::new().1, |identity| born = Some(identity)).await;
    assert_eq!(report.end, ProcessEnd::Exited { code: 75 });
    assert_eq!((report.stopped, output(&report), &*report.stderr_tail), (None, r#""hello""#, "oops\n"));
    assert_eq!((report.log_bytes, report.log_bytes_dropped), (11, 0));
    assert_eq!(room.logged(LogStream::Stdout), b"hello\n");
    assert_eq!(room.logged(LogStream::Stderr), b"oops\n");
    assert!(born.is_some_and(|identity| identity.start_time > 0 && identity.boot_id.len() == 36));
    assert_eq!(room.path("output").metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

// S-RETRY-3
#[tokio::test]
async fn a_program_ended_by_a_signal_says_which_and_was_not_stopped_by_us() {
    let room = Room::new();
    let report = finish(room.script("kill -9 $$")).await;
    assert_eq!((report.end, report.stopped), (ProcessEnd::Signaled { signal: 9 }, None));
}

// S-DATA-1
#[tokio::test]
async fn the_output_file_wins_over_standard_output_and_json_is_checked() {
    let room = Room::new();
    let report = finish(room.script("echo out; printf '{ \"a\" : 1 }' > $NOX_OUTPUT")).await;
    assert_eq!(output(&report), r#""{ \"a\" : 1 }""#);
    let json = |script| ProcessSpec { json_output: true, ..room.script(script) };
    assert_eq!(output(&finish(json("printf '{ \"a\" : 1 }' > $NOX_OUTPUT")).await), r#"{"a":1}"#);
    assert_eq!(output(&finish(json("echo '[1, 2]'")).await), "[1,2]", "the file of the attempt before is emptied");
    let report = finish(json("echo '[1,'; echo ' oops]'")).await;
    assert!(report.output.unwrap_err().message.contains("line 2 column 2"));
    assert_eq!(report.end, ProcessEnd::Exited { code: 0 });
    let report = finish(json("head -c 1048577 /dev/zero")).await;
    assert!(report.output.unwrap_err().message.contains("larger than"));
    let report = finish(room.script("rm $NOX_OUTPUT; ln -s /etc/passwd $NOX_OUTPUT")).await;
    assert!(report.output.unwrap_err().message.contains("not a regular file"));
}

// S-AGENT-4
#[tokio::test]
async fn two_mebibytes_on_both_pipes_at_once_arrive_whole_in_the_log() {
    let room = Room::new();
    // Numbered lines, so that a lost, doubled or reordered piece shows.
    let lines = "i=0; while [ $i -lt 16384 ]; do printf '%0127d\\n' $i; i=$((i+1)); done";
    let report = finish(room.script(&format!("({lines}) >&2 & {lines}; wait"))).await;
    let expected: String = (0..16384).map(|i| format!("{i:0127}\n")).collect();
    assert_eq!(report.end, ProcessEnd::Exited { code: 0 });
    assert!(room.logged(LogStream::Stdout) == expected.as_bytes(), "standard output is whole");
    assert!(room.logged(LogStream::Stderr) == expected.as_bytes(), "standard error is whole");
    assert_eq!((report.log_bytes, report.log_bytes_dropped), (4 << 20, 0));
    assert_eq!(report.stderr_tail, expected[expected.len() - 4096..]);
}

// S-AGENT-4
#[tokio::test]
async fn beyond_the_cap_output_is_counted_and_marked_but_still_drained() {
    let room = Room::new();
    let report = finish(ProcessSpec { log_cap: 100_000, ..room.script("head -c 1000000 /dev/zero; echo end") }).await;
    assert_eq!(report.log_bytes + report.log_bytes_dropped, 1_000_004);
    assert_eq!(room.logged(LogStream::Stdout).len() as u64, report.log_bytes);
    assert!((90_000..100_000).contains(&report.log_bytes), "{}", report.log_bytes);
    assert!(room.notes().contains("cap of 100000 bytes is reached"));
    assert!(output(&report).ends_with("end\""), "the output does not depend on the log's cap");
}

// S-DATA-4
#[tokio::test]
async fn the_environment_is_exactly_what_is_allowed_and_noxd_has_the_last_word() {
    let room = Room::new();
    let mut spec = room.command(&["env", "-0"]);
    spec.env = [("GREETING", "a=b\nc 🦀"), ("NOX_TASK_ID", "forged"), ("NOX_OUTPUT", "forged"), ("TZ", "author")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let identity = spec.identity.clone();
    let (_stopper, signal) = Stopper::new();
    let report = run_inheriting(&["PATH", "TZ", "CARGO_PKG_*"], spec, signal, |_| {}).await;
    assert_eq!(report.end, ProcessEnd::Exited { code: 0 });
    let written = String::from_utf8(room.logged(LogStream::Stdout)).unwrap();
    let seen: Vec<_> = written.split_terminator('\0').filter_map(|entry| entry.split_once('=')).collect();
    let mut expected: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name == "PATH" || name.starts_with("CARGO_PKG_")).collect();
    expected.extend(identity);
    expected.extend([("GREETING", "a=b\nc 🦀"), ("TZ", "author")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    expected.insert("NOX_OUTPUT".to_owned(), room.path("output").to_str().unwrap().to_owned());
    assert_eq!(seen.len(), expected.len(), "nothing is there twice");
    assert_eq!(seen.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(), expected);

    finish(room.script("env -0 > seen")).await;
    for name in room.text("seen").split_terminator('\0').map(|entry| entry.split_once('=').unwrap().0) {
        let allowed = INHERITED.contains(&name) || name.starts_with("LC_") || name.starts_with("NOX_") || name == "PWD";
        assert!(allowed, "{name} came through; the shell itself adds no more than PWD");
    }
}

// S-DATA-3
#[tokio::test]
async fn every_byte_of_an_argument_arrives_and_none_is_a_shells() {
    let room = Room::new();
    let odd = ["", "two words", "'\"`", "$(touch hacked)", "line\nbreak", "🦀 ü", "; touch hacked &", "\\", "*"];
    let report = finish(room.command(&[&["printf", "%s\\0"], &odd[..]].concat())).await;
    assert_eq!(report.end, ProcessEnd::Exited { code: 0 });
    assert_eq!(room.logged(LogStream::Stdout), odd.map(|arg| format!("{arg}\0")).concat().as_bytes());
    assert!(!room.path("hacked").exists());
}

#[tokio::test]
async fn standard_input_is_written_whole_and_closed_and_otherwise_empty() {
    let room = Room::new();
    let stdin = vec![b'i'; 300_000];
    finish(ProcessSpec { stdin: Some(stdin.clone()), ..room.script("cat > copy") }).await;
    assert!(room.text("copy").as_bytes() == stdin);
    assert_eq!(output(&finish(room.script("wc -c")).await), "\"0\"");
    let report = finish(ProcessSpec { stdin: Some(stdin), ..room.script("exec 0<&-; echo read nothing") }).await;
    assert_eq!((report.end, report.stopped), (ProcessEnd::Exited { code: 0 }, None));
}

#[tokio::test]
async fn the_program_has_its_own_session_default_signals_and_no_descriptor_of_ours() {
    let room = Room::new();
    let report = finish(room.script("cat /proc/self/stat /proc/self/status; echo $$; ls /proc/self/fd")).await;
    assert_eq!(report.end, ProcessEnd::Exited { code: 0 });
    let seen = String::from_utf8(room.logged(LogStream::Stdout)).unwrap();
    let field = |name: &str| seen.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(u64::from_str_radix(&field("SigBlk:"), 16).unwrap(), 0);
    // Rust ignores SIGPIPE, which a program must not inherit. 32 and 33 are the C library's own, which it ignores
    // in every program it spawns.
    let internal = 0b11 << 31;
    assert_eq!(u64::from_str_radix(&field("SigIgn:"), 16).unwrap() & !internal, 0);
    let (leader, descriptors) = seen
        .split_once("\nnonvoluntary_ctxt_switches:")
        .unwrap()
        .1
        .split_once('\n')
        .unwrap()
        .1
        .split_once('\n')
        .unwrap();
    let of_cat: Vec<&str> = seen.split_once(") ").unwrap().1.split(' ').take(4).collect();
    assert_eq!((of_cat[2], of_cat[3]), (leader, leader), "its group and its session are its own");
    assert_eq!(descriptors.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"], "3 is the directory that ls reads");
}

// S-VIEW-4
#[tokio::test]
async fn what_cannot_be_started_says_why_and_what_to_do() {
    let room = Room::new();
    let file = |name: &str, text: &str, mode: u32| {
        std::fs::write(room.path(name), text).unwrap();
        std::fs::set_permissions(room.path(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    file("plain", "#!/bin/sh\n", 0o644);
    file("orphan", "#!/no/such/interpreter\n", 0o755);
    file("garbage", "no program at all", 0o755);
    let with_path = |spec: ProcessSpec, path: &str| ProcessSpec { env: vec![("PATH".into(), path.into())], ..spec };
    let huge = "x".repeat(200_000);
    let stories = [
        (room.command(&[]), "the command is empty"),
        (room.command(&["echo", "a", "b\0c"]), "argv[2] holds a NUL byte"),
        (
            ProcessSpec { env: vec![("SECRET".into(), "hush\0".into())], ..room.command(&["true"]) },
            "variable `SECRET` holds a NUL byte",
        ),
        (
            ProcessSpec { env: vec![("A=B".into(), "hush".into())], ..room.command(&["true"]) },
            "`A=B` cannot be the name",
        ),
        (
            with_path(room.command(&["nosuch"]), "/bin:/opt"),
            "program `nosuch` was not found in PATH (/bin:/opt): install it",
        ),
        (room.command(&["./nosuch"]), "program `./nosuch` does not exist"),
        (room.command(&["/"]), "is a directory"),
        (room.command(&["./plain"]), "/plain` is not executable: run `chmod +x"),
        (with_path(room.command(&["plain"]), "/bin:"), "/plain` is not executable: run `chmod +x"),
        (room.command(&["./orphan"]), "/orphan` exists but its interpreter does not"),
        (room.command(&["./garbage"]), "/garbage` is neither a binary for this machine nor a script"),
        (room.command(&["true", &huge]), "too long for the system (200"),
        (ProcessSpec { working_dir: room.path("away"), ..room.command(&["true"]) }, "/away` does not exist: create it"),
        (ProcessSpec { working_dir: room.path("plain"), ..room.command(&["true"]) }, "/plain` is not a directory"),
        (ProcessSpec { output_file: room.path("away/output"), ..room.command(&["true"]) }, "output file"),
    ];
    for (spec, expected) in stories {
        let message = spawn_failure(finish(spec).await);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(!message.contains("hush"), "a value is never shown");
        assert!(room.notes().contains(&message), "the log says it too");
    }
    let unlogged = ProcessSpec { log_file: room.path("away/log"), ..room.command(&["true"]) };
    assert!(spawn_failure(finish(unlogged).await).contains("log `"));
}

// S-STATE-8
#[tokio::test]
async fn a_cancelled_tree_that_ignores_sigterm_is_gone_two_seconds_after_the_grace() {
    let room = Room::new();
    // The grandchild leaves the session and drops its variables, so only its parent leads to it; the
    // great-grandchild's parent is gone, so only its variables do.
    let spec = room.script(
        "trap '' TERM
         env -i PATH=\"$PATH\" setsid sh -c 'trap \"\" TERM; echo $$ > stripped; while :; do sleep 1; done' &
         (setsid sh -c 'trap \"\" TERM; echo $$ > orphan; while :; do sleep 1; done' &)
         echo $$ > child
         while :; do sleep 1; done",
    );
    let grace = Duration::from_millis(300);
    let mut asked = None;
    let report = finish_while(ProcessSpec { grace, ..spec }, async |stopper| {
        for name in ["child", "stripped", "orphan"] {
            assert!(lives(&room.written(name).await));
        }
        asked = Some(Instant::now());
        stopper.stop(StopCause::Cancelled);
        stopper.stop(StopCause::TimedOut);
    })
    .await;
    let took = asked.unwrap().elapsed();
    assert!(grace <= took && took < grace + Duration::from_secs(2), "{took:?}");
    assert_eq!((report.end, report.stopped), (ProcessEnd::Signaled { signal: 9 }, Some(StopCause::Cancelled)));
    for name in ["child", "stripped", "orphan"] {
        assert!(!lives(&room.written(name).await), "{name} outlived the attempt");
    }
}

// S-STATE-8
#[tokio::test]
async fn a_program_that_minds_sigterm_may_clean_up_with_programs_of_its_own() {
    let room = Room::new();
    let script = "trap 'sh -c \"sleep 0.3; echo clean > cleaned\"; echo bye; exit 3' TERM; echo > ready; while :; do sleep 0.05; done";
    let report = finish_while(room.script(script), async |stopper| {
        room.written("ready").await;
        stopper.stop(StopCause::TimedOut);
    })
    .await;
    assert_eq!((&report.end, report.stopped), (&ProcessEnd::Exited { code: 3 }, Some(StopCause::TimedOut)));
    assert_eq!((&*room.text("cleaned"), output(&report)), ("clean\n", "\"bye\""), "and what it said last is kept");
}

// S-STATE-8
#[tokio::test]
async fn a_stopped_program_is_woken_to_hear_sigterm() {
    let room = Room::new();
    let script = "trap 'exit 4' TERM; echo $$ > pid; kill -STOP $$; while :; do sleep 1; done";
    let report = finish_while(room.script(script), async |stopper| {
        room.written("pid").await;
        stopper.stop(StopCause::Interrupted);
    })
    .await;
    assert_eq!((report.end, report.stopped), (ProcessEnd::Exited { code: 4 }, Some(StopCause::Interrupted)));
}

// S-STATE-8
#[tokio::test]
async fn a_kill_cuts_the_grace_short_at_once_or_later() {
    let room = Room::new();
    let stubborn = || {
        let spec = room.script("trap '' TERM; echo > ready; while :; do sleep 1; done");
        ProcessSpec { grace: Duration::from_secs(3600), ..spec }
    };
    for asks_nicely_first in [false, true] {
        std::fs::remove_file(room.path("ready")).unwrap_or_default();
        let report = finish_while(stubborn(), async |stopper| {
            room.written("ready").await;
            if asks_nicely_first {
                stopper.stop(StopCause::Cancelled);
                tokio::task::yield_now().await;
            }
            stopper.kill(StopCause::Interrupted);
        })
        .await;
        let cause = if asks_nicely_first { StopCause::Cancelled } else { StopCause::Interrupted };
        assert_eq!((report.end, report.stopped), (ProcessEnd::Signaled { signal: 9 }, Some(cause)));
    }
}

// S-STATE-8
#[tokio::test]
async fn an_attempt_stopped_before_it_began_never_runs() {
    let room = Room::new();
    let (stopper, signal) = Stopper::new();
    stopper.stop(StopCause::Cancelled);
    drop(stopper);
    let report = run(room.script("echo > ran"), signal, |_| panic!("it was started")).await;
    assert!(matches!(report.end, ProcessEnd::SpawnFailed { .. }));
    assert_eq!(report.stopped, Some(StopCause::Cancelled));
    assert!(!room.path("ran").exists());
}

// S-STATE-8
#[tokio::test]
async fn a_success_that_leaves_processes_behind_stays_a_success_and_they_go() {
    let room = Room::new();
    let leave = "sleep 600 >/dev/null 2>&1 & echo $! > near; (setsid sh -c 'echo $$ > far; exec sleep 600' >/dev/null 2>&1 &); while [ ! -s far ]; do sleep 0.01; done; echo done";
    let report = finish(room.script(leave)).await;
    assert_eq!((&report.end, report.stopped, output(&report)), (&ProcessEnd::Exited { code: 0 }, None, "\"done\""));
    assert!(!lives(&room.written("near").await) && !lives(&room.written("far").await));
    assert!(room.notes().contains("2 processes running when it ended"), "{}", room.notes());
}

// S-STATE-8
#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_may_finish_its_sentence() {
    let room = Room::new();
    let report = finish(room.script("(sleep 0.3; echo late) & echo early")).await;
    assert_eq!(output(&report), r#""early\nlate""#);
    assert_eq!(room.notes(), "");
}

// S-STATE-8
#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_for_ever_is_ended_after_five_seconds() {
    let room = Room::new();
    let since = Instant::now();
    let report = finish(room.script(
        "setsid sh -c 'echo $$ > holder; exec sleep 600' & while [ ! -s holder ]; do sleep 0.01; done; echo early",
    ))
    .await;
    assert_eq!((&report.end, output(&report)), (&ProcessEnd::Exited { code: 0 }, "\"early\""));
    assert!((DRAIN_PATIENCE..DRAIN_PATIENCE * 2).contains(&since.elapsed()), "{:?}", since.elapsed());
    assert!(!lives(&room.written("holder").await));
}

// S-STATE-8
#[tokio::test]
async fn a_stop_does_not_wait_for_held_pipes_and_does_not_rewrite_the_end() {
    let room = Room::new();
    let since = Instant::now();
    let report = finish_while(room.script("sleep 600 & echo $$ > leader; exit 7"), async |stopper| {
        gone(&room.written("leader").await).await;
        stopper.stop(StopCause::Cancelled);
    })
    .await;
    assert_eq!((report.end, report.stopped), (ProcessEnd::Exited { code: 7 }, None), "it had ended by itself");
    assert!(since.elapsed() < DRAIN_PATIENCE, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_dropped_attempt_is_killed() {
    let room = Room::new();
    let attempt = run(room.script("echo $$ > pid; exec sleep 600"), Stopper::new().1, |_| {});
    let pid = tokio::select! {
        report = attempt => panic!("it ended: {report:?}"),
        pid = room.written("pid") => pid,
    };
    gone(&pid).await;
}

/// Runs a story in a process of its own: descriptors, zombies and memory belong to a whole process, which the other
/// tests share. The test starts itself once more, and there the story is told.
fn alone(test: &str, story: impl AsyncFnOnce()) {
    const TOLD_HERE: &str = "NOXD_TEST_ALONE";
    if std::env::var_os(TOLD_HERE).is_some_and(|told| told == test) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(story());
    }
    let (_crate_name, module) = module_path!().split_once("::").unwrap();
    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
    itself.args([&format!("{module}::{test}"), "--exact", "--nocapture"]).env(TOLD_HERE, test);
    itself.stdout(Stdio::piped()).stderr(Stdio::piped());
    // With no tag on it: it is of none of the attempts that other tests start, and then end.
    let run = tag::dressed(None, || itself.spawn()).unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

// assurance, "Orphans"
#[test]
fn two_hundred_quick_attempts_leave_no_descriptor_and_no_zombie() {
    alone("two_hundred_quick_attempts_leave_no_descriptor_and_no_zombie", alone_quick_attempts);
}

async fn alone_quick_attempts() {
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let attempt = async || {
        let room = Room::new();
        let report = finish(room.command(&["true"])).await;
        assert_eq!(report.end, ProcessEnd::Exited { code: 0 });
    };
    attempt().await;
    let before = open_files();
    for _ in 0..50 {
        tokio::join!(attempt(), attempt(), attempt(), attempt());
    }
    assert_eq!(open_files(), before);
    let nobody = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(nobody.unwrap_err(), rustix::io::Errno::CHILD, "neither child nor zombie is left");
}

// S-AGENT-4
#[test]
fn a_flood_of_output_costs_no_memory() {
    alone("a_flood_of_output_costs_no_memory", alone_flood);
}

async fn alone_flood() {
    let room = Room::new();
    finish(room.command(&["true"])).await;
    let before = memory_high_water(std::process::id()).unwrap();
    let flood = "head -c 128M /dev/zero & head -c 128M /dev/zero >&2; wait";
    let report = finish(ProcessSpec { log_cap: 1 << 20, ..room.script(flood) }).await;
    let grown = memory_high_water(std::process::id()).unwrap() - before;
    assert_eq!(report.log_bytes + report.log_bytes_dropped, 256 << 20);
    assert!(grown < 4 << 20, "{grown} bytes for 256 MiB of output");
}

// S-RETRY-3
#[test]
fn cpu_time_and_peak_memory_are_those_of_the_tree_and_not_of_noxd() {
    alone("cpu_time_and_peak_memory_are_those_of_the_tree_and_not_of_noxd", alone_usage);
}

async fn alone_usage() {
    let room = Room::new();
    // tail must hold all 96 MiB to know the last; the loop burns time in a child of a child.
    let script =
        "head -c 96M /dev/zero | tail -c 96M > /dev/null; sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'";
    let since = Instant::now();
    let report = finish(room.script(script)).await;
    let wall = since.elapsed();
    let cpu = report.cpu_time.unwrap();
    assert!(cpu >= Duration::from_millis(50) && cpu <= wall * 3, "{cpu:?} of {wall:?}");
    let peak = report.peak_memory_bytes.unwrap() >> 20;
    assert!((96..192).contains(&peak), "{peak} MiB");

    let ballast = std::hint::black_box(vec![1_u8; 64 << 20]);
    let report = finish(room.script("sleep 0.2")).await;
    let peak = report.peak_memory_bytes.expect("it was there to be sampled");
    assert!((1 << 16..32 << 20).contains(&peak), "{peak} bytes");
    drop(ballast);
}
