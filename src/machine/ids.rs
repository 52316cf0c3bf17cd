//! Names of things: who is who, and when. Plain values; nothing here is made from a clock or from chance.

use std::{fmt, str::FromStr, sync::Arc};

use uuid::Uuid;

/// Microseconds since the Unix epoch (UTC): what people's clocks show. It can stand still, but never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds on noxd's own clock: it runs while the machine sleeps, stands still while noxd is down, and goes on
/// from where it was after a restart. Spans (timeouts, later backoff and leases) are deadlines on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Elapsed(pub u64);

/// The only time and chance that the machine sees: given with each command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// The wall clock.
    pub wall: Timestamp,
    /// noxd's own clock.
    pub elapsed: Elapsed,
    /// For ids and jitter born in this step.
    pub seed: u64,
}

/// Position of an event in the one order of all events, from 1, without gaps.
pub type Revision = u64;

/// Index of a task in its definition. Everything per task is a dense array over it.
pub type TaskIndex = u32;

/// The author's name for a workflow, `[A-Za-z0-9._-]{1,128}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkflowId(Arc<str>);

impl WorkflowId {
    /// Takes a well-formed id.
    ///
    /// # Errors
    /// Says what is wrong with a malformed one.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_name(text)?;
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkflowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The author's name for a template, of the same form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateId(Arc<str>);

impl TemplateId {
    /// Takes a well-formed id.
    ///
    /// # Errors
    /// Says what is wrong with a malformed one.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_name(text)?;
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TemplateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The author's name for a schedule, of the same form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleId(Arc<str>);

impl ScheduleId {
    /// Takes a well-formed id.
    ///
    /// # Errors
    /// Says what is wrong with a malformed one.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_name(text)?;
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run of a workflow: a UUIDv7, so that ids sort by birth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId(pub u128);

impl ExecutionId {
    /// An id that is born in a step: its time and chance are the step's, and the revision of its birth tells it from
    /// the others.
    pub fn born(tick: Tick, revision: Revision) -> Self {
        // The step of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
        let mix = |state: u64| {
            let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        };
        let high = mix(tick.seed ^ mix(revision));
        let chance = u128::from(high) << 64 | u128::from(mix(high));
        let millis = u64::try_from(tick.wall.0 / 1_000).unwrap_or(0);
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&chance.to_be_bytes()[..10]);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid().as_u128())
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecutionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Uuid::try_parse(text).map(|id| Self(id.as_u128())).map_err(|_| {
            format!("`{text}` is not an execution id: it must be a UUID such as those that ExecuteWorkflow returns")
        })
    }
}

/// One try at one task. Its number is the fencing token: a report about any other number than the live one is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// Of which execution.
    pub execution: ExecutionId,
    /// Of which task.
    pub task: TaskIndex,
    /// Which try, from 1; interrupted ones count here.
    pub attempt: u32,
}

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// noxd itself.
    Noxd,
    /// A caller, as the API saw it: `uid:1000`, `peer:127.0.0.1`.
    Caller(Arc<str>),
}

impl Actor {
    /// The actor as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Noxd => "noxd",
            Self::Caller(name) => name,
        }
    }

    /// The actor that [`as_str`](Self::as_str) describes.
    pub fn from_text(text: &str) -> Self {
        if text == "noxd" { Self::Noxd } else { Self::Caller(text.into()) }
    }
}

/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Checks the one form that names of workflows and tasks have: it is safe as a file name.
///
/// # Errors
/// Says what is wrong.
pub fn check_name(text: &str) -> Result<(), String> {
    const FORM: &str = "use 1 to 128 of the characters A-Z a-z 0-9 . _ -";
    if text.is_empty() {
        return Err(format!("the id is empty; {FORM}"));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(format!("the id has {} bytes; {FORM}", text.len()));
    }
    if text == "." || text == ".." {
        return Err(format!("`{text}` is a path, not an id; {FORM}"));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(c) => Err(format!("the id `{}` has the character {c:?}; {FORM}", text.escape_debug())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_as_a_file_name() {
        // S-DEF-2
        for good in ["a", "build-image", "v1.2", "..a", &"x".repeat(128)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a\n", "a\0", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_execution_id_reads_back_as_it_is_shown() {
        let id = ExecutionId(0x0190_0000_0000_7000_8000_0000_0000_0001);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("nonsense".parse::<ExecutionId>().is_err());
    }
}
