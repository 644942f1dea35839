//! Bad input: one clear error that names object, field and remedy, and nothing left behind.

use crate::harness::*;
use std::fs;

/// Runs `weft lab up` for a lab that must not come up; returns the error.
fn refused(part: &str, args: &[&str]) -> String {
    let name = Lab::name(part);
    let mut all = vec!["lab", "up", "--name", &name];
    all.extend(args);
    let out = weft(&all);
    assert!(!out.status.success(), "{args:?} came up");
    let left = leftovers(&name);
    assert!(left.is_empty(), "{args:?} left {left:?}");
    let error = text(&out.stderr);
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[test]
fn wrong_definitions_are_refused_before_anything_is_made() {
    if !root_or_skip("wrong_definitions_are_refused_before_anything_is_made") {
        return;
    }
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--nodes", "0"], &["nodes", "1 to 100"]),
        (&["--nodes", "many"], &["--nodes", "many"]),
        (&["--zones", "4"], &["zones", "1 to 3"]),
        (&["--network", "carrier-pigeon"], &["--network", "vxlan", "native"]),
        (&["--network", "geneve"], &["geneve", "vxlan or native"]),
        (&["--ip-family", "ipv5"], &["ipv5", "ipv4, ipv6 or dual"]),
        (&["--speed", "9"], &["--speed"]),
        (&["--file", "/nowhere/lab.yaml"], &["/nowhere/lab.yaml"]),
    ];
    for (args, words) in cases {
        let error = refused("bad", args);
        for word in words {
            assert!(error.contains(word), "{args:?}: {error}");
        }
    }
}

#[test]
fn overlapping_ranges_and_unknown_fields_of_a_lab_file_are_named() {
    if !root_or_skip("overlapping_ranges_and_unknown_fields_of_a_lab_file_are_named") {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("lab.yaml");
    let path = file.to_str().expect("UTF-8 path");
    for (content, words) in [
        (
            "ipFamily: ipv4\npodCIDRs: [10.96.0.0/12]\n",
            ["podCIDRs: 10.96.0.0/12 overlaps", "choose ranges apart"],
        ),
        ("nodez: 3\n", ["nodez", "lab.yaml"]),
        ("nodes: [\n", ["lab.yaml", "line"]),
    ] {
        fs::write(&file, content).expect("write lab file");
        let error = refused("file", &["--file", path]);
        for word in words {
            assert!(error.contains(word), "{content}: {error}");
        }
    }
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_the_first_unharmed() {
    if !root_or_skip("a_second_lab_of_the_same_name_is_refused_and_the_first_unharmed") {
        return;
    }
    let lab = Lab::up("twice", &["--nodes", "1"]);
    let out = lab.try_run(&["up"], &["--nodes", "1"]);
    assert!(!out.status.success());
    let error = text(&out.stderr);
    assert!(error.contains("already running") && error.contains("weft lab down"), "{error}");
    assert_eq!(lab.status()["ok"], true);
    lab.down();
}

#[test]
fn commands_for_a_lab_that_is_not_there_say_so() {
    if !root_or_skip("commands_for_a_lab_that_is_not_there_say_so") {
        return;
    }
    let name = Lab::name("absent");
    for command in ["status", "kubeconfig", "verify"] {
        let out = weft(&["lab", command, "--name", &name]);
        let error = text(&out.stderr);
        assert!(!out.status.success() && error.contains("there is no lab"), "{command}: {error}");
    }
    // Taking down what is gone succeeds.
    assert!(weft(&["lab", "down", "--name", &name]).status.success());
    assert!(leftovers(&name).is_empty());
}

#[test]
fn not_root_is_one_clear_error() {
    if !root_or_skip("not_root_is_one_clear_error") {
        return;
    }
    use std::os::unix::process::CommandExt;
    // The build directory may be closed to others: an open descriptor is not.
    let binary = fs::File::open(WEFT).expect("open weft");
    let fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&binary));
    let copy = std::env::temp_dir().join(Lab::name("notroot"));
    fs::copy(fd, &copy).expect("copy weft");
    let out = std::process::Command::new(&copy).args(["lab", "up"]).uid(65534).gid(65534).output();
    fs::remove_file(&copy).expect("remove the copy");
    let out = out.expect("run as nobody");
    let error = text(&out.stderr);
    assert!(
        !out.status.success() && error.contains("needs root") && error.contains("sudo"),
        "{error}"
    );
}

#[test]
fn a_full_disk_while_starting_leaves_nothing() {
    if !root_or_skip("a_full_disk_while_starting_leaves_nothing") {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = dir.path().to_str().expect("UTF-8 path").to_owned();
    let mount = |args: &[&str]| {
        let done = std::process::Command::new(args[0]).args(&args[1..]).status().expect("mount");
        assert!(done.success(), "{args:?}");
    };
    // 16 KiB: enough for lab.json, too little for what follows.
    mount(&["mount", "-t", "tmpfs", "-o", "size=16k", "none", &at]);
    let name = Lab::name("full");
    let out = weft(&["lab", "--state-dir", &at, "up", "--name", &name]);
    let left = leftovers(&name);
    let files = fs::read_dir(dir.path()).expect("list").flatten().count();
    mount(&["umount", &at]);
    let error = text(&out.stderr);
    assert!(!out.status.success() && error.contains("No space left"), "{error}");
    assert!(left.is_empty(), "{left:?}");
    assert!(files <= 1, "only the lock may stay");
}

#[test]
fn broken_manifests_name_object_and_field_and_change_nothing() {
    if !root_or_skip("broken_manifests_name_object_and_field_and_change_nothing") {
        return;
    }
    let lab = Lab::up("manifest", &["--nodes", "1"]);
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("m.yaml");
    let path = file.to_str().expect("UTF-8 path");
    let good = "{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}\n---\n";
    for (bad, words) in [
        ("{apiVersion: v1, kind: [", vec!["m.yaml, document 2", "malformed YAML"]),
        ("{apiVersion: v1, kind: Gizmo, metadata: {name: a}}", vec!["Gizmo", "unknown kind"]),
        ("{apiVersion: v1, kind: Pod}", vec!["document 2", "metadata.name"]),
    ] {
        fs::write(&file, format!("{good}{bad}\n")).expect("write manifest");
        let out = lab.try_run(&["apply"], &["-f", path]);
        let error = text(&out.stderr);
        assert!(!out.status.success(), "{bad} was applied");
        for word in words {
            assert!(error.contains(word), "{bad}: {error}");
        }
        let listed = lab.try_run(&["apply"], &["-f", "/dev/null"]);
        assert!(!listed.status.success(), "an empty file is no manifest");
    }
    let invalid = [
        ("spec: {ports: [{port: 70000}]}", "spec.ports[0].port"),
        ("spec: {type: Gizmo, ports: [{port: 80}]}", "spec.type"),
        ("spec: {porst: []}", "porst"),
    ];
    for (spec, field) in invalid {
        fs::write(
            &file,
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\n{spec}\n"),
        )
        .expect("write manifest");
        let out = lab.try_run(&["apply"], &["-f", path]);
        let error = text(&out.stderr);
        assert!(
            !out.status.success() && error.contains(field) && error.contains("bad"),
            "{spec}: {error}"
        );
    }
    lab.down();
}

/// A machine without cgroup2: the mount is taken away in a mount namespace of the test's own.
#[test]
fn a_missing_kernel_feature_is_refused_in_one_sentence() {
    if !root_or_skip("a_missing_kernel_feature_is_refused_in_one_sentence") {
        return;
    }
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2");
    let at = line.split(' ').nth(1).expect("mount point");
    let name = Lab::name("nocgroup");
    let script = format!("umount -l {at} && exec {WEFT} lab up --name {name}");
    let out = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output();
    let out = out.expect("run unshare");
    let error = text(&out.stderr);
    assert!(!out.status.success() && error.contains("no cgroup2 hierarchy is mounted"), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
    let left = leftovers(&name);
    assert!(left.is_empty(), "{left:?}");
}
