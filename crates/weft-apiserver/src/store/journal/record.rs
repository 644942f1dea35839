//! Records: what one transaction changed, as bytes.
//!
//! A record is `length u32 | crc u32 | payload`, little endian; the payload is
//! `acknowledged u64 | op u8 | rv u64 | table | namespace | name | object`, each text with a u16
//! length. The changes of one transaction are one record, `acknowledged u64 | op u8 | rv u64 |
//! (length u32 | op u8 | rv u64 | …)*`: its checksum makes them happen together or not at all.
//!
//! `acknowledged` is the offset in the same file before which every record had been acknowledged
//! when this one was written. It tells a torn tail, where writes may have reached the disk in
//! any order, from damage: what an intact record calls acknowledged cannot have been torn.

use crate::store::{Key, crc::crc32};
use bytes::Bytes;
use std::{
    io::{self, Read},
    sync::Arc,
};

/// A longer record is damage, not data (an object ends at 3 MiB).
pub(super) const RECORD_LEN_MAX: u32 = 64 << 20;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
/// A record that only says how far the version had come.
const OP_VERSION: u8 = 3;
/// Several changes that belong together.
const OP_GROUP: u8 = 4;
/// Length and checksum.
const HEADER_LEN: usize = 8;
/// Operation and version.
const PREFIX_LEN: usize = 9;

/// One journalled change; without an object, a deletion. One without a table only says how far
/// the version had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) table: Arc<str>,
    pub(crate) key: Key,
    pub(crate) rv: u64,
    pub(crate) object: Option<Bytes>,
}

impl Record {
    /// What it takes in a file.
    pub(super) fn len(&self) -> u64 {
        let texts = self.table.len() + self.key.namespace.len() + self.key.name.len();
        let object = self.object.as_ref().map_or(0, Bytes::len);
        (HEADER_LEN + 8 + PREFIX_LEN + 6 + texts + object) as u64
    }
}

/// Appends the record of these changes.
pub(super) fn encode(changes: &[Record], acknowledged: u64, buf: &mut Vec<u8>) {
    frame(acknowledged, buf, |b| match changes {
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

/// Appends a record that only says how far the version has come.
pub(super) fn encode_version(rv: u64, buf: &mut Vec<u8>) {
    frame(0, buf, |b| {
        b.push(OP_VERSION);
        b.extend_from_slice(&rv.to_le_bytes());
    });
}

fn frame(acknowledged: u64, buf: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = buf.len();
    buf.extend_from_slice(&[0; HEADER_LEN]);
    buf.extend_from_slice(&acknowledged.to_le_bytes());
    payload(buf);
    let len = (buf.len() - start - HEADER_LEN) as u32;
    let crc = crc32(&buf[start + HEADER_LEN..]);
    buf[start..start + 4].copy_from_slice(&len.to_le_bytes());
    buf[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
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

/// Why reading ended before the end of the file.
pub(super) enum Unreadable {
    Io(io::Error),
    /// The rest of an interrupted write begins at this offset.
    Torn(u64),
    /// The record at this offset is damaged.
    Damaged(u64, String),
}

/// Reads all records from offset `at` on, and returns the length of the file.
pub(super) fn read_all(
    file: &mut impl Read,
    mut at: u64,
    mut each: impl FnMut(Record) -> Result<(), String>,
) -> Result<u64, Unreadable> {
    let mut data = Vec::new();
    loop {
        data.clear();
        fill(file, &mut data, HEADER_LEN).map_err(Unreadable::Io)?;
        if data.is_empty() {
            return Ok(at);
        }
        if let Some((len, _)) = header(&data).filter(|(len, _)| *len <= RECORD_LEN_MAX) {
            fill(file, &mut data, len as usize).map_err(Unreadable::Io)?;
        }
        let Some(changes) = payload(&data).and_then(decode) else {
            file.read_to_end(&mut data).map_err(Unreadable::Io)?;
            let why = "the checksum or the length is wrong".to_owned();
            return Err(if torn(&data, at) {
                Unreadable::Torn(at)
            } else {
                Unreadable::Damaged(at, why)
            });
        };
        for change in changes {
            each(change).map_err(|why| Unreadable::Damaged(at, why))?;
        }
        at += data.len() as u64;
    }
}

/// Appends up to `len` bytes, fewer at the end of the file.
fn fill(file: &mut impl Read, data: &mut Vec<u8>, len: usize) -> io::Result<()> {
    file.take(len as u64).read_to_end(data).map(drop)
}

/// Whether the unreadable record at offset `at` is the rest of an interrupted write: no intact
/// record after it knows it as acknowledged.
fn torn(rest: &[u8], at: u64) -> bool {
    let acknowledged = |p: &[u8]| u64::from_le_bytes(*p.first_chunk::<8>().unwrap_or(&[0; 8]));
    !(1..rest.len()).any(|i| payload(&rest[i..]).is_some_and(|p| acknowledged(p) > at))
}

/// Length and checksum of the record at the start.
fn header(data: &[u8]) -> Option<(u32, u32)> {
    let word = |i: usize| Some(u32::from_le_bytes(data.get(i..i + 4)?.try_into().ok()?));
    Some((word(0)?, word(4)?))
}

/// The payload of the record at the start, `None` where it is torn or damaged.
fn payload(data: &[u8]) -> Option<&[u8]> {
    let (len, crc) = header(data)?;
    if len > RECORD_LEN_MAX {
        return None;
    }
    let p = data.get(HEADER_LEN..HEADER_LEN + len as usize)?;
    // The cheap test first: `torn` asks this of every byte.
    ((OP_PUT..=OP_GROUP).contains(p.get(8)?) && crc32(p) == crc).then_some(p)
}

fn decode(payload: &[u8]) -> Option<Vec<Record>> {
    let p = payload.get(8..)?;
    if p.first() != Some(&OP_GROUP) {
        return Some(vec![decode_change(p)?]);
    }
    let (mut changes, mut rest) = (Vec::new(), p.get(PREFIX_LEN..)?);
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (change, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        changes.push(decode_change(change)?);
        rest = tail;
    }
    Some(changes)
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
    let object = match op {
        OP_PUT => Some(Bytes::copy_from_slice(&p[at..])),
        OP_DELETE => None,
        _ => return None,
    };
    Some(Record { table: table.into(), key, rv, object })
}
