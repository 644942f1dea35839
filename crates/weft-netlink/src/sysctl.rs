//! `/proc/sys/net`: the values of the namespace of the thread that opens the file.

use crate::{
    error::{Error, Result},
    netns,
};
use std::{fs, path::Path};

/// Writes `value` to `/proc/sys/<key>` in the calling thread's namespace; `key` has slashes,
/// as in `net/ipv4/ip_forward` (link names may contain dots). Writes only where the value
/// differs: some writes have side effects even when nothing changes.
pub fn write(key: &str, value: &str) -> Result<()> {
    if key.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::Name { name: key.to_owned(), rule: "a sysctl key has no empty parts" });
    }
    let path = Path::new("/proc/sys").join(key);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim_end() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| Error::io("write sysctl", path.display(), e))
}

/// Reads `/proc/sys/<key>` in the calling thread's namespace, without the line end; `None`
/// where it does not exist (IPv6 switched off, link gone).
pub fn read(key: &str) -> Option<String> {
    Some(fs::read_to_string(Path::new("/proc/sys").join(key)).ok()?.trim_end().to_owned())
}

/// Writes several sysctls in the namespace mounted at `netns`.
pub fn write_in(netns: &Path, values: &[(&str, &str)]) -> Result<()> {
    netns::run_in(netns, || values.iter().try_for_each(|(k, v)| write(k, v)))?
}
