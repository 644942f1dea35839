//! A place for one test: a process of its own with a network namespace, a mount namespace
//! with a bpf file system, and a cgroup.
//!
//! A thread cannot join a cgroup2 alone, so each test runs itself again as a child process
//! (`helper`, told by an environment variable which scenario to play).

use std::{
    env, fs,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};
use weft_bpf::{MapSizes, OpenOptions, SocketLb};

pub const SCENARIO: &str = "WEFT_BPF_TEST_SCENARIO";
const CGROUP: &str = "WEFT_BPF_TEST_CGROUP";
const BPFFS: &str = "WEFT_BPF_TEST_BPFFS";

/// Removes its cgroup, also on panic.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(&self.0) {
            let _ = writeln!(io::stderr(), "cgroup {} stays: {e}", self.0.display());
        }
    }
}

fn cgroup2_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
    let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(line.expect("no cgroup2 mount").split(' ').nth(1).expect("mount point"))
}

/// Plays a scenario in a child process, and checks that nothing of it stays behind.
pub fn play(scenario: &str) {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIP {scenario}: needs root");
        return;
    }
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("weft-bpf-test-{}-{number}", std::process::id());
    let cgroup = Cgroup(cgroup2_mount().join(name));
    fs::create_dir(&cgroup.0).expect("create cgroup");
    let bpffs = tempfile::tempdir().expect("temporary directory");
    let procs = cgroup.0.join("cgroup.procs");
    let mut command = Command::new(env::current_exe().expect("current_exe"));
    command
        .args(["--exact", "helper", "--nocapture", "--test-threads=1"])
        .env(SCENARIO, scenario)
        .env(CGROUP, &cgroup.0)
        .env(BPFFS, bpffs.path())
        .stdin(Stdio::null());
    // SAFETY: between fork and exec this allocates nothing that another thread could hold a
    // lock of: it opens, writes and makes system calls.
    unsafe {
        command.pre_exec(move || {
            fs::OpenOptions::new().write(true).open(&procs)?.write_all(b"0")?;
            if libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let output = command.output().expect("run the helper");
    assert!(
        output.status.success(),
        "{scenario} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let left = fs::read_dir(bpffs.path()).expect("temporary directory").count();
    assert_eq!(left, 0, "the file system was mounted outside of the child");
}

/// What the child knows.
pub struct World {
    pub bpf_dir: PathBuf,
    pub cgroup: PathBuf,
}

impl World {
    /// Called in the child: loopback up, bpf file system mounted.
    pub fn enter() -> Self {
        let bpffs = PathBuf::from(env::var_os(BPFFS).expect("environment"));
        let cgroup = PathBuf::from(env::var_os(CGROUP).expect("environment"));
        mount_bpffs(&bpffs);
        loopback_up();
        Self { bpf_dir: bpffs.join("node"), cgroup }
    }

    pub fn options(&self) -> OpenOptions {
        let sizes = MapSizes {
            services: 256,
            slots: 4096,
            members: 4096,
            sockets: 4096,
            clients: 256,
            pods: 16,
            flows: 1024,
            conns: 1024,
            ..MapSizes::default()
        };
        let node_netns = weft_netlink::sock_diag::netns_cookie().expect("cookie");
        OpenOptions { sizes, node_netns, ..OpenOptions::new(&self.bpf_dir, &self.cgroup) }
    }

    pub fn open(&self) -> SocketLb {
        SocketLb::open(self.options()).unwrap_or_else(|e| panic!("open: {}", chain(&e)))
    }

    /// Where this version pins.
    pub fn layout(&self) -> PathBuf {
        self.bpf_dir.join(format!("v{}", weft_bpf_abi::LAYOUT_VERSION))
    }

    /// Paths of all pins, relative.
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.bpf_dir, &mut found);
        found.sort();
        found
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn mount_bpffs(target: &Path) {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), none).expect("mount bpffs");
}

pub fn loopback_up() {
    // SAFETY: an ifreq is plain data; the socket is closed with the process.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as _;
        request.ifr_name[1] = b'o' as _;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &request), 0, "lo up");
        libc::close(socket);
    }
}
