//! A machine of the test's own: network and mount namespaces, a cgroup, folders. Whatever a
//! node's software writes to `/run`, `/var/lib` or a bpffs stays in them, and ends with them.

use crate::lab::{Lab, leftovers, poll, text};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// Prepared before anything runs; `$1` is written when all is done.
const NODE: &str = "
    mount -t tmpfs -o mode=755 tmpfs /run &&
    mount -t tmpfs -o mode=755 tmpfs /var/lib &&
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/bpf &&
    ip link set lo up && : > $1 && exec sleep 1000000";
const OUTSIDE: &str = "ip link set lo up && : > $1 && exec sleep 1000000";

/// A node, and the network outside where its API server is.
pub struct Machine {
    pub name: String,
    pub dir: tempfile::TempDir,
    node: Child,
    outside: Child,
    children: Vec<Child>,
    done: bool,
}

/// In which of the two something runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Node,
    Outside,
}

impl Machine {
    /// `part` makes the name one of this test.
    pub fn start(part: &str) -> Self {
        let name = Lab::name(part);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(system(&name)).unwrap();
        let hold = |namespaces: &[&str], script: &str, ready: &Path| {
            let mut command = inside(&name, "unshare");
            command.args(namespaces).args(["sh", "-c", script, "sh"]).arg(ready);
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        let ready = [dir.path().join("node"), dir.path().join("outside")];
        let machine = Self {
            node: hold(&["--mount", "--net"], NODE, &ready[0]),
            outside: hold(&["--net"], OUTSIDE, &ready[1]),
            children: Vec::new(),
            done: false,
            name,
            dir,
        };
        assert!(poll(|| ready.iter().all(|r| r.exists())), "namespaces of their own");
        let peer = machine.outside.id();
        machine.sh(Side::Node, &format!("ip link add eth0 type veth peer name up0 netns {peer}"));
        machine.sh(Side::Outside, "ip addr add 172.31.7.1/24 dev up0; ip link set up0 up");
        machine.sh(
            Side::Node,
            "ip addr add 172.31.7.2/24 dev eth0; ip addr add fd00:31:7::2/64 dev eth0 nodad
             ip link set eth0 up; ip route add default via 172.31.7.1",
        );
        machine
    }

    fn holder(&self, side: Side) -> u32 {
        match side {
            Side::Node => self.node.id(),
            Side::Outside => self.outside.id(),
        }
    }

    /// A path of the node, as this process reaches it.
    pub fn path(&self, in_node: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{in_node}", self.node.id()))
    }

    /// The network namespace of a side.
    pub fn netns(&self, side: Side) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder(side)))
    }

    /// The cgroup2 folder of everything here: the node's whole hierarchy, as it were.
    pub fn cgroup(&self) -> PathBuf {
        cgroup_mounts("cgroup2").remove(0).join(format!("weft.{}", self.name))
    }

    /// A program on the node (or outside), in the machine's cgroup.
    pub fn command(&self, side: Side, program: impl AsRef<Path>) -> Command {
        let mut command = inside(&self.name, "nsenter");
        command.arg("--target").arg(self.holder(side).to_string()).args(["--mount", "--net", "--"]);
        command.arg(program.as_ref()).stdin(Stdio::null());
        command
    }

    /// A shell script on a side; must succeed.
    pub fn sh(&self, side: Side, script: &str) -> String {
        let out = self.command(side, "sh").args(["-ec", script]).output().unwrap();
        assert!(out.status.success(), "{script}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// Starts a daemon with its log in the machine's folder; the name finds it again.
    pub fn daemon(&mut self, side: Side, name: &str, program: &Path, args: &[&str]) -> u32 {
        let log = self.dir.path().join(format!("{name}.log"));
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(side, program);
        command.args(args).stdout(log.try_clone().unwrap()).stderr(log);
        // Every request to the API is in the agent's log.
        command.env("WEFT_LOG", "info,weft_kube::access=debug");
        let child = command.spawn().unwrap();
        let id = child.id();
        self.children.push(child);
        id
    }

    /// Ends a daemon by a signal and waits for it.
    pub fn end(&mut self, id: u32, signal: nix::sys::signal::Signal) {
        let at = self.children.iter().position(|c| c.id() == id).unwrap();
        let mut child = self.children.remove(at);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
        assert!(poll(|| child.try_wait().unwrap().is_some()), "{id} does not end by {signal}");
    }

    /// The last lines of every log, for a failing assertion.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(self.dir.path()).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "log") {
                let content = text(&fs::read(&path).unwrap_or_default());
                let lines: Vec<&str> = content.lines().collect();
                let tail = lines[lines.len().saturating_sub(25)..].join("\n");
                all.push_str(&format!("--- {}\n{tail}\n", path.display()));
            }
        }
        all
    }

    /// Ends everything and proves that nothing is left.
    pub fn stop(mut self) {
        let left = self.teardown();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Ends the processes of the machine's cgroup, which all are ours, and removes its folders.
    fn teardown(&mut self) -> Vec<String> {
        self.done = true;
        let cgroup = self.cgroup();
        fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
        for child in self.children.iter_mut().chain([&mut self.node, &mut self.outside]) {
            let _ = child.wait();
        }
        let events = || fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
        let mut left = Vec::new();
        if !poll(|| !events().contains("populated 1")) {
            left.push(format!("processes in {}", cgroup.display()));
        }
        for mount in cgroup_mounts("cgroup") {
            // A controller's folder is busy for a moment after its last process.
            let dir = mount.join(format!("weft.{}", self.name));
            poll(|| remove_cgroups(&dir));
        }
        left.extend(leftovers(&self.name));
        let dir = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(&dir)).map(|l| format!("mount {l}")));
        left
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.done {
            if std::thread::panicking() {
                eprintln!("{}", self.logs());
            }
            let left = self.teardown();
            if !left.is_empty() {
                eprintln!("left behind: {left:#?}");
            }
        }
    }
}

/// Runs a command with input; gives back its output.
pub fn with_input(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A program that joins the machine's cgroup first. The cgroup2 hierarchy is where the hooks
/// are; of the others a process needs none.
fn inside(name: &str, program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]);
    command.arg(system(name).join("cgroup.procs")).arg(program);
    command
}

/// The folder of the node's daemons: on a machine with cgroup2 alone, one with processes may
/// have no others below it.
fn system(name: &str) -> PathBuf {
    cgroup_mounts("cgroup2").remove(0).join(format!("weft.{name}/system"))
}

/// Where hierarchies are mounted whose type begins so, those of cgroup2 first.
fn cgroup_mounts(kind: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: Vec<(bool, PathBuf)> = mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .filter(|f| f[2].starts_with(kind))
        .map(|f| (f[2] != "cgroup2", PathBuf::from(f[1])))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Removes a tree of cgroups; whether it is gone.
fn remove_cgroups(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
    !dir.exists()
}
