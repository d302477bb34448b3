//! The clock: whether something keeps it right, and whether it is behind what was written already.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Finding;
use super::subject::Subject;
use crate::sys;

const CHECK: &str = "clock";

/// A file may be written by a host whose clock differs a little.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The clock of this host.
pub fn check(subject: &Subject) -> Vec<Finding> {
    #[expect(clippy::disallowed_methods, reason = "the wall clock itself is looked at")]
    let now = SystemTime::now();
    let own = std::env::current_exe().ok();
    let files = subject.file.as_deref().into_iter().chain(own.as_deref());
    let newest = files.filter_map(|file| written(file).map(|time| (file, time))).max_by_key(|(_, time)| *time);
    let behind = newest.and_then(|(file, time)| Some((file, time.duration_since(now).ok()?)));
    vec![judge(behind, sys::is_clock_synchronised().ok())]
}

fn written(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).ok()?.modified().ok()
}

/// `behind` is by how much the clock is behind the time at which a file was written.
fn judge(behind: Option<(&Path, Duration)>, is_synchronised: Option<bool>) -> Finding {
    let set = "timedatectl set-ntp true";
    match (behind.filter(|(_, behind)| *behind > TOLERANCE), is_synchronised) {
        (Some((file, behind)), _) => Finding::warning(
            CHECK,
            format!(
                "the clock is wrong: {} was written {} ahead of it",
                file.display(),
                humantime::format_duration(Duration::from_secs(behind.as_secs()))
            ),
            format!("{set}; or touch {} if the clock is right", shell_words::quote(&file.to_string_lossy())),
        ),
        (None, Some(false)) => Finding::note(CHECK, "nothing keeps the clock right").with_cure(set),
        (None, Some(true)) => Finding::ok(CHECK, "kept right by a time server"),
        (None, None) => Finding::ok(CHECK, "plausible"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::Verdict;

    #[test]
    fn a_clock_behind_a_file_is_wrong_by_more_than_a_minute() {
        let file = Path::new("/etc/simpletun/a.toml");
        let judged = |seconds, synchronised| judge(Some((file, Duration::from_secs(seconds))), synchronised);
        assert_eq!(judged(60, Some(true)).verdict, Verdict::Ok);
        assert_eq!(judged(61, Some(true)).verdict, Verdict::Warning);
        assert_eq!(judged(0, Some(false)).verdict, Verdict::Note);
        assert!(judged(7200, None).found.contains("2h"));
    }
}
