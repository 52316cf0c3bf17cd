//! Stories of a person who steers executions: inputs, answers, explanations, reruns and limits by `noxctl`, and the
//! same in `noxd run`.

use crate::{
    calls::{approval, gate},
    command_line::{Run, all_text, noxctl, text},
    support::{Noxd, eventually, noop, shell},
};
use noxd::proto::v1::{self, TaskStatus, WorkflowStatus};

fn deploy() -> v1::Workflow {
    let declared = |name: &str, kind: v1::ParameterType| v1::WorkflowInput {
        name: name.into(),
        parameter_type: kind as i32,
        ..Default::default()
    };
    let argv = ["echo", "{{ inputs.env }}", "{{ inputs.n + 1 }}", "{{ inputs.dry }}"].map(Into::into).to_vec();
    let say = v1::task::Action::Command(v1::CommandAction { argv, ..Default::default() });
    v1::Workflow {
        id: "deploy".into(),
        tasks: vec![v1::Task { action: Some(say), ..noop("say", &[]) }],
        inputs: vec![
            v1::WorkflowInput { required: true, ..declared("env", v1::ParameterType::String) },
            declared("n", v1::ParameterType::Integer),
            declared("dry", v1::ParameterType::Boolean),
        ],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_are_given_at_the_command_line_and_read_as_the_workflow_declares_them() {
    // S-DATA-2
    let noxd = Noxd::start().await;
    noxd.store(deploy()).await;
    let file = noxd.path("inputs.yaml");
    std::fs::write(&file, "env: from the file\nn: 1\ndry: true\n").expect("a file");
    let file = file.to_str().expect("a path");
    let execute = |more: &[&str]| noxctl(&noxd, &[&["workflow", "execute", "deploy", "--wait"], more].concat());
    let output = execute(&["--inputs-file", file, "--input", "env=007", "--input", "n=41"]);
    assert_eq!(output.status.code(), Some(0), "{}", all_text(&output));
    assert!(text(&output.stdout).contains(r#"inputs     {"dry":true,"env":"007","n":41}"#), "{}", text(&output.stdout));
    let executions = noxd.executions().await.list_executions(v1::ListExecutionsRequest::default()).await;
    let id = executions.expect("listed").into_inner().executions.remove(0).id;
    let said = noxctl(&noxd, &["execution", "logs", &id, "say"]);
    assert_eq!(text(&said.stdout), "007 42 true\n");

    let output = execute(&["--input", "n=many"]);
    assert_eq!(output.status.code(), Some(2), "the command line is wrong: {}", all_text(&output));
    let output = execute(&["--input", "colour=red"]);
    assert_eq!(output.status.code(), Some(1), "noxd refuses it: {}", all_text(&output));
    assert!(all_text(&output).contains("inputs.colour") && all_text(&output).contains("inputs.env"), "every fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_explained_and_asked_again_by_noxctl() {
    // S-STATE-2, S-DEP-5
    let noxd = Noxd::start().await;
    let ship = shell("ship", "[ -e \"$NOX_SCRATCH_DIR\"/../../ok ]", &["ask"]);
    noxd.create("w", vec![noop("build", &[]), approval("ask", &[], &["build"]), ship]).await;
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "ask", TaskStatus::Waiting).await;
    let ok = |arguments: &[&str]| {
        let output = noxctl(&noxd, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", all_text(&output));
        text(&output.stdout)
    };
    let told = ok(&["execution", "explain", &id, "ask"]);
    assert!(told.contains("ask is WAITING") && told.contains(&format!("noxctl execution approve {id} ask")), "{told}");
    let told = ok(&["execution", "explain", &id, "ship"]);
    assert!(told.contains("task `ask` is WAITING"), "{told}");
    assert_eq!(ok(&["execution", "explain", &id, "build"]), "build is COMPLETED: it is over\n");
    assert!(ok(&["execution", "show", &id]).contains("1 waiting"), "counted");
    let refused = noxctl(&noxd, &["execution", "approve", &id, "build"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(all_text(&refused).contains("NOT_WAITING"), "{}", all_text(&refused));

    assert_eq!(ok(&["execution", "approve", &id, "ask", "--comment", "go"]), "approved ask\n");
    assert_eq!(noxd.ended(&id).await.status(), WorkflowStatus::Failed);
    let watched = noxctl(&noxd, &["execution", "watch", &id]);
    assert_eq!(watched.status.code(), Some(1));
    let lines = text(&watched.stdout);
    for words in ["ask waits for an answer: Go on?", "ask approved by uid:", ": go\n"] {
        assert!(lines.contains(words), "{words}: {lines}");
    }
    assert!(text(&watched.stderr).contains(&format!("answer with: noxctl execution approve {id} ask")));

    let planned = ok(&["execution", "rerun", &id, "--dry-run"]);
    assert_eq!(planned, "keeps 2 tasks: build, ask\ndoes again 1 task: ship\n");
    std::fs::write(noxd.path("data").join("executions").join("ok"), "").expect("written");
    let again = ok(&["execution", "rerun", &id]);
    let ended = noxd.ended(again.trim()).await;
    assert_eq!(ended.status(), WorkflowStatus::Completed);
    let shown = ok(&["execution", "show", again.trim()]);
    assert!(shown.contains(&format!("repeats    {id}")) && shown.contains("that of the execution before"), "{shown}");
    let watched = text(&noxctl(&noxd, &["execution", "watch", again.trim()]).stdout);
    assert!(watched.contains(&format!("2 tasks keep their result from {id}")), "{watched}");
    assert!(watched.contains("COMPLETED") && watched.contains("1 completed, 2 kept of 3 tasks"), "{watched}");

    let asked = noxd.execute("w").await;
    noxd.task_becomes(&asked, "ask", TaskStatus::Waiting).await;
    assert_eq!(ok(&["execution", "reject", &asked, "ask"]), "rejected ask\n");
    assert_eq!(noxd.ended(&asked).await.status(), WorkflowStatus::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_seen_and_changed_by_noxctl() {
    // S-PAR-4
    let noxd = Noxd::start().await;
    let open = noxd.path("gate");
    let agent = |task: v1::Task| v1::Task { agent_id: "coder".into(), ..task };
    noxd.create("w", vec![agent(gate("one", &open, &[])), agent(gate("two", &open, &[]))]).await;
    let words = |output: &std::process::Output| -> Vec<Vec<String>> {
        let lines = text(&output.stdout);
        lines.lines().skip(1).map(|line| line.split_whitespace().map(Into::into).collect()).collect()
    };
    let set = noxctl(&noxd, &["agent", "limit", "coder", "1"]);
    assert_eq!(set.status.code(), Some(0), "{}", all_text(&set));
    let id = noxd.execute("w").await;
    noxd.task_becomes(&id, "one", TaskStatus::Running).await;
    let listed = noxctl(&noxd, &["agent", "limits"]);
    assert_eq!(words(&listed), [vec!["all", "attempts", "64", "1"], vec!["coder", "1", "1"]], "{}", all_text(&listed));
    let told = text(&noxctl(&noxd, &["execution", "explain", &id, "two"]).stdout);
    assert!(told.contains("two is QUEUED") && told.contains("agent `coder` of 1 is reached"), "{told}");
    assert_eq!(words(&noxctl(&noxd, &["agent", "limit", "coder", "none"]))[0][1], "none");
    noxd.task_becomes(&id, "two", TaskStatus::Running).await;
    assert_eq!(words(&noxctl(&noxd, &["agent", "limit", "--all", "5"])), [["all", "attempts", "5", "2"]]);
    assert_eq!(noxctl(&noxd, &["agent", "limit", "coder", "0"]).status.code(), Some(1), "0 is refused");
    std::fs::write(&open, "").expect("the gate opens");
    noxd.ended(&id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_one_file_takes_inputs_and_says_how_to_answer_its_question() {
    // S-DATA-2, S-STATE-2
    let run = Run::new();
    let file = run.file(
        "inputs:\n- {name: n, parameter_type: INTEGER, required: true}\n\
         tasks:\n- {id: ask, approval: {prompt: 'Ship it?'}}\n\
         - {id: say, dependencies: [ask], command: {argv: [echo, '{{ inputs.n }} by {{ tasks.ask.output.by }}']}}\n",
    );
    let file = file.to_str().expect("a path");
    let refused = run.output(&[file]);
    assert_eq!(refused.status.code(), Some(2), "{}", all_text(&refused));
    assert!(all_text(&refused).contains("inputs.n"), "{}", all_text(&refused));
    assert!(!run.path("noxd").exists(), "nothing is made for what cannot run");

    let mut child = run.start(&[file, "--input", "n=7"]);
    let hint = eventually("it says how to answer", || async {
        let printed = run.printed();
        let hint = printed.lines().find_map(|line| line.strip_prefix("answer with: noxctl "))?;
        Some(hint.strip_suffix(" (or reject)")?.to_string())
    })
    .await;
    assert!(run.printed().contains("ask waits for an answer: Ship it?"), "{}", run.printed());
    let arguments: Vec<&str> = hint.split(' ').collect();
    let answer = std::process::Command::new(env!("CARGO_BIN_EXE_noxctl")).args(arguments).output().expect("it runs");
    assert_eq!(answer.status.code(), Some(0), "{}", all_text(&answer));
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{}", run.printed());
    assert!(run.printed().contains("say: 7 by uid:"), "{}", run.printed());
}
