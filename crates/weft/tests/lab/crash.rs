//! kill -9 of the supervisor, of an agent and of a kubelet, and in the middle of `up`.

use crate::harness::*;
use std::{fs, process::Command};

pub fn pid_of(lab: &Lab, node: &str, role: &str) -> i64 {
    let path = lab.dir().join(node).join(format!("{role}.pid"));
    let id: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap_or_default()).unwrap_or_default();
    id["pid"].as_i64().unwrap_or(0)
}

fn supervisor(lab: &Lab) -> i64 {
    let state = fs::read(lab.dir().join("lab.json")).expect("lab.json");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
    state["supervisor"]["pid"].as_i64().expect("supervisor's PID")
}

fn kill9(pid: i64) {
    signal(pid, "-KILL");
}

pub fn signal(pid: i64, signal: &str) {
    assert!(pid > 1, "no PID");
    let done = Command::new("kill").args([signal, &pid.to_string()]).status().expect("run kill");
    assert!(done.success(), "kill {signal} {pid}");
}

/// kill -9 of a node's agent; returns when another one is there.
pub fn kill_agent(lab: &Lab, node: &str) {
    let old = pid_of(lab, node, "agent");
    kill9(old);
    assert!(poll(|| ![0, old].contains(&pid_of(lab, node, "agent"))), "not started again");
}

/// Namespace, name, addresses and phase of every pod.
fn pods(lab: &Lab) -> Vec<String> {
    let status = lab.status();
    let all = status["pods"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<String> = all
        .iter()
        .map(|p| format!("{} {} {} {}", p["namespace"], p["name"], p["ips"], p["phase"]))
        .collect();
    all.sort();
    all
}

#[test]
fn a_killed_agent_comes_back_and_nothing_changes_meanwhile() {
    if !root_or_skip("a_killed_agent_comes_back_and_nothing_changes_meanwhile") {
        return;
    }
    let lab = Lab::up("agent", &["--nodes", "2"]);
    lab.apply(crate::model::PODS);
    lab.wait_ready(10);
    let before = pods(&lab);
    kill_agent(&lab, "node1");
    let ok = || lab.try_run(&["verify"], &[]).status.success();
    assert!(poll(ok), "{}", lab.logs());
    assert_eq!(pods(&lab), before);
    // And the new agent serves new pods.
    lab.apply("{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {nodeName: node1, containers: [{name: c, image: x}]}}\n");
    lab.wait_ready(11);
    lab.verify();
    lab.down();
}

#[test]
fn a_killed_kubelet_adopts_its_pods() {
    if !root_or_skip("a_killed_kubelet_adopts_its_pods") {
        return;
    }
    let lab = Lab::up("kubelet", &["--nodes", "2"]);
    lab.apply(crate::model::PODS);
    lab.wait_ready(10);
    let before = pods(&lab);
    let old = pid_of(&lab, "node1", "kubelet");
    kill9(old);
    assert!(poll(|| ![0, old].contains(&pid_of(&lab, "node1", "kubelet"))), "not started again");
    lab.apply("{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {nodeName: node1, containers: [{name: c, image: x}]}}\n");
    lab.wait_ready(11);
    let mut after = pods(&lab);
    after.retain(|p| !p.contains("\"late\""));
    assert_eq!(after, before, "the same pods with the same addresses");
    lab.verify();
    lab.down();
}

#[test]
fn up_adopts_a_lab_whose_supervisor_was_killed() {
    if !root_or_skip("up_adopts_a_lab_whose_supervisor_was_killed") {
        return;
    }
    let lab = Lab::up("super", &["--nodes", "2"]);
    lab.apply(crate::model::PODS);
    lab.wait_ready(10);
    let before = pods(&lab);
    let agent = pid_of(&lab, "node1", "agent");
    kill9(supervisor(&lab));
    // While the process ends, its API may still take a connection and break it.
    let stopped = || {
        let out = lab.try_run(&["status"], &["-o", "json"]);
        serde_json::from_slice(&out.stdout)
            .is_ok_and(|status: serde_json::Value| status["running"] == false)
    };
    assert!(poll(stopped));
    // Another definition is refused; the same one adopts.
    let out = lab.try_run(&["up"], &["--nodes", "3"]);
    assert!(!out.status.success() && text(&out.stderr).contains("another definition"));
    lab.run(&["up"], &["--nodes", "2"]);
    assert_eq!(pid_of(&lab, "node1", "agent"), agent, "the agent went on");
    assert_eq!(pods(&lab), before, "no object was lost");
    let ok = || lab.try_run(&["verify"], &[]).status.success();
    assert!(poll(ok), "{}", lab.logs());
    lab.apply("{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {containers: [{name: c, image: x}]}}\n");
    lab.wait_ready(11);
    lab.down();
}

#[test]
fn down_needs_no_supervisor() {
    if !root_or_skip("down_needs_no_supervisor") {
        return;
    }
    let lab = Lab::up("orphan", &["--nodes", "2"]);
    lab.apply(crate::model::PODS);
    kill9(supervisor(&lab));
    lab.down();
}

#[test]
fn up_killed_at_any_moment_leaves_nothing_after_down() {
    if !root_or_skip("up_killed_at_any_moment_leaves_nothing_after_down") {
        return;
    }
    for pause_ms in [0, 5, 20, 60, 150, 300] {
        let lab = Lab::expected("mid");
        let mut up = Command::new(WEFT)
            .args(["lab", "up", "--name", &lab.name])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("start up");
        // Not a wait for a condition: the point is to strike at different moments.
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        up.kill().expect("kill up");
        up.wait().expect("reap up");
        let state = fs::read(lab.dir().join("lab.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        if let Some(pid) = state["supervisor"]["pid"].as_i64() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        lab.down();
    }
}
