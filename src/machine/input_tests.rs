//! Stories of inputs.

use proptest::prelude::*;

use super::*;

fn input(name: &str, kind: ParameterKind) -> InputSpec {
    InputSpec { name: name.into(), kind, ..InputSpec::default() }
}

fn with_default(name: &str, kind: ParameterKind, default: &str) -> InputSpec {
    InputSpec { default_value: Some(default.into()), ..input(name, kind) }
}

fn given(json: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str(json).expect("an object")
}

fn lines(faults: &[Violation]) -> Vec<String> {
    faults.iter().map(|fault| format!("{} {}: {}", fault.field, fault.reason.as_str(), fault.description)).collect()
}

fn declared() -> Vec<InputSpec> {
    use ParameterKind::{Boolean, Integer, String, TaskId};
    vec![
        InputSpec { required: true, validation_regex: "dev|prod".into(), ..input("env", String) },
        with_default("count", Integer, "3.0"),
        with_default("dry", Boolean, "false"),
        input("after", TaskId),
    ]
}

#[test]
fn values_and_defaults_become_one_object_in_declared_order() {
    // S-DATA-2
    assert_eq!(check_declarations(&declared()), []);
    assert_eq!(
        resolve(&declared(), &given(r#"{"env":"dev"}"#)).as_deref(),
        Ok(r#"{"env":"dev","count":3,"dry":false}"#)
    );
    let all = r#"{"after":"build","dry":true,"count":7.0,"env":"prod"}"#;
    assert_eq!(
        resolve(&declared(), &given(all)).as_deref(),
        Ok(r#"{"env":"prod","count":7,"dry":true,"after":"build"}"#)
    );
    assert_eq!(resolve(&[], &given("{}")).as_deref(), Ok("{}"));
}

#[test]
fn all_faults_of_what_is_given_are_told_together() {
    // S-DATA-2
    let faults =
        resolve(&declared(), &given(r#"{"count":3.5,"dry":"yes","after":"a b","evn":"dev"}"#)).expect_err("faults");
    let lines = lines(&faults);
    assert_eq!(lines.len(), 5, "{lines:#?}");
    for (line, words) in lines.iter().zip([
        "inputs.env MISSING_VALUE: the workflow needs text here",
        "inputs.count INVALID_VALUE: 3.5 is not a whole number",
        "inputs.dry INVALID_VALUE: \"yes\" is not true or false",
        "inputs.after INVALID_VALUE: the id `a b` has the character",
        "inputs.evn INVALID_VALUE: the workflow has no input of that name; did you mean `env`?",
    ]) {
        assert!(line.starts_with(words), "{line}");
    }
    for partly in ["devx", "xprod", "dev\n", ""] {
        let value = serde_json::json!({ "env": partly });
        let faults = resolve(&declared(), value.as_object().expect("an object")).expect_err(partly);
        assert!(faults[0].description.contains("does not match `dev|prod` as a whole"), "{faults:?}");
    }
    let null = resolve(&declared(), &given(r#"{"env":null}"#)).expect_err("null is no text");
    assert_eq!(null[0].reason, Reason::InvalidValue);
    let large = serde_json::json!({ "s": "x".repeat(MAX_INPUT_BYTES) });
    let faults =
        resolve(&[input("s", ParameterKind::String)], large.as_object().expect("an object")).expect_err("large");
    assert_eq!(faults[0].reason, Reason::LimitExceeded);
}

#[test]
fn faults_of_declarations_are_told_when_the_workflow_is_created() {
    // S-DEF-1
    use ParameterKind::{Boolean, Integer, String};
    let regex = |regex: &str, kind| InputSpec { validation_regex: regex.into(), ..input("r", kind) };
    for (declared, words) in [
        (vec![input("1st", String)], "inputs[0].name INVALID_ID"),
        (vec![input("", String)], "inputs[0].name INVALID_ID"),
        (vec![input("a-b", String)], "inputs[0].name INVALID_ID"),
        (vec![input(&"x".repeat(65), String)], "inputs[0].name INVALID_ID"),
        (
            vec![input("a", String), input("a", Integer)],
            "inputs[1].name INVALID_ID: inputs[0] has the name `a` already",
        ),
        (
            vec![with_default("a", Integer, "\"x\"")],
            "inputs[0].default_value INVALID_VALUE: \"x\" is not a whole number",
        ),
        (vec![with_default("a", Integer, "{")], "inputs[0].default_value INVALID_VALUE: it is no JSON"),
        (vec![regex("(", String)], "inputs[0].validation_regex INVALID_VALUE: `(` is no regular expression"),
        (vec![regex("a)|(b", String)], "inputs[0].validation_regex INVALID_VALUE"),
        (vec![regex("\\w{1000}{1000}", String)], "inputs[0].validation_regex INVALID_VALUE"),
        (vec![regex("true", Boolean)], "inputs[0].validation_regex INVALID_VALUE: a boolean"),
        (vec![InputSpec { required: true, ..with_default("a", Integer, "1") }], "inputs[0].required INVALID_VALUE"),
        (
            vec![InputSpec { validation_regex: "b+".into(), ..with_default("a", String, "\"abba\"") }],
            "inputs[0].default_value INVALID_VALUE: \"abba\" does not match `b+` as a whole",
        ),
        ((0..257).map(|at| input(&format!("i{at}"), String)).collect(), "inputs LIMIT_EXCEEDED: 257 inputs"),
    ] {
        let lines = lines(&check_declarations(&declared));
        assert!(lines.len() == 1 && lines[0].starts_with(words), "{words}: {lines:#?}");
    }
}

proptest! {
    #[test]
    fn a_text_comes_back_as_it_was_given(text in "\\PC*|[\\x00-\\x7f]*") {
        let value = serde_json::json!({ "s": text });
        let json = resolve(&[input("s", ParameterKind::String)], value.as_object().expect("an object")).expect("taken");
        prop_assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), value);
    }

    #[test]
    fn a_whole_number_is_taken_as_a_double_where_that_is_exact(number in -9_007_199_254_740_992_i64..=9_007_199_254_740_992) {
        let double = number.to_string().parse::<f64>().expect("a number");
        let value = serde_json::json!({ "n": double });
        let json = resolve(&[input("n", ParameterKind::Integer)], value.as_object().expect("an object"));
        prop_assert_eq!(json, Ok(format!("{{\"n\":{number}}}")));
    }
}
