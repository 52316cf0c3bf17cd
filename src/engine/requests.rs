//! Requests that succeeded, so that a repeat has no second effect (S-SAFE-3).

use std::collections::HashMap;

use super::{
    batch::Rows,
    read::{ReadError, Reads},
};
use crate::{
    machine::{
        ids::{Tick, Timestamp},
        message::Reply,
    },
    store::layout::RequestRow,
};

/// How long a request is remembered.
const REMEMBERED_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// Requests forgotten at once, so that no batch is held up by it.
const FORGOTTEN_AT_ONCE: usize = 256;
/// How often it is looked for requests to forget.
const SWEEP_MICROS: i64 = 60 * 1_000_000;

/// Whether a request that succeeded is still remembered then.
pub fn is_remembered(row: &RequestRow, now: Timestamp) -> bool {
    now.0 - row.time.0 < REMEMBERED_MICROS
}

/// Which request this is, of which caller and method, and what it says. Both are hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Of caller, method and `request_id`.
    pub hash: [u8; 16],
    /// Of the body.
    pub body_hash: [u8; 16],
}

/// What is known of a request.
pub enum Known {
    /// Nothing: it is new.
    New,
    /// It succeeded before, with this answer.
    Repeated(Reply),
    /// The same id came before with another body.
    Reused,
}

/// The memory of requests: rows, and those of the batch that is being made.
#[derive(Default)]
pub struct Requests {
    of_batch: HashMap<[u8; 16], RequestRow>,
    swept_at: Timestamp,
}

impl Requests {
    /// What is known of a request.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn look_up(&self, id: &RequestId, reads: &Reads, tick: Tick) -> Result<Known, ReadError> {
        let row = match self.of_batch.get(&id.hash) {
            Some(row) => Some(row.clone()),
            None => reads.request(&id.hash)?,
        };
        Ok(match row {
            Some(row) if !is_remembered(&row, tick.wall) => Known::New,
            Some(row) if row.body_hash == id.body_hash => Known::Repeated(row.reply),
            Some(_) => Known::Reused,
            None => Known::New,
        })
    }

    /// Takes note of a request of this batch that succeeded.
    pub fn succeeded(&mut self, id: &RequestId, reply: Reply, tick: Tick) {
        self.of_batch.insert(id.hash, RequestRow { body_hash: id.body_hash, time: tick.wall, reply });
    }

    /// Moves the batch's requests to its rows, and forgets some whose time is over.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn write(&mut self, rows: &mut Rows, reads: &Reads, tick: Tick) -> Result<(), ReadError> {
        let mut of_batch: Vec<([u8; 16], RequestRow)> = self.of_batch.drain().collect();
        // A map has no order of its own; the same batch gives the same rows.
        of_batch.sort_unstable_by_key(|(hash, _)| *hash);
        for (hash, row) in &of_batch {
            rows.remember(hash, row);
        }
        if tick.wall.0 - self.swept_at.0 < SWEEP_MICROS {
            return Ok(());
        }
        let over = reads.requests_before(Timestamp(tick.wall.0 - REMEMBERED_MICROS), FORGOTTEN_AT_ONCE)?;
        if over.len() < FORGOTTEN_AT_ONCE {
            self.swept_at = tick.wall;
        }
        for (time, hash) in over {
            // A later request may have taken the same id since, or in this batch: its row is not this one's.
            let taken_again = of_batch.binary_search_by_key(&hash, |(hash, _)| *hash).is_ok();
            let current = reads.request(&hash)?;
            if !taken_again && current.is_some_and(|row| row.time == time) {
                rows.forget(time, &hash);
            } else {
                rows.forget_age(time, &hash);
            }
        }
        Ok(())
    }
}
