//! Fills in `{{ … }}` when an attempt starts (S-DATA-2, S-DATA-3).
//!
//! One pass: what was filled in is never looked at again. A value never makes another element of `argv`, another
//! variable or another field. What is wrong is a fact about the task: it is never empty text.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    expression,
    facts::Facts,
    json::Json,
    lexer::{Path, Piece, paths, pieces},
    scope::{self, Scope},
    workflow::{Action, CommandAction, TaskSpec},
};

/// What all computed placeholders of a task may cost together, and one of them alone: instructions, or units of 64
/// bytes of text made. A plain look-up costs nothing.
const TASK_FUEL: u64 = 1_000_000;
const FUEL: u64 = 200_000;
/// Longest field with its values, in bytes.
const MAX_FIELD: usize = 1_024 * 1_024;
/// Longest title and description with their values, in bytes: people read them.
const MAX_TITLE: usize = 4_096;
const MAX_DESCRIPTION: usize = 64 * 1_024;
/// Linux refuses one longer argument or variable, whatever the others.
const MAX_ARGUMENT: usize = 128 * 1_024 - 1;
/// All arguments and variables together, in bytes.
const MAX_ARGUMENTS: usize = 1_024 * 1_024;

/// A task with its placeholders filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedTask {
    /// One line for people.
    pub title: String,
    /// More for people.
    pub description: String,
    /// What is run, where the task runs a program: as many elements of `argv` as the author wrote.
    pub command: Option<CommandAction>,
}

/// A placeholder that cannot be filled: the attempt fails with kind TEMPLATE, which is never tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFailure {
    /// Which field of the task: `command.argv[2]`.
    pub field: String,
    /// Which placeholder, why, and what to do. Bounded; it may hold the beginning of a value.
    pub message: String,
}

/// Ids of the tasks that the fields read, ascending: these must be in [`Facts::tasks`].
pub fn tasks_read(task: &TaskSpec) -> Vec<String> {
    let mut ids = Vec::new();
    for text in texts(task).filter(|text| expression::has_placeholder(text)) {
        for piece in pieces(text).unwrap_or_default() {
            if let Piece::Placeholder(expression) = piece {
                ids.extend(expression::tasks_of(expression));
            }
        }
    }
    ids.sort();
    ids.dedup();
    ids
}

/// Whether any field of the task has placeholders.
pub fn is_filled_in(task: &TaskSpec) -> bool {
    texts(task).any(expression::has_placeholder)
}

/// Every field that may have placeholders.
fn texts(task: &TaskSpec) -> impl Iterator<Item = &str> {
    let command = match &task.action {
        Some(Action::Command(command)) => Some(command),
        Some(Action::Approval(_) | Action::Noop { .. }) | None => None,
    };
    let argv = command.into_iter().flat_map(|command| command.argv.iter().chain(command.env.values()));
    let stdin = command.map(|command| &command.stdin);
    [&task.title, &task.description].into_iter().chain(argv).chain(stdin).map(String::as_str)
}

/// Whether a placeholder may fill the variable of that name. It may not where the value would choose what a program
/// loads or runs: whoever writes a task's output would then run code in the next.
pub fn may_be_filled(env_name: &str) -> bool {
    const NAMES: [&str; 21] = [
        "BASH_ENV",
        "CDPATH",
        "CLASSPATH",
        "EDITOR",
        "ENV",
        "GCONV_PATH",
        "GLOBIGNORE",
        "HOME",
        "HOSTALIASES",
        "IFS",
        "JAVA_TOOL_OPTIONS",
        "LESSOPEN",
        "LOCPATH",
        "NLSPATH",
        "PAGER",
        "PATH",
        "PROMPT_COMMAND",
        "PS4",
        "SHELLOPTS",
        "VISUAL",
        "ZDOTDIR",
    ];
    const BEGINNINGS: [&str; 19] = [
        "BASH_FUNC_",
        "BUNDLE_",
        "CARGO_",
        "DYLD_",
        "GEM_",
        "GIT_",
        "GLIBC_",
        "JDK_JAVA_",
        "LD_",
        "LUA_",
        "MALLOC_",
        "NODE_",
        "NOX_",
        "NPM_CONFIG_",
        "PERL",
        "PYTHON",
        "RUBY",
        "RUSTC",
        "_JAVA_",
    ];
    // npm reads its own in any case.
    let name = env_name.to_ascii_uppercase();
    !NAMES.contains(&name.as_str()) && !BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Fills in one field: at most 1 MiB.
///
/// # Errors
/// Says which placeholder cannot be filled, and why.
pub fn render(text: &str, facts: &Facts<'_>) -> Result<String, String> {
    let filling = Filling { scope: Scope::new(facts), fuel: fuel_of([text].into_iter()) };
    filling.field(text, MAX_FIELD)
}

/// Fills in all fields of a task.
///
/// # Errors
/// Names the first field that cannot be filled.
pub fn render_task(task: &TaskSpec, facts: &Facts<'_>) -> Result<RenderedTask, TemplateFailure> {
    let filling = Filling { scope: Scope::new(facts), fuel: fuel_of(texts(task)) };
    let command = match &task.action {
        Some(Action::Command(command)) => Some(filling.command(command)?),
        Some(Action::Approval(_) | Action::Noop { .. }) | None => None,
    };
    Ok(RenderedTask {
        title: filling.named("title", &task.title, MAX_TITLE)?,
        description: filling.named("description", &task.description, MAX_DESCRIPTION)?,
        command,
    })
}

/// What each computed placeholder may cost: one alone has enough for real work, and many share.
fn fuel_of<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let placeholders = texts.flat_map(|text| pieces(text).unwrap_or_default());
    let computed = placeholders.filter(|piece| match piece {
        Piece::Plain(_) => false,
        Piece::Placeholder(expression) => whole_path(expression).is_none(),
    });
    (TASK_FUEL / u64::try_from(computed.count().max(1)).unwrap_or(u64::MAX)).min(FUEL)
}

fn whole_path(expression: &str) -> Option<Path<'_>> {
    paths(expression).into_iter().next().filter(Path::is_whole)
}

struct Filling {
    scope: Scope,
    fuel: u64,
}

impl Filling {
    fn command(&self, command: &CommandAction) -> Result<CommandAction, TemplateFailure> {
        let mut total = 0;
        let mut argument = |field: String, text: &str| {
            let filled = self.named(&field, text, MAX_ARGUMENT)?;
            total += filled.len() + 1;
            if filled.contains('\0') {
                let message = "a value has a NUL byte, which cannot reach a program; leave it out of the value".into();
                return Err(TemplateFailure { field, message });
            }
            if total > MAX_ARGUMENTS && expression::has_placeholder(text) {
                let message = format!(
                    "with its values the command has more than {MAX_ARGUMENTS} bytes of arguments and variables; give \
                     large values by `stdin` or by a file"
                );
                return Err(TemplateFailure { field, message });
            }
            Ok(filled)
        };
        let mut argv = Vec::with_capacity(command.argv.len());
        for (at, element) in command.argv.iter().enumerate() {
            argv.push(argument(format!("command.argv[{at}]"), element)?);
        }
        let mut env = BTreeMap::new();
        for (name, value) in &command.env {
            let field = format!("command.env[{name:?}]");
            if expression::has_placeholder(value) && !may_be_filled(name) {
                let message = format!("a placeholder may not fill `{name}`, which decides what programs load or run");
                return Err(TemplateFailure { field, message });
            }
            // The variable is `name=value` to Linux.
            let filled = argument(field.clone(), value)?;
            if name.len() + filled.len() >= MAX_ARGUMENT && expression::has_placeholder(value) {
                let message = too_long(MAX_ARGUMENT);
                return Err(TemplateFailure { field, message });
            }
            env.insert(name.clone(), filled);
        }
        let stdin = self.named("command.stdin", &command.stdin, MAX_FIELD)?;
        Ok(CommandAction { argv, env, working_dir: command.working_dir.clone(), stdin })
    }

    fn named(&self, field: &str, text: &str, most: usize) -> Result<String, TemplateFailure> {
        self.field(text, most).map_err(|message| TemplateFailure { field: field.into(), message })
    }

    fn field(&self, text: &str, most: usize) -> Result<String, String> {
        if !expression::has_placeholder(text) {
            return Ok(text.to_string());
        }
        let pieces = pieces(text).map_err(|_| "a `{{` has no `}}`".to_string())?;
        let mut filled = String::with_capacity(text.len());
        for piece in pieces {
            match piece {
                Piece::Plain(plain) => filled.push_str(plain),
                Piece::Placeholder(expression) => {
                    let why = |words: String| format!("`{{{{{}}}}}`: {words}", shortened(expression));
                    filled.push_str(&self.value(expression, most.saturating_sub(filled.len())).map_err(why)?);
                }
            }
            if filled.len() > most {
                return Err(too_long(most));
            }
        }
        Ok(filled)
    }

    fn value(&self, expression: &str, room: usize) -> Result<Arc<str>, String> {
        let text = |json: &Json| {
            json.as_text(room).map_err(|_| {
                format!("the value is too long: {room} bytes are left in the field; give large values by `stdin` or by a file")
            })
        };
        if let Some(path) = whole_path(expression) {
            // As it was written, with every digit. A character of a text is minijinja's to find.
            return match self.scope.look_up(&path) {
                Ok(json) => text(json),
                Err(words) => match self.computed(expression) {
                    Ok(json) => text(&json),
                    Err(_) => Err(words),
                },
            };
        }
        self.scope.knows(&paths(expression))?;
        text(&self.computed(expression)?)
    }

    fn computed(&self, expression: &str) -> Result<Json, String> {
        let value = self.scope.evaluate(&scope::environment(self.fuel), expression)?;
        scope::json_of(&value)
    }
}

fn too_long(most: usize) -> String {
    format!("with its values it has more than {most} bytes; give large values by `stdin` or by a file")
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 100;
    if text.chars().count() <= SHOWN { text.into() } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
#[path = "placeholder_tests.rs"]
mod tests;
