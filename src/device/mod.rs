//! The tun or tap device: opening, reading, writing, and the properties that programs expect of it.
//!
//! There is no trait for devices: [`Device::from_fd`] takes any descriptor that preserves message borders, so
//! that a socket pair can stand in for the real one. This file knows the driver's rules; what is configured on
//! the interface through netlink stands in [`netchange`], how the kernel is asked in [`ioctl`] and [`netlink`].

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use log::{info, warn};
use nix::libc;

use crate::config::{DeviceConfig, LinkLayer, Offload};
use crate::fault::{self, Origin, Severity};
use crate::offload::merge::MAX_GROUP;
use crate::offload::{Capabilities, VIRTIO_HEADER_LEN, VirtioHeader};

pub mod holder;
pub mod ioctl;
pub mod netchange;
pub mod netlink;
pub mod netwatch;
mod open_error;
mod received;

use netchange::{AddressSpec, NetChange, NetConfig, NetError};
use netlink::{Link, Netlink};
pub use open_error::DeviceError;
pub use received::{Form, Received};

/// The longest packet that the wire can carry, in bytes.
pub const MAX_PACKET_LEN: usize = u16::MAX as usize;

/// Room for the header in front of a packet, an Ethernet header, and one byte more than the longest packet, so that a
/// longer one is noticed.
const READ_CAPACITY: usize = VIRTIO_HEADER_LEN + 18 + MAX_PACKET_LEN + 1;

/// Offloads that the kernel is asked for (`TUN_F_*` of `include/uapi/linux/if_tun.h`): checksums and TCP, and UDP, which
/// kernels before 6.2 do not know.
const OFFLOAD_TCP: u32 = 0x01 | 0x02 | 0x04 | 0x08;
const OFFLOAD_UDP: u32 = 0x20 | 0x40;

/// What the caller of [`Device::read_each`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Another packet, if there is one and the budget allows it.
    Continue,
    /// No more for now.
    Stop,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The device has it.
    Written,
    /// The device takes no super-packets of this kind any more: write the packets one by one.
    TakeApart,
    /// It is lost and to be counted.
    Refused(WriteRefusal),
}

/// Why a packet was not written to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRefusal {
    /// The device is down (`EIO`).
    Down,
    /// The kernel does not take this packet (`EINVAL`).
    Invalid,
    /// There is no room or no memory for it now.
    Full,
}

/// An attached tun or tap device. Dropping it closes the descriptor; a device that is not persistent then vanishes.
#[derive(Debug)]
pub struct Device {
    file: File,
    name: String,
    kind: LinkLayer,
    created: bool,
    buffer: Box<[u8]>,
    readable: bool,
    /// A virtio header stands in front of every packet.
    has_header: bool,
    /// Super-packets that the device takes.
    capabilities: Capabilities,
}

impl Device {
    /// Attaches to the device that `config` names, creating it if it does not exist.
    ///
    /// A device with several queues is attached as one of them. An offload mask that an earlier program left on it is
    /// replaced.
    ///
    /// # Errors
    /// Each errno of the driver as its own sentence with the cure; see [`DeviceError`].
    pub fn open(config: &DeviceConfig, owner: Option<u32>, group: Option<u32>) -> Result<Self, DeviceError> {
        Self::open_at(ioctl::CLONE_DEVICE, config, owner, group)
    }

    /// As [`open`](Self::open), through another clone device than `/dev/net/tun`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(
        clone_device: &str,
        config: &DeviceConfig,
        owner: Option<u32>,
        group: Option<u32>,
    ) -> Result<Self, DeviceError> {
        let file =
            ioctl::open_clone_device(clone_device).map_err(|source| DeviceError::clone_device(clone_device, source))?;
        let (name, created) = attach(&file, config)?;
        let has_header = config.offload != Offload::Off;
        let capabilities = switch_offload(&file, has_header)
            .map_err(|source| DeviceError::attached(&name, "set the offloads of", source))?;
        if config.offload == Offload::On && capabilities == Capabilities::NONE {
            return Err(DeviceError::no_offload(&name));
        }
        let mut device = Self::from_fd(OwnedFd::from(file), &name, config.kind);
        (device.created, device.has_header, device.capabilities) = (created, has_header, capabilities);
        if device.created {
            device.set_accounts(owner, group)?;
        } else if owner.is_some() || group.is_some() {
            warn!("The device {name} exists already: its owner and group stay as they are");
        }
        if config.persist {
            device.persist(true).map_err(|source| DeviceError::attached(&name, "make persistent", source))?;
        }
        let action = if device.created { "created" } else { "attached to existing" };
        info!("{action} device {name} ({}), offload {capabilities}", config.kind);
        Ok(device)
    }

    /// Says who may attach to the device from now on.
    ///
    /// # Errors
    /// The user or group does not exist in this user namespace, or the device was deleted.
    pub fn set_accounts(&self, owner: Option<u32>, group: Option<u32>) -> Result<(), DeviceError> {
        let error = |action| move |source| DeviceError::attached(&self.name, action, source);
        if let Some(uid) = owner {
            ioctl::set_owner(&self.file, uid).map_err(error("set the owner of"))?;
        }
        if let Some(gid) = group {
            ioctl::set_group(&self.file, gid).map_err(error("set the group of"))?;
        }
        Ok(())
    }

    /// The kind of an existing device; `None` if there is none of that name, or it is no tun or tap device.
    pub fn kind_of(name: &str) -> Option<LinkLayer> {
        open_error::kind(name)
    }

    /// Takes a descriptor that hands out one packet a read and takes one a write: an attached clone device, or one
    /// end of a socket pair of the type `SOCK_SEQPACKET`. It has to be non-blocking.
    pub fn from_fd(fd: OwnedFd, name: &str, kind: LinkLayer) -> Self {
        Self {
            file: File::from(fd),
            name: name.to_owned(),
            kind,
            created: false,
            buffer: vec![0; READ_CAPACITY].into_boxed_slice(),
            readable: true,
            has_header: false,
            capabilities: Capabilities::NONE,
        }
    }

    /// The kinds of super-packet that the device takes now.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The name that the interface had when it was opened (pytun: `name`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's name now: it may have been renamed since.
    pub fn current_name(&self) -> String {
        ioctl::interface(&self.file).map_or_else(|_| self.name.clone(), |(name, _)| name)
    }

    /// The interface's index, which stays the same when it is renamed.
    ///
    /// # Errors
    /// `ENODEV` if it was deleted.
    pub fn index(&self) -> io::Result<u32> {
        Ok(Netlink::open()?.link(&self.current_name())?.index)
    }

    /// Whether it carries packets or frames.
    pub fn kind(&self) -> LinkLayer {
        self.kind
    }

    /// True if [`open`](Self::open) made the device, false if it was there before.
    pub fn was_created(&self) -> bool {
        self.created
    }

    /// True until a read has found nothing: the one condition that the event loop may sleep on.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Tells that an event has arrived for the descriptor.
    pub fn set_readable(&mut self) {
        self.readable = true;
    }

    /// How what is read from it lies in memory.
    pub fn form(&self) -> Form {
        Form { has_header: self.has_header, kind: self.kind }
    }

    /// Reads up to `budget` packets or super-packets and hands each to `each`. A packet longer than [`MAX_PACKET_LEN`] is
    /// handed out with its excess cut, longer than the wire allows.
    ///
    /// # Errors
    /// Only what ends the device: it was deleted, or the other end of a socket pair was closed.
    pub fn read_each(&mut self, budget: usize, each: &mut dyn FnMut(Received<'_>) -> Flow) -> io::Result<()> {
        let form = self.form();
        for _ in 0..budget {
            match (&self.file).read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let bytes = self.buffer.get_mut(..len).unwrap_or_default();
                    if each(form.received(bytes)) == Flow::Stop {
                        return Ok(());
                    }
                }
                Err(error) => match fault::sort(&error, Origin::Device) {
                    Severity::Retry | Severity::Transient => {}
                    Severity::WouldBlock => {
                        self.readable = false;
                        return Ok(());
                    }
                    Severity::Link | Severity::Fatal => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Writes a packet, or a super-packet as `header` describes it, that consists of `parts`.
    ///
    /// A super-packet that the kernel does not take switches its kind off, with one line in the log.
    ///
    /// # Errors
    /// The device has ended.
    pub fn write_parts(&mut self, header: &VirtioHeader, parts: &[IoSlice<'_>]) -> io::Result<WriteOutcome> {
        let header_bytes = header.to_bytes();
        let mut all = [IoSlice::new(&[]); MAX_GROUP + 1];
        all[0] = IoSlice::new(&header_bytes);
        let count = parts.len().min(MAX_GROUP);
        all[1..=count].copy_from_slice(&parts[..count]);
        let slices = if self.has_header { &all[..=count] } else { &all[1..=count] };
        loop {
            let Err(error) = (&self.file).write_vectored(slices) else { return Ok(WriteOutcome::Written) };
            let refusal = match fault::sort(&error, Origin::Device) {
                Severity::Retry => continue,
                Severity::Link | Severity::Fatal => return Err(error),
                Severity::WouldBlock => WriteRefusal::Full,
                Severity::Transient => match error.raw_os_error() {
                    Some(libc::EIO) => WriteRefusal::Down,
                    Some(libc::EINVAL | libc::EMSGSIZE) => WriteRefusal::Invalid,
                    _ => WriteRefusal::Full,
                },
            };
            return Ok(match header.segmentation {
                Some(segmentation) if refusal == WriteRefusal::Invalid => {
                    // Several groups of one batch may meet the refusal; it is said once.
                    if self.capabilities.remove(segmentation) {
                        let (name, left) = (&self.name, self.capabilities);
                        info!("The device {name} refuses super-packets: offload {left} from here on");
                    }
                    WriteOutcome::TakeApart
                }
                _ => WriteOutcome::Refused(refusal),
            });
        }
    }

    /// Reads one packet into `buffer` and returns its length (pytun: `read`), on a device without offload.
    ///
    /// # Errors
    /// Those of read(2) on the device, `EAGAIN` if there is no packet; `Unsupported` if super-packets may come.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_header { Err(io::ErrorKind::Unsupported.into()) } else { (&self.file).read(buffer) }
    }

    /// Writes one packet (pytun: `write`).
    ///
    /// # Errors
    /// Those of write(2) on the device: `EIO` while it is down, `EINVAL` for what is no packet.
    pub fn write(&mut self, packet: &[u8]) -> io::Result<usize> {
        let header = VirtioHeader::default().to_bytes();
        let parts = [IoSlice::new(&header), IoSlice::new(packet)];
        let len = (&self.file).write_vectored(if self.has_header { &parts } else { &parts[1..] })?;
        Ok(len.min(packet.len()))
    }

    /// Makes the device outlive this descriptor, or not (pytun: `persist`).
    ///
    /// # Errors
    /// `EBADFD` if the device was deleted.
    pub fn persist(&self, persist: bool) -> io::Result<()> {
        ioctl::set_persist(&self.file, persist)
    }

    /// Switches the interface's carrier on or off; it needs no privilege.
    ///
    /// # Errors
    /// `EINVAL` from a kernel before 4.20, `ENOTTY` if it is no device, `EBADFD` if it was deleted.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        ioctl::set_carrier(&self.file, on)
    }

    /// The first address of the interface (pytun: `addr`), its peer (`dstaddr`) and its prefix length (`netmask`).
    ///
    /// # Errors
    /// Those of the netlink request; `ENODEV` if the device was deleted.
    pub fn address(&self) -> io::Result<Option<AddressSpec>> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link(&self.name)?.index;
        let found = netlink.addresses()?.into_iter().find(|address| address.index == index);
        Ok(found.map(|address| AddressSpec {
            local: address.local,
            peer: address.peer,
            prefix_len: address.prefix_len,
        }))
    }

    /// Adds an address (pytun: setting `addr`, `dstaddr` and `netmask`).
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn add_address(&self, local: IpAddr, peer: Option<IpAddr>, prefix_len: u8) -> Result<(), NetError> {
        self.change(&NetChange::Address(AddressSpec { local, peer, prefix_len }))
    }

    /// The MTU in bytes (pytun: `mtu`).
    ///
    /// # Errors
    /// `ENODEV` if the device was deleted.
    pub fn mtu(&self) -> io::Result<u32> {
        Ok(Netlink::open()?.link(&self.current_name())?.mtu)
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// `ENODEV` if the device was deleted.
    pub fn link(&self) -> io::Result<Link> {
        Netlink::open()?.link(&self.current_name())
    }

    /// Sets the MTU in bytes (pytun: setting `mtu`).
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn set_mtu(&self, mtu: u32) -> Result<(), NetError> {
        self.change(&NetChange::Mtu(mtu))
    }

    /// The MAC address; `None` on a tun device (pytun: `hwaddr`).
    ///
    /// # Errors
    /// `ENODEV` if the device was deleted.
    pub fn hwaddr(&self) -> io::Result<Option<[u8; 6]>> {
        Ok(Netlink::open()?.link(&self.name)?.mac)
    }

    /// Sets the MAC address (pytun: setting `hwaddr`).
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn set_hwaddr(&self, mac: [u8; 6]) -> Result<(), NetError> {
        self.change(&NetChange::Mac(mac))
    }

    /// Brings the interface up (pytun: `up`).
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn up(&self) -> Result<(), NetError> {
        self.change(&NetChange::Up)
    }

    /// Takes the interface down (pytun: `down`).
    ///
    /// # Errors
    /// `EPERM` without the right to configure it, `ENODEV` if it was deleted.
    pub fn down(&self) -> io::Result<()> {
        NetConfig::new(&self.name)?.take_down()
    }

    /// Closes the descriptor (pytun: `close`); the same as dropping the device.
    pub fn close(self) {}

    fn change(&self, change: &NetChange) -> Result<(), NetError> {
        let mut config = NetConfig::new(&self.name).map_err(|source| NetError::lookup(&self.name, source))?;
        config.apply(change)?;
        config.forget();
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// pytun: `fileno`.
impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// What stays of the device may be attached to by a program that does not expect super-packets.
impl Drop for Device {
    fn drop(&mut self) {
        if self.has_header {
            // A device that is gone needs nothing.
            let _ = ioctl::set_offload(&self.file, 0);
        }
    }
}

/// Asks for the offloads that the kernel has, and clears what an earlier program has asked for otherwise: the mask and
/// the header's form belong to the device and outlive their user.
fn switch_offload(file: &File, wanted: bool) -> io::Result<Capabilities> {
    if !wanted {
        ioctl::set_offload(file, 0)?;
        return Ok(Capabilities::NONE);
    }
    ioctl::set_header(file, VIRTIO_HEADER_LEN)?;
    let tcp = Capabilities { tcp_v4: true, tcp_v6: true, udp: false };
    if ioctl::set_offload(file, OFFLOAD_TCP | OFFLOAD_UDP).is_ok() {
        return Ok(Capabilities { udp: true, ..tcp });
    }
    if ioctl::set_offload(file, OFFLOAD_TCP).is_ok() {
        return Ok(tcp);
    }
    ioctl::set_offload(file, 0)?;
    Ok(Capabilities::NONE)
}

/// Issues TUNSETIFF with the flags that fit, and says whether that has made the device: first exclusively, which only a
/// new one takes, then as an existing one.
fn attach(file: &File, config: &DeviceConfig) -> Result<(String, bool), DeviceError> {
    let kind = match config.kind {
        LinkLayer::Tun => libc::IFF_TUN,
        LinkLayer::Tap => libc::IFF_TAP,
    };
    let header = if config.offload == Offload::Off { 0 } else { libc::IFF_VNET_HDR };
    let base = kind | header | libc::IFF_NO_PI;
    match ioctl::set_interface(file, &config.name, base | libc::IFF_TUN_EXCL) {
        Ok(name) => return Ok((name, true)),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => return Err(DeviceError::attach(config, false, error)),
    }
    match ioctl::set_interface(file, &config.name, base) {
        Ok(name) => Ok((name, false)),
        // A device with several queues takes only descriptors that know of them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let name = ioctl::set_interface(file, &config.name, base | libc::IFF_MULTI_QUEUE)
                .map_err(|error| DeviceError::attach(config, true, error))?;
            warn_if_open_to_all(&name);
            Ok((name, false))
        }
        Err(error) => Err(DeviceError::attach(config, true, error)),
    }
}

/// A device with several queues and neither owner nor group lets any local user attach a queue of his own and read
/// or inject traffic.
fn warn_if_open_to_all(name: &str) {
    let unset = |property| open_error::property(name, property).is_none();
    if unset("owner") && unset("group") {
        warn!(
            "The device {name} has several queues and no owner: every local user may attach to it; \
             make it again with 'ip tuntap add ... multi_queue user NAME'"
        );
    }
}
