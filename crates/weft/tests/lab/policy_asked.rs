//! `weft policy` about a cluster that runs: expectations judged with real packets, and files
//! compared with the cluster's state.

use crate::{harness::*, policy_world::*};
use serde_json::json;
use std::{fs, path::Path};

const EXPECTATIONS: &str = "
kind: PolicyTest
ipFamily: dual
tests:
- {from: [web, web2], to: db, port: 5432, expect: allow}
- {from: [web, web2], to: db, port: 5432/UDP, expect: deny}
- {from: other, to: db, expect: deny}
- {from: node, to: db, port: 5432, expect: allow}
- {from: node, to: db, port: ICMP, expect: allow}
- {from: db, to: [web, outside], expect: allow}
- {from: web, to: dns, port: 53/UDP, expect: allow}
";

fn write(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, content).expect("write");
    path.display().to_string()
}

#[test]
fn expectations_hold_in_a_lab_and_files_are_compared_with_it() {
    let name = "expectations_hold_in_a_lab_and_files_are_compared_with_it";
    if !root_or_skip(name) || !kubectl_or_skip(name) {
        return;
    }
    let lab = Lab::up("policylive", &["--nodes", "2"]);
    let app = |app: &str| json!({"app": app});
    lab.apply(&texts(&[
        idle_pod("default", "web", "node1", &app("web")),
        idle_pod("default", "web2", "node2", &app("web")),
        idle_pod("default", "db", "node1", &app("db")),
        idle_pod("default", "other", "node2", &app("other")),
    ]));
    let mut world = World::new(lab);
    world.add_markers(&["node1", "node2"], false);
    world.lab.wait_ready(6);
    world.enter_markers();
    let dir = tempfile::tempdir().expect("temporary directory");
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                "ports": [{"port": 5432}]}],
        },
    });
    let file = write(dir.path(), "policy.yaml", &policy.to_string());
    let tests = write(dir.path(), "expectations.yaml", EXPECTATIONS);
    let run = |args: &[&str], lab: &str| {
        let out = weft(&[&["policy"], args, &["--name", lab]].concat());
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };

    // Before: what the file would close.
    let diff = |lab: &str| run(&["diff", &file, "--cluster"], lab);
    let (status, said, errors) = diff(&world.lab.name);
    assert_eq!((status, &*errors), (Some(1), ""), "{said}");
    for line in [
        "- default/other → default/db  everything",
        "- default/web → default/db  TCP/1-5431 TCP/5433-65535 UDP SCTP ICMP",
        "- outside → default/db  everything",
    ] {
        assert!(said.lines().any(|l| l == line), "no {line:?} in\n{said}");
    }
    assert!(!said.contains("default/db → "), "{said}");

    world.change(&[policy]);
    let (status, said, errors) = diff(&world.lab.name);
    assert_eq!((status, &*errors), (Some(0), ""), "{said}");
    let (status, said, errors) = run(&["test", "--lab", "-v", &tests], &world.lab.name);
    assert_eq!(
        (status, &*errors),
        (Some(0), ""),
        "{said}\n{}\n{}",
        run(&["test", "--lab", "-o", "json", &tests], &world.lab.name).1,
        world.lab.logs()
    );
    assert!(said.contains("7 expectations") && said.contains(", 0 failed"), "{said}");
    // The file's policies are not asked, the lab's are.
    let wrong = EXPECTATIONS.replace(
        "{from: other, to: db, expect: deny}",
        "{from: other, to: db, port: 5432, expect: allow}",
    );
    let wrong = write(dir.path(), "wrong.yaml", &wrong);
    let (status, said, _) = run(&["test", "--lab", &wrong], &world.lab.name);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("✗ default/other → default/db TCP/5432: deny, expected allow"), "{said}");
    world.lab.down();
}
