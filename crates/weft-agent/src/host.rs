//! What the agent needs of the machine it is on, and finds there.

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where systemd, and everybody else, mounts the file system of pins.
const BPFFS: &str = "/sys/fs/bpf";

/// The machine's cgroup2 folder: the hooks there see every process. `/sys/fs/cgroup`, or on a
/// hybrid machine (v1 controllers beside v2) `/sys/fs/cgroup/unified`.
pub fn cgroup2_root() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    match cgroup2_of(&text) {
        Some(path) => Ok(path),
        None => bail!(
            "no cgroup2 is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), \
             or name it with --cgroup"
        ),
    }
}

/// The cgroup2 mount in the text of a mountinfo file (proc_pid_mountinfo(5)) that shows the
/// most: one of the whole hierarchy before one of a part, then the one nearest to `/`.
fn cgroup2_of(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // An escaped name is nobody's cgroup folder.
        (kind.split(' ').next() == Some("cgroup2") && !point.contains('\\'))
            .then_some((root, point))
    });
    let best = mounts.min_by_key(|(root, point)| (*root != "/", point.len()))?;
    Some(PathBuf::from(best.1))
}

/// Makes the folder of pins, and mounts a bpffs for it where there is none.
pub fn pins(dir: &Path) -> Result<()> {
    let there = dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(there).with_context(|| format!("look at {}", there.display()))?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        let point = if dir.starts_with(BPFFS) { Path::new(BPFFS) } else { dir };
        fs::create_dir_all(point).with_context(|| format!("create {}", point.display()))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=0700"))
            .with_context(|| format!("mount a bpffs on {}", point.display()))?;
        tracing::info!(path = %point.display(), "bpffs mounted");
    }
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&str]) -> Option<String> {
        cgroup2_of(&lines.join("\n")).map(|p| p.display().to_string())
    }

    #[test]
    fn the_whole_hierarchy_is_found_on_every_kind_of_machine() {
        let unified = "24 23 0:21 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw";
        assert_eq!(found(&[unified]).as_deref(), Some("/sys/fs/cgroup"));
        let hybrid = [
            "30 24 0:25 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755",
            "31 30 0:26 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw",
            "32 30 0:27 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,name=systemd",
        ];
        assert_eq!(found(&hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        // A container's own part of it, mounted before.
        let part = "29 23 0:26 /kubepods/x /run/x rw - cgroup2 cgroup2 rw";
        assert_eq!(found(&[part, hybrid[1]]).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(found(&[part]).as_deref(), Some("/run/x"));
        assert_eq!(found(&[hybrid[0], hybrid[2]]), None);
    }
}
