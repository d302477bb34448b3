//! Keeps what is in memory out of core files, and away from other processes of the same user.
//!
//! It knows nothing of keys; `main` calls it before the first one is read or made. There is no way back, because what
//! has been in memory once may stay there.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// The process could not be protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cannot keep keys out of core files ({what}: {errno}); without that none is read or made")]
pub struct MemoryError {
    what: &'static str,
    errno: Errno,
}

/// From now on the process leaves no core file, and nobody but root may look into its memory (prctl(2),
/// `PR_SET_DUMPABLE`; ptrace(2)).
///
/// # Errors
/// The kernel refuses either.
pub fn protect() -> Result<(), MemoryError> {
    prctl::set_dumpable(false).map_err(|errno| MemoryError { what: "PR_SET_DUMPABLE", errno })?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|errno| MemoryError { what: "RLIMIT_CORE", errno })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::getrlimit;

    #[test]
    fn a_protected_process_dumps_no_core() {
        protect().expect("nothing forbids it");
        assert_eq!(prctl::get_dumpable(), Ok(false));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
    }
}
