//! Where data goes: standard output, as a table, as JSON or as YAML. Talk goes to standard error.
//!
//! Everything is written through a handle that reports its errors, so that a closed pipe ends a command quietly.

use std::io::{IsTerminal as _, Write};

use serde::Serialize;
use serde_json::Value;

use super::{status::CliError, text};

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// Canonical proto3 JSON of the resource; streams are one line per message.
    Json,
    /// The same in YAML: `noxctl workflow show -o yaml` is a workflow file.
    Yaml,
}

/// The way to standard output.
pub struct Output {
    format: Format,
    stream: Box<dyn Write + Send>,
    width: Option<u16>,
}

impl Output {
    /// To standard output, coloured where that is a terminal and `NO_COLOR` does not forbid it.
    pub fn stdout(format: Format) -> Self {
        let width = std::io::stdout().is_terminal().then(|| terminal_size().0);
        Self { format, stream: Box::new(anstream::stdout()), width }
    }

    /// The format that was asked for.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether a person reads it on a terminal.
    pub fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Writes a resource, in the format asked for, `table` being its form for people.
    pub fn resource<T: Serialize>(&mut self, resource: &T, table: impl FnOnce() -> String) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => table(),
            Format::Json => {
                let json = serde_json::to_string_pretty(&canonical(resource)?).map_err(std::io::Error::from)?;
                self.shown_json(json) + "\n"
            }
            Format::Yaml => {
                self.shown_yaml(serde_saphyr::to_string(&canonical(resource)?).map_err(std::io::Error::other)?)
            }
        };
        self.text(&text)
    }

    /// Writes one message of a stream: a line of JSON, or a YAML document.
    pub fn message<T: Serialize>(&mut self, message: &T) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table | Format::Json => {
                self.shown_json(serde_json::to_string(&canonical(message)?).map_err(std::io::Error::from)?) + "\n"
            }
            Format::Yaml => {
                let yaml = serde_saphyr::to_string(&canonical(message)?).map_err(std::io::Error::other)?;
                format!("---\n{}", self.shown_yaml(yaml))
            }
        };
        self.text(&text)
    }

    fn shown_json(&self, json: String) -> String {
        if self.is_terminal() { text::escape_json(&json) } else { json }
    }

    // YAML has no escape outside of quotes, so on a terminal what is shown may differ from what a pipe gets.
    fn shown_yaml(&self, yaml: String) -> String {
        if self.is_terminal() { text::escape_lines(&yaml) } else { yaml }
    }

    /// Columns of the terminal; none where it is none and nothing is cut.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// Writes text as it is and flushes it: what is followed live must be seen at once.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stream.write_all(bytes)?;
        self.stream.flush()?;
        Ok(())
    }
}

/// Canonical proto3 JSON, where the generated code falls short of it: times end in `Z`, and whole numbers are written
/// without a fraction. Keys are sorted, so that the same resource gives the same text.
pub(super) fn canonical<T: Serialize>(resource: &T) -> Result<Value, CliError> {
    /// Fields that are times though their names do not end so.
    const TIMES: [&str; 5] = ["time", "eta", "scheduledFor", "lastExecution", "nextExecution"];
    fn mend(value: &mut Value, is_time: bool) {
        match value {
            Value::Object(entries) => {
                for (key, value) in entries {
                    mend(value, key.ends_with("At") || TIMES.contains(&key.as_str()));
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| mend(value, false)),
            Value::String(text) if is_time => {
                if let Some(time) = text.strip_suffix("+00:00") {
                    *text = format!("{time}Z");
                }
            }
            Value::Number(number) => {
                // Above 2^53 a double has no neighbours of distance 1 and is shown as what it is.
                const EXACT: f64 = 9_007_199_254_740_992.0;
                if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT) {
                    #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
                    let whole = float as i64;
                    *number = whole.into();
                }
            }
            Value::String(_) | Value::Bool(_) | Value::Null => {}
        }
    }
    let mut value = serde_json::to_value(resource).map_err(std::io::Error::from)?;
    mend(&mut value, false);
    Ok(value)
}

/// Says something to the person at standard error. Where nobody listens, nothing is lost.
pub fn talk(words: &str) {
    let _unheard = writeln!(anstream::stderr(), "{words}");
}

/// Asks for a yes at the terminal. `yes` is the answer given in advance.
pub fn confirm(question: &str, yes: Consent) -> Result<(), CliError> {
    if yes == Consent::Given {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("{question} Nobody is there to ask: say --yes")));
    }
    let mut stderr = anstream::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(CliError::NotConfirmed("nothing was done".to_owned()))
    }
}

/// Whether the person has already said yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// With `--yes`.
    Given,
    /// Not yet.
    Sought,
}

impl From<bool> for Consent {
    fn from(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Sought }
    }
}

/// Whether a person reads standard output, and whether one reads standard error.
pub fn on_terminal() -> (bool, bool) {
    (std::io::stdout().is_terminal(), std::io::stderr().is_terminal())
}

/// Columns and rows of the terminal, 80 by 24 where nobody knows.
pub fn terminal_size() -> (u16, u16) {
    let sizes = [rustix::termios::tcgetwinsize(std::io::stdout()), rustix::termios::tcgetwinsize(std::io::stderr())];
    let known = sizes.into_iter().flatten().find(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

/// `name   value` lines, aligned; empty values are left out.
pub fn properties(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:width$}  {}\n", text::escape(value))).collect()
}
