//! `weft lab up`: starts the supervisor in the background and waits until it is ready.

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs,
    io::{Read, pipe},
    os::fd::{AsRawFd, OwnedFd},
    os::unix::fs::{MetadataExt, PermissionsExt},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use crate::{
    config::Config,
    down,
    error::LabError,
    paths::LabPaths,
    proc::{CgroupMounts, cgroup_pids},
    state::LabState,
};

/// Environment variable with the descriptor on which the supervisor reports.
pub const REPORT_FD: &str = "WEFT_REPORT_FD";

/// Takes the lab's lock: one `up` or `down` of a lab at a time.
pub fn locked(paths: &LabPaths) -> Result<Flock<fs::File>> {
    let path = paths.lock();
    if let Some(root) = path.parent() {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    }
    loop {
        let file = fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| anyhow::Error::from(e))
            .with_context(|| format!("lock {}", path.display()))?;
        // `down` removes the file while others may wait for it: a lock on a file that is not
        // there any more protects nothing.
        let same = |there: fs::Metadata| lock.metadata().is_ok_and(|l| l.ino() == there.ino());
        if fs::metadata(&path).is_ok_and(same) {
            return Ok(lock);
        }
    }
}

/// Oldest kernel: cgroup.kill (5.14), recursive read-only mounts (5.12), and what the socket
/// hooks need.
const KERNEL_MIN: (u32, u32) = (5, 15);

/// Refuses, before anything is made, a machine that cannot hold a lab.
fn preflight() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read osrelease")?;
    if version(&release).is_some_and(|v| v < KERNEL_MIN) {
        let (major, minor) = KERNEL_MIN;
        bail!("kernel {} is too old: weft needs {major}.{minor} or later", release.trim());
    }
    CgroupMounts::find()?;
    let filesystems = fs::read_to_string("/proc/filesystems").context("read /proc/filesystems")?;
    if !filesystems.lines().any(|l| l.split_whitespace().last() == Some("bpf")) {
        bail!(
            "this kernel has no bpf file system: weft needs CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"
        );
    }
    Ok(())
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Starts a lab, or adopts one whose supervisor died. On failure nothing new is left.
pub fn up(paths: &LabPaths, config: Config) -> Result<()> {
    preflight()?;
    let _lock = locked(paths)?;
    let existing = LabState::read(paths)?;
    if existing.is_none() && !lab_pids(paths)?.is_empty() {
        // Another state directory holds a lab of this name: its namespaces and cgroups are
        // called alike, and must not be taken from it.
        bail!(LabError::Running(paths.name().to_string()));
    }
    let adopting = match &existing {
        Some(state) if state.running() => bail!(LabError::Running(paths.name().to_string())),
        Some(state) if state.ready && state.config == config => true,
        Some(state) if state.ready => bail!(LabError::input(format!(
            "lab '{0}' is there with another definition, and its supervisor has died: \
             start it as it was, or remove it with `weft lab down --name {0}`",
            paths.name()
        ))),
        // `up` was interrupted: what it left has no value.
        Some(_) => {
            down::down(paths).context("remove what an interrupted `up` left")?;
            false
        }
        None => false,
    };
    let outcome = start(paths, config, existing.filter(|_| adopting));
    if let Err(e) = outcome {
        if adopting {
            return Err(e);
        }
        let cleaned = down::down(paths);
        let _ = fs::remove_file(paths.lock());
        return match cleaned {
            Ok(()) => Err(e),
            Err(left) => Err(e.context(format!("and cleaning up failed: {left:#}"))),
        };
    }
    Ok(())
}

/// Processes in the cgroups that bear the lab's name.
fn lab_pids(paths: &LabPaths) -> Result<Vec<i32>> {
    let dirs = CgroupMounts::find()?.all(&paths.cgroup());
    Ok(dirs.iter().flat_map(|d| cgroup_pids(d)).collect())
}

fn start(paths: &LabPaths, config: Config, existing: Option<LabState>) -> Result<()> {
    fs::create_dir_all(paths.dir()).with_context(|| format!("make {}", paths.dir().display()))?;
    // Whatever the caller's umask: the kubeconfig in it belongs to the user behind sudo.
    fs::set_permissions(paths.dir(), fs::Permissions::from_mode(0o755))
        .with_context(|| format!("open {} to its readers", paths.dir().display()))?;
    let mut state = existing.unwrap_or(LabState {
        config,
        supervisor: None,
        api_port: None,
        ready: false,
        ready_after_ms: None,
    });
    state.supervisor = None;
    state.write(paths)?;
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths.log())
        .with_context(|| format!("open {}", paths.log().display()))?;
    let (mut reader, writer) = pipe().context("make pipe")?;
    let writer = OwnedFd::from(writer);
    let cgroup = supervisor_cgroup(paths)?;
    let fd = writer.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("weft")
        .arg("lab-supervisor")
        .arg("--state-dir")
        .arg(paths.lock().parent().context("invariant: the lock has a directory")?)
        .arg("--name")
        .arg(paths.name().as_str())
        .env(REPORT_FD, fd.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("duplicate log")?)
        .stderr(log);
    crate::nodes::detach(&mut command, cgroup, writer);
    let mut child = command.spawn().context("start the supervisor")?;
    drop(command); // closes our end of the pipe: its end of file means that the child ended
    let mut report = String::new();
    reader.read_to_string(&mut report).context("wait for the supervisor")?;
    match report.split_once(' ').map_or((report.trim(), ""), |(a, b)| (a, b.trim())) {
        ("ready", _) => Ok(()),
        ("failed", why) => {
            let _ = child.wait();
            bail!("{why}")
        }
        _ => {
            let status = child.wait().context("wait for the supervisor")?;
            bail!(
                "the supervisor ended before the lab was ready ({status}); its last words: {}",
                last_line(paths)
            )
        }
    }
}

fn supervisor_cgroup(paths: &LabPaths) -> Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    for dir in CgroupMounts::find()?.all(&paths.cgroup().join("supervisor")) {
        fs::create_dir_all(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        let procs = dir.join("cgroup.procs");
        let file = fs::OpenOptions::new().write(true).open(&procs);
        files.push(file.with_context(|| format!("open {}", procs.display()))?.into());
    }
    Ok(files)
}

fn last_line(paths: &LabPaths) -> String {
    let log = fs::read_to_string(paths.log()).unwrap_or_default();
    log.lines().last().unwrap_or("(none)").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("6.1.0-56-amd64\n"), Some((6, 1)));
        assert!(version("5.9.16").expect("numbers") < KERNEL_MIN);
        assert!(version("5.15.0-generic").expect("numbers") >= KERNEL_MIN);
        assert_eq!(version("strange"), None);
    }
}
