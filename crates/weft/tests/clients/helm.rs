//! Helm, with a chart of our own.

use crate::{
    harness::{Api, text},
    lab::{Lab, root_or_skip},
    table::built,
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Helm with a home of its own.
struct Helm {
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    fn try_run(&self, args: &str) -> Output {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/chart");
        Command::new(built("helm"))
            .args(args.split_whitespace().map(|a| a.replace("CHART", chart)))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("HELM_NAMESPACE", "default")
            .output()
            .unwrap()
    }

    /// Standard output of a command that must succeed.
    fn run(&self, args: &str) -> String {
        let out = self.try_run(args);
        let (said, errors) = (text(&out.stdout), text(&out.stderr));
        assert!(out.status.success(), "helm {args}: {}\n{said}{errors}", out.status);
        said
    }

    /// The status of each revision.
    fn history(&self, release: &str) -> Vec<String> {
        let said = self.run(&format!("history {release} -o json"));
        let all: Vec<Value> = serde_json::from_str(&said).unwrap();
        all.iter().map(|r| r["status"].as_str().unwrap().to_owned()).collect()
    }
}

fn helm_or_skip(test: &str) -> bool {
    let found = built("helm").is_file();
    if !found {
        println!("SKIP {test}: Helm is not built (cargo xtask test does)");
    }
    found
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    if !helm_or_skip("helm_installs_upgrades_rolls_back_and_uninstalls") {
        return;
    }
    let api = Api::start();
    let helm = Helm { kubeconfig: api.kubeconfig(), home: api.dir.path().to_owned() };
    has(&helm.run("lint CHART --strict"), &["1 chart(s) linted, 0 chart(s) failed"]);
    let said = helm.run("install shop CHART --dry-run=server");
    has(&said, &["STATUS: pending-install", "kind: NetworkPolicy"]);
    let said = helm.run("install shop CHART --wait --timeout 60s");
    has(&said, &["STATUS: deployed", "REVISION: 1", "shop answers at port 80"]);
    let again = helm.try_run("install shop CHART");
    has(&text(&again.stderr), &["cannot re-use a name that is still in use"]);
    // A live value that the chart does not set is kept; what it sets, it sets.
    let said = helm.run("upgrade shop CHART --set greeting=bye --set service.type=NodePort --wait");
    has(&said, &["has been upgraded", "REVISION: 2"]);
    has(&helm.run("get manifest shop"), &["greeting: \"bye\"", "type: NodePort"]);
    has(&helm.run("get values shop"), &["greeting: bye"]);
    // What the API refuses, Helm reports, and the release before stays deployed.
    let bad = helm.try_run("upgrade shop CHART --set service.port=99999");
    assert!(!bad.status.success());
    has(&text(&bad.stderr), &["spec.ports[0].port: Invalid value: 99999"]);
    assert_eq!(helm.history("shop"), ["superseded", "deployed", "failed"]);
    has(&helm.run("rollback shop 1 --wait"), &["Rollback was a success"]);
    assert_eq!(helm.history("shop"), ["superseded", "superseded", "failed", "deployed"]);
    has(&helm.run("get manifest shop"), &["greeting: \"hello\"", "type: ClusterIP"]);
    has(&helm.run("list -o json"), &["\"revision\":\"4\"", "\"chart\":\"shop-0.1.0\""]);
    has(&helm.run("status shop"), &["STATUS: deployed"]);
    has(&helm.run("upgrade --install other CHART --atomic --timeout 60s"), &["REVISION: 1"]);
    has(&helm.run("uninstall shop --wait"), &["release \"shop\" uninstalled"]);
    has(&helm.run("uninstall other --cascade foreground --wait"), &["uninstalled"]);
    assert_eq!(helm.run("list -q"), "");
    left_nothing(&api.kubeconfig());
}

/// Of the releases nothing is left but what their hooks made.
fn left_nothing(kubeconfig: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
        let client = crate::harness::client(kubeconfig).await;
        let deployments: kube::Api<Deployment> = kube::Api::all(client.clone());
        assert!(deployments.list(&Default::default()).await.unwrap().items.is_empty());
        let secrets: kube::Api<Secret> = kube::Api::all(client);
        assert!(secrets.list(&Default::default()).await.unwrap().items.is_empty());
    });
}

#[test]
fn helm_tests_a_release_that_runs() {
    let test = "helm_tests_a_release_that_runs";
    if !root_or_skip(test) || !helm_or_skip(test) {
        return;
    }
    let lab = Lab::up("helm", &["--nodes", "2"]);
    let home = tempfile::tempdir().unwrap();
    let helm = Helm { kubeconfig: lab.dir().join("kubeconfig"), home: home.path().to_owned() };
    has(&helm.run("install shop CHART --set replicas=2 --wait --timeout 60s"), &["deployed"]);
    let said = helm.run("test shop --timeout 60s");
    has(&said, &["TEST SUITE:     shop-answer", "Phase:          Succeeded"]);
    has(&helm.run("uninstall shop --wait --timeout 60s"), &["uninstalled"]);
    lab.down();
}
