//! A pod of a test, and what tests look at.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use weft_sandbox::{
    Container, ContainerSpec, ExecSpec, Exit, Limits, Mount, Pod, PodSpec, Program, Runtime,
};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Prints the skip line that xtask counts; `true` where the test must end.
pub fn skip(name: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    println!("SKIP {name}: needs root");
    true
}

/// The binary that `weft` is in the product.
pub fn helper() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_weft-sandbox-helper"))
}

pub fn runtime() -> Runtime {
    Runtime::with_helper(helper()).unwrap()
}

/// A pod that is destroyed at the end of the test, also by a panic, which then shows the logs.
pub struct TestPod {
    pub pod: Pod,
    pub dir: PathBuf,
    pub scratch: PathBuf,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Unique over processes and tests.
pub fn unique() -> String {
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn spec() -> PodSpec {
    let uid = format!("pod-{}", unique());
    PodSpec {
        hostname: "web-0".into(),
        dir: format!("/run/weft-sandbox-test/{uid}/pod").into(),
        cgroup: format!("weft-sandbox-test/{uid}").into(),
        uid,
        host_network: false,
        share_pid: false,
    }
}

impl TestPod {
    pub fn new() -> TestPod {
        TestPod::with(spec())
    }

    pub fn with(spec: PodSpec) -> TestPod {
        let scratch = spec.dir.parent().unwrap().to_owned();
        let pod = Pod::create(&runtime(), &spec).unwrap();
        TestPod { pod, dir: spec.dir, scratch }
    }

    /// A container with the probe program at /probe.
    pub fn spec(&self, name: &str, argv: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: name.into(),
            program: Program::Command(argv.iter().map(|word| word.to_string()).collect()),
            env: vec![("GREETING".into(), "hello".into())],
            cwd: None,
            mounts: vec![Mount {
                source: helper().into(),
                beneath: None,
                ids: None,
                target: "/probe".into(),
                read_only: true,
            }],
            limits: Limits::default(),
            read_only_root: false,
            uid: None,
            gid: None,
            groups: Vec::new(),
            stdin: false,
            stdin_once: false,
            tty: false,
            privileged: false,
            log: self.log_path(name),
        }
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("logs/{name}.log"))
    }

    pub fn start(&self, name: &str, argv: &[&str]) -> Container {
        self.pod.start(&self.spec(name, argv)).unwrap()
    }

    /// A container that stays until it is told to go.
    pub fn sleeper(&self, name: &str) -> Container {
        self.start(
            name,
            &["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"],
        )
    }

    /// Runs a shell script as a container; exit and log text.
    pub fn run(&self, spec: &ContainerSpec) -> (Exit, String) {
        let container = self.pod.start(spec).unwrap();
        let exit = container.wait_timeout(PATIENCE).unwrap().expect("the container ends");
        (exit, self.log(&spec.name))
    }

    /// Runs a script in a fresh container and wants it to succeed.
    pub fn shell(&self, name: &str, script: &str) -> String {
        let (exit, log) = self.run(&self.spec(name, &["sh", "-ec", script]));
        assert_eq!(exit.code, 0, "{script}\n{log}");
        log
    }

    /// Text of the log without times, streams and tags.
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log_path(name)).unwrap_or_default();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                let (time, stream) = (parts.next().unwrap(), parts.next().unwrap());
                assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
                assert!(stream == "stdout" || stream == "stderr", "{line}");
                assert!(matches!(parts.next(), Some("F" | "P")), "{line}");
                format!("{}\n", parts.next().unwrap_or_default())
            })
            .collect()
    }

    pub fn wait_for_log(&self, name: &str, text: &str) {
        wait_until(&format!("{text:?} in the log of {name}"), || self.log(name).contains(text));
    }
}

impl Drop for TestPod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in
                std::fs::read_dir(self.scratch.join("logs")).into_iter().flatten().flatten()
            {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                eprintln!("--- {}\n{text}", entry.path().display());
            }
            let _ = self.pod.destroy();
        } else {
            self.pod.destroy().unwrap();
        }
        // A test may have mounted a file system of its own there.
        let _ = nix::mount::umount2(&self.scratch, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.scratch);
        // The last of several tests succeeds.
        let _ = std::fs::remove_dir("/run/weft-sandbox-test");
        for root in cgroup_roots() {
            let _ = std::fs::remove_dir(root.join("weft-sandbox-test"));
        }
    }
}

/// Runs a command in a container; exit, stdout and stderr.
pub fn exec(container: &Container, argv: &[&str]) -> (Exit, String, String) {
    let spec = ExecSpec {
        argv: argv.iter().map(|word| word.to_string()).collect(),
        env: vec![("GREETING".into(), "hello".into())],
        cwd: None,
        tty: false,
        stdin: false,
    };
    let mut exec = container.exec(&spec).unwrap();
    // Small outputs: both fit into their pipes.
    let out = std::io::read_to_string(std::fs::File::from(exec.stdout.take().unwrap())).unwrap();
    let err = std::io::read_to_string(std::fs::File::from(exec.stderr.take().unwrap())).unwrap();
    (exec.wait_timeout(PATIENCE).unwrap().expect("the command ends"), out, err)
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every cgroup hierarchy of this machine.
pub fn cgroup_roots() -> Vec<PathBuf> {
    std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(point))
        })
        .collect()
}
