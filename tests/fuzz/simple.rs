//! A second opinion on placeholders that are a name and nothing else: the text is cut at braces, and values put in.

use std::{collections::BTreeMap, sync::Arc};

use noxd::machine::{
    facts::{ExecutionFacts, Facts, TaskFacts},
    ids::{ExecutionId, Timestamp, WorkflowId},
    task::TaskStatus,
};

/// The text with its values, where each placeholder is one of these names; `None` where one is more than that.
pub fn filled(text: &str, values: &[(&str, &str)]) -> Option<String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("{{") {
        out += &rest[..at];
        let inner = &rest[at + 2..];
        let end = inner.find("}}")?;
        let (_, value) = values.iter().find(|(name, _)| *name == inner[..end].trim())?;
        out += value;
        rest = &inner[end + 2..];
    }
    Some(out + rest)
}

/// A fault is a sentence about what is wrong: never empty, and not many times as long as what it is about.
pub fn is_sentence(words: &str, about: &str) {
    assert!(!words.trim().is_empty(), "{about:?}");
    assert!(words.len() <= 12 * about.len() + 2_000, "{} bytes about {} bytes: {words}", words.len(), about.len());
}

/// Facts of an execution that was given these inputs, and of tasks that all left the same output.
pub fn with_facts<T>(inputs: &str, tasks: &[String], output: &str, look: impl FnOnce(&Facts<'_>) -> T) -> T {
    let (workflow, notes) = (WorkflowId::parse("w").expect("a name"), BTreeMap::new());
    let left = || TaskFacts {
        status: TaskStatus::Completed,
        output: Some(output.into()),
        metadata: &notes,
        exit_code: Some(0),
        attempts: 1,
    };
    look(&Facts {
        execution: ExecutionFacts {
            id: ExecutionId(7),
            workflow: &workflow,
            version: 1,
            started_at: Timestamp(1_769_846_400_000_000),
            labels: &notes,
        },
        inputs: Arc::from(inputs),
        tasks: tasks.iter().map(|id| (id.as_str(), left())).collect(),
    })
}
