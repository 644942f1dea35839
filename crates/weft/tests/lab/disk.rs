//! What pods write is bounded, and is never the machine's or another node's trouble.

use crate::harness::{Lab, kubectl_or_skip, poll, root_or_skip, text};
use std::fs;
use std::os::unix::fs::MetadataExt;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: hoarder}
spec:
  nodeName: node1
  volumes:
  - {name: small, emptyDir: {sizeLimit: 1Mi}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 2Mi}}
  - {name: plain, emptyDir: {}}
  containers:
  - name: c
    image: box
    command: [sleep, "100000"]
    volumeMounts:
    - {name: small, mountPath: /small}
    - {name: memory, mountPath: /memory}
    - {name: plain, mountPath: /plain}
"#;

#[test]
fn what_pods_write_is_bounded() {
    if !root_or_skip("what_pods_write_is_bounded") {
        return;
    }
    let lab = Lab::up("disk", &["--nodes", "2"]);
    lab.apply(PODS);
    lab.wait_ready(1);
    for (volume, kib) in [("small", 1024), ("memory", 2048)] {
        let fill = format!("head -c 16M /dev/zero >/{volume}/file; stat -c %s /{volume}/file");
        let out = lab.try_exec("default", "hoarder", &["sh", "-c", &fill]);
        assert!(text(&out.stderr).contains("No space left"), "{volume}: {}", text(&out.stderr));
        assert_eq!(text(&out.stdout).trim(), (kib * 1024).to_string(), "{volume}");
    }
    // The rest shares the node's disk, which is no other's.
    let device = |path: std::path::PathBuf| fs::metadata(path).expect("look at it").dev();
    let devices = [lab.dir(), lab.dir().join("node1"), lab.dir().join("node2")].map(device);
    assert!(devices[0] != devices[1] && devices[1] != devices[2] && devices[0] != devices[2]);
    let size = lab.exec("default", "hoarder", &["stat", "-f", "-c", "%b %S", "/plain"]);
    let [blocks, block]: [u64; 2] = size
        .split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect::<Vec<_>>()
        .try_into()
        .expect("two numbers");
    assert!(blocks * block <= 1 << 30, "the node's disk: {size}");
    if !kubectl_or_skip("what_pods_write_is_bounded") {
        return;
    }
    let uid = lab.status()["pods"][0]["uid"].as_str().expect("a uid").to_owned();
    let kept = lab.dir().join("node1/kubelet").join(&uid);
    assert!(kept.join("volumes/small").is_dir());
    lab.k(&["delete", "pod", "hoarder", "--now"]);
    assert!(poll(|| !kept.exists()), "volumes that are mounts go with their pod");
    lab.down();
}
