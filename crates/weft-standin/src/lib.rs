//! The stand-in: a small server in place of an image that is not there.
#![forbid(unsafe_code)]

mod config;

pub use config::{Config, ENV, Port, Protocol};

/// Entry of `weft stand-in`: reads [`ENV`], serves until SIGTERM; returns the exit code.
pub fn main() -> i32 {
    1
}
