//! The node agent: reconciler, CNI service and DNS server.
pub mod dns;
