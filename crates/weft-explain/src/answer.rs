//! The answer: what `-o json` prints. Field names are an interface (docs/why.md).

use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether every path leads somewhere.
    pub ok: bool,
    /// Who asks.
    pub from: End,
    /// Who is asked.
    pub to: End,
    /// What DNS says, where a name was asked for.
    pub dns: Option<Dns>,
    /// One for each address, port and protocol that is meant (and each node that a client
    /// outside may come in through).
    pub paths: Vec<Path>,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `pod`, `node`, `outside`, `service`, `address` or `name`.
    pub kind: &'static str,
    /// Its name; the address where it has none.
    pub name: String,
    /// The node it is on.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is a pod with its node's network.
    pub host_network: bool,
}

/// How a name was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// The name that was asked for.
    pub name: String,
    /// The names that a resolver tries in turn, up to the first that exists.
    pub tried: Vec<Tried>,
    /// Aliases that were followed.
    pub aliases: Vec<String>,
    /// The addresses found.
    pub addresses: Vec<IpAddr>,
    /// What else is to be said.
    pub note: Option<String>,
}

/// One try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// The full name.
    pub name: String,
    /// `found`, `empty`, `notFound` or `outside` (not the cluster's).
    pub result: &'static str,
}

/// An address, port and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The address; absent where a name has none.
    pub address: Option<IpAddr>,
    /// The port, where one was given.
    pub port: Option<u16>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// What happens in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Translated to one of the backends.
    Forwarded,
    /// Not translated: it goes to the address itself.
    Delivered,
    /// The client sees a refusal.
    Refused,
    /// The client sees nothing.
    Dropped,
    /// Nobody has the address, or the client none of its family.
    Unreachable,
    /// The name has no address.
    Unresolved,
    /// Somebody else decides: another proxy, or the network outside.
    Unknown,
}

/// Where an address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// At the socket.
    Socket,
    /// At the link of the client's pod, packet by packet.
    PodLink,
    /// In the netfilter table of a node.
    Netfilter,
}

/// One address, port and protocol, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// Where to.
    pub destination: Destination,
    /// The node whose tables decide.
    pub node: Option<String>,
    /// The frontend, where it is a Service's.
    pub frontend: Option<Frontend>,
    /// What happens.
    pub outcome: Outcome,
    /// Why, where it is not forwarded.
    pub reason: Option<String>,
    /// Where it is translated.
    pub translated_at: Option<Place>,
    /// Who may get a connection; one where it is delivered untranslated.
    pub backends: Vec<Backend>,
    /// The other endpoints of the Service, and why they get none.
    pub excluded: Vec<Excluded>,
    /// What else is to be said.
    pub notes: Vec<String>,
}

/// An address of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIP` or `Headless`.
    pub kind: &'static str,
    /// `namespace/name`.
    pub service: String,
    /// Name of the port; empty where it has none.
    pub port_name: String,
    /// `Cluster` or `Local`: the traffic policy that holds for this client.
    pub policy: &'static str,
    /// Seconds that a client stays with its backend; absent without session affinity.
    pub affinity_seconds: Option<u32>,
    /// `loadBalancerSourceRanges`; absent where everybody may.
    pub source_ranges: Option<Vec<IpNet>>,
}

/// Who may get a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port, where one is known.
    pub port: Option<u16>,
    /// `namespace/name` of its pod.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// The client's address as it sees it, where it is known.
    pub source_seen: Option<IpAddr>,
    /// The way there.
    pub route: Route,
    /// What network policies say, once somebody asked them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// A way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// `local`, `tunnel`, `routed`, `underlay` or `outside`.
    pub kind: &'static str,
    /// The node it leads to.
    pub node: Option<String>,
    /// That node's address on the underlay.
    pub via: Option<IpAddr>,
    /// Largest packet of a pod in bytes, where it is known.
    pub mtu: Option<u32>,
}

/// An endpoint that gets no connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Excluded {
    /// Its address.
    pub address: IpAddr,
    /// Its port, where it has one for this Service port.
    pub port: Option<u16>,
    /// `namespace/name` of its pod.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// `notReady`, `terminating`, `terminated`, `otherNode`, `hintsOtherNode`,
    /// `hintsOtherZone`, `otherFamily`, `noSuchPort`, `badAddress`, `nodeDns` or
    /// `notAdmitted`.
    pub reason: &'static str,
    /// The same in words.
    pub detail: String,
}
