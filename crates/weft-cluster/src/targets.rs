//! Which pods a Service means, and on which ports: what EndpointSlices and Endpoints share.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::World;
use crate::store::Object;
use crate::{labels, pods};

/// Label of every slice: the Service it belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of slices and Endpoints of headless Services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// An address family, as EndpointSlices and Services spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    /// `None` stands for every port (a mirrored slice).
    pub(crate) number: Option<i32>,
    pub(crate) app_protocol: Option<String>,
}

/// The selector, where this Service is one whose endpoints follow from pods.
pub(crate) fn selector(spec: &ServiceSpec) -> Option<&std::collections::BTreeMap<String, String>> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

pub(crate) fn headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// The families of a Service, its primary one first.
pub(crate) fn families(spec: &ServiceSpec) -> Vec<Family> {
    let stated = spec.ip_families.iter().flatten().filter_map(|family| match family.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    });
    let stated: Vec<Family> = stated.collect();
    if !stated.is_empty() {
        return stated;
    }
    let address = spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    vec![address.as_ref().map_or(Family::V4, Family::of)]
}

/// The pods a Service selects that have not run to their end.
pub(crate) fn selected<'a>(
    world: &'a World,
    service: &'a Service,
) -> impl Iterator<Item = &'a Arc<Pod>> {
    let wanted = service.spec.as_ref().and_then(selector);
    world.pods.within(service.namespace()).filter(move |pod| {
        wanted.is_some_and(|wanted| labels::contains(wanted, pod.labels())) && !pods::finished(pod)
    })
}

/// The pod's address of a family.
pub(crate) fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
    all.chain(status.pod_ip.as_deref())
        .filter_map(|text| text.parse::<IpAddr>().ok())
        // An IPv4 address in IPv6 clothes is one of IPv4, as Go has it.
        .map(|address| address.to_canonical())
        .find(|address| Family::of(address) == family)
}

/// The pod's own host name under this Service, where DNS shall know it.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref()?;
    let hostname = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    (subdomain == service.name() && pod.namespace() == service.namespace())
        .then(|| hostname.to_owned())
}

/// The Service's ports on this pod. A named target port that the pod lacks is left out.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let all = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports: Vec<Port> = all
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                number: Some(target(port, pod)?),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // Sidecars serve too (KEP-753).
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|one| {
            one.name.as_ref() == Some(name) && one.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|one| one.container_port)
}
