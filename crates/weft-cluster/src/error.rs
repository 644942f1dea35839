//! Errors that end the controllers. A broken user object is never one of them.

use ipnet::IpNet;

/// Why [`crate::run`] gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two pod ranges of one family, or a node mask that does not fit its range.
    #[error("pod CIDR {cidr}: {reason}")]
    PodCidr {
        /// The range that cannot be used.
        cidr: IpNet,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A task of the controllers ended that never ends by itself.
    #[error("the {task} task ended unexpectedly")]
    Ended {
        /// Which one.
        task: &'static str,
    },
}
