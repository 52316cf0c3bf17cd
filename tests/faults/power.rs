//! Stories of a power cut (S-SAFE-1): noxd stands still, what has reached its disk is copied, and the next noxd starts on
//! the copy.
//!
//! The disk is a file behind a loop device with direct I/O, so a page that nobody has synced is in no image. It is a
//! disk that keeps what it was given: one that loses its own write cache is not told of here.

use std::path::{Path, PathBuf};

use crate::{
    Chance, can_mount, can_trace,
    daemon::Daemon,
    load::{self, Load, SharedBook},
    number, run,
    support::eventually,
    tell,
};

/// An ext4 file system in a file, mounted.
struct Disk {
    image: PathBuf,
    device: String,
    place: tempfile::TempDir,
    /// Whether it was mounted.
    mounted: bool,
}

impl Disk {
    fn make(directory: &Path) -> Result<Self, String> {
        const BYTES: u64 = 128 * 1024 * 1024;
        let image = directory.join("disk");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(BYTES).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
        Self::mount(image)
    }

    fn mount(image: PathBuf) -> Result<Self, String> {
        let place = tempfile::Builder::new().prefix("noxd-disk-").tempdir().map_err(|error| error.to_string())?;
        let device = run("losetup", &["--find", "--show", "--direct-io=on", &image.to_string_lossy()])?;
        let mut disk = Self { image, device, place, mounted: false };
        let direct = std::fs::read_to_string(disk.sysfs("loop/dio")).unwrap_or_default();
        if direct.trim() != "1" {
            return Err("the loop device has no direct I/O here".into());
        }
        run("mount", &["-t", "ext4", &disk.device, &disk.place.path().to_string_lossy()])?;
        disk.mounted = true;
        Ok(disk)
    }

    fn sysfs(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(self.device.trim_start_matches("/dev/")).join(name)
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// Writes completed so far; none while some are under way.
    fn writes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.sysfs("stat")).ok()?;
        let fields: Vec<u64> = text.split_whitespace().map_while(|field| field.parse().ok()).collect();
        (*fields.get(8)? == 0).then_some(*fields.get(4)?)
    }

    /// What the disk holds at one moment. The kernel goes on writing back, so a copy counts that nothing was written
    /// during.
    async fn copy_to(&self, copy: &Path) {
        eventually("a moment without a write", || async {
            let before = self.writes()?;
            run("cp", &["--sparse=always", &self.image.to_string_lossy(), &copy.to_string_lossy()]).expect("copied");
            (self.writes()? == before).then_some(())
        })
        .await;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && run("umount", &[&self.place.path().to_string_lossy()]).is_err() {
            tell(&format!("{} could not be unmounted", self.place.path().display()));
        }
        if let Err(error) = run("losetup", &["-d", &self.device]) {
            tell(&error);
        }
    }
}

/// Whether such a disk can be made here; says so if not.
fn can_cut(story: &str) -> bool {
    if !can_mount(story) {
        return false;
    }
    let directory = tempfile::tempdir().expect("a directory");
    match Disk::make(directory.path()) {
        Ok(_) => true,
        Err(why) => {
            tell(&format!("SKIPPED {story}: no loop device with ext4 here: {why}"));
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_power_goes() {
    const STORY: &str = "when_the_power_goes";
    if !can_cut(STORY) {
        return;
    }
    let cuts = number("NOXD_CUTS", 3);
    let mut chance = Chance::told(STORY, &format!("NOXD_CUTS={cuts}"));
    let mut acknowledged = 0;
    for cut in 0..cuts {
        let compared = cut_after(100 + chance.below(200), &[]).await;
        acknowledged += compared.unwrap_or_else(|broken| panic!("cut {cut}: {broken}"));
    }
    tell(&format!("{STORY}: {cuts} cuts, {acknowledged} executions acknowledged, none lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noxd_that_only_claims_to_sync_loses_its_promises_with_the_power() {
    // The negative control of the story before: this one must fail, or that one shows nothing.
    const STORY: &str = "only_claims_to_sync";
    if !can_trace(STORY) || !can_cut(STORY) {
        return;
    }
    let faked = ["--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"];
    match cut_after(100, &faked).await {
        Err(broken) => tell(&format!("{STORY}: found, as it must be: {}", broken.lines().next().unwrap_or_default())),
        Ok(all) => panic!("nobody noticed that nothing was synced: all {all} are there"),
    }
}

/// Takes the power after so many answers, and compares.
async fn cut_after(answers: u64, tracing: &[&str]) -> Result<usize, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Disk::make(directory.path()).expect("it could be made before");
    let mut daemon = Daemon::on(disk.data());
    if !tracing.is_empty() {
        daemon.traced(tracing);
    }
    daemon.start().await.expect("it serves");
    load::create(&daemon).await.expect("stored");
    let book = SharedBook::default();
    let work = Load::start(4, &daemon, &book);
    work.acknowledged(usize::try_from(answers).expect("small"), || false).await;
    daemon.freeze().await;
    let copy = directory.path().join("copy");
    disk.copy_to(&copy).await;
    daemon.kill_now();
    work.stop().await;

    let after = Disk::mount(copy).map_err(|why| format!("the copy cannot be mounted: {why}"))?;
    let mut next = Daemon::on(after.data());
    if !after.data().join("store").exists() {
        return Err(format!("lost: nothing is in {}", after.data().display()));
    }
    if let Err(status) = next.start().await {
        return Err(format!("it does not open: {status}: {}", next.log()));
    }
    let compared = load::compare(&next, &book).await;
    next.kill_now();
    compared
}
