//! `dump`: says what comes out of a device, as the reader of the tun/tap tutorial does, and more if wanted.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

use super::attached::Attach;
use crate::config::LinkLayer;
use crate::device::MAX_PACKET_LEN;

mod decode;

/// Say what the kernel sends into a device.
#[derive(Clone, Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    attach: Attach,
    /// Say what is in each packet
    #[arg(short, long)]
    verbose: bool,
    /// Write the packets to this file, for tcpdump and Wireshark; - is standard output, which says nothing else then
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// End after so many packets
    #[arg(short = 'n', long, value_name = "NUMBER")]
    count: Option<u64>,
}

type Capture = PcapWriter<Box<dyn Write>>;

impl Dump {
    /// Runs until it is asked to end, the packets are counted, or nobody reads what it says.
    ///
    /// # Errors
    /// The device cannot be attached to or has ended; the file cannot be written.
    pub fn run(&self) -> Result<()> {
        let mut attached = self.attach.open()?;
        let (name, kind) = (attached.name().to_owned(), attached.kind());
        let mut capture = self.pcap.as_ref().map(|path| begin(path, kind)).transpose()?;
        let is_silent = self.pcap.as_ref().is_some_and(|path| is_stdout(path));
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0
            && let Some(packet) = attached.next_packet()?
        {
            left -= 1;
            if let Some(capture) = &mut capture {
                let len = packet.len() as u32;
                let record = PcapPacket::new(since_1970(), len, packet);
                let written = capture.write_packet(&record);
                if is_silent && written.is_err() {
                    return Ok(());
                }
                written.context("Cannot write the packets")?;
            }
            let spoken = is_silent || self.say(&name, kind, packet).is_ok();
            if !spoken {
                return Ok(());
            }
        }
        Ok(())
    }

    /// # Errors
    /// Nobody reads standard output any more.
    fn say(&self, device: &str, kind: LinkLayer, packet: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.verbose {
            writeln!(out, "Read {} bytes from device {device}: {}", packet.len(), decode::describe(kind, packet))
        } else {
            writeln!(out, "Read {} bytes from device {device}", packet.len())
        }
    }
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens the file. Each packet reaches it at once.
fn begin(path: &Path, kind: LinkLayer) -> Result<Capture> {
    let file: Box<dyn Write> = if is_stdout(path) {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path).with_context(|| format!("Cannot write {}", path.display()))?)
    };
    let datalink = match kind {
        LinkLayer::Tun => DataLink::RAW,
        LinkLayer::Tap => DataLink::ETHERNET,
    };
    let header = PcapHeader { snaplen: MAX_PACKET_LEN as u32, datalink, ..PcapHeader::default() };
    PcapWriter::with_header(file, header).with_context(|| format!("Cannot write {}", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "a capture says when each packet was seen")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
