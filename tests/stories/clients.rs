//! Clients of other languages, which know noxd by reflection alone. They need Python and npm packages, so they run in
//! CI, and elsewhere only when they are asked for.

use std::{io::Write as _, process::Command};

/// The switch.
const ASKED_FOR: &str = "NOXD_CLIENTS";

#[test]
fn clients_of_other_languages_need_nothing_but_reflection() {
    // Not `eprintln!`: the harness shows that only of tests that fail, and a skip is to be seen.
    let mut told = std::io::stderr();
    if std::env::var_os(ASKED_FOR).is_none() {
        let words = format!("SKIPPED tests/clients/run: it installs Python and npm packages; {ASKED_FOR}=1 runs it\n");
        told.write_all(words.as_bytes()).expect("standard error");
        return;
    }
    let mut run = Command::new("bash");
    run.arg("tests/clients/run").current_dir(env!("CARGO_MANIFEST_DIR")).env("NOXD", env!("CARGO_BIN_EXE_noxd"));
    let output = run.output().expect("bash runs");
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    told.write_all(printed.as_bytes()).expect("standard error");
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("Ran ") && printed.contains(" passed, 0 failed"), "both clients told their stories");
}
