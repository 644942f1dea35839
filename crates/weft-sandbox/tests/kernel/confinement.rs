//! What a container cannot do, and what it can. Everything is tried twice: as the container's
//! program, and as a command that was executed in it.

use crate::support::*;
use nix::mount::MsFlags;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use weft_sandbox::{Mount, PodSpec};

/// Runs a script both ways and hands (exit code, output) to the check.
fn both(pod: &TestPod, script: &str, check: impl Fn(i32, &str)) {
    let name = format!("c{}", unique());
    let (exit, log) = pod.run(&pod.spec(&name, &["sh", "-c", script]));
    check(exit.code, &log);
    let container = pod.start("idle", &["sleep", "600"]);
    let (exit, out, err) = exec(&container, &["sh", "-c", script]);
    check(exit.code, &format!("{out}{err}"));
    container.kill(libc::SIGKILL).unwrap();
    container.wait().unwrap();
}

fn refused(pod: &TestPod, script: &str) {
    both(pod, script, |code, output| assert_ne!(code, 0, "{script}\n{output}"));
}

fn allowed(pod: &TestPod, script: &str) {
    both(pod, script, |code, output| assert_eq!(code, 0, "{script}\n{output}"));
}

fn errno(pod: &TestPod, probe: &str, expected: i32) {
    both(pod, &format!("/probe probe {probe}"), |code, output| {
        assert_eq!(code, expected, "{probe}\n{output}");
    });
}

#[test]
fn kernel_settings_are_out_of_reach() {
    if skip("kernel_settings_are_out_of_reach") {
        return;
    }
    let pod = TestPod::new();
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    refused(&pod, "echo '|/tmp/evil' >/proc/sys/kernel/core_pattern");
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    refused(&pod, "echo 0 >/proc/sys/net/ipv4/ip_forward");
    refused(&pod, "echo h >/proc/sysrq-trigger");
    refused(&pod, "head -c1 /proc/kcore | grep -q .");
    refused(&pod, "grep -q . /proc/timer_list");
    refused(&pod, "grep -q . /proc/keys");
    refused(&pod, "echo 1 >/sys/kernel/uevent_helper || echo x >/sys/x");
    refused(&pod, "dmesg");
}

#[test]
fn files_of_the_machine_are_out_of_reach() {
    if skip("files_of_the_machine_are_out_of_reach") {
        return;
    }
    let pod = TestPod::new();
    refused(&pod, "cat /etc/shadow");
    refused(&pod, "test -s /etc/shadow && head -c1 /etc/shadow");
    refused(&pod, "ls -A /home /root /boot /mnt | grep -v : | grep -q .");
    refused(&pod, "ls -d /run/weft* /run/netns /work /var/lib/dpkg");
    refused(
        &pod,
        "find / -xdev -maxdepth 4 -path /proc -prune -o -name 'weft-sandbox-test*' -print | grep -q .",
    );
    // What it changes, it changes for itself.
    let marker = format!("weft-{}", unique());
    allowed(
        &pod,
        &format!(
            "echo x >/etc/{marker}; echo y >/usr/{marker}; rm -f /etc/hostname /etc/passwd; echo z >/{marker}"
        ),
    );
    for path in [format!("/etc/{marker}"), format!("/usr/{marker}"), format!("/{marker}")] {
        assert!(!PathBuf::from(&path).exists(), "{path}");
    }
    assert!(std::fs::metadata("/etc/passwd").unwrap().len() > 0);
    // Set-user-id programs give nothing.
    refused(&pod, "su -c true nobody -s /bin/sh && su -c 'cat /etc/shadow'");
    both(&pod, "grep -q 'NoNewPrivs:.1' /proc/self/status", |code, output| {
        assert_eq!(code, 0, "{output}");
    });
}

#[test]
fn mounts_of_the_machine_are_out_of_reach() {
    if skip("mounts_of_the_machine_are_out_of_reach") {
        return;
    }
    struct Mounted(Vec<PathBuf>);
    impl Drop for Mounted {
        fn drop(&mut self) {
            for dir in &self.0 {
                let _ = nix::mount::umount2(dir, nix::mount::MntFlags::MNT_DETACH);
                let _ = std::fs::remove_dir(dir);
            }
        }
    }
    let name = format!("weft-secret-{}", unique());
    let mut mounted = Mounted(Vec::new());
    for parent in ["/srv", "/opt", "/usr/local", "/etc", "/tmp", "/var/lib"] {
        let dir = PathBuf::from(parent).join(&name);
        std::fs::create_dir(&dir).unwrap();
        mounted.0.push(dir.clone());
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("x"), &dir, Some("tmpfs"), flags, None::<&str>).unwrap();
        std::fs::write(dir.join("secret"), "s3cret").unwrap();
    }
    let pod = TestPod::new();
    for dir in &mounted.0 {
        refused(&pod, &format!("cat {}/secret", dir.display()));
    }
    refused(&pod, "grep -q s3cret /proc/mounts || umount /etc || umount -l /usr");
}

#[test]
fn cgroups_are_out_of_reach() {
    if skip("cgroups_are_out_of_reach") {
        return;
    }
    let pod = TestPod::new();
    refused(&pod, "ls -A /sys/fs/cgroup | grep -q .");
    refused(&pod, "find / -name cgroup.procs 2>/dev/null | grep -q .");
    // Its group is the root of what it sees.
    allowed(&pod, "test \"$(grep ^0: /proc/self/cgroup)\" = 0::/");
}

#[test]
fn other_processes_are_out_of_reach() {
    if skip("other_processes_are_out_of_reach") {
        return;
    }
    let (pod, other) = (TestPod::new(), TestPod::new());
    let neighbour = pod.sleeper("neighbour");
    let stranger = other.sleeper("stranger");
    for pid in [neighbour.pid(), stranger.pid(), std::process::id() as i32] {
        errno(&pod, &format!("call kill {pid} 0"), libc::ESRCH);
        // PTRACE_ATTACH
        errno(&pod, &format!("call ptrace 16 {pid}"), libc::ESRCH);
        refused(&pod, &format!("ls /proc/{pid}/"));
    }
    assert!(neighbour.try_wait().unwrap().is_none() && stranger.try_wait().unwrap().is_none());
}

#[test]
fn sockets_of_the_machine_are_out_of_reach() {
    if skip("sockets_of_the_machine_are_out_of_reach") {
        return;
    }
    struct Listening(Vec<PathBuf>);
    impl Drop for Listening {
        fn drop(&mut self) {
            for path in &self.0 {
                let _ = std::fs::remove_file(path);
            }
        }
    }
    let name = format!("weft-{}.sock", unique());
    let listening: Vec<_> = ["/run", "/tmp", "/etc", "/opt", "/usr", "/dev/shm"]
        .iter()
        .map(|dir| PathBuf::from(dir).join(&name))
        .collect();
    let clean = Listening(listening.clone());
    let mut sockets: Vec<UnixListener> = Vec::new();
    for path in &listening {
        sockets.push(UnixListener::bind(path).unwrap());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, open).unwrap();
    }
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    sockets.push(UnixListener::bind_addr(&address).unwrap());
    let pod = TestPod::new();
    for path in &listening {
        refused(&pod, &format!("/probe probe unix {}", path.display()));
    }
    errno(&pod, &format!("abstract {name}"), libc::ECONNREFUSED);
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        assert!(socket.accept().is_err(), "{socket:?}");
    }
    drop(clean);
}

#[test]
fn system_calls_that_reach_the_machine_are_refused() {
    if skip("system_calls_that_reach_the_machine_are_refused") {
        return;
    }
    let pod = TestPod::new();
    errno(&pod, "call mount", libc::EPERM);
    errno(&pod, "call bpf 0 0 0", libc::EPERM);
    errno(&pod, "call setns 0 0", libc::EPERM);
    errno(&pod, "call keyctl 0", libc::EPERM);
    errno(&pod, "call init_module", libc::EPERM);
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWNS] {
        errno(&pod, &format!("call unshare {flag}"), libc::EPERM);
    }
    // AF_VSOCK, AF_ALG; AF_INET and AF_PACKET raw.
    errno(&pod, "call socket 40 1 0", libc::EPERM);
    errno(&pod, "call socket 38 5 0", libc::EPERM);
    errno(&pod, "call socket 2 3 1", libc::EPERM);
    errno(&pod, "call socket 17 3 0", libc::EPERM);
    // A block device node: 254:0.
    errno(&pod, &format!("call mknod {} {}", 0o60600, 254 << 8), libc::EPERM);
    refused(&pod, "ls /dev | grep -E 'vd|sd|nvme|kvm|mem|kmsg|fuse|loop'");
    refused(&pod, "ip link set lo down 2>/dev/null || unshare -r true");
}

/// What the set-up itself has open must not become the way out (CVE-2024-21626).
#[test]
fn working_directory_does_not_lead_out() {
    if skip("working_directory_does_not_lead_out") {
        return;
    }
    let pod = TestPod::with(PodSpec { share_pid: true, ..spec() });
    let container = pod.sleeper("app");
    let numbers = (3..24).map(|fd| format!("/proc/self/fd/{fd}"));
    let pids = ["1", "self", "2"]
        .into_iter()
        .flat_map(|pid| ["root", "cwd"].map(|link| format!("/proc/{pid}/{link}")));
    for cwd in numbers.chain(pids) {
        // Refused, or taken by its text, which leads to a place that the container can name:
        // the kernel has no path for one outside.
        let inside = "readlink /proc/self/cwd | grep '^/'";
        let mut spec = pod.spec("cwd", &["sh", "-c", inside]);
        spec.cwd = Some(cwd.clone().into());
        match pod.pod.start(&spec) {
            Ok(started) => {
                let exit = started.wait_timeout(PATIENCE).unwrap().unwrap();
                assert_eq!(exit.code, 0, "{cwd}: {}", pod.log("cwd"));
            }
            Err(error) => assert!(error.to_string().contains("working directory"), "{error}"),
        }
        let exec = weft_sandbox::ExecSpec {
            argv: vec!["pwd".into()],
            env: Vec::new(),
            cwd: Some(cwd.clone().into()),
            tty: false,
            stdin: false,
        };
        let error = container.exec(&exec).unwrap_err();
        assert!(error.to_string().contains("working directory"), "{cwd}: {error}");
    }
    // Process 1, which they all see, shows nothing either.
    refused(&pod, "ls /proc/1/root/ || ls /proc/1/cwd/ || readlink /proc/1/exe || ls /proc/1/fd/");
    let names = exec(&container, &["sh", "-c", "ls -l /proc/self/fd"]).1;
    assert!(names.lines().count() <= 5, "{names}");
    // One that is not there is made, for the user of the container.
    let mut spec = pod.spec("made", &["sh", "-ec", "pwd; touch file"]);
    spec.cwd = Some("/srv/app/data".into());
    let (exit, log) = pod.run(&spec);
    assert_eq!((exit.code, log.as_str()), (0, "/srv/app/data\n"));
}

#[test]
fn capabilities_are_few_and_the_user_is_mapped() {
    if skip("capabilities_are_few_and_the_user_is_mapped") {
        return;
    }
    let pod = TestPod::new();
    let expected = "CapInh:0000000000000000\nCapPrm:00000000800405fb\nCapEff:00000000800405fb\n\
                    CapBnd:00000000800405fb\nCapAmb:0000000000000000\n";
    both(&pod, "id -u; grep Cap /proc/self/status | tr -d '\\t'", |_, output| {
        assert_eq!(output, format!("0\n{expected}"));
    });
    let container = pod.sleeper("host-view");
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let uid: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
        .unwrap();
    assert_eq!(uid, pod.pod.host_id(0));
    assert!(uid > 65_535);
    // Another user: no capabilities at all, also in a command.
    for id in [1000, 1_000_660_000] {
        let mut spec = pod.spec(
            "user",
            &["sh", "-c", "id -u; id -G; touch /tmp/mine; touch /x; grep CapEff /proc/self/status"],
        );
        (spec.uid, spec.gid, spec.groups) = (Some(id), Some(id), vec![2000]);
        let (_, log) = pod.run(&spec);
        assert!(log.starts_with(&format!("{id}\n{id} 2000\n")), "{log}");
        assert!(
            log.contains("Permission denied") && log.contains("CapEff:\t0000000000000000"),
            "{log}"
        );
        std::fs::remove_file(pod.log_path("user")).unwrap();
    }
    let mut spec = pod.spec("other", &["sleep", "600"]);
    spec.uid = Some(1000);
    let container = pod.pod.start(&spec).unwrap();
    let (_, out, _) = exec(&container, &["sh", "-c", "id -u; grep CapEff /proc/self/status"]);
    assert_eq!(out, "1000\nCapEff:\t0000000000000000\n");
}

#[test]
fn what_programs_need_works() {
    if skip("what_programs_need_works") {
        return;
    }
    let pod = TestPod::new();
    errno(&pod, "bind 80", 0);
    // The ICMP socket that ping uses without privileges.
    errno(&pod, "call socket 2 2 1", 0);
    allowed(
        &pod,
        "echo x >/tmp/f; echo x >/var/tmp/f; echo x >/run/f; echo x >/dev/shm/f; mkdir -p /data/x /var/log/app /usr/share/x",
    );
    allowed(&pod, "test \"$(hostname)\" = web-0");
    allowed(
        &pod,
        "echo to-null >/dev/null; head -c 8 /dev/urandom | wc -c | grep -q 8; echo x >/dev/stdout; echo x >/dev/stderr",
    );
    allowed(&pod, "test \"$(ulimit -c)\" = 0; test \"$(umask)\" = 0022; test -L /proc/self/ns/net");
    allowed(&pod, "test \"$(stat -c %u:%g /tmp)\" = 0:0");
    // Where it is installed; busybox's knows raw sockets only.
    allowed(&pod, "! ping -V 2>&1 | grep -q iputils || ping -c 1 -W 2 127.0.0.1");
}

#[test]
fn volumes_and_resolv_conf() {
    if skip("volumes_and_resolv_conf") {
        return;
    }
    let pod = TestPod::new();
    let volume = pod.scratch.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "content\n").unwrap();
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&volume, open).unwrap();
    let resolv = pod.scratch.join("resolv.conf");
    std::fs::write(&resolv, "nameserver 10.96.0.10\n").unwrap();
    let script = "cat /etc/resolv.conf /data/a/file /ro/file /usr/share/nginx/html/file; echo new >/data/a/new; \
                  ! touch /ro/new; ! touch /etc/resolv.conf && ! rm /etc/resolv.conf";
    let mut spec = pod.spec("app", &["sh", "-ec", script]);
    for (source, target, read_only) in [
        (&resolv, "/etc/resolv.conf", true),
        (&volume, "/data/a", false),
        (&volume, "/ro", true),
        (&volume, "/usr/share/nginx/html", true),
    ] {
        let (source, target) = (source.clone(), target.into());
        spec.mounts.push(Mount { source, beneath: None, ids: None, target, read_only });
    }
    let (exit, log) = pod.run(&spec);
    assert_eq!(exit.code, 0, "{log}");
    assert!(log.starts_with("nameserver 10.96.0.10\ncontent\ncontent\ncontent\n"), "{log}");
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(volume.join("new")).unwrap());
    assert_eq!(owner, pod.pod.host_id(0));
    // readOnlyRootFilesystem leaves volumes writable and nothing else.
    spec.read_only_root = true;
    let script =
        "! touch /x && ! touch /tmp/x && ! touch /etc/x && ! touch /usr/x && touch /data/a/y";
    spec.program = weft_sandbox::Program::Command(["sh", "-c", script].map(str::to_owned).to_vec());
    let (exit, log) = pod.run(&spec);
    assert_eq!(exit.code, 0, "{log}");
}

/// What a container leaves in a volume never leads a mount of the next one out of it.
#[test]
fn a_mount_follows_no_link_of_a_container() {
    if skip("a_mount_follows_no_link_of_a_container") {
        return;
    }
    let pod = TestPod::new();
    let volumes = pod.scratch.join("volumes");
    std::fs::create_dir_all(volumes.join("v/dir")).unwrap();
    std::fs::write(volumes.join("v/dir/file"), "content\n").unwrap();
    std::os::unix::fs::symlink("/etc", volumes.join("v/out")).unwrap();
    std::os::unix::fs::symlink("dir", volumes.join("v/in")).unwrap();
    let start = |name: &str, source: std::path::PathBuf| {
        let mut spec = pod.spec(name, &["cat", "/m/file"]);
        let (beneath, target) = (Some(volumes.clone()), "/m".into());
        spec.mounts.push(Mount { source, beneath, ids: None, target, read_only: false });
        pod.pod.start(&spec)
    };
    for (n, path) in ["v/out", "v/out/ssl", "v/in", "../volumes/v/dir"].iter().enumerate() {
        let refused = start(&format!("bad{n}"), volumes.join(path));
        assert!(refused.is_err(), "{path}");
    }
    assert!(start("outside", "/etc".into()).is_err());
    let exit = start("good", volumes.join("v/dir")).unwrap().wait_timeout(PATIENCE).unwrap();
    assert_eq!((exit.unwrap().code, pod.log("good").as_str()), (0, "content\n"));
}

#[test]
fn programs_in_volumes_run_though_the_machine_has_them_on_noexec() {
    if skip("programs_in_volumes_run_though_the_machine_has_them_on_noexec") {
        return;
    }
    let spec = spec();
    let base = spec.dir.parent().unwrap().to_owned();
    std::fs::create_dir_all(&base).unwrap();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("test"), &base, Some("tmpfs"), flags, None::<&str>).unwrap();
    let pod = TestPod::with(spec);
    let source = pod.scratch.join("volume");
    std::fs::create_dir(&source).unwrap();
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&source, open).unwrap();
    let run = |name: &str, script: &str| {
        let mut spec = pod.spec(name, &["sh", "-ec", script]);
        spec.mounts.push(Mount {
            source: source.clone(),
            beneath: Some(pod.scratch.clone()),
            ids: None,
            target: "/work".into(),
            read_only: false,
        });
        let (exit, log) = pod.run(&spec);
        assert_eq!(exit.code, 0, "{log}");
        log
    };
    run("init", "printf '#!/bin/sh\\necho it runs\\n' >/work/run; chmod +x /work/run");
    assert_eq!(run("app", "/work/run"), "it runs\n");
    let options = run("options", "grep ' /work ' /proc/self/mounts");
    assert!(options.contains("nosuid,nodev") && !options.contains("noexec"), "{options}");
}

/// Data that outlives a pod: the next one, with other ids on the machine, is its owner as well.
#[test]
fn a_mapped_volume_belongs_to_every_pod_in_turn() {
    if skip("a_mapped_volume_belongs_to_every_pod_in_turn") {
        return;
    }
    let owner = |path: &std::path::Path| {
        let found = std::fs::metadata(path).unwrap();
        (std::os::unix::fs::MetadataExt::uid(&found), std::os::unix::fs::MetadataExt::gid(&found))
    };
    let first = TestPod::new();
    let volume = first.scratch.join("volumes/data");
    std::fs::create_dir_all(&volume).unwrap();
    let ids = weft_sandbox::host_id("the volume", 0);
    std::os::unix::fs::chown(&volume, Some(ids), Some(ids)).unwrap();
    let run = |pod: &TestPod, name: &str, uid: Option<u32>, ids: Option<u32>, script: &str| {
        let mut spec = pod.spec(name, &["sh", "-ec", script]);
        (spec.uid, spec.gid) = (uid, uid);
        spec.mounts.push(Mount {
            source: volume.clone(),
            beneath: Some(first.scratch.join("volumes")),
            ids,
            target: "/data".into(),
            read_only: false,
        });
        let (exit, log) = pod.run(&spec);
        assert_eq!(exit.code, 0, "{name}: {log}");
        log
    };
    let make = "stat -c %u:%g /data; umask 077; echo one >/data/file; mkdir -m 1777 /data/open";
    assert_eq!(run(&first, "make", None, Some(ids), make), "0:0\n");
    run(&first, "user", Some(1000), Some(ids), "umask 077; echo mine >/data/open/file");
    let second = TestPod::new();
    assert_ne!(first.pod.host_id(0), second.pod.host_id(0));
    let more = "echo two >>/data/file; cat /data/file; stat -c %u:%g /data/file /data/open/file";
    assert_eq!(run(&second, "more", None, Some(ids), more), "one\ntwo\n0:0\n1000:1000\n");
    run(&second, "user", Some(1000), Some(ids), "echo more >>/data/open/file");
    // On the disk it is neither pod's, and without the map nobody's.
    assert_eq!(owner(&volume.join("file")), (ids, ids));
    assert_eq!(owner(&volume.join("open/file")), (ids + 1000, ids + 1000));
    run(&second, "stranger", None, None, "! cat /data/file && ! touch /data/other");
}

#[test]
fn privileged_is_the_machines_root() {
    if skip("privileged_is_the_machines_root") {
        return;
    }
    let pod = TestPod::with(PodSpec { share_pid: false, ..spec() });
    let script = "mount -t tmpfs x /mnt && id -u && grep -c . /etc/shadow && ip link add type veth";
    let mut spec = pod.spec(
        "app",
        &[
            "sh",
            "-ec",
            "mount -t tmpfs x /mnt; head -c1 /etc/shadow >/dev/null; grep CapEff /proc/self/status",
        ],
    );
    spec.privileged = true;
    let (exit, log) = pod.run(&spec);
    assert_eq!(exit.code, 0, "{log}");
    assert!(!log.contains("80405fb"), "{log}");
    // The same without is refused.
    refused(&pod, script);
}
