//! Traffic that proves that a tunnel carries.

use std::fs;
use std::net::IpAddr;
use std::process::Stdio;

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
