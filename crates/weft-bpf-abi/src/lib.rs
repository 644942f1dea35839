//! Layouts shared with the eBPF programs.
