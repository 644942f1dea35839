//! Lives of pods.

use crate::world::{NS, World, condition, container};
use serde_json::{Value, json};

pub fn runs_and_ends(w: &World) {
    w.pod(
        "web",
        json!({"hostNetwork": true, "terminationGracePeriodSeconds": 5, "containers": [
            {"name": "web", "ports": [{"containerPort": 18080, "name": "http"}],
             "readinessProbe": {"httpGet": {"port": "http", "path": "/ready"}},
             "livenessProbe": {"tcpSocket": {"port": 18080}}},
            {"name": "grpc", "readinessProbe": {"grpc": {"port": 18090}}}]}),
    );
    let pod = w.until_ready("web");
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "127.0.0.1", "hostNetwork pods have the node's addresses");
    assert_eq!(container(&pod, "web")["imageID"], "weft://stand-in");
    assert_eq!(container(&pod, "web")["restartCount"], 0);
    assert_eq!(condition(&pod, "PodReadyToStartContainers"), "True");
    assert!(w.events("web", "Started").len() == 2 || !w.until_event("web", "Started").is_empty());
    let start = std::time::Instant::now();
    w.delete_and_wait("web", 5);
    assert!(start.elapsed().as_secs() < 4, "a stand-in ends on SIGTERM");
}

pub fn network(w: &World) {
    w.pod("net", json!({"containers": [{"name": "c", "command": ["sleep", "1000"]}]}));
    let pod = w.until_ready("net");
    let ips: Vec<_> =
        pod["status"]["podIPs"].as_array().unwrap().iter().map(|i| &i["ip"]).collect();
    assert_eq!(ips, ["10.244.1.5", "fd00::5"], "the cluster's primary family comes first");
    w.delete_and_wait("net", 0);
    let log = std::fs::read_to_string(w.dir.join("cni.log")).unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let calls: Vec<&str> = log.lines().filter(|l| l.contains(uid)).collect();
    assert!(calls[0].starts_with("ADD eth0 "), "{log}");
    assert!(calls.last().unwrap().starts_with("DEL eth0 "), "{log}");
    assert!(calls[0].contains(&format!("K8S_POD_NAMESPACE={NS};K8S_POD_NAME=net;")), "{log}");
}

pub fn init_containers(w: &World) {
    let note = |text: &str| json!(["sh", "-c", format!("echo {text} >>/work/log")]);
    let mount = json!([{"name": "work", "mountPath": "/work"}]);
    w.pod(
        "init",
        json!({"volumes": [{"name": "work", "emptyDir": {}}],
            "initContainers": [
                {"name": "one", "command": note("one"), "volumeMounts": mount},
                {"name": "image", "volumeMounts": mount},
                {"name": "side", "restartPolicy": "Always", "volumeMounts": mount,
                 "command": ["sh", "-c", "echo side >>/work/log; sleep 1000"],
                 "startupProbe": {"exec": {"command": ["grep", "side", "/work/log"]}}},
                {"name": "two", "command": note("two"), "volumeMounts": mount}],
            "containers": [{"name": "app", "volumeMounts": mount,
                "command": ["sh", "-c", "cat /work/log >/dev/termination-log; sleep 1000"],
                "readinessProbe": {"exec": {"command":
                    ["sh", "-c", "[ $(wc -l </work/log) = 3 ]"]}}}]}),
    );
    let pod = w.until_ready("init");
    assert_eq!(container(&pod, "image")["state"]["terminated"]["reason"], "Completed");
    assert_eq!(container(&pod, "two")["state"]["terminated"]["exitCode"], 0);
    assert_eq!(container(&pod, "side")["started"], true);
    w.delete_and_wait("init", 1);
}

pub fn crashes(w: &World) {
    w.pod(
        "crash",
        json!({"containers": [{"name": "c",
            "command": ["sh", "-c", "echo run; echo why >/dev/termination-log; exit 3"]}]}),
    );
    let pod = w.until("crash", "crashed twice", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let c = container(&pod, "c");
    assert_eq!(c["restartCount"], 1, "the first restart comes at once");
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(c["lastState"]["terminated"]["message"], "why\n");
    assert_eq!(pod["status"]["phase"], "Running");
    w.until_event("crash", "BackOff");
    w.delete_and_wait("crash", 0);
}

pub fn succeeds(w: &World) {
    w.pod(
        "job",
        json!({"restartPolicy": "Never", "containers": [{"name": "c",
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "command": ["sh", "-c", "echo last words; exit $CODE"],
            "env": [{"name": "CODE", "value": "0"}]}]}),
    );
    let pod = w.until("job", "succeeded", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(condition(&pod, "Ready"), "False");
    w.delete_and_wait("job", 0);
    w.pod(
        "job2",
        json!({"restartPolicy": "Never", "containers": [{"name": "c",
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "command": ["sh", "-c", "echo last words; exit 7"]}]}),
    );
    let pod = w.until("job2", "failed", |p| p["status"]["phase"] == "Failed");
    let t = &container(&pod, "c")["state"]["terminated"];
    assert_eq!((&t["exitCode"], &t["message"]), (&json!(7), &json!("last words\n")));
    w.delete_and_wait("job2", 0);
}

pub fn missing_config_map(w: &World) {
    w.pod(
        "waits",
        json!({"containers": [{"name": "c", "command": ["sleep", "1000"],
            "envFrom": [{"configMapRef": {"name": "late"}}]}]}),
    );
    let pod = w.until("waits", "waited", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = &container(&pod, "c")["state"]["waiting"]["message"];
    assert_eq!(message, "configmap \"late\" not found");
    assert!(w.until_event("waits", "Failed")[0].contains("late"));
    w.create("v1", "ConfigMap", json!({"metadata": {"name": "late"}, "data": {"A": "1"}}));
    w.until_ready("waits");
    w.delete_and_wait("waits", 0);
}

pub fn missing_program(w: &World) {
    w.pod("none", json!({"containers": [{"name": "c", "command": ["/app/server", "--x"]}]}));
    let pod = w.until("none", "waited", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "CreateContainerError"
    });
    let message = container(&pod, "c")["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("/app/server"), "{message}");
    assert!(w.until_event("none", "Failed")[0].contains("/app/server"));
    w.delete_and_wait("none", 0);
}

pub fn liveness(w: &World) {
    w.pod(
        "live",
        json!({"containers": [{"name": "c", "command": ["sleep", "1000"],
            "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1,
                "failureThreshold": 2, "terminationGracePeriodSeconds": 1},
            "readinessProbe": {"exec": {"command": ["no-such-program"]}}}]}),
    );
    let pod = w.until("live", "was restarted", |p| {
        container(p, "c")["restartCount"].as_i64().unwrap_or(0) >= 1
    });
    assert_eq!(container(&pod, "c")["lastState"]["terminated"]["exitCode"], 137);
    assert!(w.until_event("live", "Unhealthy")[0].contains("Liveness probe failed"));
    assert!(w.until_event("live", "Killing")[0].contains("failed liveness probe"));
    let marked = w.until_event("live", "StandIn");
    assert!(marked[0].contains("no-such-program"), "an absent program passes, and is marked");
    w.delete_and_wait("live", 0);
}

pub fn volumes(w: &World) {
    w.create("v1", "ConfigMap", json!({"metadata": {"name": "cm"}, "data": {"k": "v1", "x": "y"}}));
    w.create("v1", "Secret", json!({"metadata": {"name": "s"}, "stringData": {"p": "q"}}));
    let script = "set -e
        [ $(cat /cm/k) = v1 ]; [ $(cat /one) = y ]; [ $(cat /s/p) = q ]; [ $FROM = v1 ]
        [ $NODE = n1 ]; [ $HOSTNAME = files ]; [ $(cat /etc/hostname) = files ]
        grep -q 'nameserver 10.96.0.10' /etc/resolv.conf
        grep -q 'search default.svc.cluster.local svc.cluster.local' /etc/resolv.conf
        grep -q '10.244.1.5.*files' /etc/hosts; grep -q 'foo.local' /etc/hosts
        cd /var/run/secrets/kubernetes.io/serviceaccount
        [ $(cat ca.crt) = certificate ]; [ $(cat namespace) = default ]; [ -s token ]
        echo ok >/data/ok; ln -s $OUT /data/out; ! echo x >/cm/k";
    w.pod(
        "files",
        json!({"restartPolicy": "Never",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["foo.local"]}],
            "volumes": [{"name": "cm", "configMap": {"name": "cm"}},
                {"name": "s", "secret": {"secretName": "s"}},
                {"name": "h", "hostPath": {"path": "/data", "type": "DirectoryOrCreate"}}],
            "containers": [{"name": "c", "command": ["sh", "-c", script],
                "env": [{"name": "FROM", "valueFrom":
                        {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "OUT", "value": w.dir}],
                "securityContext": {"runAsUser": 0},
                "volumeMounts": [{"name": "cm", "mountPath": "/cm"},
                    {"name": "cm", "mountPath": "/one", "subPath": "x"},
                    {"name": "s", "mountPath": "/s"},
                    {"name": "h", "mountPath": "/data"}]}]}),
    );
    let over = |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let pod = w.until("files", "ended", over);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let log = w.dir.join("kubelet").join(uid).join("logs/c/0.log");
    let log = std::fs::read_to_string(log).unwrap_or_default();
    assert_eq!(pod["status"]["phase"], "Succeeded", "{log}");
    assert!(w.dir.join("hostroot/data/ok").exists(), "hostPath lies in the node's directory");
    w.delete_and_wait("files", 0);
    // The link that the container has left there leads the kubelet nowhere.
    assert!(w.dir.join("hostroot/data/out").is_symlink());
    w.pod(
        "led",
        json!({"volumes": [{"name": "h", "hostPath": {"path": "/data"}}],
            "containers": [{"name": "c", "command": ["sleep", "1000"], "volumeMounts":
                [{"name": "h", "mountPath": "/m", "subPath": "out/made"}]}]}),
    );
    let waiting = |p: &Value| container(p, "c")["state"]["waiting"]["message"].clone();
    let pod = w.until("led", "is refused", |p| waiting(p).is_string());
    let message = waiting(&pod);
    let message = message.as_str().unwrap();
    assert!(message.contains("default/led") && message.contains("symbolic link"), "{message}");
    assert!(message.contains("out/made") && !w.dir.join("made").exists(), "{message}");
    w.delete_and_wait("led", 0);
}

pub fn stand_in_ports(w: &World) {
    w.pod("ports", json!({"hostNetwork": true, "containers": [{"name": "c"}]}));
    w.until_ready("ports");
    w.create(
        "v1",
        "Service",
        json!({"metadata": {"name": "ports"}, "spec": {"selector": {"app": "ports"},
            "ports": [{"port": 80, "targetPort": 18099}]}}),
    );
    w.pod(
        "asks",
        json!({"hostNetwork": true, "containers": [{"name": "c", "command": ["sleep", "1000"],
            "readinessProbe": {"tcpSocket": {"port": 18099}, "periodSeconds": 1}}]}),
    );
    w.until_ready("asks");
    assert_eq!(container(&w.get("ports"), "c")["restartCount"], 0);
    w.delete_and_wait("asks", 0);
    w.delete_and_wait("ports", 1);
}

pub fn adoption(w: &World) {
    for name in ["stays", "goes", "ends"] {
        let command = if name == "ends" {
            json!(["sh", "-c", "while [ ! -e /tmp/x ]; do sleep 0.1; done"])
        } else {
            json!(["sleep", "1000"])
        };
        w.pod(name, json!({"containers": [{"name": "c", "command": command}]}));
    }
    let id = |name: &str| container(&w.until_ready(name), "c")["containerID"].clone();
    let (stays, _, _) = (id("stays"), id("goes"), id("ends"));
    let uid = w.get("goes")["metadata"]["uid"].as_str().unwrap().to_owned();
    w.kill_kubelet();
    w.delete("goes", 0);
    assert!(w.get("goes").is_null(), "nobody is asked when the grace period is 0");
    w.start_kubelet();
    let start = std::time::Instant::now();
    while w.dir.join("pods").join(&uid).exists() {
        assert!(start.elapsed().as_secs() < 20, "what is gone from the API is taken down");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pod = w.get("stays");
    assert_eq!(container(&pod, "c")["containerID"], stays);
    assert_eq!(container(&pod, "c")["restartCount"], 0);
    let (code, out) = crate::streams::run(w, "stays", &["echo", "hello"], None);
    assert_eq!((code, out.as_str()), (0, "hello\n"), "an adopted container can be entered");
    crate::streams::run(w, "ends", &["touch", "/tmp/x"], None);
    w.until("ends", "was restarted", |p| container(p, "c")["restartCount"] == 1);
    w.delete_and_wait("stays", 0);
    w.delete_and_wait("ends", 0);
}
