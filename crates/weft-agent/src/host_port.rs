//! Host ports: ports of the node's addresses that lead to a container of one of its pods.
//!
//! The runtime tells them with ADD (CNI conventions, capability `portMappings`) and never
//! again, so they are kept in a file beside the address journal, written before they are used.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;
use weft_cni::{CniError, code};
use weft_fabric::ipam::Key;
use weft_model::{IpFamily, Node, Port, Protocol};
use weft_netlink::netfilter::{Delta, Entrance, Fate, Target, Targets};

/// Mappings of one pod; Kubernetes has no limit, a process has 65,535 ports.
const MAPPINGS_MAX: usize = 1024;

/// One host port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// `hostIP`: one address of the node; all of them where absent.
    pub host_ip: Option<IpAddr>,
    /// `hostPort`.
    pub host_port: Port,
    /// `containerPort`.
    pub container_port: Port,
    /// `protocol`.
    pub protocol: Protocol,
}

impl Mapping {
    /// Whether one connection could be for both.
    fn meets(&self, other: &Self) -> bool {
        let addresses = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        addresses && (self.host_port, self.protocol) == (other.host_port, other.protocol)
    }
}

/// The mappings in a plugin's configuration (`runtimeConfig.portMappings`); none where the
/// runtime gave none.
pub fn parse(config: &Value) -> Result<Vec<Mapping>, CniError> {
    let list = match config.pointer("/runtimeConfig/portMappings") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAPPINGS_MAX => list,
        Some(Value::Array(_)) => return Err(invalid("", &format!("more than {MAPPINGS_MAX}"))),
        Some(_) => return Err(invalid("", "it is no list")),
    };
    let mut mappings: Vec<Mapping> = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let at = |field: &str| format!("[{i}].{field}");
        let port = |field: &str| {
            let number = entry.get(field).and_then(Value::as_i64).unwrap_or(0);
            let number = i32::try_from(number).unwrap_or(-1);
            Port::try_from(number).map_err(|e| invalid(&at(field), &e.to_string()))
        };
        // "If hostPort is 0, the mapping is ignored": a port that only a container has.
        if entry.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 {
            continue;
        }
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        let protocol = match text("protocol") {
            "" => Protocol::Tcp,
            given => given
                .to_uppercase()
                .parse()
                .map_err(|e: weft_model::PortError| invalid(&at("protocol"), &e.to_string()))?,
        };
        let host_ip = match text("hostIP") {
            "" => None,
            given => {
                let ip: IpAddr = given
                    .parse()
                    .map_err(|_| invalid(&at("hostIP"), &format!("'{given}' is no address")))?;
                (!ip.is_unspecified()).then_some(ip)
            }
        };
        mappings.push(Mapping {
            host_ip,
            host_port: port("hostPort")?,
            container_port: port("containerPort")?,
            protocol,
        });
    }
    Ok(mappings)
}

fn invalid(field: &str, why: &str) -> CniError {
    let msg = format!("runtimeConfig.portMappings{field} is invalid");
    CniError::new(code::INVALID_CONFIG, msg, why)
}

/// The host ports of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPorts {
    /// Addresses of the pod.
    pub ips: Vec<IpAddr>,
    /// Its mappings.
    pub mappings: Vec<Mapping>,
}

/// All host ports of the node, as the service stage shall have them.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Grows with every change.
    pub version: u64,
    /// By attachment.
    pub pods: Arc<Vec<PodPorts>>,
}

/// Why host ports could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    /// Another pod of this node has it.
    #[error("host port {port}/{protocol} is taken by container {owner}: choose another hostPort")]
    Taken {
        /// The port.
        port: Port,
        /// The protocol.
        protocol: Protocol,
        /// Container id of the owner.
        owner: String,
    },
    /// The file.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    File {
        /// The verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Key,
    ports: PodPorts,
}

/// Who has which host ports.
#[derive(Debug)]
pub struct HostPorts {
    path: PathBuf,
    held: BTreeMap<Key, PodPorts>,
    wanted: watch::Sender<Wanted>,
}

impl HostPorts {
    /// Restores them from `path`, and tells them to `wanted` from now on.
    pub fn open(path: PathBuf, wanted: watch::Sender<Wanted>) -> Result<Self, HostPortError> {
        let failed = |source| HostPortError::File { operation: "read", path: path.clone(), source };
        let held = match fs::read(&path) {
            Ok(bytes) => {
                let entries: Vec<Entry> =
                    serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
                entries.into_iter().map(|e| (e.key, e.ports)).collect()
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(failed(e)),
        };
        let this = Self { path, held, wanted };
        this.publish();
        Ok(this)
    }

    /// Gives host ports to an attachment, in place of those that it had. Returns the version
    /// of [`Wanted`] that has them.
    pub fn take(&mut self, key: &Key, ports: PodPorts) -> Result<u64, HostPortError> {
        let others = || self.held.iter().filter(|(k, _)| *k != key);
        for mapping in &ports.mappings {
            let taken = others().find(|(_, p)| p.mappings.iter().any(|m| m.meets(mapping)));
            if let Some((owner, _)) = taken {
                return Err(HostPortError::Taken {
                    port: mapping.host_port,
                    protocol: mapping.protocol,
                    owner: owner.container_id.clone(),
                });
            }
        }
        match self.held.get(key) {
            // Nothing to wait for.
            None if ports.mappings.is_empty() => return Ok(0),
            Some(held) if *held == ports => return Ok(self.wanted.borrow().version),
            _ => {}
        }
        let mut held = self.held.clone();
        held.insert(key.clone(), ports);
        held.retain(|_, p| !p.mappings.is_empty());
        self.replace(held)
    }

    /// Frees the host ports of an attachment, if it has any.
    pub fn release(&mut self, key: &Key) -> Result<(), HostPortError> {
        if !self.held.contains_key(key) {
            return Ok(());
        }
        let mut held = self.held.clone();
        held.remove(key);
        self.replace(held).map(|_| ())
    }

    fn replace(&mut self, held: BTreeMap<Key, PodPorts>) -> Result<u64, HostPortError> {
        let entries: Vec<Entry> = held
            .iter()
            .map(|(key, ports)| Entry { key: key.clone(), ports: ports.clone() })
            .collect();
        write(&self.path, &entries).map_err(|source| HostPortError::File {
            operation: "write",
            path: self.path.clone(),
            source,
        })?;
        self.held = held;
        self.publish();
        Ok(self.wanted.borrow().version)
    }

    fn publish(&self) {
        self.wanted.send_modify(|w| {
            w.version += 1;
            w.pods = Arc::new(self.held.values().cloned().collect());
        });
    }
}

/// Replaces the file in one step.
fn write(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    serde_json::to_writer(&mut file, entries)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// The host ports among the entrances of the netfilter table.
#[derive(Debug, Default)]
pub struct HostEntrances {
    now: BTreeMap<Entrance, (u32, Target)>,
}

impl HostEntrances {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.now.len()
    }

    /// Adds to `delta` what changes. `claimed`: whether a Service has an entrance, which wins.
    /// `number`: a number for a group that was never used.
    pub fn change(
        &mut self,
        pods: &[PodPorts],
        node: Option<&Node>,
        claimed: impl Fn(&Entrance) -> bool,
        mut number: impl FnMut() -> u32,
        delta: &mut Delta,
    ) {
        let mut wanted: BTreeMap<Entrance, Target> = BTreeMap::new();
        for pod in pods {
            wanted.extend(entrances(pod, node).filter(|(entrance, _)| !claimed(entrance)));
        }
        let gone =
            |(e, (_, t)): (&Entrance, &(u32, Target))| (wanted.get(e) != Some(t)).then_some(*e);
        let gone: Vec<Entrance> = self.now.iter().filter_map(gone).collect();
        for entrance in gone {
            let Some((group, _)) = self.now.remove(&entrance) else { continue };
            delta.groups.insert(group, None);
            if !claimed(&entrance) {
                delta.entrances.insert(entrance, None);
            }
        }
        for (entrance, target) in wanted {
            if self.now.contains_key(&entrance) {
                continue;
            }
            let group = number();
            self.now.insert(entrance, (group, target));
            let all = vec![target];
            let targets = Targets { protocol: entrance.protocol, all, by_client: false };
            delta.groups.insert(group, Some(targets));
            let fate = Fate::Forward { group, timeout_s: None, sources: None };
            delta.entrances.insert(entrance, Some(fate));
        }
    }
}

/// Where one pod's host ports are, on this node: at the node's own addresses only. A `hostIP`
/// that is another's would lead that one's traffic here.
fn entrances<'a>(
    pod: &'a PodPorts,
    node: Option<&'a Node>,
) -> impl Iterator<Item = (Entrance, Target)> + 'a {
    let own = node.map_or(&[][..], |n| &n.internal_ips);
    pod.ips.iter().flat_map(move |ip| {
        pod.mappings.iter().flat_map(move |m| {
            let target = Target { addr: *ip, port: m.container_port.get(), here: true };
            let at = own.iter().filter(|a| m.host_ip.is_none_or(|ip| ip == **a));
            at.filter(|a| IpFamily::of(**a) == IpFamily::of(*ip)).map(move |addr| {
                let (port, protocol) = (m.host_port.get(), m.protocol.number());
                (Entrance { addr: *addr, port, protocol }, target)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_netlink::netfilter::Nat;

    fn key(id: &str) -> Key {
        Key { container_id: id.to_owned(), ifname: "eth0".to_owned() }
    }

    fn ports(ip: &str, mappings: &Value) -> PodPorts {
        let config = json!({"runtimeConfig": {"portMappings": mappings}});
        PodPorts {
            ips: vec![ip.parse().expect("address")],
            mappings: parse(&config).expect("fine"),
        }
    }

    fn node() -> Node {
        Node {
            name: "node1".parse().expect("name"),
            internal_ips: ["192.0.2.1", "fd02::1"].map(|a| a.parse().expect("address")).into(),
            pod_cidrs: Vec::new(),
            zone: None,
            ready: true,
            eligible: true,
        }
    }

    #[test]
    fn mappings_are_read_as_runtimes_write_them() {
        let all = ports(
            "10.0.0.1",
            &json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                    {"hostPort": 0, "containerPort": 81, "protocol": "tcp"},
                    {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"},
                    {"hostPort": 54, "containerPort": 53, "protocol": "sctp", "hostIP": "192.0.2.7"}]),
        );
        let told: Vec<String> = all
            .mappings
            .iter()
            .map(|m| format!("{:?} {} {} {}", m.host_ip, m.host_port, m.container_port, m.protocol))
            .collect();
        assert_eq!(told, ["None 8080 80 TCP", "None 53 53 UDP", "Some(192.0.2.7) 54 53 SCTP"]);
        assert_eq!(parse(&json!({})).expect("none"), []);
        for (bad, field) in [
            (json!({"hostPort": 70000, "containerPort": 1}), "[0].hostPort"),
            (json!({"hostPort": 1, "containerPort": 0}), "[0].containerPort"),
            (json!({"hostPort": 1, "containerPort": 1, "protocol": "icmp"}), "[0].protocol"),
            (json!({"hostPort": 1, "containerPort": 1, "hostIP": "x"}), "[0].hostIP"),
        ] {
            let e = parse(&json!({"runtimeConfig": {"portMappings": [bad]}})).expect_err("bad");
            assert!(e.msg.contains(field), "{e:?}");
        }
        assert!(parse(&json!({"runtimeConfig": {"portMappings": 1}})).is_err());
    }

    #[test]
    fn a_port_has_one_owner_and_outlives_the_agent() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("host-ports.json");
        let open = || HostPorts::open(path.clone(), watch::Sender::default()).expect("open");
        let mut all = open();
        let web = ports("10.0.0.1", &json!([{"hostPort": 80, "containerPort": 8080}]));
        let first = all.take(&key("a"), web.clone()).expect("free");
        assert_eq!(all.take(&key("a"), web.clone()).expect("again"), first);
        let error = all.take(&key("b"), web.clone()).expect_err("taken");
        assert!(error.to_string().contains("80/TCP is taken by container a"), "{error}");
        // One address of it is taken with all of them.
        let one = json!([{"hostPort": 80, "containerPort": 1, "hostIP": "192.0.2.1"}]);
        assert!(all.take(&key("b"), ports("10.0.0.2", &one)).is_err());
        let udp = json!([{"hostPort": 80, "containerPort": 1, "protocol": "udp"}]);
        all.take(&key("b"), ports("10.0.0.2", &udp)).expect("another protocol");

        let mut restarted = open();
        assert_eq!(restarted.wanted.borrow().pods.len(), 2);
        assert!(restarted.take(&key("c"), web.clone()).is_err());
        restarted.release(&key("a")).expect("freed");
        restarted.release(&key("a")).expect("gone is fine");
        restarted.take(&key("c"), web).expect("free now");
        assert_eq!(open().held.keys().map(|k| &*k.container_id).collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn entrances_follow_pods_and_give_way_to_services() {
        let (node, mut nat, mut last) = (node(), Nat::default(), 0);
        let mut host = HostEntrances::default();
        let mut step = |pods: &[PodPorts], service: Option<Entrance>| {
            let mut delta = Delta::default();
            let number = || {
                last += 1;
                last
            };
            host.change(pods, Some(&node), |e| Some(*e) == service, number, &mut delta);
            nat.apply(&delta);
            nat.entrances
                .iter()
                .filter(|(e, _)| Some(**e) != service)
                .map(|(e, fate)| {
                    let Fate::Forward { group, .. } = fate else { panic!("{fate:?}") };
                    let target = nat.groups[group].all[0];
                    format!("{}:{} {}:{}", e.addr, e.port, target.addr, target.port)
                })
                .collect::<Vec<_>>()
        };
        let mut web = ports("10.0.0.1", &json!([{"hostPort": 80, "containerPort": 8080}]));
        web.ips.push("fd00::1".parse().expect("address"));
        let both = ["192.0.2.1:80 10.0.0.1:8080", "fd02::1:80 fd00::1:8080"];
        assert_eq!(step(&[web.clone()], None), both);
        assert_eq!(step(&[web.clone()], None), both);
        let claimed = Entrance { addr: node.internal_ips[0], port: 80, protocol: 6 };
        // The entrance itself is the Service's now: only the group goes.
        assert_eq!(step(&[web.clone()], Some(claimed)), both[1..]);
        assert_eq!(step(&[web], None), both);
        assert_eq!(step(&[], None), [""; 0]);
        // One address of the node; none of anybody else.
        let at =
            |ip| ports("10.0.0.1", &json!([{"hostPort": 80, "containerPort": 1, "hostIP": ip}]));
        assert_eq!(step(&[at("192.0.2.1")], None), ["192.0.2.1:80 10.0.0.1:1"]);
        for ip in ["192.0.2.2", "127.0.0.1", "fd02::1"] {
            assert_eq!(step(&[at(ip)], None), [""; 0], "{ip}");
        }
    }
}
