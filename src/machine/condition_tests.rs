//! Stories of conditions and `when`.

use proptest::prelude::*;

use super::*;
use crate::machine::{facts::tests::World, task::TaskStatus};

const STATUS: ConditionSubject = ConditionSubject::Status;
const OUTPUT: ConditionSubject = ConditionSubject::Output;
const METADATA: ConditionSubject = ConditionSubject::Metadata;

fn verdict_of(world: &World, task: &TaskSpec) -> Verdict {
    evaluate(task, &world.facts())
}

fn condition(world: &World, subject: ConditionSubject, path: &str, operator: Comparison, expected: &str) -> Verdict {
    let condition = ConditionSpec {
        target_task_id: "a".into(),
        subject: Some(subject),
        operator: Some(operator),
        expected_value: expected.into(),
        path: path.into(),
    };
    verdict_of(world, &TaskSpec { conditions: vec![condition], ..TaskSpec::default() })
}

fn when_of(world: &World, expression: &str) -> Verdict {
    verdict_of(world, &TaskSpec { when: expression.into(), ..TaskSpec::default() })
}

fn failure_of(verdict: Verdict) -> ConditionFailure {
    match verdict {
        Verdict::Error(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

fn sample() -> World {
    World::new()
        .output(
            "a",
            r#"{"n":5,"big":9007199254740993,"text":"7","ok":true,"list":[1,"two",{"k":1}],"none":null,"f":2.5,"huge":1e300,
                "long":99999999999999999999999999999999999999999}"#,
        )
        .output("text", "\"3\"")
        .ended("failed", TaskStatus::TimedOut)
}

#[test]
fn a_condition_compares_text_and_numbers_as_it_says() {
    // S-COND-2
    use Comparison::{Contains, Equals, GreaterThan, LessThan, NotEquals};
    let world = sample();
    for (subject, path, operator, expected, holds) in [
        (STATUS, "", Equals, "COMPLETED", true),
        (STATUS, "", NotEquals, "COMPLETED", false),
        (STATUS, "", Contains, "COMP", true),
        (OUTPUT, "/n", Equals, "5", true),
        (OUTPUT, "/ok", Equals, "true", true),
        (OUTPUT, "/none", Equals, "null", true),
        (OUTPUT, "/text", Equals, "7", true),
        (OUTPUT, "/list/2", Equals, r#"{"k":1}"#, true),
        (OUTPUT, "/list", Contains, "two", true),
        (OUTPUT, "/list", Contains, "1", true),
        (OUTPUT, "/list", Contains, "tw", false),
        (OUTPUT, "", Contains, "ok", true),
        (OUTPUT, "", Contains, "no", false),
        (OUTPUT, "/n", GreaterThan, "4.5", true),
        (OUTPUT, "/n", LessThan, "5", false),
        (OUTPUT, "/text", GreaterThan, "6", true),
        (OUTPUT, "/f", LessThan, "3", true),
        // A double would take them for one number.
        (OUTPUT, "/big", GreaterThan, "9007199254740992", true),
        (OUTPUT, "/big", LessThan, "9007199254740994.0", true),
        // What no whole number reaches is beyond all of them.
        (OUTPUT, "/n", LessThan, "1e300", true),
        (OUTPUT, "/n", GreaterThan, "-1e300", true),
        (OUTPUT, "/huge", GreaterThan, "5", true),
        (METADATA, "team", Equals, "tools", true),
        (METADATA, "size", GreaterThan, "11", true),
    ] {
        let verdict = condition(&world, subject, path, operator, expected);
        assert_eq!(verdict == Verdict::Met, holds, "{path} {operator:?} {expected}: {verdict:?}");
        assert!(!matches!(verdict, Verdict::Error(_)), "{path} {operator:?} {expected}: {verdict:?}");
    }
}

#[test]
fn a_condition_that_is_not_met_says_with_which_value() {
    // S-COND-1
    let verdict = condition(&sample(), OUTPUT, "/n", Comparison::GreaterThan, "10");
    let reason = "output `/n` of `a` GREATER_THAN \"10\", but the output of `a` at `/n` is 5";
    assert_eq!(verdict, Verdict::NotMet { reason: reason.into() });
    let verdict = when_of(&sample(), "tasks.a.output.n > 10 and inputs.env == 'dev'");
    let reason = "`tasks.a.output.n > 10 and inputs.env == 'dev'` is false: tasks.a.output.n = 5, inputs.env = \"dev\"";
    assert_eq!(verdict, Verdict::NotMet { reason: reason.into() });
}

#[test]
fn a_condition_that_cannot_be_evaluated_fails_with_what_is_missing() {
    // S-COND-4
    use Comparison::{Contains, Equals, GreaterThan};
    let world = sample();
    for (subject, path, operator, expected, words) in [
        (OUTPUT, "/nope/x", Equals, "1", "nothing at `/nope`"),
        (OUTPUT, "/ok", GreaterThan, "1", "a boolean, not a number"),
        (OUTPUT, "/list/1", GreaterThan, "1", "not a number"),
        (OUTPUT, "/n", GreaterThan, "many", "`many` is not a number"),
        (OUTPUT, "/n", GreaterThan, "NaN", "`NaN` is not a number"),
        (OUTPUT, "/n", Contains, "5", "not a number"),
        (METADATA, "nope", Equals, "1", "no key `nope`"),
    ] {
        let failure = failure_of(condition(&world, subject, path, operator, expected));
        let words = if operator == Contains { "a number" } else { words };
        assert!(failure.message.contains(words), "{path} {operator:?}: {failure:?}");
    }
    let empty = World::new().ended("a", TaskStatus::Skipped);
    let failure = failure_of(condition(&empty, OUTPUT, "", Equals, "1"));
    assert_eq!(failure.message, "task `a` left no output");
    assert_eq!(failure_of(condition(&World::new(), STATUS, "", Equals, "1")).message, "nothing is known of task `a`");
}

#[test]
fn when_is_one_expression_over_tasks_inputs_and_the_execution() {
    // S-COND-3
    let world = sample();
    for expression in [
        "tasks.a.status == 'COMPLETED' and tasks.failed.status in ['FAILED', 'TIMED_OUT']",
        "tasks.a.output.n + 1 == 6 and not tasks.a.output.n > 5",
        "tasks['a'].output['list'][1] == 'two' and 1 in tasks.a.output.list",
        "'n' in tasks.a.output and tasks.a.output.list | length == 3",
        "tasks.a.output.gone is undefined and tasks.a.output.gone | default(1) == 1",
        "tasks.failed.output is undefined and tasks.failed.exit_code is undefined",
        "tasks.text.output | int > 2 and tasks.a.output.text | float < 7.5",
        "tasks.a.output.big > 9007199254740992",
        "tasks.a.exit_code == 0 and tasks.a.attempts == 2 and tasks.a.metadata.team is startingwith('too')",
        "inputs.count == 3 and inputs.env | upper == 'DEV'",
        "execution.workflow_id == 'nightly' and execution.version == 4 and execution.labels.team == 'tools'",
        "execution.started_at == '2026-01-31T08:00:00Z'",
        "execution.id == '00000000-0000-0000-0000-000000000007'",
        "'b' in ('a,b' | split(',')) and ('a-b' | replace('-', '+')) == 'a+b'",
        "(tasks.a.output.list | last).k == 1 and tasks.a.output.f | round == 2.0",
        "tasks.a.output.f > 2 and tasks.a.output.f <= 2.5",
        // What is computed first has another kind than what stands beside the sign.
        "inputs.env ~ tasks.a.output.n == 'dev5'",
        "'5dev' == tasks.a.output.n ~ inputs.env",
        "not (5 == tasks.text.output is string)",
        "(tasks.a.output.list | tojson) == '[1,\"two\",{\"k\":1}]'",
    ] {
        assert!(expression::check_expression(expression, &["env", "count"]).is_ok(), "{expression}");
        assert_eq!(when_of(&world, expression), Verdict::Met, "{expression}");
    }
}

#[test]
fn when_fails_rather_than_guess() {
    // S-COND-4
    let world = sample();
    for (expression, words) in [
        ("tasks.a.output.gone == 1", "`tasks.a.output.gone`: there is no `gone` in an object"),
        ("tasks.a.output.gone != 1", "there is no `gone`"),
        ("not tasks.a.output.gone", "there is no `gone`"),
        ("tasks.failed.output == 'x'", "task `failed` left no output"),
        ("tasks.unknown.status == 'x'", "nothing is known of task `unknown`"),
        ("tasks.text.output > 2", "`tasks.text.output` is text and `2` is a number"),
        ("2 < tasks.text.output", "is text and `2` is a number"),
        ("tasks.text.output == 3", "is text and `3` is a number"),
        ("tasks.text.output >= 2", "is text and `2` is a number"),
        ("tasks.text.output != 3", "is text and `3` is a number"),
        ("tasks.text.output > -1", "is text and `1` is a number"),
        ("tasks.a.output.long > 1", "`tasks.a.output.long` is too large a number"),
        ("tasks.a.output.n", "it gives a number, 5, and not true or false"),
        ("inputs.env", "it gives text"),
        ("tasks.a.output.n > 1 and inputs.env", "it gives text"),
        ("tasks.a.output.ok | int == 1", "true is no number"),
        ("tasks.a.output.n + inputs.env == 5", "impossible"),
        ("tasks.a.output.n / 0 == 1", "it gives"),
    ] {
        let verdict = when_of(&world, expression);
        if expression.contains("/ 0") {
            assert_ne!(verdict, Verdict::Met, "{expression}");
            continue;
        }
        let failure = failure_of(verdict);
        assert!(failure.message.contains(words) || words == "impossible", "{expression}: {failure:?}");
        assert_eq!(failure.expression, expression);
    }
    let failure = failure_of(when_of(&world, "tasks.text.output > 2"));
    assert_eq!(failure.values, "tasks.text.output = \"3\"");
}

#[test]
fn what_is_recorded_is_bounded() {
    // S-COND-4
    let world = World::new().output("a", &format!("\"{}\"", "é".repeat(100_000)));
    let expression = format!("tasks.a.output == '{}'", "x".repeat(4_000));
    let Verdict::NotMet { reason } = when_of(&world, &expression) else { panic!("not met") };
    assert!(reason.len() <= MAX_WORDS, "{}", reason.len());
    let failure = failure_of(when_of(&world, "tasks.a.output"));
    assert!(failure.values.len() <= MAX_WORDS && failure.message.len() <= MAX_WORDS, "{failure:?}");
}

#[test]
fn what_is_cut_off_is_marked_and_no_letter_is_halved() {
    // S-COND-4
    assert_eq!(bounded_to("12345678", 8), "12345678");
    assert_eq!(bounded_to("éééééé", 8), "éé…");
}

#[test]
fn an_expression_cannot_make_more_than_it_is_given_fuel_for() {
    // S-COND-3
    let list = format!("[{}0]", "\"xxxxxxxxxxxxxxxx\",".repeat(40_000));
    let world = World::new().output("a", &list).output("s", &format!("\"{}\"", "x".repeat(700_000)));
    for expression in [
        "'x' * 1000000000 == 'y'",
        "('x' * 1000 * 1000 * 1000) == 'y'",
        "tasks.a.output * 1000000 == 'y'",
        "(tasks.a.output * 1000 * 1000) in 'y'",
        "(tasks.a.output + tasks.a.output) in 'y'",
        "((tasks.s.output | replace('x', tasks.s.output)) == 'y')",
        "(tasks.a.output | join(tasks.s.output)) == 'y'",
        "(tasks.s.output | split('x') | join(tasks.s.output)) == 'y'",
        "2 ** 1000000000 == 1",
        "(tasks.s.output ~ tasks.s.output ~ tasks.s.output ~ tasks.s.output ~ tasks.s.output ~ tasks.s.output ~ \
         tasks.s.output ~ tasks.s.output ~ tasks.s.output ~ tasks.s.output ~ tasks.s.output) == 'y'",
    ] {
        let verdict = when_of(&world, expression);
        assert!(!matches!(verdict, Verdict::Met), "{expression}");
        if !expression.contains("in 'y'") {
            failure_of(verdict);
        }
    }
}

#[test]
fn the_tasks_that_conditions_read_are_known() {
    let task = TaskSpec {
        when: "tasks.b.status == tasks['c-d'].status and 'tasks.no' != inputs.tasks".into(),
        conditions: vec![ConditionSpec {
            target_task_id: "a".into(),
            subject: Some(STATUS),
            operator: Some(Comparison::Equals),
            expected_value: String::new(),
            path: String::new(),
        }],
        ..TaskSpec::default()
    };
    assert_eq!(tasks_read(&task), ["a", "b", "c-d"]);
    assert!(tasks_read(&TaskSpec::default()).is_empty());
    assert_eq!(verdict_of(&World::new(), &TaskSpec::default()), Verdict::Met);
}

/// Pieces that make expressions more often than chance would.
fn expressions() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ -~]{0,8}",
        "\\PC{0,4}",
        proptest::sample::select(vec![
            "tasks.a.output",
            "tasks['text'].output",
            "inputs.env",
            "execution.labels",
            " == ",
            " > ",
            " < ",
            " in ",
            " and ",
            " or ",
            " not ",
            " ~ ",
            " * ",
            " ** ",
            " | join('x')",
            " | split('')",
            " | int",
            " | default(",
            "(",
            ")",
            "[",
            "]",
            ".list",
            "'x'",
            "1",
            "1e308",
            "99999999999999999999999999999999999999999",
            " if ",
            " else ",
            " is defined",
            "{",
            "-",
        ])
        .prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_check_or_the_evaluation_panic(expression in expressions()) {
        // S-COND-3, S-COND-4
        let world = sample();
        let checked = expression::check_expression(&expression, &["env", "count"]);
        let field = format!("a {{{{{expression}}}}} b");
        let _ = expression::check_field(&field, &["env"]);
        if checked.is_ok() && !expression.is_empty() {
            let verdict = when_of(&world, &expression);
            if let Verdict::Error(failure) = verdict {
                prop_assert!(!failure.message.is_empty());
            }
        }
    }

    #[test]
    fn numbers_compare_as_numbers_do(one in any::<i64>(), other in any::<i64>()) {
        let world = World::new().output("a", &one.to_string());
        let greater = condition(&world, OUTPUT, "", Comparison::GreaterThan, &other.to_string()) == Verdict::Met;
        prop_assert_eq!(greater, one > other);
        let shifted = format!("{other}.5");
        let less = condition(&world, OUTPUT, "", Comparison::LessThan, &shifted) == Verdict::Met;
        prop_assert_eq!(less, if other < 0 { one < other } else { one <= other });
    }
}
