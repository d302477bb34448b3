//! Puts the files into a new directory: all of them or nothing.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use super::files::End;

/// Nobody but their owner reads them.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Makes `directory` with a directory for each end. They are written under another name beside it, which they leave when
/// they are complete.
///
/// # Errors
/// There is something of that name that is not an empty directory, or it cannot be made. Nothing is left behind.
pub(super) fn write(directory: &Path, ends: &[End]) -> Result<()> {
    if is_taken(directory) {
        return Err(taken(directory));
    }
    let Some(name) = directory.file_name() else {
        bail!("Cannot make {}: give --output the name of a new directory", directory.display());
    };
    let parent = directory.parent().unwrap_or(Path::new(""));
    let temporary = Temporary::new(parent.join(format!(".simpletun-pair-{:016x}", fastrand::u64(..))))?;
    for end in ends {
        let of_end = temporary.0.join(end.side.name());
        make_directory(&of_end)?;
        for file in &end.files {
            write_file(&of_end.join(&file.name), file.content.as_bytes())?;
        }
    }
    // An empty directory is replaced by it (rename(2)), anything else is not.
    fs::rename(&temporary.0, parent.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            taken(directory)
        }
        _ => anyhow!(error).context(format!("Cannot make {}", directory.display())),
    })
}

fn is_taken(directory: &Path) -> bool {
    let is_empty = || fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    fs::symlink_metadata(directory).is_ok_and(|found| !found.is_dir() || !is_empty())
}

fn taken(directory: &Path) -> anyhow::Error {
    anyhow!(
        "{} exists already, and nothing is overwritten: give --output another directory, or move this one away",
        directory.display()
    )
}

/// Goes with all that is in it, unless it has got another name.
struct Temporary(PathBuf);

impl Temporary {
    fn new(path: PathBuf) -> Result<Self> {
        let made = make_directory(&path);
        made.context("Nothing can be made there; give --output a directory that can be")?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Not there any more if all went well.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(DIRECTORY_MODE).create(path);
    made.with_context(|| format!("Cannot make the directory {}", path.display()))
}

fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().with_context(|| format!("Cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::files::{File, Side};
    use super::*;

    #[test]
    fn a_failure_in_the_middle_leaves_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let file = |name: &str| File { name: name.to_owned(), content: "text".to_owned().into() };
        let end = |side, files| End { side, addresses: Vec::new(), files };
        let ends = [end(Side::Client, vec![file("a")]), end(Side::Server, vec![file("a"), file("missing/b")])];
        let error = write(&place.path().join("new"), &ends).expect_err("one cannot be written");
        assert!(format!("{error:#}").contains("missing/b"), "{error:#}");
        assert_eq!(fs::read_dir(&place).expect("the directory").count(), 0);
    }
}
