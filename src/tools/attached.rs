//! A device for the small programs: attached to, or made for as long as the program runs.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use ipnet::IpNet;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::mktun::{DeviceType, device_config};
use crate::config::LinkLayer;
use crate::device::{Device, MAX_PACKET_LEN};

const DEVICE: Token = Token(0);
const SIGNALS: Token = Token(1);

/// Packets after which a signal is looked for, however many more there are.
const TURN: u32 = 64;

/// Which device, and how it is set up.
#[derive(Clone, Debug, Args)]
pub struct Attach {
    /// Name of the device; it is made for the time being if it is not there
    #[arg(short, long, value_name = "DEVICE")]
    interface: String,
    /// Kind of device [default: that of the device, else from the name, else tun]
    #[arg(long, value_name = "KIND")]
    dev_type: Option<DeviceType>,
    /// Give the device this address, such as 10.0.0.1/24, and set it up (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpNet>,
}

/// A device, and the signals that end the program.
pub struct Attached {
    device: Device,
    poll: Poll,
    events: Events,
    signals: Signals,
    buffer: Vec<u8>,
    readable: bool,
    /// Packets since the last look for signals.
    taken: u32,
    asked_to_end: bool,
}

impl Attach {
    /// Attaches to the device.
    ///
    /// # Errors
    /// It may not be attached to, made or set up.
    pub fn open(&self) -> Result<Attached> {
        let config = device_config(&self.interface, self.dev_type)?;
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let device = Device::open(&config, None, None)?;
        for address in &self.address {
            device.add_address(address.addr(), None, address.prefix_len())?;
        }
        if device.was_created() || !self.address.is_empty() {
            device.up()?;
        }
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&device.as_raw_fd()), DEVICE, Interest::READABLE)?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let (events, buffer) = (Events::with_capacity(8), vec![0; MAX_PACKET_LEN]);
        Ok(Attached { device, poll, events, signals, buffer, readable: true, taken: 0, asked_to_end: false })
    }
}

impl Attached {
    /// The device's name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Whether packets or frames come.
    pub fn kind(&self) -> LinkLayer {
        self.device.kind()
    }

    /// The hardware address of a tap device.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn hwaddr(&self) -> io::Result<Option<[u8; 6]>> {
        self.device.hwaddr()
    }

    /// Waits for the next packet; none when the program is asked to end.
    ///
    /// # Errors
    /// The device is gone.
    pub fn next_packet(&mut self) -> Result<Option<&[u8]>> {
        loop {
            if !self.readable || self.taken >= TURN {
                self.wait()?;
            }
            if self.asked_to_end {
                return Ok(None);
            }
            match self.device.read(&mut self.buffer) {
                Ok(len) => {
                    self.taken += 1;
                    return Ok(Some(self.buffer.get(..len).unwrap_or_default()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(format!("The device {} has ended", self.device.name())),
            }
        }
    }

    fn wait(&mut self) -> Result<()> {
        self.taken = 0;
        match self.poll.poll(&mut self.events, self.readable.then_some(Duration::ZERO)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &self.events {
            self.readable |= event.token() == DEVICE;
        }
        self.asked_to_end |= self.signals.pending().next().is_some();
        Ok(())
    }

    /// Hands a packet to the kernel as if it had come by the device. One that the kernel does not take is lost.
    pub fn answer(&mut self, packet: &[u8]) {
        // As on any network, what is lost is asked for again.
        let _ = self.device.write(packet);
    }
}
