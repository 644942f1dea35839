//! The re-executed helper: everything that happens on the far side of `execve`.

/// Entry of `weft sandbox-init`; returns the exit code. To be called before any thread exists.
pub fn init_main() -> i32 {
    127
}
