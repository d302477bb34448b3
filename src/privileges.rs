//! What the process gives up before the first byte from outside: its user, its capabilities, the way to new ones, and, by
//! the [`sandbox`], most system calls and files.
//!
//! It knows the order in which that works: rights are given up by means of rights. All of it belongs to the thread, so it
//! happens before there is a second one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use log::{debug, info, warn};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};

use crate::config::key_file::SERVICE_USER;
use crate::config::{ConfigError, PrivilegesConfig};
use crate::{helper, memory};

pub mod sandbox;

/// Who the process becomes if nothing was asked for: the first of these that exists. The second one belongs to nobody
/// in particular, which is less than a user of its own and much more than root.
const USUAL_USERS: [&str; 2] = [SERVICE_USER, "nobody"];

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Directories of configuration and keys: a process without a helper reads them again by itself, and each file may be
    /// replaced by a new one.
    pub directories: Vec<PathBuf>,
    /// The text of the configuration, if it was read from something that can be read only once.
    pub text: Option<String>,
}

impl Reach {
    /// Adds the directory of a file.
    pub fn add(&mut self, file: &Path) {
        self.directories.push(match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => file.to_owned(),
        });
    }
}

/// What is going to be given up.
#[derive(Debug)]
pub struct Reduction {
    user: Option<Account>,
    was_asked_for: bool,
    sandbox: bool,
    reach: Reach,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Reduction {
    /// Looks the user up.
    ///
    /// # Errors
    /// There is no such user, or this process may not become another one.
    pub fn new(config: &PrivilegesConfig, reach: Reach) -> Result<Self, ConfigError> {
        let is_root = geteuid().is_root();
        let user = match &config.run_as {
            Some(name) => Some(account(name).ok_or_else(|| unknown(name))?),
            None if is_root => USUAL_USERS.iter().find_map(|name| account(name)),
            None => None,
        };
        if let Some(user) = &user
            && !is_root
            && user.uid != geteuid()
        {
            return Err(ConfigError::Combination(format!(
                "Option run-as cannot make the process the user {}: start it as root or leave run-as out",
                user.name
            )));
        }
        Ok(Self { user, was_asked_for: config.run_as.is_some(), sandbox: config.sandbox, reach })
    }

    /// The text of the configuration, if it could be read only once.
    pub fn text(&self) -> Option<String> {
        self.reach.text.clone()
    }

    /// Whether this process has rights that are needed later and must not stay in it.
    pub fn needs_helper(&self) -> bool {
        geteuid().is_root() || caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false)
    }

    /// Gives everything up and says what is left, in one line. `written` are the directories in which it writes later.
    ///
    /// # Errors
    /// The user that was asked for cannot be become, or something that should be gone is still there.
    pub fn carry_out(&self, written: &[PathBuf]) -> Result<()> {
        prctl::set_no_new_privs().context("Cannot set no-new-privs")?;
        empty_bounding_set(&CapsHashSet::new());
        let user = self.become_user()?;
        keep_only(&CapsHashSet::new())?;
        memory::protect()?;
        let sandbox = if self.sandbox {
            sandbox::enter(&self.paths(written))
        } else {
            "neither seccomp nor Landlock (--no-sandbox)".to_owned()
        };
        let helper = match helper::client() {
            Some(helper) => format!("; the helper process {} keeps the right to configure the network", helper.pid()),
            None => String::new(),
        };
        info!("this process is {user} without capabilities, {sandbox}{helper}");
        Ok(())
    }

    /// Leaves the groups and the user; who it is then.
    fn become_user(&self) -> Result<String> {
        let Some(user) = &self.user else {
            let uid = geteuid();
            if uid.is_root() {
                warn!("There is neither a user simpletun nor nobody: the process stays root, without capabilities");
            }
            return Ok(format!("user {uid}"));
        };
        let changed = if geteuid().is_root() {
            // Root gains nothing by a group, and where it is the only user it may not leave one.
            setgroups(&[])
                .or_else(|errno| if user.uid.is_root() { Ok(()) } else { Err(errno) })
                .and_then(|()| setresgid(user.gid, user.gid, user.gid))
                .and_then(|()| setresuid(user.uid, user.uid, user.uid))
        } else {
            Ok(())
        };
        match changed {
            Ok(()) => Ok(format!("user {} ({})", user.name, user.uid)),
            Err(errno) if self.was_asked_for => bail!("Cannot become the user {} of --run-as: {errno}", user.name),
            // In a user namespace that has no other user.
            Err(errno) => {
                warn!("Cannot become the user {}: {errno}; the process stays root, without capabilities", user.name);
                Ok(format!("user {}", geteuid()))
            }
        }
    }

    fn paths(&self, written: &[PathBuf]) -> sandbox::Paths {
        // What the helper reads this process need not.
        let read = if helper::client().is_some() { Vec::new() } else { self.reach.directories.clone() };
        sandbox::Paths { read, write: written.to_vec() }
    }
}

/// Gives up all capabilities but these, in all sets, and the way to others.
///
/// # Errors
/// The kernel refuses, or one is still there.
pub fn keep_only(kept: &CapsHashSet) -> Result<()> {
    prctl::set_no_new_privs().context("Cannot set no-new-privs")?;
    empty_bounding_set(kept);
    let held = caps::read(None, CapSet::Permitted)?;
    let kept = kept.intersection(&held).copied().collect();
    // Kernels before 4.3 have no ambient set.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable).context("Cannot give up inheritable capabilities")?;
    caps::set(None, CapSet::Effective, &kept).context("Cannot give up effective capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("Cannot give up permitted capabilities")?;
    if caps::read(None, CapSet::Permitted)? != kept {
        bail!("Cannot give up all capabilities: the kernel has kept some");
    }
    Ok(())
}

/// Without `CAP_SETPCAP` it stays as it is, which no-new-privs makes good for.
fn empty_bounding_set(kept: &CapsHashSet) {
    for capability in caps::all() {
        if !kept.contains(&capability)
            && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false)
            && let Err(error) = caps::drop(None, CapSet::Bounding, capability)
        {
            debug!("the bounding set keeps {capability}: {error}");
            return;
        }
    }
}

/// The user of this name or number. A number that is nobody's goes with the group of the same number.
fn account(text: &str) -> Option<Account> {
    let known = |user: User| Account { name: user.name, uid: user.uid, gid: user.gid };
    if let Some(user) = User::from_name(text).ok().flatten() {
        return Some(known(user));
    }
    let number: u32 = text.parse().ok()?;
    let user = User::from_uid(Uid::from_raw(number)).ok().flatten().map(known);
    let unnamed = || Account { name: text.to_owned(), uid: Uid::from_raw(number), gid: Gid::from_raw(number) };
    Some(user.unwrap_or_else(unnamed))
}

fn unknown(name: &str) -> ConfigError {
    ConfigError::Value {
        option: "run-as",
        value: name.to_owned(),
        problem: format!(
            "there is no such user; systemd-sysusers makes simpletun where the package is installed, 'useradd --system \
             {name}' makes it by hand"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_and_a_missing_one_is_told_how_to_make() {
        assert_eq!(account("root").unwrap().uid, Uid::from_raw(0));
        assert_eq!(account("0").unwrap().name, "root");
        let unnamed = account("3999999999").unwrap();
        assert_eq!((unnamed.uid.as_raw(), unnamed.gid.as_raw()), (3_999_999_999, 3_999_999_999));
        let config = PrivilegesConfig { run_as: Some("no-such-user".to_owned()), sandbox: true };
        let error = Reduction::new(&config, Reach::default()).unwrap_err().to_string();
        assert!(error.contains("systemd-sysusers") && error.contains("useradd"), "{error}");
    }
}
