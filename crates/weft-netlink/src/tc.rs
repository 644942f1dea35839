//! eBPF programs as filters of a link (`tc filter … bpf direct-action` at `clsact`), for
//! kernels whose links take no programs of their own (before 6.6).

use crate::{
    error::{Result, tolerate},
    socket::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, Netlink},
    wire::{self, Message},
};
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// Size of `struct tcmsg`.
const TCMSG_LEN: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Where the pseudo discipline hangs, and its own number.
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;
/// Place of our filters among those of a link; the lowest comes first. The route protocol's
/// number, and the only one that we ever touch.
const PRIORITY: u32 = crate::PROTOCOL as u32;
const HANDLE: u32 = 1;

/// Where a link's filters are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// What the link received.
    Ingress,
    /// What the link will send.
    Egress,
}

impl TcHook {
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG_LEN] {
    let mut h = [0; TCMSG_LEN];
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    h[8..12].copy_from_slice(&handle.to_ne_bytes());
    h[12..16].copy_from_slice(&parent.to_ne_bytes());
    h[16..20].copy_from_slice(&info.to_ne_bytes());
    h
}

impl Netlink {
    /// Makes `program` our filter of a hook; the one that was there is replaced in one step.
    pub fn put_bpf_filter(
        &self,
        index: u32,
        hook: TcHook,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let mut m = Message::new(RTM_NEWQDISC, flags | NLM_F_EXCL).header(&tcmsg(
            index,
            CLSACT,
            TC_H_CLSACT,
            0,
        ));
        m.attr_str(TCA_KIND, "clsact");
        tolerate(self.request("create clsact of link", index, m).map(drop), &[libc::EEXIST])?;
        let info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        let mut m =
            Message::new(RTM_NEWTFILTER, flags).header(&tcmsg(index, HANDLE, hook.parent(), info));
        m.attr_str(TCA_KIND, "bpf").nest(TCA_OPTIONS, |o| {
            o.attr_u32(TCA_BPF_FD, program.as_raw_fd() as u32)
                .attr_str(TCA_BPF_NAME, name)
                .attr_u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
        });
        self.request("create filter of link", index, m).map(drop)
    }

    /// The kernel's number of the program in our filter of a hook; `None` where there is none.
    pub fn bpf_filter(&self, index: u32, hook: TcHook) -> Result<Option<u32>> {
        let m = Message::new(RTM_GETTFILTER, NLM_F_REQUEST | NLM_F_DUMP).header(&tcmsg(
            index,
            0,
            hook.parent(),
            0,
        ));
        let found = match self.dump("list filters", &m) {
            Ok(found) => found,
            // Without the discipline there are no filters.
            Err(e) if e.errno() == Some(libc::EINVAL) => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(found.iter().find_map(|m| {
            let (at, handle) = (wire::u32_at(&m.payload, 4)?, wire::u32_at(&m.payload, 8)?);
            let priority = wire::u32_at(&m.payload, 16)? >> 16;
            if m.kind != RTM_NEWTFILTER || (at, handle, priority) != (index, HANDLE, PRIORITY) {
                return None;
            }
            let options = |(kind, value)| (kind == TCA_OPTIONS).then_some(value);
            let options = wire::attrs_after(&m.payload, TCMSG_LEN).find_map(options)?;
            let id = |(kind, value)| (kind == TCA_BPF_ID).then(|| wire::u32_at(value, 0));
            wire::attrs(options).find_map(id)?
        }))
    }

    /// Removes the discipline of a link, and all filters with it; absent is fine.
    pub fn delete_clsact(&self, index: u32) -> Result<()> {
        let mut m = Message::new(RTM_DELQDISC, NLM_F_REQUEST | NLM_F_ACK).header(&tcmsg(
            index,
            CLSACT,
            TC_H_CLSACT,
            0,
        ));
        m.attr_str(TCA_KIND, "clsact");
        let gone = [libc::ENOENT, libc::EINVAL, libc::ENODEV];
        tolerate(self.request("delete clsact of link", index, m).map(drop), &gone)
    }
}
