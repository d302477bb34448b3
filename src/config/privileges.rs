//! What the process gives up once everything is open, as it was asked for.

use super::parse::account;
use super::{ConfigError, Options};

/// What the process gives up once everything is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivilegesConfig {
    /// Name or number of the user that it becomes, if one was asked for.
    pub run_as: Option<String>,
    /// Whether system calls and files are restricted.
    pub sandbox: bool,
}

pub(super) fn privileges(options: &Options) -> Result<PrivilegesConfig, ConfigError> {
    Ok(PrivilegesConfig {
        run_as: options.run_as.as_ref().map(|user| account("run-as", user)).transpose()?,
        sandbox: !options.no_sandbox,
    })
}
