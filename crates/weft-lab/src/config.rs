//! What a lab is asked to be: flags over `lab.yaml` over defaults, validated.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::Path};
use weft_model::{IpFamilies, IpFamily, LabName};

use crate::error::LabError;

/// How nodes reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// VXLAN (RFC 7348), the default.
    Vxlan,
    /// Plain routes, no encapsulation.
    Native,
    /// Geneve: a later version.
    Geneve,
    /// IP in IP: a later version.
    Ipip,
    /// WireGuard: a later version.
    Wireguard,
}

impl Network {
    /// As flags and `lab.yaml` spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Native => "native",
            Self::Geneve => "geneve",
            Self::Ipip => "ipip",
            Self::Wireguard => "wireguard",
        }
    }
}

/// Most nodes a lab may have; the underlay numbers them inside a /24.
pub const NODES_MAX: u16 = 100;
/// Most zones; each is a /24 and a /64 of the underlay.
pub const ZONES_MAX: u16 = 9;

/// A validated lab definition. Stored in `lab.json`, so that a later `up` can compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name; stands in every name that the lab owns.
    pub name: LabName,
    /// Number of nodes.
    pub nodes: u16,
    /// Number of zones; nodes are dealt round.
    pub zones: u16,
    /// Families of pods, Services and underlay.
    pub ip_family: IpFamilies,
    /// Node-to-node transport.
    pub network: Network,
    /// Pod ranges, one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// Service ranges, one a family.
    pub service_cidrs: Vec<IpNet>,
    /// Whether privileged containers may run.
    pub allow_privileged: bool,
}

/// `lab.yaml`: every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabFile {
    /// `weft.dev/v1alpha1`, where given.
    pub api_version: Option<String>,
    /// `Lab`, where given.
    pub kind: Option<String>,
    /// See [`Config::name`].
    pub name: Option<String>,
    /// See [`Config::nodes`].
    pub nodes: Option<u16>,
    /// See [`Config::zones`].
    pub zones: Option<u16>,
    /// See [`Config::ip_family`].
    pub ip_family: Option<String>,
    /// See [`Config::network`].
    pub network: Option<Network>,
    /// See [`Config::pod_cidrs`].
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    /// See [`Config::service_cidrs`].
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Option<Vec<String>>,
    /// See [`Config::allow_privileged`].
    pub allow_privileged: Option<bool>,
}

impl LabFile {
    /// Reads a file; errors name the file, and for bad YAML the line.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| LabError::input(format!("lab file {}: {e}", path.display())))?;
        let file: Self = serde_yaml_ng::from_str(&text)
            .map_err(|e| LabError::input(format!("lab file {}: {e}", path.display())))?;
        if file.kind.as_deref().is_some_and(|k| k != "Lab") {
            return Err(LabError::input(format!("lab file {}: kind must be Lab", path.display())));
        }
        Ok(file)
    }

    /// This file's values where it has them, else `lower`'s.
    pub fn over(self, lower: Self) -> Self {
        Self {
            api_version: self.api_version.or(lower.api_version),
            kind: self.kind.or(lower.kind),
            name: self.name.or(lower.name),
            nodes: self.nodes.or(lower.nodes),
            zones: self.zones.or(lower.zones),
            ip_family: self.ip_family.or(lower.ip_family),
            network: self.network.or(lower.network),
            pod_cidrs: self.pod_cidrs.or(lower.pod_cidrs),
            service_cidrs: self.service_cidrs.or(lower.service_cidrs),
            allow_privileged: self.allow_privileged.or(lower.allow_privileged),
        }
    }

    /// Fills in the defaults and checks the whole.
    pub fn validate(self) -> Result<Config, LabError> {
        let bad = |field: &str, why: String| LabError::input(format!("lab {field}: {why}"));
        let name: LabName = self
            .name
            .as_deref()
            .unwrap_or("lab")
            .parse()
            .map_err(|e| bad("name", format!("{e}")))?;
        let ip_family: IpFamilies =
            self.ip_family.as_deref().unwrap_or("dual").parse().map_err(|e| bad("ipFamily", e))?;
        let nodes = self.nodes.unwrap_or(3);
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(bad("nodes", format!("{nodes} is out of range: use 1 to {NODES_MAX}")));
        }
        let zones = self.zones.unwrap_or(1);
        if zones < 1 || zones > ZONES_MAX.min(nodes) {
            let most = ZONES_MAX.min(nodes);
            return Err(bad(
                "zones",
                format!("{zones} is out of range: use 1 to {most} (at most one a node)"),
            ));
        }
        let network = self.network.unwrap_or(Network::Vxlan);
        if !matches!(network, Network::Vxlan | Network::Native) {
            return Err(bad(
                "network",
                format!("'{}' is not in this version yet: use vxlan or native", network.as_str()),
            ));
        }
        let pod_cidrs =
            cidrs("podCIDRs", self.pod_cidrs, ip_family, ["10.244.0.0/16", "fd00:10:244::/56"])?;
        let service_cidrs = cidrs(
            "serviceCIDRs",
            self.service_cidrs,
            ip_family,
            ["10.96.0.0/16", "fd00:10:96::/112"],
        )?;
        check_sizes(&pod_cidrs, &service_cidrs, nodes)?;
        check_overlaps(&pod_cidrs, &service_cidrs)?;
        Ok(Config {
            name,
            nodes,
            zones,
            ip_family,
            network,
            pod_cidrs,
            service_cidrs,
            allow_privileged: self.allow_privileged.unwrap_or(false),
        })
    }
}

/// Parses one CIDR a family, in the order of the cluster's families.
fn cidrs(
    field: &str,
    given: Option<Vec<String>>,
    families: IpFamilies,
    defaults: [&str; 2],
) -> Result<Vec<IpNet>, LabError> {
    let texts = given.unwrap_or_else(|| {
        let pick = |f: &IpFamily| defaults[usize::from(*f == IpFamily::V6)].to_owned();
        families.list().iter().map(pick).collect()
    });
    let mut nets = Vec::new();
    for text in &texts {
        let net: IpNet = text.parse().map_err(|_| {
            LabError::input(format!("lab {field}: '{text}' is not a CIDR, e.g. {}", defaults[0]))
        })?;
        if net.trunc() != net {
            return Err(LabError::input(format!(
                "lab {field}: '{text}' has host bits set: use {}",
                net.trunc()
            )));
        }
        nets.push(net);
    }
    let have: Vec<IpFamily> = nets.iter().map(|n| IpFamily::of(n.addr())).collect();
    if have != families.list() {
        return Err(LabError::input(format!(
            "lab {field}: needs exactly one CIDR for each family of ipFamily {families}, in that order"
        )));
    }
    Ok(nets)
}

/// Prefix length of one node's pod CIDR.
pub fn node_mask(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 24,
        IpFamily::V6 => 64,
    }
}

fn check_sizes(pods: &[IpNet], services: &[IpNet], nodes: u16) -> Result<(), LabError> {
    for net in pods {
        let mask = node_mask(IpFamily::of(net.addr()));
        let room = mask.checked_sub(net.prefix_len()).map_or(0, |bits| 1u64 << bits.min(32));
        if room < u64::from(nodes) {
            return Err(LabError::input(format!(
                "lab podCIDRs: {net} holds {room} node ranges of /{mask}, too few for {nodes} nodes"
            )));
        }
    }
    for net in services {
        let (least, most) = match IpFamily::of(net.addr()) {
            IpFamily::V4 => (12, 28),
            IpFamily::V6 => (108, 124),
        };
        if !(least..=most).contains(&net.prefix_len()) {
            return Err(LabError::input(format!(
                "lab serviceCIDRs: {net} has a prefix outside /{least} to /{most}"
            )));
        }
    }
    Ok(())
}

fn check_overlaps(pods: &[IpNet], services: &[IpNet]) -> Result<(), LabError> {
    let named = |what: &'static str, nets: &[IpNet]| {
        nets.iter().map(|n| (what, *n)).collect::<Vec<(&str, IpNet)>>()
    };
    let mut all = named("podCIDRs", pods);
    all.extend(named("serviceCIDRs", services));
    all.extend(crate::topology::reserved().map(|n| ("the underlay", n)));
    for (i, (what_a, a)) in all.iter().enumerate() {
        for (what_b, b) in &all[i + 1..] {
            if a.contains(&b.network()) || b.contains(&a.network()) {
                return Err(LabError::input(format!(
                    "lab {what_a}: {a} overlaps {what_b} {b}: choose ranges apart"
                )));
            }
        }
    }
    Ok(())
}

impl Config {
    /// Cluster DNS addresses: the tenth of every Service range (kubeadm's convention).
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        self.service_cidrs.iter().map(|n| nth(*n, 10)).collect()
    }

    /// Names of the nodes: `node1`, `node2`, …
    pub fn node_names(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.nodes).map(|n| format!("node{n}"))
    }
}

/// The n-th address of a network.
pub fn nth(net: IpNet, n: u32) -> IpAddr {
    match net {
        IpNet::V4(v4) => IpAddr::V4((u32::from(v4.network()) + n).into()),
        IpNet::V6(v6) => IpAddr::V6((u128::from(v6.network()) + u128::from(n)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(file: LabFile) -> String {
        file.validate().expect_err("refused").to_string()
    }

    #[test]
    fn defaults_are_three_dual_stack_nodes_over_vxlan() {
        let c = LabFile::default().validate().expect("valid");
        assert_eq!((c.nodes, c.zones, c.network), (3, 1, Network::Vxlan));
        assert_eq!(c.ip_family, IpFamilies::Dual);
        assert_eq!(
            c.cluster_dns().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.96.0.10", "fd00:10:96::a"]
        );
    }

    #[test]
    fn overlapping_ranges_are_named() {
        let m = message(LabFile {
            ip_family: Some("ipv4".into()),
            pod_cidrs: Some(vec!["10.96.0.0/12".into()]),
            ..LabFile::default()
        });
        assert!(m.contains("podCIDRs") && m.contains("serviceCIDRs 10.96.0.0/16"), "{m}");
        let m = message(LabFile {
            ip_family: Some("ipv4".into()),
            pod_cidrs: Some(vec!["172.30.0.0/16".into()]),
            ..LabFile::default()
        });
        assert!(m.contains("underlay"), "{m}");
    }

    #[test]
    fn every_bad_field_is_named_with_its_remedy() {
        let cases = [
            (LabFile { nodes: Some(0), ..LabFile::default() }, "nodes"),
            (LabFile { zones: Some(4), ..LabFile::default() }, "zones"),
            (LabFile { ip_family: Some("ipv5".into()), ..LabFile::default() }, "ipFamily"),
            (LabFile { network: Some(Network::Geneve), ..LabFile::default() }, "network"),
            (LabFile { name: Some("A.b".into()), ..LabFile::default() }, "name"),
            (
                LabFile { pod_cidrs: Some(vec!["10.0.0.1/16".into()]), ..LabFile::default() },
                "podCIDRs",
            ),
            (
                LabFile { service_cidrs: Some(vec!["10.0.0.0/16".into()]), ..LabFile::default() },
                "serviceCIDRs",
            ),
        ];
        for (file, field) in cases {
            let m = message(file);
            assert!(m.contains(&format!("lab {field}")), "{m}");
        }
    }
}
