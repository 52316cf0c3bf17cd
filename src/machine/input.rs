//! The inputs of a workflow: what it declares, and what an execution is given (S-DATA-2).
//!
//! Values are checked once, when an execution is asked for; what runs later reads the JSON that comes out of here.

use std::{collections::BTreeMap, fmt::Write as _};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{
    dependency::nearest,
    ids::check_name,
    json::Json,
    workflow::{InputSpec, ParameterKind, Reason, Violation},
};

/// Most inputs of one workflow.
pub const MAX_INPUTS: usize = 256;
/// Most bytes of all values together, as compact JSON.
pub const MAX_INPUT_BYTES: usize = 256 * 1_024;
/// Longest name in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest description in bytes.
const MAX_DESCRIPTION_BYTES: usize = 4_096;
/// Longest regular expression, and the largest compiled form, in bytes.
const MAX_REGEX_SOURCE_BYTES: usize = 4_096;
const MAX_REGEX_BYTES: usize = 256 * 1_024;
/// Up to here a double is exact about whole numbers: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Every fault of the declarations, in their order; fields are `inputs[2].name`.
pub fn check_declarations(inputs: &[InputSpec]) -> Vec<Violation> {
    check_list("inputs", "an input", inputs)
}

/// The same for any list of declarations: fields are `list[2].name`, and one of them is called `one`.
pub(super) fn check_list(list: &str, one: &str, inputs: &[InputSpec]) -> Vec<Violation> {
    let mut faults = Vec::new();
    if inputs.len() > MAX_INPUTS {
        let words = format!("{} {list}; at most {MAX_INPUTS} are allowed", inputs.len());
        faults.push(fault(list, Reason::LimitExceeded, words));
    }
    let mut names = BTreeMap::new();
    for (at, input) in inputs.iter().take(MAX_INPUTS).enumerate() {
        let mut add = |field: &str, reason, words| faults.push(fault(&format!("{list}[{at}].{field}"), reason, words));
        if let Err(words) = check_declared_name(&input.name, one) {
            add("name", Reason::InvalidId, words);
        } else if let Some(first) = names.insert(&input.name, at) {
            let words = format!("{list}[{first}] has the name `{}` already; names are unique", input.name);
            add("name", Reason::InvalidId, words);
            names.insert(&input.name, first);
        }
        if input.description.len() > MAX_DESCRIPTION_BYTES {
            let words = format!("{} bytes; at most {MAX_DESCRIPTION_BYTES} are allowed", input.description.len());
            add("description", Reason::LimitExceeded, words);
        }
        let regex = match declared_regex(input) {
            Ok(regex) => regex,
            Err(words) => {
                add("validation_regex", Reason::InvalidValue, words);
                None
            }
        };
        let Some(default) = &input.default_value else { continue };
        if input.required {
            let words = format!("{one} that must be given has no use for a default; remove one of the two");
            add("required", Reason::InvalidValue, words);
        }
        match serde_json::from_str(default) {
            Err(error) => add("default_value", Reason::InvalidValue, format!("it is no JSON: {error}")),
            Ok(value) => {
                if let Err(words) = taken(input, regex.as_ref(), &value) {
                    add("default_value", Reason::InvalidValue, words);
                }
            }
        }
    }
    let defaults: usize = inputs.iter().filter_map(|input| input.default_value.as_ref()).map(String::len).sum();
    if defaults > MAX_INPUT_BYTES {
        let words = format!("the defaults have {defaults} bytes in all; at most {MAX_INPUT_BYTES} are allowed");
        faults.push(fault(list, Reason::LimitExceeded, words));
    }
    faults
}

/// The values of an execution as one compact JSON object: the given ones and the defaults, in declared order. An input
/// that is neither required nor given, and has no default, is not in it.
///
/// # Errors
/// Every fault at once; fields are `inputs.env`.
pub fn resolve(inputs: &[InputSpec], given: &serde_json::Map<String, Value>) -> Result<String, Vec<Violation>> {
    let mut faults = Vec::new();
    let mut out = String::from("{");
    for input in inputs {
        let field = format!("inputs.{}", input.name);
        let value = match given.get(&input.name) {
            Some(value) => match declared_regex(input).and_then(|regex| taken(input, regex.as_ref(), value)) {
                Ok(value) => value,
                Err(words) => {
                    faults.push(fault(&field, Reason::InvalidValue, words));
                    continue;
                }
            },
            None if input.required => {
                let words = format!("the workflow needs {} here{}", kind_words(input.kind), described(input));
                faults.push(fault(&field, Reason::MissingValue, words));
                continue;
            }
            None => match &input.default_value {
                // Checked when the definition was stored.
                Some(default) => {
                    match serde_json::from_str(default).ok().and_then(|value| taken(input, None, &value).ok()) {
                        Some(value) => value,
                        None => continue,
                    }
                }
                None => continue,
            },
        };
        let comma = if out.len() > 1 { "," } else { "" };
        // A String takes what is written to it.
        let _ = write!(out, "{comma}{}:{value}", Json::text(&input.name));
    }
    out.push('}');
    faults.extend(given.keys().filter_map(|name| unknown(inputs, name)));
    if out.len() > MAX_INPUT_BYTES {
        let words = format!("the inputs have {} bytes in all; at most {MAX_INPUT_BYTES} are allowed", out.len());
        faults.push(fault("inputs", Reason::LimitExceeded, words));
    }
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

pub(super) fn fault(field: &str, reason: Reason, description: String) -> Violation {
    Violation { field: field.into(), reason, description }
}

/// A name that can stand after `inputs.` as it is.
fn check_declared_name(name: &str, one: &str) -> Result<(), String> {
    const FORM: &str = "use 1 to 64 of the characters A-Z a-z 0-9 _, and no digit first";
    let is_formed = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if is_formed { Ok(()) } else { Err(format!("`{}` is no name of {one}; {FORM}", shortened(name))) }
}

/// The regular expression of an input, made to match the whole value.
pub(super) fn declared_regex(input: &InputSpec) -> Result<Option<Regex>, String> {
    let source = &input.validation_regex;
    if source.is_empty() {
        return Ok(None);
    }
    if input.kind == ParameterKind::Boolean {
        return Err("a boolean matches no regular expression; remove it".into());
    }
    if source.len() > MAX_REGEX_SOURCE_BYTES {
        return Err(format!("{} bytes; at most {MAX_REGEX_SOURCE_BYTES} are allowed", source.len()));
    }
    let build = |source: &str| RegexBuilder::new(source).size_limit(MAX_REGEX_BYTES).build();
    // First by itself: `a)|(b` would be whole only within the brackets.
    let whole = build(source).and_then(|_| build(&format!(r"\A(?:{source})\z")));
    whole.map(Some).map_err(|error| {
        // regex draws the place over several lines; the last one says what is wrong.
        let words = error.to_string();
        format!("`{}` is no regular expression: {}", shortened(source), words.lines().last().unwrap_or_default())
    })
}

/// A value as the input's kind takes it.
pub(super) fn taken(input: &InputSpec, regex: Option<&Regex>, value: &Value) -> Result<Json, String> {
    let wrong = || {
        let shown = Json::parse(&value.to_string()).map_or_else(|_| value.to_string(), |json| json.shown(64));
        format!("{shown} is not {}", kind_words(input.kind))
    };
    let value = match (input.kind, value) {
        (ParameterKind::String, Value::String(text)) => Json::text(text),
        (ParameterKind::AgentId | ParameterKind::TaskId, Value::String(text)) => {
            check_name(text)?;
            Json::text(text)
        }
        (ParameterKind::Boolean, Value::Bool(value)) => Json::Bool(*value),
        (ParameterKind::Integer, Value::Number(number)) => whole(number).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let Some(regex) = regex else { return Ok(value) };
    let text = value.as_text(MAX_INPUT_BYTES).map_err(|_| "the value is too long".to_string())?;
    if regex.is_match(&text) {
        return Ok(value);
    }
    Err(format!("{} does not match `{}` as a whole", value.shown(64), shortened(&input.validation_regex)))
}

/// A whole number; one of a protobuf Struct comes as a double and is taken as far as a double is exact.
fn whole(number: &serde_json::Number) -> Option<Json> {
    if let Some(whole) = number.as_i64() {
        return Some(Json::Integer(whole));
    }
    if let Some(large) = number.as_u64() {
        return Json::parse(&large.to_string()).ok();
    }
    let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= MAX_EXACT)?;
    format!("{float:.0}").parse().ok().map(Json::Integer)
}

pub(super) fn kind_words(kind: ParameterKind) -> &'static str {
    match kind {
        ParameterKind::String => "text",
        ParameterKind::Integer => "a whole number (a larger one than 2^53 is given as text)",
        ParameterKind::Boolean => "true or false",
        ParameterKind::AgentId => "the id of an agent",
        ParameterKind::TaskId => "the id of a task",
    }
}

pub(super) fn described(input: &InputSpec) -> String {
    let line = input.description.lines().next().unwrap_or_default();
    if line.is_empty() { String::new() } else { format!(": {}", shortened(line)) }
}

fn unknown(inputs: &[InputSpec], name: &str) -> Option<Violation> {
    if inputs.iter().any(|input| input.name == *name) {
        return None;
    }
    let near = nearest(name, inputs.iter().map(|input| input.name.as_str()));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let words = match inputs {
        [] => "the workflow has no inputs".to_string(),
        _ => format!("the workflow has no input of that name{near}"),
    };
    Some(fault(&format!("inputs.{}", shortened(name)), Reason::InvalidValue, words))
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
