//! `mktun` and `rmtun`: persistent devices for users without privileges. Their output is what scripts around
//! `tunctl` match.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::config::{DeviceConfig, LinkLayer, Offload};
use crate::daemon::{group_id, user_id};
use crate::device::Device;
use crate::device::ioctl::CLONE_DEVICE;
use crate::device::netlink::Netlink;

/// Kind of device on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceType {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

impl From<DeviceType> for LinkLayer {
    fn from(kind: DeviceType) -> Self {
        match kind {
            DeviceType::Tun => Self::Tun,
            DeviceType::Tap => Self::Tap,
        }
    }
}

/// Make a persistent device.
#[derive(Clone, Debug, Args)]
pub struct Mktun {
    /// Name of the device, such as tun3
    #[arg(long, value_name = "DEVICE")]
    dev: String,
    /// Kind of device [default: from the name, else tun]
    #[arg(long, value_name = "KIND")]
    dev_type: Option<DeviceType>,
    /// User who may attach to it [default: who calls, unless a group is given]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Group whose members may attach to it
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// Remove a persistent device.
#[derive(Clone, Debug, Args)]
pub struct Rmtun {
    /// Name of the device
    #[arg(long, value_name = "DEVICE")]
    dev: String,
    /// Kind of device [default: from the name, else tun]
    #[arg(long, value_name = "KIND")]
    dev_type: Option<DeviceType>,
}

impl Mktun {
    /// Makes the device and prints what was made.
    ///
    /// # Errors
    /// The device cannot be made, or owner or group are unknown.
    pub fn run(&self) -> Result<()> {
        let accounts = Accounts::new(self.user.as_deref(), self.group.as_deref())?;
        let device = make(CLONE_DEVICE, &device_config(&self.dev, self.dev_type)?, accounts)?;
        print(&format!("Set '{}' persistent and owned by{accounts}", device.name()))
    }
}

impl Rmtun {
    /// Makes the device vanish as soon as nobody is attached to it, which is at once.
    ///
    /// # Errors
    /// There is no such device, or it may not be attached to.
    pub fn run(&self) -> Result<()> {
        let name = remove(CLONE_DEVICE, &self.dev, self.dev_type)?;
        print(&format!("Set '{name}' nonpersistent"))
    }
}

/// Who may attach to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accounts {
    owner: Option<u32>,
    group: Option<u32>,
}

impl Accounts {
    /// By name or number; who calls owns the device if neither is given.
    ///
    /// # Errors
    /// There is no such user or group.
    pub(super) fn new(user: Option<&str>, group: Option<&str>) -> Result<Self> {
        let group = group.map(group_id).transpose()?;
        let caller = || group.is_none().then(|| nix::unistd::geteuid().as_raw());
        Ok(Self { owner: user.map(user_id).transpose()?.or_else(caller), group })
    }
}

/// ` uid N`, ` gid N` or both, as tunctl prints it.
impl fmt::Display for Accounts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owner.map_or(Ok(()), |uid| write!(formatter, " uid {uid}"))?;
        self.group.map_or(Ok(()), |gid| write!(formatter, " gid {gid}"))
    }
}

/// Makes a device persistent, creating it if it is not there.
pub(super) fn make(clone_device: &str, config: &DeviceConfig, accounts: Accounts) -> Result<Device> {
    let device = Device::open_at(clone_device, config, None, None)?;
    device.set_accounts(accounts.owner, accounts.group)?;
    device.persist(true)?;
    Ok(device)
}

/// Removes a persistent device and returns its name.
pub(super) fn remove(clone_device: &str, name: &str, kind: Option<DeviceType>) -> Result<String> {
    let config = device_config(name, kind)?;
    if Netlink::open()?.link(name).is_err() {
        bail!("The device {name} does not exist: 'ip tuntap' lists those that do");
    }
    let device = Device::open_at(clone_device, &config, None, None)?;
    device.persist(false)?;
    Ok(device.name().to_owned())
}

/// The kind is that of the device if it is there, else what was asked for, else what the name says.
pub(super) fn device_config(name: &str, kind: Option<DeviceType>) -> Result<DeviceConfig> {
    let by_name = if name.starts_with("tap") { LinkLayer::Tap } else { LinkLayer::Tun };
    let name = crate::config::device_name(name)?;
    let kind = kind.map(LinkLayer::from).or_else(|| Device::kind_of(&name)).unwrap_or(by_name);
    Ok(DeviceConfig { name, kind, persist: false, owner: None, group: None, offload: Offload::Off })
}

pub(super) fn print(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
