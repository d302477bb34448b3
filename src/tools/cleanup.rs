//! `simpletun cleanup`: what the daemon would have done at its end, if it and its helper were killed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::config::{self, Config, ConfigError, ControlChoice, KeyFiles, Options};
use crate::control;
use crate::helper::record;
use crate::transport::resolve;

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
        let (name, config, socket) = match (&self.name, &self.config) {
            (Some(name), _) => (name.clone(), None, control::path_of(&ControlChoice::Usual, name)),
            (None, Some(file)) => {
                let options = Options::from_file(file)?;
                let name = options.interface_name().ok_or(ConfigError::NoInterface)?;
                let config = config_of(options);
                let socket = config.as_ref().and_then(|config| socket_of(file, config));
                (name, config, socket)
            }
            (None, None) => return Err(ConfigError::NoInterface.into()),
        };
        let name = config::device_name(&name)?;
        record::clean_up(&name, config.as_ref()).context("Cannot take back what was left")?;
        // One that somebody listens at stays.
        socket.iter().for_each(|socket| control::remove_dead_socket(socket));
        Ok(())
    }
}

/// What a file asks for. A mistake in it is not told here: whoever starts the tunnel is.
fn config_of(options: Options) -> Option<Config> {
    Config::new(&options.without_protection(), &resolve::service_port, &KeyFiles::from_environment()).ok()
}

/// The control socket of the tunnel of this file.
fn socket_of(file: &Path, config: &Config) -> Option<PathBuf> {
    control::path_of(&config.control.socket, &file.file_stem()?.to_string_lossy())
}
