//! What a change of a Service or of its backends does to clients that are in the middle of
//! something: shared parts, and one module for each topic.

mod closing;
mod localhost;
mod under_load;

use crate::{entrance::*, harness::*};
use serde_json::Value;
use std::{net::SocketAddr, path::Path};
use weft_lab::{
    nodes::Place,
    probe::{
        Probe,
        load::{Flow, Kind, Report},
    },
};

/// An answer that takes longer counts as silence: far more than anything here takes on a busy
/// machine, far less than a client waits for a backend that is gone.
const SILENCE_MS: u64 = 10_000;

/// A process in a pod: its network namespace, and its cgroup, which is what the hooks follow.
fn in_pod(lab: &Lab, pod: &str) -> Probe {
    let status = lab.status();
    let found = status["pods"].as_array().into_iter().flatten().find(|p| p["name"] == pod);
    let field = |name: &str| found.and_then(|p| p[name].as_str()).expect("pod").to_owned();
    let (node, uid) = (field("node"), field("uid"));
    let own = lab.dir().join(&node).join("pods").join(&uid).join("netns");
    let netns = if own.exists() { own } else { netns_of(lab, &node) };
    let cgroup = format!("weft.{}/{node}/pods/{uid}/load", lab.name).into();
    start(Place { netns, cgroup: Some(cgroup) })
}

/// A process of a node.
fn on_node(lab: &Lab, node: &str) -> Probe {
    let cgroup = format!("weft.{}/{node}/system/load", lab.name).into();
    start(Place { netns: netns_of(lab, node), cgroup: Some(cgroup) })
}

/// A process of the client outside of the cluster.
fn outside(lab: &Lab) -> Probe {
    let cgroup = format!("weft.{}/client", lab.name).into();
    start(Place { netns: netns_of(lab, "client"), cgroup: Some(cgroup) })
}

fn netns_of(lab: &Lab, part: &str) -> std::path::PathBuf {
    Path::new("/run/netns").join(format!("weft.{}.{part}", lab.name))
}

fn start(place: Place) -> Probe {
    Probe::start_program(Path::new(WEFT), &place).expect("start a client")
}

fn flow(name: &str, kind: Kind, to: SocketAddr) -> Flow {
    Flow { name: name.to_owned(), kind, to, pause_ms: 20, timeout_ms: SILENCE_MS }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("address"), port)
}

/// The addresses of a Service, IPv4 first.
fn cluster_ips(lab: &Lab, service: &str) -> Vec<String> {
    let said = lab.k(&["get", "service", service, "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let mut all: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    all.sort_by_key(|a| a.contains(':'));
    all
}

/// A stage of a node's agent, as its status tells it.
pub fn stage(lab: &Lab, node: &str, name: &str) -> Value {
    let socket = lab.dir().join(node).join("agent.sock");
    let answer = weft_cni::call(&socket, &weft_cni::Request::Status);
    let status = answer.ok().and_then(|a| a.status).unwrap_or_default();
    status["stages"][name].clone()
}

/// A count of the sockets stage.
fn sockets_count(lab: &Lab, node: &str, count: &str) -> u64 {
    stage(lab, node, "sockets")["counts"][count].as_u64().unwrap_or_default()
}

/// Waits until the sockets stage has looked at the tables that are in the kernel now: what it
/// has not closed then, it does not close because of them.
fn sockets_seen(lab: &Lab, node: &str) {
    let generation = |name: &str| stage(lab, node, name)["generation"].as_u64();
    let now = generation("services").expect("applied");
    let seen = || generation("sockets") >= Some(now);
    assert!(poll(seen), "{}\n{}", stage(lab, node, "sockets"), lab.logs());
}

/// Waits until each flow was answered twice more: once at least it asked after this call.
fn progress(lab: &Lab, probe: &mut Probe) {
    let before = probe.answered().expect("answered");
    let more = || {
        let now = probe.answered().expect("answered");
        before.iter().zip(now).all(|(before, now)| now >= before + 2)
    };
    if !poll(more) {
        let reports = probe.end_load().expect("reports");
        panic!("a flow stands still: {reports:#?}\n{}", lab.logs());
    }
}

/// One line for each flow, for people who read the test's output.
fn print(phase: &str, reports: &[Report]) {
    for r in reports {
        println!(
            "{phase:<28} {:<34} answered {:>5}, repeated {:>3}, longest gap {:>5} ms, failures \
             {:?}",
            r.name, r.answered, r.repeated, r.longest_gap_ms, r.failures
        );
    }
}

/// Nobody missed an answer. But for one datagram of a client outside: its flow is forgotten when
/// its target goes, and the answer that is on its way then bears the address of the node.
fn assert_clean(lab: &Lab, phase: &str, reports: &[Report]) {
    let in_between = |r: &Report| {
        r.name.contains("outside")
            && r.name.contains("UdpUnconnected")
            && r.failures.keys().eq(["other"])
            && r.failures.values().sum::<u64>() == 1
    };
    let bad: Vec<&Report> =
        reports.iter().filter(|r| !r.failures.is_empty() && !in_between(r)).collect();
    assert!(bad.is_empty(), "{phase}: {bad:#?}\n{}", lab.logs());
}
