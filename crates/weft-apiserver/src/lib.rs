//! The embedded Kubernetes API: storage, watch, verbs and HTTP.
//!
//! A request flows `http` (path, query, formats, identity) → `verbs` (what the verb means for a
//! kind, on JSON values, with the rules of `weft-kinds`) → `store` (one transaction: guard,
//! allocation, version, journal, watchers) and back as shared bytes. Exceptions: `discovery`
//! answers what there is, `proxy` hands streams to a node's kubelet.
//!
//! Invariants:
//! - Every acknowledged write is in the journal (if there is one) and in every watch that
//!   selects it, in order; a list and the watch from its resourceVersion meet without gap.
//! - No address or port is given to two Services: allocation happens inside the transaction.
//! - A reply that is no success is a `metav1.Status`. Secrets and tokens are never logged.
//! - Whatever bytes arrive: bounded memory, no panic.
//!
//! It knows nothing about what objects mean beyond that: controllers, nodes and the data path
//! are clients like any other. A kind is a row of `weft-kinds`.
#![forbid(unsafe_code)]

mod alloc;
mod aside;
mod auth;
mod config;
mod definitions;
mod discovery;
mod error;
mod fields;
mod http;
mod janitor;
mod lean;
mod metrics;
mod proxy;
mod registry;
mod selector;
mod server;
mod store;
mod tls;
mod verbs;

pub use config::{Config, KubeletSocket, Limits, Token};
pub use error::Error;
pub use http::{ApiBody, InProcess};
pub use server::ApiServer;
pub use store::lock_directory;
pub use tls::{Pki, Tls, kubeconfig, kubeconfig_with_certificate, random_token};
