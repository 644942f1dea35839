//! A blocking netlink socket: requests with acknowledgement, dumps, batches.

use crate::{
    error::{Error, Result},
    netns, wire,
    wire::{Message, Received},
};
use netlink_sys::{Socket, SocketAddr};
use std::{io, os::fd::AsRawFd, path::Path, sync::Mutex};

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump that changed while it was read (NLM_F_DUMP_INTR) is read again this often.
const DUMP_TRIES_MAX: u32 = 5;

/// One netlink socket with its sequence counter.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    /// Bytes that a datagram may have, where that was enlarged.
    room: usize,
}

impl Connection {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Extended error text and short error messages: 4.12. Strict checking of dump
        // requests (4.20) makes the kernel honour their filters. All below our minimum.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0, room: 0 })
    }

    /// Makes room for a batch, which is one datagram of `len` bytes, beyond the machine's limit
    /// for sockets.
    fn make_room(&mut self, len: usize) -> io::Result<()> {
        /// What a socket has at least everywhere.
        const GIVEN: usize = 64 << 10;
        if len > self.room.max(GIVEN) {
            self.force_size(libc::SO_SNDBUFFORCE, len)?;
            self.room = len;
        }
        Ok(())
    }

    fn force_size(&self, option: libc::c_int, size: usize) -> io::Result<()> {
        // The kernel doubles it, for its own records.
        let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
        let at = (&raw const size).cast();
        let size_len = size_of::<libc::c_int>() as libc::socklen_t;
        let fd = self.socket.as_raw_fd();
        // SAFETY: the value is a C int that lives over the call, and its length is given.
        // Needed because the standard library has no way to set it.
        if unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, at, size_len) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<Received>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => return Ok(wire::messages(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends one request and collects answers up to the acknowledgement.
    pub(crate) fn request(
        &mut self,
        message: Message,
    ) -> std::result::Result<Vec<Received>, Refusal> {
        let sequence = self.next();
        self.send(&message.finish(sequence))?;
        let mut answers = Vec::new();
        loop {
            for m in self.receive()? {
                if m.sequence != sequence {
                    continue; // left over from an earlier, abandoned request
                }
                match m.kind {
                    NLMSG_ERROR => {
                        return match Refusal::parse(&m) {
                            None => Ok(answers),
                            Some(refusal) => Err(refusal),
                        };
                    }
                    _ => answers.push(m),
                }
            }
        }
    }

    /// Sends a dump request and collects all parts.
    pub(crate) fn dump(
        &mut self,
        message: &Message,
    ) -> std::result::Result<Vec<Received>, Refusal> {
        for _ in 0..DUMP_TRIES_MAX {
            let (answers, interrupted) = self.dump_once(message.clone())?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR).into())
    }

    fn dump_once(
        &mut self,
        message: Message,
    ) -> std::result::Result<(Vec<Received>, bool), Refusal> {
        let sequence = self.next();
        self.send(&message.finish(sequence))?;
        let (mut answers, mut interrupted) = (Vec::new(), false);
        loop {
            for m in self.receive()? {
                if m.sequence != sequence {
                    continue;
                }
                interrupted |= m.flags & NLM_F_DUMP_INTR != 0;
                match m.kind {
                    NLMSG_DONE => {
                        return match Refusal::parse(&m) {
                            None => Ok((answers, interrupted)),
                            Some(refusal) => Err(refusal),
                        };
                    }
                    NLMSG_ERROR => {
                        if let Some(refusal) = Refusal::parse(&m) {
                            return Err(refusal);
                        }
                    }
                    _ => answers.push(m),
                }
            }
        }
    }

    /// Sends several messages as one datagram (an nf_tables batch), the sequence numbers
    /// counting up. Only the last before `end` is acknowledged: the kernel answers each that
    /// fails anyway, and a batch that fails to be committed at its beginning.
    pub(crate) fn batch(
        &mut self,
        begin: &Message,
        messages: &[Message],
        end: &Message,
    ) -> std::result::Result<(), Refusal> {
        let Some((last, messages)) = messages.split_last() else { return Ok(()) };
        let len = messages.iter().chain([begin, last, end]).map(Message::len).sum();
        let mut bytes = Vec::with_capacity(len);
        let first_sequence = self.next();
        begin.put(&mut bytes, first_sequence, 0);
        for m in messages {
            m.put(&mut bytes, self.next(), 0);
        }
        let last_sequence = self.next();
        last.put(&mut bytes, last_sequence, NLM_F_ACK);
        end.put(&mut bytes, self.next(), 0);
        self.make_room(len)?;
        self.send(&bytes)?;
        loop {
            for m in self.receive()? {
                // Others are left over from an earlier, abandoned request.
                let ours = m.sequence.wrapping_sub(first_sequence)
                    <= last_sequence.wrapping_sub(first_sequence);
                if ours && m.kind == NLMSG_ERROR {
                    if let Some(refusal) = Refusal::parse(&m) {
                        return Err(refusal);
                    }
                    if m.sequence == last_sequence {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// An errno with the kernel's extended text.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) source: io::Error,
    pub(crate) detail: String,
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self { source, detail: String::new() }
    }
}

impl Refusal {
    /// `None` for an acknowledgement (error 0).
    fn parse(m: &Received) -> Option<Self> {
        let code = wire::u32_at(&m.payload, 0).unwrap_or(0) as i32;
        if code == 0 {
            return None;
        }
        let mut detail = String::new();
        if m.flags & NLM_F_ACK_TLVS != 0 {
            // i32 error, then the header of the request, then (unless capped) its payload.
            let mut skip = 4 + wire::HEADER_LEN;
            if m.flags & NLM_F_CAPPED == 0 {
                let request_len = wire::u32_at(&m.payload, 4).unwrap_or(0) as usize;
                skip = 4 + request_len.max(wire::HEADER_LEN);
            }
            for (kind, data) in wire::attrs_after(&m.payload, skip) {
                if kind == NLMSGERR_ATTR_MSG {
                    detail = wire::string(data);
                }
            }
        }
        Some(Self { source: io::Error::from_raw_os_error(code.saturating_neg()), detail })
    }
}

/// A blocking rtnetlink handle of one network namespace: the one in which it was opened.
/// It can be sent to and shared between threads.
pub struct Netlink {
    connection: Mutex<Connection>,
}

impl Netlink {
    /// Opens a handle in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let connection = Connection::open(netlink_sys::protocols::NETLINK_ROUTE)
            .map_err(|e| Error::io("open netlink socket", "route", e))?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Opens a handle in the namespace that is mounted at `path`.
    pub fn open_in(path: &Path) -> Result<Self> {
        netns::run_in(path, Self::open)?
    }

    pub(crate) fn request(
        &self,
        operation: &'static str,
        object: impl ToString,
        message: Message,
    ) -> Result<Vec<Received>> {
        self.lock().request(message).map_err(|r| Error::Kernel {
            operation,
            object: object.to_string(),
            detail: r.detail,
            source: r.source,
        })
    }

    pub(crate) fn dump(&self, operation: &'static str, message: &Message) -> Result<Vec<Received>> {
        self.lock().dump(message).map_err(|r| Error::Kernel {
            operation,
            object: String::new(),
            detail: r.detail,
            source: r.source,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // A panic in another holder leaves at most stale answers in the socket, and those
        // are told apart by their sequence numbers.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
