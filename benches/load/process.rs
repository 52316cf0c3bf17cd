//! What a process costs: CPU time and memory, as the kernel counts them.

use std::{fs, path::Path};

/// CPU time of a process and all its threads so far, in microseconds.
pub fn cpu_micros(pid: u32) -> u64 {
    const TICK_MICROS: u64 = 10_000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // Behind the name, which may have anything in it: state is the first field, user and system time the 12th and 13th.
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().expect("a number") * TICK_MICROS).sum()
}

/// A line of its status, such as `VmRSS`, in MB of 1,000,000 bytes.
pub fn megabytes(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1_024.0 / 1e6
}

/// How many processes wanted a CPU in the last minute: a figure of a busy machine is a figure of its neighbours.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("?").to_string()
}

/// Bytes of all files under a directory, as they are on the disk.
pub fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
