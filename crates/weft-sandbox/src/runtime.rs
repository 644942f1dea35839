//! The helper binary that containers are started through.

use crate::{Error, Result};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// Where the re-executed helper comes from. Cheap to clone.
///
/// The binary is held open, so that replacing it on disk does not mix versions.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) helper: Arc<OwnedFd>,
}

impl Runtime {
    /// This very binary: it must call [`crate::init_main`] for its argument `sandbox-init` and
    /// the stand-in for `stand-in`, before it starts any thread.
    pub fn current_exe() -> Result<Runtime> {
        Runtime::with_helper(Path::new("/proc/self/exe"))
    }

    /// Another binary that does so (tests).
    pub fn with_helper(path: &Path) -> Result<Runtime> {
        let file = std::fs::File::open(path).map_err(Error::path("open", path))?;
        Ok(Runtime { helper: Arc::new(file.into()) })
    }
}
