//! What a running program uses, as the kernel counts it (`proc(5)`).

use std::fs;

/// A line of `/proc/PID/status` in bytes; 0 when there is no such process, or it is not the program
/// yet: until `execve` is through, a child shows the memory of this very process.
fn of_status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("Name:") != Some("lsyncd") {
        return 0;
    }
    let kib = value(field).and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The most memory that it ever held, in bytes.
pub fn height(pid: u32) -> u64 {
    of_status(pid, "VmHWM:")
}
