//! Stories of damage (S-SAFE-5): what is wrong in the files of a store is refused, with file and offset, or does no harm.
//!
//! A real noxd fills a store, which is merged into sled twice; its answers are kept. Then one thing is done to one file
//! of a copy, and a noxd starts on it: it refuses within ten seconds and names the file, or every answer is what it was.
//! `NOXD_DAMAGE` says how many such things are tried; `all` tries each page of each file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use noxd::proto::v1::{self, WorkflowStatus};

use crate::{
    Chance,
    daemon::{Daemon, tail},
    load::{self, WORKFLOW},
    run,
    support::{eventually, shell},
    tell,
};

const PAGE: u64 = 4096;
/// How long a noxd may take to refuse.
const LIMIT: Duration = Duration::from_secs(10);

/// What a noxd says of everything it has.
#[derive(Debug, Default, PartialEq)]
pub struct Answers {
    workflows: BTreeMap<String, v1::Workflow>,
    pub executions: BTreeMap<String, (v1::WorkflowExecution, Vec<v1::Event>)>,
}

/// Asks for everything.
pub async fn answers(daemon: &Daemon) -> Result<Answers, tonic::Status> {
    let (mut workflows, mut executions) = (daemon.workflows().await, daemon.executions().await);
    let mut all = Answers::default();
    let list = v1::ListWorkflowsRequest { page_size: 1000, ..Default::default() };
    for listed in workflows.list_workflows(list).await?.into_inner().workflows {
        let get = v1::GetWorkflowRequest { workflow_id: listed.id.clone(), ..Default::default() };
        let workflow = workflows.get_workflow(get).await?.into_inner().workflow.expect("a workflow");
        all.workflows.insert(listed.id, workflow);
    }
    let list = v1::ListExecutionsRequest { page_size: 1000, ..Default::default() };
    for listed in executions.list_executions(list).await?.into_inner().executions {
        let get = v1::GetExecutionRequest { execution_id: listed.id.clone(), wait: None };
        let execution = executions.get_execution(get).await?.into_inner().execution.expect("an execution");
        let page = v1::ListEventsRequest { execution_id: listed.id.clone(), page_size: 1000, ..Default::default() };
        let events = executions.list_events(page).await?.into_inner().events;
        all.executions.insert(listed.id, (execution, events));
    }
    Ok(all)
}

/// A store as it was at three times, and what noxd said of it at the last.
pub struct Store {
    directory: tempfile::TempDir,
    pub answers: Answers,
}

/// The times, in their order; of the last are the answers.
const TIMES: [&str; 3] = ["in the journal alone", "merged once", "merged twice"];

impl Store {
    /// Real work of a real noxd, which is killed each time.
    pub async fn filled() -> Self {
        let directory = tempfile::Builder::new().prefix("noxd-damage-").tempdir().expect("a directory");
        let data = directory.path().join("data");
        let mut daemon = Daemon::on(data.clone());
        let mut known = Answers::default();
        for (round, time) in TIMES.iter().enumerate() {
            daemon.start().await.expect("it serves");
            if round == 0 {
                load::create(&daemon).await.expect("stored");
                load::create_with(&daemon, "speaks", vec![shell("t", "seq 2000", &[])]).await.expect("stored");
            } else {
                fill_a_segment(&daemon, round).await;
            }
            let mut client = daemon.workflows().await;
            for number in 0..6 {
                for workflow in [WORKFLOW, "speaks"] {
                    let id = format!("{workflow}-{round}-{number}");
                    load::execute(&mut client, workflow, &id).await.expect("acknowledged");
                }
            }
            known = eventually("every execution has ended", || async {
                let known = answers(&daemon).await.expect("told");
                let ended = |(execution, _): &(v1::WorkflowExecution, Vec<v1::Event>)| {
                    execution.status() == WorkflowStatus::Completed
                };
                known.executions.values().all(ended).then_some(known)
            })
            .await;
            let merged = data.join(format!("store/journal/{round:016x}.segment"));
            eventually("what is full is merged", || async { (!merged.exists()).then_some(()) }).await;
            daemon.kill_now();
            copy(&data, &directory.path().join(time));
        }
        assert!(known.executions.len() >= 36, "void: {} executions", known.executions.len());
        Self { directory, answers: known }
    }

    /// The data directory at a time.
    pub fn at(&self, time: usize) -> PathBuf {
        self.directory.path().join(TIMES[time])
    }

    /// A fresh copy of the last.
    pub fn copy(&self) -> Copied {
        let directory = tempfile::Builder::new().prefix("noxd-damaged-").tempdir().expect("a directory");
        let data = directory.path().join("data");
        copy(&self.at(2), &data);
        Copied { data, _directory: directory }
    }
}

/// A copy that is thrown away.
pub struct Copied {
    pub data: PathBuf,
    _directory: tempfile::TempDir,
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["-a", "--sparse=always", &from.to_string_lossy(), &to.to_string_lossy()]).expect("copied");
}

/// Definitions until a segment of the journal is full and the next one is begun.
async fn fill_a_segment(daemon: &Daemon, round: usize) {
    const SEGMENT: usize = 16 * 1024 * 1024;
    const TASK: usize = 100 * 1024;
    for number in 0..=SEGMENT / (4 * TASK) {
        let words = format!("{number:05}").repeat(TASK / 5);
        let tasks = (0..4).map(|at| shell(&format!("t{at}"), &words, &[])).collect();
        load::create_with(daemon, &format!("large-{round}-{number}"), tasks).await.expect("stored");
    }
}

/// The files below a directory with their bytes, by their names in it.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![directory.to_path_buf()]);
    while let Some(place) = open.pop() {
        for entry in std::fs::read_dir(&place).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).expect("below it").to_path_buf();
                files.insert(name, std::fs::read(path).expect("read"));
            }
        }
    }
    files
}

/// One thing that is done to one file of a store.
#[derive(Clone, Debug)]
enum Damage {
    Bit { file: PathBuf, page: u64 },
    Cut { file: PathBuf, length: u64 },
    Swapped { file: PathBuf, one: u64, other: u64 },
    Zeroed { file: PathBuf, page: u64 },
    Missing { file: PathBuf },
    Older { file: PathBuf, time: usize },
    Stray { file: PathBuf },
}

impl Damage {
    /// Everything that could be done. Of pages of zeros, every 64th.
    fn all(store: &Store) -> Vec<Self> {
        let times: Vec<_> = (0..3).map(|time| files(&store.at(time).join("store"))).collect();
        let mut all = Vec::new();
        for (file, bytes) in &times[2] {
            let file = file.clone();
            let pages = (bytes.len() as u64).div_ceil(PAGE);
            for page in 0..pages {
                let end = bytes.len().min(usize::try_from((page + 1) * PAGE).expect("small"));
                let is_zero = bytes[usize::try_from(page * PAGE).expect("small")..end].iter().all(|byte| *byte == 0);
                if !is_zero || page % 64 == 0 {
                    all.push(Self::Bit { file: file.clone(), page });
                    all.push(Self::Zeroed { file: file.clone(), page });
                }
                if !is_zero && page + 1 < pages {
                    all.push(Self::Swapped { file: file.clone(), one: page, other: page + 1 });
                }
            }
            let length = bytes.len() as u64;
            let lengths: BTreeSet<u64> = [0, length / 2, length / 2 / PAGE * PAGE, length.saturating_sub(1)].into();
            all.extend(lengths.into_iter().map(|length| Self::Cut { file: file.clone(), length }));
            all.push(Self::Missing { file });
        }
        for (time, older) in times[..2].iter().enumerate() {
            for (file, _) in older.iter().filter(|(file, bytes)| times[2].get(*file) != Some(*bytes)) {
                all.push(Self::Older { file: file.clone(), time });
            }
        }
        let strays = ["notes", "journal/notes", "journal/x.segment", "rows/notes", "rows/metadata/log", "rows/slabs/7"];
        all.extend(strays.map(|file| Self::Stray { file: file.into() }));
        all
    }

    fn file(&self) -> &Path {
        match self {
            Self::Bit { file, .. }
            | Self::Cut { file, .. }
            | Self::Swapped { file, .. }
            | Self::Zeroed { file, .. }
            | Self::Missing { file }
            | Self::Older { file, .. }
            | Self::Stray { file } => file,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Bit { .. } => "bit flipped",
            Self::Cut { .. } => "cut",
            Self::Swapped { .. } => "pages swapped",
            Self::Zeroed { .. } => "page zeroed",
            Self::Missing { .. } => "missing",
            Self::Older { .. } => "older copy",
            Self::Stray { .. } => "stray",
        }
    }

    /// Does it to the store in this directory.
    fn apply(&self, store: &Store, data: &Path, chance: &mut Chance) {
        let path = data.join("store").join(self.file());
        let mut bytes = std::fs::read(&path).unwrap_or_default();
        let span = |page: u64, length: usize| {
            let start = usize::try_from(page * PAGE).expect("small");
            start..length.min(start + usize::try_from(PAGE).expect("small"))
        };
        let length = bytes.len();
        match self {
            Self::Bit { page, .. } => {
                let span = span(*page, length);
                let at = span.start + usize::try_from(chance.below(span.len() as u64)).expect("small");
                bytes[at] ^= 1 << chance.below(8);
            }
            Self::Cut { length, .. } => bytes.truncate(usize::try_from(*length).expect("small")),
            Self::Swapped { one, other, .. } => {
                let (one, other) = (span(*one, length), span(*other, length));
                let (first, second) = (bytes[one.clone()].to_vec(), bytes[other.clone()].to_vec());
                bytes.splice(one.start..other.end, [second, first].concat());
            }
            Self::Zeroed { page, .. } => bytes[span(*page, length)].fill(0),
            Self::Missing { .. } => return std::fs::remove_file(&path).expect("removed"),
            Self::Older { time, file } => {
                bytes = std::fs::read(store.at(*time).join("store").join(file)).expect("it was there");
            }
            Self::Stray { .. } => bytes = b"whatever".to_vec(),
        }
        std::fs::write(&path, bytes).expect("written");
    }
}

/// What came of some damages of a kind.
#[derive(Debug, Default)]
struct Outcomes {
    refused: u32,
    harmless: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_any_file_is_refused_or_does_no_harm() {
    const STORY: &str = "damage_to_any_file";
    let wanted = std::env::var("NOXD_DAMAGE").unwrap_or_else(|_| "30".into());
    let mut chance = Chance::told(STORY, &format!("NOXD_DAMAGE={wanted}"));
    let store = Store::filled().await;
    let sound = store.copy();
    let mut daemon = Daemon::on(sound.data.clone());
    daemon.start().await.expect("it serves");
    assert_eq!(answers(&daemon).await.expect("told"), store.answers, "void: what noxd says changes by itself");
    daemon.kill_now();

    let mut damages = Damage::all(&store);
    let possible = damages.len();
    if let Ok(count) = wanted.parse::<usize>() {
        let picked: Vec<Damage> = (0..count.min(possible))
            .map(|_| damages.swap_remove(usize::try_from(chance.below(damages.len() as u64)).expect("small")))
            .collect();
        damages = picked;
    } else {
        assert_eq!(wanted, "all", "NOXD_DAMAGE is a number or `all`");
    }
    let mut outcomes: BTreeMap<&str, Outcomes> = BTreeMap::new();
    let (mut broken, mut slowest) = (Vec::new(), Duration::ZERO);
    for damage in &damages {
        let copied = store.copy();
        damage.apply(&store, &copied.data, &mut chance);
        let begun = Instant::now();
        let outcome = outcomes.entry(damage.kind()).or_default();
        match judge(damage, &copied, &store.answers).await {
            Ok(true) => outcome.refused += 1,
            Ok(false) => outcome.harmless += 1,
            Err(why) => {
                tell(&format!("{STORY}: BROKEN: {damage:?}: {why}"));
                broken.push(format!("{damage:?}: {why}"));
            }
        }
        slowest = slowest.max(begun.elapsed());
    }
    tell(&format!(
        "{STORY}: {} of {possible} damages: {outcomes:?}; {} broken promises; slowest start and look {slowest:.1?}",
        damages.len(),
        broken.len()
    ));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let refused: u32 = outcomes.values().map(|outcome| outcome.refused).sum();
    assert!(refused as usize * 4 >= damages.len(), "void: only {refused} were refused");
}

/// Whether a noxd refuses; `Err` says which promise was broken.
async fn judge(damage: &Damage, copied: &Copied, known: &Answers) -> Result<bool, String> {
    let before = files(&copied.data.join("store"));
    let mut daemon = Daemon::on(copied.data.clone());
    let begun = Instant::now();
    let started = daemon.start().await;
    let took = begun.elapsed();
    if took > LIMIT {
        return Err(format!("it took {took:?}"));
    }
    match started {
        Err(status) => {
            let log = daemon.log();
            let words = tail(&log, 5);
            if status.code() != Some(1) || log.contains("panicked") {
                return Err(format!("it ended with {status}: {words}"));
            }
            let names = log.contains(&*copied.data.join("store").to_string_lossy())
                && (log.contains(" at byte ") || log.contains("nothing was changed"));
            if !names {
                return Err(format!("it does not say where: {words}"));
            }
            // The lock says who was here; all else is as it was.
            let mut after = files(&copied.data.join("store"));
            let lock = Path::new("LOCK");
            if let Some(held) = before.get(lock) {
                after.insert(lock.to_path_buf(), held.clone());
            } else {
                after.remove(lock);
            }
            if after != before {
                let changed: Vec<_> = before.iter().filter(|(name, bytes)| after.get(*name) != Some(*bytes)).collect();
                let names: Vec<_> = changed.iter().map(|(name, _)| name.display().to_string()).collect();
                return Err(format!("refused ({words}), and changed: {names:?}"));
            }
            Ok(true)
        }
        Ok(()) => {
            let told = tokio::time::timeout(LIMIT, answers(&daemon)).await;
            let outcome = match told {
                Err(_) => Err("it starts, and then does not answer".into()),
                Ok(Err(status)) => Err(format!("it starts, and then answers {status}")),
                Ok(Ok(told)) if told != *known => Err(format!(
                    "SILENT: {} executions and {} workflows are told of, or others than the {} and {}",
                    told.executions.len(),
                    told.workflows.len(),
                    known.executions.len(),
                    known.workflows.len()
                )),
                Ok(Ok(_)) => Ok(false),
            };
            if !daemon.has_ended() {
                daemon.kill_now();
            }
            outcome.map_err(|why: String| format!("{why} ({damage:?})"))
        }
    }
}
