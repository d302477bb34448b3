//! `mktun` and `rmtun`: persistent devices for users without privileges. Their output is what scripts around
//! `tunctl` match.

use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::config::{DeviceConfig, LinkLayer, Offload};
use crate::daemon::{group_id, user_id};
use crate::device::Device;

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
        let group = self.group.as_deref().map(group_id).transpose()?;
        let owner = match (&self.user, group) {
            (Some(user), _) => Some(user_id(user)?),
            (None, Some(_)) => None,
            (None, None) => Some(nix::unistd::geteuid().as_raw()),
        };
        let device = Device::open(&device_config(&self.dev, self.dev_type)?, owner, group)?;
        device.persist(true)?;
        let mut line = format!("Set '{}' persistent", device.name());
        if let Some(uid) = owner {
            line.push_str(&format!(" and owned by uid {uid}"));
        }
        if let Some(gid) = group {
            line.push_str(&format!(" gid {gid}"));
        }
        print(&line)
    }
}

impl Rmtun {
    /// Makes the device vanish as soon as nobody is attached to it, which is at once.
    ///
    /// # Errors
    /// There is no such device, or it may not be attached to.
    pub fn run(&self) -> Result<()> {
        let config = device_config(&self.dev, self.dev_type)?;
        if !std::path::Path::new("/sys/class/net").join(&self.dev).exists() {
            bail!("The device {} does not exist: 'ip tuntap' lists those that do", self.dev);
        }
        let device = Device::open(&config, None, None)?;
        device.persist(false)?;
        print(&format!("Set '{}' nonpersistent", device.name()))
    }
}

fn device_config(name: &str, kind: Option<DeviceType>) -> Result<DeviceConfig> {
    let by_name = if name.starts_with("tap") { LinkLayer::Tap } else { LinkLayer::Tun };
    let name = crate::config::device_name(name)?;
    let kind = kind.map_or(by_name, LinkLayer::from);
    Ok(DeviceConfig { name, kind, persist: false, owner: None, group: None, offload: Offload::Off })
}

fn print(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
