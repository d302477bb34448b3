//! Ethernet frames as a program with a raw socket sees and sends them, tags and all.

use std::sync::atomic::{AtomicU16, Ordering};

use super::daemon::Daemon;
use super::lab::{Ns, PYTHON};
use super::wait::succeed;

pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Where bridges send the frames of spanning tree.
pub const BRIDGES: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
/// A station that nobody knows: frames for it are flooded.
pub const NOBODY: [u8; 6] = [0x02, 0x5b, 0, 0, 0, 1];

/// All frames that are made here come from stations whose addresses begin so.
const OURS: [u8; 4] = [0x02, 0x5a, 0, 0];

/// The kernel takes a tag out of a frame that it receives and keeps it beside it (packet(7), PACKET_AUXDATA).
const CATCH: &str = "
import socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(263, 8, 1)
s.bind((sys.argv[1], 3))
print('catching', file=sys.stderr, flush=True)
while True:
    frame, more, _, address = s.recvmsg(65536, 64)
    if frame[6:10].hex() != sys.argv[2] or address[2] == socket.PACKET_OUTGOING:
        continue
    for level, kind, data in more:
        status, _, _, _, _, tag, kind = struct.unpack('IIIHHHH', data[:20])
        if status & 16:
            frame = frame[:12] + struct.pack('!HH', kind if status & 64 else 0x8100, tag) + frame[12:]
    print('frame', frame.hex(), file=sys.stderr, flush=True)
";

const SEND: &str = "
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for line in sys.stdin:
    s.send(bytes.fromhex(line))
";

/// A frame of a new station; what stands behind the addresses is given, and padded to the shortest length.
pub fn frame(target: [u8; 6], behind: &[u8]) -> Vec<u8> {
    static STATIONS: AtomicU16 = AtomicU16::new(0);
    let station = STATIONS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut frame = [&target[..], &OURS, &station, behind].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// What a host receives of the frames that are made here.
pub struct Catcher(Daemon);

impl Catcher {
    #[track_caller]
    pub fn new(ns: &Ns, device: &str) -> Self {
        let mut command = ns.command(PYTHON);
        let ours: String = OURS.iter().map(|byte| format!("{byte:02x}")).collect();
        command.args(["-c", CATCH, device, &ours]);
        let catcher = Daemon::spawn(format!("catcher on {device} of {}", ns.label()), command);
        catcher.wait_for("catching");
        Self(catcher)
    }

    /// Waits for this frame, byte for byte.
    #[track_caller]
    pub fn wait_for(&self, frame: &[u8]) {
        self.0.wait_for(&hex(frame));
    }

    pub fn count(&self, frame: &[u8]) -> usize {
        self.0.count(&hex(frame))
    }
}

/// Sends these frames one after the other.
#[track_caller]
pub fn send(ns: &Ns, device: &str, frames: &[Vec<u8>]) {
    let mut command = ns.command(PYTHON);
    let hex: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
    std::fs::write("/run/frames", hex.join("\n")).expect("write the frames");
    let input = std::fs::File::open("/run/frames").expect("the frames");
    let output = command.args(["-c", SEND, device]).stdin(input).output().expect("run python3");
    succeed(output, format_args!("sending {} frames from {}", frames.len(), ns.label()));
}

/// Frames that the device has received so far.
pub fn received(ns: &Ns, device: &str) -> u64 {
    let text = ns.run(&format!("cat /sys/class/net/{device}/statistics/rx_packets"));
    text.trim().parse().expect("a number")
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
