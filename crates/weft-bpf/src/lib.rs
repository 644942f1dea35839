//! Loader, pins and maps of the eBPF programs.
