//! What every Prometheus client tells of its process, under the names that they agreed on.

use super::text::{Kind, Page};
use std::fs;

/// `USER_HZ`: the unit of times in /proc, 100 on every architecture that Linux has (an ABI).
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what /proc says. What cannot be read is left out.
pub fn write(page: &mut Page) {
    use Kind::{Counter, Gauge};
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the process may hold anything: what follows its last bracket does not.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // proc(5) counts from 1, and the first of these is field 3.
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        page.one(
            "process_cpu_seconds_total",
            Counter,
            "User and system time of this process.",
            (user + system) / TICKS_PER_SECOND,
        );
    }
    if let (Some(started), Some(boot)) = (field(22), boot_time()) {
        page.one(
            "process_start_time_seconds",
            Gauge,
            "When this process started, in Unix time.",
            boot + started / TICKS_PER_SECOND,
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory of this process in RAM.", bytes("VmRSS:")),
        ("process_virtual_memory_bytes", "Address space of this process.", bytes("VmSize:")),
    ] {
        if let Some(value) = value {
            page.one(name, Gauge, help, value);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The folder itself is one of them while it is read.
        let count = open.count().saturating_sub(1);
        page.one("process_open_fds", Gauge, "Open file descriptors of this process.", count);
    }
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}
