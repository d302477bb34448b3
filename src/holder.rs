//! Which process holds what another one wants: found in `/proc`, as far as this user may look.

use std::fmt;
use std::fs;

use crate::config::Protocol;

/// A process that holds a device or a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process number.
    pub pid: u32,
    /// The name of its program as the kernel knows it (at most 15 bytes).
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (process {})", self.program, self.pid)
    }
}

/// Finds a process of which `holds` is true.
pub fn find(holds: impl Fn(u32) -> bool) -> Option<Holder> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| holds(*pid)).map(|pid| {
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, program: program.trim().to_owned() }
    })
}

/// Finds a process with a socket that is bound to this port, in this network namespace.
pub fn of_port(protocol: Protocol, port: u16) -> Option<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let texts = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let sockets: Vec<String> = texts.flat_map(|text| sockets_of(&text, port)).collect();
    find(|pid| has_one(pid, &sockets))
}

/// What the links in `/proc/PID/fd` of the sockets at this port point to.
fn sockets_of(table: &str, port: u16) -> Vec<String> {
    // Behind the line's number: local and remote address, state, two queues, a timer, retransmissions, user, timeout,
    // inode (proc_net_tcp.txt).
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let matching = rows.filter_map(|row| {
        let (_, found) = row.get(1)?.rsplit_once(':')?;
        let inode = row.get(9).filter(|inode| **inode != "0")?;
        (u16::from_str_radix(found, 16).ok()? == port).then(|| format!("socket:[{inode}]"))
    });
    matching.collect()
}

fn has_one(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_their_local_port_alone() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 00000000:D903 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n   \
                     1: 0100007F:0016 0100007F:D903 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n   \
                     2: 0100007F:D903 0100007F:0016 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0\nx y\n";
        assert_eq!(sockets_of(table, 55555), ["socket:[4711]"]);
        assert_eq!(sockets_of(table, 80), [] as [String; 0]);
        assert_eq!(sockets_of("", 80), [] as [String; 0]);
    }

    #[test]
    fn this_process_is_found_by_its_port() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let port = socket.local_addr().expect("an address").port();
        let holder = of_port(Protocol::Udp, port).expect("this process");
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(of_port(Protocol::Tcp, port).filter(|holder| holder.pid == std::process::id()), None);
    }
}
