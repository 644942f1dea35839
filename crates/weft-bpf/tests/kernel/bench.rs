//! Single packets through the programs at a link, by `BPF_PROG_TEST_RUN`: no socket and no other
//! part of the stack has a say.

use crate::links::{Node, ip};
use std::{
    ffi::CString,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use weft_bpf::PodLinkSpec;
use weft_bpf_abi::LAYOUT_VERSION;
use weft_netlink::VethSpec;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Commands of `bpf(2)`.
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a live struct of the size that is given; its pointers are to live buffers.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut::<T>(attr), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

pub fn obj_get(path: &Path) -> OwnedFd {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut attr = [path.as_ptr() as u64, 0];
    let fd = bpf(OBJ_GET, &mut attr).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// What a program says of a packet at a link.
fn run(program: &OwnedFd, packet: &[u8], link: u32, mark: u32) -> u32 {
    // The start of `struct __sk_buff`: mark is the third word, ifindex the eleventh.
    let mut context = [0u32; 12];
    context[2] = mark;
    context[10] = link;
    let mut attr = TestAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr).expect("test run");
    attr.retval
}

/// A pod's link without a pod.
pub struct Bench {
    pub name: String,
    pub link: u32,
    pub ips: [IpAddr; 2],
    bpf_dir: PathBuf,
    programs: [OwnedFd; 2],
}

impl Bench {
    pub fn new(node: &Node) -> Self {
        let n = node.number();
        let (name, peer) = (format!("wv{n}"), format!("wp{n}"));
        let spec = VethSpec {
            name: &name,
            peer_name: &peer,
            peer_netns: None,
            mtu: None,
            mac: None,
            peer_mac: None,
        };
        node.netlink.create_veth(&spec).expect("link");
        let link = node.netlink.index_of(&name).expect("index");
        let ips = [ip(&format!("10.244.1.{}", 10 + n)), ip(&format!("fd00:1::{}", 10 + n))];
        let bpf_dir = node.options.bpf_dir.clone();
        let programs = programs(&bpf_dir);
        let bench = Self { name, link, ips, bpf_dir, programs };
        bench.call(node, &ips);
        bench
    }

    /// Gives the pod these addresses.
    pub fn call(&self, node: &Node, ips: &[IpAddr]) {
        let (netns_cookie, opted_out) = (None, false);
        let spec = PodLinkSpec { name: &self.name, index: self.link, ips, netns_cookie, opted_out };
        node.links().attach(&node.netlink, &spec).expect("attach");
    }

    /// After maps grew, or an agent began anew.
    pub fn renew(&mut self) {
        self.programs = programs(&self.bpf_dir);
    }

    fn passes(&self, n: usize, packet: &[u8], mark: u32) -> bool {
        match run(&self.programs[n], packet, self.link, mark) {
            TC_ACT_UNSPEC | TC_ACT_REDIRECT => true,
            TC_ACT_SHOT => false,
            other => panic!("the program says {other}"),
        }
    }

    /// Whether the pod may send it.
    pub fn sends(&self, packet: &[u8]) -> bool {
        self.passes(0, packet, 0)
    }

    /// Whether the pod may get it.
    pub fn gets(&self, packet: &[u8], mark: u32) -> bool {
        self.passes(1, packet, mark)
    }

    /// The conversation of the pod's address of a family with `peer`.
    pub fn with(&self, peer: &str) -> Talk<'_> {
        let peer = ip(peer);
        Talk { bench: self, own: self.ips[usize::from(peer.is_ipv6())], peer }
    }
}

fn programs(bpf_dir: &Path) -> [OwnedFd; 2] {
    let dir = bpf_dir.join(format!("v{LAYOUT_VERSION}/programs"));
    ["from_pod", "to_pod"].map(|name| obj_get(&dir.join(name)))
}

/// A pod's conversation with somebody.
#[derive(Clone, Copy)]
pub struct Talk<'a> {
    bench: &'a Bench,
    pub own: IpAddr,
    pub peer: IpAddr,
}

impl Talk<'_> {
    pub fn out(&self, load: &Load) -> bool {
        self.bench.sends(&packet(self.own, self.peer, load, &Way::Plain))
    }

    pub fn back(&self, load: &Load) -> bool {
        self.marked(load, 0)
    }

    pub fn marked(&self, load: &Load, mark: u32) -> bool {
        self.bench.gets(&packet(self.peer, self.own, load, &Way::Plain), mark)
    }

    pub fn out_by(&self, load: &Load, way: &Way) -> bool {
        self.bench.sends(&packet(self.own, self.peer, load, way))
    }

    pub fn back_by(&self, load: &Load, way: &Way) -> bool {
        self.bench.gets(&packet(self.peer, self.own, load, way), 0)
    }
}

/// What a packet carries: source port, destination port, and more.
#[derive(Clone, Debug)]
pub enum Load {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    Sctp(u16, u16, u8),
    Ask(u16),
    Answer(u16),
    /// An ICMP error about this packet (with its Ethernet header).
    Error(Vec<u8>),
    /// Another ICMPv6 message, and its hop limit.
    Message(u8, u8),
    Other(u8),
}

/// How it is packed.
#[derive(Clone, Debug)]
pub enum Way {
    Plain,
    /// IPv4 options, or so many extension headers.
    Headers(u8),
    /// A fragment: number, offset in eight bytes, whether more follow.
    Fragment(u16, u16, bool),
    /// Cut behind so many bytes of the transport header.
    Short(usize),
}

impl Load {
    fn lower(&self, v4: bool) -> (u8, Vec<u8>) {
        let ports = |s: &u16, d: &u16| [s.to_be_bytes(), d.to_be_bytes()].concat();
        let icmp = |kind: u8, id: u16| {
            let [a, b] = id.to_be_bytes();
            (if v4 { 1 } else { 58 }, vec![kind, 0, 0, 0, a, b, 0, 1, 7, 7])
        };
        match self {
            Self::Tcp(s, d, flags) => {
                let mut bytes = ports(s, d);
                bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, *flags, 0, 9, 0, 0, 0, 0]);
                (6, bytes)
            }
            Self::Udp(s, d) => (17, [ports(s, d), vec![0, 8, 0, 0]].concat()),
            Self::Sctp(s, d, chunk) => {
                (132, [ports(s, d), vec![0, 0, 0, 9, 0, 0, 0, 0, *chunk, 0, 0, 4]].concat())
            }
            Self::Ask(id) => icmp(if v4 { 8 } else { 128 }, *id),
            Self::Answer(id) => icmp(if v4 { 0 } else { 129 }, *id),
            Self::Message(kind, _) => icmp(*kind, 0),
            Self::Error(about) => {
                let (protocol, mut bytes) = icmp(if v4 { 3 } else { 1 }, 0);
                bytes.truncate(8);
                bytes.extend(&about[14..]);
                (protocol, bytes)
            }
            Self::Other(protocol) => (*protocol, vec![1; 16]),
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A packet with its Ethernet header. No checksum is right: no program looks.
pub fn packet(src: IpAddr, dst: IpAddr, load: &Load, way: &Way) -> Vec<u8> {
    let v4 = src.is_ipv4();
    let (protocol, mut rest) = load.lower(v4);
    let hops = if let Load::Message(_, hops) = load { *hops } else { 64 };
    if let Way::Short(len) = way {
        rest.truncate(*len);
    }
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if v4 {
        let options = if let Way::Headers(words) = way { usize::from(*words) } else { 0 };
        let (id, offset) = match way {
            Way::Fragment(id, offset, more) => (*id, offset | u16::from(*more) << 13),
            _ => (1, 0),
        };
        let len = (20 + options * 4 + rest.len()) as u16;
        bytes.extend([8, 0, 0x45 + options as u8, 0]);
        bytes.extend(len.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend([hops, protocol, 0, 0]);
        bytes.extend(octets(src));
        bytes.extend(octets(dst));
        bytes.extend(std::iter::repeat_n(1, options * 4));
    } else {
        let mut next = protocol;
        let mut headers = Vec::new();
        match way {
            Way::Headers(count) => {
                for _ in 0..*count {
                    headers.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
                    next = 60;
                }
            }
            Way::Fragment(id, offset, more) => {
                let [a, b] = (offset << 3 | u16::from(*more)).to_be_bytes();
                let [c, d] = id.to_be_bytes();
                headers = vec![next, 0, a, b, 0, 0, c, d];
                next = 44;
            }
            _ => {}
        }
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(((headers.len() + rest.len()) as u16).to_be_bytes());
        bytes.extend([next, hops]);
        bytes.extend(octets(src));
        bytes.extend(octets(dst));
        bytes.extend(headers);
    }
    bytes.extend(rest);
    bytes
}
