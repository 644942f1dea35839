//! Real packets for expectations: sent from inside the pods of a lab, answered inside others.

use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_lab::{
    nodes::Place,
    paths::LabPaths,
    probe::{
        Probe,
        doors::Door,
        knock::{Carrier, Heard, Knock},
    },
    proc::CgroupMounts,
    state::LabState,
    topology,
};
use weft_model::{NamespacedName, Protocol};
use weft_policy::Transport;
use weft_policy_cli::{
    Documents, Party,
    observed::{Seen, Try},
};

/// How long an answer may take: denied packets cost this time, for each 400 of one sender.
const TIMEOUT_MS: u64 = 2_000;

/// A lab whose pods send and answer.
pub struct LabPackets {
    paths: LabPaths,
    /// Where the processes of each pod live: its namespace and cgroup, and its node.
    pods: BTreeMap<NamespacedName, (Place, String)>,
    probes: BTreeMap<Party, Probe>,
    cgroups: Vec<std::path::PathBuf>,
    /// The client outside.
    pub outside: Vec<IpAddr>,
}

impl LabPackets {
    /// Finds the pods among a lab's objects.
    pub fn new(paths: LabPaths, objects: &Documents) -> Result<Self> {
        let state = LabState::read(&paths)?.context("the lab has gone")?;
        let client = topology::plan(&state.config).client;
        let mut pods = BTreeMap::new();
        for object in objects.objects.iter().filter(|o| o.kind() == "Pod") {
            let (meta, spec) = (&object.value["metadata"], &object.value["spec"]);
            let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
            let (node, uid) = (text(&spec["nodeName"]), text(&meta["uid"]));
            let netns = match spec["hostNetwork"] == true {
                true => paths.netns(&node),
                false => paths.node(&node).join("pods").join(&uid).join("netns"),
            };
            let cgroup = Some(paths.pod_cgroup(&node, &uid).join("policy"));
            let id = NamespacedName::new(&text(&meta["namespace"]), &text(&meta["name"]));
            pods.insert(id, (Place { netns, cgroup }, node));
        }
        let outside = client.addresses.iter().map(ipnet::IpNet::addr).collect();
        Ok(Self { paths, pods, probes: BTreeMap::new(), cgroups: Vec::new(), outside })
    }

    /// Sends everything, and tells what became of it, in the same order.
    pub fn send(mut self, tries: &[Try]) -> Result<Vec<Seen>> {
        let seen = self.send_all(tries);
        self.probes.clear();
        if let Ok(mounts) = CgroupMounts::find() {
            for dir in self.cgroups.iter().flat_map(|c| mounts.all(c)) {
                // Best effort: an empty cgroup that stays is removed with its pod.
                let _ = std::fs::remove_dir(dir);
            }
        }
        seen
    }

    fn send_all(&mut self, tries: &[Try]) -> Result<Vec<Seen>> {
        let mut doors: BTreeMap<Party, BTreeSet<Door>> = BTreeMap::new();
        for t in tries {
            if let Some(to) = self.end(&t.to, &t.from) {
                let (carrier, port) = carried(t.flow.transport);
                doors.entry(to).or_default().insert(Door { carrier, port });
            }
        }
        for (party, doors) in doors {
            // Whoever listens there already answers as well.
            self.probe(&party)?.open(doors.into_iter().collect())?;
        }
        let mut seen =
            vec![Seen::Untried("only pods, nodes and the client send".into()); tries.len()];
        let mut knocks: BTreeMap<Party, Vec<(usize, Knock)>> = BTreeMap::new();
        for (i, t) in tries.iter().enumerate() {
            let Some(from) = self.end(&t.from, &t.to) else { continue };
            let (carrier, port) = carried(t.flow.transport);
            let knock = Knock { to: t.flow.destination, carrier, port };
            knocks.entry(from).or_default().push((i, knock));
        }
        for from in knocks.keys() {
            self.probe(from)?;
        }
        let answers = std::thread::scope(|scope| {
            let senders = self.probes.iter_mut().filter_map(|(party, probe)| {
                let mine = knocks.get(party)?;
                Some(scope.spawn(move || {
                    let all = mine.iter().map(|(_, k)| *k).collect();
                    probe.knock(all, TIMEOUT_MS).map(|heard| mine.iter().zip(heard))
                }))
            });
            let senders: Vec<_> = senders.collect();
            let joined = senders.into_iter().map(|s| s.join());
            joined.map(|j| j.unwrap_or_else(|p| std::panic::resume_unwind(p))).collect::<Vec<_>>()
        });
        for answers in answers {
            for ((i, _), heard) in answers? {
                seen[*i] = match heard {
                    Heard::Answer | Heard::Refused => Seen::Passed,
                    Heard::Nothing => Seen::Nothing,
                    Heard::Failed(why) => Seen::Untried(why),
                };
            }
        }
        Ok(seen)
    }

    /// The end as one at which a process can run.
    fn end(&self, party: &Party, other: &Party) -> Option<Party> {
        match (party, other) {
            (Party::OwnNode, Party::Pod(id)) => {
                Some(Party::Node(self.pods.get(id)?.1.parse().ok()?))
            }
            (Party::Pod(_) | Party::Node(_) | Party::Outside, _) => Some(party.clone()),
            _ => None,
        }
    }

    fn probe(&mut self, party: &Party) -> Result<&mut Probe> {
        let place = match party {
            Party::Pod(id) => {
                let (place, _) = self.pods.get(id).context("the pod has gone")?;
                place.clone()
            }
            Party::Node(name) => Place {
                netns: self.paths.netns(name.as_str()),
                cgroup: Some(self.paths.node_cgroup(name.as_str()).join("system/policy")),
            },
            _ => Place {
                netns: self.paths.netns("client"),
                cgroup: Some(self.paths.cgroup().join("client/policy")),
            },
        };
        Ok(match self.probes.entry(party.clone()) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                self.cgroups.extend(place.cgroup.clone());
                free.insert(Probe::start(&place)?)
            }
        })
    }
}

fn carried(transport: Transport) -> (Carrier, u16) {
    match transport {
        Transport::Port(Protocol::Tcp, port) => (Carrier::Tcp, port.get()),
        Transport::Port(Protocol::Udp, port) => (Carrier::Udp, port.get()),
        Transport::Port(Protocol::Sctp, port) => (Carrier::Sctp, port.get()),
        Transport::Other => (Carrier::Echo, 0),
    }
}
