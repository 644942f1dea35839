//! Configurations and results (CNI spec, sections 1 and 5).

use crate::{
    INPUT_LEN_MAX,
    version::{SUPPORTED, Version},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// One plugin's configuration, as the runtime gives it on stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginConfig {
    /// Version that the caller speaks.
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// The plugin's executable.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path of the Weft agent's socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_socket: Option<String>,
    /// Result of the plugin before, or for CHECK and DEL of the ADD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_result: Option<Value>,
    /// GC: what the runtime still has.
    #[serde(
        rename = "cni.dev/valid-attachments",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One attachment of a container to the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Container id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name.
    pub ifname: String,
}

/// Why a configuration list was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// Longer than [`INPUT_LEN_MAX`].
    #[error("the CNI configuration has {0} bytes, more than {INPUT_LEN_MAX}")]
    TooLong(usize),
    /// No JSON, or a field is missing.
    #[error("the CNI configuration cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that is not supported.
    #[error("CNI version '{0}' is not supported: use 0.4.0, 1.0.0 or 1.1.0")]
    Version(String),
    /// No plugin, or one without a type.
    #[error("the CNI configuration names no plugin: give 'plugins' with a 'type' each")]
    NoPlugin,
}

/// A configuration list (`*.conflist`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflist {
    /// Version. Runtimes that know `cniVersions` take the newest of both that they speak.
    pub cni_version: String,
    /// Further versions (since 1.1.0).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cni_versions: Vec<String>,
    /// Name of the network.
    pub name: String,
    /// Configurations of the plugins, in the order of their execution on ADD.
    pub plugins: Vec<Map<String, Value>>,
}

impl Conflist {
    /// Parses and checks a configuration list.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConflistError> {
        if bytes.len() > INPUT_LEN_MAX {
            return Err(ConflistError::TooLong(bytes.len()));
        }
        let list: Self = serde_json::from_slice(bytes)?;
        if list.versions().next().is_none() {
            return Err(ConflistError::Version(list.cni_version));
        }
        let named = list.plugins.iter().all(|p| p.get("type").is_some_and(Value::is_string));
        if list.plugins.is_empty() || !named {
            return Err(ConflistError::NoPlugin);
        }
        Ok(list)
    }

    fn versions(&self) -> impl Iterator<Item = Version> {
        let given = self.cni_versions.iter().chain([&self.cni_version]);
        given.filter_map(|v| v.parse::<Version>().ok()).filter(|v| v.is_supported())
    }

    /// The newest supported version: the one to call plugins with.
    pub fn version(&self) -> Version {
        self.versions().max().unwrap_or(Version::OLDEST)
    }

    /// The list of a node on which Weft is the only plugin. Its `cniVersion` is one that every
    /// containerd understands: 1.x stops at 1.0.0, and refuses results of a later version.
    pub fn weft(agent_socket: &str) -> Self {
        let mut plugin = Map::new();
        plugin.insert("type".to_owned(), crate::install::PLUGIN.into());
        plugin.insert("agentSocket".to_owned(), agent_socket.into());
        plugin.insert("capabilities".to_owned(), serde_json::json!({"portMappings": true}));
        Self {
            cni_version: Version::new(1, 0, 0).to_string(),
            cni_versions: SUPPORTED.map(str::to_owned).into(),
            name: "weft".to_owned(),
            plugins: vec![plugin],
        }
    }
}

/// Result of ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    /// Version of the format.
    #[serde(default)]
    pub cni_version: String,
    /// Links that were made.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    #[serde(default)]
    pub ips: Vec<IpConfig>,
    /// Routes that were made.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name servers; empty, the kubelet writes resolv.conf.
    #[serde(default)]
    pub dns: Dns,
}

/// A link in a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU in bytes (since 1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the namespace that it is in; empty for the node's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// `4` or `6`; only in results before 1.0.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Address with prefix length.
    pub address: IpNet,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name service in a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl AddResult {
    /// The addresses, without prefix lengths, in the order of the result.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().map(|ip| ip.address.addr()).collect()
    }

    /// The result in the format of `version`: before 1.0.0 addresses carry their IP version,
    /// before 1.1.0 links carry no MTU.
    pub fn in_version(mut self, version: Version) -> Self {
        self.cni_version = version.to_string();
        for ip in &mut self.ips {
            let digit = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            ip.version = (version < Version::new(1, 0, 0)).then(|| digit.to_owned());
        }
        if version < Version::new(1, 1, 0) {
            self.interfaces.iter_mut().for_each(|i| i.mtu = None);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CURRENT;

    #[test]
    fn lists_without_a_plugin_or_with_an_unknown_version_are_refused() {
        let list = Conflist::weft("/run/x/agent.sock");
        let bytes = serde_json::to_vec(&list).expect("serialises");
        assert_eq!(Conflist::parse(&bytes).expect("own list").name, "weft");
        for bad in [
            r#"{"cniVersion":"1.1.0","name":"x","plugins":[]}"#,
            r#"{"cniVersion":"1.1.0","name":"x","plugins":[{"a":1}]}"#,
            r#"{"cniVersion":"0.2.0","name":"x","plugins":[{"type":"a"}]}"#,
            r#"{"name":"x"}"#,
            "",
        ] {
            assert!(Conflist::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Conflist::parse(&vec![b' '; INPUT_LEN_MAX + 1]).is_err());
    }

    #[test]
    fn old_results_carry_the_ip_version() {
        let ip = |a: &str| IpConfig {
            version: None,
            address: a.parse().expect("valid"),
            gateway: None,
            interface: Some(0),
        };
        let result = AddResult {
            interfaces: vec![Interface { mtu: Some(1450), ..Interface::default() }],
            ips: vec![ip("10.0.0.2/32"), ip("fd00::2/128")],
            ..AddResult::default()
        };
        let old = result.clone().in_version(Version::new(0, 4, 0));
        assert_eq!(old.ips[1].version.as_deref(), Some("6"));
        assert_eq!(old.interfaces[0].mtu, None);
        let new = result.in_version(CURRENT);
        assert_eq!((new.ips[0].version.clone(), new.interfaces[0].mtu), (None, Some(1450)));
    }
}
