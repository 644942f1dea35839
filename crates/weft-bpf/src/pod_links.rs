//! The programs at the pods' links, on the node's side.
//!
//! A link is attached in this order: its addresses into the map, then the programs; so that
//! they never see a link that they do not know. They stay while no agent runs: pinned links
//! (tcx, Linux 6.6), or filters of the link itself.

use crate::{
    BpfError, Result,
    lb::sum,
    map::Map,
    object::{Hook, LINK_HOOKS, Loaded},
    pins::Pins,
    sys,
};
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};
use weft_bpf_abi::{Addr, MapName, PodPolicy, PodValue, RANGES_MAX, TcConfig, TcCounter};
use weft_netlink::{Netlink, TcHook};

/// How a program is attached to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkAttach {
    /// By a link of its own, Linux 6.6.
    Tcx,
    /// As a filter of `clsact`.
    Clsact,
}

/// One pod's link on the node's side.
#[derive(Clone, Copy, Debug)]
pub struct PodLinkSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index in the calling thread's network namespace.
    pub index: u32,
    /// The pod's addresses, at most one a family.
    pub ips: &'a [IpAddr],
    /// Cookie of the pod's network namespace, where it is known. A link that is known already
    /// keeps what was said of it.
    pub netns_cookie: Option<u64>,
    /// Whether the socket hooks leave the pod alone.
    pub opted_out: bool,
}

/// Counters since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcStats {
    /// Flows that were begun.
    pub flows: u64,
    /// Packets from pods whose Service address was replaced.
    pub translated: u64,
    /// Packets to pods that got it back.
    pub reversed: u64,
    /// Beginnings of flows to a Service address without backends.
    pub no_backend: u64,
    /// Packets with a foreign source, dropped.
    pub spoofed: u64,
    /// Packets that could not be rewritten.
    pub errors: u64,
}

#[derive(Debug)]
struct Program {
    hook: Hook,
    fd: OwnedFd,
    id: u32,
}

#[derive(Debug)]
struct Inner {
    attach: LinkAttach,
    pins: PathBuf,
    /// Others after maps grew.
    programs: RwLock<Arc<[Program]>>,
    config: Map<u32, TcConfig>,
    pods: Map<u32, PodValue>,
    opt_out: Map<u64, u32>,
    /// Never replaced by a larger one.
    policy: Map<u32, PodPolicy>,
    counters: OwnedFd,
}

/// The programs and their maps; clones are the same. The pins are of the load balancer that
/// this comes from.
#[derive(Clone, Debug)]
pub struct PodLinks(Arc<Inner>);

impl PodLinks {
    /// Passes the programs through the verifier, or takes over those that are pinned.
    pub(crate) fn open(
        loaded: &mut Loaded,
        pins: &Pins,
        attach: Option<LinkAttach>,
    ) -> Result<Self> {
        let programs = open_programs(loaded, pins)?;
        let best = || match sys::tcx_is_known(programs[0].fd.as_fd()) {
            Ok(()) => LinkAttach::Tcx,
            Err(_) => LinkAttach::Clsact,
        };
        let mut map = |name| loaded.map(name);
        let config = Map::new(MapName::TcConfig, map(MapName::TcConfig)?);
        // A map that was just made is zero: then every address would be a Service's, about which
        // no policy is.
        if config.get(0)?.is_none_or(|c: TcConfig| c.powers != TcConfig::EMPTY.powers) {
            config.put(&[(0, TcConfig::EMPTY)])?;
        }
        Ok(Self(Arc::new(Inner {
            attach: attach.unwrap_or_else(best),
            pins: pins.pods(),
            config,
            pods: Map::new(MapName::Pods, map(MapName::Pods)?),
            opt_out: Map::new(MapName::OptOut, map(MapName::OptOut)?),
            policy: Map::new(MapName::PodPolicy, map(MapName::PodPolicy)?),
            counters: map(MapName::TcCounters)?,
            programs: RwLock::new(programs),
        })))
    }

    fn programs(&self) -> Arc<[Program]> {
        self.0.programs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the programs at all links by such that use the maps that are pinned now.
    pub(crate) fn renew(&self, loaded: &Loaded, pins: &Pins) -> Result<()> {
        let programs = open_programs(loaded, pins)?;
        *self.0.programs.write().unwrap_or_else(PoisonError::into_inner) = programs.clone();
        match self.0.attach {
            LinkAttach::Tcx => {
                for pin in self.pins()? {
                    let at = |p: &&Program| pin.ends_with(&format!("-{}", p.hook.pin));
                    let Some(program) = programs.iter().find(at) else { continue };
                    let link = sys::obj_get(&self.0.pins.join(&pin));
                    let renewed =
                        link.and_then(|l| sys::link_update(l.as_fd(), program.fd.as_fd()));
                    // A link that went with its pod is dead.
                    if let Err(error) = renewed {
                        tracing::debug!(pin, %error, "the program of a link is not replaced");
                    }
                }
            }
            LinkAttach::Clsact => {
                let any = |source| BpfError::Link { link: "(any)".to_owned(), source };
                let netlink = Netlink::open().map_err(any)?;
                for (index, _) in self.0.pods.dump()? {
                    for (program, hook) in programs.iter().zip([TcHook::Ingress, TcHook::Egress]) {
                        let (name, fd) = (program.hook.program, program.fd.as_fd());
                        if let Err(error) = netlink.put_bpf_filter(index, hook, name, fd) {
                            tracing::debug!(index, %error, "the filter of a link is not replaced");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// How programs are attached on this kernel.
    pub fn attach_kind(&self) -> LinkAttach {
        self.0.attach
    }

    /// Says which addresses are Services', and which of the node's stand for a pod that
    /// reaches itself. `true` if that was not so before.
    pub fn configure(&self, services: &[IpNet], routers: &[IpAddr]) -> Result<bool> {
        let config = lower(services, routers);
        if self.0.config.get(0)? == Some(config) {
            return Ok(false);
        }
        self.0.config.put(&[(0, config)])?;
        Ok(true)
    }

    /// Attaches the programs to a link, or finds them there. `true` if anything was missing.
    /// `netlink` and the calling thread are in the link's namespace.
    pub fn attach(&self, netlink: &Netlink, link: &PodLinkSpec<'_>) -> Result<bool> {
        let mut changed = self.admit(link)?;
        for (n, program) in self.programs().iter().enumerate() {
            changed |= match self.0.attach {
                LinkAttach::Tcx => self.attach_tcx(program, link, sys::TCX[n])?,
                LinkAttach::Clsact => {
                    let hook = [TcHook::Ingress, TcHook::Egress][n];
                    attach_filter(netlink, program, link, hook)?
                }
            };
        }
        Ok(changed)
    }

    /// Stores what the programs and hooks know of a pod.
    fn admit(&self, link: &PodLinkSpec<'_>) -> Result<bool> {
        let words = |ip: &IpAddr| Addr::from_socket((*ip, 0).into(), 0);
        let v4 = link.ips.iter().find(|ip| ip.is_ipv4()).and_then(|ip| words(ip).as_v4());
        let v6 = link.ips.iter().find(|ip| ip.is_ipv6()).map(|ip| words(ip).ip);
        let (v4, v6) = (v4.unwrap_or(0), v6.unwrap_or_default());
        if self.0.pods.get(link.index)?.is_some_and(|p| (p.v4, p.v6) == (v4, v6)) {
            return Ok(false);
        }
        let client = link.netns_cookie.unwrap_or(PodValue::MADE_UP | u64::from(link.index));
        self.0.pods.put(&[(link.index, PodValue { client, has_flows: 0, v4, v6 })])?;
        // Behind the pod: one whose client no pod has is an orphan.
        if link.opted_out {
            self.0.opt_out.put(&[(client, 1)])?;
        } else {
            self.0.opt_out.delete(&[client])?;
        }
        Ok(true)
    }

    fn attach_tcx(
        &self,
        program: &Program,
        link: &PodLinkSpec<'_>,
        attach_type: u32,
    ) -> Result<bool> {
        let pin = self.0.pins.join(format!("{}-{}", link.name, program.hook.pin));
        match sys::obj_get(&pin) {
            Ok(old) => {
                let info = sys::tcx_info(old.as_fd()).map_err(BpfError::call("INFO", link.name))?;
                if (info.ifindex, info.attach_type) == (link.index, attach_type) {
                    if info.prog_id == program.id {
                        return Ok(false);
                    }
                    return sys::link_update(old.as_fd(), program.fd.as_fd())
                        .map(|()| true)
                        .map_err(BpfError::call("LINK_UPDATE", link.name));
                }
                // Detached by somebody, or of an earlier link of that name.
                remove_pin(&pin)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(BpfError::file("open", pin)(e)),
        }
        let made = sys::tcx_create(program.fd.as_fd(), link.index, attach_type)
            .map_err(BpfError::call("LINK_CREATE", link.name))?;
        sys::obj_pin(made.as_fd(), &pin).map_err(BpfError::file("pin", pin))?;
        Ok(true)
    }

    /// Forgets a link that is gone, and its programs with it.
    pub fn forget(&self, name: &str, index: Option<u32>) -> Result<()> {
        for program in self.programs().iter() {
            remove_pin(&self.0.pins.join(format!("{name}-{}", program.hook.pin)))?;
        }
        if let Some(index) = index {
            if let Some(pod) = self.0.pods.get(index)? {
                self.0.opt_out.delete(&[pod.client])?;
            }
            self.0.pods.delete(&[index])?;
            // Last: without it everything passes.
            self.0.policy.delete(&[index])?;
        }
        Ok(())
    }

    /// Forgets all links that are not in `netlink`'s namespace any more.
    pub fn sweep(&self, netlink: &Netlink) -> Result<usize> {
        // What is known before what is there, and who opted out before the pods: a link that
        // is attached meanwhile is not taken for gone.
        let pins = self.pins()?;
        let opted_out = self.0.opt_out.dump()?;
        let pods = self.0.pods.dump()?;
        let policies = self.0.policy.dump()?;
        let links = netlink
            .links()
            .map_err(|source| BpfError::Link { link: "(any)".to_owned(), source })?;
        let (names, indexes): (BTreeSet<String>, BTreeSet<u32>) =
            links.into_iter().map(|l| (l.name, l.index)).unzip();
        let mut gone = 0;
        for (index, pod) in &pods {
            if !indexes.contains(index) {
                self.0.opt_out.delete(&[pod.client])?;
                self.0.pods.delete(&[*index])?;
                gone += 1;
            }
        }
        let gone_policies = policies.iter().map(|(i, _)| *i).filter(|i| !indexes.contains(i));
        self.0.policy.delete(&gone_policies.collect::<Vec<_>>())?;
        let clients: BTreeSet<u64> = pods.iter().map(|(_, p)| p.client).collect();
        let orphans = opted_out.into_iter().map(|(c, _)| c).filter(|c| !clients.contains(c));
        self.0.opt_out.delete(&orphans.collect::<Vec<_>>())?;
        for pin in pins {
            let link = pin.rsplit_once('-').map_or("", |(link, _)| link);
            if !names.contains(link) {
                remove_pin(&self.0.pins.join(&pin))?;
            }
        }
        Ok(gone)
    }

    fn pins(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.0.pins).map_err(BpfError::file("read", &self.0.pins))?;
        Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
    }

    /// How many links are known, and how many of them the socket hooks leave alone.
    pub fn count(&self) -> Result<(usize, usize)> {
        Ok((self.0.pods.dump()?.len(), self.0.opt_out.dump()?.len()))
    }

    /// What applies to each pod, by its link.
    pub(crate) fn policy(&self) -> &Map<u32, PodPolicy> {
        &self.0.policy
    }

    /// Sum over all CPUs of one counter.
    pub(crate) fn counter(&self, counter: TcCounter) -> Result<u64> {
        sum(self.0.counters.as_fd(), MapName::TcCounters, counter as u32)
    }

    /// Counters of the data path.
    pub fn stats(&self) -> Result<TcStats> {
        let of = |c: TcCounter| self.counter(c);
        Ok(TcStats {
            flows: of(TcCounter::Flows)?,
            translated: of(TcCounter::Translated)?,
            reversed: of(TcCounter::Reversed)?,
            no_backend: of(TcCounter::NoBackend)?,
            spoofed: of(TcCounter::Spoofed)?,
            errors: of(TcCounter::Errors)?,
        })
    }
}

fn open_programs(loaded: &Loaded, pins: &Pins) -> Result<Arc<[Program]>> {
    LINK_HOOKS.iter().map(|hook| open_program(loaded, pins, hook)).collect()
}

/// Loads a program, and keeps the pinned one if it is the same, instructions and maps:
/// the kernel's number then says whether a link has it already.
fn open_program(loaded: &Loaded, pins: &Pins, hook: &Hook) -> Result<Program> {
    let mut fd = loaded.program(hook)?;
    let pin = pins.program(hook.pin);
    let info = |e| BpfError::call("INFO", hook.program)(e);
    match sys::obj_get(&pin) {
        Ok(old) if sys::prog_identity(old.as_fd()).ok() == sys::prog_identity(fd.as_fd()).ok() => {
            fd = old;
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(BpfError::file("open", pin)(e));
        }
        found => {
            if found.is_ok() {
                remove_pin(&pin)?;
            }
            sys::obj_pin(fd.as_fd(), &pin).map_err(BpfError::file("pin", &pin))?;
        }
    }
    let id = sys::prog_id(fd.as_fd()).map_err(info)?;
    Ok(Program { hook: *hook, fd, id })
}

fn attach_filter(
    netlink: &Netlink,
    program: &Program,
    link: &PodLinkSpec<'_>,
    hook: TcHook,
) -> Result<bool> {
    let failed = |source| BpfError::Link { link: link.name.to_owned(), source };
    if netlink.bpf_filter(link.index, hook).map_err(failed)? == Some(program.id) {
        return Ok(false);
    }
    netlink
        .put_bpf_filter(link.index, hook, program.hook.program, program.fd.as_fd())
        .map(|()| true)
        .map_err(failed)
}

fn remove_pin(pin: &std::path::Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(BpfError::file("remove", pin)(e)),
        _ => Ok(()),
    }
}

/// Those of the Service ranges that [`PodLinks::configure`] has no room for.
pub fn ranges_left_out(services: &[IpNet]) -> impl Iterator<Item = IpNet> + '_ {
    [true, false].into_iter().flat_map(move |v4| {
        services.iter().filter(move |s| s.addr().is_ipv4() == v4).skip(RANGES_MAX).copied()
    })
}

/// The kernel's form of ranges and router addresses.
fn lower(services: &[IpNet], routers: &[IpAddr]) -> TcConfig {
    let words = |ip: IpAddr| Addr::from_socket((ip, 0).into(), 0).ip;
    let mut config = TcConfig::EMPTY;
    let of_family = |v4: bool| services.iter().filter(move |s| s.addr().is_ipv4() == v4);
    for (to, range) in config.v4.iter_mut().zip(of_family(true)) {
        *to = [words(range.network())[3], words(range.netmask())[3]];
    }
    for (to, range) in config.v6.iter_mut().zip(of_family(false)) {
        *to = [words(range.network()), words(range.netmask())];
    }
    for router in routers {
        let to = &mut config.routers[usize::from(router.is_ipv6())];
        if *to == [0; 4] {
            *to = words(*router);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_routers_are_words_of_the_kernel() {
        let services = ["10.96.0.0/16", "fd00:10:96::/112"].map(|s| s.parse().expect("range"));
        let routers = ["10.244.1.1", "fd00:10:244:1::1"].map(|s| s.parse().expect("address"));
        let config = lower(&services, &routers);
        let word = |bytes| u32::from_ne_bytes(bytes);
        assert_eq!(config.v4[0], [word([10, 96, 0, 0]), word([255, 255, 0, 0])]);
        assert_eq!(config.v4[1], TcConfig::NONE);
        assert_eq!(config.v6[0][1], [u32::MAX, u32::MAX, u32::MAX, word([255, 255, 0, 0])]);
        assert_eq!(config.routers[0][2..], [word([0, 0, 255, 255]), word([10, 244, 1, 1])]);
        assert_eq!(config.routers[1][0], word([0xfd, 0, 0, 0x10]));
        // A dual-stack netmask would not be one of IPv4: only the last word counts there.
        assert_eq!(lower(&[], &[]), TcConfig::EMPTY);
    }
}
