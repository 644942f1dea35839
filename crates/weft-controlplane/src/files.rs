//! Writing files that others may read at any moment.

use crate::Error;
use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Writes a file by way of a temporary one beside it, so that a reader sees the old text or
/// the new one, and nobody but those that `mode` lets ever sees either.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&partial);
        let mut f =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        f.write_all(bytes)?;
        fs::rename(&partial, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&partial);
        Error::file("write", path, e)
    })
}
