//! Faults of the machine below a real noxd: it is killed, its system calls fail, its disk is full or loses its power.
//!
//! The promises under test are S-SAFE-1 to S-SAFE-5. How much is done is said by variables of the environment
//! (`NOXD_KILLS`, `NOXD_FAULTS`, `NOXD_CUTS`, `NOXD_DAMAGE`, `NOXD_SEED`): little in a plain `cargo test`, more in `.ci/run faults`. What
//! the machine cannot do (no strace, no root, no loop device) is skipped with a word on standard error, never silently.
//!
//! Read [`load`] first: what clients are told is written into a [`load::Book`], and every story ends by comparing that
//! book with what noxd says after the fault.

mod abuse;
mod abuses;
mod bombs;
mod calls;
mod clock;
mod daemon;
mod damage;
mod doctor;
mod fates;
mod frames;
mod kill;
mod lifecycle;
mod load;
mod schedules;
mod space;
#[path = "../stories/support.rs"]
#[expect(dead_code, reason = "its Noxd tells the other stories; of it the small things are used here")]
mod support;

mod power;

use std::{io::Write as _, process::Command};

/// Says something though the test passes: not `eprintln!`, which the harness shows of tests that fail alone.
fn tell(words: &str) {
    std::io::stderr().write_all(format!("{words}\n").as_bytes()).expect("standard error");
}

/// A number from the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Whether calls can be traced and made to fail here; says so if not.
fn can_trace(story: &str) -> bool {
    let options = ["-D", "-f", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "true"];
    let can = Command::new("strace").args(options).output().is_ok_and(|output| output.status.success());
    if !can {
        tell(&format!("SKIPPED {story}: strace is missing, or may not trace here"));
    }
    can
}

/// Whether this user may mount; says so if not.
fn can_mount(story: &str) -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        tell(&format!("SKIPPED {story}: mounting needs root"));
    }
    can
}

/// Runs a program that must succeed, and gives what it printed.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Chance that can be told again: xorshift of a seed.
struct Chance(u64);

impl Chance {
    /// From `NOXD_SEED`, else from the clock. Says which, and how to tell the story again.
    fn told(story: &str, setting: &str) -> Self {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_micros();
        let seed = number("NOXD_SEED", u64::try_from(clock).expect("microseconds fit"));
        tell(&format!("{story}: seed {seed}; again: NOXD_SEED={seed} {setting} cargo test --test faults {story}"));
        Self(seed | 1)
    }

    /// Below a bound.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
