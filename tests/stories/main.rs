//! Stories told to a real noxd: whole workflows, processes and their end, recovery from a kill, a person at a
//! terminal, clients of other languages.
//!
//! One binary, so that what they share in `support` is built once. Read `support` first.

mod approvals;
mod backfills;
mod calls;
mod clients;
mod command_line;
mod data;
mod handlers;
mod limits;
mod processes;
mod progress;
mod recovery;
mod reruns;
mod retries;
mod schedules;
mod steering;
mod support;
mod templates;
mod unattended;
mod workflows;
