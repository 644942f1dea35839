//! The downward API: what a container may learn of its pod through `fieldRef` and
//! `resourceFieldRef`.

use crate::error::{Error, Result};
use crate::plan;
use crate::quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// A pod with what is known of it beyond the API object.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses, primary family first.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses, primary family first.
    pub host_ips: &'a [IpAddr],
    /// The node's allocatable resources, which stand in for limits that are not set.
    pub allocatable: &'a BTreeMap<String, String>,
}

impl View<'_> {
    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// Value of a `fieldPath`.
    pub fn field(&self, path: &str) -> Result<String> {
        let m = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let list = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
        let text = |s: Option<&String>| s.cloned().unwrap_or_default();
        Ok(match path {
            "metadata.name" => text(m.name.as_ref()),
            "metadata.namespace" => text(m.namespace.as_ref()),
            "metadata.uid" => text(m.uid.as_ref()),
            "metadata.labels" => map(m.labels.as_ref()),
            "metadata.annotations" => map(m.annotations.as_ref()),
            "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
            "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
            "status.podIP" => first(self.pod_ips),
            "status.podIPs" => list(self.pod_ips),
            "status.hostIP" => first(self.host_ips),
            "status.hostIPs" => list(self.host_ips),
            _ => {
                let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
                let (of, key) = if let Some(k) = keyed("metadata.labels['") {
                    (m.labels.as_ref(), k)
                } else if let Some(k) = keyed("metadata.annotations['") {
                    (m.annotations.as_ref(), k)
                } else {
                    return Err(Error::Config(format!("unsupported fieldPath: {path}")));
                };
                text(of.and_then(|l| l.get(key)))
            }
        })
    }

    /// Value of a `resourceFieldRef`, of the container it names or of `own`.
    pub fn resource(&self, r: &ResourceFieldSelector, own: Option<&str>) -> Result<String> {
        let name = r.container_name.as_deref().filter(|n| !n.is_empty()).or(own);
        let spec = self.pod.spec.as_ref();
        let container = spec.and_then(|s| {
            plan::containers(s).map(|(_, c)| c).find(|c| Some(c.name.as_str()) == name)
        });
        let Some(c) = container else {
            return Err(Error::Config(format!("container {} not found", name.unwrap_or_default())));
        };
        let unknown = || Error::Config(format!("unsupported resource: {}", r.resource));
        let (which, resource) = r.resource.split_once('.').ok_or_else(unknown)?;
        let of = |m: Option<&BTreeMap<String, _>>| -> Option<String> {
            let q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity = m?.get(resource)?;
            Some(q.0.clone())
        };
        let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let value = match which {
            "limits" => of(limits).or_else(|| self.allocatable.get(resource).cloned()),
            "requests" => of(requests).or_else(|| of(limits)),
            _ => return Err(unknown()),
        };
        let value = value.unwrap_or_else(|| "0".into());
        let divisor = r.divisor.as_ref().map(|d| d.0.as_str());
        let n = quantity::divided(&value, divisor).ok_or_else(unknown)?;
        Ok(n.to_string())
    }
}

/// Labels or annotations as the downward API's files show them: `key="value"`, sorted, escaped.
fn map(m: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (i, (k, v)) in m.into_iter().flatten().enumerate() {
        let _ = write!(out, "{}{k}={v:?}", if i > 0 { "\n" } else { "" });
    }
    out
}
