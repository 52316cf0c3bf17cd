//! The language of `when` and of `{{ … }}`: checked here when a definition is stored, so that what can never be
//! evaluated is refused before anything runs (S-COND-3, S-DATA-2).
//!
//! One language for both: minijinja's expressions over `tasks`, `inputs` and `execution`. Only `{{ … }}` is special in
//! a field. What minijinja's fuel does not bound is refused here: functions and methods, maps, and lists other than
//! literal ones after `in`. What an expression makes of its facts is in `condition` and `placeholder`.

use super::{
    filter::{FILTERS, TESTS},
    lexer::{Path, Piece, ROOTS, Scan, Token, paths, pieces, without_texts},
    scope,
};

/// What is known of a task.
const TASK_ATTRIBUTES: [&str; 5] = ["status", "output", "metadata", "exit_code", "attempts"];
/// What is known of the execution.
const EXECUTION_ATTRIBUTES: [&str; 5] = ["id", "workflow_id", "version", "started_at", "labels"];
/// Longest expression in bytes.
const MAX_EXPRESSION_BYTES: usize = 4_096;
/// Most look-ups in one expression: each may compare a megabyte.
const MAX_PATHS: usize = 64;
/// Most operators, brackets and filters one after another: minijinja compiles each by a call of its own.
const MAX_TOKENS: usize = 512;
/// Most placeholders in one field.
const MAX_PLACEHOLDERS: usize = 1_000;
/// They stand for nothing, and other engines may take them for something.
const CONTROL_CHARACTERS: [char; 4] = ['\u{1}', '\u{2}', '\u{3}', '\u{4}'];

/// Whether a field has anything to fill in.
pub fn has_placeholder(text: &str) -> bool {
    text.contains("{{")
}

/// Checks a field with placeholders against the names of the declared inputs, and names the tasks that it reads.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn check_field(text: &str, inputs: &[&str]) -> Result<Vec<String>, String> {
    if text.contains(CONTROL_CHARACTERS) {
        return Err("the control characters U+0001 to U+0004 cannot stand in a field".into());
    }
    if !has_placeholder(text) {
        return Ok(Vec::new());
    }
    let pieces = pieces(text).map_err(|rest| {
        let rest: String = rest.chars().take(40).collect();
        format!("`{{{{{rest}` has no end: expected `}}}}`, or `{{{{ '{{{{' }}}}` where `{{{{` itself is meant")
    })?;
    let mut tasks = Vec::new();
    let mut count = 0;
    for piece in pieces {
        let Piece::Placeholder(expression) = piece else { continue };
        count += 1;
        if count > MAX_PLACEHOLDERS {
            return Err(format!("the field has more than {MAX_PLACEHOLDERS} placeholders"));
        }
        if expression.starts_with(['-', '+']) {
            return Err("`{{-` is not known: nothing around a placeholder is cut off; write `{{ `".into());
        }
        tasks.extend(check(expression, inputs)?);
    }
    Ok(tasks)
}

/// Checks a `when` expression against the names of the declared inputs, and names the tasks that it reads.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn check_expression(text: &str, inputs: &[&str]) -> Result<Vec<String>, String> {
    if text.contains("{{") {
        return Err("`when` is an expression by itself; write it without `{{ }}`".into());
    }
    check(text, inputs)
}

/// The tasks that an expression reads, as far as it can be told; for one that was checked, all.
pub(super) fn tasks_of(expression: &str) -> impl Iterator<Item = String> {
    let paths = paths(expression).into_iter().filter(|path| path.root == "tasks");
    paths.filter_map(|path| path.steps.first().map(|id| (*id).to_string()))
}

fn check(expression: &str, inputs: &[&str]) -> Result<Vec<String>, String> {
    if expression.len() > MAX_EXPRESSION_BYTES {
        let length = expression.len();
        return Err(format!("the expression has {length} bytes; at most {MAX_EXPRESSION_BYTES} are allowed"));
    }
    if Scan::new(expression).take(MAX_TOKENS + 1).count() > MAX_TOKENS {
        return Err(format!("the expression is too long: it has more than {MAX_TOKENS} words and signs"));
    }
    check_signs(expression)?;
    let environment = scope::environment(0);
    let compiled = environment.compile_expression(expression).map_err(|error| scope::fault(&error))?;
    // What minijinja 3.1 cannot read right behind a text, it takes for the end of the expression: of `'a' § …` it sees
    // `'a'`. Behind a number it says so.
    let numbers = without_texts(expression)
        .map_err(|text| format!("the text `{}` stands right behind another; write `~` to join them", shown(text)))?;
    environment.compile_expression(&numbers).map_err(|error| scope::fault(&error))?;
    let paths = paths(expression);
    if paths.len() > MAX_PATHS {
        return Err(format!("the expression looks up {} values; at most {MAX_PATHS} are allowed", paths.len()));
    }
    let mut tasks = Vec::new();
    for path in &paths {
        tasks.extend(check_path(path, inputs)?);
    }
    check_form(expression)?;
    // minijinja's set has no order of its own; people see the first name of the alphabet.
    match compiled.undeclared_variables(false).into_iter().filter(|name| !ROOTS.contains(&name.as_str())).min() {
        None => Ok(tasks),
        Some(name) => Err(format!("`{name}` is not known here; use `tasks.<id>`, `inputs.<name>` or `execution`")),
    }
}

fn shown(text: &str) -> String {
    const SHOWN: usize = 40;
    text.chars().take(SHOWN).collect()
}

/// Signs of other languages, with the words that are meant.
fn check_signs(expression: &str) -> Result<(), String> {
    let mut scan = Scan::new(expression);
    while let Some(token) = scan.next() {
        let (sign, word) = match (token, scan.peek()) {
            (Token::Other('&'), Some(Token::Other('&'))) => ("&&", "and"),
            (Token::Other('|'), Some(Token::Other('|'))) => ("||", "or"),
            (Token::Other('!'), next) if next != Some(Token::Other('=')) => ("!", "not"),
            _ => continue,
        };
        return Err(format!("`{sign}` is not known here; write `{word}`"));
    }
    Ok(())
}

/// The task that a path reads, if it reads one.
fn check_path(path: &Path<'_>, inputs: &[&str]) -> Result<Option<String>, String> {
    match (path.root, path.steps.as_slice()) {
        ("tasks", steps) => check_task(path, steps).map(Some),
        ("inputs", [name, ..]) if !inputs.contains(name) => Err(match inputs {
            [] => format!("`{}` reads an input, but the workflow declares none; add it to `inputs`", path.text),
            _ => format!("the workflow declares no input `{name}`; it has {}", listed(inputs)),
        }),
        ("execution", [name, ..]) if !EXECUTION_ATTRIBUTES.contains(name) => {
            Err(format!("an execution has no `{name}`; it has {}", EXECUTION_ATTRIBUTES.join(", ")))
        }
        ("inputs" | "execution", []) if path.goes_on => {
            Err(format!("`{}` is followed by something that is not a literal name; write `{0}.name`", path.root))
        }
        _ => Ok(None),
    }
}

fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ") + &more
}

fn check_task(path: &Path<'_>, steps: &[&str]) -> Result<String, String> {
    match steps {
        [] => Err("`tasks` is followed by something that is not a literal id; name the task: `tasks.build.output` or \
                   `tasks['build-image'].output`"
            .into()),
        [id] if path.after.peek() == Some(Token::Other('-')) => {
            Err(format!("an id with `-` must be written in brackets: `tasks['{id}-…'].output`"))
        }
        [id] => Err(format!("`tasks.{id}` is a task, not a value; it has {}", TASK_ATTRIBUTES.join(", "))),
        [id, attribute, ..] if TASK_ATTRIBUTES.contains(attribute) => Ok((*id).to_string()),
        [_, other, ..] => Err(format!("a task has no `{other}`; it has {}", TASK_ATTRIBUTES.join(", "))),
    }
}

/// What an opening bracket opened.
#[derive(PartialEq)]
enum Open {
    /// The arguments of a filter or a test.
    Arguments,
    /// A part of the expression.
    Group,
    /// An index of a value.
    Index,
    /// A literal list.
    List,
}

/// Refuses what minijinja could do and fuel would not bound.
fn check_form(expression: &str) -> Result<(), String> {
    const LISTS: &str = "a list stands after `in` only, with literal values: `tasks.a.status in ['FAILED', 'SKIPPED']`";
    let mut open = Vec::new();
    let mut scan = Scan::new(expression);
    // The token before, and the one before that.
    let (mut before, mut earlier) = (None, None);
    while let Some(token) = scan.next() {
        if open.last() == Some(&Open::List) && !is_in_list(token) {
            return Err(LISTS.into());
        }
        match token {
            Token::Other('{') => return Err("`{ }` makes an object, which expressions cannot".into()),
            Token::Other('(') => open.push(opened(before, earlier)?),
            Token::Other('[') if before.is_some_and(Token::ends_value) => open.push(Open::Index),
            Token::Other('[') if before == Some(Token::Name("in")) => open.push(Open::List),
            Token::Other('[') => return Err(LISTS.into()),
            Token::Other(')') => drop(open.pop()),
            Token::Other(']') => {
                let goes_on = matches!(
                    scan.peek(),
                    Some(Token::Other('+' | '-' | '*' | '/' | '%' | '~' | '|' | '.' | '[' | '('))
                );
                if open.pop() == Some(Open::List) && goes_on {
                    return Err(LISTS.into());
                }
            }
            Token::Other(',') if !matches!(open.last(), Some(Open::Arguments | Open::List)) => {
                return Err("`,` stands between the arguments of a filter only".into());
            }
            Token::Name(name) => check_name(name, before, earlier)?,
            _ => {}
        }
        (earlier, before) = (before, Some(token));
    }
    Ok(())
}

fn is_in_list(token: Token<'_>) -> bool {
    match token {
        Token::Text(_) | Token::Other(',' | '-' | '.' | ']') => true,
        Token::Name(name) => {
            name.starts_with(|c: char| c.is_ascii_digit()) || matches!(name, "true" | "false" | "none")
        }
        Token::Other(_) => false,
    }
}

fn opened(before: Option<Token<'_>>, earlier: Option<Token<'_>>) -> Result<Open, String> {
    let Some(before) = before.filter(|token| token.ends_value()) else { return Ok(Open::Group) };
    match (before, earlier) {
        (Token::Name(_), Some(Token::Other('|') | Token::Name("is"))) => Ok(Open::Arguments),
        // `is not name(…)`
        (Token::Name(name), Some(Token::Name("not"))) if TESTS.contains(&name) => Ok(Open::Arguments),
        _ => Err(format!("nothing can be called but filters: `value | name(…)` with one of {}", FILTERS.join(", "))),
    }
}

fn check_name(name: &str, before: Option<Token<'_>>, earlier: Option<Token<'_>>) -> Result<(), String> {
    let is_test = match before {
        Some(Token::Other('|')) if FILTERS.contains(&name) => return Ok(()),
        Some(Token::Other('|')) => {
            return Err(format!("there is no filter `{name}`; there are {}", FILTERS.join(", ")));
        }
        Some(Token::Name("is")) => name != "not",
        Some(Token::Name("not")) => earlier == Some(Token::Name("is")),
        _ => false,
    };
    if is_test && !TESTS.contains(&name) {
        return Err(format!("there is no test `{name}`; there are {}", TESTS.join(", ")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_that_a_field_reads_are_known() {
        // S-DATA-2
        let field = "v{{ tasks.build.output.version }} of {{ tasks['build-image'].output }} for {{ inputs.env }}";
        assert_eq!(check_field(field, &["env", "x"]), Ok(vec!["build".into(), "build-image".into()]));
        assert_eq!(check_field("plain, ${#array} and {% %} and {# #}", &[]), Ok(vec![]));
        assert_eq!(check_field("{{ '{{' }} and {{ '}}' ~ tasks.a.status }}", &[]), Ok(vec!["a".into()]));
        assert_eq!(check_field("{{ 'tasks.fake.output' }}", &[]), Ok(vec![]));
    }

    #[test]
    fn what_can_never_be_filled_is_refused_with_what_would_be_right() {
        // S-DATA-2, S-DEF-2
        for (field, words) in [
            ("{{ nope }}", "`nope` is not known here"),
            ("{{ tasks.build-image.output }}", "brackets"),
            ("{{ tasks[inputs.x].output }}", "not a literal id"),
            ("{{ tasks.build.outptu }}", "has no `outptu`"),
            ("{{ tasks.build }}", "not a value"),
            ("{{ tasks|list }}", "not a literal id"),
            ("{{ tasks.build.output", "expected"),
            ("{{ 1 + }}", "unexpected"),
            ("\u{1}", "control characters"),
        ] {
            let fault = check_field(field, &["env", "x"]).expect_err(field);
            assert!(fault.contains(words), "{field}: {fault}");
        }
    }

    #[test]
    fn a_when_expression_is_checked_like_a_placeholder() {
        // S-COND-3
        assert_eq!(
            check_expression("tasks.a.status == 'COMPLETED' and not tasks['b'].output.ok", &[]),
            Ok(vec!["a".into(), "b".into()])
        );
        for (expression, words) in
            [("tasks.a.status ==", "unexpected"), ("x > 1", "`x` is not known"), ("{{ inputs.x }}", "without `{{ }}`")]
        {
            let fault = check_expression(expression, &[]).expect_err(expression);
            assert!(fault.contains(words), "{expression}: {fault}");
        }
        assert!(check_expression(&"1+".repeat(3_000), &[]).expect_err("long").contains("4096"));
    }

    #[test]
    fn what_fuel_does_not_bound_and_what_is_not_there_is_refused() {
        // S-COND-3
        for (expression, words) in [
            ("[tasks.a.output] == 1", "a list stands after `in` only"),
            ("['x'] == inputs.x", "a list stands after `in` only"),
            ("1 in [tasks.a.output]", "a list stands after `in` only"),
            ("1 in ['x'] * 1000000", "a list stands after `in` only"),
            ("1 in [['x'], ['y']]", "a list stands after `in` only"),
            ("1 in ['x'] | length", "a list stands after `in` only"),
            ("(1, 2) == 3", "`,` stands between the arguments"),
            ("{'a': 1} == 1", "makes an object"),
            ("range(1000000) == 1", "nothing can be called"),
            ("tasks.a.output.keys() == 1", "nothing can be called"),
            ("inputs.x()", "nothing can be called"),
            ("inputs.x | batch(2)", "there is no filter `batch`; there are abs, default"),
            ("inputs.x is divisibleby(2)", "there is no test `divisibleby`; there are boolean, defined"),
            ("inputs.x is not odd", "there is no test `odd`"),
            ("inputs.y == 1", "declares no input `y`; it has x"),
            ("execution.nope == 1", "an execution has no `nope`; it has id"),
            ("inputs[inputs.x]", "not a literal name"),
            ("tasks.a.output[tasks.b.output] == nope", "`nope` is not known here"),
        ] {
            let fault = check_expression(expression, &["x"]).expect_err(expression);
            assert!(fault.contains(words), "{expression}: {fault}");
        }
        let fault = check_field("{{ inputs.x }}", &[]).expect_err("not declared");
        assert!(fault.contains("declares none"), "{fault}");
        assert!(check_field("{{- inputs.x }}", &["x"]).expect_err("cuts").contains("nothing around"));
        assert!(check_field(&"{{ 1 }}".repeat(1_001), &[]).expect_err("many").contains("1000"));
        for good in ["inputs.x is not none", "inputs.x | default('a') | trim != 'b'", "inputs.x[0] == -1.5"] {
            assert_eq!(check_expression(good, &["x"]), Ok(vec![]), "{good}");
        }
    }

    #[test]
    fn nothing_of_an_expression_is_passed_over() {
        // S-COND-3
        for (rest, words) in [
            ("&& inputs.x == 'b'", "`&&` is not known here; write `and`"),
            ("|| inputs.x == 'b'", "`||` is not known here; write `or`"),
            ("and ! inputs.x", "`!` is not known here; write `not`"),
            ("\u{a7} 'b'", "unexpected character"),
            ("\u{fffd}\u{fffd}' ,\u{fffd}'}", "unexpected"),
            ("& inputs.x == 'b'", "unexpected character"),
            ("? inputs.x", "unexpected character"),
            ("; false", "unexpected character"),
            ("\u{a0}", "unexpected character"),
            ("1_", "'_' may not occur at end of number"),
            ("0b2", "invalid integer"),
            ("'b'", "the text `b` stands right behind another; write `~` to join them"),
            ("'\\uZZZZ'", "stands right behind another"),
            ("'b", "the text `b` stands right behind another"),
        ] {
            // minijinja passes over it behind a text.
            for start in ["inputs.x == 'a'", "inputs.x in 'a'", "not 1 in \"a\""] {
                let expression = format!("{start} {rest}");
                let fault = check_expression(&expression, &["x"]).expect_err(&expression);
                assert!(fault.contains(words), "{expression}: {fault}");
            }
            let behind_a_number = format!("inputs.x == 1 {rest}");
            check_expression(&behind_a_number, &["x"]).expect_err(&behind_a_number);
        }
        for good in
            ["inputs.x != 'a'", "'a' ~ 'b' == inputs.x", "inputs.x in ['a', 'b']", "'a'[0] == '\\'' and 'b' < 'c'"]
        {
            assert_eq!(check_expression(good, &["x"]), Ok(vec![]), "{good}");
        }
    }

    #[test]
    fn the_bounds_are_what_they_are_said_to_be() {
        // S-COND-3
        let is_taken = |expression: &str| match check_expression(expression, &["x"]) {
            Ok(_) => "taken".to_string(),
            Err(fault) => fault,
        };
        assert_eq!(check_field(&"{{ 1 }}".repeat(1_000), &[]), Ok(vec![]));
        let text = |bytes: usize| format!("'{}' == 'x'", "x".repeat(bytes - 9));
        assert_eq!(is_taken(&text(4_096)), "taken");
        assert!(is_taken(&text(4_097)).contains("has 4097 bytes"), "{}", is_taken(&text(4_097)));
        let list = |start: &str| format!("1 in [{start}{}]", ",1".repeat(253));
        assert_eq!(is_taken(&list("-1")), "taken", "512 words and signs");
        assert!(is_taken(&list("--1")).contains("512 words and signs"), "{}", is_taken(&list("--1")));
        let paths = |more: usize| format!("inputs.x{}", " and inputs.x".repeat(more));
        assert_eq!(is_taken(&paths(63)), "taken");
        assert!(is_taken(&paths(64)).contains("looks up 65 values"), "{}", is_taken(&paths(64)));
    }

    #[test]
    fn of_many_inputs_the_first_are_named() {
        // S-DATA-2
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let fault = |count: usize| check_expression("inputs.y", &names[..count]).expect_err("not declared");
        assert!(fault(10).ends_with("it has a, b, c, d, e, f, g, h, i, j"), "{}", fault(10));
        assert!(fault(12).ends_with("i, j and 2 more"), "{}", fault(12));
    }

    #[test]
    fn what_looks_like_something_that_is_refused_is_taken() {
        // S-COND-3
        for good in [
            "inputs | tojson == '{}'",
            "inputs.x[0] + 1 == 2",
            "inputs.x in ['a', -1.5, true, none] and not inputs.x",
            "(inputs.x + 2) * 3 == 9",
            "not (inputs.x == 1)",
            "inputs.x | replace('a', 'b') == 'c'",
            "inputs.x is startingwith('a') or inputs.x is not startingwith('b')",
        ] {
            assert_eq!(check_expression(good, &["x"]), Ok(vec![]), "{good}");
        }
        for (bad, words) in
            [("not range(3)", "nothing can be called"), ("(inputs.x | default(1), 2) == 3", "`,` stands between")]
        {
            let fault = check_expression(bad, &["x"]).expect_err(bad);
            assert!(fault.contains(words), "{bad}: {fault}");
        }
        assert!(check_field("{{+ inputs.x }}", &["x"]).expect_err("cuts").contains("nothing around"));
        assert!(has_placeholder("a {{ 1 }}") && !has_placeholder("a { 1 }"));
    }

    #[test]
    fn an_expression_is_too_long_before_it_is_too_deep() {
        // S-COND-3. Each form nests in another part of minijinja; the stack of a thread is 2 MiB.
        for (start, middle, end) in [
            ("1", " + 1", ""),
            ("1", " and 1", ""),
            ("1", " | int", ""),
            ("inputs.x", ".y", ""),
            ("", "not ", "1"),
            ("", "-", "1"),
            ("", "(", ""),
            ("1", " if 1 else 1", ""),
            ("1", " < 1", ""),
        ] {
            for count in [100, 127, 250, 400, 1_000] {
                let expression = format!("{start}{}{end}", middle.repeat(count));
                let _ = check_expression(&expression, &["x"]);
                let _ = check_field(&format!("{{{{ {expression} }}}}"), &["x"]);
            }
        }
        let fault = check_expression(&format!("1{}", "+1".repeat(1_000)), &[]).expect_err("long");
        assert!(fault.contains("512"), "{fault}");
    }
}
