//! Rows of the networking kinds.

use serde_json::Value;

use super::format::{age, integer, labels, list, name, or, selector, string, three};
use super::{AGE, NAME, Printer, text, wide};

pub(super) const SERVICE: Printer = Printer {
    columns: &[
        NAME,
        text("Type"),
        text("Cluster-IP"),
        text("External-IP"),
        text("Port(s)"),
        AGE,
        wide("Selector"),
    ],
    cells: |object, now| {
        let ip = match string(object, "/spec/clusterIPs/0") {
            "" => string(object, "/spec/clusterIP"),
            ip => ip,
        };
        let ports: Vec<String> = list(object, "/spec/ports").iter().map(service_port).collect();
        vec![
            name(object),
            string(object, "/spec/type").into(),
            or(ip, "<none>"),
            external_ip(object).into(),
            or(&ports.join(","), "<none>"),
            age(object, now),
            labels(object.pointer("/spec/selector")).into(),
        ]
    },
};

fn service_port(port: &Value) -> String {
    let protocol = string(port, "/protocol");
    match (integer(port, "/port"), integer(port, "/nodePort")) {
        (number, 0) => format!("{number}/{protocol}"),
        (number, node) => format!("{number}:{node}/{protocol}"),
    }
}

fn external_ip(service: &Value) -> String {
    let mut ips: Vec<&str> =
        list(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match string(service, "/spec/type") {
        "ExternalName" => string(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let balancer = balancer_addresses(service);
            ips.splice(0..0, balancer.iter().map(String::as_str));
            if ips.is_empty() { "<pending>".to_owned() } else { ips.join(",") }
        }
        _ if ips.is_empty() => "<none>".to_owned(),
        _ => ips.join(","),
    }
}

/// The distinct addresses of a load balancer, sorted.
fn balancer_addresses(object: &Value) -> Vec<String> {
    let mut all: Vec<String> = list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| match string(ingress, "/ip") {
            "" => string(ingress, "/hostname").to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[NAME, text("Endpoints"), AGE],
    cells: |object, now| {
        let mut all = Vec::new();
        for subset in list(object, "/subsets") {
            let ports = list(subset, "/ports");
            let addresses = list(subset, "/addresses").iter().map(|a| string(a, "/ip"));
            if ports.is_empty() {
                all.extend(addresses.map(str::to_owned));
                continue;
            }
            for port in ports {
                let number = integer(port, "/port");
                all.extend(addresses.clone().map(|ip| {
                    if ip.contains(':') {
                        format!("[{ip}]:{number}")
                    } else {
                        format!("{ip}:{number}")
                    }
                }));
            }
        }
        // Subsets without ready addresses are not no subsets.
        let none = if list(object, "/subsets").is_empty() { "<none>" } else { "" };
        vec![name(object), three(&all, none).into(), age(object, now)]
    },
};

pub(super) const ENDPOINT_SLICE: Printer = Printer {
    columns: &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "/ports")
            .iter()
            .map(|port| match (port.get("port"), string(port, "/name")) {
                (Some(number), _) => number.to_string(),
                (None, _) if port.get("name").is_none() => "*".to_owned(),
                (None, name) => name.to_owned(),
            })
            .collect();
        let addresses: Vec<String> = list(object, "/endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "/addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        vec![
            name(object),
            string(object, "/addressType").into(),
            or(&three(&ports, ""), "<unset>"),
            three(&addresses, "<unset>").into(),
            age(object, now),
        ]
    },
};

/// The hosts of the first rules that have one, and how many rules there are besides: the real API
/// counts those without a host, too.
fn hosts(rules: &[Value]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == SHOWN_MAX;
        match string(rule, "/host") {
            host if !more && !host.is_empty() => shown.push(host),
            _ => {}
        }
    }
    let text = if shown.is_empty() { "*".to_owned() } else { shown.join(",") };
    if more { format!("{text} + {} more...", rules.len() - SHOWN_MAX) } else { text }
}

const SHOWN_MAX: usize = 3;

pub(super) const INGRESS: Printer = Printer {
    columns: &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE],
    cells: |object, now| {
        let tls = !list(object, "/spec/tls").is_empty();
        vec![
            name(object),
            or(string(object, "/spec/ingressClassName"), "<none>"),
            hosts(list(object, "/spec/rules")).into(),
            balancer_addresses(object).join(",").into(),
            if tls { "80, 443" } else { "80" }.into(),
            age(object, now),
        ]
    },
};

pub(super) const INGRESS_CLASS: Printer = Printer {
    columns: &[NAME, text("Controller"), text("Parameters"), AGE],
    cells: |object, now| {
        let parameters = object.pointer("/spec/parameters").map_or(String::new(), |p| {
            let group = match string(p, "/apiGroup") {
                "" => String::new(),
                group => format!(".{group}"),
            };
            format!("{}{group}/{}", string(p, "/kind"), string(p, "/name"))
        });
        vec![
            name(object),
            string(object, "/spec/controller").into(),
            or(&parameters, "<none>"),
            age(object, now),
        ]
    },
};

pub(super) const NETWORK_POLICY: Printer = Printer {
    columns: &[NAME, text("Pod-Selector"), AGE],
    cells: |object, now| {
        let pods = selector(object.pointer("/spec/podSelector"));
        vec![name(object), pods.into(), age(object, now)]
    },
};

pub(super) const IP_ADDRESS: Printer = Printer {
    // The real API has no column for the age here.
    columns: &[NAME, text("ParentRef")],
    cells: |object, _| {
        let part = |field: &str| string(object, &format!("/spec/parentRef/{field}"));
        let mut parent = part("resource").to_owned();
        if !part("group").is_empty() {
            parent = format!("{parent}.{}", part("group"));
        }
        for field in ["namespace", "name"] {
            if !part(field).is_empty() {
                parent = format!("{parent}/{}", part(field));
            }
        }
        vec![name(object), or(&parent, "<none>")]
    },
};

pub(super) const SERVICE_CIDR: Printer = Printer {
    columns: &[NAME, text("CIDRs"), AGE],
    cells: |object, now| {
        let cidrs: Vec<&str> =
            list(object, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
        vec![name(object), cidrs.join(",").into(), age(object, now)]
    },
};
