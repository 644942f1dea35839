//! The append-only journal: a supervisor that was killed comes back with its objects.
//!
//! A record is `length u32 | crc u32 | payload`, little endian; the payload is
//! `op u8 | rv u64 | table | namespace | name | object`, each text with a u16 length. The changes
//! of one transaction are one record, `op u8 | rv u64 | (length u32 | payload)*`: its checksum
//! makes them happen together or not at all. A torn tail
//! is cut off: its write was never acknowledged. Damage before the tail is an error: cutting there
//! would take acknowledged writes along. Compaction writes the live objects to a new file
//! and renames it over the old one.

use super::{Key, crc::crc32};
use bytes::Bytes;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

const FILE: &str = "objects.journal";
const MAGIC: &[u8; 8] = b"weftobj1";
/// A record longer than this is damage, not data (request bodies end at 3 MiB).
const RECORD_LEN_MAX: u32 = 64 << 20;
/// Below this length compaction is not worth its while.
const COMPACT_LEN_MIN: u64 = 16 << 20;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
/// A record that only says how far the version had come.
const OP_VERSION: u8 = 3;
/// Several changes that belong together.
const OP_GROUP: u8 = 4;

/// One journalled change; without an object, a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) table: Arc<str>,
    pub(crate) key: Key,
    pub(crate) rv: u64,
    pub(crate) object: Option<Bytes>,
}

/// The open journal.
pub(crate) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    /// Length after the last compaction: when the file is twice that, it is mostly history.
    live_len: u64,
    sync: bool,
    buf: Vec<u8>,
}

impl Journal {
    /// Opens or creates the journal in `dir` and reads what is there, in order.
    pub(crate) fn open(dir: &Path, sync: bool) -> io::Result<(Self, Vec<(u64, Record)>)> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // Secrets are inside.
            options.mode(0o600);
        }
        let mut file = options.open(&path)?;
        let mut data = Vec::new();
        file.read_to_end(&mut data)?;
        let (records, good) = if MAGIC.starts_with(&data) {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            if sync {
                file.sync_data()?;
                sync_dir(dir)?;
            }
            (Vec::new(), MAGIC.len() as u64)
        } else if data.starts_with(MAGIC) {
            decode_all(&Bytes::from(data))
                .map_err(|offset| damaged(&path, offset, "the checksum or the length is wrong"))?
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is not a journal of this version", path.display()),
            ));
        };
        file.set_len(good)?;
        file.seek(SeekFrom::Start(good))?;
        let journal =
            Self { path, file: Arc::new(file), len: good, live_len: 0, sync, buf: Vec::new() };
        Ok((journal, records))
    }

    /// Counts an object that is alive after reading, so that compaction knows what is history.
    pub(super) fn count_live(&mut self, table: &str, key: &Key, object: &[u8]) {
        self.live_len +=
            (8 + 9 + 6 + table.len() + key.namespace.len() + key.name.len() + object.len()) as u64;
    }

    /// Appends the changes of one transaction, whole or not at all.
    pub(super) fn append(&mut self, changes: &[Record]) -> io::Result<()> {
        self.buf.clear();
        encode(changes, &mut self.buf);
        if self.buf.len() > 8 + RECORD_LEN_MAX as usize {
            let why = "the changes of one transaction are too long for a record";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut file = &*self.file;
        if let Err(error) = file.write_all(&self.buf) {
            // A full disk: take the torn record back, so that later ones can be read.
            file.set_len(self.len)?;
            file.seek(SeekFrom::Start(self.len))?;
            return Err(error);
        }
        self.len += self.buf.len() as u64;
        Ok(())
    }

    /// The error for a record that is whole and yet cannot be used.
    pub(super) fn damaged(&self, offset: u64, why: &str) -> io::Error {
        damaged(&self.path, offset, why)
    }

    /// Whether a write is on disk before it is acknowledged.
    pub(super) fn syncs(&self) -> bool {
        self.sync
    }

    /// The file to fdatasync.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) fn compaction_due(&self) -> bool {
        self.len > COMPACT_LEN_MIN && self.len > 2 * self.live_len
    }

    /// Replaces the journal by one with only these records and the version.
    pub(super) fn compact(
        &mut self,
        live: impl Iterator<Item = Record>,
        rv: u64,
    ) -> io::Result<()> {
        let tmp = self.path.with_extension("tmp");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        // On failure do not try again at every write.
        self.live_len = self.len;
        let mut out = BufWriter::new(options.open(&tmp)?);
        out.write_all(MAGIC)?;
        let mut len = MAGIC.len() as u64;
        self.buf.clear();
        encode_version(rv, &mut self.buf);
        for record in live {
            encode(&[record], &mut self.buf);
            out.write_all(&self.buf)?;
            len += self.buf.len() as u64;
            self.buf.clear();
        }
        out.write_all(&self.buf)?;
        len += self.buf.len() as u64;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()?;
        std::fs::rename(&tmp, &self.path)?;
        if self.sync
            && let Some(dir) = self.path.parent()
            && let Err(error) = sync_dir(dir)
        {
            tracing::warn!(%error, "the directory of the journal could not be synced");
        }
        (self.file, self.len, self.live_len) = (Arc::new(file), len, len);
        Ok(())
    }
}

/// Makes a new or renamed name in the directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
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

fn frame(buf: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = buf.len();
    buf.extend_from_slice(&[0; 8]);
    payload(buf);
    let len = (buf.len() - start - 8) as u32;
    let crc = crc32(&buf[start + 8..]);
    buf[start..start + 4].copy_from_slice(&len.to_le_bytes());
    buf[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn encode_version(rv: u64, buf: &mut Vec<u8>) {
    frame(buf, |b| {
        b.push(OP_VERSION);
        b.extend_from_slice(&rv.to_le_bytes());
    });
}

fn encode(changes: &[Record], buf: &mut Vec<u8>) {
    frame(buf, |b| match changes {
        [one] => encode_change(one, b),
        several => {
            b.push(OP_GROUP);
            b.extend_from_slice(&several.last().map_or(0, |r| r.rv).to_le_bytes());
            for change in several {
                let start = b.len();
                b.extend_from_slice(&[0; 4]);
                encode_change(change, b);
                let len = (b.len() - start - 4) as u32;
                b[start..start + 4].copy_from_slice(&len.to_le_bytes());
            }
        }
    });
}

fn encode_change(r: &Record, b: &mut Vec<u8>) {
    b.push(if r.object.is_some() { OP_PUT } else { OP_DELETE });
    b.extend_from_slice(&r.rv.to_le_bytes());
    for s in [&*r.table, &r.key.namespace, &r.key.name] {
        // Kubernetes names end at 253 characters.
        b.extend_from_slice(&(s.len() as u16).to_le_bytes());
        b.extend_from_slice(s.as_bytes());
    }
    if let Some(o) = &r.object {
        b.extend_from_slice(o);
    }
}

/// All whole records with their offsets, and the length of the file up to the end of the last
/// one; the offset of a record that is damaged and not just torn.
fn decode_all(data: &Bytes) -> Result<(Vec<(u64, Record)>, u64), u64> {
    let mut at = MAGIC.len();
    let mut records = Vec::new();
    loop {
        let rest = data.slice(at..);
        match decode(&rest) {
            Some((changes, len)) => {
                records.extend(changes.into_iter().map(|r| (at as u64, r)));
                at += len;
            }
            None if torn(&rest) => return Ok((records, at as u64)),
            None => return Err(at as u64),
        }
    }
}

/// Whether what cannot be decoded is the rest of one interrupted write: it reaches the end of the
/// file and no whole record follows. A file system may leave zeros where it had no time to write.
fn torn(rest: &[u8]) -> bool {
    if rest.iter().all(|b| *b == 0) {
        return true;
    }
    let Some((len, _)) = header(rest) else { return true };
    len <= RECORD_LEN_MAX
        && 8 + len as usize >= rest.len()
        && payload(rest).is_none()
        && !(1..rest.len()).any(|i| payload(&rest[i..]).is_some())
}

/// Length and checksum of the frame at the start.
fn header(data: &[u8]) -> Option<(u32, u32)> {
    let word = |i: usize| Some(u32::from_le_bytes(data.get(i..i + 4)?.try_into().ok()?));
    Some((word(0)?, word(4)?))
}

/// The payload of the frame at the start, `None` where it is torn or damaged.
fn payload(data: &[u8]) -> Option<&[u8]> {
    let (len, crc) = header(data)?;
    if len > RECORD_LEN_MAX {
        return None;
    }
    let p = data.get(8..8 + len as usize)?;
    // The cheap test first: `torn` asks this of every byte.
    ((OP_PUT..=OP_GROUP).contains(p.first()?) && crc32(p) == crc).then_some(p)
}

/// The changes of the record at the start, `None` where it is torn or damaged.
fn decode(data: &[u8]) -> Option<(Vec<Record>, usize)> {
    let p = payload(data)?;
    let end = 8 + p.len();
    if p.first() != Some(&OP_GROUP) {
        return Some((vec![decode_change(p)?], end));
    }
    let (mut changes, mut rest) = (Vec::new(), p.get(9..)?);
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (change, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        changes.push(decode_change(change)?);
        rest = tail;
    }
    Some((changes, end))
}

fn decode_change(p: &[u8]) -> Option<Record> {
    let op = *p.first()?;
    let rv = u64::from_le_bytes(p.get(1..9)?.try_into().ok()?);
    if op == OP_VERSION {
        return Some(Record { table: "".into(), key: Key::new("", ""), rv, object: None });
    }
    let mut at = 9;
    let mut text = || {
        let len = u16::from_le_bytes(p.get(at..at + 2)?.try_into().ok()?) as usize;
        let s = std::str::from_utf8(p.get(at + 2..at + 2 + len)?).ok()?;
        at += 2 + len;
        Some(s)
    };
    let (table, namespace, name) = (text()?, text()?, text()?);
    let key = Key::new(namespace, name);
    // Its own copy: a slice would keep the whole file in memory.
    let object = match op {
        OP_PUT => Some(Bytes::copy_from_slice(&p[at..])),
        OP_DELETE => None,
        _ => return None,
    };
    Some(Record { table: table.into(), key, rv, object })
}
