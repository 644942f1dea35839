//! Writing packets, and their checksums by the difference.
//!
//! A checksum that the sending kernel has left to the link (CHECKSUM_PARTIAL) holds only the
//! sum of the pseudo header: the kernel's helper knows, and changes it for addresses and not
//! for ports. SCTP's is 0 in that case, by which it is known.

use super::{
    Place,
    packet::{self, Fragment, L3, Packet, load},
};
use crate::maps::TC_CONFIG;
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes,
};
use weft_bpf_abi::{Addr, PROTO_SCTP, PROTO_TCP, PROTO_UDP, crc32c};

const BPF_F_INVALIDATE_HASH: u64 = 2;
const BPF_F_PSEUDO_HDR: u64 = 16;
const BPF_F_MARK_MANGLED_0: u64 = 32;

/// Stores a value at an offset.
#[inline(always)]
pub fn store<T: Copy>(at: &Place, offset: u32, value: &T) -> Result<(), ()> {
    let from = core::ptr::from_ref(value).cast();
    // SAFETY: the helper reads as many bytes as the value has.
    let done = unsafe {
        bpf_skb_store_bytes(at.skb, offset, from, size_of::<T>() as u32, BPF_F_INVALIDATE_HASH)
    };
    if done < 0 { Err(()) } else { Ok(()) }
}

/// The difference of two texts, for the checksum helpers.
#[inline(always)]
pub fn difference<const N: usize>(old: &[u32; N], new: &[u32; N], seed: u32) -> u32 {
    let size = (N * 4) as u32;
    let (old, new) = (old.as_ptr().cast_mut(), new.as_ptr().cast_mut());
    // SAFETY: the helper reads as many bytes as the texts have.
    unsafe { bpf_csum_diff(old, size, new, size, seed) as u32 }
}

/// Changes a transport checksum (also ICMP's) by a difference.
#[inline(always)]
pub fn add_difference(at: &Place, offset: u32, difference: u32, flags: u64) -> Result<(), ()> {
    // SAFETY: the kernel's context.
    let done = unsafe { bpf_l4_csum_replace(at.skb, offset, 0, difference as u64, flags) };
    if done < 0 { Err(()) } else { Ok(()) }
}

/// Replaces the addresses, and in IPv4 the header's checksum. The result is the difference
/// that the pseudo header makes.
#[inline(always)]
pub fn addresses(at: &Place, packet: &Packet, src: &[u32; 4], dst: &[u32; 4]) -> Result<u32, ()> {
    if packet.v4 {
        let (old, new) = ([packet.src[3], packet.dst[3]], [src[3], dst[3]]);
        let difference = difference(&old, &new, 0);
        // SAFETY: the kernel's context.
        let done = unsafe { bpf_l3_csum_replace(at.skb, L3 + 10, 0, difference as u64, 0) };
        if done < 0 {
            return Err(());
        }
        store(at, L3 + 12, &new)?;
        Ok(difference)
    } else {
        let first = difference(&packet.src, src, 0);
        let difference = difference(&packet.dst, dst, first);
        store(at, L3 + 8, src)?;
        store(at, L3 + 24, dst)?;
        Ok(difference)
    }
}

/// Replaces addresses and ports of a packet that has its transport header.
#[inline(always)]
pub fn packet(at: &Place, packet: &Packet, src: &Addr, dst: &Addr) -> Result<(), ()> {
    let ports = packet::ports(src.port, dst.port);
    if packet.protocol == PROTO_SCTP && ports != packet.ports {
        sctp(at, packet, ports)?;
    }
    let pseudo = addresses(at, packet, &src.ip, &dst.ip)?;
    let (offset, flags) = match packet.protocol {
        PROTO_TCP => (packet.at + 16, 0),
        PROTO_UDP => (packet.at + 6, BPF_F_MARK_MANGLED_0),
        _ => return store(at, packet.at, &ports),
    };
    add_difference(at, offset, pseudo, BPF_F_PSEUDO_HDR | flags)?;
    if ports == packet.ports {
        return Ok(());
    }
    // SAFETY: the kernel's context.
    let done = unsafe {
        bpf_l4_csum_replace(at.skb, offset, packet.ports as u64, ports as u64, 4 | flags)
    };
    if done < 0 {
        return Err(());
    }
    store(at, packet.at, &ports)
}

/// SCTP's checksum covers neither addresses nor a pseudo header, but the ports.
#[inline(always)]
fn sctp(at: &Place, packet: &Packet, ports: u32) -> Result<(), ()> {
    if packet.fragment != Fragment::Whole {
        // It depends on a length that the first fragment does not know.
        return Err(());
    }
    let old = load::<u32>(at, packet.at + 8).ok_or(())?;
    if old == 0 {
        return Ok(());
    }
    let config = TC_CONFIG.get(0).ok_or(())?;
    let mut remainder = ports ^ packet.ports;
    let mut bit = 0;
    while bit < crc32c::LENGTH_BITS {
        let product = multiply(remainder, config.powers[bit]);
        if packet.len >> bit & 1 != 0 {
            remainder = product;
        }
        bit += 1;
    }
    store(at, packet.at + 8, &(old ^ remainder))
}

/// A program of its own for the verifier, walked through sixteen times; in line it would be
/// unrolled as often. Its name is plain: the compiler's own would hold a hash of the folder
/// that it is built in, and the object would be another in each.
#[inline(never)]
#[unsafe(export_name = "weft_crc32c_multiply")]
extern "C" fn multiply(a: u32, b: u32) -> u32 {
    crc32c::multiply(a, b)
}

/// Swaps the Ethernet addresses.
#[inline(always)]
pub fn turn_round(at: &Place) -> Result<(), ()> {
    let old = load::<[u16; 6]>(at, 0).ok_or(())?;
    store(at, 0, &[old[3], old[4], old[5], old[0], old[1], old[2]])
}
