//! Labs with a guard that takes them down, waiting on conditions, and the proof that nothing
//! is left.

use serde_json::Value;
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The binary under test.
pub const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// How long a condition may take; conditions are polled, so a passing test never waits it out.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the tests can run; says so where they cannot.
pub fn root_or_skip(test: &str) -> bool {
    let root = nix_is_root();
    if !root {
        println!("SKIP {test}: needs root");
    }
    root
}

fn nix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// The manifests in ../shared/upstream, or a named skip.
pub fn upstream_or_skip(test: &str, file: &str) -> Option<PathBuf> {
    let path = project().join("../shared/upstream").join(file);
    if path.is_file() {
        return Some(path);
    }
    println!("SKIP {test}: ../shared/upstream/{file} is not there");
    None
}

/// The project's root.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// kubectl 1.27 or later on PATH, or a named skip.
pub fn kubectl_or_skip(test: &str) -> bool {
    let found = Command::new("kubectl").args(["version", "--client"]).output();
    if found.is_ok_and(|o| o.status.success()) {
        return true;
    }
    println!("SKIP {test}: kubectl is not on PATH");
    false
}

/// Runs weft.
pub fn weft(args: &[&str]) -> Output {
    Command::new(WEFT).args(args).stdin(Stdio::null()).output().expect("run weft")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running lab; taken down, with proof, when dropped or by [`Lab::down`].
pub struct Lab {
    pub name: String,
    down: bool,
}

impl Lab {
    /// A name that no other test run has.
    pub fn name(part: &str) -> String {
        format!("t{}-{part}", std::process::id() % 1_000_000)
    }

    /// Starts a lab.
    pub fn up(part: &str, args: &[&str]) -> Self {
        let lab = Self { name: Self::name(part), down: false };
        let mut all = vec!["lab", "up", "--name", &lab.name];
        all.extend(args);
        let out = weft(&all);
        assert!(out.status.success(), "lab up: {}", text(&out.stderr));
        lab
    }

    /// A guard for a lab that the test starts by itself.
    pub fn expected(part: &str) -> Self {
        Self { name: Self::name(part), down: false }
    }

    pub fn dir(&self) -> PathBuf {
        Path::new("/run/weft").join(&self.name)
    }

    /// Runs `weft lab WORDS… --name NAME REST…`; the whole output.
    pub fn try_run(&self, words: &[&str], rest: &[&str]) -> Output {
        let mut args = vec!["lab"];
        args.extend(words);
        args.extend(["--name", &self.name]);
        args.extend(rest);
        weft(&args)
    }

    /// The same; must succeed.
    pub fn run(&self, words: &[&str], rest: &[&str]) -> String {
        let out = self.try_run(words, rest);
        assert!(
            out.status.success(),
            "weft lab {words:?} {rest:?}: {}\n{}{}",
            out.status,
            text(&out.stdout),
            text(&out.stderr)
        );
        text(&out.stdout)
    }

    /// Runs a command in a pod, a node or the client.
    pub fn try_exec(&self, namespace: &str, target: &str, command: &[&str]) -> Output {
        self.try_run(&["exec"], &exec_args(namespace, target, command))
    }

    /// The same; must succeed.
    pub fn exec(&self, namespace: &str, target: &str, command: &[&str]) -> String {
        self.run(&["exec"], &exec_args(namespace, target, command))
    }

    pub fn apply(&self, manifest: &str) {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("temporary file");
        fs::write(file.path(), manifest).expect("write manifest");
        self.apply_file(file.path());
    }

    pub fn apply_file(&self, path: &Path) {
        self.run(&["apply"], &["-f", path.to_str().expect("UTF-8 path")]);
    }

    pub fn kubectl(&self) -> Command {
        let mut c = Command::new("kubectl");
        c.env("KUBECONFIG", self.dir().join("kubeconfig")).env("HOME", self.dir());
        c.env("KUBECACHEDIR", self.dir().join("kubecache")).stdin(Stdio::null());
        c
    }

    /// kubectl; must succeed.
    pub fn k(&self, args: &[&str]) -> String {
        let out = self.kubectl().args(args).output().expect("run kubectl");
        assert!(
            out.status.success(),
            "kubectl {args:?}: {}\n{}{}",
            out.status,
            text(&out.stdout),
            text(&out.stderr)
        );
        text(&out.stdout)
    }

    pub fn status(&self) -> Value {
        let out = self.try_run(&["status"], &["-o", "json"]);
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("status: {e}: {}{}", text(&out.stdout), text(&out.stderr)))
    }

    /// A pod's namespace and addresses.
    pub fn pod(&self, name: &str) -> (PathBuf, Vec<IpAddr>) {
        let status = self.status();
        let pods = status["pods"].as_array().expect("pods");
        let pod = pods.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{pods:#?}"));
        let text = |key: &str| pod[key].as_str().unwrap_or_else(|| panic!("no {key} in {pod:#}"));
        let netns = self.dir().join(text("node")).join("pods").join(text("uid")).join("netns");
        let ips = pod["ips"].as_array().unwrap_or_else(|| panic!("no ips in {pod:#}"));
        let ips = ips.iter().map(|ip| ip.as_str().expect("text").parse().expect("address"));
        (netns, ips.collect())
    }

    /// Waits until at least `pods` pods are there and all are Ready.
    pub fn wait_ready(&self, pods: usize) {
        let mut last = Value::Null;
        let ready = || {
            last = self.status();
            let all = last["pods"].as_array().cloned().unwrap_or_default();
            all.len() >= pods && all.iter().all(|p| p["ready"] == true || p["phase"] == "Succeeded")
        };
        if !poll(ready) {
            let not: Vec<Value> = last["pods"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|p| p["ready"] != true)
                .cloned()
                .collect();
            panic!("not {pods} pods Ready: {not:#?}\n{}", self.logs());
        }
    }

    /// The last lines of every log, for a failing assertion.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let mut logs = vec![self.dir().join("supervisor.log")];
        for entry in fs::read_dir(self.dir()).into_iter().flatten().flatten() {
            logs.extend(["agent.log", "kubelet.log"].map(|l| entry.path().join(l)));
        }
        for log in logs.iter().filter(|l| l.is_file()) {
            let content = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            all.push_str(&format!("--- {}\n{tail}\n", log.display()));
        }
        all
    }

    /// Runs verify; every check must hold.
    pub fn verify(&self) -> Value {
        let out = self.try_run(&["verify"], &["-o", "json"]);
        let report: Value = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("verify: {e}: {}{}", text(&out.stdout), text(&out.stderr)));
        let failed: Vec<&Value> = report["checks"]
            .as_array()
            .expect("checks")
            .iter()
            .filter(|c| c["ok"] != true)
            .collect();
        assert!(
            report["ok"] == true && failed.is_empty() && out.status.success(),
            "{} checks failed: {:#?}\n{}",
            failed.len(),
            failed.iter().take(5).collect::<Vec<_>>(),
            self.logs()
        );
        report
    }

    /// Takes the lab down and proves that nothing is left.
    pub fn down(mut self) {
        self.down = true;
        let out = self.try_run(&["down"], &[]);
        assert!(out.status.success(), "lab down: {}", text(&out.stderr));
        let left = leftovers(&self.name);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

fn exec_args<'a>(namespace: &'a str, target: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    [&["-n", namespace, target, "--"], command].concat()
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.down {
            return;
        }
        let out = self.try_run(&["down"], &[]);
        if !std::thread::panicking() {
            assert!(out.status.success(), "lab down: {}", text(&out.stderr));
            let left = leftovers(&self.name);
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}

/// Polls a condition until it holds; false when patience ends.
pub fn poll(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Whatever on this machine still bears a lab's name: namespaces, mounts, cgroups, processes,
/// files, links of the machine's own namespace.
pub fn leftovers(lab: &str) -> Vec<String> {
    let mut left = Vec::new();
    let prefix = format!("weft.{lab}.");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            left.push(format!("namespace {name}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let dir = format!("/run/weft/{lab}");
    for line in mounts.lines().filter(|l| l.contains(&format!("{dir}/")) || l.contains(&prefix)) {
        left.push(format!("mount {line}"));
    }
    for path in [dir.clone(), format!("{dir}.lock")] {
        if Path::new(&path).exists() {
            left.push(format!("file {path}"));
        }
    }
    let all_mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    for line in all_mounts.lines().filter(|l| l.contains(" cgroup")) {
        let at = line.split(' ').nth(1).unwrap_or_default();
        let cgroup = Path::new(at).join(format!("weft.{lab}"));
        if cgroup.exists() {
            left.push(format!("cgroup {}", cgroup.display()));
        }
    }
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = text(&command).replace('\0', " ");
        let of_lab =
            command.contains(&format!("--name {lab} ")) || command.contains(&format!("{dir}/"));
        if of_lab && entry.file_name() != std::process::id().to_string().as_str() {
            left.push(format!("process {} {command}", entry.file_name().to_string_lossy()));
        }
    }
    left
}

/// Names of the links in the machine's own network namespace.
pub fn own_links() -> Vec<String> {
    let dev = fs::read_to_string("/proc/self/net/dev").expect("net/dev");
    dev.lines().skip(2).filter_map(|l| Some(l.split(':').next()?.trim().to_owned())).collect()
}
