//! DNS answers of the cluster's zone: Kubernetes DNS-Based Service Discovery 1.1.0.
//!
//! Flow: [`weft_model::Snapshot`] → [`DnsIndex::build`] (once a snapshot) → [`answer`] (once a
//! query: bytes in, bytes out).
//!
//! | name under the zone | answer |
//! |---|---|
//! | `<service>.<ns>.svc` | A, AAAA: cluster IPs, or ready endpoints where headless; CNAME: ExternalName |
//! | `_<port>._<protocol>.<service>.<ns>.svc` | SRV for each named port (and endpoint, where headless) |
//! | `<hostname>.<service>.<ns>.svc` | A, AAAA of that endpoint of a headless Service |
//! | `10-244-1-5.<ns>.pod` | that address, where it is one of the cluster |
//! | `dns-version` | TXT "1.1.0" |
//! | `ns.dns` | A, AAAA: the cluster's DNS Service |
//! | the zone itself | SOA, NS |
//! | reverse names | PTR for cluster IPs and for endpoints of headless Services |
//!
//! Invariants:
//! - An answer depends on the snapshot and the query alone: no clock, no cache, no chance.
//! - NXDOMAIN only where nothing exists at the name *and below it*; a name that exists without
//!   records of the asked type gets an empty answer. Both carry the SOA, with a small TTL.
//! - Any bytes are answered or ignored; none make it panic, and a reply over UDP is never
//!   larger than the client said that it takes.
//! - The question is repeated byte for byte, upper case included (clients check it).
//!
//! This crate knows no sockets and no upstream servers. What is outside the zone is refused and
//! marked ([`Verdict::Outside`]), so that a server with an upstream can ask there instead.
#![forbid(unsafe_code)]

mod answer;
mod index;
mod reverse;
mod wire;
mod zone;

pub use answer::{Verdict, answer};
pub use index::DnsIndex;
pub use wire::{Rcode, Transport};
pub use zone::{Zone, ZoneError};
