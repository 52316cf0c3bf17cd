//! The command-line client of noxd. Everything is in `noxd::cli`.

#![warn(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unreachable,
    clippy::unwrap_used
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    noxd::cli::main()
}
