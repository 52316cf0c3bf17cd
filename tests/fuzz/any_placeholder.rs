//! What must hold of a field and of an expression made of any bytes, with any value. The fuzz target `placeholder` (fuzz/)
//! calls the same function.

use noxd::machine::{
    condition::{self, Verdict},
    expression::{check_expression, check_field},
    json::Json,
    placeholder,
    workflow::TaskSpec,
};

use crate::simple::{filled, is_sentence, with_facts};

/// Longest field with its values, in bytes.
const MAX_FIELD: usize = 1_024 * 1_024;
/// Longest sentence of a verdict, in bytes.
const MAX_SENTENCE: usize = 1_024;

/// The first line is a field and an expression, the rest a value: JSON, or else a text. True if it is a sound field with
/// a placeholder, or a sound expression.
pub fn holds(data: &[u8]) -> bool {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (text, value) = (part(), part());
    let value = Json::parse(&value).unwrap_or_else(|_| Json::text(&value));
    let printed = value.to_string();
    assert_eq!(Json::parse(&printed), Ok(value.clone()), "what is printed reads as it was: {printed}");
    let inputs = Json::map([("x", value.clone())]).to_string();
    let field = as_field(&text, &value, &inputs);
    as_expression(&text, &printed, &inputs) || field
}

fn as_field(text: &str, value: &Json, inputs: &str) -> bool {
    let tasks = match check_field(text, &["x"]) {
        Ok(tasks) => tasks,
        Err(words) => {
            is_sentence(&words, text);
            return false;
        }
    };
    let task = TaskSpec { title: text.into(), ..TaskSpec::default() };
    let mut named = tasks.clone();
    named.sort();
    named.dedup();
    assert_eq!(placeholder::tasks_read(&task), named, "{text:?}: checked and filled, it reads the same tasks");
    let render = |text: &str| with_facts(inputs, &tasks, inputs, |facts| placeholder::render(text, facts));
    let rendered = render(text);
    assert_eq!(render(text), rendered, "{text:?}: the same again");
    match &rendered {
        Ok(filled) => assert!(filled.len() <= MAX_FIELD, "{text:?}: {} bytes", filled.len()),
        Err(words) => is_sentence(words, &format!("{text}{inputs}")),
    }
    // A value is put in as it is, and what was put in is never looked at again.
    let value = value.as_text(MAX_FIELD).expect("it is small");
    if let Some(expected) = filled(text, &[("inputs.x", &value)]) {
        assert_eq!(rendered, Ok(expected), "{text:?}");
    }
    let between = "a {{ inputs.x }}{{inputs.x}} b";
    assert_eq!(render(between), Ok(format!("a {value}{value} b")));
    text.contains("{{")
}

fn as_expression(text: &str, output: &str, inputs: &str) -> bool {
    let tasks = match check_expression(text, &["x"]) {
        Ok(tasks) => tasks,
        Err(words) => {
            is_sentence(&words, text);
            return false;
        }
    };
    let task = TaskSpec { when: text.into(), ..TaskSpec::default() };
    let evaluate = || with_facts(inputs, &tasks, output, |facts| condition::evaluate(&task, facts));
    let verdict = evaluate();
    assert_eq!(evaluate(), verdict, "{text:?}: the same again");
    let sentences = match &verdict {
        Verdict::Met => Vec::new(),
        Verdict::NotMet { reason } => vec![reason],
        Verdict::Error(failure) => vec![&failure.expression, &failure.values, &failure.message],
    };
    for words in sentences {
        assert!(words.len() <= MAX_SENTENCE, "{text:?}: {} bytes: {words}", words.len());
    }
    // It is the same value between braces: what a field shows is what a condition goes by.
    if !text.contains("}}") && !text.starts_with(['-', '+']) {
        let field = format!("{{{{{text}}}}}");
        let read = check_field(&field, &["x"]);
        if matches!(verdict, Verdict::Met) && read.is_ok() {
            let shown = with_facts(inputs, &tasks, output, |facts| placeholder::render(&field, facts));
            assert_eq!(shown.as_deref(), Ok("true"), "{text:?} is met");
        }
    }
    true
}
