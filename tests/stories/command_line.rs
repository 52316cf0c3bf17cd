//! Stories of a person at a terminal: `noxd run` and `noxctl`, as processes, by what they print and how they exit.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::support::{Noxd, eventually, is_alive, noop, number_in, shell, signal};
use noxd::proto::v1;

/// `noxd run` on a directory that is removed at the end.
pub struct Run {
    home: tempfile::TempDir,
}

impl Run {
    pub fn new() -> Self {
        Self { home: tempfile::Builder::new().prefix("noxd-run-").tempdir().expect("a directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn file(&self, text: &str) -> PathBuf {
        let path = self.path("workflow.yaml");
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_noxd"));
        command.arg("run").args(arguments).stdin(Stdio::null());
        command.env("XDG_STATE_HOME", self.home.path()).env("NOXD_TERMINATION_GRACE", "1");
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        let log = std::fs::File::create(self.path("printed")).expect("a file");
        let both = log.try_clone().expect("a handle");
        self.command(arguments).stdout(log).stderr(both).spawn().expect("it starts")
    }

    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.path("printed")).unwrap_or_default()
    }
}

/// Runs noxctl on it.
pub fn noxctl(noxd: &Noxd, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noxctl"));
    command.arg("--socket").arg(noxd.socket()).args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command.output().expect("noxctl runs")
}

/// What was printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What was printed on both ways.
pub fn all_text(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn every_example_runs_and_exits_as_its_header_says() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(examples)
        .expect("examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let source = std::fs::read_to_string(&file).expect("readable");
        let expected: i32 = source
            .lines()
            .find_map(|line| line.strip_prefix("# exits with "))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("{}: say `# exits with N` in its header", file.display()));
        let run = Run::new();
        let output = run.output(&[file.to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(expected), "{}: {}", file.display(), all_text(&output));
    }
}

#[test]
fn the_first_example_joins_its_counts_into_a_report_and_says_where_it_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/repository-report.yaml");
    let run = Run::new();
    let output = run.output(&[file.to_str().expect("a path")]);
    let printed = all_text(&output);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    let place = printed.lines().find_map(|line| line.split_once("report written to ")).expect("the place").1;
    let report = std::fs::read_to_string(place.trim()).expect("the report is there");
    for room in ["machine", "store", "engine", "executor", "api", "cli"] {
        let row = report.lines().find(|line| line.starts_with(&format!("| `src/{room}` |"))).expect(room);
        let lines: u32 = row.split('|').nth(3).expect("lines").trim().parse().expect("a number");
        assert!(lines > 100, "{row}");
    }
}

#[test]
fn a_run_that_fails_says_which_task_and_why() {
    // S-VIEW-4
    let run = Run::new();
    let file = run.file(
        "name: w\ntasks:\n\
         - {id: build, command: {argv: [sh, -c, 'echo the compiler is gone >&2; exit 7']}}\n\
         - {id: test, dependencies: [build], noop: {}}\n",
    );
    let output = run.output(&[file.to_str().expect("a path")]);
    let printed = all_text(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    let place = printed.lines().find_map(|line| line.split_once("running in ")).expect("the place").1;
    let logs =
        Command::new(env!("CARGO_BIN_EXE_noxd")).args(["logs", place.trim(), "build"]).output().expect("it runs");
    assert_eq!((text(&logs.stdout).as_str(), text(&logs.stderr).as_str()), ("", "the compiler is gone\n"));
    for words in ["build", "exit code 7", "the compiler is gone", "FAILED", "test", "blocked"] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
}

#[test]
fn a_file_with_faults_is_refused_with_every_fault_and_runs_nothing() {
    // S-DEF-1
    let run = Run::new();
    let file =
        run.file("tasks:\n- {id: a, dependencies: [b], noop: {}}\n- {id: b, dependencies: [a, ghost], noop: {}}\n");
    let output = run.output(&[file.to_str().expect("a path")]);
    let printed = all_text(&output);
    assert_eq!(output.status.code(), Some(2), "{printed}");
    assert!(!run.path("noxd").exists(), "nothing is made for a file that cannot run");
    assert!(printed.contains("tasks[1].dependencies[1]") && printed.contains("DEPENDENCY_NOT_FOUND"), "{printed}");
    assert!(printed.contains("→"), "the cycle is printed: {printed}");

    let file = run.file("tasks:\n- id: a\n  comand: {argv: [ls]}\n");
    let output = run.output(&[file.to_str().expect("a path")]);
    let printed = all_text(&output);
    assert_eq!(output.status.code(), Some(2), "{printed}");
    assert!(printed.contains("comand") && printed.contains('3'), "the unknown key and its line: {printed}");

    let output = run.output(&[run.path("nowhere.yaml").to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(2), "{}", all_text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_cancels_and_a_second_one_kills() {
    // S-STATE-8
    let run = Run::new();
    let marker = run.path("pid");
    let script = |trap: &str| {
        format!(
            "tasks:\n- {{id: long, command: {{argv: [sh, -c, '{trap} echo $$ > {}; while :; do sleep 0.1; done']}}}}\n",
            marker.display()
        )
    };
    let file = run.file(&script(""));
    let mut child = run.start(&[file.to_str().expect("a path")]);
    let pid = number_in(&marker).await;
    signal(child.id(), "INT");
    let code = child.wait().expect("it ends").code();
    assert_eq!(code, Some(3), "{}", run.printed());
    assert!(!is_alive(pid));
    assert!(run.printed().contains("CANCELLED"), "{}", run.printed());

    // One that ignores SIGTERM, with the grace of an hour: the second Ctrl-C does not wait for it.
    std::fs::remove_file(&marker).expect("removed");
    let file = run.file(&script("trap \"\" TERM;"));
    let mut child = run.start(&[file.to_str().expect("a path"), "--termination-grace", "3600"]);
    let pid = number_in(&marker).await;
    signal(child.id(), "INT");
    eventually("the cancel is told", || async { run.printed().contains("ancel").then_some(()) }).await;
    signal(child.id(), "INT");
    let code = child.wait().expect("it ends").code();
    assert_eq!(code, Some(3), "{}", run.printed());
    assert!(!is_alive(pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_goes_on_with_continue() {
    // S-RETRY-7, S-SAFE-1
    for how in ["TERM", "KILL"] {
        let run = Run::new();
        let (marker, directory) = (run.path("pid"), run.path("here"));
        let file = run.file(&format!(
            "tasks:\n- {{id: first, noop: {{}}}}\n\
             - {{id: second, dependencies: [first], command: {{argv: [sh, -c, \
             'echo $$ > {}; if [ $NOX_ATTEMPT = 1 ]; then exec tail -f /dev/null; fi']}}}}\n",
            marker.display()
        ));
        let there = directory.to_str().expect("a path");
        let mut child = run.start(&[file.to_str().expect("a path"), "--dir", there]);
        let pid = number_in(&marker).await;
        signal(child.id(), how);
        child.wait().expect("it ends");
        if how == "TERM" {
            assert!(run.printed().contains(&format!("--continue {there}")), "{}", run.printed());
        }
        let output = run.output(&["--continue", there]);
        assert_eq!(output.status.code(), Some(0), "after {how}: {}", all_text(&output));
        assert!(!is_alive(pid));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noxctl_leads_a_workflow_through_its_life() {
    let noxd = Noxd::start().await;
    let file = noxd.path("build.yaml");
    std::fs::write(
        &file,
        "id: build\nname: Build it\nlabels: {team: core}\ntasks:\n\
         - {id: one, title: First, priority: HIGH, command: {argv: [sh, -c, 'echo hello']}}\n\
         - {id: two, dependencies: [one], noop: {duration: 10ms}}\n",
    )
    .expect("a file");
    let path = file.to_str().expect("a path");
    let ok = |arguments: &[&str]| {
        let output = noxctl(&noxd, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", all_text(&output));
        text(&output.stdout)
    };
    assert!(all_text(&noxctl(&noxd, &["workflow", "validate", "-f", path])).contains("2 tasks"));
    ok(&["workflow", "create", "-f", path]);
    assert!(ok(&["workflow", "list"]).contains("build"));
    assert!(ok(&["workflow", "list", "--label", "team=other"]).lines().all(|line| !line.contains("build")));
    assert!(ok(&["workflow", "show", "build"]).contains("two"));
    let run = noxctl(&noxd, &["workflow", "execute", "build", "--wait"]);
    assert_eq!(run.status.code(), Some(0), "{}", all_text(&run));
    let listed: serde_json::Value = serde_json::from_str(&ok(&["-o", "json", "execution", "list"])).expect("JSON");
    let execution =
        listed[0]["id"].as_str().or_else(|| listed["executions"][0]["id"].as_str()).expect("an id").to_string();
    assert!(ok(&["execution", "show", &execution]).contains("COMPLETED"));
    let shown = ok(&["execution", "show", &execution, "one"]);
    assert!(shown.contains("COMPLETED") && shown.ends_with("\nhello\n"), "{shown}");
    assert_eq!(ok(&["execution", "logs", &execution, "one"]), "hello\n");
    let watched = ok(&["execution", "watch", &execution]);
    assert!(watched.contains("two"), "{watched}");
    assert!(ok(&["workflow", "history", "build"]).contains("COMPLETED"));
    let refused = noxctl(&noxd, &["workflow", "pause", "build"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(all_text(&refused).contains("no execution of it is active"), "{}", all_text(&refused));
    let asked = noxctl(&noxd, &["workflow", "delete", "build"]);
    assert_eq!(asked.status.code(), Some(2), "it asks, and nobody is there to answer");
    ok(&["workflow", "delete", "build", "--yes"]);
    let gone = noxctl(&noxd, &["workflow", "show", "build"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(all_text(&gone).contains("WORKFLOW_NOT_FOUND"), "{}", all_text(&gone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noxctl_exits_as_the_execution_ended() {
    let noxd = Noxd::start().await;
    noxd.create("bad", vec![shell("t", "exit 5", &[])]).await;
    noxd.create("long", vec![shell("t", "exec tail -f /dev/null", &[]), noop("n", &["t"])]).await;
    assert_eq!(noxctl(&noxd, &["workflow", "execute", "bad", "--wait"]).status.code(), Some(1));
    let id = noxd.execute("long").await;
    noxd.task_becomes(&id, "t", v1::TaskStatus::Running).await;
    let paused = noxctl(&noxd, &["workflow", "pause", "long"]);
    assert!(all_text(&paused).contains("PAUSED"), "{}", all_text(&paused));
    let resumed = noxctl(&noxd, &["workflow", "resume", "long", "--execution", &id]);
    assert!(all_text(&resumed).contains("RUNNING"), "{}", all_text(&resumed));
    let cancelled = noxctl(&noxd, &["workflow", "cancel", "long", "--yes"]);
    assert_eq!(cancelled.status.code(), Some(0), "{}", all_text(&cancelled));
    assert_eq!(noxctl(&noxd, &["execution", "watch", &id]).status.code(), Some(3));
}

#[test]
fn noxctl_says_where_it_looked_when_nobody_answers() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("none.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_noxctl"))
        .arg("--socket")
        .arg(&socket)
        .args(["workflow", "list"])
        .output()
        .expect("noxctl runs");
    assert_eq!(output.status.code(), Some(4));
    assert!(all_text(&output).contains(socket.to_str().expect("a path")), "{}", all_text(&output));
}
