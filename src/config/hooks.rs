//! The programs of the administrator: what is run, and how long it may take.

use std::time::Duration;

use super::parse::duration;
use super::{ConfigError, Options, Words};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The administrator's programs: each an argument vector that begins with the program's whole path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HooksConfig {
    /// When the device is configured, before anything is carried.
    pub up: Option<Vec<String>>,
    /// At the end.
    pub down: Option<Vec<String>>,
    /// When the peer is there.
    pub link_up: Option<Vec<String>>,
    /// When the peer is gone.
    pub link_down: Option<Vec<String>>,
    /// How long each may take.
    pub timeout: Duration,
}

impl HooksConfig {
    /// True if no program is ever run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.up, &self.down, &self.link_up, &self.link_down].into_iter().all(Option::is_none)
    }
}

pub(super) fn hooks(options: &Options) -> Result<HooksConfig, ConfigError> {
    let hook = |option, words: &Option<Words>| words.as_ref().map(|words| command(option, words)).transpose();
    Ok(HooksConfig {
        up: hook("hook-up", &options.hook_up)?,
        down: hook("hook-down", &options.hook_down)?,
        link_up: hook("hook-link-up", &options.hook_link_up)?,
        link_down: hook("hook-link-down", &options.hook_link_down)?,
        timeout: duration("hook-timeout", options.hook_timeout.as_ref(), DEFAULT_TIMEOUT)?,
    })
}

/// A program that is found wherever the daemon was started, and arguments that the kernel takes.
fn command(option: &'static str, Words(words): &Words) -> Result<Vec<String>, ConfigError> {
    let shown = words.join(" ");
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        let problem = "name the program by its whole path, such as /etc/simpletun/up.sh; no shell looks for it";
        return Err(ConfigError::value(option, shown, problem));
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(ConfigError::value(option, shown, "it contains a zero byte; leave that out"));
    }
    Ok(words.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config::{Config, KeyFiles};

    fn options(arguments: &[&str]) -> Options {
        let all = ["simpletun", "-i", "t", "-s"].iter().chain(arguments);
        Cli::from_arguments(all.copied()).expect("legal flags").options
    }

    fn config(options: &Options) -> Result<Config, ConfigError> {
        Config::new(options, &|_, _| None, &KeyFiles::from_environment())
    }

    #[test]
    fn a_flag_is_split_into_words_and_a_file_gives_them_one_by_one() {
        let expected = Some(vec!["/bin/x".to_owned(), "a b".to_owned(), "$HOME".to_owned(), String::new()]);
        let by_flag =
            config(&options(&["--hook-link-up", r#"/bin/x "a b" $HOME '' "#])).expect("a legal configuration");
        assert_eq!(by_flag.hooks.link_up, expected);
        assert_eq!(by_flag.hooks.timeout, DEFAULT_TIMEOUT);
        let text = "security = 'plain'\nhook-link-up = ['/bin/x', 'a b', '$HOME', '']\nhook-up = ['/bin/y']\n";
        let in_file = Options::from_toml(text, "t.toml").expect("a legal file");
        assert_eq!(config(&in_file.clone().overlaid_with(options(&[]))).expect("legal").hooks.link_up, expected);
        let both = in_file.overlaid_with(options(&["--hook-up", "/bin/z"]));
        assert_eq!(config(&both).expect("legal").hooks.up, Some(vec!["/bin/z".to_owned()]));
    }

    #[test]
    fn a_program_is_named_by_its_whole_path() {
        for command in ["", "up.sh", "./up.sh", "~/up.sh", "sh -c true"] {
            let mistake = config(&options(&["--hook-up", command])).expect_err("a mistake").to_string();
            assert!(mistake.contains("hook-up") && mistake.contains("whole path"), "{mistake}");
        }
        for time in ["0s", "100ms", "2h", "soon"] {
            let mistake = config(&options(&["--hook-timeout", time])).expect_err("a mistake").to_string();
            assert!(mistake.contains("hook-timeout"), "{mistake}");
        }
        assert!(Cli::from_arguments(["simpletun", "-i", "t", "-s", "--hook-up", "/bin/x 'a"]).is_err());
        for text in ["hook-up = '/bin/x'\n", "hook-up = [1]\n", "hook-up = [['/bin/x']]\n"] {
            assert!(Options::from_toml(&format!("security = 'plain'\n{text}"), "t.toml").is_err(), "{text}");
        }
    }
}
