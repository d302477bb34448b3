//! `dump`: says what comes out of a device, as the reader of the tun/tap tutorial does, and more if wanted; or what crosses a
//! running tunnel, which goes on.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

use super::attached::Attach;
use super::status::ask;
use crate::config::LinkLayer;
use crate::control::capture::Record;
use crate::device::MAX_PACKET_LEN;

mod decode;
mod live;

use live::Live;

/// Say what crosses a running tunnel, or what the kernel sends into a device.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A running tunnel is not disturbed: what is not read fast enough is left out, and counted. Only root \
                        and the user of its daemon may.\n\
                        Exit status: 0 ended as asked, 1 no such tunnel or device, not permitted, or it has ended."
)]
pub struct Dump {
    /// The tunnel: the name of its configuration file or device, or the path of its control socket [default: the only
    /// one]
    #[arg(value_name = "NAME", conflicts_with = "interface")]
    name: Option<String>,
    #[command(flatten)]
    attach: Option<Attach>,
    /// Say what is in each packet
    #[arg(short, long)]
    verbose: bool,
    /// Write the packets to this file, for tcpdump and Wireshark; - is standard output, which says nothing else then
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Write so many bytes of each packet at most
    #[arg(long, value_name = "BYTES", requires = "pcap", value_parser = clap::value_parser!(u16).range(1..))]
    snap: Option<u16>,
    /// End after so many packets
    #[arg(short = 'n', long, value_name = "NUMBER")]
    count: Option<u64>,
}

type Capture = PcapWriter<Box<dyn Write>>;

/// A packet, and where it was seen.
struct Seen<'a> {
    /// What is said of it before its length: `Read`, `out` or `in`.
    word: &'a str,
    /// What is said behind its length.
    place: &'a str,
    time: Duration,
    len: u32,
    /// As much of it as there is.
    bytes: &'a [u8],
}

/// Whether there is somebody to say more to.
enum Reader {
    Listens,
    HasGone,
}

impl Dump {
    /// Runs until it is asked to end, the packets are counted, or nobody reads what it says.
    ///
    /// # Errors
    /// The device cannot be attached to or has ended; the tunnel does not run, does not tell, or has ended; the file cannot be
    /// written.
    pub fn run(&self) -> Result<()> {
        match &self.attach {
            Some(attach) => self.device(attach),
            None => self.tunnel(),
        }
    }

    fn device(&self, attach: &Attach) -> Result<()> {
        let mut attached = attach.open()?;
        let (kind, place) = (attached.kind(), format!(" from device {}", attached.name()));
        let mut capture = self.capture(kind)?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0
            && let Some(bytes) = attached.next_packet()?
        {
            left -= 1;
            let seen = Seen { word: "Read", place: &place, time: since_1970(), len: bytes.len() as u32, bytes };
            if let Reader::HasGone = self.handle(&mut capture, kind, &seen)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn tunnel(&self) -> Result<()> {
        let snap = match (self.verbose, &self.pcap) {
            (true, _) => MAX_PACKET_LEN,
            (false, Some(_)) => self.snap(),
            (false, None) => 0,
        };
        let mut live = Live::open(ask::only(self.name.as_deref())?, snap)?;
        let kind = live.kind();
        let mut capture = self.capture(kind)?;
        let _ = writeln!(io::stderr(), "Watching the packets of device {}", live.device());
        let mut count = 0;
        let result = loop {
            if count >= self.count.unwrap_or(u64::MAX) {
                break Ok(());
            }
            let (direction, time, len, bytes) = match live.next_packet() {
                Ok(Some(Record::Packet { direction, time, len, bytes })) => (direction, time, len, bytes),
                Ok(Some(Record::Lost(_))) => continue,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            count += 1;
            let seen = Seen { word: direction.word(), place: "", time, len, bytes };
            match self.handle(&mut capture, kind, &seen) {
                Ok(Reader::Listens) => {}
                Ok(Reader::HasGone) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let _ = writeln!(io::stderr(), "{count} packets, and {} that were not read fast enough", live.lost());
        result
    }

    /// Bytes of each packet that are written to the file.
    fn snap(&self) -> usize {
        self.snap.map_or(MAX_PACKET_LEN, usize::from)
    }

    fn capture(&self, kind: LinkLayer) -> Result<Option<Capture>> {
        self.pcap.as_ref().map(|path| begin(path, kind, self.snap())).transpose()
    }

    /// Writes and says what is wanted of a packet.
    ///
    /// # Errors
    /// The file cannot be written.
    fn handle(&self, capture: &mut Option<Capture>, kind: LinkLayer, seen: &Seen<'_>) -> Result<Reader> {
        let is_silent = self.pcap.as_ref().is_some_and(|path| is_stdout(path));
        if let Some(capture) = capture {
            let bytes = &seen.bytes[..seen.bytes.len().min(self.snap())];
            let written = capture.write_packet(&PcapPacket::new(seen.time, seen.len, bytes));
            if is_silent && written.is_err() {
                return Ok(Reader::HasGone);
            }
            written.context("Cannot write the packets")?;
        }
        Ok(if is_silent || self.say(kind, seen).is_ok() { Reader::Listens } else { Reader::HasGone })
    }

    /// # Errors
    /// Nobody reads standard output any more.
    fn say(&self, kind: LinkLayer, seen: &Seen<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let Seen { word, place, len, bytes, .. } = seen;
        if self.verbose {
            writeln!(out, "{word} {len} bytes{place}: {}", decode::describe(kind, bytes))
        } else {
            writeln!(out, "{word} {len} bytes{place}")
        }
    }
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens the file. Each packet reaches it at once.
fn begin(path: &Path, kind: LinkLayer, snap: usize) -> Result<Capture> {
    let file: Box<dyn Write> = if is_stdout(path) {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path).with_context(|| format!("Cannot write {}", path.display()))?)
    };
    let datalink = match kind {
        LinkLayer::Tun => DataLink::RAW,
        LinkLayer::Tap => DataLink::ETHERNET,
    };
    let header = PcapHeader { snaplen: snap as u32, datalink, ..PcapHeader::default() };
    PcapWriter::with_header(file, header).with_context(|| format!("Cannot write {}", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "a capture says when each packet was seen")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
