//! Traffic that proves that a tunnel carries.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use super::lab::Ns;
use super::wait::succeed;

/// Sends `bytes` over a TCP connection from one namespace to `address` in the other; they must arrive unchanged.
#[track_caller]
pub fn transfer(from: &Ns, to: &Ns, address: &str, bytes: usize) {
    const PORT: u16 = 7000;
    let (listen, connect) = match address.parse().expect("an address") {
        IpAddr::V4(_) => (format!("TCP4-LISTEN:{PORT},reuseaddr"), format!("TCP4:{address}:{PORT}")),
        IpAddr::V6(_) => (format!("TCP6-LISTEN:{PORT},reuseaddr"), format!("TCP6:[{address}]:{PORT}")),
    };
    let payload = noise(bytes);
    fs::write("/run/payload", &payload).expect("write the payload");
    let receiver = to
        .command("timeout")
        .args(["60", "socat", "-u", &listen, "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start socat");
    to.wait_for_listener(PORT);
    let sender = from
        .command("timeout")
        .args(["60", "socat", "-u", "OPEN:/run/payload", &format!("{connect},connect-timeout=10")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start socat");
    let received = receiver.wait_with_output().expect("socat ends");
    succeed(sender.wait_with_output().expect("socat ends"), format_args!("sending to {address}"));
    assert_eq!(received.stdout.len(), payload.len(), "{}", String::from_utf8_lossy(&received.stderr));
    assert!(received.stdout == payload, "the bytes that arrived at {address} differ");
}

/// Pings in the background, twenty a second.
pub struct Pinging(Child);

impl Pinging {
    #[track_caller]
    pub fn start(from: &Ns, address: &str) -> Self {
        let mut command = from.command("ping");
        command.args(["-n", "-q", "-i", "0.05", address]).stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().unwrap_or_else(|e| panic!("ping {address}: {e}")))
    }

    /// Ends it; every request has to have been answered but those that were under way. Their number.
    #[track_caller]
    pub fn end(mut self) -> u64 {
        let (sent, answered) = self.count();
        assert!(sent > 0 && sent - answered <= 2, "{answered} of {sent} pings were answered");
        sent
    }

    /// Ends it; how many requests were sent and how many answered.
    #[track_caller]
    pub fn count(&mut self) -> (u64, u64) {
        let status = Command::new("kill").args(["-s", "INT", &self.0.id().to_string()]).status().expect("run kill");
        assert!(status.success(), "ping takes SIGINT");
        let mut summary = String::new();
        let mut stdout = self.0.stdout.take().expect("stdout is piped");
        stdout.read_to_string(&mut summary).expect("ping says how it went");
        let number = |word: &str| {
            let before = summary.split(word).next().and_then(|text| text.split_whitespace().last());
            before.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{word:?} in {summary:?}"))
        };
        (number(" packets transmitted"), number(" received"))
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes without a pattern, the same in every run.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
