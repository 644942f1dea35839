//! CNI errors: JSON on stdout and a non-zero exit status (CNI spec, section 5, "Error").

use serde::{Deserialize, Serialize};

/// Well-known error codes of the CNI specification.
pub mod code {
    /// The configuration's `cniVersion` is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// I/O failure.
    pub const IO: u32 = 5;
    /// Content could not be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A passing condition; the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD requests.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Weft: no free address in the node's pod CIDRs.
    pub const NO_ADDRESS: u32 = 100;
    /// Weft: the pod's network could not be set up.
    pub const SETUP_FAILED: u32 = 101;
    /// Weft: CHECK found a difference.
    pub const CHECK_FAILED: u32 = 102;
    /// Weft: another pod of the node has the host port.
    pub const PORT_TAKEN: u32 = 103;
}

/// The error structure of the CNI specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!(": {details}") })]
#[serde(rename_all = "camelCase")]
pub struct CniError {
    /// Version of the error format; set by the plugin when it prints.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cni_version: String,
    /// One of [`code`], or 100 and above for Weft's own.
    pub code: u32,
    /// A short sentence.
    pub msg: String,
    /// More, where there is more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with a short message and details.
    pub fn new(code: u32, msg: impl Into<String>, details: impl ToString) -> Self {
        Self { cni_version: String::new(), code, msg: msg.into(), details: details.to_string() }
    }
}
