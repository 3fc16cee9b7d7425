//! Memory of this process and of the machine.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use sysinfo::System;

/// The process's peak resident memory so far, in bytes; none where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Memory that this process could still take without swapping, in bytes: the machine's, or what the limit of a container
/// leaves, whichever is less. None where the system does not tell.
pub fn available_memory() -> Option<u64> {
    /// For how long an answer holds: the jobs of a batch ask one after the other.
    const HOLDS: Duration = Duration::from_millis(200);
    static LAST: Mutex<Option<(Instant, Option<u64>)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match *last {
        Some((at, found)) if at.elapsed() < HOLDS => found,
        _ => {
            let found = measured();
            *last = Some((Instant::now(), found));
            found
        }
    }
}

fn measured() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let machine = Some(system.available_memory()).filter(|&bytes| bytes > 0)?;
    // file cache counts towards a container's use but gives way, so what is left is counted from the processes' own memory
    let container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    Some(container.map_or(machine, |bytes| bytes.min(machine)))
}

/// Bytes as people write them: `512 MB`, `1.4 GB` (powers of ten).
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return if value >= 9.95 || unit == "bytes" {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let peak = peak_memory().unwrap();
        assert!(peak > block.len() as u64, "{peak}");
        let available = available_memory().unwrap();
        assert!((1 << 20..1 << 46).contains(&available), "{available}");
    }

    #[test]
    fn bytes_are_readable() {
        let shown = [0, 999, 1000, 1_440_000, 12_345_678, 999_600_000, 38_000_000_000].map(human_bytes);
        assert_eq!(shown, ["0 bytes", "999 bytes", "1.0 kB", "1.4 MB", "12 MB", "1.0 GB", "38 GB"]);
    }
}
