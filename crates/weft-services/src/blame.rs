//! Which field of which object a diagnostic is about, for whoever tells people.

use crate::{Diagnostic, DiagnosticKind, Frontend};
use std::{net::IpAddr, sync::Arc};
use weft_model::{Service, ServicePort};

/// The object to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The Service itself.
    Service,
    /// One of its slices.
    EndpointSlice(Arc<str>),
}

/// A diagnostic in the words of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blamed {
    /// Which object.
    pub object: Object,
    /// One word for machines.
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it; the same on every node.
    pub message: String,
}

impl Diagnostic {
    /// What to blame in `service`, the object that the diagnostic is about.
    pub fn blame(&self, service: &Service) -> Blamed {
        let said = |reason, field: String, message: String| Blamed {
            object: Object::Service,
            reason,
            field,
            message,
        };
        match &self.kind {
            DiagnosticKind::Conflict { frontend, owner } => match address_field(service, *frontend)
            {
                Some(field) => {
                    let text = format!("{frontend} already belongs to Service {owner}");
                    said("AddressConflict", field, format!("{text}, and is not served"))
                }
                // Every node has its own address, and all have the same to say.
                None => {
                    let port =
                        port_field(service, *frontend).unwrap_or_else(|| "spec.ports".to_owned());
                    let number = format!("{}/{}", frontend.port, frontend.protocol);
                    let text = format!("{number} already belongs to Service {owner}");
                    said(
                        "PortConflict",
                        format!("{port}.nodePort"),
                        format!("{text}, and is not served"),
                    )
                }
            },
            DiagnosticKind::HealthPortConflict { port, owner } => said(
                "PortConflict",
                "spec.healthCheckNodePort".to_owned(),
                format!("{port} already belongs to Service {owner}, and is not served"),
            ),
            DiagnosticKind::Refused { frontend, why } => said(
                "AddressRefused",
                address_field(service, *frontend).unwrap_or_default(),
                format!("{frontend} is not served: {why}"),
            ),
            DiagnosticKind::Hides { frontend, node } => said(
                "NodeAddressHidden",
                address_field(service, *frontend).unwrap_or_default(),
                format!("{frontend} is served, and hides this port of node {node}"),
            ),
            DiagnosticKind::BadEndpoint { slice, address, reason } => Blamed {
                object: Object::EndpointSlice(slice.clone()),
                reason: "EndpointIgnored",
                field: "endpoints.addresses".to_owned(),
                message: format!("{address} is ignored: {reason}"),
            },
        }
    }
}

/// The field that has a frontend's address; `None` for a node's.
fn address_field(service: &Service, frontend: Frontend) -> Option<String> {
    let at = |all: &[IpAddr]| all.iter().position(|a| *a == frontend.addr);
    if let Some(n) = at(&service.cluster_ips) {
        return Some(format!("spec.clusterIPs[{n}]"));
    }
    let external = &service.external;
    if at(&external.balancer_addresses).is_some() {
        return Some("status.loadBalancer.ingress".to_owned());
    }
    at(&external.addresses).map(|_| "spec.externalIPs".to_owned())
}

/// `spec.ports[n]` with a frontend's number.
fn port_field(service: &Service, frontend: Frontend) -> Option<String> {
    let has = |p: &ServicePort| {
        p.protocol == frontend.protocol
            && (p.port == frontend.port || p.node_port == Some(frontend.port))
    };
    service.ports.iter().position(has).map(|n| format!("spec.ports[{n}]"))
}
