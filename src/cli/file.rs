//! Workflow files: canonical proto3 JSON of the message, written in YAML or JSON, with short enum words and spans of
//! time as people write them (see `words.rs`).
//!
//! A fault is told as `FILE:LINE:COLUMN: what is wrong`, with the line. Whether the workflow makes sense is the
//! server's to say: this only reads.

use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_saphyr::{DuplicateKeyPolicy, MessageFormatter as _, UserMessageFormatter};

use super::{
    text,
    words::{self, Words},
};
use crate::proto::v1::{ScheduledWorkflow, Task, TaskTemplate, Workflow, task};

/// Reads a workflow from a file, or from standard input for `-`. A relative `working_dir` is made absolute against the
/// file's directory (for standard input, the current one).
pub fn read_workflow(path: &Path) -> Result<Workflow, FileError> {
    let source = Source::read(path)?;
    let mut workflow: Workflow = source.parse()?;
    resolve_directories(&source, &mut workflow.tasks)?;
    Ok(workflow)
}

/// Reads a template from a file, or from standard input for `-`. A relative `working_dir` is made absolute as in a
/// workflow, unless it begins with a parameter.
pub fn read_template(path: &Path) -> Result<TaskTemplate, FileError> {
    let source = Source::read(path)?;
    let mut template: TaskTemplate = source.parse()?;
    resolve_directories(&source, &mut template.tasks)?;
    Ok(template)
}

/// Reads a schedule from a file, or from standard input for `-`.
pub fn read_scheduled_workflow(path: &Path) -> Result<ScheduledWorkflow, FileError> {
    Source::read(path)?.parse()
}

fn resolve_directories(source: &Source, tasks: &mut [Task]) -> Result<(), FileError> {
    let base = source.directory()?;
    for task in tasks {
        if let Some(task::Action::Command(command)) = &mut task.action
            && !command.working_dir.is_empty()
            && !command.working_dir.starts_with("{{")
        {
            command.working_dir = absolute(&base, &command.working_dir);
        }
    }
    Ok(())
}

/// Reads the inputs of an execution, or the parameters of a template, from a file, or from standard input for `-`: a mapping from names to values.
pub fn read_inputs(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>, FileError> {
    Source::read(path)?.parse()
}

/// The file's name without directory and extension: what a workflow is called that says no name itself.
pub fn stem(path: &Path) -> Option<&str> {
    path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != "-")
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read at all.
    #[error("cannot read {name}")]
    Read {
        /// The file, as it was named.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than any workflow may be.
    #[error("{name} is larger than {} MiB", MAX_FILE_BYTES / 1024 / 1024)]
    TooLarge {
        /// The file.
        name: String,
    },
    /// It is read, but it does not hold what it should.
    #[error("{0}")]
    Content(Fault),
}

/// What is wrong with a file's content, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named.
    pub name: String,
    /// From 1; 0 when the place is not known.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// One sentence.
    pub message: String,
    /// That line of the file.
    pub excerpt: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(formatter, "{}: {}", self.name, self.message);
        }
        write!(formatter, "{}:{}:{}: {}", self.name, self.line, self.column, self.message)?;
        // A line of JSON without line breaks shows nothing that helps.
        if self.excerpt.is_empty() || self.excerpt.chars().count() > 160 {
            return Ok(());
        }
        let gutter = self.line.to_string();
        let excerpt = text::escape_lines(&self.excerpt);
        // Tabs are kept under the line as they are above it, so that the mark stands where it should.
        let indent: String =
            self.excerpt.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(formatter, "\n  {gutter} | {excerpt}\n  {:1$} | {indent}^", "", gutter.len())
    }
}

/// The text of a file and how it was named.
struct Source {
    name: String,
    path: Option<PathBuf>,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Self, FileError> {
        let from_stdin = path == Path::new("-");
        let name = if from_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let failed = |source| FileError::Read { name: name.clone(), source };
        let mut bytes = Vec::new();
        if from_stdin {
            std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        } else {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        }
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(FileError::TooLarge { name });
        }
        let path = (!from_stdin).then(|| path.to_owned());
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, path, text }),
            Err(error) => {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                let last_line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
                let column = String::from_utf8_lossy(last_line).chars().count() + 1;
                let message = "the file is no UTF-8 text".to_owned();
                Err(FileError::Content(Fault { name, line, column, message, excerpt: String::new() }))
            }
        }
    }

    fn parse<'de, T: Deserialize<'de>>(&'de self) -> Result<T, FileError> {
        if self.text.trim().is_empty() {
            return Err(FileError::Content(self.fault(0, 0, "the file is empty".to_owned())));
        }
        let parsed = serde_saphyr::with_deserializer_from_str_with_options(&self.text, options(), |deserializer| {
            T::deserialize(Words::new(deserializer))
        });
        parsed.map_err(|error| {
            let place = error.location().map_or((0, 0), |place| (place.line(), place.column()));
            let (line, column) = (usize::try_from(place.0).unwrap_or(0), usize::try_from(place.1).unwrap_or(0));
            FileError::Content(self.fault(line, column, explain(error.without_snippet())))
        })
    }

    fn fault(&self, line: usize, column: usize, message: String) -> Fault {
        let excerpt = line.checked_sub(1).and_then(|index| self.text.lines().nth(index)).unwrap_or_default();
        Fault { name: self.name.clone(), line, column: column.max(1), message, excerpt: excerpt.to_owned() }
    }

    /// The directory that relative paths in the file mean.
    fn directory(&self) -> Result<PathBuf, FileError> {
        let failed = |source| FileError::Read { name: self.name.clone(), source };
        let file = match &self.path {
            Some(path) => std::path::absolute(path).map_err(failed)?,
            None => return std::env::current_dir().map_err(failed),
        };
        Ok(file.parent().unwrap_or(Path::new("/")).to_owned())
    }
}

/// `path` against `base`, without `.` components. `..` stays: what it means is the file system's to say.
fn absolute(base: &Path, path: &str) -> String {
    // Components drop the `.` in the middle; a leading one is dropped here.
    let joined: PathBuf = base.join(path).components().filter(|part| *part != std::path::Component::CurDir).collect();
    joined.to_string_lossy().into_owned()
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // `allow_failure: yes` is a word to one parser and a truth to another: neither is guessed.
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 16,
        },
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            // A node is at most two events.
            max_events: 2 * MAX_NODES + 16,
            max_documents: 1,
            // One `&retry` used by ten thousand tasks is good style; the replay limit above bounds what it costs.
            enforce_alias_anchor_ratio: false,
            max_aliases: 100_000,
            max_merge_keys: 100_000,
        },
    }
}

/// The sentence for an error of the parser or of the generated code.
fn explain(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::{Error as E, budget::BudgetBreach};
    match error {
        E::SerdeUnknownField { field, expected, .. } => unknown_field(field, expected),
        E::DuplicateMappingKey { key: Some(key), .. } => format!("`{}` is given twice", text::escape(key)),
        E::InvalidBooleanStrict { .. } => "`true` or `false` is expected here".to_owned(),
        E::Budget { breach: BudgetBreach::Depth { .. }, .. } => format!("this nests deeper than {MAX_DEPTH} levels"),
        E::Budget { breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, .. } => {
            format!("the file holds more than {MAX_NODES} values")
        }
        E::MultipleDocuments { .. } | E::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            "only one document is expected, but a `---` begins another".to_owned()
        }
        E::Unexpected { expected, .. } => match *expected {
            "string scalar" | "scalar" => "a single value is expected here".to_owned(),
            "sequence start" => "a list is expected here".to_owned(),
            "mapping start" => "a mapping, `name: value`, is expected here".to_owned(),
            other => format!("{other} is expected here"),
        },
        other => {
            let message = UserMessageFormatter.format_message(other);
            // pbjson reads numbers through an untagged enum and `str::parse`, whose words say little to a person.
            if NUMBER_REFUSALS.iter().any(|refusal| message.contains(refusal)) {
                return "a number is expected here, not negative and not too large".to_owned();
            }
            message.trim().to_owned()
        }
    }
}

/// Names the likely slip, or what there is to choose from.
fn unknown_field(field: &str, expected: &[&str]) -> String {
    // The generated code lists both spellings; one of them is enough to read.
    let known: Vec<&str> = expected.iter().copied().filter(|name| !name.contains(|c: char| c.is_uppercase())).collect();
    let shown = text::escape(field);
    match nearest(field, &known) {
        Some(near) => format!("there is no field `{shown}` here; did you mean `{near}`?"),
        None => format!("there is no field `{shown}` here, only {}", words::or_list(&known).replace(" or ", " and ")),
    }
}

/// The known name that a slip most likely means: few typing errors away, or with the same beginning.
fn nearest<'known>(slip: &str, known: &[&'known str]) -> Option<&'known str> {
    let slip = slip.to_lowercase().replace('-', "_");
    let scored = known.iter().map(|name| {
        let alike = slip.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        let distance = edit_distance(&slip, name);
        (if alike >= 5 { distance.min(2) } else { distance }, *name)
    });
    scored.min().filter(|(distance, name)| *distance <= 2.min(name.len() / 2)).map(|(_, name)| name)
}

/// How many insertions, deletions and replacements of characters lie between two words.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

// The largest workflow, 100,000 tasks, takes some 25 MiB in block style.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
// 100,000 tasks of 40 nodes each: a task with command, two environment variables, retry and five dependencies has about
// 40 keys and values. A node costs the parser some 100 bytes for a moment, so a hostile file is bounded by 400 MiB of
// work, not of memory.
const MAX_NODES: usize = 4_000_000;
const NUMBER_REFUSALS: &[&str] =
    &["untagged enum Content", "invalid digit found", "invalid float literal", "number too large to fit"];
// The schema nests seven deep; the rest is for free JSON in `default_value`.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{FailurePolicy, OnInterrupt, OutputFormat, TaskPriority, TriggerRule};

    fn read(text: &str) -> Result<Workflow, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.yaml");
        std::fs::write(&path, text).unwrap();
        read_workflow(&path).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn fault(text: &str) -> String {
        read(text).unwrap_err()
    }

    #[test]
    fn people_write_short_words_and_spans_of_time() {
        let workflow = read(
            "id: release\nfailurePolicy: fail-fast\nmetadata: {priority: high, timeout: 10m}\n\
             tasks:\n- id: build\n  priority: High\n  outputFormat: OUTPUT_FORMAT_JSON\n  timeout: 1h30m\n  \
             retry_config: {max_attempts: 3, fixed: {delay: 500ms}, jitter: 0.5}\n  command: {argv: [sleep, 1]}\n\
             - id: wait\n  noop: {duration: 3s}\n",
        )
        .unwrap();
        assert_eq!(workflow.failure_policy, FailurePolicy::FailFast as i32);
        // Maps are data: nothing in them is rewritten.
        assert_eq!(workflow.metadata["priority"], "high");
        assert_eq!(workflow.metadata["timeout"], "10m");
        let build = &workflow.tasks[0];
        assert_eq!(build.priority, TaskPriority::High as i32);
        assert_eq!(build.output_format, OutputFormat::Json as i32);
        assert_eq!(build.timeout.unwrap().seconds, 5400);
        let json = serde_json::to_value(build).unwrap();
        assert_eq!(json["retryConfig"]["fixed"]["delay"], "0.500s");
        assert_eq!(json["command"]["argv"][1], "1");
    }

    #[test]
    fn every_word_and_span_of_a_task_is_read() {
        let workflow = read(
            "execution_timeout: 1h\nfinally: [ask]\nconcurrency_limits: {\"group:db\": 1}\ntasks:\n\
             - {id: a, queueTimeout: 5m, idle_timeout: 30s, on_interrupt: fail, trigger_rule: all-done, \
             allow_failure: true, noop: {}}\n\
             - {id: ask, onInterrupt: RETRY, approval: {prompt: 'Ship it?', approvers: ['uid:0'], timeout: 2d}}\n",
        )
        .unwrap();
        assert_eq!(workflow.execution_timeout.unwrap().seconds, 3_600);
        assert_eq!(workflow.concurrency_limits["group:db"], 1);
        let [a, ask] = workflow.tasks.as_slice() else { panic!("two tasks") };
        assert_eq!((a.queue_timeout.unwrap().seconds, a.idle_timeout.unwrap().seconds), (300, 30));
        assert_eq!((a.on_interrupt(), a.trigger_rule()), (OnInterrupt::Fail, TriggerRule::AllDone));
        assert_eq!(ask.on_interrupt(), OnInterrupt::Retry);
        let Some(task::Action::Approval(approval)) = &ask.action else { panic!("an approval") };
        assert_eq!(approval.timeout.unwrap().seconds, 2 * 86_400);
        assert!(fault("tasks: [{id: a, on_interrupt: stop}]").contains("write RETRY or FAIL"));
    }

    #[test]
    fn the_examples_of_the_docs_are_read() {
        let docs = include_str!("../../docs/workflow-files.md");
        let blocks: Vec<&str> = docs.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(blocks.len() >= 7, "{} examples", blocks.len());
        for block in blocks {
            // A piece of a file is shown without what stands around it.
            let whole = match block {
                _ if block.starts_with("- ") => format!("tasks:\n{block}"),
                _ if block.starts_with("retry_config:") => {
                    format!("tasks:\n- id: a\n  {}", block.trim_end().replace('\n', "\n  "))
                }
                _ => block.to_owned(),
            };
            read(&whole).unwrap_or_else(|words| panic!("{words}\n{whole}"));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let workflow = read("tasks: [{id: a, priority: LOW, timeout: 90s, noop: {}}]").unwrap();
        let json = serde_json::to_string_pretty(&workflow).unwrap();
        let yaml = serde_saphyr::to_string(&workflow).unwrap();
        assert_eq!(read(&json).unwrap(), workflow);
        assert_eq!(read(&yaml).unwrap(), workflow);
        assert_eq!(read(&json.replace("  ", "\t")).unwrap(), workflow);
    }

    #[test]
    fn free_json_is_left_alone() {
        let workflow = read("inputs: [{name: x, parameter_type: string, default_value: {priority: high}}]").unwrap();
        let json = serde_json::to_value(&workflow).unwrap();
        assert_eq!(json["inputs"][0]["defaultValue"]["priority"], "high");
        assert_eq!(json["inputs"][0]["parameterType"], "PARAMETER_TYPE_STRING");
    }

    #[test]
    fn every_slip_is_told_with_line_and_column() {
        assert_eq!(
            fault("tasks:\n- id: a\n  dependson: [b]\n"),
            "w.yaml:3:3: there is no field `dependson` here; did you mean `dependencies`?\n  \
             3 |   dependson: [b]\n    |   ^"
        );
        assert_eq!(
            fault("tasks:\n- id: a\n  noop: {sleep: 3s}\n"),
            "w.yaml:3:10: there is no field `sleep` here, only duration\n  3 |   noop: {sleep: 3s}\n    |          ^"
        );
        assert_eq!(
            fault("tasks:\n- id: a\n  priority: hihg\n"),
            "w.yaml:3:13: `hihg` is no priority: write LOW, MEDIUM, HIGH or CRITICAL\n  \
             3 |   priority: hihg\n    |             ^"
        );
        assert_eq!(
            fault("tasks:\n- id: a\n  timeout: 30\n"),
            "w.yaml:3:12: `30` has no unit: write `30s` for seconds\n  3 |   timeout: 30\n    |            ^"
        );
        assert_eq!(fault("tasks:\n- id: a\n  id: b\n").lines().next().unwrap(), "w.yaml:3:3: `id` is given twice");
        assert_eq!(fault("labels:\n  a: 1\n  a: 2\n").lines().next().unwrap(), "w.yaml:3:3: `a` is given twice");
        assert_eq!(
            fault("tasks:\n- id: a\n  retry_config: {max_attempts: many}\n").lines().next().unwrap(),
            "w.yaml:3:32: a number is expected here, not negative and not too large"
        );
        assert_eq!(fault("tasks: {id: a}\n").lines().next().unwrap(), "w.yaml:1:8: a list is expected here");
        assert_eq!(
            fault("tasks:\n- id: a\n  allow_failure: yes\n").lines().next().unwrap(),
            "w.yaml:3:18: `true` or `false` is expected here"
        );
        assert_eq!(fault("tasks:\n- id: [a\n").lines().next().unwrap(), "w.yaml:2:7: a single value is expected here");
        assert_eq!(
            fault("id: a\n---\nid: b\n").lines().next().unwrap(),
            "w.yaml:2:1: only one document is expected, but a `---` begins another"
        );
        assert_eq!(fault(" \n"), "w.yaml: the file is empty");
    }

    #[test]
    fn emoji_escaped_as_json_tools_do_are_read() {
        assert_eq!(read("{\"name\": \"\\ud83d\\ude80 \\/\"}").unwrap().name, "🚀 /");
    }

    #[test]
    fn relative_directories_mean_the_files_place() {
        let base = Path::new("/srv/flows");
        assert_eq!(absolute(base, "."), "/srv/flows");
        assert_eq!(absolute(base, "./a/./b/"), "/srv/flows/a/b");
        assert_eq!(absolute(base, "../x"), "/srv/flows/../x");
        assert_eq!(absolute(base, "/opt"), "/opt");
        let workflow = read("tasks: [{id: a, command: {argv: [ls], working_dir: .}}, {id: b, command: {argv: [ls]}}]");
        let dirs: Vec<_> = workflow
            .unwrap()
            .tasks
            .into_iter()
            .map(|task| match task.action {
                Some(task::Action::Command(command)) => command.working_dir,
                _ => unreachable!(),
            })
            .collect();
        assert!(Path::new(&dirs[0]).is_absolute());
        assert_eq!(dirs[1], "");
    }

    #[test]
    fn ten_thousand_tasks_load_and_bombs_do_not() {
        let mut text =
            String::from("tasks:\n- {id: t0, retry_config: &retry {max_attempts: 3, fixed: {delay: 1s}}, noop: {}}\n");
        for index in 1..10_000 {
            text += &format!(
                "- id: t{index}\n  title: task {index}\n  dependencies: [t{}]\n  retry_config: *retry\n  \
                 command:\n    argv: [sh, -c, 'exit 0']\n    env: {{A: b}}\n",
                index - 1
            );
        }
        assert_eq!(read(&text).unwrap().tasks.len(), 10_000);
        let deep = format!("inputs: [{{default_value: {}1{}}}]", "[".repeat(40), "]".repeat(40));
        assert!(fault(&deep).contains("this nests deeper than 32 levels"), "{}", fault(&deep));
    }
}
