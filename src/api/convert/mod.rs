//! Protobuf to machine types and back: the one place where both are seen.
//!
//! Requests are parsed once, here; behind it a value that exists is valid. Ids and request times are made here too.

pub mod definition;
pub mod ends;
pub mod event;
pub mod execution;
pub mod schedule;
pub mod template;

use pbjson_types::{Duration, Timestamp as ProtoTimestamp};

use crate::machine::{
    ids::{ExecutionId, Timestamp},
    workflow::{Reason, Violation},
};

/// A new execution id: a UUIDv7 of now.
#[expect(clippy::disallowed_methods, reason = "ids of what clients ask for are made at the edge, and stored")]
pub fn new_execution_id() -> ExecutionId {
    ExecutionId(uuid::Uuid::now_v7().as_u128())
}

/// A time as protobuf has it.
pub fn timestamp(time: Timestamp) -> ProtoTimestamp {
    ProtoTimestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).expect("below a second"),
    }
}

/// A time that a client gave; finer than a microsecond is cut off.
pub fn time_of(time: &ProtoTimestamp) -> Timestamp {
    Timestamp(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000))
}

/// A span as protobuf has it.
pub fn duration(micros: u64) -> Duration {
    Duration {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1_000).expect("below a second"),
    }
}

/// A span that a client gave, in microseconds.
///
/// # Errors
/// A negative one, or one that is no duration at all.
pub fn micros_of(field: &str, span: &Duration) -> Result<u64, Violation> {
    let fault = |description: &str| Violation {
        field: field.into(),
        reason: Reason::InvalidValue,
        description: description.into(),
    };
    if span.seconds < 0 || span.nanos < 0 {
        return Err(fault("a span is not negative"));
    }
    let seconds = u64::try_from(span.seconds).map_err(|_| fault("a span is not negative"))?;
    let nanos = u64::try_from(span.nanos).map_err(|_| fault("a span is not negative"))?;
    if nanos >= 1_000_000_000 {
        return Err(fault("a span has less than 1,000,000,000 nanoseconds beside its seconds"));
    }
    Ok(seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000))
}

/// A JSON value that a client gave. Numbers of the API are floats; a whole one that is exact is written without a
/// fraction, as its author did.
///
/// # Errors
/// A number that JSON cannot write.
pub fn json_of(value: pbjson_types::Value) -> Result<serde_json::Value, String> {
    use pbjson_types::value::Kind;
    // Floats count exactly up to here.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::StringValue(text)) => text.into(),
        #[expect(clippy::cast_possible_truncation, reason = "whole, and at most 2^53")]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() <= EXACT => (number as i64).into(),
        Some(Kind::NumberValue(number)) => {
            serde_json::Number::from_f64(number).ok_or_else(|| format!("{number} is no JSON number"))?.into()
        }
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json_of).collect::<Result<Vec<_>, _>>()?.into(),
        Some(Kind::StructValue(fields)) => {
            let sorted: std::collections::BTreeMap<_, _> = fields.fields.into_iter().collect();
            let members = sorted.into_iter().map(|(name, value)| Ok((name, json_of(value)?)));
            serde_json::Value::Object(members.collect::<Result<_, String>>()?)
        }
    })
}
