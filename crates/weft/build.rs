//! Linker settings of the binary.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Not position-independent: at every start the loader would write 190,000 addresses into the
    // read-only data, 2.3 MiB of private memory and some milliseconds for each process; and two
    // processes of this binary belong to every container of a lab (shim and stand-in), one more
    // runs for every CNI call. Libraries, heap and stacks stay at random addresses.
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
