//! Pods: their namespaces, and that destroying leaves nothing.

use crate::support::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use weft_sandbox::{Pod, PodSpec};

fn mounts_below(dir: &Path) -> Vec<String> {
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| {
            line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(dir))
        })
        .map(str::to_owned)
        .collect()
}

/// Processes whose cgroup2 path contains the text.
fn processes_in(cgroup: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|groups| groups.contains(cgroup))
        })
        .collect()
}

#[test]
fn destroy_leaves_nothing() {
    if skip("destroy_leaves_nothing") {
        return;
    }
    let test = TestPod::with(PodSpec { share_pid: true, ..spec() });
    let cgroup = test.pod.spec().cgroup.clone();
    let container = test.sleeper("app");
    let mut limited = test.spec("limited", &["sh", "-c", "sleep 600 & sleep 600"]);
    limited.limits = weft_sandbox::Limits { memory_bytes: Some(64 << 20), pids: Some(20) };
    test.pod.start(&limited).unwrap();
    let running = container
        .exec(&weft_sandbox::ExecSpec {
            argv: vec!["sleep".into(), "600".into()],
            env: Vec::new(),
            cwd: None,
            tty: true,
            stdin: true,
        })
        .unwrap();
    assert!(processes_in(cgroup.to_str().unwrap()).len() >= 6);
    assert!(!mounts_below(&test.dir).is_empty());
    test.pod.destroy().unwrap();
    assert_eq!(mounts_below(&test.dir), Vec::<String>::new());
    assert!(!test.dir.exists());
    for root in cgroup_roots() {
        assert!(!root.join(&cgroup).exists(), "{}", root.display());
    }
    // A zombie keeps its group's name until it is reaped; helpers are reaped with their handles.
    drop((container, running));
    test.pod.destroy().unwrap();
    wait_until("the end of all processes", || processes_in(cgroup.to_str().unwrap()).is_empty());
}

#[test]
fn destroying_what_is_half_made_succeeds() {
    if skip("destroying_what_is_half_made_succeeds") {
        return;
    }
    let spec = spec();
    Pod::destroy_at(&spec.dir, &spec.cgroup).unwrap();
    std::fs::create_dir_all(spec.dir.join("something")).unwrap();
    Pod::destroy_at(&spec.dir, &spec.cgroup).unwrap();
    assert!(!spec.dir.exists());
    // A directory that is in the way is not taken over, and goes with the failed attempt.
    std::fs::create_dir_all(spec.dir.parent().unwrap()).unwrap();
    std::fs::write(&spec.dir, "").unwrap();
    assert!(Pod::create(&runtime(), &spec).is_err());
    let _ = std::fs::remove_file(&spec.dir);
    let _ = std::fs::remove_dir_all(spec.dir.parent().unwrap());
}

#[test]
fn containers_share_network_ipc_and_names_but_not_processes() {
    if skip("containers_share_network_ipc_and_names_but_not_processes") {
        return;
    }
    let test = TestPod::new();
    let (a, b) = (test.sleeper("a"), test.sleeper("b"));
    let inode = |path: String| std::fs::metadata(path).unwrap().ino();
    let of = |pid: i32, kind: &str| inode(format!("/proc/{pid}/ns/{kind}"));
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(of(a.pid(), kind), of(b.pid(), kind), "{kind}");
        assert_ne!(of(a.pid(), kind), inode(format!("/proc/self/ns/{kind}")), "{kind}");
    }
    for kind in ["pid", "mnt", "user"] {
        assert_ne!(of(a.pid(), kind), of(b.pid(), kind), "{kind}");
        assert_ne!(of(a.pid(), kind), inode(format!("/proc/self/ns/{kind}")), "{kind}");
    }
    let netns = test.pod.netns_path();
    assert_eq!(inode(netns.display().to_string()), of(a.pid(), "net"));
    // Memory of the pod's own: seen by the other container.
    exec(&a, &["sh", "-c", "echo shared >/dev/shm/x"]);
    assert_eq!(exec(&b, &["cat", "/dev/shm/x"]).1, "shared\n");
    let (_, processes, _) = exec(&b, &["sh", "-c", "cat /proc/[0-9]*/comm"]);
    assert!(processes.lines().count() <= 5, "{processes}");
}

#[test]
fn shared_process_namespace() {
    if skip("shared_process_namespace") {
        return;
    }
    let test = TestPod::with(PodSpec { share_pid: true, ..spec() });
    let (a, b) = (test.sleeper("a"), test.sleeper("b"));
    let inode = |pid: i32| std::fs::metadata(format!("/proc/{pid}/ns/pid")).unwrap().ino();
    assert_eq!(inode(a.pid()), inode(b.pid()));
    // Containers see and signal each other's processes; the one that holds the namespace does
    // not go.
    exec(&b, &["sh", "-c", "kill -TERM 2 3; kill -KILL 1"]);
    wait_until("the end of one", || {
        [&a, &b].iter().any(|container| container.try_wait().unwrap().is_some())
    });
    let c = test.sleeper("c");
    assert_eq!(exec(&c, &["cat", "/proc/1/comm"]).0.code, 0);
}

/// A kubelet runs in its node's namespace; pods with hostNetwork get that one.
#[test]
fn host_network_is_the_callers() {
    if skip("host_network_is_the_callers") {
        return;
    }
    std::thread::spawn(|| {
        // This thread is the node; it ends with the test.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let node = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let host = TestPod::with(PodSpec { host_network: true, ..spec() });
        assert_eq!(std::fs::metadata(host.pod.netns_path()).unwrap().ino(), node);
        let container = host.sleeper("app");
        let net = std::fs::metadata(format!("/proc/{}/ns/net", container.pid())).unwrap().ino();
        assert_eq!(net, node);
        let own = TestPod::new();
        assert_ne!(std::fs::metadata(own.pod.netns_path()).unwrap().ino(), node);
        assert!(own.shell("app", "cat /sys/class/net/lo/flags").contains("0x9"));
    })
    .join()
    .unwrap();
}
