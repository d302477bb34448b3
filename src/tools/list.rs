//! `list`: the tun and tap devices that are there, who may attach to them, and who is.

use anyhow::Result;
use clap::Args;
use nix::unistd::{Gid, Group, Uid, User};

use super::mktun::print;
use crate::config::LinkLayer;
use crate::device::holder;
use crate::device::netlink::{Netlink, TunDevice};

/// List tun and tap devices.
#[derive(Clone, Copy, Debug, Args)]
pub struct List {
    /// Only those that stay when nobody is attached
    #[arg(long)]
    persistent: bool,
}

const HEAD: [&str; 8] = ["DEVICE", "KIND", "STATE", "MTU", "OWNER", "GROUP", "PERSISTENT", "ATTACHED"];

impl List {
    /// Prints a table, one device a line.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn run(self) -> Result<()> {
        let mut devices = Netlink::open()?.tun_devices()?;
        devices.retain(|device| device.persistent || !self.persistent);
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(devices.iter().map(row));
        print(&table(&rows))
    }
}

fn row(device: &TunDevice) -> [String; 8] {
    let kind = match device.layer {
        LinkLayer::Tun => "tun",
        LinkLayer::Tap => "tap",
    };
    let queues = if device.multi_queue { ", several queues" } else { "" };
    let user = |uid| User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or(uid.to_string(), |user| user.name);
    let group = |gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or(gid.to_string(), |group| group.name);
    let absent = || "-".to_owned();
    [
        device.link.name.clone(),
        format!("{kind}{queues}"),
        if device.link.is_up { "up" } else { "down" }.to_owned(),
        device.link.mtu.to_string(),
        device.owner.map_or_else(absent, user),
        device.group.map_or_else(absent, group),
        if device.persistent { "yes" } else { "no" }.to_owned(),
        holder::find(&device.link.name).map_or_else(absent, |holder| holder.to_string()),
    ]
}

/// Columns as wide as their widest entry.
fn table(rows: &[[String; 8]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
