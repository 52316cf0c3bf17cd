//! The command-line client of noxd. Everything is in `noxd::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    noxd::cli::main()
}
