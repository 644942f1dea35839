//! Which socket talks to which backend, as the hooks wrote it down.

use crate::{BpfError, Result, map::Map, object::check_shape, pins::map_pin, sys};
use std::{net::SocketAddr, os::fd::AsFd, path::Path};
use weft_bpf_abi::{Addr, MapName, PROTO_TCP, Record, SocketKey};
use weft_model::Protocol;

/// A socket and a backend that it was sent to instead of a frontend.
///
/// The socket may be closed since, or talk to somebody else: a record says where to look, and
/// the kernel what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketRecord {
    /// The kernel's number of the socket.
    pub cookie: u64,
    /// Whether it was connected; if not, it moves with its next datagram.
    pub connected: bool,
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What the application asked for.
    pub frontend: SocketAddr,
    /// Where it was sent.
    pub backend: SocketAddr,
}

impl SocketRecord {
    fn new(key: &SocketKey, record: &Record) -> Self {
        Self {
            cookie: key.cookie,
            connected: record.connected != 0,
            netns_cookie: record.netns_cookie,
            protocol: if key.addr.protocol == PROTO_TCP { Protocol::Tcp } else { Protocol::Udp },
            frontend: record.frontend.to_socket(),
            backend: key.addr.to_socket(),
        }
    }

    fn key(&self) -> SocketKey {
        let protocol = match self.protocol {
            Protocol::Tcp => PROTO_TCP,
            Protocol::Udp | Protocol::Sctp => weft_bpf_abi::PROTO_UDP,
        };
        SocketKey::new(self.cookie, Addr::from_socket(self.backend, protocol))
    }
}

/// The records of a node's sockets. Independent of [`crate::SocketLb`]: reading them takes
/// milliseconds where there are many, and is nothing that a change should wait for.
#[derive(Debug)]
pub struct Records {
    map: Map<SocketKey, Record>,
}

impl Records {
    /// Opens the records of the load balancer that was opened with `bpf_dir`.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        let pin = map_pin(bpf_dir, MapName::Reverse);
        let fd = sys::obj_get(&pin).map_err(BpfError::file("open", &pin))?;
        let call = BpfError::call("INFO", MapName::Reverse.as_str());
        let info = sys::map_info(fd.as_fd()).map_err(call)?;
        check_shape(&info, MapName::Reverse, || pin.clone())?;
        Ok(Self { map: Map::new(MapName::Reverse, fd) })
    }

    /// All records that are there from begin to end of the call.
    pub fn list(&self) -> Result<Vec<SocketRecord>> {
        let all = self.map.dump()?;
        Ok(all.iter().map(|(key, record)| SocketRecord::new(key, record)).collect())
    }

    /// Removes records; those that are gone count as removed.
    pub fn remove(&self, records: &[SocketRecord]) -> Result<()> {
        let keys: Vec<SocketKey> = records.iter().map(SocketRecord::key).collect();
        self.map.delete(&keys)
    }
}
