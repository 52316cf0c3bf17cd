//! What goes in and out of the machine: [`Command`] in, [`Event`] remembered, [`Effect`] ordered, [`Rejection`] refused.
//!
//! All of them are values. Events are the only thing that changes state; effects follow from events.

mod command;
mod effect;
mod error_kind;
mod event;
mod rejection;

pub use self::{
    command::{
        AttemptEnd, AttemptOutcome, Command, Content, Inputs, Operation, Output, ProcessIdentity, Start, Trigger,
        WorkflowRecord,
    },
    effect::{Effect, Filling, StopCause, TaskRead},
    error_kind::ErrorKind,
    event::{
        AttemptResult, Event, ExecutionEnd, Recorded, Reused, ScheduleChange, TaskEnd, TaskError, TimeLimit, Waited,
        WorkflowChange,
    },
    rejection::{Rejection, Reply},
};
