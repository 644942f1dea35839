//! What functions do: the standard ones and Kubernetes' libraries.

pub(crate) mod arith;
pub(crate) mod bytes;
pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod lists;
pub(crate) mod misc;
pub(crate) mod net;
pub(crate) mod quantity;
pub(crate) mod semver;
pub(crate) mod strings;
pub(crate) mod temporal;
pub(crate) mod time;
pub(crate) mod url;
