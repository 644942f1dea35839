//! Errors of the lab's commands: one clear sentence each.

/// What went wrong, in the words that the user sees.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The request itself is wrong; the text names object, field and remedy.
    #[error("{0}")]
    Input(String),
    /// A lab of this name is already running.
    #[error(
        "lab '{0}' is already running: use `weft lab down --name {0}` first, or another --name"
    )]
    Running(String),
    /// There is no such lab.
    #[error("there is no lab '{0}': start one with `weft lab up --name {0}`")]
    Absent(String),
    /// Not root.
    #[error("weft lab {0} needs root (namespaces, cgroups and eBPF): run it with sudo")]
    NotRoot(&'static str),
}

impl LabError {
    /// Bad input in words.
    pub fn input(text: impl Into<String>) -> Self {
        Self::Input(text.into())
    }
}
