//! Stories of `noxd doctor` (S-SAFE-5): it says what is wrong and what is affected, and makes a copy that noxd starts on.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::{
    daemon::Daemon,
    damage::{Store, answers},
    load::{self, WORKFLOW},
};

fn doctor(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noxd"));
    command.arg("doctor").args(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    bytes[at] ^= 4;
    std::fs::write(path, bytes).expect("written");
}

/// What is said of it, and how it is done to a store.
type Damage = (&'static str, fn(&Path));

/// Damages the first leaf that is alive: most slots of most slabs are free.
fn damage_a_leaf(store: &Path) {
    let entries = std::fs::read_dir(store.join("rows/slabs")).expect("listed");
    let mut slabs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    slabs.sort();
    for slab in slabs.iter().filter(|slab| slab.metadata().expect("measured").len() > 0) {
        flip(slab, 20);
        if doctor(&[&store.to_string_lossy()]).status.code() == Some(1) {
            return;
        }
    }
    panic!("void: no leaf is alive");
}

/// Damages a record of the journal that is still needed, and has others after it: what is merged may be damaged unharmed.
fn damage_a_record(store: &Path) {
    let entries = std::fs::read_dir(store.join("journal")).expect("listed");
    let mut segments: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    segments.sort();
    for segment in segments.iter().filter(|path| path.extension().is_some()) {
        let length = std::fs::read(segment).expect("read").iter().rposition(|byte| *byte != 0).unwrap_or(0);
        flip(segment, length / 2);
        let told = text(&doctor(&[&store.to_string_lossy()]).stdout);
        if told.contains(".segment at byte ") {
            return;
        }
        flip(segment, length / 2);
    }
    panic!("void: no record is needed");
}

/// The file of a directory that is the largest.
fn largest(directory: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(directory).expect("listed");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files.max_by_key(|path| path.metadata().expect("measured").len()).expect("there is one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_tells_what_is_affected_and_noxd_starts_on_its_copy() {
    // S-SAFE-5
    let store = Store::filled().await;
    let sound = store.copy();
    let told = doctor(&[&sound.data.to_string_lossy()]);
    assert_eq!(told.status.code(), Some(0), "{}{}", text(&told.stdout), text(&told.stderr));
    assert!(text(&told.stdout).contains("sound"), "{}", text(&told.stdout));

    // A journal that lost its middle, a leaf of the merged rows, FORMAT, the mark, sled's log, a missing segment.
    let damages: [Damage; 6] = [
        (".segment at byte ", |store| damage_a_record(store)),
        ("rows/slabs", |store| damage_a_leaf(store)),
        ("FORMAT", |store| flip(&store.join("FORMAT"), 40)),
        ("HIGH-WATER", |store| flip(&store.join("HIGH-WATER"), 40)),
        ("rows/metadata", |store| {
            let newest = largest(&store.join("rows/metadata"));
            flip(&newest, 9);
            let _ = std::fs::rename(&newest, store.join("rows/metadata/snapshot_ffffffffffffff00"));
        }),
        ("there is no segment", |store| {
            let segments = std::fs::read_dir(store.join("journal")).expect("listed");
            for path in segments.map(|entry| entry.expect("an entry").path()) {
                if path.extension().is_some() {
                    std::fs::remove_file(path).expect("removed");
                }
            }
        }),
    ];
    for (at, (place, damage)) in damages.iter().enumerate() {
        let damaged = store.copy();
        damage(&damaged.data.join("store"));
        let before = std::fs::read(damaged.data.join("store/LOCK")).expect("read");
        let told = doctor(&[&damaged.data.to_string_lossy()]);
        let words = text(&told.stdout);
        assert_eq!(told.status.code(), Some(1), "damage {at}: {words}{}", text(&told.stderr));
        assert!(words.contains("DAMAGED") && words.contains(place), "damage {at}: {words}");
        assert_eq!(std::fs::read(damaged.data.join("store/LOCK")).expect("read"), before, "the doctor changes nothing");
        let mut daemon = Daemon::on(damaged.data.clone());
        assert_eq!(daemon.start().await.expect_err("refused").code(), Some(1), "damage {at}");
        assert!(daemon.log().contains("noxd doctor") || daemon.log().contains("FORMAT"), "{}", daemon.log());

        let new = damaged.data.with_file_name("new");
        let told = doctor(&[&damaged.data.to_string_lossy(), "--copy-to", &new.to_string_lossy()]);
        let words = text(&told.stdout);
        assert_eq!(told.status.code(), Some(1), "damage {at}: {words}{}", text(&told.stderr));
        let mut daemon = Daemon::on(new);
        daemon.start().await.unwrap_or_else(|status| panic!("damage {at}: {status}: {}\n{words}", daemon.log()));
        let left = answers(&daemon).await.expect("everything that is told of can be read");
        for (id, execution) in &left.executions {
            assert_eq!(Some(execution), store.answers.executions.get(id), "damage {at}: {id} is told of otherwise");
        }
        for id in store.answers.executions.keys().filter(|id| !left.executions.contains_key(*id)) {
            // Each is named, or the revisions are in which it was.
            let is_told = words.contains(id.as_str()) || words.contains("lost:") || words.contains("no batch tells");
            assert!(is_told, "{id}: {words}");
        }
        // It is a store like any other.
        if let Err(status) = load::create(&daemon).await {
            // It is there, and what is lost is that it was asked for.
            assert_eq!(status.code(), tonic::Code::AlreadyExists, "damage {at}: {status}");
        }
        load::execute(&mut daemon.workflows().await, WORKFLOW, "on the copy").await.expect("acknowledged");
        assert_eq!(daemon.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_does_not_look_where_a_noxd_runs_nor_where_there_is_no_store() {
    let mut daemon = Daemon::new();
    daemon.start().await.expect("it serves");
    let data = daemon.path("data");
    let told = doctor(&[&data.to_string_lossy()]);
    assert_eq!(told.status.code(), Some(2));
    let pid = daemon.pid().to_string();
    assert!(text(&told.stderr).contains(&pid), "{}", text(&told.stderr));
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(doctor(&[&data.to_string_lossy()]).status.code(), Some(0));
    assert_eq!(doctor(&["/proc/self/nowhere"]).status.code(), Some(2));
    let occupied = doctor(&[&data.to_string_lossy(), "--copy-to", &data.to_string_lossy()]);
    assert_eq!(occupied.status.code(), Some(2), "{}", text(&occupied.stderr));
    assert_eq!(doctor(&[]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_noxd_and_an_unknown_format_change_not_one_byte() {
    let mut first = Daemon::new();
    first.start().await.expect("it serves");
    load::create(&first).await.expect("stored");
    let store = first.path("data").join("store");
    let sums = || {
        let mut list = Command::new("sh");
        list.args(["-c", "find . -type f -exec sha256sum {} + | sort -k2"]).current_dir(&store);
        text(&list.output().expect("summed").stdout)
    };
    let before = sums();
    let mut second = Daemon::on(first.path("data"));
    assert_eq!(second.start().await.expect_err("it is in use").code(), Some(1));
    assert!(second.log().contains(&format!("process {}", first.pid())), "{}", second.log());
    assert_eq!(sums(), before, "a second noxd changed something");
    assert_eq!(first.stop().await, Some(0));

    std::fs::write(store.join("FORMAT"), "noxd store\nversion 9\nof another time\n").expect("written");
    let before = sums();
    let mut newer = Daemon::on(first.path("data"));
    assert_eq!(newer.start().await.expect_err("it is unknown").code(), Some(1));
    assert!(newer.log().contains("version \"9\""), "{}", newer.log());
    let told = doctor(&[&first.path("data").to_string_lossy()]);
    assert_eq!(told.status.code(), Some(2), "{}{}", text(&told.stdout), text(&told.stderr));
    assert_eq!(sums(), before, "an unknown format was changed");
}
