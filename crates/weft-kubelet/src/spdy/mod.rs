//! The little of SPDY/3.1 that Kubernetes' streams need: kubectl before 1.31 speaks it for exec
//! and attach, and every kubectl for port-forward (since 1.31 inside a WebSocket).
//!
//! No flow control and no priorities: Kubernetes' own implementation (moby/spdystream) has none.

mod conn;
mod frame;

pub use conn::{Conn, Event, Sink};
