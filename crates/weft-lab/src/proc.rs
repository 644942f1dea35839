//! Processes of a lab: who they are, whether they live, and how they end.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// A process as `lab.json` remembers it. PIDs are reused; a PID with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// PID in the machine's PID namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The identity of a running process.
    pub fn of(pid: i32) -> Result<Self> {
        let start_ticks = start_ticks(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self { pid, start_ticks })
    }

    /// Whether that very process still runs (a zombie does not count).
    pub fn alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks) && !is_zombie(self.pid)
    }
}

/// The fields of /proc/PID/stat after the command name, which may itself hold blanks.
fn stat_fields(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.to_owned())
}

fn start_ticks(pid: i32) -> Option<u64> {
    stat_fields(pid)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    stat_fields(pid).is_some_and(|f| f.trim_start().starts_with('Z'))
}

/// PIDs in a cgroup and all cgroups below it.
pub fn cgroup_pids(dir: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pids.extend(cgroup_pids(&entry.path()));
        }
    }
    pids
}

/// Mount points of the cgroup hierarchies that a lab uses: cgroup2, and on hybrid machines
/// the v1 hierarchies of memory and pids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMounts {
    /// cgroup2.
    pub unified: std::path::PathBuf,
    /// v1 memory and pids, where they are v1.
    pub v1: Vec<std::path::PathBuf>,
}

impl CgroupMounts {
    /// Reads /proc/mounts.
    pub fn find() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/mounts").context("read /proc/mounts")?)
    }

    fn parse(mounts: &str) -> Result<Self> {
        let mut unified = None;
        let mut v1 = Vec::new();
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            let (Some(_), Some(at), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let limits = |o: &str| o == "memory" || o == "pids";
            match kind {
                "cgroup2" if unified.is_none() => unified = Some(at.into()),
                "cgroup" if options.split(',').any(limits) => v1.push(at.into()),
                _ => {}
            }
        }
        let unified = unified.context(
            "no cgroup2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)",
        )?;
        Ok(Self { unified, v1 })
    }

    /// Every hierarchy's directory for the same relative path.
    pub fn all(&self, relative: &Path) -> Vec<std::path::PathBuf> {
        std::iter::once(&self.unified).chain(&self.v1).map(|m| m.join(relative)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_machines_have_both() {
        let m = CgroupMounts::parse(
            "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        )
        .expect("found");
        assert_eq!(m.unified, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(m.v1, [Path::new("/sys/fs/cgroup/memory")]);
        assert!(CgroupMounts::parse("proc /proc proc rw 0 0\n").is_err());
    }

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let me = ProcessId::of(std::process::id() as i32).expect("self");
        assert!(me.alive());
        assert!(!ProcessId { start_ticks: me.start_ticks + 1, ..me }.alive());
    }
}
