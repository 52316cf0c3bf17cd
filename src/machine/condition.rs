//! Whether a task runs: its `conditions` and its `when`, over the facts that the caller hands in (S-COND).
//!
//! Nothing is decided about the task here; a [`Verdict`] says what was found, with the values that it was found in.

use std::cmp::Ordering;

use super::{
    expression,
    facts::Facts,
    json::Json,
    lexer::{Path, Token, Word, words},
    scope::{self, Scope},
    workflow::{Comparison, ConditionSpec, ConditionSubject, TaskSpec},
};

/// What evaluating one `when` may cost: instructions, or units of 64 bytes of text made; some milliseconds at most.
const FUEL: u64 = 100_000;
/// Longest reason, and longest list of values, in bytes.
const MAX_WORDS: usize = 1_024;
/// Longest value in them, in bytes.
const MAX_SHOWN: usize = 160;

/// Whether a task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All conditions hold, and `when` is true.
    Met,
    /// One does not.
    NotMet {
        /// One sentence with the condition and the values; at most 1 KiB.
        reason: String,
    },
    /// One cannot be evaluated: it counts as not met, and is recorded (S-COND-4).
    Error(ConditionFailure),
}

/// A condition that cannot be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionFailure {
    /// The condition as text, or the `when` expression; at most 1 KiB.
    pub expression: String,
    /// The values that it looked at, `tasks.a.output.n = "x"`; at most 1 KiB.
    pub values: String,
    /// Why, in one sentence; at most 1 KiB.
    pub message: String,
}

/// Ids of the tasks that conditions and `when` read, ascending: these must be in [`Facts::tasks`].
pub fn tasks_read(task: &TaskSpec) -> Vec<String> {
    let mut ids: Vec<String> = task.conditions.iter().map(|condition| condition.target_task_id.clone()).collect();
    ids.extend(expression::tasks_of(&task.when));
    ids.sort();
    ids.dedup();
    ids
}

/// Evaluates the conditions in their order, then `when`, and stops at the first that is not met.
pub fn evaluate(task: &TaskSpec, facts: &Facts<'_>) -> Verdict {
    if task.conditions.is_empty() && task.when.is_empty() {
        return Verdict::Met;
    }
    let scope = Scope::new(facts);
    for condition in &task.conditions {
        match structured(condition, &scope) {
            Verdict::Met => {}
            other => return other,
        }
    }
    if task.when.is_empty() { Verdict::Met } else { when(&task.when, &scope) }
}

fn structured(condition: &ConditionSpec, scope: &Scope) -> Verdict {
    let looked_at = look_up(condition, scope);
    let (what, value) = match looked_at {
        Ok(found) => found,
        Err(message) => return failure(&described(condition), String::new(), message),
    };
    let holds = condition.operator.ok_or_else(|| "the condition has no operator".to_string());
    match holds.and_then(|operator| compare(value, operator, &condition.expected_value)) {
        Ok(true) => Verdict::Met,
        Ok(false) => {
            let reason = format!("{}, but {what} is {}", described(condition), value.shown(MAX_SHOWN));
            Verdict::NotMet { reason: bounded(&reason) }
        }
        Err(message) => failure(&described(condition), format!("{what} = {}", value.shown(MAX_SHOWN)), message),
    }
}

/// What a condition looks at, in words and as a value.
fn look_up<'a>(condition: &ConditionSpec, scope: &'a Scope) -> Result<(String, &'a Json), String> {
    let (id, path) = (condition.target_task_id.as_str(), condition.path.as_str());
    match condition.subject {
        None => Err("the condition does not say what it looks at".into()),
        Some(ConditionSubject::Status) => Ok((format!("the status of `{id}`"), scope.attribute(id, "status")?)),
        Some(ConditionSubject::Output) => {
            let value = scope.output(id)?.pointer(path);
            let value = value.map_err(|end| format!("the output of `{id}` has nothing at `{end}`"))?;
            let at = if path.is_empty() { String::new() } else { format!(" at `{path}`") };
            Ok((format!("the output of `{id}`{at}"), value))
        }
        Some(ConditionSubject::Metadata) => {
            let value = match scope.attribute(id, "metadata")? {
                Json::Map(map) => map.get(path),
                _ => None,
            };
            let value = value.ok_or_else(|| format!("the metadata of `{id}` has no key `{path}`"))?;
            Ok((format!("the metadata `{path}` of `{id}`"), value))
        }
    }
}

/// The condition as one line.
fn described(condition: &ConditionSpec) -> String {
    let subject = match condition.subject {
        Some(ConditionSubject::Status) => "status",
        Some(ConditionSubject::Output) => "output",
        Some(ConditionSubject::Metadata) => "metadata",
        None => "?",
    };
    let operator = match condition.operator {
        Some(Comparison::Equals) => "EQUALS",
        Some(Comparison::NotEquals) => "NOT_EQUALS",
        Some(Comparison::Contains) => "CONTAINS",
        Some(Comparison::GreaterThan) => "GREATER_THAN",
        Some(Comparison::LessThan) => "LESS_THAN",
        None => "?",
    };
    let at = if condition.path.is_empty() { String::new() } else { format!(" `{}`", condition.path) };
    let expected = Json::text(&condition.expected_value).shown(MAX_SHOWN);
    format!("{subject}{at} of `{}` {operator} {expected}", condition.target_task_id)
}

fn compare(value: &Json, operator: Comparison, expected: &str) -> Result<bool, String> {
    match operator {
        Comparison::Equals => Ok(is_text(value, expected)),
        Comparison::NotEquals => Ok(!is_text(value, expected)),
        Comparison::Contains => match value {
            Json::Text(text) => Ok(text.contains(expected)),
            Json::List(list) => Ok(list.0.iter().any(|element| is_text(element, expected))),
            Json::Map(map) => Ok(map.get(expected).is_some()),
            other => Err(format!("CONTAINS looks into text, an array or the keys of an object, not {}", other.kind())),
        },
        Comparison::GreaterThan => Ok(numbers(value, expected)? == Ordering::Greater),
        Comparison::LessThan => Ok(numbers(value, expected)? == Ordering::Less),
    }
}

/// Whether the value as text is that text; nothing longer is written than need be.
fn is_text(value: &Json, expected: &str) -> bool {
    value.as_text(expected.len()).is_ok_and(|text| *text == *expected)
}

fn numbers(value: &Json, expected: &str) -> Result<Ordering, String> {
    let found = match value {
        Json::Integer(whole) => Some(Number::Whole((*whole).into())),
        Json::Number(text) | Json::Text(text) => Number::parse(text),
        _ => None,
    };
    let found = found.ok_or_else(|| format!("it is {}, not a number", value.kind()))?;
    let expected = Number::parse(expected).ok_or_else(|| format!("the expected value `{expected}` is not a number"))?;
    Ok(found.compare(expected))
}

/// A number that can be compared: exact where it is whole and has at most 128 bits.
#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Float(f64),
}

impl Number {
    /// White space around it does not count. Infinity and NaN are no numbers.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // Rust reads `inf` and `nan`, JSON does not.
        if !text.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        match text.parse::<i128>() {
            Ok(whole) => Some(Self::Whole(whole)),
            Err(_) => text.parse::<f64>().ok().filter(|float| float.is_finite()).map(Self::Float),
        }
    }

    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one.cmp(&other),
            (Self::Float(one), Self::Float(other)) => one.total_cmp(&other),
            (Self::Float(float), Self::Whole(whole)) => against(whole, float).reverse(),
            (Self::Whole(whole), Self::Float(float)) => against(whole, float),
        }
    }
}

/// Exact, where a float would round a large whole number away.
fn against(whole: i128, float: f64) -> Ordering {
    match format!("{:.0}", float.trunc()).parse::<i128>() {
        Ok(cut) => whole.cmp(&cut).then(0.0_f64.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal)),
        Err(_) if float > 0.0 => Ordering::Less,
        Err(_) => Ordering::Greater,
    }
}

fn when(expression: &str, scope: &Scope) -> Verdict {
    let words = words(expression);
    let paths: Vec<Path<'_>> = words.iter().filter_map(Word::path).cloned().collect();
    let failed = |message: String| failure(expression, values(&paths, scope), message);
    if let Err(message) = scope.knows(&paths).and_then(|()| check_kinds(&words, scope)) {
        return failed(message);
    }
    let value = match scope.evaluate(&scope::environment(FUEL), expression) {
        Ok(value) => value,
        Err(message) => return failed(missing(&paths, scope).unwrap_or(message)),
    };
    match scope::json_of(&value) {
        Ok(Json::Bool(true)) => Verdict::Met,
        Ok(Json::Bool(false)) => {
            let values = values(&paths, scope);
            let given = if values.is_empty() { String::new() } else { format!(": {values}") };
            Verdict::NotMet { reason: bounded(&format!("`{}` is false{given}", bounded_to(expression, MAX_WORDS / 2))) }
        }
        Ok(other) => failed(format!("it gives {}, {}, and not true or false", other.kind(), other.shown(MAX_SHOWN))),
        Err(message) => failed(message),
    }
}

/// What the first path that leads nowhere lacks: minijinja knows only that something does not exist.
fn missing(paths: &[Path<'_>], scope: &Scope) -> Option<String> {
    let missing = |path: &Path<'_>| Some(format!("`{}`: {}", path.text, scope.look_up(path).err()?));
    paths.iter().find_map(missing)
}

/// What was looked at: `tasks.a.output.n = 3, inputs.env = "dev"`.
fn values(paths: &[Path<'_>], scope: &Scope) -> String {
    let mut shown: Vec<String> = Vec::new();
    for path in paths {
        let value = scope.look_up(path).map_or_else(|_| "missing".into(), |value| value.shown(MAX_SHOWN));
        let line = format!("{} = {value}", path.text);
        if !shown.contains(&line) {
            shown.push(line);
        }
    }
    bounded(&shown.join(", "))
}

/// Refuses to compare text with a number, where both sides are plain: minijinja would put every text after every
/// number, and an output that is text would be more than anything.
fn check_kinds(words: &[Word<'_>], scope: &Scope) -> Result<(), String> {
    let is = |at: usize, c: char| matches!(words.get(at), Some(Word::Token(Token::Other(other))) if *other == c);
    for at in 1..words.len() {
        let equals = is(at + 1, '=');
        if !(is(at, '<') || is(at, '>') || equals && (is(at, '=') || is(at, '!'))) {
            continue;
        }
        let right = at + 1 + usize::from(equals);
        let right = right + usize::from(is(right, '-'));
        if binds(at.checked_sub(2).and_then(|before| words.get(before))) || binds(words.get(right + 1)) {
            continue;
        }
        if let (Some(one), Some(other)) =
            (operand(&words[at - 1], scope), words.get(right).and_then(|word| operand(word, scope)))
        {
            same_kind(&one, &other)?;
            same_kind(&other, &one)?;
        }
    }
    Ok(())
}

/// Whether a value beside this belongs to something that is computed first.
fn binds(word: Option<&Word<'_>>) -> bool {
    match word {
        Some(Word::Token(Token::Other(c))) => matches!(c, '+' | '-' | '*' | '/' | '%' | '~' | '|' | '.' | '['),
        Some(Word::Token(Token::Name(name))) => matches!(*name, "is" | "in"),
        _ => false,
    }
}

/// An operand whose value is known before anything is computed, as it is written.
fn operand<'a>(word: &Word<'a>, scope: &Scope) -> Option<(&'a str, Json)> {
    match word {
        Word::Path(path) if path.goes_on => None,
        Word::Path(path) => Some((path.text, scope.look_up(path).ok()?.clone())),
        Word::Token(Token::Text(text)) => Some((text, Json::text(text))),
        Word::Token(Token::Name(digits)) => Json::parse(digits).ok().map(|number| (*digits, number)),
        Word::Token(Token::Other(_)) => None,
    }
}

fn same_kind((name, one): &(&str, Json), (number, other): &(&str, Json)) -> Result<(), String> {
    match (one, other) {
        (Json::Text(_), Json::Integer(_) | Json::Number(_)) => Err(format!(
            "`{name}` is text and `{number}` is a number, which cannot be compared; write `{name} | float` for the \
             number in the text"
        )),
        (Json::Number(_), _) if !scope::is_computable(one) => {
            Err(format!("`{name}` is too large a number to be compared; it can only be written as it is"))
        }
        _ => Ok(()),
    }
}

fn failure(expression: &str, values: String, message: String) -> Verdict {
    Verdict::Error(ConditionFailure { expression: bounded(expression), values, message: bounded(&message) })
}

fn bounded(text: &str) -> String {
    bounded_to(text, MAX_WORDS)
}

/// At most so many bytes; what is cut off is marked.
fn bounded_to(text: &str, most: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= most {
        return text.to_string();
    }
    text[..text.floor_char_boundary(most - MARK.len())].to_string() + MARK
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
