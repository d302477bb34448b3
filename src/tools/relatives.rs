//! The command lines of `tunctl` and of `openvpn --mktun`, for scripts that call them: the program answers to both,
//! with their output to the letter and their exit status, 1 for every failure.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use clap::Parser;

use super::mktun::{Accounts, DeviceType, device_config, make, print, remove};
use crate::device::ioctl::CLONE_DEVICE;
use crate::device::netlink::Netlink;

/// The options of tunctl(8).
#[derive(Clone, Debug, Parser)]
#[command(name = "tunctl", version, about = "Make or remove a persistent tap device", args_override_self = true)]
pub struct Tunctl {
    /// Name of the device to make [default: the kernel picks tapN]
    #[arg(short = 't', value_name = "DEVICE")]
    device: Option<String>,
    /// User who may attach to it [default: who calls, unless a group is given]
    #[arg(short = 'u', value_name = "USER")]
    owner: Option<String>,
    /// Group whose members may attach to it
    #[arg(short = 'g', value_name = "GROUP")]
    group: Option<String>,
    /// Print the device's name and nothing else
    #[arg(short = 'b')]
    brief: bool,
    /// Make a tun device instead of a tap device
    #[arg(short = 'n')]
    tun: bool,
    /// Remove this device, whatever else is given
    #[arg(short = 'd', value_name = "DEVICE")]
    delete: Option<String>,
    /// The clone device
    #[arg(short = 'f', value_name = "PATH", default_value = CLONE_DEVICE)]
    clone_device: String,
}

/// The form in which openvpn(8) makes and removes devices.
#[derive(Clone, Debug, Parser)]
#[command(name = "simpletun", version, about = "Make or remove a persistent device, as openvpn does")]
pub struct OpenVpn {
    /// Make the device
    #[arg(long, conflicts_with = "rmtun", required_unless_present = "rmtun")]
    mktun: bool,
    /// Remove the device
    #[arg(long)]
    rmtun: bool,
    /// Name of the device
    #[arg(long, value_name = "DEVICE")]
    dev: String,
    /// Kind of device [default: from the name]
    #[arg(long, value_name = "KIND")]
    dev_type: Option<DeviceType>,
    /// User who may attach to it [default: who calls, unless a group is given, and not everybody as with openvpn]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Group whose members may attach to it
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// True if the program was called as tunctl.
pub fn is_tunctl(program: Option<&OsString>) -> bool {
    program.is_some_and(|name| Path::new(name).file_name().is_some_and(|name| name == "tunctl"))
}

/// True if the arguments are openvpn's for making or removing a device.
pub fn is_openvpn(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "--mktun" || argument == "--rmtun")
}

impl Tunctl {
    /// Does what was asked for and prints what tunctl would.
    ///
    /// # Errors
    /// The device cannot be made or removed, or owner or group are unknown.
    pub fn run(&self) -> Result<()> {
        let kind = self.tun.then_some(DeviceType::Tun);
        if let Some(name) = &self.delete {
            let name = remove_if_there(&self.clone_device, name, kind)?;
            return print(&format!("Set '{name}' nonpersistent"));
        }
        let accounts = Accounts::new(self.owner.as_deref(), self.group.as_deref())?;
        let pattern = if self.tun { "tun%d" } else { "tap%d" };
        let config = device_config(self.device.as_deref().unwrap_or(pattern), kind.or(Some(DeviceType::Tap)))?;
        let device = make(&self.clone_device, &config, accounts)?;
        if self.brief {
            return print(device.name());
        }
        print(&format!("Set '{}' persistent and owned by{accounts}", device.name()))
    }
}

impl OpenVpn {
    /// Does what was asked for and prints what openvpn would.
    ///
    /// # Errors
    /// The device cannot be made or removed, or owner or group are unknown.
    pub fn run(&self) -> Result<()> {
        let (name, state) = if self.mktun {
            let accounts = Accounts::new(self.user.as_deref(), self.group.as_deref())?;
            let device = make(CLONE_DEVICE, &device_config(pattern(&self.dev), self.dev_type)?, accounts)?;
            (device.name().to_owned(), "ON")
        } else {
            (remove_if_there(CLONE_DEVICE, &self.dev, self.dev_type)?, "OFF")
        };
        print(&format!("TUN/TAP device {name} opened\nPersist state set to: {state}"))
    }
}

/// The names that stand for a number of the kernel's choice.
fn pattern(name: &str) -> &str {
    match name {
        "tun" => "tun%d",
        "tap" => "tap%d",
        name => name,
    }
}

/// To both programs a device that is not there is one that has been removed: they make it first.
fn remove_if_there(clone_device: &str, name: &str, kind: Option<DeviceType>) -> Result<String> {
    if Netlink::open()?.link(name).is_err() {
        return Ok(device_config(name, kind)?.name);
    }
    remove(clone_device, name, kind)
}
