//! Ports and protocols.

use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU16, str::FromStr};

/// Why a port or protocol was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not in 1..=65535.
    #[error("port {0} is out of range: use 1 to 65535")]
    OutOfRange(i64),
    /// Not a protocol that Kubernetes knows.
    #[error("unknown protocol '{0}': use TCP, UDP or SCTP")]
    UnknownProtocol(String),
}

/// A transport port, 1 to 65535, in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port as a number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<i32> for Port {
    type Error = PortError;
    fn try_from(n: i32) -> Result<Self, PortError> {
        u16::try_from(n)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or(PortError::OutOfRange(n.into()))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transport protocol of the Kubernetes API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, protocol number 6.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP, protocol number 17.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP, protocol number 132.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// The number of the protocol in the IP header (IANA).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl FromStr for Protocol {
    type Err = PortError;
    fn from_str(s: &str) -> Result<Self, PortError> {
        match s {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(PortError::UnknownProtocol(other.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
