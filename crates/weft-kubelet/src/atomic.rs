//! Writes a volume's files so that a reader sees all of the old or all of the new contents:
//! `name -> ..data/name`, `..data -> ..<time>`, the latter replaced by a rename
//! (`pkg/volume/util/atomic_writer.go`).

use crate::error::{Result, file};
use crate::payload::Files;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// Who the files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id on the machine.
    pub uid: u32,
    /// Group id on the machine.
    pub gid: u32,
    /// `fsGroup` is set: the group may read what the owner may.
    pub group: bool,
}

/// Makes `dir` hold exactly `files`. Returns whether anything changed.
pub fn write(dir: &Path, files: &Files, owner: Owner) -> Result<bool> {
    fs::create_dir_all(dir).map_err(file("create", dir))?;
    let data = dir.join("..data");
    let current = fs::read_link(&data).ok();
    if let Some(c) = &current
        && same(&dir.join(c), files)
    {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().as_nanosecond();
    let name = PathBuf::from(format!("..{stamp}"));
    let fresh = dir.join(&name);
    fs::create_dir(&fresh).map_err(file("create", &fresh))?;
    own(&fresh, 0o755, owner)?;
    for (path, (bytes, mode)) in files {
        let mut parent = fresh.clone();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.exists() {
                fs::create_dir(&parent).map_err(file("create", &parent))?;
                own(&parent, 0o755, owner)?;
            }
        }
        let target = fresh.join(path);
        fs::write(&target, bytes).map_err(file("write", &target))?;
        let group = if owner.group { (mode & 0o700) >> 3 } else { 0 };
        own(&target, mode | group, owner)?;
    }
    let link = dir.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&name, &link).map_err(file("link", &link))?;
    fs::rename(&link, &data).map_err(file("rename", &data))?;
    links(dir, files)?;
    if let Some(old) = current {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

/// One link for every first path component, none for others.
fn links(dir: &Path, files: &Files) -> Result<()> {
    let wanted: BTreeSet<_> =
        files.keys().filter_map(|p| p.components().next()).map(|c| c.as_os_str()).collect();
    for entry in fs::read_dir(dir).map_err(file("read", dir))?.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(name.as_os_str()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    for name in wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link).map_err(file("link", &link))?;
        }
    }
    Ok(())
}

fn own(path: &Path, mode: u32, owner: Owner) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(file("set the mode of", path))?;
    // Without root (tests) the files stay the caller's.
    match chown(path, Some(owner.uid), Some(owner.gid)) {
        Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => {
            Err(file("set the owner of", path)(e))
        }
        _ => Ok(()),
    }
}

fn same(dir: &Path, files: &Files) -> bool {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    count(dir) == files.len()
        && files.iter().all(|(p, (b, _))| fs::read(dir.join(p)).is_ok_and(|have| have == *b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(p, t)| (p.into(), (t.as_bytes().to_vec(), 0o644))).collect()
    }

    #[test]
    fn contents_are_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let me = fs::metadata(dir.path()).unwrap();
        use std::os::unix::fs::MetadataExt;
        let owner = Owner { uid: me.uid(), gid: me.gid(), group: true };
        let v = dir.path().join("v");
        let read = |p: &str| fs::read_to_string(v.join(p)).ok();
        assert!(write(&v, &payload(&[("a", "1"), ("d/e", "2")]), owner).unwrap());
        assert_eq!((read("a"), read("d/e")), (Some("1".into()), Some("2".into())));
        assert_eq!(fs::read_link(v.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(v.join("a")).unwrap().mode() & 0o777, 0o664);
        assert!(!write(&v, &payload(&[("a", "1"), ("d/e", "2")]), owner).unwrap());
        assert!(write(&v, &payload(&[("a", "3"), ("f", "4")]), owner).unwrap());
        assert_eq!((read("a"), read("d/e"), read("f")), (Some("3".into()), None, Some("4".into())));
        let left = fs::read_dir(&v).unwrap().count();
        assert_eq!(left, 4, "a, f, ..data and its directory");
    }
}
