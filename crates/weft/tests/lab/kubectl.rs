//! Stock kubectl against a lab: what people type.

use crate::harness::*;
use std::{io::Write, process::Stdio};

#[test]
fn a_session_of_stock_kubectl() {
    let test = "a_session_of_stock_kubectl";
    if !root_or_skip(test) || !kubectl_or_skip(test) {
        return;
    }
    let lab = Lab::up("kubectl", &["--nodes", "2"]);
    let has = |args: &[&str], word: &str| {
        let said = lab.k(args);
        assert!(said.contains(word), "kubectl {args:?} does not say {word:?}:\n{said}");
        said
    };
    has(&["get", "nodes", "-o", "wide"], "node2");
    has(&["api-resources"], "endpointslices");
    has(&["create", "namespace", "play"], "namespace/play created");
    has(
        &[
            "create",
            "deployment",
            "web",
            "-n",
            "play",
            "--image=example.test/web",
            "--port=80",
            "--replicas=2",
        ],
        "created",
    );
    has(
        &["rollout", "status", "deployment/web", "-n", "play", "--timeout=60s"],
        "successfully rolled out",
    );
    has(&["expose", "deployment", "web", "-n", "play", "--port=80"], "service/web exposed");
    has(&["create", "service", "clusterip", "other", "-n", "play", "--tcp=8080:80"], "created");
    has(&["create", "configmap", "settings", "-n", "play", "--from-literal=a=b"], "created");
    has(&["get", "configmap", "settings", "-n", "play", "-o", "jsonpath={.data.a}"], "b");
    has(&["get", "pods", "-n", "play", "-o", "wide"], "10.244.");
    has(&["get", "all", "-n", "play"], "deployment.apps/web");
    has(&["get", "service", "web", "-n", "play", "-o", "yaml"], "clusterIP: 10.96.");
    has(
        &["get", "service", "web", "-n", "play", "-o", "json"],
        "\"ipFamilyPolicy\": \"SingleStack\"",
    );
    has(&["scale", "deployment/web", "-n", "play", "--replicas=3"], "scaled");
    has(
        &[
            "wait",
            "-n",
            "play",
            "--for=jsonpath={.status.readyReplicas}=3",
            "deployment/web",
            "--timeout=60s",
        ],
        "condition met",
    );
    has(&["label", "service", "web", "-n", "play", "tier=front"], "labeled");
    has(&["get", "services", "-n", "play", "-l", "tier=front"], "web");
    has(
        &[
            "patch",
            "service",
            "web",
            "-n",
            "play",
            "-p",
            "{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}",
        ],
        "patched",
    );
    has(&["describe", "service", "web", "-n", "play"], "ClientIP");
    has(&["describe", "deployment", "web", "-n", "play"], "RollingUpdate");
    has(&["explain", "service.spec.clusterIPs"], "clusterIPs");
    has(&["explain", "pod.spec.containers.readinessProbe"], "readinessProbe");
    let pod = lab.k(&[
        "get",
        "pods",
        "-n",
        "play",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]);
    has(&["describe", "pod", &pod, "-n", "play"], "Started");
    has(&["logs", &pod, "-n", "play"], "listening on");
    let said = has(
        &["exec", &pod, "-n", "play", "--", "cat", "/etc/resolv.conf"],
        "nameserver 10.96.0.10",
    );
    assert!(
        said.contains("search play.svc.cluster.local svc.cluster.local cluster.local"),
        "{said}"
    );
    // Exit codes travel, and so does standard input.
    let out = lab.kubectl().args(["exec", &pod, "-n", "play", "--", "sh", "-c", "exit 7"]).output();
    assert_eq!(out.expect("run kubectl").status.code(), Some(7));
    let mut cat = lab
        .kubectl()
        .args(["exec", "-i", &pod, "-n", "play", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    cat.stdin.take().expect("stdin").write_all(b"through the pod\n").expect("write");
    let out = cat.wait_with_output().expect("kubectl's output");
    assert_eq!(text(&out.stdout), "through the pod\n");
    // With a terminal: the command sees one, and so its own prompt would show.
    let said = lab.run(&["exec"], &["-t", "-n", "play", &pod, "--", "sh", "-c", "tty; exit 0"]);
    assert!(said.contains("/dev/pts/"), "{said}");
    // A watch prints what changes while it runs.
    let mut watch = lab
        .kubectl()
        .args(["get", "configmaps", "-n", "play", "-w", "--request-timeout=30s", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kubectl");
    let out = watch.stdout.take().expect("stdout");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
    let mut wait_for = |name: &str| {
        let seen = lines.by_ref().map_while(Result::ok).any(|l| l == format!("configmap/{name}"));
        assert!(seen, "the watch did not show {name}");
    };
    wait_for("settings");
    lab.k(&["create", "configmap", "later", "-n", "play"]);
    wait_for("later");
    watch.kill().expect("stop the watch");
    watch.wait().expect("reap the watch");
    // Bad input, in the words of the real API.
    let out = lab.kubectl().args(["get", "pod", "nobody", "-n", "play"]).output().expect("kubectl");
    assert_eq!(text(&out.stderr), "Error from server (NotFound): pods \"nobody\" not found\n");
    has(&["delete", "service", "other", "-n", "play"], "deleted");
    has(&["delete", "namespace", "play", "--timeout=60s"], "deleted");
    let gone = lab.kubectl().args(["get", "namespace", "play"]).output().expect("kubectl");
    assert!(!gone.status.success(), "{}", text(&gone.stdout));
    lab.down();
}
