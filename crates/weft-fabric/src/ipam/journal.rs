//! The journal: one record a line, `<crc32 in hex> <json>`, appended and fsynced.
//!
//! A crash can cut the last line anywhere, or leave garbage in its place: lines from the
//! first damaged one on are dropped where no sound line follows. A sound line after a
//! damaged one means damage that no crash makes; forgetting a record there could give an
//! address twice, so it is an error that names the line.

use super::Key;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Longest line that is read; ours have less than 600 bytes.
const LINE_LEN_MAX: usize = 4096;
/// Records beyond twice the live ones that are tolerated before the file is rewritten.
const SLACK_RECORDS: usize = 1024;

/// What the journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Record {
    /// Addresses were given.
    Give { key: Key, ips: Vec<IpAddr> },
    /// The addresses of a key were freed.
    Free { key: Key, at_s: u64 },
    /// An address had been freed (written by compaction).
    Rest { ip: IpAddr, at_s: u64 },
}

/// What went wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation.
    #[error("cannot {operation} the address journal {path}: {source}")]
    Io {
        /// The verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Damage in the middle.
    #[error(
        "the address journal {path} is damaged in line {line}; remove the file after all pods \
         of this node are gone"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first damaged line, from 1.
        line: usize,
    },
}

/// CRC-32 (IEEE 802.3), bit by bit: the lines are short.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(c & 1))
        })
    })
}

fn encode(record: &Record) -> Vec<u8> {
    let json = serde_json::to_string(record).expect("invariant: records are plain data");
    format!("{:08x} {json}\n", crc32(json.as_bytes())).into_bytes()
}

/// A line without its end.
fn decode(line: &[u8]) -> Option<Record> {
    if line.len() > LINE_LEN_MAX {
        return None;
    }
    let (sum, json) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (line[8] == b' ' && crc32(json) == sum).then(|| serde_json::from_slice(json).ok())?
}

/// The records of a journal's bytes, and how many bytes are sound; `Err` is the number of a
/// line that is damaged although a sound one follows.
pub(super) fn parse(bytes: &[u8]) -> Result<(Vec<Record>, usize), usize> {
    let (mut records, mut sound, mut at, mut damaged) = (Vec::new(), 0, 0, None);
    for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        at += line.len();
        match line.strip_suffix(b"\n").and_then(decode) {
            Some(_) if damaged.is_some() => return Err(damaged.unwrap_or(0)),
            Some(record) => {
                records.push(record);
                sound = at;
            }
            None => damaged = damaged.or(Some(number + 1)),
        }
    }
    Ok((records, sound))
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    records: usize,
}

impl Journal {
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let io =
            |operation| move |source| JournalError::Io { operation, path: path.to_owned(), source };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io("read")(e)),
        };
        let (records, sound) =
            parse(&bytes).map_err(|line| JournalError::Damaged { path: path.to_owned(), line })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io("open"))?;
        let len = sound as u64;
        file.set_len(len).map_err(io("cut the torn tail of"))?;
        file.seek(SeekFrom::Start(len)).map_err(io("seek in"))?;
        file.sync_all().map_err(io("sync"))?;
        sync_dir(path).map_err(io("sync the folder of"))?;
        let journal = Self { path: path.to_owned(), file, len, records: records.len() };
        Ok((journal, records))
    }

    /// Appends a record and waits until it is on disk. After an error the file is as before.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let line = encode(record);
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // A disk that is full leaves part of a line: it must not stay before the next.
            let _ = self.file.set_len(self.len);
            let _ = self.file.seek(SeekFrom::Start(self.len));
            return Err(self.io("write", source));
        }
        self.len += line.len() as u64;
        self.records += 1;
        Ok(())
    }

    pub(super) fn wants_compaction(&self, live: usize) -> bool {
        self.records > 2 * live + SLACK_RECORDS
    }

    /// Replaces the file by one with just these records. After an error the journal goes on
    /// in the file that bears its name.
    pub(super) fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let temporary = self.path.with_extension("tmp");
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        let replace = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            Ok(file)
        };
        self.file = replace().map_err(|source| self.io("compact", source))?;
        self.len = bytes.len() as u64;
        self.records = records.len();
        sync_dir(&self.path).map_err(|source| self.io("sync the folder of", source))
    }

    fn io(&self, operation: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { operation, path: self.path.clone(), source }
    }
}

/// A new name in a folder is durable only after the folder was synced.
fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
