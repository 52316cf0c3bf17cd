//! A disk that lies in wait: for tests, the engine's simulation among them. Nothing in production touches it.
//!
//! [`SimulatedDisk`] keeps files in memory and remembers for each what is durable and what was only written. At
//! [`SimulatedDisk::crash`] it decides by its seed, for every sector of 512 bytes that was written and not synced, which
//! of the versions it has had survives; so writes are lost, torn and reordered. Names that were not synced are kept or
//! lost one by one. Any call can be told to fail, the power can be told to fail at the n-th call, the space to run out,
//! and syncs to do nothing, as a control that the tests notice.
//!
//! [`SimulatedBase`] stands for sled as a whole: an ordered map whose batches are atomic, of which a crash keeps any
//! beginning since the last flush. It shares the disk's power and faults.
//!
//! Simplified: directories are durable once created; sectors are never torn, as that is what the store assumes.

#![expect(clippy::cast_possible_truncation, reason = "the simulated files are in memory")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::disk::{Disk, DiskFile, Lock};
use super::record::SECTOR_BYTES;
use super::sled::{Base, BaseBatch, Visit};

/// A kind of call, for counting and for faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reading bytes, lengths, names; opening.
    Read,
    /// Writing bytes.
    Write,
    /// Reserving space.
    Allocate,
    /// `sync_data` of a file.
    Sync,
    /// Creating, renaming, removing a name.
    Name,
    /// `sync_directory`.
    SyncDirectory,
    /// A batch applied to the base.
    BaseApply,
    /// A flush of the base.
    BaseFlush,
}

/// The disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Arc<Mutex<World>>,
}

impl SimulatedDisk {
    /// An empty disk whose every accident follows from the seed.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk { world: Arc::new(Mutex::new(World { chance: Chance(seed), ..World::default() })) }
    }

    /// The power fails: what was not synced survives in part, and every handle from before is dead.
    pub fn crash(&self) {
        self.world().crash();
    }

    /// The process ends and the machine stays up: what was written is all there, every handle from before is dead.
    pub fn kill(&self) {
        self.world().end_process();
    }

    /// Lets the power fail in the midst of the call that comes after `calls` more; calls fail from then until
    /// [`SimulatedDisk::crash`].
    pub fn fail_power_after(&self, calls: u64) {
        self.world().calls_until_power_fails = Some(calls);
    }

    /// Whether the power has failed.
    pub fn is_dead(&self) -> bool {
        self.world().dead
    }

    /// Lets one call of a kind, the `nth` from now counted from 1, fail with an error and without effect.
    pub fn fail_nth(&self, operation: Operation, nth: u64, error: io::ErrorKind) {
        self.world().faults.push(Fault { operation, left: nth, error });
    }

    /// Makes every sync and flush claim success and do nothing from now on: the negative control.
    pub fn lie_about_syncs(&self) {
        self.world().lies = true;
    }

    /// Limits the bytes of all files together; `None` lifts the limit. The base is not counted.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// The bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.world().used()
    }

    /// How many calls of a kind there were.
    pub fn count(&self, operation: Operation) -> u64 {
        self.world().counts.get(&operation).copied().unwrap_or(0)
    }

    /// All files with their present bytes, for a look from outside or a comparison.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let world = self.world();
        world.names.iter().map(|(path, id)| (path.clone(), world.files[id].now.clone())).collect()
    }

    /// Changes the bytes of a file behind the store's back, durably. Does nothing when there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        if let Some(id) = world.names.get(path).copied()
            && let Some(file) = world.files.get_mut(&id)
        {
            change(&mut file.now);
            file.durable.clone_from(&file.now);
            file.unsynced.clear();
        }
    }

    /// Puts a file there behind the store's back, durably.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        let id = world.add_file();
        world.names.insert(path.to_path_buf(), id);
        world.durable_names.insert(path.to_path_buf(), id);
        world.directories.extend(path.parent().map(Path::to_path_buf));
        drop(world);
        self.tamper(path, |content| content.extend_from_slice(bytes));
    }

    /// Takes a file away behind the store's back, durably.
    pub fn snatch(&self, path: &Path) {
        let mut world = self.world();
        world.names.remove(path);
        world.durable_names.remove(path);
    }

    /// Opens the model of sled that lives on this disk; like [`super::sled::SledBase`] it makes durable what it finds.
    ///
    /// # Errors
    /// When the power fails or a flush is told to.
    pub fn open_base(&self) -> io::Result<SimulatedBase> {
        let epoch = self.world().epoch;
        let base = SimulatedBase { disk: self.clone(), epoch };
        base.flush()?;
        Ok(base)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("the simulation does not panic while it holds its world")
    }
}

/// Everything there is.
#[derive(Default)]
struct World {
    chance: Chance,
    /// Grows when the process ends; handles of an earlier one are dead.
    epoch: u64,
    counts: BTreeMap<Operation, u64>,
    calls_until_power_fails: Option<u64>,
    dead: bool,
    faults: Vec<Fault>,
    lies: bool,
    capacity: Option<u64>,
    next_file: u64,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    base: BTreeMap<Vec<u8>, Vec<u8>>,
    durable_base: BTreeMap<Vec<u8>, Vec<u8>>,
    unflushed: Vec<BaseBatch>,
}

struct Fault {
    operation: Operation,
    left: u64,
    error: io::ErrorKind,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
}

enum NameChange {
    Add(PathBuf, u64),
    Move(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

/// Whether a call runs, or runs while the power fails: then it may have its effect, but nobody hears of it.
#[derive(PartialEq, Eq)]
enum Fate {
    Runs,
    LastGasp,
}

impl World {
    fn begin(&mut self, operation: Operation, epoch: u64) -> io::Result<Fate> {
        if self.dead || epoch != self.epoch {
            return Err(io::Error::other("the power has failed"));
        }
        *self.counts.entry(operation).or_default() += 1;
        if let Some(left) = self.calls_until_power_fails.as_mut() {
            if *left == 0 {
                self.dead = true;
                return Ok(Fate::LastGasp);
            }
            *left -= 1;
        }
        let mut failed = None;
        self.faults.retain_mut(|fault| {
            if fault.operation == operation {
                fault.left -= 1;
                if fault.left == 0 {
                    failed = Some(fault.error);
                    return false;
                }
            }
            true
        });
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Fate::Runs),
        }
    }

    fn crash(&mut self) {
        for content in self.files.values_mut() {
            content.settle(&mut self.chance);
        }
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.unsynced_names) {
            if self.chance.half() {
                change.apply(&mut names);
            }
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        let kept = self.chance.below(self.unflushed.len() as u64 + 1) as usize;
        for batch in self.unflushed.drain(..).take(kept) {
            apply(&mut self.durable_base, batch);
        }
        self.base.clone_from(&self.durable_base);
        self.end_process();
    }

    fn end_process(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.faults.clear();
        self.dead = false;
        self.calls_until_power_fails = None;
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].now.len() as u64).sum()
    }

    fn room_for(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn add_file(&mut self) -> u64 {
        self.next_file += 1;
        self.files.insert(self.next_file, Content::default());
        self.next_file
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn id(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Add(path, id) => {
                names.insert(path.clone(), *id);
            }
            NameChange::Move(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn directory(&self) -> Option<&Path> {
        match self {
            NameChange::Add(path, _) | NameChange::Move(path, ..) | NameChange::Remove(path) => path.parent(),
        }
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.now, offset, bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
    }

    /// Lets each sector that was written since the last sync become, by chance, one of the versions it has had.
    fn settle(&mut self, chance: &mut Chance) {
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let mut image = self.durable.clone();
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            put(&mut image, offset, &bytes);
            for sector in offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES) {
                let start = sector * SECTOR_BYTES;
                let end = image.len().min(start + SECTOR_BYTES);
                versions.entry(sector).or_default().push(image[start..end].to_vec());
            }
        }
        for (sector, versions) in versions {
            // One more than there are stands for the durable version.
            if let Some(version) = versions.get(chance.below(versions.len() as u64 + 1) as usize) {
                put(&mut self.durable, sector * SECTOR_BYTES, version);
            }
        }
        self.now.clone_from(&self.durable);
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, batch: BaseBatch) {
    for (key, value) in batch {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

fn gasp(fate: &Fate) -> io::Result<()> {
    match fate {
        Fate::Runs => Ok(()),
        Fate::LastGasp => Err(io::Error::other("the power has failed")),
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let epoch = world.epoch;
        let fate = world.begin(Operation::Name, epoch)?;
        world.directories.insert(path.to_path_buf());
        gasp(&fate)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let mut world = self.world();
        let epoch = world.epoch;
        gasp(&world.begin(Operation::Read, epoch)?)?;
        if !world.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entries = world.names.keys().chain(&world.directories);
        let inside = entries.filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| path.file_name().map(OsString::from)).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.world();
        let epoch = world.epoch;
        let fate = world.begin(Operation::Name, epoch)?;
        if world.names.contains_key(path) {
            gasp(&fate)?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = world.add_file();
        world.change_name(NameChange::Add(path.to_path_buf(), id));
        gasp(&fate)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id, epoch }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.world();
        let epoch = world.epoch;
        gasp(&world.begin(Operation::Read, epoch)?)?;
        let id = world.id(path)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id, epoch }))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let epoch = world.epoch;
        let fate = world.begin(Operation::Name, epoch)?;
        let id = world.id(from).or_else(|error| gasp(&fate).and(Err(error)))?;
        world.change_name(NameChange::Move(from.to_path_buf(), to.to_path_buf(), id));
        gasp(&fate)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let epoch = world.epoch;
        let fate = world.begin(Operation::Name, epoch)?;
        world.id(path).or_else(|error| gasp(&fate).and(Err(error)))?;
        world.change_name(NameChange::Remove(path.to_path_buf()));
        gasp(&fate)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut world = self.world();
        let epoch = world.epoch;
        gasp(&world.begin(Operation::SyncDirectory, epoch)?)?;
        if world.lies {
            return Ok(());
        }
        let changes = std::mem::take(&mut world.unsynced_names);
        let (here, elsewhere) = changes.into_iter().partition(|change| change.directory() == Some(directory));
        world.unsynced_names = elsewhere;
        let here: Vec<NameChange> = here;
        for change in here {
            change.apply(&mut world.durable_names);
        }
        Ok(())
    }

    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        let mut world = self.world();
        let epoch = world.epoch;
        gasp(&world.begin(Operation::Read, epoch)?)?;
        Ok(world.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(world.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut world = self.world();
        let epoch = world.epoch;
        gasp(&world.begin(Operation::Name, epoch)?)?;
        if !world.locks.insert(path.to_path_buf()) {
            return Ok(Lock::Busy { holder: None });
        }
        Ok(Lock::Held(Box::new(SimulatedLock { disk: self.clone(), path: path.to_path_buf(), epoch })))
    }

    fn lock_to_read(&self, path: &Path) -> io::Result<Lock> {
        self.lock(path)
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
    epoch: u64,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut world = self.disk.world();
        if world.epoch == self.epoch {
            world.locks.remove(&self.path);
        }
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    id: u64,
    epoch: u64,
}

impl SimulatedFile {
    /// The file's bytes; they outlive its name, as those of an open file do.
    fn content<'a>(&self, world: &'a mut World) -> &'a mut Content {
        world.files.get_mut(&self.id).expect("files are never taken out of the world")
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        gasp(&world.begin(Operation::Read, self.epoch)?)?;
        let start = offset as usize;
        let bytes = self.content(&mut world).now.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        let fate = world.begin(Operation::Write, self.epoch)?;
        let more = (offset + bytes.len() as u64).saturating_sub(self.content(&mut world).now.len() as u64);
        if more > 0 && fate == Fate::Runs {
            world.room_for(more)?;
        }
        self.content(&mut world).write(offset as usize, bytes);
        gasp(&fate)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        gasp(&world.begin(Operation::Sync, self.epoch)?)?;
        if !world.lies {
            self.content(&mut world).sync();
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let mut world = self.disk.world();
        gasp(&world.begin(Operation::Read, self.epoch)?)?;
        Ok(self.content(&mut world).now.len() as u64)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        gasp(&world.begin(Operation::Allocate, self.epoch)?)?;
        let more = length.saturating_sub(self.content(&mut world).now.len() as u64);
        world.room_for(more)
    }
}

/// The model of sled.
pub struct SimulatedBase {
    disk: SimulatedDisk,
    epoch: u64,
}

impl SimulatedBase {
    fn begin(&self, operation: Operation) -> io::Result<(MutexGuard<'_, World>, Fate)> {
        let mut world = self.disk.world();
        let fate = world.begin(operation, self.epoch)?;
        Ok((world, fate))
    }
}

impl Base for SimulatedBase {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let (world, fate) = self.begin(Operation::Read)?;
        gasp(&fate)?;
        Ok(world.base.get(key).map(|value| Bytes::copy_from_slice(value)))
    }

    fn ascend(&self, from: &[u8], visit: Visit<'_>) -> io::Result<()> {
        let (world, fate) = self.begin(Operation::Read)?;
        gasp(&fate)?;
        let range = world.base.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        walk(range, visit);
        Ok(())
    }

    fn descend(&self, through: &[u8], visit: Visit<'_>) -> io::Result<()> {
        let (world, fate) = self.begin(Operation::Read)?;
        gasp(&fate)?;
        let range = world.base.range::<[u8], _>((Bound::Unbounded, Bound::Included(through)));
        walk(range.rev(), visit);
        Ok(())
    }

    fn apply(&self, batch: BaseBatch) -> io::Result<()> {
        let (mut world, fate) = self.begin(Operation::BaseApply)?;
        apply(&mut world.base, batch.clone());
        world.unflushed.push(batch);
        gasp(&fate)
    }

    fn flush(&self) -> io::Result<()> {
        let (mut world, fate) = self.begin(Operation::BaseFlush)?;
        gasp(&fate)?;
        if !world.lies {
            world.durable_base = world.base.clone();
            world.unflushed.clear();
        }
        Ok(())
    }
}

fn walk<'a>(range: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>, visit: Visit<'_>) {
    for (key, value) in range {
        if visit(key, value) == ControlFlow::Break(()) {
            return;
        }
    }
}

/// A small seeded generator (splitmix64): the simulation's only source of chance, so that a seed replays a run.
#[derive(Debug, Clone, Default)]
pub struct Chance(pub u64);

impl Chance {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 when the limit is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }

    /// True every other time.
    pub fn half(&mut self) -> bool {
        self.draw() & 1 == 1
    }
}
