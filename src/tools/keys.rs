//! `genkey`, `genpsk` and `pubkey`: keys for people. Each prints one line and nothing else.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::config::key_file::read_key;
use crate::tunnel::keys::{KEY_LEN, KeyError, KeyKind, PrivateKey, SharedSecret};

/// The permission bits of a file that is meant for more than its owner.
const GROUP_AND_OTHERS: u32 = 0o077;

/// Prints a new private key.
///
/// # Errors
/// There is no randomness, or it cannot be written.
pub fn genkey() -> Result<()> {
    print_secret(&PrivateKey::from_bytes(*random()?).to_text())
}

/// Prints a new shared secret.
///
/// # Errors
/// As [`genkey`].
pub fn genpsk() -> Result<()> {
    print_secret(&SharedSecret::from_bytes(*random()?).to_text())
}

/// Prints the public key of the private key on standard input.
///
/// # Errors
/// There is no private key, or it cannot be written.
pub fn pubkey() -> Result<()> {
    const USELESS: &str = "Cannot use standard input";
    let bytes = read_key(&mut io::stdin().lock()).context(USELESS)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::NotText(KeyKind::Private));
    let private = text.and_then(PrivateKey::parse).context(USELESS)?;
    writeln!(io::stdout(), "{}", private.public()).context("Cannot write the key to standard output")
}

/// Bytes of the system's generator.
///
/// # Errors
/// It gives none.
pub(super) fn random() -> Result<Zeroizing<[u8; KEY_LEN]>> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| anyhow!("The system gives no random numbers"))?;
    Ok(bytes)
}

/// Writes the line at once, past the buffer of the standard library, which is not wiped.
fn print_secret(text: &str) -> Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(text.len() + 1));
    line.push_str(text);
    line.push('\n');
    let stdout = io::stdout();
    let mut file = close_to_others(stdout.as_fd()).context("Cannot keep the file on standard output from others")?;
    file.write_all(line.as_bytes()).context("Cannot write the key to standard output")
}

/// A new file of ours on standard output becomes one for us alone, before anything is in it, so that
/// `simpletun genpsk > secret` makes a file that the tunnel takes.
fn close_to_others(stdout: BorrowedFd<'_>) -> io::Result<File> {
    let file = File::from(stdout.try_clone_to_owned()?);
    let metadata = file.metadata()?;
    let is_ours = metadata.is_file() && metadata.uid() == nix::unistd::geteuid().as_raw();
    if is_ours && metadata.len() == 0 && metadata.mode() & GROUP_AND_OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}
