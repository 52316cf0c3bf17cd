//! The pure core: what workflows are and what happens to them.
//!
//! No async, no IO, no clock, no randomness, no hash order: time and ids are arguments, effects are values. The same
//! commands give the same events everywhere, so recovery, simulation and reading history share this code with live
//! running. `cargo check --lib --no-default-features` builds it alone.
//!
//! Read [`message`] first (what goes in and out), then [`step`] (how they meet), then [`decide`] (the rules) and
//! [`execution`] (what each event does).

pub mod approval;
pub mod attempt;
pub mod condition;
pub mod control;
pub mod decide;
pub mod definition;
pub mod dependency;
pub mod execution;
pub mod expected;
pub mod explain;
pub mod expression;
pub mod facts;
mod filter;
pub mod ids;
pub mod input;
pub mod json;
pub mod judgement;
mod lexer;
pub mod message;
pub mod parallel;
pub mod placeholder;
pub mod progress;
pub mod rerun;
pub mod retry;
pub mod schedule;
mod scope;
pub mod state;
pub mod step;
pub mod task;
pub mod template;
pub mod validation;
pub mod workflow;
