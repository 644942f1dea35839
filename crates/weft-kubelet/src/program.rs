//! What runs in a container. No image is pulled: a command whose program is on this machine runs
//! as the manifest says; where the manifest relies on the image's own program, a stand-in takes
//! its place and listens on every port that somebody expects it to.

use crate::error::{Error, Result};
use crate::plan::{self, Role};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use weft_sandbox::Mount;

/// Search path of a container that sets none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This command line.
    Run(Vec<String>),
    /// The stand-in.
    StandIn,
    /// Nothing: an init container whose image is not there has already done its work.
    Complete,
}

/// Chooses what a container runs; `command` and `args` are expanded already.
pub fn choose(
    role: Role,
    command: &[String],
    args: &[String],
    exists: impl Fn(&str) -> bool,
) -> Result<Choice> {
    match command.first() {
        Some(program) if exists(program) => {
            Ok(Choice::Run(command.iter().chain(args).cloned().collect()))
        }
        Some(program) => Err(Error::NoProgram(program.clone())),
        None if role == Role::Init => Ok(Choice::Complete),
        None => Ok(Choice::StandIn),
    }
}

/// Whether a container would find a program: in its `PATH`, or at its path, seen through the
/// container's mounts.
pub fn on_host(program: &str, path: &str, cwd: Option<&Path>, mounts: &[Mount]) -> bool {
    let executable = |p: &Path| {
        let Some(real) = through_mounts(p, mounts) else { return false };
        std::fs::metadata(real).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        executable(&cwd.unwrap_or(Path::new("/")).join(program))
    } else {
        path.split(':').any(|d| d.starts_with('/') && executable(&Path::new(d).join(program)))
    }
}

/// Where a path of the container lies on the machine.
fn through_mounts(path: &Path, mounts: &[Mount]) -> Option<PathBuf> {
    let mut clean = PathBuf::from("/");
    for c in path.components() {
        match c {
            Component::Normal(n) => clean.push(n),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    let under = mounts.iter().filter(|m| clean.starts_with(&m.target));
    match under.max_by_key(|m| m.target.components().count()) {
        Some(m) => {
            let rest = clean.strip_prefix(&m.target).ok()?;
            // `join("")` would add a slash that a file does not bear.
            Some(if rest.as_os_str().is_empty() { m.source.clone() } else { m.source.join(rest) })
        }
        None => Some(clean),
    }
}

/// A port that a stand-in listens on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Configuration of the stand-in (`weft_standin::Config`).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StandIn<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Name of the pod.
    pub pod: &'a str,
    /// Node.
    pub node: &'a str,
    /// Addresses of the pod.
    #[serde(rename = "podIPs")]
    pub pod_ips: &'a [IpAddr],
    /// Container.
    pub container: &'a str,
    /// Image that it stands for.
    pub image: &'a str,
    /// Ports to listen on.
    pub ports: Vec<Port>,
}

/// Number of a port given by number or by the name of a container port.
pub fn resolve_port(c: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(n) => u16::try_from(*n).ok().filter(|n| *n > 0),
        IntOrString::String(name) => {
            let named = c.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named {
                Some(p) => u16::try_from(p.container_port).ok(),
                None => name.parse().ok().filter(|n| *n > 0),
            }
        }
    }
}

/// The port that a probe asks.
pub fn probe_port(c: &Container, p: &Probe) -> Option<u16> {
    let int = p.grpc.as_ref().and_then(|g| u16::try_from(g.port).ok());
    let http = p.http_get.as_ref().and_then(|h| resolve_port(c, &h.port));
    let tcp = p.tcp_socket.as_ref().and_then(|t| resolve_port(c, &t.port));
    int.or(http).or(tcp)
}

/// Whether a selector matches labels; an empty one selects nothing, as for Services.
fn selects(selector: Option<&BTreeMap<String, String>>, labels: &BTreeMap<String, String>) -> bool {
    selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

fn is_stand_in(role: Role, c: &Container) -> bool {
    role != Role::Init && c.command.as_deref().unwrap_or_default().is_empty()
}

/// The ports that the stand-in of one container listens on: declared, probed, and targeted by
/// number by a Service that selects the pod. A targeted port that no container declares belongs
/// to the first stand-in among the containers, for want of a better guess.
pub fn stand_in_ports<'a>(
    pod: &Pod,
    container: &str,
    services: impl IntoIterator<Item = &'a Service>,
) -> Vec<Port> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let Some((_, c)) = plan::containers(spec).find(|(_, c)| c.name == container) else {
        return Vec::new();
    };
    let mut ports = declared(c);
    let mut have: BTreeSet<(u16, String)> =
        ports.iter().map(|p| (p.port, p.protocol.clone())).collect();
    let mut add = |port: u16, protocol: &str, name: Option<&String>| {
        if have.insert((port, protocol.to_owned())) {
            ports.push(Port { port, protocol: protocol.to_owned(), name: name.cloned() });
        }
    };
    for p in [&c.startup_probe, &c.liveness_probe, &c.readiness_probe].into_iter().flatten() {
        if let Some(n) = probe_port(c, p) {
            add(n, "TCP", None);
        }
    }
    let first = spec.containers.iter().find(|c| is_stand_in(Role::App, c));
    if first.is_some_and(|f| f.name == container) {
        let others = claimed(spec, container);
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        for s in services {
            let Some(sv) = &s.spec else { continue };
            let same = s.metadata.namespace == pod.metadata.namespace;
            if !same || !selects(sv.selector.as_ref(), labels) {
                continue;
            }
            for p in sv.ports.iter().flatten() {
                let target = p.target_port.clone().unwrap_or(IntOrString::Int(p.port));
                let IntOrString::Int(n) = target else { continue };
                let Ok(n) = u16::try_from(n) else { continue };
                let protocol = p.protocol.as_deref().unwrap_or("TCP");
                if n > 0 && !others.contains(&(n, protocol.to_owned())) {
                    add(n, protocol, p.name.as_ref());
                }
            }
        }
    }
    ports.sort();
    ports
}

fn declared(c: &Container) -> Vec<Port> {
    let port = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(Port {
            port: u16::try_from(p.container_port).ok().filter(|n| *n > 0)?,
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            name: p.name.clone(),
        })
    };
    let mut ports: Vec<Port> = c.ports.iter().flatten().filter_map(port).collect();
    let mut seen = BTreeSet::new();
    ports.retain(|p| seen.insert((p.port, p.protocol.clone())));
    ports
}

/// Ports that other containers of the pod declare.
fn claimed(spec: &PodSpec, but: &str) -> BTreeSet<(u16, String)> {
    let others = plan::containers(spec).filter(|(_, c)| c.name != but);
    others.flat_map(|(_, c)| declared(c)).map(|p| (p.port, p.protocol)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn s(v: &[&str]) -> Vec<String> {
        v.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_choice_of_the_plan() {
        let here = |p: &str| p == "sh";
        let run = choose(Role::App, &s(&["sh", "-c"]), &s(&["true"]), here).unwrap();
        assert_eq!(run, Choice::Run(s(&["sh", "-c", "true"])));
        assert_eq!(choose(Role::App, &[], &s(&["--flag"]), here).unwrap(), Choice::StandIn);
        assert_eq!(choose(Role::Sidecar, &[], &[], here).unwrap(), Choice::StandIn);
        assert_eq!(choose(Role::Init, &[], &[], here).unwrap(), Choice::Complete);
        let e = choose(Role::App, &s(&["/app/server"]), &[], here).unwrap_err().to_string();
        assert!(e.contains("/app/server"), "{e}");
    }

    #[test]
    fn programs_are_seen_through_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("run.sh");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let (source, target) = (dir.path().into(), "/scripts".into());
        let m = [Mount { source, beneath: None, ids: None, target, read_only: true }];
        assert!(on_host("/scripts/run.sh", PATH, None, &m));
        assert!(on_host("./run.sh", PATH, Some(Path::new("/scripts")), &m));
        assert!(on_host("run.sh", "/scripts", None, &m));
        assert!(!on_host("/scripts/other.sh", PATH, None, &m));
        assert!(!on_host("run.sh", PATH, None, &m));
        assert!(on_host("sh", PATH, None, &m));
        assert!(!on_host("/usr/bin", PATH, None, &m));
    }

    #[test]
    fn ports_declared_probed_and_targeted() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "p", "labels": {"app": "web"}},
            "spec": {"containers": [
                {"name": "real", "command": ["sleep"], "ports": [{"containerPort": 9000}]},
                {"name": "web", "ports": [{"containerPort": 80, "name": "http"},
                    {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}],
                 "livenessProbe": {"httpGet": {"port": "http"}},
                 "readinessProbe": {"grpc": {"port": 7000}}},
                {"name": "second"}]}
        }))
        .unwrap();
        let svc = |ns: &str, app: &str, port: serde_json::Value| -> Service {
            serde_json::from_value(json!({"metadata": {"namespace": ns, "name": "s"},
                "spec": {"selector": {"app": app}, "ports": [port]}}))
            .unwrap()
        };
        let services = [
            svc("ns", "web", json!({"port": 8080, "targetPort": 8081})),
            svc("ns", "web", json!({"port": 8082})),
            svc("ns", "web", json!({"port": 1, "targetPort": "http"})),
            svc("ns", "web", json!({"port": 9000})),
            svc("ns", "other", json!({"port": 1111})),
            svc("elsewhere", "web", json!({"port": 2222})),
        ];
        let show = |c: &str| {
            stand_in_ports(&pod, c, &services)
                .iter()
                .map(|p| format!("{}/{}", p.port, p.protocol))
                .collect::<Vec<_>>()
        };
        assert_eq!(show("web"), ["53/UDP", "80/TCP", "7000/TCP", "8081/TCP", "8082/TCP"]);
        assert_eq!(show("second"), Vec::<String>::new());
    }
}
