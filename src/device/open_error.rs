//! Why a device cannot be opened, in sentences that say what to do.
//!
//! The driver answers with an errno only; what it means depends on the state of the device, which is read from
//! `/sys/class/net` and `/proc` here.

use std::fs;
use std::io;

use nix::libc;

use crate::config::{DeviceConfig, LinkLayer};
use crate::device::holder;

/// `IFF_TUN` in the `tun_flags` attribute.
const TUN_FLAG: u32 = 1;

/// A device cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct DeviceError {
    text: String,
    /// Not a `source()`: the text says all that is in it.
    cause: io::Error,
}

impl DeviceError {
    /// The driver's answer.
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    /// The clone device cannot be opened.
    pub(super) fn clone_device(path: &str, source: io::Error) -> Self {
        let text = match source.raw_os_error() {
            Some(libc::ENOENT) => format!(
                "{path} does not exist: load the driver with 'modprobe tun'; in a container pass the device in \
                 (--device {path}) or make it with 'mkdir -p /dev/net && mknod {path} c 10 200'"
            ),
            Some(libc::EACCES | libc::EPERM) => format!(
                "{path} may not be opened: run as root, allow it with 'chmod 0666 {path}', or in a container allow the \
                 device 10:200"
            ),
            Some(libc::ENODEV | libc::ENXIO) => {
                format!("{path} exists but the kernel has no tun driver: load it with 'modprobe tun'")
            }
            _ => format!("Cannot open {path}: {source}"),
        };
        Self { text, cause: source }
    }

    /// The descriptor cannot be attached to the interface.
    pub(super) fn attach(config: &DeviceConfig, existed: bool, source: io::Error) -> Self {
        let text = match (source.raw_os_error(), existed) {
            (Some(libc::EPERM), true) => not_owner(&config.name),
            (Some(libc::EPERM), false) => format!(
                "The device {0} does not exist and may not be created: run as root, or once as root \
                 'simpletun mktun --dev {0} --dev-type {1} --user {2}'",
                config.name,
                config.kind,
                user_name()
            ),
            (Some(libc::EBUSY), _) => busy(&config.name),
            (Some(libc::EINVAL), true) => wrong_kind(config),
            (Some(libc::EINVAL), false) => {
                format!("The kernel refuses the name {:?} for a device: choose another such as tun0", config.name)
            }
            _ => format!("Cannot attach to the device {}: {source}", config.name),
        };
        Self { text, cause: source }
    }

    /// Offload was insisted on.
    pub(super) fn no_offload(name: &str) -> Self {
        let text =
            format!("The kernel offers no segmentation offload for the device {name}: use --offload auto or off");
        Self { text, cause: io::ErrorKind::Unsupported.into() }
    }

    /// A property of an attached device cannot be set.
    pub(super) fn attached(name: &str, action: &str, source: io::Error) -> Self {
        Self { text: format!("Cannot {action} the device {name}: {source}"), cause: source }
    }
}

/// Reads a numeric attribute of the interface; the driver shows -1 where a property is not set.
pub(super) fn property(name: &str, attribute: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/{attribute}")).ok()?;
    let text = text.trim();
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
}

/// The kind of a device by its flags.
pub(super) fn kind(name: &str) -> Option<LinkLayer> {
    let flags = property(name, "tun_flags")?;
    Some(if flags & TUN_FLAG != 0 { LinkLayer::Tun } else { LinkLayer::Tap })
}

fn not_owner(name: &str) -> String {
    let owner = property(name, "owner").map(|uid| {
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        user.map_or(format!("uid {uid}"), |user| format!("{} (uid {uid})", user.name))
    });
    let group = property(name, "group").map(|gid| {
        let group = nix::unistd::Group::from_gid(gid.into()).ok().flatten();
        group.map_or(format!("gid {gid}"), |group| format!("group {} (gid {gid})", group.name))
    });
    let owners = match (owner, group) {
        (Some(owner), Some(group)) => format!("belongs to {owner} and {group}"),
        (Some(owner), None) | (None, Some(owner)) => format!("belongs to {owner}"),
        (None, None) => "has no owner, so only root may use it".to_owned(),
    };
    format!("The device {name} {owners}: run as that user or as root, or make it again for {}", user_name())
}

fn busy(name: &str) -> String {
    match holder::find(name) {
        Some(holder) => format!(
            "The device {name} is in use by {holder}: end that process or choose another device with --interface"
        ),
        None => format!(
            "The device {name} is in use by another process: end it or choose another device with --interface \
             ('grep -l iff:.{name} /proc/*/fdinfo/*' as root shows which one)"
        ),
    }
}

fn wrong_kind(config: &DeviceConfig) -> String {
    let name = &config.name;
    if std::path::Path::new("/sys/class/net").join(name).join("bridge").exists() {
        return format!(
            "The interface {name} is a bridge: use a tap device (-a) with another name, which joins it with --bridge {name}"
        );
    }
    match (kind(name), config.kind) {
        (None, _) => format!("The interface {name} is no tun or tap device: choose another name with --interface"),
        (Some(LinkLayer::Tun), LinkLayer::Tap) => {
            format!("The device {name} is a tun device: use --tun (-u), or another device for --tap")
        }
        (Some(LinkLayer::Tap), LinkLayer::Tun) => {
            format!("The device {name} is a tap device: use --tap (-a), or another device for --tun")
        }
        (Some(_), _) => format!("The kernel refuses to attach to the device {name}: remove it and make it again"),
    }
}

fn user_name() -> String {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
