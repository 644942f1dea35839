//! The stand-in: a small server in place of an image that is not there.
//!
//! ```text
//! TCP accept → first bytes → TLS (then again) | HTTP/2 → gRPC health, gRPC echo, JSON
//!                          | HTTP/1 → JSON    | Redis → PONG
//!                          | anything else, or silence → one identity line
//! UDP datagram → one identity line
//! ```
//!
//! Every answer says who gives it and whom it sees, so that a test of the network can tell both
//! from the answer. Every request is one line on standard output.
//!
//! One thread, one small buffer per connection, and no key before the first TLS client: a lab
//! runs hundreds of these. It knows nothing about Kubernetes but names, and nothing of how it
//! came to run: a [`Config`] is all.
#![forbid(unsafe_code)]

mod config;
mod detect;
mod grpc;
mod http;
mod identity;
mod prefixed;
mod redis;
mod serve;
mod tls;
mod udp;

pub use config::{Config, ENV, Port, Protocol};

/// Entry of `weft stand-in`: reads [`ENV`], serves until SIGTERM; returns the exit code. To be
/// called before any thread exists.
pub fn main() -> i32 {
    let Ok(text) = std::env::var(ENV) else {
        eprintln!("stand-in: {ENV} is not set");
        return 2;
    };
    let config = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("stand-in: {ENV}: {error}");
            return 2;
        }
    };
    match serve::run(config) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("stand-in: {error}");
            1
        }
    }
}
