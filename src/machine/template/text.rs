//! One text of a template with its parameters filled in (S-TPL-3).
//!
//! Values are data, whatever they hold: in a field that an attempt fills in, what would begin a placeholder is written
//! as a literal, and in `when` a value is a literal of its type. So what is put in is never looked at again, now or
//! when the attempt starts.

use super::parameter::Values;
use crate::machine::{
    json::Json,
    lexer::{Piece, ROOTS, Scan, Token, pieces},
};

/// How a field takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its placeholders are filled in when an attempt starts.
    Attempt,
    /// It stays as it is from here on.
    Plain,
    /// It is an expression.
    Expression,
}

/// A text that was filled in.
#[derive(Debug, Default, PartialEq)]
pub struct Filled {
    /// The text; `None`: it has no parameters, and stays as it is.
    pub text: Option<String>,
    /// The parameters that it has, in their order.
    pub used: Vec<String>,
}

/// Words that stand for themselves in expressions, so that no parameter can have such a name.
pub const WORDS: [&str; 15] =
    ["and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None", "loop", "self"];

/// Fills in one text.
///
/// # Errors
/// Says which placeholder is none, and what would be right.
pub fn fill(text: &str, kind: Kind, values: &Values) -> Result<Filled, String> {
    if !text.contains("{{") {
        return Ok(Filled::default());
    }
    match kind {
        Kind::Expression => expression(text, values),
        Kind::Attempt | Kind::Plain => field(text, kind, values),
    }
}

/// The parameter that a text is and nothing else.
pub fn whole_parameter(text: &str) -> Option<&str> {
    match pieces(text).ok()?.as_slice() {
        [Piece::Placeholder(expression)] => bare(expression),
        _ => None,
    }
}

/// The name that a placeholder is and nothing else, unless it is the attempt's.
fn bare(expression: &str) -> Option<&str> {
    let mut scan = Scan::new(expression);
    let Some(Token::Name(name)) = scan.next() else { return None };
    let is_name = !ROOTS.contains(&name) && !WORDS.contains(&name) && !name.starts_with(|c: char| c.is_ascii_digit());
    (is_name && scan.next().is_none()).then_some(name)
}

fn field(text: &str, kind: Kind, values: &Values) -> Result<Filled, String> {
    let pieces = pieces(text).map_err(|rest| {
        let rest: String = rest.chars().take(40).collect();
        format!("`{{{{{rest}` has no end: expected `}}}}`, or `{{{{ '{{{{' }}}}` where `{{{{` itself is meant")
    })?;
    let mut out = Writing { kind, text: String::with_capacity(text.len()), data: String::new() };
    let mut used = Vec::new();
    let mut changed = false;
    for piece in pieces {
        let expression = match piece {
            Piece::Plain(plain) => {
                out.data.push_str(plain);
                continue;
            }
            Piece::Placeholder(expression) => expression,
        };
        if let Some(name) = bare(expression) {
            out.data.push_str(&as_text(value_of(name, values)?));
            used.push(name.to_string());
        } else if let Some(literal) = literal(expression).filter(|_| kind == Kind::Plain) {
            out.data.push_str(literal);
            changed = true;
        } else {
            out.keep(expression);
        }
    }
    // What no parameter touched stays as its author wrote it.
    let text = (changed || !used.is_empty()).then(|| out.finish());
    Ok(Filled { text, used })
}

/// Text in quotes and nothing else.
fn literal(expression: &str) -> Option<&str> {
    let mut scan = Scan::new(expression);
    match (scan.next(), scan.next()) {
        (Some(Token::Text(text)), None) if !text.contains('\\') => Some(text),
        _ => None,
    }
}

struct Writing {
    kind: Kind,
    text: String,
    /// What is not written yet: only what follows says whether a brace at its end would begin a placeholder.
    data: String,
}

impl Writing {
    fn keep(&mut self, expression: &str) {
        self.write_data(true);
        self.text.push_str("{{");
        self.text.push_str(expression);
        self.text.push_str("}}");
    }

    fn finish(mut self) -> String {
        self.write_data(false);
        self.text
    }

    fn write_data(&mut self, placeholder_follows: bool) {
        let data = std::mem::take(&mut self.data);
        if self.kind == Kind::Plain {
            self.text.push_str(&data);
            return;
        }
        let mut rest = data.as_str();
        while let Some(at) = rest.find('{') {
            let (before, braces) = rest.split_at(at);
            self.text.push_str(before);
            let count = braces.bytes().take_while(|byte| *byte == b'{').count();
            let (run, after) = braces.split_at(count);
            if count > 1 || (after.is_empty() && placeholder_follows) {
                self.text.push_str("{{ '");
                self.text.push_str(run);
                self.text.push_str("' }}");
            } else {
                self.text.push_str(run);
            }
            rest = after;
        }
        self.text.push_str(rest);
    }
}

const ALONE: &str = "a parameter stands for a value of its own, not for a part of one; join texts with `~`: \
                     `'release-' ~ {{env}}`, and name tasks in brackets: `tasks[{{task}}].status`";

/// `when`: a parameter stands where a value can stand.
fn expression(text: &str, values: &Values) -> Result<Filled, String> {
    let mut out = String::with_capacity(text.len());
    let mut used = Vec::new();
    let mut rest = text;
    while let Some(at) = next_of(rest)? {
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find("}}").ok_or("`{{` has no end: expected `}}`")?;
        let name = bare(&inner[..end]).ok_or(
            "only the name of a parameter stands between `{{ }}` in `when`; `tasks`, `inputs` and `execution` are \
             written without them",
        )?;
        let after = &inner[end + 2..];
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '\'' | '"');
        if out.ends_with(is_part) || after.starts_with(is_part) {
            return Err(ALONE.into());
        }
        out.push_str(&as_literal(value_of(name, values)?, &out, after));
        used.push(name.to_string());
        rest = after;
    }
    out.push_str(rest);
    Ok(Filled { text: (!used.is_empty()).then_some(out), used })
}

/// Where the next `{{` stands outside of strings.
fn next_of(text: &str) -> Result<Option<usize>, String> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        let opens = text[at..].starts_with("{{");
        match quote {
            None if opens => return Ok(Some(at)),
            None if c == '\'' || c == '"' => quote = Some(c),
            None => {}
            Some(_) if opens => {
                return Err(ALONE.into());
            }
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
        }
    }
    Ok(None)
}

fn value_of<'a>(name: &str, values: &'a Values) -> Result<&'a Json, String> {
    values.get(name).ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        format!("`{{{{{shown}}}}}` is no parameter of this template; declare it in `parameters`")
    })
}

fn as_text(value: &Json) -> String {
    match value {
        Json::Text(text) => text.to_string(),
        other => other.to_string(),
    }
}

/// A value as an expression writes it. A negative number is put into brackets where a filter or an operator could take
/// it apart; in a list, where brackets cannot stand, nothing can.
fn as_literal(value: &Json, before: &str, after: &str) -> String {
    let Json::Text(text) = value else {
        let number = value.to_string();
        let alone = before.trim_end().ends_with(['[', ',']) && after.trim_start().starts_with([']', ',']);
        return if number.starts_with('-') && !alone { format!("({number})") } else { number };
    };
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            // Where `{{` stands in `when`, even within quotes, it is taken for a slip.
            '{' | '}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}
