//! The rules. Each check takes a file and gives what it found: file, line, rule, why, what to do.

use std::{collections::BTreeSet, fmt};

use super::source::Source;

/// All checks of single files.
pub const CHECKS: &[fn(&Source) -> Vec<Finding>] =
    &[imports, machine_is_pure, homes, length, words, attributes, module_head, sleeps, hosts];

/// An untidy place.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    why: String,
    mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, why, mend } = self;
        write!(f, "{path}:{line}: {rule}\n    why: {why}\n    do:  {mend}")
    }
}

fn finding(
    source: &Source,
    line: usize,
    rule: &'static str,
    why: impl Into<String>,
    mend: impl Into<String>,
) -> Finding {
    Finding { path: source.path.clone(), line, rule, why: why.into(), mend: mend.into() }
}

/// Who may import whom: files below a prefix, what they may name of the crate besides their own module, and why no more.
/// The longest prefix counts.
const LAYERS: &[(&str, &[&str], &str)] = &[
    ("src/machine/", &["calendar"], "the pure core stands alone"),
    (
        "src/calendar/",
        &["machine::ids"],
        "when a schedule fires follows from the schedule and the time asked from, nothing else",
    ),
    ("src/store/", &[], "the store keeps opaque rows: a distributed engine can stand behind it without a change above"),
    (
        "src/store/layout/",
        &["calendar", "machine"],
        "what machine types look like on disk is all that the layout knows",
    ),
    ("src/engine/", &["machine", "store"], "the engine orders effects over a channel; it never sees who takes them"),
    ("src/executor/", &["machine", "engine"], "the executor reports facts; it never decides and reads no rows"),
    ("src/notifier", &["machine", "engine"], "the notifier takes effects; it never decides"),
    ("src/analytics", &["machine", "engine", "store"], "analytics reads what the engine has made durable"),
    (
        "src/api/",
        &["calendar", "machine", "store", "engine", "executor::files", "executor::logs", "proto"],
        "the API asks the engine and reads; of the executor it knows only where logs and files are, and a preview is the \
         calendar's own",
    ),
    ("src/cli/", &["proto"], "noxctl is a pure client: what it needs to know, the API has to say"),
    ("src/proto.rs", &[], "generated"),
    ("src/telemetry.rs", &[], "everybody uses it"),
    ("src/config.rs", &["cli::connect"], "the daemon listens by default where noxctl looks by default, nothing more"),
    ("src/notify.rs", &["engine"], "a supervisor is told whether the writer answers, nothing else"),
    (
        "src/daemon.rs",
        &["api", "config", "engine", "executor", "notifier", "analytics", "machine", "notify", "store"],
        "the daemon joins the parts of noxd; it is nobody's client",
    ),
    (
        "src/run.rs",
        &["api::convert", "cli", "config", "daemon", "machine::workflow", "notify", "proto", "telemetry"],
        "`noxd run` checks a file as the API would; then it is a daemon and a client that talk over a socket like any two",
    ),
    ("src/logs.rs", &["executor::files", "executor::logs"], "`noxd logs` reads the files of a run that nobody runs"),
    ("src/doctor/", &["engine", "machine", "store"], "`noxd doctor` reads a store that nobody runs"),
    (
        "src/bin/noxd.rs",
        &["cli::output", "config", "daemon", "doctor", "logs", "notify", "run", "telemetry"],
        "a binary only calls",
    ),
    ("src/bin/noxctl.rs", &["cli"], "a binary only calls"),
    ("src/lib.rs", &[], "the map names modules, it uses none"),
];

fn imports(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/") || source.is_test() {
        return Vec::new();
    }
    let layer = LAYERS.iter().filter(|(prefix, ..)| source.path.starts_with(prefix)).max_by_key(|layer| layer.0.len());
    let Some((_, may, why)) = layer else {
        let mend = "give it a row in LAYERS of tests/tidy/rules.rs";
        return vec![finding(source, 1, "a module without a place", "every module has a place in the order", mend)];
    };
    let own = source.path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
    let mut found = Vec::new();
    for named in source.named().iter().filter(|named| named.path[0] == "crate" && named.path.len() > 1) {
        let inside = named.path[1..].join("::");
        let below = |module: &str| inside == module || inside.starts_with(&format!("{module}::"));
        // `{self}` of an allowed parent is the parent.
        if below(own) || may.iter().any(|module| below(module)) || inside == "self" {
            continue;
        }
        let mend = if may.is_empty() {
            "take it as an argument, or move the code to where it may be known".into()
        } else {
            format!("it may use {}; take the rest as an argument, or move the code", may.join(", "))
        };
        let rule = format!("`{inside}` may not be used here");
        found.push(finding(source, named.line, "who may import whom", format!("{rule}: {why}"), mend));
    }
    found
}

/// The rooms that are pure: the same commands give the same events everywhere.
const PURE: &[&str] = &["src/machine/", "src/calendar/"];

/// What they may never name, wherever it comes from.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "it does not wait: it is called"),
    ("async", "it does not wait: it is called"),
    ("await", "it does not wait: it is called"),
    ("tracing", "it tells by its events"),
    ("Instant", "time is an argument: Tick"),
    ("SystemTime", "time is an argument: Tick"),
    ("Utc", "time is an argument: Tick"),
    ("Local", "time is an argument: Tick"),
    ("now_v7", "ids are made from the Tick"),
    ("new_v4", "ids are made from the Tick"),
    ("rand", "chance is an argument: Tick's seed"),
    ("getrandom", "chance is an argument: Tick's seed"),
    ("HashMap", "its order differs from run to run: BTreeMap, or a dense index"),
    ("HashSet", "its order differs from run to run: BTreeSet, or a dense index"),
    ("thread_local", "all state is in State"),
    ("static_mut", "all state is in State"),
];

/// Modules of std that they may never name.
const IMPURE_STD: &[&str] = &["std::fs", "std::net", "std::env", "std::thread", "std::process", "std::io", "std::os"];

fn machine_is_pure(source: &Source) -> Vec<Finding> {
    let Some(room) = PURE.iter().find(|room| source.path.starts_with(**room) && !source.is_test()) else {
        return Vec::new();
    };
    let room = room.trim_end_matches('/');
    const RULE: &str = "the machine is pure";
    const WHY: &str = "the same commands give the same events everywhere, so that recovery is live running again";
    let mut found = Vec::new();
    for (line, text) in lines(&source.product) {
        for (word, instead) in IMPURE.iter().filter(|(word, _)| has_word(text, word)) {
            found.push(finding(source, line, RULE, format!("`{word}` in {room}: {WHY}"), *instead));
        }
    }
    for named in source.named() {
        let path = named.path.join("::");
        if IMPURE_STD.iter().any(|module| path == *module || path.starts_with(&format!("{module}::"))) {
            let mend = "let the engine do it and hand in what came of it";
            found.push(finding(source, named.line, RULE, format!("`{path}` in {room}: {WHY}"), mend));
        }
    }
    found
}

/// What has one home: the beginning of a path, the prefixes of the files that may name it, and why.
const HOMES: &[(&str, &[&str], &str)] = &[
    ("sled", &["src/store/sled.rs"], "the pitfalls of sled are coded around in one place"),
    ("tonic", &["src/api/", "src/cli/", "src/run.rs", "src/proto.rs"], "gRPC is an edge"),
    ("prost", &["src/api/", "src/cli/", "src/run.rs", "src/proto.rs", "src/store/layout/"], "protobuf is an edge"),
    ("chrono_tz", &["src/calendar/"], "what clocks do is asked of one place, and so is the version of its data"),
    ("libc", &["src/executor/"], "system calls without a safe wrapper are made by the executor only"),
    ("crate::store::simulated", &["src/store/"], "a disk that loses what it was given is for tests"),
];

/// What has no business somewhere: the beginning of a path, prefixes of files that may not name it, those below them
/// that may, and why.
const BANISHED: &[(&str, &[&str], &[&str], &str)] = &[
    (
        "tokio",
        &["src/store/", "src/machine/", "src/calendar/"],
        &[],
        "the store and the pure core are called; they wait for no runtime",
    ),
    (
        "std::fs",
        &["src/store/", "src/engine/", "src/machine/", "src/calendar/"],
        &["src/store/disk.rs", "src/store/sled.rs"],
        "the store's files are touched through one seam, `store::disk`, so that the simulated disk can lose and tear them",
    ),
];

fn homes(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/") || source.is_test() {
        return Vec::new();
    }
    let here = |places: &[&str]| places.iter().any(|place| source.path.starts_with(place));
    let mut found = Vec::new();
    for named in source.named() {
        let path = named.path.join("::");
        let is = |what: &str| path == what || path.starts_with(&format!("{what}::"));
        for (_, homes, why) in HOMES.iter().filter(|(what, homes, _)| is(what) && !here(homes)) {
            let mend = format!("its home is {}", homes.join(", "));
            found.push(finding(source, named.line, "one home", format!("`{path}`: {why}"), mend));
        }
        for (.., but, why) in BANISHED.iter().filter(|(what, from, but, _)| is(what) && here(from) && !here(but)) {
            let mend =
                if but.is_empty() { "let the caller do it".into() } else { format!("go through {}", but.join(", ")) };
            found.push(finding(source, named.line, "one home", format!("`{path}`: {why}"), mend));
        }
    }
    found
}

/// Most lines of a file, without its tests.
const LONGEST: usize = 600;

/// Longer ones, each with its bound and its reason.
const LONGER: &[(&str, usize, &str)] =
    &[("src/store/simulated.rs", 700, "one model of a disk, its faults and its crash; for tests")];

fn length(source: &Source) -> Vec<Finding> {
    if !source.is_rust() || source.is_test() {
        return Vec::new();
    }
    let most = LONGER.iter().find(|(path, ..)| *path == source.path).map_or(LONGEST, |(_, most, _)| *most);
    let length = source.length();
    if length <= most {
        return Vec::new();
    }
    let why = format!("{length} lines without tests, at most {most}: nobody holds that in mind");
    vec![finding(source, most, "length", why, "find the second subject in it and give that a file")]
}

/// Names that say nothing: in names of modules and files, and macros that are left over.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc", "manager"];
const LEFT_OVER: &[(&str, &str)] = &[
    ("todo!", "answer UNIMPLEMENTED, or write it"),
    ("unimplemented!", "answer UNIMPLEMENTED, or write it"),
    ("dbg!", "use tracing, or take it out"),
];

fn words(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    const RULE: &str = "forbidden words";
    let mut found = Vec::new();
    let file = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let folders = source.path.split('/').rev().skip(1);
    for name in folders.chain([file]).filter(|name| EMPTY_NAMES.contains(name)) {
        found.push(empty_name(source, 1, name));
    }
    for (line, text) in lines(&source.code) {
        for (word, mend) in LEFT_OVER.iter().filter(|(word, _)| has_word(text, word)) {
            found.push(finding(source, line, RULE, format!("`{word}` is left over from the work"), *mend));
        }
        let words: Vec<&str> =
            text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            match pair {
                ["mod", name] if EMPTY_NAMES.contains(name) => found.push(empty_name(source, line, name)),
                ["struct" | "enum" | "trait" | "type", name] if name.ends_with("Manager") => {
                    let why = format!("`{name}`: everything manages something");
                    found.push(finding(source, line, RULE, why, "say what it is: Executor, Census, Overlay …"));
                }
                _ => {}
            }
        }
    }
    found
}

fn empty_name(source: &Source, line: usize, name: &str) -> Finding {
    let why = format!("a module named `{name}` has no subject, so everything ends up in it");
    finding(source, line, "forbidden words", why, "name it after what it is about, or put it beside its one user")
}

fn attributes(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    const RULE: &str = "attributes";
    let mut found = Vec::new();
    let all: Vec<(usize, &str)> = lines(&source.code).collect();
    for (line, text) in &all {
        let mark: String = text.split_whitespace().collect();
        if mark.contains("#[allow(") || mark.contains("#![allow(") || mark.contains(",allow(") {
            let why = "`allow` stays when its reason has gone";
            found.push(finding(source, *line, RULE, why, "#[expect(…, reason = \"…\")], or mend what the lint says"));
        }
        if mark.starts_with("#[ignore") {
            let why = "a test that nobody runs proves nothing";
            found.push(finding(source, *line, RULE, why, "run it; a story that needs a process of its own starts one"));
        }
    }
    found
}

fn module_head(source: &Source) -> Vec<Finding> {
    let heads = source.path.starts_with("src/") || source.path.starts_with("tests/") || source.path == "build.rs";
    if !source.is_rust() || !heads || source.text.starts_with("//!") {
        return Vec::new();
    }
    let mend = "begin with `//!`: what it is, what it does not do, which type to read first";
    vec![finding(source, 1, "module head", "a file that does not say what it is is read whole to find out", mend)]
}

/// How far above a sleep its deadline is looked for.
const LOOK_BACK: usize = 16;

/// In tests nothing waits for a span: it looks at a condition until a deadline, and sleeps between two looks.
fn sleeps(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let code: Vec<&str> = source.code.lines().collect();
    let product: Vec<&str> = source.product.lines().collect();
    for (at, text) in code.iter().enumerate() {
        let is_test = source.is_test() || product.get(at) != Some(text);
        if !is_test || !text.contains("sleep(") || text.contains("fn sleep(") {
            continue;
        }
        let above = code[at.saturating_sub(LOOK_BACK)..=at].join("\n").to_lowercase();
        let looks = ["loop", "while"].iter().any(|word| has_word(&above, word));
        if !looks || !(above.contains("elapsed()") || above.contains("deadline")) {
            let why = "a sleep in a test is too short on a loaded machine and too long on any other";
            let mend = "look at the condition in a loop that fails at a deadline, and sleep a little between two looks";
            found.push(finding(source, at + 1, "no sleep in tests", why, mend));
        }
    }
    found
}

/// Hosts of registries, in halves: this file is looked at, too.
const HOSTS: &[(&str, &str)] = &[
    ("static.crates", ".io"),
    ("index.crates", ".io"),
    ("registry.npmjs", ".org"),
    ("registry.yarnpkg", ".com"),
    ("pypi", ".org"),
    ("files.pythonhosted", ".org"),
    ("proxy.golang", ".org"),
    ("sum.golang", ".org"),
    ("deb.debian", ".org"),
    ("archive.ubuntu", ".com"),
    ("security.ubuntu", ".com"),
    ("buf.build", "/gen"),
];

fn hosts(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (line, text) in lines(&source.text) {
        for host in HOSTS.iter().map(|(one, other)| format!("{one}{other}")).filter(|host| text.contains(host)) {
            let why = format!("`{host}` is a registry's host: who builds noxd may have another, set in their client");
            let mend = "let cargo, npm, pip and apt find their own; keep lock files without `resolved` hosts";
            found.push(finding(source, line, "no registry hosts", why, mend));
        }
    }
    found
}

/// The clauses of docs/semantics.md: each begins a line, as in `**S-RETRY-3** (holds now).`
pub fn clauses(semantics: &str) -> BTreeSet<String> {
    let heads = semantics.lines().filter_map(|line| line.strip_prefix("**")?.split_once("**"));
    heads.filter(|(head, _)| cited(head).is_some()).map(|(head, _)| head.to_string()).collect()
}

/// Clauses that the code cites and nobody wrote.
pub fn unknown_clauses(source: &Source, known: &BTreeSet<String>) -> Vec<Finding> {
    let mut found = Vec::new();
    if source.path.starts_with("docs/") || source.path.starts_with("tests/tidy/") {
        return found;
    }
    for (line, text) in lines(&source.text) {
        for (at, _) in text.match_indices("S-") {
            let before = text[..at].chars().next_back();
            let Some(section) = cited(&text[at..]).filter(|_| !before.is_some_and(char::is_alphanumeric)) else {
                continue;
            };
            let rest = text[at + section.len()..].strip_prefix('-').unwrap_or_default();
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let clause = format!("{section}-{number}");
            if !number.is_empty() && !known.contains(&clause) {
                let why = format!("`{clause}` is cited, and docs/semantics.md has no such clause");
                found.push(finding(source, line, "clauses exist", why, "cite the clause that is meant, or write it"));
            }
        }
    }
    found
}

/// `S-RETRY` at the beginning of a text.
fn cited(text: &str) -> Option<String> {
    let word: String = text.strip_prefix("S-")?.chars().take_while(char::is_ascii_uppercase).collect();
    (word.len() > 1).then(|| format!("S-{word}"))
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

/// Whether the word stands in the line by itself.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next().filter(|_| !word.ends_with('!'));
        !line[..at].chars().next_back().is_some_and(is_part) && !after.is_some_and(is_part)
    })
}
