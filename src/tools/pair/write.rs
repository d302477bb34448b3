//! Puts files into the file system, all of them or nothing: those of both ends into a new directory, or those of one end
//! into the directory of configurations.
//!
//! They are written under a hidden name beside their place, in a directory that is locked as long as its writer lives, so
//! that one whose writer was killed is known, and removed by the next.

use std::fs::{self, DirBuilder, File as Opened, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{User, geteuid};

use super::files::{End, File};
use super::wire::Interrupt;

/// Nobody but their owner reads them.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// How the hidden names begin, before 16 digits.
const HIDDEN: &str = ".simpletun-pair-";
const DIGITS: usize = 16;

/// Makes `directory` with a directory for each end. They are written under another name beside it, which they leave when
/// they are complete.
///
/// # Errors
/// There is something of that name that is not an empty directory, it cannot be made, or there was a signal. Nothing is
/// left behind.
pub(super) fn write(directory: &Path, ends: &[End], interrupt: &Interrupt) -> Result<()> {
    if is_taken(directory) {
        return Err(taken(directory));
    }
    let Some(name) = directory.file_name() else {
        bail!("Cannot make {}: give --output the name of a new directory", directory.display());
    };
    let parent = directory.parent().unwrap_or(Path::new(""));
    let temporary = Temporary::new(parent);
    let temporary = temporary.context("Nothing can be made there; give --output a directory that can be")?;
    for end in ends {
        let of_end = temporary.path.join(end.side.name());
        make_directory(&of_end)?;
        for file in &end.files {
            write_file(&of_end.join(&file.name), file.content.as_bytes())?;
        }
    }
    interrupt.check()?;
    // An empty directory is replaced by it (rename(2)), anything else is not.
    fs::rename(&temporary.path, parent.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            taken(directory)
        }
        _ => anyhow!(error).context(format!("Cannot make {}", directory.display())),
    })
}

/// Files that were put into place.
pub(super) struct Installed(Vec<PathBuf>);

impl Installed {
    /// Removes them; says which could not be.
    pub(super) fn remove(self) -> Vec<String> {
        let remove = |path: &PathBuf| fs::remove_file(path).err().map(|error| format!("{}: {error}", path.display()));
        self.0.iter().rev().filter_map(remove).collect()
    }
}

/// Puts the files into `directory`, as those of `user`. The first of them, which names the others, comes last.
///
/// # Errors
/// One of them exists already or cannot be made. Nothing is left behind.
pub(super) fn install(directory: &Path, files: &[File], user: &str) -> Result<Installed> {
    let user = User::from_name(user)?.with_context(|| format!("there is no user {user}"))?;
    let temporary = Temporary::new(directory)?;
    let mut installed = Installed(Vec::new());
    for file in files.iter().rev() {
        let (hidden, place) = (temporary.path.join(&file.name), directory.join(&file.name));
        let put = || -> Result<()> {
            write_file(&hidden, file.content.as_bytes())?;
            std::os::unix::fs::chown(&hidden, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            // Other than a new name for the file, a link replaces nothing (link(2)).
            fs::hard_link(&hidden, &place)?;
            Ok(())
        };
        if let Err(error) = put() {
            installed.remove();
            return Err(error.context(format!("cannot put {} into place", place.display())));
        }
        installed.0.push(place);
    }
    Ok(installed)
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

/// A hidden directory. It goes with all that is in it, unless it has got another name.
struct Temporary {
    path: PathBuf,
    _directory: Flock<Opened>,
}

impl Temporary {
    fn new(parent: &Path) -> Result<Self> {
        remove_abandoned(parent);
        let path = parent.join(format!("{HIDDEN}{:016x}", fastrand::u64(..)));
        let made = make_directory(&path).and_then(|()| locked(Opened::open(&path)?).context("It cannot be locked"));
        match made {
            Ok(directory) => Ok(Self { path, _directory: directory }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Not there any more if all went well.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what earlier runs of this user have left because they were killed. It is a courtesy: what cannot be removed
/// stays.
fn remove_abandoned(parent: &Path) {
    let parent = if parent == Path::new("") { Path::new(".") } else { parent };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(HIDDEN)).unwrap_or_default();
        if digits.len() == DIGITS
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
            && is_abandoned(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory of ours that nobody has locked.
fn is_abandoned(path: &Path) -> bool {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let Ok(directory) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return false };
    let is_ours = directory.metadata().is_ok_and(|metadata| metadata.uid() == geteuid().as_raw());
    is_ours && locked(directory).is_some()
}

/// None if somebody else has locked it.
fn locked(directory: Opened) -> Option<Flock<Opened>> {
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()
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
    use super::super::files::Side;
    use super::*;

    fn file(name: &str) -> File {
        File { name: name.to_owned(), content: "text".to_owned().into() }
    }

    fn ends(last: &str) -> [End; 2] {
        let end = |side, files| End { side, addresses: Vec::new(), files };
        [end(Side::Client, vec![file("a")]), end(Side::Server, vec![file("a"), file(last)])]
    }

    fn names(place: &Path) -> Vec<String> {
        let entries = fs::read_dir(place).expect("the directory").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failure_in_the_middle_leaves_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let error = write(&place.path().join("new"), &ends("missing/b"), &Interrupt::default());
        let error = error.expect_err("one cannot be written");
        assert!(format!("{error:#}").contains("missing/b"), "{error:#}");
        assert_eq!(names(place.path()), [""; 0]);
    }

    #[test]
    fn a_signal_leaves_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let error = write(&place.path().join("new"), &ends("b"), &Interrupt::raised()).expect_err("there was a signal");
        assert_eq!(format!("{error:#}"), "Interrupted");
        assert_eq!(names(place.path()), [""; 0]);
    }

    #[test]
    fn what_a_killed_run_has_left_goes_with_the_next_one_and_nothing_else_does() {
        let place = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            fs::create_dir(place.path().join(name)).expect("make a directory");
            fs::write(place.path().join(name).join("key"), "key").expect("write");
        };
        make(".simpletun-pair-0123456789abcdef");
        make(".simpletun-pair-1111111111111111");
        make(".simpletun-pair-mine");
        make("aim");
        std::os::unix::fs::symlink("aim", place.path().join(".simpletun-pair-2222222222222222")).expect("link");
        let alive = Opened::open(place.path().join(".simpletun-pair-1111111111111111")).expect("open");
        let _alive = locked(alive).expect("lock");
        write(&place.path().join("new"), &ends("b"), &Interrupt::default()).expect("there is room");
        let left = [
            ".simpletun-pair-1111111111111111",
            ".simpletun-pair-2222222222222222",
            ".simpletun-pair-mine",
            "aim",
            "new",
        ];
        assert_eq!(names(place.path()), left);
        assert_eq!(names(&place.path().join("aim")), ["key"]);
    }

    #[test]
    fn files_are_put_into_place_together_or_not_at_all() {
        let place = tempfile::tempdir().expect("a directory");
        let user = User::from_uid(geteuid()).expect("accounts").expect("an account").name;
        let files = [file("a.toml"), file("a.key"), file("a.psk")];
        fs::write(place.path().join("a.key"), "precious").expect("write");
        assert!(install(place.path(), &files, &user).is_err());
        assert_eq!(names(place.path()), ["a.key"]);
        fs::remove_file(place.path().join("a.key")).expect("remove");
        let installed = install(place.path(), &files, &user).expect("the place is free");
        assert_eq!(names(place.path()), ["a.key", "a.psk", "a.toml"]);
        assert_eq!(installed.remove(), [""; 0]);
        assert_eq!(names(place.path()), [""; 0]);
    }
}
