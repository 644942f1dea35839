//! The kernel's tables, as the stage uses them: so that tests may play them.

use weft_bpf::{PolicyMaps, PolicyObserved, PolicyPod, PolicyRetire, PolicyStep, Result};

/// Numbers from here on are the programs' own.
const BUILT_IN_REASONS: u32 = 0xffff_ff00;

/// Policy in the kernel.
pub trait PolicyKernel: Send {
    /// Does the parts of a step in their order, and begins a generation, which it returns.
    fn apply(&self, step: &PolicyStep) -> Result<u32>;
    /// Stores what holds at links, each at once.
    fn put_pods(&self, pods: &[PolicyPod]) -> Result<()>;
    /// Returns when no program looks at what was replaced before the call.
    fn wait_for_readers(&self);
    /// Removes what nobody refers to.
    fn retire(&self, gone: &PolicyRetire) -> Result<()>;
    /// What is there.
    fn observe(&self) -> Result<PolicyObserved>;
    /// The highest number of a reason that anything was counted under; 0 for none.
    fn reason_max(&self) -> Result<u32>;
}

impl PolicyKernel for PolicyMaps {
    fn apply(&self, step: &PolicyStep) -> Result<u32> {
        self.apply(step)
    }

    fn put_pods(&self, pods: &[PolicyPod]) -> Result<()> {
        self.put_pods(pods)
    }

    fn wait_for_readers(&self) {
        self.wait_for_readers();
    }

    fn retire(&self, gone: &PolicyRetire) -> Result<()> {
        self.retire(gone)
    }

    fn observe(&self) -> Result<PolicyObserved> {
        self.observe()
    }

    fn reason_max(&self) -> Result<u32> {
        let counted = self.reasons()?.into_iter().map(|(number, _)| number);
        Ok(counted.filter(|n| *n < BUILT_IN_REASONS).max().unwrap_or(0))
    }
}
