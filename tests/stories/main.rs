//! Stories told to a real noxd: whole workflows, processes and their end, recovery from a kill, a person at a
//! terminal, clients of other languages.
//!
//! One binary, so that what they share in `support` is built once. Read `support` first.

mod clients;
mod command_line;
mod processes;
mod recovery;
mod support;
mod workflows;
