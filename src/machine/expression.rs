//! The language of `when` and of `{{ … }}`: checked here when a definition is stored, so that what can never be
//! evaluated is refused before anything runs (S-COND-3, S-DATA-2).
//!
//! One language for both: minijinja's expressions over `tasks`, `inputs` and `execution`. Only `{{ … }}` is special in
//! a field; the engine's other delimiters are control characters, which fields may not hold.

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig};

/// What an expression may look at beside `tasks`.
const ROOTS: [&str; 3] = ["tasks", "inputs", "execution"];
/// What is known of a task.
const TASK_ATTRIBUTES: [&str; 5] = ["status", "output", "metadata", "exit_code", "attempts"];
/// Longest expression in bytes.
const MAX_EXPRESSION_BYTES: usize = 4_096;
/// Taken from the text of fields as delimiters that nobody types.
const CONTROL_DELIMITERS: [char; 4] = ['\u{1}', '\u{2}', '\u{3}', '\u{4}'];

/// Whether a field has anything to fill in.
pub fn has_placeholder(text: &str) -> bool {
    text.contains("{{")
}

/// Checks a field with placeholders and names the tasks that it reads.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn check_field(text: &str) -> Result<Vec<String>, String> {
    if text.contains(CONTROL_DELIMITERS) {
        return Err("the control characters U+0001 to U+0004 cannot stand in a field".into());
    }
    if !has_placeholder(text) {
        return Ok(Vec::new());
    }
    let environment = environment();
    let template = environment.template_from_str(text).map_err(|error| syntax_fault(&error))?;
    let mut tasks = Vec::new();
    for expression in placeholders(text) {
        tasks.extend(tasks_read(expression)?);
    }
    check_roots(template.undeclared_variables(false))?;
    Ok(tasks)
}

/// Checks a `when` expression and names the tasks that it reads.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn check_expression(text: &str) -> Result<Vec<String>, String> {
    if text.len() > MAX_EXPRESSION_BYTES {
        return Err(format!("the expression has {} bytes; at most {MAX_EXPRESSION_BYTES} are allowed", text.len()));
    }
    if text.contains("{{") {
        return Err("`when` is an expression by itself; write it without `{{ }}`".into());
    }
    let environment = environment();
    let expression = environment.compile_expression(text).map_err(|error| syntax_fault(&error))?;
    let tasks = tasks_read(text)?;
    check_roots(expression.undeclared_variables(false))?;
    Ok(tasks)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    let [block, block_end, comment, comment_end] = CONTROL_DELIMITERS.map(String::from);
    let syntax = SyntaxConfig::builder()
        .block_delimiters(block, block_end)
        .comment_delimiters(comment, comment_end)
        .keep_trailing_newline(true)
        .build()
        .expect("the delimiters are distinct and not empty");
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

fn syntax_fault(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), ToString::to_string)
}

fn check_roots(names: impl IntoIterator<Item = String>) -> Result<(), String> {
    let mut unknown: Vec<String> = names.into_iter().filter(|name| !ROOTS.contains(&name.as_str())).collect();
    // The set has no order of its own; people see the names sorted.
    unknown.sort();
    match unknown.first() {
        None => Ok(()),
        Some(name) => Err(format!("`{name}` is not known here; use `tasks.<id>`, `inputs.<name>` or `execution`")),
    }
}

/// The text inside each `{{ … }}`. The text is known to be well formed.
fn placeholders(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let inner = &rest[start + 2..];
        let end = end_of_placeholder(inner);
        found.push(&inner[..end]);
        rest = inner.get(end + 2..).unwrap_or_default();
    }
    found
}

/// Where `}}` stands outside strings.
fn end_of_placeholder(text: &str) -> usize {
    let mut scan = Scan { text, at: 0 };
    while let Some(token) = scan.next() {
        if token == Token::Other('}') && text[scan.at..].starts_with('}') {
            return scan.at - 1;
        }
    }
    text.len()
}

/// The ids after `tasks.` and in `tasks['…']`.
fn tasks_read(expression: &str) -> Result<Vec<String>, String> {
    let mut scan = Scan { text: expression, at: 0 };
    let mut found = Vec::new();
    let mut after_dot = false;
    while let Some(token) = scan.next() {
        if token == Token::Name("tasks") && !after_dot {
            found.push(one_task(&mut scan)?);
        }
        after_dot = token == Token::Other('.');
    }
    Ok(found)
}

/// What stands after `tasks`: `.id.attribute` or `['id'].attribute`.
fn one_task(scan: &mut Scan<'_>) -> Result<String, String> {
    const FORM: &str = "name the task: `tasks.build.output` or `tasks['build-image'].output`";
    let id = match (scan.next(), scan.next()) {
        (Some(Token::Other('.')), Some(Token::Name(id))) => id.to_string(),
        (Some(Token::Other('[')), Some(Token::Text(id))) if scan.next() == Some(Token::Other(']')) => id.to_string(),
        _ => return Err(format!("`tasks` is followed by something that is not a literal id; {FORM}")),
    };
    let ahead = scan.at;
    match (scan.next(), scan.next()) {
        (Some(Token::Other('.')), Some(Token::Name(attribute))) if TASK_ATTRIBUTES.contains(&attribute) => Ok(id),
        (Some(Token::Other('-')), _) => {
            scan.at = ahead;
            Err(format!("an id with `-` must be written in brackets: `tasks['{id}-…'].output`"))
        }
        (Some(Token::Other('.')), Some(Token::Name(other))) => {
            Err(format!("a task has no `{other}`; it has {}", TASK_ATTRIBUTES.join(", ")))
        }
        _ => Err(format!("`tasks.{id}` is a task, not a value; it has {}", TASK_ATTRIBUTES.join(", "))),
    }
}

/// Just enough of a lexer to tell names from strings and the rest.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Text(&'a str),
    Other(char),
}

impl<'a> Scan<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        let first = rest.chars().next()?;
        if first == '\'' || first == '"' {
            return Some(self.string(rest, first));
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        if is_name(first) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            self.at += end;
            return Some(Token::Name(&rest[..end]));
        }
        self.at += first.len_utf8();
        Some(Token::Other(first))
    }

    fn string(&mut self, rest: &'a str, quote: char) -> Token<'a> {
        let mut escaped = false;
        for (i, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => {
                    self.at += i + 1;
                    return Token::Text(&rest[1..i]);
                }
                _ => {}
            }
        }
        self.at = self.text.len();
        Token::Text(&rest[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_that_a_field_reads_are_known() {
        // S-DATA-2
        let field = "v{{ tasks.build.output.version }} of {{ tasks['build-image'].output }} for {{ inputs.env }}";
        assert_eq!(check_field(field), Ok(vec!["build".into(), "build-image".into()]));
        assert_eq!(check_field("plain, ${#array} and {% %} and {# #}"), Ok(vec![]));
        assert_eq!(check_field("{{ '{{' }} and {{ '}}' ~ tasks.a.status }}"), Ok(vec!["a".into()]));
        assert_eq!(check_field("{{ 'tasks.fake.output' }}"), Ok(vec![]));
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
            let fault = check_field(field).expect_err(field);
            assert!(fault.contains(words), "{field}: {fault}");
        }
    }

    #[test]
    fn a_when_expression_is_checked_like_a_placeholder() {
        // S-COND-3
        assert_eq!(
            check_expression("tasks.a.status == 'COMPLETED' and not tasks['b'].output.ok"),
            Ok(vec!["a".into(), "b".into()])
        );
        for (expression, words) in
            [("tasks.a.status ==", "unexpected"), ("x > 1", "`x` is not known"), ("{{ inputs.x }}", "without `{{ }}`")]
        {
            let fault = check_expression(expression).expect_err(expression);
            assert!(fault.contains(words), "{expression}: {fault}");
        }
        assert!(check_expression(&"1+".repeat(3_000)).expect_err("long").contains("4096"));
    }
}
