//! The configuration and the files of the keys: right, and readable for the user whom the daemon runs as.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::subject::{Account, Subject, service_user};
use super::{Finding, Verdict};
use crate::config::{ConfigError, KeyFileError, Options, Security};

const SETTINGS: &str = "configuration";
const KEYS: &str = "keys";

/// The file cannot be used.
pub fn unusable(subject: &Subject, error: &ConfigError) -> Finding {
    let file = subject.file.as_ref().map(|file| quoted(file)).unwrap_or_default();
    match error {
        ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let name = subject.name.as_deref().unwrap_or("NAME");
            Finding::fault(SETTINGS, format!("{file} does not exist"), format!("simpletun pair {name} --server HOST"))
        }
        ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            let found = format!("{} may not read {file}", subject.own.name);
            Finding::fault(SETTINGS, found, format!("sudo simpletun doctor {}", subject.shown()))
        }
        _ => Finding::fault(
            SETTINGS,
            error.to_string(),
            format!("$EDITOR {file} && simpletun --config {file} --check-config"),
        ),
    }
}

/// The settings are right, and their keys are not.
pub fn bad_keys(subject: &Subject, options: &Options, error: &ConfigError) -> Finding {
    if let Some(unit) = subject.unit.as_ref().filter(|unit| !unit.encrypted.is_empty()) {
        let names = unit.encrypted.join(", ");
        return Finding::note(KEYS, format!("{names}: encrypted by systemd, which alone can look at what is in them"));
    }
    if let ConfigError::KeyFile { source: KeyFileError::Unreadable(source), .. } = error
        && source.kind() == std::io::ErrorKind::PermissionDenied
        && subject.own.uid != 0
    {
        let cure = format!("sudo simpletun doctor {}", subject.shown());
        let found = format!("{error}: {} may not read it", subject.own.name);
        // The service has another user, who may be allowed to.
        let verdict = if subject.unit.is_some() { Verdict::Note } else { Verdict::Fault };
        return Finding { verdict, ..Finding::fault(KEYS, found, cure) };
    }
    let cure = match error {
        ConfigError::KeyFile { option, file, source } => cure_of_file(option, file, source, &subject.account()),
        ConfigError::Key { option, file, .. } => format!("mv {0} {0}.wrong && {1}", word(file), new_key(option, file)),
        ConfigError::Value { .. } => match options.key_files().first() {
            Some(_) => "simpletun pubkey < FILE on the other end prints its key; $EDITOR on this one".to_owned(),
            None => "simpletun genkey > FILE".to_owned(),
        },
        _ => format!("simpletun pair {} --server HOST", subject.name.as_deref().unwrap_or("NAME")),
    };
    Finding::fault(KEYS, error.to_string(), cure)
}

fn cure_of_file(option: &str, file: &str, source: &KeyFileError, account: &Account) -> String {
    let file = word(file);
    match source {
        KeyFileError::Mode { .. } => format!("chmod 600 {file}"),
        KeyFileError::Owner { .. } => format!("chown {} {file}", account.name),
        KeyFileError::Unreadable(error) if error.kind() == std::io::ErrorKind::NotFound => new_key(option, file),
        KeyFileError::Unreadable(_) => format!("ls -l {file}"),
        KeyFileError::NotAFile | KeyFileError::TooLong => {
            format!("mv {file} {file}.wrong && {}", new_key(option, file))
        }
    }
}

/// The command that makes a new one, which the other end needs to know of, too.
fn new_key(option: &str, file: &str) -> String {
    let tool = if option == "private-key-file" { "genkey" } else { "genpsk" };
    format!("(umask 077; simpletun {tool} > {})", word(file))
}

/// Errors show names in quotes; a shell wants some of them so, too, and most not.
fn word(file: &str) -> &str {
    let bare = file.trim_matches('"');
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+@:".contains(character);
    if bare.chars().all(is_plain) { bare } else { file }
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

/// The configuration, as far as it was read.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let (Some(file), Some(_)) = (&subject.file, &subject.config)
        && file.exists()
    {
        let account = subject.account();
        let found = format!("{} is right", quoted(file));
        findings.push(unreadable(SETTINGS, file, &account).unwrap_or_else(|| Finding::ok(SETTINGS, found)));
    }
    findings
}

/// The keys, where they could be used here: the service has to be able to use them, too.
pub fn keys(subject: &Subject) -> Vec<Finding> {
    let (Some(config), Some(options)) = (&subject.config, &subject.options) else { return Vec::new() };
    let account = subject.account();
    let files: Vec<PathBuf> = options.key_files().into_iter().map(PathBuf::from).collect();
    let findings: Vec<Finding> = files.iter().filter_map(|file| unreadable(KEYS, file, &account)).collect();
    if !findings.is_empty() {
        return findings;
    }
    let found = match &config.link.security {
        Security::Plain if options.has_keys() => return findings,
        Security::Plain => return vec![Finding::note(KEYS, "none: this link is neither encrypted nor authenticated")],
        Security::Secret(_) => "the secret is right; it has to be the same on the other end".to_owned(),
        Security::Keys { private, .. } => format!(
            "they are right; the other end has to name {} as its peer's, and to have the other role",
            private.public()
        ),
    };
    vec![Finding::ok(KEYS, found)]
}

/// A file that this user cannot open, by its owner and mode and those of the directories above it.
fn unreadable(check: &'static str, file: &Path, account: &Account) -> Option<Finding> {
    let resolved = file.canonicalize().ok()?;
    let closed = resolved.ancestors().skip(1).find(|directory| !permits(directory, account, 1));
    if let Some(directory) = closed {
        let found = format!("{} may not enter {}, where {} is", account.name, quoted(directory), quoted(file));
        let group = service_user().filter(|user| user == account).map(|user| user.name);
        let cure = match group {
            Some(group) => format!("chgrp {group} {0} && chmod g+x {0}", quoted(directory)),
            None => format!("chmod o+x {}", quoted(directory)),
        };
        return Some(Finding::fault(check, found, cure));
    }
    (!permits(&resolved, account, 4)).then(|| {
        let found = format!("{} may not read {}", account.name, quoted(file));
        Finding::fault(check, found, format!("chown {} {}", account.name, quoted(file)))
    })
}

/// True as well if nobody can tell.
fn permits(path: &Path, account: &Account, bits: u32) -> bool {
    fs::metadata(path).map_or(true, |file| account.may(bits, file.mode(), file.uid(), file.gid()))
}
