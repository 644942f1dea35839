//! The CNI service: addresses and links of the node's pods.
//!
//! ADD: addresses from the journal → link → answer; what fails is undone. DEL: link → free
//! the addresses. Both can be repeated. Blocking: callers run it on a thread of its own, in
//! the node's network namespace.

use crate::{
    host_port::{HostPortError, HostPorts, Mapping, PodPorts},
    namespaces::PodNamespaces,
    pod::{self, PodLink},
    policy::{LocalLink, LocalPods, Subject},
    state::AppliedFabric,
};
use anyhow::Context;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};
use weft_bpf::{PodLinkSpec, PodLinks, PolicyMaps, PolicyPod};
use weft_cni::{
    AddResult, Attachment, CniError, Interface, IpConfig, Route, check_container_id, check_ifname,
    code,
};
use weft_fabric::ipam::{Ipam, IpamError, Key};
use weft_model::IpFamily;
use weft_netlink::{Netlink, netns};

/// What stands at pods' links.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The programs.
    pub links: PodLinks,
    /// What they judge by.
    pub policy: PolicyMaps,
}

/// The CNI service of one node.
pub struct CniService {
    netlink: Netlink,
    ipam: Mutex<Ipam>,
    /// For the node's end of each link, once they are loaded.
    programs: OnceLock<Programs>,
    locals: Arc<LocalPods>,
    host_ports: Mutex<HostPorts>,
    namespaces: Arc<PodNamespaces>,
    /// Requests about one attachment come one after another.
    busy: Mutex<BTreeMap<Key, Arc<Mutex<()>>>>,
}

/// What ADD made.
#[derive(Clone, Debug)]
pub struct Added {
    /// The answer.
    pub result: AddResult,
    /// The version of [`crate::state::State::host_ports`] that has the pod's.
    pub host_ports: u64,
    /// Index of the link; `None` before programs are loaded.
    pub link: Option<u32>,
}

/// One request about an attachment.
#[derive(Clone, Debug)]
pub struct Attach<'a> {
    /// Container id and interface name.
    pub key: &'a Key,
    /// Path of the pod's network namespace.
    pub netns: &'a str,
    /// Its host ports.
    pub host_ports: &'a [Mapping],
    /// Whose link it is.
    pub subject: &'a Subject,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A checked key.
pub fn key(container_id: &str, ifname: &str) -> Result<Key, CniError> {
    let invalid = |msg: String| CniError::new(code::INVALID_ENVIRONMENT, msg, "");
    check_container_id(container_id).map_err(invalid)?;
    check_ifname(ifname).map_err(invalid)?;
    Ok(Key { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
}

impl CniService {
    /// Restores the addresses from the journal at `journal`, and the pods' namespaces from the
    /// folder `netns` beside it.
    pub fn open(netlink: Netlink, journal: &Path, host_ports: HostPorts) -> anyhow::Result<Self> {
        let ipam = Ipam::open(journal)?;
        let held = |key: Key| ipam.get(&key).map(<[IpAddr]>::to_vec).map(|ips| (key, ips));
        let attached: Vec<(Key, Vec<IpAddr>)> = ipam.keys().into_iter().filter_map(held).collect();
        let ipam = Mutex::new(ipam);
        let dir = journal.with_file_name("netns");
        let name = |(key, _): &(Key, _)| pod::link_name(&key.container_id, &key.ifname);
        let names: BTreeSet<String> = attached.iter().map(name).collect();
        let namespaces = PodNamespaces::open(&dir, |name| names.contains(name))
            .with_context(|| format!("cannot read the pods' namespaces in {}", dir.display()))?;
        let dir = journal.with_file_name("pods");
        let locals = LocalPods::open(&dir, &netlink)
            .with_context(|| format!("cannot read whose the links are in {}", dir.display()))?;
        for (key, ips) in attached {
            let name = pod::link_name(&key.container_id, &key.ifname);
            // One whose link is gone waits for its DEL.
            if let Ok(index) = netlink.index_of(&name) {
                locals.insert_forgotten(&name, index, &ips);
            }
        }
        Ok(Self {
            netlink,
            ipam,
            programs: OnceLock::new(),
            locals: Arc::new(locals),
            host_ports: Mutex::new(host_ports),
            namespaces: Arc::new(namespaces),
            busy: Mutex::default(),
        })
    }

    /// Where the pods' namespaces are.
    pub(crate) fn namespaces(&self) -> Arc<PodNamespaces> {
        self.namespaces.clone()
    }

    /// Which link is which pod.
    pub fn locals(&self) -> Arc<LocalPods> {
        self.locals.clone()
    }

    /// From now on ADD attaches these to the link. (The agent lets no ADD through before.)
    pub fn set_programs(&self, programs: Programs) {
        // The first are the only ones: a load balancer is opened once.
        let _ = self.programs.set(programs);
    }

    /// Runs `f` while no other request about `key` runs.
    fn alone<T>(&self, key: &Key, f: impl FnOnce() -> T) -> T {
        let gate = lock(&self.busy).entry(key.clone()).or_default().clone();
        let held = lock(&gate);
        let result = f();
        drop(held);
        let mut busy = lock(&self.busy);
        // Two: the map's and ours. Nobody else waits, and nobody can come while we hold the map.
        if Arc::strong_count(&gate) == 2 {
            busy.remove(key);
        }
        result
    }

    /// ADD: idempotent.
    pub fn add(&self, fabric: &AppliedFabric, attach: &Attach<'_>) -> Result<Added, CniError> {
        self.alone(attach.key, || self.add_alone(fabric, attach))
    }

    fn add_alone(&self, fabric: &AppliedFabric, attach: &Attach<'_>) -> Result<Added, CniError> {
        let path = Path::new(attach.netns);
        if !netns::is_netns(path) {
            let msg = format!("CNI_NETNS '{}' is no network namespace", attach.netns);
            return Err(CniError::new(code::INVALID_ENVIRONMENT, msg, ""));
        }
        let (had, ips) = {
            let mut ipam = lock(&self.ipam);
            ipam.set_cidrs(&fabric.pod_cidrs);
            let had = ipam.get(attach.key).is_some();
            (had, ipam.allocate(attach.key, now_s()).map_err(|e| ipam_error(&e))?)
        };
        let ports = PodPorts { ips: ips.clone(), mappings: attach.host_ports.to_vec() };
        let link = self.link(fabric, attach, &ips);
        // A statement of its own, or the lock would be held while the link is made.
        let taken = lock(&self.host_ports).take(attach.key, ports);
        let made = taken.map_err(|e| host_port_error(&e)).and_then(|version| {
            let failed = |e: String| {
                CniError::new(code::SETUP_FAILED, "the pod's link could not be made", e)
            };
            let mac = pod::make(&self.netlink, &link).map_err(|e| failed(e.to_string()))?;
            let index = self.attach_programs(attach, &ips).map_err(failed)?;
            pod::bring_up(&self.netlink, &link).map_err(|e| failed(e.to_string()))?;
            let result = result(&link, mac.to_string());
            Ok(Added { result, host_ports: version, link: index })
        });
        match &made {
            Ok(_) => {
                let name = pod::link_name(&attach.key.container_id, &attach.key.ifname);
                if let Err(e) = self.namespaces.insert(&name, path) {
                    // The pod works; only sockets that a lost backend leaves hanging stay so.
                    warn!("cannot keep where the namespace of {name} is: {e}");
                }
                info!(container = %attach.key.container_id, ?ips, "pod attached");
            }
            // What an earlier ADD made stays: only a DEL may take it away.
            Err(_) if had => {}
            Err(_) => {
                if let Err(e) = self.del_alone(attach.key) {
                    warn!("cannot undo a failed ADD: {e}");
                }
            }
        }
        made
    }

    /// The programs at the node's end, before anything can send through it; they refuse all but
    /// the node until the pod is judged. The index of the link, where there are programs.
    fn attach_programs(&self, attach: &Attach<'_>, ips: &[IpAddr]) -> Result<Option<u32>, String> {
        let Some(programs) = self.programs.get() else { return Ok(None) };
        let name = pod::link_name(&attach.key.container_id, &attach.key.ifname);
        let index = self.netlink.index_of(&name).map_err(|e| e.to_string())?;
        let told = crate::reconcile::chain;
        if self.locals.get(&name, index).is_none() {
            let unknown = PolicyPod::unknown(index);
            programs.policy.put_pods(&[unknown]).map_err(|e| told(&e))?;
        }
        let cookie = netns::run_in(Path::new(attach.netns), weft_netlink::sock_diag::netns_cookie);
        let netns_cookie = cookie.and_then(|c| c).map_err(|e| e.to_string())?;
        let spec = PodLinkSpec {
            name: &name,
            index,
            ips,
            netns_cookie: Some(netns_cookie),
            opted_out: attach.subject.sockets_alone(),
        };
        programs.links.attach(&self.netlink, &spec).map_err(|e| told(&e))?;
        let Subject { owner, seed } = attach.subject.clone();
        let link = LocalLink { name: name.into(), index, ips: ips.to_vec(), owner, seed };
        let kept = self.locals.insert(link);
        kept.map_err(|e| format!("whose link it is cannot be written down: {e}"))?;
        Ok(Some(index))
    }

    /// Attaches programs that are missing at links that are there. How many links lacked
    /// some, and what failed.
    pub fn keep_programs(&self, programs: &PodLinks) -> (usize, Vec<weft_bpf::BpfError>) {
        let keys = lock(&self.ipam).keys();
        let (mut repaired, mut errors) = (0, Vec::new());
        for key in keys {
            let done = self.alone(&key, || {
                let ips = lock(&self.ipam).get(&key).map(<[IpAddr]>::to_vec);
                let name = pod::link_name(&key.container_id, &key.ifname);
                // One whose link is gone waits for its DEL.
                let (Some(ips), Ok(index)) = (ips, self.netlink.index_of(&name)) else {
                    return Ok(false);
                };
                let (netns_cookie, opted_out) = (None, false);
                let spec = PodLinkSpec { name: &name, index, ips: &ips, netns_cookie, opted_out };
                programs.attach(&self.netlink, &spec)
            });
            match done {
                Ok(changed) => repaired += usize::from(changed),
                Err(e) => errors.push(e),
            }
        }
        (repaired, errors)
    }

    fn link<'a>(
        &self,
        fabric: &'a AppliedFabric,
        attach: &Attach<'a>,
        ips: &'a [IpAddr],
    ) -> PodLink<'a> {
        PodLink {
            container_id: &attach.key.container_id,
            ifname: &attach.key.ifname,
            netns: Path::new(attach.netns),
            ips,
            mtu: fabric.pod_mtu,
            sources: &fabric.pod_sources,
        }
    }

    /// DEL: succeeds when things are gone.
    pub fn del(&self, key: &Key) -> Result<(), CniError> {
        self.alone(key, || self.del_alone(key))
    }

    fn del_alone(&self, key: &Key) -> Result<(), CniError> {
        let name = pod::link_name(&key.container_id, &key.ifname);
        let index = self.netlink.index_of(&name).ok();
        // First the link: an address that is free must not be in use.
        pod::detach(&self.netlink, &key.container_id, &key.ifname).map_err(|e| {
            CniError::new(code::TRY_AGAIN, "the pod's link could not be removed", e)
        })?;
        if let Err(e) = self.namespaces.remove(&name) {
            warn!("cannot forget where the namespace of {name} was: {e}");
        }
        if let Err(e) = self.locals.remove(&name) {
            warn!("cannot forget whose link {name} was: {e}");
        }
        if let Some(Err(e)) = self.programs.get().map(|p| p.links.forget(&name, index)) {
            // The next sweep tries again.
            warn!("link {name}: {}", crate::reconcile::chain(&e));
        }
        lock(&self.host_ports).release(key).map_err(|e| host_port_error(&e))?;
        let freed = lock(&self.ipam).release(key, now_s()).map_err(|e| ipam_error(&e))?;
        if !freed.is_empty() {
            info!(container = %key.container_id, ips = ?freed, "pod detached");
        }
        Ok(())
    }

    /// CHECK: compares what is with the result of ADD.
    pub fn check(
        &self,
        fabric: &AppliedFabric,
        attach: &Attach<'_>,
        previous: Option<&Value>,
    ) -> Result<(), CniError> {
        let failed = |msg: String| CniError::new(code::CHECK_FAILED, msg, "");
        let ips = lock(&self.ipam).get(attach.key).map(<[IpAddr]>::to_vec);
        let Some(ips) = ips else {
            let msg = format!("container {} has no address", attach.key.container_id);
            return Err(CniError::new(code::UNKNOWN_CONTAINER, msg, ""));
        };
        if let Some(previous) = previous {
            let previous: AddResult = serde_json::from_value(previous.clone())
                .map_err(|e| CniError::new(code::DECODE, "prevResult cannot be read", e))?;
            let told = previous.addresses();
            if let Some(ip) = ips.iter().find(|ip| !told.contains(ip)) {
                return Err(failed(format!("prevResult does not have the address {ip}")));
            }
        }
        pod::check(&self.netlink, &self.link(fabric, attach, &ips)).map_err(failed)
    }

    /// GC: releases what is not in `valid`, and removes pod links that belong to nobody.
    pub fn gc(&self, valid: &[Attachment]) -> Result<(), CniError> {
        let valid: BTreeSet<Key> = valid
            .iter()
            .map(|a| Key { container_id: a.container_id.clone(), ifname: a.ifname.clone() })
            .collect();
        let keys = lock(&self.ipam).keys();
        keys.difference(&valid).try_for_each(|key| self.del(key))?;
        let named: BTreeSet<String> = lock(&self.ipam)
            .keys()
            .iter()
            .chain(&valid)
            .map(|k| pod::link_name(&k.container_id, &k.ifname))
            .collect();
        let failed = |e| CniError::new(code::TRY_AGAIN, "pod links could not be collected", e);
        for link in self.netlink.links().map_err(failed)? {
            if link.name.starts_with(weft_fabric::POD_LINK_PREFIX) && !named.contains(&link.name) {
                self.netlink.delete_link(&link.name).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// How full the pools are, and how many attachments there are.
    pub fn usage(&self) -> (Value, usize) {
        let ipam = lock(&self.ipam);
        (json!(ipam.usage()), ipam.keys().len())
    }
}

fn ipam_error(e: &IpamError) -> CniError {
    let (number, msg) = match e {
        IpamError::NoPools => (code::TRY_AGAIN, "the node has no pod CIDR yet"),
        IpamError::Exhausted { .. } => (code::NO_ADDRESS, "no free address"),
        IpamError::Journal(_) => (code::IO, "the address journal cannot be written"),
    };
    CniError::new(number, msg, e)
}

fn host_port_error(e: &HostPortError) -> CniError {
    let (number, msg) = match e {
        HostPortError::Taken { .. } => (code::PORT_TAKEN, "a host port is taken"),
        HostPortError::File { .. } => (code::IO, "the host ports cannot be written down"),
    };
    CniError::new(number, msg, e)
}

fn result(link: &PodLink<'_>, mac: String) -> AddResult {
    let name = pod::link_name(link.container_id, link.ifname);
    let mtu = Some(link.mtu);
    let node_side = Interface { name, mtu, ..Interface::default() };
    let pod_side = Interface {
        name: link.ifname.to_owned(),
        mac,
        mtu,
        sandbox: link.netns.display().to_string(),
    };
    let families = link.ips.iter().map(|ip| pod::gateway(IpFamily::of(*ip)));
    AddResult {
        interfaces: vec![node_side, pod_side],
        ips: link
            .ips
            .iter()
            .map(|ip| IpConfig {
                version: None,
                address: IpNet::from(*ip),
                gateway: Some(pod::gateway(IpFamily::of(*ip))),
                interface: Some(1),
            })
            .collect(),
        routes: families
            .map(|gw| Route { dst: weft_netlink::Route::default_of(gw), gw: Some(gw) })
            .collect(),
        ..AddResult::default()
    }
}
