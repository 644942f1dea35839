//! A `weft apiserver` of one test.

use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

/// The binary under test.
pub const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// How long a condition may take; conditions are polled, so a passing test never waits it out.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; told to end, and checked to end well, when dropped.
pub struct Api {
    child: Option<Child>,
    /// Kubeconfig, log and, where asked for, the data.
    pub dir: tempfile::TempDir,
}

impl Api {
    /// Starts a server in memory on a free port.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with more flags. `{dir}` in one stands for the test's directory.
    pub fn with(flags: &[&str]) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), flags)
    }

    /// The same in a directory that another one used.
    pub fn in_dir(dir: tempfile::TempDir, flags: &[&str]) -> Self {
        let mut api = Self { child: None, dir };
        let _ = fs::remove_file(api.kubeconfig());
        let log = fs::File::create(api.dir.path().join("log")).unwrap();
        let place = api.dir.path().display().to_string();
        let child = Command::new(WEFT)
            .args(["apiserver", "--listen", "127.0.0.1:0", "--kubeconfig"])
            .arg(api.kubeconfig())
            .args(flags.iter().map(|f| f.replace("{dir}", &place)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        api.child = Some(child);
        let mut ended = None;
        let ready = poll(|| {
            ended = api.child.as_mut().unwrap().try_wait().unwrap();
            ended.is_some() || api.kubeconfig().exists()
        });
        assert!(ready && ended.is_none(), "weft apiserver {flags:?}: {ended:?}\n{}", api.log());
        api
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A kube-rs client over TLS.
    pub async fn client(&self) -> kube::Client {
        client(&self.kubeconfig()).await
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// Waits for the process to end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        let ended = poll(|| {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        if !ended {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        status.unwrap_or_else(|| panic!("does not end:\n{}", self.log()))
    }

    /// Kills the server as a power cut would, and gives back its directory.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.signal(Signal::SIGKILL);
        self.ended();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.signal(Signal::SIGTERM);
        let status = self.ended();
        if !std::thread::panicking() {
            assert!(status.success(), "{status}\n{}", self.log());
            assert!(!self.log().contains("panicked"), "{}", self.log());
        } else {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

/// A kube-rs client of a kubeconfig.
pub async fn client(kubeconfig: &Path) -> kube::Client {
    let parsed = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.unwrap()).unwrap()
}

/// Runs `weft apiserver` with flags that it must refuse.
pub fn refused(flags: &[&str]) -> Output {
    let mut child = Command::new(WEFT)
        .arg("apiserver")
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = poll(|| child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let out = child.wait_with_output().unwrap();
    assert!(ended && !out.status.success(), "{flags:?}: {out:?}");
    out
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
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
