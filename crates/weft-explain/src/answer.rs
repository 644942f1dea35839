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
    /// What policy says about asking the cluster's DNS, where the client is a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Judgement>,
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
    /// Policy denies every way: the client sees a time-out.
    Denied,
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
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIP`, `Headless` or `HostPort`.
    pub kind: &'static str,
    /// `namespace/name`; empty for a host port.
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
    /// What policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Judgement>,
}

/// What policy says about one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Of both sides together.
    pub verdict: Verdict,
    /// What may pass, where no port was asked for, e.g. `TCP/80 UDP/53`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// What the source's egress rules say; absent where it depends on the port.
    pub egress: Option<Side>,
    /// What the destination's ingress rules say.
    pub ingress: Option<Side>,
}

/// Whether something passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It does.
    Allowed,
    /// It does not.
    Denied,
    /// At some ports; none was asked for.
    Partly,
}

/// The verdict of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Whether this side lets it through.
    pub allowed: bool,
    /// It passes only because policies are on trial (`weft.dev/policy-audit: enabled`); `reason`,
    /// `text` and `rule` say what would deny it.
    pub audit: bool,
    /// The pod whose policies are asked; absent where this end is no pod of the pod network.
    pub pod: Option<String>,
    /// The address at the other end, as this side sees it.
    pub peer: IpAddr,
    /// Who has it: `pod shop/web`, `node node1`, `the cluster's DNS`, `nobody that is known`.
    pub peer_name: String,
    /// `rule`, `isolated`, `unselected`, `itself`, `ownNode`, `notAPod` or `tooLarge`.
    pub reason: &'static str,
    /// The same in words.
    pub text: String,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// The policies that select the pod, where none of their rules allows it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<String>,
    /// Rules with action Pass that it met before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<Rule>,
    /// What would allow it, the smallest change first; each was tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<Remedy>,
}

/// A rule, and what of it matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// E.g. `NetworkPolicy shop/db`, `ClusterNetworkPolicy fence (Admin)`.
    pub policy: String,
    /// The pods that the policy selects.
    pub subject: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its place in that list, from 0.
    pub index: usize,
    /// Its name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    pub action: String,
    /// The peer that matched; absent where the rule names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Its place, e.g. `from[1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_field: Option<String>,
    /// The port that matched; absent where the rule names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Its place, e.g. `ports[0]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_field: Option<String>,
}

/// A change that would allow a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remedy {
    /// `label`, `port`, `peer`, `except` or `rule`.
    pub kind: &'static str,
    /// What is changed, e.g. `Pod shop/web` or `NetworkPolicy shop/db`.
    pub object: String,
    /// The field, e.g. `spec.ingress[0].ports`.
    pub field: String,
    /// The change in words.
    pub text: String,
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
