//! How long executions take, as rows: what a version's executions have taken so far, and what one of them expects.

use std::sync::Arc;

use prost::Message as _;

use super::{LayoutError, rows, unreadable};
use crate::machine::{
    expected::{Durations, Expected, Mean},
    ids::WorkflowId,
};

/// The row of a version's durations.
pub fn encode_durations(durations: &Durations) -> Vec<u8> {
    rows::Durations {
        executions: durations.executions,
        whole: durations.whole.micros,
        whole_seen: durations.whole.seen,
        tasks: durations.tasks.iter().map(|mean| mean.micros).collect(),
        tasks_seen: durations.tasks.iter().map(|mean| mean.seen).collect(),
    }
    .encode_to_vec()
}

/// Reads the row of a version's durations.
///
/// # Errors
/// Where the bytes are no such row.
pub fn decode_durations(id: &WorkflowId, version: u64, bytes: &[u8]) -> Result<Durations, LayoutError> {
    let what = || format!("the durations of version {version} of workflow `{id}`");
    let row = rows::Durations::decode(bytes).map_err(|error| unreadable(what(), error))?;
    if row.tasks.len() != row.tasks_seen.len() {
        return Err(unreadable(what(), "it has not as many counts as means"));
    }
    let tasks = row.tasks.into_iter().zip(row.tasks_seen).map(|(micros, seen)| Mean { micros, seen });
    Ok(Durations {
        executions: row.executions,
        whole: Mean { micros: row.whole, seen: row.whole_seen },
        tasks: tasks.collect(),
    })
}

pub(super) fn encode_expected(expected: &Expected) -> rows::Expected {
    rows::Expected {
        executions: expected.executions(),
        whole: expected.whole_micros(),
        tasks: expected.tasks_micros().to_vec(),
    }
}

pub(super) fn decode_expected(row: rows::Expected) -> Option<Arc<Expected>> {
    Expected::new(row.executions, row.whole, row.tasks).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_were_written() {
        let id = WorkflowId::parse("w").expect("an id");
        let mean = |micros, seen| Mean { micros, seen };
        let durations =
            Durations { executions: 4, whole: mean(9, 3), tasks: vec![mean(0, 0), mean(u64::MAX, 16), mean(0, 1)] };
        let row = encode_durations(&durations);
        assert_eq!(decode_durations(&id, 1, &row).expect("readable"), durations);
        assert!(decode_durations(&id, 1, &row[..row.len() - 1]).is_err());
    }
}
