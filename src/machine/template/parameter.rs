//! The values of a template's parameters: taken as they are declared, every fault at once (S-TPL-2).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Map, Value};

use crate::machine::{
    dependency::nearest,
    input::{MAX_INPUT_BYTES, declared_regex, described, fault, kind_words, shortened, taken},
    json::Json,
    workflow::{InputSpec, ParameterKind, Reason, Violation},
};

/// Values by name.
pub type Values = BTreeMap<String, Json>;

/// The values given, and the defaults of those that are not. `used` are the names that placeholders stand for.
///
/// # Errors
/// Every fault at once; fields are `parameters.env`.
pub fn resolve(
    parameters: &[InputSpec],
    used: &BTreeSet<String>,
    given: &Map<String, Value>,
) -> Result<Values, Vec<Violation>> {
    let mut faults = Vec::new();
    let mut values = Values::new();
    for parameter in parameters {
        let field = format!("parameters.{}", parameter.name);
        match given.get(&parameter.name) {
            Some(value) => match one(parameter, value) {
                Ok(value) => {
                    values.insert(parameter.name.clone(), value);
                }
                Err(words) => faults.push(fault(&field, Reason::InvalidValue, words)),
            },
            None => match default_of(parameter) {
                Some(value) => {
                    values.insert(parameter.name.clone(), value);
                }
                None if parameter.required || used.contains(&parameter.name) => {
                    let words =
                        format!("the template needs {} here{}", kind_words(parameter.kind), described(parameter));
                    faults.push(fault(&field, Reason::MissingTemplateParameter, words));
                }
                None => {}
            },
        }
    }
    faults.extend(given.keys().filter_map(|name| unknown(parameters, name)));
    let bytes: usize = values.values().map(|value| value.to_string().len()).sum();
    if bytes > MAX_INPUT_BYTES {
        let words = format!("the parameters have {bytes} bytes in all; at most {MAX_INPUT_BYTES} are allowed");
        faults.push(fault("parameters", Reason::LimitExceeded, words));
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

/// Values as one JSON object, in declared order.
pub fn as_object(parameters: &[InputSpec], values: &Values) -> String {
    let mut out = String::from("{");
    for parameter in parameters {
        let Some(value) = values.get(&parameter.name) else { continue };
        let comma = if out.len() > 1 { "," } else { "" };
        // A String takes what is written to it.
        let _ = write!(out, "{comma}{}:{value}", Json::text(&parameter.name));
    }
    out + "}"
}

/// Values that stand for any: one for each name, different from all others.
pub fn samples(parameters: &[InputSpec]) -> Values {
    let sample = |parameter: &InputSpec| match parameter.kind {
        ParameterKind::String | ParameterKind::AgentId | ParameterKind::TaskId => {
            Json::text(&format!("p_{}", parameter.name))
        }
        ParameterKind::Integer => Json::Integer(1),
        ParameterKind::Boolean => Json::Bool(true),
    };
    parameters.iter().map(|parameter| (parameter.name.clone(), sample(parameter))).collect()
}

fn one(parameter: &InputSpec, value: &Value) -> Result<Json, String> {
    let regex = declared_regex(parameter)?;
    let read = match (parameter.kind, value) {
        (ParameterKind::Integer, Value::String(text)) => text.parse::<i64>().ok().map(Value::from),
        (ParameterKind::Boolean, Value::String(text)) => text.parse::<bool>().ok().map(Value::from),
        _ => None,
    };
    let taken = taken(parameter, regex.as_ref(), read.as_ref().unwrap_or(value))?;
    if matches!(&taken, Json::Text(text) if text.contains('\0')) {
        return Err("a NUL byte cannot reach a program; remove it".into());
    }
    Ok(taken)
}

/// Its form was checked when the template was stored.
fn default_of(parameter: &InputSpec) -> Option<Json> {
    let value = serde_json::from_str(parameter.default_value.as_ref()?).ok()?;
    one(parameter, &value).ok()
}

fn unknown(parameters: &[InputSpec], name: &str) -> Option<Violation> {
    if parameters.iter().any(|parameter| parameter.name == *name) {
        return None;
    }
    let near = nearest(name, parameters.iter().map(|parameter| parameter.name.as_str()));
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let words = match parameters {
        [] => "the template has no parameters".to_string(),
        _ => format!("the template has no parameter of that name{near}"),
    };
    Some(fault(&format!("parameters.{}", shortened(name)), Reason::InvalidValue, words))
}
