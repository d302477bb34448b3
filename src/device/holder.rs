//! Which process holds a tun or tap device: read from `/proc/PID/fdinfo`, where the driver writes `iff:` and the name.

use std::fs;

use crate::holder::{self, Holder};

/// Finds a process that is attached to the device; `None` if there is none that this user may look into.
pub fn find(device: &str) -> Option<Holder> {
    holder::find(|pid| holds(pid, device))
}

fn holds(pid: u32, device: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    descriptors.flatten().any(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| names(&text, device)))
}

fn names(fdinfo: &str, device: &str) -> bool {
    fdinfo.lines().any(|line| line.strip_prefix("iff:").is_some_and(|name| name.trim() == device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_counts() {
        let fdinfo = "pos:\t0\nflags:\t02104002\nmnt_id:\t27\nino:\t9\niff:\ttun3\n";
        assert!(names(fdinfo, "tun3"));
        assert!(!names(fdinfo, "tun"));
        assert!(!names(fdinfo, "tun33"));
        assert!(!names("pos:\t0\n", "tun3"));
    }
}
