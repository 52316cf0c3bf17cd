//! A wall clock that the story puts: noxd is started with a library before libc's that reads it from a file.
//!
//! It stands still in between, and can kill noxd at one of its looks at it. noxd's own clock, which deadlines follow, is
//! the machine's. A machine that sleeps cannot be had here, since the clock of the boot would have to be put as well;
//! the simulation tells of it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use crate::{daemon::Daemon, run};

/// A clock on the wall.
pub struct WallClock {
    file: File,
}

impl WallClock {
    /// Hangs one up for a noxd that is not started yet.
    pub fn of(daemon: &mut Daemon) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
        let (library, path) = (daemon.path("clock.so"), daemon.path("clock"));
        let words = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"];
        let paths = [library.display().to_string(), source.display().to_string()];
        run("cc", &[&words[..], &[&paths[0], &paths[1]]].concat()).expect("who can link noxd has a C compiler");
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).expect("a file");
        file.set_len(24).expect("a file");
        daemon.within(&["env", &format!("LD_PRELOAD={}", paths[0]), &format!("NOXD_TEST_CLOCK={}", path.display())]);
        Self { file }
    }

    /// Puts it to so many seconds after 1970.
    pub fn put(&self, seconds: i64) {
        self.write(0, seconds * 1_000_000);
    }

    /// Lets noxd, which is not running, be killed when it looks at the clock so often.
    pub fn kills_at_look(&self, look: i64) {
        self.write(8, 0);
        self.write(16, look);
    }

    fn write(&self, at: u64, value: i64) {
        self.file.write_all_at(&value.to_ne_bytes(), at).expect("a file");
    }
}
