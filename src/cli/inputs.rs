//! What an execution is given at the command line, `--input NAME=VALUE` and `--inputs-file FILE`, and what a template
//! is: `--parameter NAME=VALUE` and `--parameters-file FILE`.
//!
//! The declarations say what a value is: text stays text, whole numbers and truths are read. Whether all of
//! it fits is the server's to say.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{file, status::CliError};
use crate::proto::v1::{ParameterType, TemplateParameter, WorkflowInput};

/// What an execution is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InputArgs {
    /// An input of the execution, of the kind that the workflow declares; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    inputs: Vec<(String, String)>,
    /// A file with inputs, YAML or JSON: a mapping from names to values; `--input` goes over it
    #[arg(long, value_name = "FILE")]
    inputs_file: Option<PathBuf>,
}

impl InputArgs {
    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.inputs_file.is_none()
    }

    /// Whether a declaration is needed to read them.
    pub fn needs_declarations(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// The values, as the declarations want them.
    ///
    /// # Errors
    /// A value that is not of its kind, a name that is given twice, a file that cannot be read.
    pub fn read(&self, declared: &[WorkflowInput]) -> Result<Map<String, Value>, CliError> {
        let kind = |name: &str| declared.iter().find(|input| input.name == name).map(WorkflowInput::parameter_type);
        read(INPUTS, &self.inputs, self.inputs_file.as_deref(), kind)
    }
}

/// What a template is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ParameterArgs {
    /// A parameter of the template, of the type that it declares; may be repeated
    #[arg(long = "parameter", short = 'p', value_name = "NAME=VALUE", value_parser = parse_parameter)]
    parameters: Vec<(String, String)>,
    /// A file with parameters, YAML or JSON: a mapping from names to values; `--parameter` goes over it
    #[arg(long, value_name = "FILE")]
    parameters_file: Option<PathBuf>,
}

impl ParameterArgs {
    /// Whether a declaration is needed to read them.
    pub fn needs_declarations(&self) -> bool {
        !self.parameters.is_empty()
    }

    /// The values, as the declarations want them.
    ///
    /// # Errors
    /// A value that is not of its type, a name that is given twice, a file that cannot be read.
    pub fn read(&self, declared: &[TemplateParameter]) -> Result<Map<String, Value>, CliError> {
        let kind = |name: &str| declared.iter().find(|one| one.name == name).map(TemplateParameter::parameter_type);
        read(PARAMETERS, &self.parameters, self.parameters_file.as_deref(), kind)
    }
}

/// How values are spoken of.
#[derive(Clone, Copy)]
struct Spoken {
    /// What one is called; `--` before it is the option.
    one: &'static str,
    /// Who declares it.
    by: &'static str,
    /// Whether a number that a double is not exact about can be given as text.
    large_as_text: bool,
}

const INPUTS: Spoken = Spoken { one: "input", by: "the workflow", large_as_text: false };
const PARAMETERS: Spoken = Spoken { one: "parameter", by: "the template", large_as_text: true };

fn read(
    spoken: Spoken,
    given: &[(String, String)],
    path: Option<&Path>,
    kind: impl Fn(&str) -> Option<ParameterType>,
) -> Result<Map<String, Value>, CliError> {
    let mut values = match path {
        Some(path) => file::read_inputs(path)?,
        None => Map::new(),
    };
    let mut seen = std::collections::BTreeSet::new();
    for (name, text) in given {
        if !seen.insert(name) {
            return Err(CliError::Usage(format!("the {} `{}` is given twice", spoken.one, name.escape_debug())));
        }
        values.insert(name.clone(), value(spoken, name, text, kind(name))?);
    }
    Ok(values)
}

/// The values as the API takes them; `None`: nothing is given.
///
/// # Errors
/// Where one is nothing that the API could carry.
pub fn message(values: Map<String, Value>) -> Result<Option<pbjson_types::Struct>, CliError> {
    if values.is_empty() {
        return Ok(None);
    }
    let message = serde_json::from_value(Value::Object(values));
    message.map(Some).map_err(|error| CliError::Usage(format!("the values cannot be sent: {error}")))
}

/// `name=value`; the value may be empty and may hold `=`.
fn parse_input(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an input is NAME=VALUE".to_owned()),
    }
}

fn parse_parameter(text: &str) -> Result<(String, String), String> {
    parse_input(text).map_err(|_| "a parameter is NAME=VALUE".to_owned())
}

fn value(spoken: Spoken, name: &str, text: &str, kind: Option<ParameterType>) -> Result<Value, CliError> {
    let Spoken { one, by, large_as_text } = spoken;
    let wrong = |words: &str| {
        let (name, text) = (name.escape_debug(), text.escape_debug());
        CliError::Usage(format!("--{one} {name}={text}: {words}"))
    };
    match kind {
        Some(ParameterType::Integer) => match text.parse::<i64>() {
            // What a double, which the API carries, is exact about.
            Ok(number) if number.unsigned_abs() <= 1 << 53 => Ok(number.into()),
            Ok(_) if large_as_text => Ok(text.into()),
            Ok(_) => Err(wrong(&format!("beyond 2^53 a number would lose digits; let {by} declare a STRING"))),
            Err(_) => Err(wrong(&format!("{by} wants a whole number"))),
        },
        Some(ParameterType::Boolean) => text.parse().map(Value::Bool).map_err(|_| wrong("write `true` or `false`")),
        Some(ParameterType::Unspecified | ParameterType::String | ParameterType::AgentId | ParameterType::TaskId) => {
            Ok(text.into())
        }
        // The server refuses it by its name.
        None => Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, kind: ParameterType) -> WorkflowInput {
        WorkflowInput { name: name.into(), parameter_type: kind as i32, ..WorkflowInput::default() }
    }

    fn read(given: &[&str]) -> Result<Value, String> {
        let all = [
            declared("text", ParameterType::String),
            declared("count", ParameterType::Integer),
            declared("dry", ParameterType::Boolean),
        ];
        let inputs = given.iter().map(|text| parse_input(text).unwrap()).collect();
        let args = InputArgs { inputs, inputs_file: None };
        args.read(&all).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn the_declaration_says_what_a_value_is() {
        // S-DATA-2
        let given = ["text=3", "count=-4", "dry=true", "other=[1, \"x\"]", "more=a=b"];
        let values = serde_json::json!({"text": "3", "count": -4, "dry": true, "other": [1, "x"], "more": "a=b"});
        assert_eq!(read(&given).unwrap(), values);
        assert_eq!(read(&["text="]).unwrap(), serde_json::json!({"text": ""}));
        for (given, words) in [
            (&["count=three"][..], "whole number"),
            (&["count=9007199254740993"], "2^53"),
            (&["dry=yes"], "`true` or `false`"),
            (&["dry=true", "dry=false"], "given twice"),
        ] {
            let told = read(given).unwrap_err();
            assert!(told.contains(words), "{told}");
        }
        assert!(parse_input("=x").is_err() && parse_input("x").is_err());
    }

    #[test]
    fn a_file_gives_values_and_the_command_line_goes_over_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inputs.yaml");
        std::fs::write(&path, "text: from the file\ncount: 3\ndry: true\n").unwrap();
        let args = InputArgs { inputs: vec![("count".into(), "5".into())], inputs_file: Some(path.clone()) };
        let values = args.read(&[declared("count", ParameterType::Integer)]).unwrap();
        assert_eq!(
            Value::Object(values.clone()),
            serde_json::json!({"text": "from the file", "count": 5, "dry": true})
        );
        assert_eq!(message(values).unwrap().unwrap().fields.len(), 3);
        std::fs::write(&path, "- a\n- b\n").unwrap();
        let told = args.read(&[]).unwrap_err();
        assert_eq!(told.exit_code(), 2, "{told}");
    }
}
