//! The resources that this process has used, for the report.

use std::fs;

/// Clock ticks per second in `/proc` (`USER_HZ` of every x86 Linux).
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of this process, user and system, in milliseconds; 0 when unknown.
pub fn cpu_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The process name, in parentheses, may hold any character, so fields are counted after
    // it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let sum = ticks().unwrap_or(0) + ticks().unwrap_or(0);
    sum * 1_000 / TICKS_PER_SECOND
}

/// Peak resident memory of this process, in bytes; 0 when unknown.
pub fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_something() {
        assert!(super::peak_bytes() > 100_000);
        let mut sum = 0_u64;
        while super::cpu_ms() == 0 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
