//! The filters and tests of expressions: `value | name(…)` and `value is name`. There are no others.
//!
//! Each makes at most [`MAX_TEXT`] bytes and never a list that can be multiplied, whatever it is given.

use std::{fmt::Write as _, sync::Arc};

use minijinja::{Environment, Error, ErrorKind, Value, filters, tests, value::ValueKind};

use super::{
    json::{Bounded, Json, List},
    scope::{computed, json_of},
};

/// All filters, by name.
pub const FILTERS: [&str; 16] = [
    "abs", "default", "first", "float", "int", "join", "last", "length", "lower", "replace", "round", "split",
    "string", "tojson", "trim", "upper",
];

/// All tests, by name.
pub const TESTS: [&str; 8] =
    ["boolean", "defined", "endingwith", "none", "number", "startingwith", "string", "undefined"];

/// Longest text that a filter makes, in bytes.
const MAX_TEXT: usize = 4 * 1_024 * 1_024;

/// Makes them known to minijinja.
pub fn add(environment: &mut Environment<'_>) {
    environment.add_filter("abs", filters::abs);
    environment.add_filter("default", filters::default);
    environment.add_filter("float", float);
    environment.add_filter("int", int);
    environment.add_filter("round", filters::round);
    environment.add_filter("lower", |value: Value| Ok::<_, Error>(text(&value)?.to_lowercase()));
    environment.add_filter("upper", |value: Value| Ok::<_, Error>(text(&value)?.to_uppercase()));
    environment.add_filter("trim", |value: Value| Ok::<_, Error>(text(&value)?.trim().to_string()));
    environment.add_filter("replace", replace);
    environment.add_filter("split", split);
    environment.add_filter("join", join);
    environment.add_filter("first", |value: Value| Ok::<_, Error>(elements(&value)?.0.first().map(computed)));
    environment.add_filter("last", |value: Value| Ok::<_, Error>(elements(&value)?.0.last().map(computed)));
    environment.add_filter("length", length);
    environment.add_filter("string", |value: Value| as_text(&json(&value)?));
    environment.add_filter("tojson", |value: Value| written(|out| json(&value)?.write(out).map_err(Error::from)));
    environment.add_test("boolean", tests::is_boolean);
    environment.add_test("defined", tests::is_defined);
    environment
        .add_test("endingwith", |value: Value, end: Value| Ok::<_, Error>(text(&value)?.ends_with(&*text(&end)?)));
    environment.add_test("none", tests::is_none);
    environment.add_test("number", tests::is_number);
    environment.add_test("startingwith", |value: Value, start: Value| {
        Ok::<_, Error>(text(&value)?.starts_with(&*text(&start)?))
    });
    environment.add_test("string", tests::is_string);
    environment.add_test("undefined", tests::is_undefined);
}

/// A whole number of a number or of text; what is behind the point is cut off.
fn int(value: Value) -> Result<Value, Error> {
    if value.is_integer() {
        return Ok(value);
    }
    if let Some(whole) = value.as_str().and_then(|text| text.trim().parse::<i128>().ok()) {
        return Ok(Value::from(whole));
    }
    let float = float(value)?.trunc();
    // Beyond that, a float is not exact about what it stands for.
    if float.abs() > 9_007_199_254_740_992.0 {
        return Err(refused(format!("{float} is too large to be cut to a whole number")));
    }
    let whole = format!("{float:.0}").parse::<i64>();
    whole.map(Value::from).map_err(|_| refused(format!("{float} is no whole number")))
}

/// A number of a number or of text.
fn float(value: Value) -> Result<f64, Error> {
    let float = match value.kind() {
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => value.as_str().and_then(|text| text.trim().parse::<f64>().ok()),
        _ => None,
    };
    let float = float.filter(|float| float.is_finite());
    float.ok_or_else(|| refused(format!("{} is no number", shown(&value))))
}

fn replace(value: Value, from: Value, to: Value) -> Result<String, Error> {
    let (value, from, to) = (text(&value)?, text(&from)?, text(&to)?);
    if from.is_empty() {
        return Err(refused("`replace` needs the text to look for".into()));
    }
    written(|out| {
        for (at, part) in value.split(&*from).enumerate() {
            if at > 0 {
                out.write_str(&to)?;
            }
            out.write_str(part)?;
        }
        Ok(())
    })
}

/// Without a separator: at white space.
fn split(value: Value, separator: Option<Value>) -> Result<Value, Error> {
    let value = text(&value)?;
    let parts = match separator {
        None => value.split_whitespace().map(Json::text).collect(),
        Some(separator) => {
            let separator = text(&separator)?;
            if separator.is_empty() {
                return Err(refused("`split` needs the text to split at".into()));
            }
            value.split(&*separator).map(Json::text).collect()
        }
    };
    Ok(computed(&Json::List(Arc::new(List(parts)))))
}

fn join(value: Value, separator: Option<Value>) -> Result<String, Error> {
    let separator = separator.as_ref().map(text).transpose()?.unwrap_or_default();
    let list = elements(&value)?;
    written(|out| {
        for (at, element) in list.0.iter().enumerate() {
            if at > 0 {
                out.write_str(&separator)?;
            }
            match element {
                Json::Text(text) => out.write_str(text)?,
                other => other.write(out)?,
            }
        }
        Ok(())
    })
}

/// Characters, elements or members.
fn length(value: Value) -> Result<usize, Error> {
    match json(&value)? {
        Json::Text(text) => Ok(text.chars().count()),
        Json::List(list) => Ok(list.0.len()),
        Json::Map(map) => Ok(map.pairs().len()),
        other => Err(refused(format!("{} has no length", other.kind()))),
    }
}

fn as_text(json: &Json) -> Result<Arc<str>, Error> {
    json.as_text(MAX_TEXT).map_err(|_| too_long())
}

fn written(write: impl FnOnce(&mut Bounded) -> Result<(), Error>) -> Result<String, Error> {
    let mut out = Bounded::new(MAX_TEXT);
    write(&mut out).map_err(|error| if error.kind() == ErrorKind::WriteFailure { too_long() } else { error })?;
    Ok(out.into_text())
}

fn too_long() -> Error {
    refused(format!("it makes text of more than {MAX_TEXT} bytes"))
}

fn json(value: &Value) -> Result<Json, Error> {
    json_of(value).map_err(refused)
}

fn text(value: &Value) -> Result<Arc<str>, Error> {
    value
        .to_str()
        .filter(|_| value.kind() == ValueKind::String)
        .ok_or_else(|| refused(format!("{} is no text", shown(value))))
}

fn elements(value: &Value) -> Result<Arc<List>, Error> {
    value.downcast_object::<List>().ok_or_else(|| refused(format!("{} is no array", shown(value))))
}

/// The beginning of a value, for words to people.
fn shown(value: &Value) -> String {
    json_of(value).map_or_else(|_| format!("a value of kind {}", value.kind()), |json| json.shown(64))
}

fn refused(words: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, words)
}
