//! `simpletun cleanup`: what the daemon would have done at its end, if it and its helper were killed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::config::{self, ConfigError, Options};
use crate::helper::record;

/// Which tunnel.
#[derive(Clone, Debug, clap::Args)]
pub struct Cleanup {
    /// Name of the device
    #[arg(value_name = "IFNAME", required_unless_present = "config")]
    name: Option<String>,

    /// Take the name from this configuration file
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    config: Option<PathBuf>,
}

impl Cleanup {
    /// Takes back what is left; it is no failure that nothing is.
    ///
    /// # Errors
    /// The tunnel still runs, its record cannot be believed, or the name or the file is wrong (a [`ConfigError`]).
    pub fn run(&self) -> Result<()> {
        let name = match (&self.name, &self.config) {
            (Some(name), _) => name.clone(),
            (None, Some(file)) => Options::from_file(file)?.interface_name().ok_or(ConfigError::NoInterface)?,
            (None, None) => return Err(ConfigError::NoInterface.into()),
        };
        let name = config::device_name(&name)?;
        record::clean_up(&name).context("Cannot take back what was left")?;
        Ok(())
    }
}
