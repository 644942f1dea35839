//! The wire format (RFC 1035, EDNS(0) RFC 6891): queries in, replies out.
//!
//! By hand, because it is the hot path of every name lookup of a node and needs little: one
//! question and an OPT record in, a handful of record types out, no allocation but the
//! reply's own buffer. Tests read every reply back with hickory-proto.

use std::ops::Range;

/// Length of the header.
const HEADER_LEN: usize = 12;
/// Longest name on the wire, with all length bytes and the root.
const NAME_LEN_MAX: usize = 255;
/// Most labels a name of that length has, without the root.
const LABELS_MAX: usize = 127;
/// What an OPT record without options takes.
const OPT_LEN: usize = 11;
/// The largest reply over UDP, and what replies say that we accept: what fits into one packet
/// on any path (DNS flag day 2020), tunnels of pod networks included.
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1232;
/// The largest reply over UDP to a query without EDNS (RFC 1035 section 2.3.4).
const UDP_PAYLOAD_CLASSIC: u16 = 512;

/// Record types and classes by number (IANA).
pub(crate) mod number {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
    pub const CLASS_IN: u16 = 1;
}

/// Response codes (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// No error; with an empty answer section: the name exists, such records do not.
    NoError = 0,
    /// The query cannot be read.
    FormErr = 1,
    /// The server cannot answer now.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// An operation that is not implemented.
    NotImp = 4,
    /// A question for somebody else.
    Refused = 5,
    /// An EDNS version that is not implemented (RFC 6891 section 6.1.3).
    BadVers = 16,
}

/// How a query came, which bounds the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: at most what the client accepts, and never more than one packet.
    Udp,
    /// A length-framed stream: at most 65,535 bytes.
    Tcp,
}

/// A name in lower case, split into labels.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    wire: [u8; NAME_LEN_MAX],
    len: usize,
    /// Where each label's length byte stands in `wire`.
    offsets: [u8; LABELS_MAX],
    count: usize,
}

impl Name {
    /// Reads an uncompressed name at the start of `bytes`. `None` where it is cut off, too
    /// long, or compressed: the first name of a message has nothing to point to.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { wire: [0; NAME_LEN_MAX], len: 0, offsets: [0; LABELS_MAX], count: 0 };
        let mut at = 0;
        loop {
            let label = usize::from(*bytes.get(at)?);
            if label > 63 || at + label + 1 > NAME_LEN_MAX {
                return None;
            }
            if label == 0 {
                break;
            }
            *name.offsets.get_mut(name.count)? = u8::try_from(at).ok()?;
            name.count += 1;
            at += 1 + label;
        }
        name.len = at + 1;
        name.wire.get_mut(..name.len)?.copy_from_slice(bytes.get(..name.len)?);
        // Length bytes are below 64 and so never letters.
        name.wire.make_ascii_lowercase();
        Some(name)
    }

    /// The number of labels, without the root.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        self.len
    }

    /// A label, counted from the left.
    pub fn label(&self, i: usize) -> &[u8] {
        let at = usize::from(self.offsets[i]);
        &self.wire[at + 1..at + 1 + usize::from(self.wire[at])]
    }

    /// Where the suffix of `labels` labels begins, where it is `suffix` on the wire.
    pub fn suffix(&self, suffix: &[u8], labels: usize) -> Option<usize> {
        let first = self.count.checked_sub(labels)?;
        let at = self.offsets[..self.count].get(first).map_or(self.len - 1, |o| usize::from(*o));
        (self.wire[at..self.len] == *suffix).then_some(at)
    }
}

/// `text` (labels joined by dots, a final dot allowed) on the wire; `None` where it is no name.
pub(crate) fn name_to_wire(text: &str) -> Option<Box<[u8]>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        let len = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        wire.push(len);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    (wire.len() <= NAME_LEN_MAX).then(|| wire.into())
}

/// The client's OPT record.
#[derive(Clone, Copy, Debug)]
struct Edns {
    udp_payload: u16,
    version: u8,
    dnssec_ok: bool,
}

/// The fixed part of a query, enough to refuse it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub id: u16,
    flags: u16,
    edns: Option<Edns>,
}

/// A query with one question.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub head: Head,
    pub name: Name,
    /// Name, type and class as they came, to be repeated with the client's own upper case.
    pub question: Range<usize>,
    pub qtype: u16,
    pub qclass: u16,
}

/// What came.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Lives on the stack for the time of one answer.
pub(crate) enum Message {
    /// Nothing to be answered: too short to have a header, or itself a reply (answering those
    /// would let two servers talk for ever).
    Ignore,
    /// To be refused with this code, without repeating the question.
    Bad(Head, Rcode),
    /// A query.
    Query(Query),
}

impl Message {
    /// Reads a message. Never panics, whatever the bytes.
    pub fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let (Some(id), Some(flags), Some(qd), Some(an), Some(ns), Some(ar)) =
            (word(0), word(2), word(4), word(6), word(8), word(10))
        else {
            return Self::Ignore;
        };
        let mut head = Head { id, flags, edns: None };
        if flags & 0x8000 != 0 {
            return Self::Ignore;
        }
        if flags & 0x7800 != 0 {
            return Self::Bad(head, Rcode::NotImp);
        }
        // More than one question has no agreed meaning (RFC 9619 forbids it).
        if qd != 1 {
            return Self::Bad(head, Rcode::FormErr);
        }
        let Some(name) = Name::read(&bytes[HEADER_LEN..]) else {
            return Self::Bad(head, Rcode::FormErr);
        };
        let end = HEADER_LEN + name.wire_len();
        let (Some(qtype), Some(qclass)) = (word(end), word(end + 2)) else {
            return Self::Bad(head, Rcode::FormErr);
        };
        let question = HEADER_LEN..end + 4;
        let records = [an, ns, ar].map(usize::from);
        match read_edns(bytes, question.end, records) {
            Ok(edns) => head.edns = edns,
            Err(Malformed) => return Self::Bad(head, Rcode::FormErr),
        }
        if head.edns.is_some_and(|e| e.version != 0) {
            return Self::Bad(head, Rcode::BadVers);
        }
        Self::Query(Query { head, name, question, qtype, qclass })
    }
}

struct Malformed;

/// Walks the records after the question to the OPT record, if there is one. The number of
/// records is bounded by the message: each takes at least eleven bytes.
fn read_edns(bytes: &[u8], start: usize, counts: [usize; 3]) -> Result<Option<Edns>, Malformed> {
    let [answers, authorities, additionals] = counts;
    let mut at = start;
    let mut found = None;
    for i in 0..answers + authorities + additionals {
        let root = bytes.get(at) == Some(&0);
        at = skip_name(bytes, at).ok_or(Malformed)?;
        let fixed: &[u8; 10] =
            bytes.get(at..at + 10).and_then(|b| b.try_into().ok()).ok_or(Malformed)?;
        let [t0, t1, c0, c1, _rcode_high, version, z0, _z1, l0, l1] = *fixed;
        at += 10 + usize::from(u16::from_be_bytes([l0, l1]));
        if at > bytes.len() {
            return Err(Malformed);
        }
        if u16::from_be_bytes([t0, t1]) == number::OPT {
            // One, in the additional section, owned by the root (RFC 6891 section 6.1.1).
            if found.is_some() || !root || i < answers + authorities {
                return Err(Malformed);
            }
            found = Some(Edns {
                udp_payload: u16::from_be_bytes([c0, c1]),
                version,
                dnssec_ok: z0 & 0x80 != 0,
            });
        }
    }
    Ok(found)
}

/// The offset after the name at `at`, which may end in a pointer.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            n @ 1..=63 => at += 1 + usize::from(n),
            0xC0.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// Sections of a reply that records go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// The name that a record belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// The name of the question.
    Question,
    /// A name that stands at this offset of the reply.
    At(usize),
}

/// A name to be written out: labels, then a tail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels<'a> {
    /// The labels on the left.
    pub labels: &'a [&'a [u8]],
    /// The rest, on the wire, with the root.
    pub tail: &'a [u8],
}

/// Writes a reply into a buffer.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    head: Head,
    /// Bytes that records may fill; room for OPT is kept.
    limit: usize,
    questions: u16,
    counts: [u16; 3],
    flags: u16,
}

/// Authoritative answer.
pub(crate) const FLAG_AA: u16 = 0x0400;
/// Recursion available.
pub(crate) const FLAG_RA: u16 = 0x0080;
const FLAG_QR: u16 = 0x8000;
const FLAG_TC: u16 = 0x0200;
/// What a reply repeats: opcode, recursion desired, checking disabled.
const FLAGS_REPEATED: u16 = 0x7800 | 0x0100 | 0x0010;

impl<'a> Writer<'a> {
    /// Begins a reply in `out`, whose content is replaced. `question` is what is to be
    /// repeated.
    pub fn new(
        out: &'a mut Vec<u8>,
        head: Head,
        question: Option<&[u8]>,
        transport: Transport,
    ) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER_LEN]);
        out.extend_from_slice(question.unwrap_or_default());
        let payload = match (transport, head.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => UDP_PAYLOAD_CLASSIC,
            // Less than 512 counts as 512 (RFC 6891 section 6.2.3).
            (Transport::Udp, Some(e)) => e.udp_payload.clamp(UDP_PAYLOAD_CLASSIC, UDP_PAYLOAD_MAX),
        };
        let reserved = if head.edns.is_some() { OPT_LEN } else { 0 };
        let limit = usize::from(payload) - reserved;
        Self {
            out,
            head,
            limit,
            questions: u16::from(question.is_some()),
            counts: [0; 3],
            flags: FLAG_QR | (head.flags & FLAGS_REPEATED),
        }
    }

    /// Sets flags.
    pub fn flag(&mut self, flags: u16) {
        self.flags |= flags;
    }

    /// Writes one record, whose data `rdata` appends, and returns where its data begins;
    /// `None` where there is no room: then nothing of it is written, and an answer or
    /// authority record that is missing sets the TC flag.
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner,
        rtype: u16,
        ttl_s: u32,
        rdata: impl FnOnce(&mut Vec<u8>),
    ) -> Option<usize> {
        let start = self.out.len();
        let at = match owner {
            Owner::Question => HEADER_LEN,
            Owner::At(at) => at,
        };
        // A pointer reaches the first 16 KiB; names that are pointed to stand at the beginning
        // of a reply, and what is beyond does not fit, like anything that does not fit.
        let pointer = u16::try_from(at).ok().filter(|p| *p < 0x4000);
        let data = start + 12;
        if let Some(pointer) = pointer {
            self.out.extend_from_slice(&(0xC000 | pointer).to_be_bytes());
            self.out.extend_from_slice(&rtype.to_be_bytes());
            self.out.extend_from_slice(&number::CLASS_IN.to_be_bytes());
            self.out.extend_from_slice(&ttl_s.to_be_bytes());
            self.out.extend_from_slice(&[0; 2]);
            rdata(self.out);
        }
        let len = self.out.len().checked_sub(data).and_then(|n| u16::try_from(n).ok());
        let count = &mut self.counts[section as usize];
        match (len, count.checked_add(1)) {
            (Some(len), Some(n)) if pointer.is_some() && self.out.len() <= self.limit => {
                self.out[data - 2..data].copy_from_slice(&len.to_be_bytes());
                *count = n;
                Some(data)
            }
            _ => {
                self.out.truncate(start);
                if section != Section::Additional {
                    self.flags |= FLAG_TC;
                }
                None
            }
        }
    }

    /// Ends the reply: header and OPT.
    pub fn finish(self, rcode: Rcode) {
        let code = rcode as u16;
        let [answers, authorities, mut additionals] = self.counts;
        if let Some(edns) = self.head.edns {
            additionals = additionals.saturating_add(1);
            self.out.push(0);
            self.out.extend_from_slice(&number::OPT.to_be_bytes());
            self.out.extend_from_slice(&UDP_PAYLOAD_MAX.to_be_bytes());
            let rcode_high = u8::try_from(code >> 4).unwrap_or_default();
            let flags = if edns.dnssec_ok { 0x80 } else { 0 };
            self.out.extend_from_slice(&[rcode_high, 0, flags, 0, 0, 0]);
        }
        let words = [
            self.head.id,
            self.flags | (code & 0xF),
            self.questions,
            answers,
            authorities,
            additionals,
        ];
        for (i, word) in words.into_iter().enumerate() {
            self.out[2 * i..2 * i + 2].copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// Appends a name without compression.
pub(crate) fn put_name(out: &mut Vec<u8>, name: Labels<'_>) {
    for label in name.labels {
        // Labels come from names that were read or validated: at most 63 bytes.
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(&label[..label.len().min(63)]);
    }
    out.extend_from_slice(name.tail);
}

/// Appends a name whose tail stands at offset `tail` of the reply.
pub(crate) fn put_name_at(out: &mut Vec<u8>, labels: &[&[u8]], tail: usize) {
    put_name(out, Labels { labels, tail: &[] });
    let pointer = u16::try_from(tail).unwrap_or(0x3FFF) & 0x3FFF;
    out.extend_from_slice(&(0xC000 | pointer).to_be_bytes());
}
