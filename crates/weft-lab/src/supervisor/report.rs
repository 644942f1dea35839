//! Tells the waiting `weft lab up` how it went.

#![allow(unsafe_code)] // JUSTIFICATION: the descriptor number arrives through the environment.

use std::{
    fs::File,
    io::Write,
    os::fd::{FromRawFd, OwnedFd},
    sync::{Arc, Mutex},
};

use crate::up::REPORT_FD;

/// The pipe to `up`; used once.
#[derive(Clone)]
pub struct Report(Arc<Mutex<Option<File>>>);

impl Report {
    /// Takes the descriptor named by the environment. Must be called before other threads
    /// or descriptors exist.
    pub fn from_environment() -> Self {
        let number = std::env::var(REPORT_FD).ok().and_then(|n| n.parse::<i32>().ok());
        let file = number.filter(|n| *n > 2).map(|n| {
            // SAFETY: `up` opened this descriptor for us alone and said its number; nothing
            // else in this process has been given it.
            let fd = unsafe { OwnedFd::from_raw_fd(n) };
            let _ = nix::fcntl::fcntl(
                &fd,
                nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
            );
            File::from(fd)
        });
        Self(Arc::new(Mutex::new(file)))
    }

    /// The lab is ready.
    pub fn ready(&self) {
        self.say("ready \n");
    }

    /// It will not be.
    pub fn failed(&self, why: &anyhow::Error) {
        self.say(&format!("failed {why:#}"));
    }

    fn say(&self, text: &str) {
        let file = self.0.lock().ok().and_then(|mut f| f.take());
        if let Some(mut file) = file {
            // `up` may have been interrupted: then nobody waits.
            let _ = file.write_all(text.as_bytes());
        }
    }
}
