//! The append-only journal: a server that was killed comes back with its objects.
//!
//! In a directory: `journal-N`, segments of records in the order of their numbers, of which the
//! last is written; perhaps `snapshot-N`, the objects as they were when segment N began or later;
//! `lock`, held by the server that writes. What is read is the newest snapshot and the segments
//! from its number on. Every file begins with the version of the format.
//!
//! A torn tail is cut off: its writes were never acknowledged. Damage before that is an error:
//! cutting there would take acknowledged writes along.
//!
//! Compaction begins a new segment, writes a snapshot beside the writers and then removes what is
//! older. Objects go into the snapshot while others change; that does no harm, because every
//! change since the segment began is in the segment, and the segment is read afterwards.

mod compact;
mod record;

use record::{RECORD_LEN_MAX, Unreadable, encode, encode_version, read_all};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use record::Record;

/// Begins every file: the version of the format.
const MAGIC: &[u8; 8] = b"weftobj2";
const MAGIC_LEN: u64 = MAGIC.len() as u64;
const LOCK: &str = "lock";
/// How long to wait for another server to let go.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Below this length compaction is not worth its while.
const COMPACT_LEN_MIN: u64 = 16 << 20;

/// The open journal.
pub(crate) struct Journal {
    dir: PathBuf,
    /// Locked as long as this is open.
    pub(super) lock: File,
    /// The number of the segment that is written.
    number: u64,
    segment: Segment,
    len: u64,
    /// Of the snapshot and the segments that are not written any more.
    older_len: u64,
    /// Length of everything after the last compaction: at twice that, it is mostly history.
    live_len: u64,
    sync: bool,
    /// What is in the file is not known any more; nothing is written until all is written anew.
    broken: bool,
    compacting: bool,
    buf: Vec<u8>,
}

/// The file of a segment, and up to where its writes have been acknowledged.
#[derive(Clone)]
struct Segment {
    file: Arc<File>,
    acknowledged: Arc<AtomicU64>,
}

/// What is written and not yet known to be on disk.
pub(super) struct Unsynced {
    segment: Segment,
    len: u64,
}

impl Unsynced {
    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.segment.file.sync_data()?;
        self.segment.acknowledged.fetch_max(self.len, Ordering::Release);
        Ok(())
    }
}

impl Journal {
    /// Opens or creates the journal in `dir` and gives its changes, in order, to `each`, which
    /// may refuse one as damaged.
    pub(crate) fn open(
        dir: &Path,
        sync: bool,
        mut each: impl FnMut(Record) -> Result<(), String>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let lock = lock_directory(dir)?;
        let Found { snapshot, segments } = look(dir)?;
        let mut older_len = 0;
        if let Some(number) = snapshot {
            older_len += read_file(&path(dir, Kind::Snapshot, number), false, &mut each)?;
        }
        let first = snapshot.unwrap_or(1);
        let numbers: Vec<u64> = segments.keys().copied().filter(|n| *n >= first).collect();
        if let Some(missing) = (first..).zip(&numbers).find_map(|(n, m)| (n != *m).then_some(n)) {
            return Err(missing_file(&path(dir, Kind::Journal, missing)));
        }
        if snapshot.is_some() && numbers.is_empty() {
            return Err(missing_file(&path(dir, Kind::Journal, first)));
        }
        for (i, number) in numbers.iter().enumerate() {
            // A later segment that is empty was begun because this one could not be written.
            let torn = numbers[i + 1..].iter().all(|n| segments[n] <= MAGIC_LEN);
            older_len += read_file(&path(dir, Kind::Journal, *number), torn, &mut each)?;
        }
        // What an interrupted compaction left.
        for number in segments.into_keys().filter(|n| *n < first) {
            let _ = std::fs::remove_file(path(dir, Kind::Journal, number));
        }
        let number = numbers.last().copied().unwrap_or(first);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600) // Secrets are inside.
            .open(path(dir, Kind::Journal, number))?;
        let mut len = file.metadata()?.len();
        if len < MAGIC_LEN {
            file.write_all_at(MAGIC, 0)?;
            len = MAGIC_LEN;
        }
        if sync {
            // What was read is shown from now on, acknowledged or not.
            file.sync_all()?;
            sync_dir(dir)?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            lock,
            number,
            segment: Segment { file: Arc::new(file), acknowledged: Arc::new(len.into()) },
            len,
            older_len: older_len.saturating_sub(len),
            live_len: 0,
            sync,
            broken: false,
            compacting: false,
            buf: Vec::new(),
        })
    }

    /// Counts an object that is alive after reading, so that compaction knows what is history.
    pub(super) fn count_live(&mut self, record: &Record) {
        self.live_len += record.len();
    }

    /// Appends the changes of one transaction, whole or not at all.
    pub(super) fn append(&mut self, changes: &[Record]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the disk has failed; the journal is being rewritten"));
        }
        let acknowledged =
            if self.sync { self.segment.acknowledged.load(Ordering::Acquire) } else { self.len };
        self.buf.clear();
        encode(changes, acknowledged, &mut self.buf);
        if self.buf.len() > RECORD_LEN_MAX as usize {
            let why = "the changes of one transaction are too long for a record";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if let Err(error) = self.segment.file.write_all_at(&self.buf, self.len) {
            // A full disk: take the torn record back, so that later ones can be read.
            self.broken = self.segment.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.len += self.buf.len() as u64;
        Ok(())
    }

    /// Whether a write is on disk before it is acknowledged.
    pub(super) fn syncs(&self) -> bool {
        self.sync
    }

    /// What is written so far, to be synced without holding the store.
    pub(super) fn unsynced(&self) -> Unsynced {
        Unsynced { segment: self.segment.clone(), len: self.len }
    }

    /// The disk did not take what was written: after that, what it has is anybody's guess
    /// (a second fdatasync may succeed without having written anything).
    pub(super) fn set_broken(&mut self) {
        self.broken = true;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing would leave the lock to a process that is being started and holds a duplicate.
        let _ = self.lock.unlock();
    }
}

/// Keeps a second server away from a directory as long as the file is held: each would write over
/// the other.
pub fn lock_directory(dir: &Path) -> io::Result<File> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    // A server that was told to end may not be gone yet; one that was killed leaves its lock to a
    // process that it was just starting, for a moment.
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < patience => {
                std::thread::sleep(LOCK_PATIENCE / 20);
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let why = format!("another server is running on {}", dir.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Journal,
    Snapshot,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Journal => "journal-",
            Self::Snapshot => "snapshot-",
        }
    }
}

fn path(dir: &Path, kind: Kind, number: u64) -> PathBuf {
    dir.join(format!("{}{number:010}", kind.prefix()))
}

/// What is in the directory: the newest snapshot, and the segments with their lengths.
struct Found {
    snapshot: Option<u64>,
    segments: BTreeMap<u64, u64>,
}

fn look(dir: &Path) -> io::Result<Found> {
    let (mut snapshots, mut segments) = (Vec::new(), BTreeMap::new());
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let number = |kind: Kind| name.strip_prefix(kind.prefix())?.parse::<u64>().ok();
        if let Some(n) = number(Kind::Journal) {
            segments.insert(n, entry.metadata()?.len());
        } else if let Some(n) = number(Kind::Snapshot) {
            snapshots.push(n);
        } else if name.ends_with(".tmp") {
            let _ = std::fs::remove_file(entry.path());
        } else if name == "objects.journal" {
            return Err(wrong_version(&entry.path()));
        }
    }
    let snapshot = snapshots.iter().copied().max();
    for old in snapshots.into_iter().filter(|n| Some(*n) != snapshot) {
        let _ = std::fs::remove_file(path(dir, Kind::Snapshot, old));
    }
    Ok(Found { snapshot, segments })
}

/// Reads one file and returns its length. A torn tail is cut off where `torn` allows one.
fn read_file(
    path: &Path,
    torn: bool,
    each: &mut impl FnMut(Record) -> Result<(), String>,
) -> io::Result<u64> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut magic = Vec::new();
    (&mut file).take(MAGIC_LEN).read_to_end(&mut magic)?;
    if magic.len() < MAGIC.len() && MAGIC.starts_with(&magic) && torn {
        return Ok(0);
    }
    if magic != MAGIC {
        return Err(wrong_version(path));
    }
    match read_all(&mut file, MAGIC_LEN, each) {
        Ok(len) => Ok(len),
        Err(Unreadable::Io(e)) => Err(e),
        Err(Unreadable::Torn(at)) if torn => {
            OpenOptions::new().write(true).open(path)?.set_len(at)?;
            Ok(at)
        }
        Err(Unreadable::Torn(at)) => Err(damaged(path, at, "it is not whole")),
        Err(Unreadable::Damaged(at, why)) => Err(damaged(path, at, &why)),
    }
}

/// Makes new, renamed and removed names in the directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn wrong_version(path: &Path) -> io::Error {
    let why = format!("{} is not a journal of this version", path.display());
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn missing_file(path: &Path) -> io::Error {
    let why = format!("{} is missing; restore it, or begin in an empty directory", path.display());
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn damaged(path: &Path, offset: u64, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{}: the record at offset {offset} is damaged ({why}); restore the file, or cut it \
             there (truncate -s {offset}) to go on with what is before, or move it away to begin \
             empty",
            path.display()
        ),
    )
}
