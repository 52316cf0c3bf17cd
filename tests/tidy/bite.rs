//! Every rule is shown biting on a snippet that breaks it, and letting pass one that keeps it.

use super::{rules, source::Source};

/// What all checks say of one file, in short: `line rule`.
fn found(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let found = rules::CHECKS.iter().flat_map(|check| check(&source));
    // `path:line: rule`, then why and what to do.
    let head = |words: String| words.lines().next().unwrap_or_default().trim_start_matches(path).to_string();
    found.map(|finding| head(finding.to_string())).collect()
}

#[track_caller]
fn bites(path: &str, text: &str, expected: &[&str]) {
    assert_eq!(found(path, &format!("//! A file.\n{text}\n")), expected, "{path}: {text}");
}

#[test]
fn who_may_import_whom() {
    bites("src/machine/task.rs", "use crate::store::Store;", &[":2: who may import whom"]);
    bites("src/engine/writer.rs", "use crate::{machine::ids,\n    executor::Executor};", &[":3: who may import whom"]);
    bites("src/engine/writer.rs", "fn f() { crate::executor::start(); }", &[":2: who may import whom"]);
    bites("src/engine/writer.rs", "use super::super::executor;", &[":2: who may import whom"]);
    bites("src/machine/schedule.rs", "use crate::calendar::Calendar;", &[]);
    bites("src/calendar/cron.rs", "use crate::machine::ids::Timestamp;", &[]);
    bites("src/calendar/cron.rs", "use crate::machine::state::State;", &[":2: who may import whom"]);
    bites("src/store/journal.rs", "use crate::machine::ids::Revision;", &[":2: who may import whom"]);
    bites("src/store/layout/event.rs", "use crate::machine::ids::Revision;", &[]);
    bites("src/cli/text.rs", "use crate::machine::ids::Revision;", &[":2: who may import whom"]);
    bites("src/api/logs.rs", "use crate::executor::{files, logs, process};", &[":2: who may import whom"]);
    bites("src/daemon.rs", "use crate::proto::v1;", &[":2: who may import whom"]);
    bites("src/engine/mod.rs", "use crate::{store::Store, proto::v1};", &[":2: who may import whom"]);
    bites("src/bin/noxctl.rs", "fn main() { noxd::engine::main() }", &[":2: who may import whom"]);
    bites("src/weather.rs", "", &[":1: a module without a place"]);
    bites("src/cli/text.rs", "#[cfg(test)]\nmod tests {\n    use crate::daemon::Daemon;\n}", &[]);
    bites("src/engine/writer.rs", "// use crate::executor;\nfn f() -> &'static str { \"crate::executor\" }", &[]);
}

#[test]
fn the_machine_is_pure() {
    for (text, times) in [
        ("use std::time::Instant;", 1),
        ("use std::{collections::HashMap, time};", 1),
        ("fn f() { std::env::var(\"A\"); }", 1),
        ("use std::{io, net::{self, TcpStream}};", 3),
        ("fn f() { tracing::info!(\"x\"); }", 1),
        ("async fn f() {}", 1),
        ("use chrono::Utc;", 1),
        ("fn f() { rand::random() }", 1),
        ("fn f() { uuid::Uuid::now_v7() }", 1),
        ("use std::collections::BTreeMap; use std::time::Duration;", 0),
        ("/// No Instant, no HashMap, nothing async.\nfn operand() {}", 0),
    ] {
        bites("src/machine/task.rs", text, &vec![":2: the machine is pure"; times]);
    }
    bites("src/machine/task.rs", "use tokio::sync::mpsc;", &[":2: the machine is pure", ":2: one home"]);
    bites("src/machine/task_tests.rs", "use std::time::Instant;", &[]);
    bites("src/calendar/zone.rs", "use chrono::Utc;", &[":2: the machine is pure"]);
}

#[test]
fn what_has_one_home_stays_there() {
    bites("src/store/journal.rs", "use std::fs::File;", &[":2: one home"]);
    bites("src/store/disk.rs", "use std::fs::File;", &[]);
    bites("src/store/rows.rs", "type D = sled::Db;", &[":2: one home"]);
    bites("src/engine/writer.rs", "use tonic::Status;", &[":2: one home"]);
    bites("src/machine/schedule.rs", "use chrono_tz::Tz;", &[":2: one home"]);
    bites("src/store/mod.rs", "use tokio::sync::mpsc;", &[":2: one home"]);
    bites("src/daemon.rs", "use crate::store::simulated::SimulatedDisk;", &[":2: one home"]);
}

#[test]
fn long_files() {
    let long = |lines: usize| "fn f() {}\n".repeat(lines);
    bites("src/api/page.rs", &long(598), &[]);
    bites("src/api/page.rs", &long(600), &[":600: length"]);
    bites("src/api/page.rs", &format!("{}#[cfg(test)]\nmod tests {{\n{}}}", long(500), long(500)), &[]);
}

#[test]
fn forbidden_words() {
    for text in [
        "pub struct RetryManager;",
        "trait TaskManager {}",
        "mod utils;",
        "pub mod helpers {}",
        "fn f() { todo!() }",
        "fn f() { dbg!(1); }",
        "fn f() { unimplemented!(\"x\") }",
    ] {
        bites("src/api/page.rs", text, &[":2: forbidden words"]);
    }
    bites("src/api/utils.rs", "", &[":1: forbidden words"]);
    bites("src/api/common/page.rs", "", &[":1: forbidden words"]);
    bites("src/api/page.rs", "/// Not a Manager: no todo!, no dbg!.\nfn not_todo() { let helpers = \"dbg!\"; }", &[]);
}

#[test]
fn attributes_that_hide() {
    bites("src/api/page.rs", "#[allow(dead_code)]\nfn f() {}", &[":2: attributes"]);
    bites("tests/durable.rs", "#![allow(dead_code)]", &[":2: attributes"]);
    bites("src/api/page.rs", "#[cfg_attr(test, allow(dead_code))]\nfn f() {}", &[":2: attributes"]);
    bites("src/api/page.rs", "#[expect(dead_code, reason = \"x\")]\nfn f() {}", &[]);
    bites("tests/durable.rs", "#[test]\n#[ignore = \"slow\"]\nfn alone() {}", &[":3: attributes"]);
}

#[test]
fn module_heads() {
    assert_eq!(found("src/api/page.rs", "use std::fmt;\n"), [":1: module head"]);
    assert_eq!(found("src/api/page.rs", "//! Pages.\nuse std::fmt;\n"), [":0"; 0]);
}

#[test]
fn sleeps_in_tests() {
    let sleep = "sleep(Duration::from_millis(5))";
    bites("tests/durable.rs", &format!("fn f() {{ {sleep}; }}"), &[":2: no sleep in tests"]);
    bites("src/api/page.rs", &format!("fn f() {{ {sleep}; }}"), &[]);
    let inside = format!("#[cfg(test)]\nmod tests {{\n    fn f() {{ {sleep}; }}\n}}");
    bites("src/api/page.rs", &inside, &[":4: no sleep in tests"]);
    let loops = format!("fn f() {{\n    while !done() {{\n        {sleep};\n    }}\n}}");
    bites("tests/durable.rs", &loops, &[":4: no sleep in tests"]);
    let looks =
        format!("fn f() {{\n    while !done() {{\n        assert!(since.elapsed() < LONG);\n        {sleep};\n}}\n}}");
    bites("tests/durable.rs", &looks, &[]);
}

#[test]
fn registry_hosts() {
    let host = ["registry.npmjs", ".org"].concat();
    assert_eq!(found("tests/clients/lock.json", &format!("{{\n\"resolved\": \"{host}\"}}")), [":2: no registry hosts"]);
}

#[test]
fn clauses_that_nobody_wrote() {
    let known =
        rules::clauses("## S-DEF: x\n\n**S-DEF-1** (partly). **S-NOTE-1**\n**S-DEF-2**\n**S-RETRY-1** (planned).\n");
    assert_eq!(known.iter().collect::<Vec<_>>(), ["S-DEF-1", "S-DEF-2", "S-RETRY-1"]);
    let cites = |text| rules::unknown_clauses(&Source::new("src/api/page.rs", text), &known).len();
    assert_eq!(cites("// S-DEF-2, S-RETRY-1: POSIX-2, S-DEF and CLAUSES-9"), 0);
    assert_eq!(cites("// S-DEF-3\n// S-NOTE-1"), 2);
}
