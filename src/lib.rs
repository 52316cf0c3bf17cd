//! noxd turns single tasks of AI agents and other programs into dependable workflows.
//!
//! A client stores a *workflow* (tasks and their dependencies) and executes it; noxd starts each *task* when those before
//! it have succeeded, as many at once as its limit allows, and remembers every fact before it tells anybody. One writer
//! thread decides ([`engine`]) by rules that are pure functions ([`machine`]), over a journal that is synced before
//! anything is acknowledged ([`store`]). Programs are run and ended by the [`executor`]; clients come in through
//! [`api`], people through [`cli`]. [`daemon`] puts it together.
//!
//! | module | what it is |
//! |---|---|
//! | [`machine`] | the pure core: definitions, states, decisions; no clock, no IO |
//! | [`calendar`] | when schedules fire, as pure |
//! | [`store`] | rows that survive: journal, overlay, sled |
//! | [`engine`] | the writer, recovery, reads, watches |
//! | [`executor`] | processes, their logs and their end |
//! | [`api`] | the gRPC services |
//! | [`cli`] | noxctl, and the client half of `noxd run` |
//! | [`daemon`], [`config`], [`telemetry`], [`notify`] | composition |
//! | [`doctor`] | damaged stores, without a daemon |
//!
//! Start reading at [`machine::message`], then [`machine::step`].

// What the daemon may not do and its tests may. The forbidden calls and their reasons are in clippy.toml.
#![cfg_attr(
    not(test),
    warn(
        clippy::allow_attributes,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::disallowed_methods,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(feature = "daemon")]
pub mod api;
pub mod calendar;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod doctor;
#[cfg(feature = "daemon")]
pub mod engine;
#[cfg(feature = "daemon")]
pub mod executor;
#[cfg(feature = "daemon")]
pub mod logs;
pub mod machine;
#[cfg(feature = "daemon")]
pub mod notify;
#[cfg(feature = "daemon")]
pub mod proto;
#[cfg(feature = "daemon")]
pub mod run;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod telemetry;
