//! Reading what the programs tell of flows: the ring buffer.
//!
//! The kernel writes records and the position behind the last one; the reader writes the
//! position up to which it has read. Whatever stands there, the reader stays within the buffer
//! and gets on.

use crate::{
    BpfError, Result,
    map::from_bytes,
    policy::{FlowMarks, PolicyVerdict, direction},
};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};
use weft_bpf_abi::{Addr, ConnKey, MapName, VerdictEvent, reason};
use weft_model::Direction;

/// Bits of a record's length: not finished yet, and thrown away.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Length and page offset before each record.
const HEADER: u64 = 8;

/// What a program told of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEvent {
    /// When, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Index of the pod's link.
    pub link: u32,
    /// Which way was judged, which is whose first packet it was.
    pub direction: Direction,
    /// The pod's end.
    pub own: SocketAddr,
    /// The other end; what the pod sent to a Service shows the backend.
    pub peer: SocketAddr,
    /// Protocol number (IANA). ICMP has its identifier as both ports.
    pub protocol: u8,
    /// What became of it.
    pub verdict: PolicyVerdict,
    /// Number of the reason.
    pub reason: u32,
    /// Number of the last rule with Pass that it met before.
    pub passed: Option<u32>,
    /// The generation that judged it.
    pub generation: u32,
    /// What else is known of it.
    pub marks: FlowMarks,
}

impl PolicyEvent {
    fn new(event: &VerdictEvent) -> Self {
        let (own, peer) = ends(&event.key);
        Self {
            time_ns: event.time_ns,
            link: event.key.link,
            direction: direction(event.direction),
            own,
            peer,
            protocol: event.key.protocol,
            verdict: PolicyVerdict::new(event.verdict),
            reason: event.reason,
            passed: Some(event.passed).filter(|p| *p != reason::NONE),
            generation: event.generation,
            marks: FlowMarks::new(event.flags),
        }
    }
}

/// The pod's end and the other one.
pub(crate) fn ends(key: &ConnKey) -> (SocketAddr, SocketAddr) {
    let end = |ip, port| Addr::new(ip, port, key.protocol).to_socket();
    (end(key.own, key.own_port), end(key.peer, key.peer_port))
}

/// What was read at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order of the buffer.
    pub events: Vec<PolicyEvent>,
    /// Records that are none of this version.
    pub odd: u64,
}

/// Memory of the ring buffer.
#[derive(Debug)]
struct Area {
    at: NonNull<u8>,
    len: usize,
}

impl Area {
    fn new(map: &OwnedFd, len: usize, writable: bool, offset: usize) -> io::Result<Self> {
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at a place of the kernel's choice; the descriptor is open, and
        // the mapping holds the map itself.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { at, len })
    }

    /// A position at the begin of a page.
    fn position(&self) -> &AtomicU64 {
        // SAFETY: the mapping is at least a page, is aligned to one, and lives as long as self;
        // the kernel reads and writes these words atomically.
        unsafe { self.at.cast::<AtomicU64>().as_ref() }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and nobody borrows from it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

// SAFETY: memory that is shared with the kernel, reached by atomic words and by reads of records
// that the kernel has finished.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

/// The reader of the events; there is one a node, since what is read is gone.
#[derive(Debug)]
pub struct Verdicts {
    map: OwnedFd,
    consumer: Area,
    /// The producer's position, one page; behind it the data, twice, so that no record has a gap.
    producer: Area,
    page: usize,
    /// Bytes of data; a power of two.
    size: u64,
}

impl Verdicts {
    pub(crate) fn new(map: OwnedFd, size: u32) -> Result<Self> {
        let call = |e| BpfError::call("mmap", MapName::Verdicts.as_str())(e);
        // SAFETY: takes a number and gives one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|e| call(io::Error::other(e)))?;
        let consumer = Area::new(&map, page, true, 0).map_err(call)?;
        let producer = Area::new(&map, page + 2 * size as usize, false, page).map_err(call)?;
        Ok(Self { map, consumer, producer, page, size: u64::from(size) })
    }

    /// The clock of [`PolicyEvent::time_ns`], now.
    pub fn now_ns() -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: one timespec, which the call fills; this clock is always there.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    /// Waits until there is something to read; `false` after `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let mut poll = libc::pollfd { fd: self.map.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } {
            0 => Ok(false),
            n if n > 0 => Ok(poll.revents & libc::POLLIN != 0),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(false),
                e => Err(BpfError::call("poll", MapName::Verdicts.as_str())(e)),
            },
        }
    }

    /// Reads what is there, at most `max` records. Does not wait.
    pub fn read(&mut self, max: usize) -> Batch {
        let mut batch = Batch::default();
        let end = self.producer.position().load(Ordering::Acquire);
        let mut at = self.consumer.position().load(Ordering::Relaxed);
        for _ in 0..max {
            // Never true of what the kernel writes; a foreign process may have mapped it as well.
            if end.wrapping_sub(at) > self.size || !at.is_multiple_of(HEADER) {
                at = end;
                batch.odd += 1;
            }
            if at == end {
                break;
            }
            let head = self.length(at).load(Ordering::Acquire);
            if head & BUSY != 0 {
                break;
            }
            let len = u64::from(head & !DISCARDED);
            let next = HEADER + len.next_multiple_of(HEADER);
            if next > end.wrapping_sub(at) {
                at = end;
                batch.odd += 1;
                break;
            }
            if head & DISCARDED == 0 {
                match from_bytes::<VerdictEvent>(self.record(at, len as usize)).next() {
                    Some(event) if len as usize == size_of::<VerdictEvent>() => {
                        batch.events.push(PolicyEvent::new(&event));
                    }
                    _ => batch.odd += 1,
                }
            }
            at = at.wrapping_add(next);
        }
        self.consumer.position().store(at, Ordering::Release);
        batch
    }

    /// Where the data of a position is.
    fn data(&self, at: u64) -> NonNull<u8> {
        let offset = self.page + (at & (self.size - 1)) as usize;
        // SAFETY: within the first copy of the data, which the mapping has behind a page.
        unsafe { self.producer.at.add(offset) }
    }

    fn length(&self, at: u64) -> &AtomicU32 {
        // SAFETY: records begin at multiples of eight, the kernel writes the word atomically, and
        // the mapping lives as long as self.
        unsafe { self.data(at).cast::<AtomicU32>().as_ref() }
    }

    fn record(&self, at: u64, len: usize) -> &[u8] {
        // SAFETY: the caller has seen that the record ends before the producer's position, so that
        // it is at most as long as the data, which stands there twice; it is finished, and is not
        // overwritten before the consumer's position is stored.
        unsafe { std::slice::from_raw_parts(self.data(at).add(HEADER as usize).as_ptr(), len) }
    }
}
