//! What this kernel can do.

/// One feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Short stable name, e.g. `cgroup-connect`.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// One sentence: what it is for, or what is missing.
    pub detail: String,
}

/// Tries the features that the socket load balancer needs. Changes nothing.
pub fn probe() -> Vec<Feature> {
    Vec::new()
}
