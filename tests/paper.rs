//! The manual pages and completions say what there is, and no reader of them complains.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use clap::{Args as _, CommandFactory as _};
use clap_complete::Shell;
use simpletun::cli::Cli;
use simpletun::config::Options;

#[path = "../man/pages.rs"]
mod pages;

const DATE: &str = "2026-01-02";

/// `man simpletun` explains each flag and each command that `--help` shows.
#[test]
fn every_flag_and_command_is_in_the_manual() {
    let page = plain(&pages::daemon(DATE));
    let command = Cli::command();
    let tools = || command.get_subcommands().filter(|tool| !tool.is_hide_set());
    for command in std::iter::once(&command).chain(tools()) {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let Some(flag) = argument.get_long() else { continue };
            assert!(page.contains(&format!("\n--{flag}")) || page.contains(&format!(", --{flag}")), "--{flag}");
        }
    }
    for tool in tools() {
        assert!(page.contains(&format!("simpletun {}", tool.get_name())), "{}", tool.get_name());
    }
    assert!(page.contains(DATE) && page.contains(env!("CARGO_PKG_VERSION")));
}

/// `man simpletun.toml` explains each key that a file may have, apart from those that exist for tests.
#[test]
fn every_key_is_in_the_manual() {
    let page = plain(&pages::file(DATE));
    let command = Options::augment_args(clap::Command::new("file"));
    let hidden =
        command.get_arguments().filter(|argument| argument.is_hide_set()).filter_map(|argument| argument.get_long());
    let (keys, hidden) = (keys(), hidden.map(str::to_owned).collect::<BTreeSet<String>>());
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys.difference(&hidden) {
        assert!(page.contains(&format!("\n{key} = ")), "{key}");
    }
}

/// mandoc finds nothing to complain about, not even style.
#[test]
fn the_pages_are_clean() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in [("simpletun.8", pages::daemon(DATE)), ("simpletun.toml.5", pages::file(DATE))] {
        assert!(!text.lines().any(|line| line.starts_with('@')), "a part of {name} is missing");
        let path = directory.path().join(name);
        fs::write(&path, text).expect("write the page");
        let output = Command::new("mandoc").args(["-T", "lint"]).arg(&path).output().expect("mandoc");
        assert_eq!((output.status.success(), String::from_utf8_lossy(&output.stdout).as_ref()), (true, ""));
    }
}

/// The examples of the manual are configurations that the daemon takes.
#[test]
fn the_examples_of_the_manual_are_taken() {
    let page = pages::file(DATE);
    let examples: Vec<&str> =
        page.split(".EX\n").skip(1).map(|text| text.split(".EE").next().unwrap_or_default()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let text = example.replace("\\(dq", "\"").replace("\\-", "-");
        Options::from_toml(&text, "the example").unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

/// Each shell takes its completions, and they offer the flags.
#[test]
fn the_shells_complete_flags_and_commands() {
    let directory = tempfile::tempdir().expect("a directory");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "simpletun", directory.path()).expect("a file");
    }
    let offered = |program: &str, script: &str| {
        let output = Command::new(program).args(["-c", script]).current_dir(&directory).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let bash = offered(
        "bash",
        "source ./simpletun.bash; COMP_WORDS=(simpletun --secr); COMP_CWORD=1; _simpletun simpletun --secr simpletun; \
         echo ${COMPREPLY[@]}; COMP_WORDS=(simpletun gen); _simpletun simpletun gen simpletun; echo ${COMPREPLY[@]}",
    );
    assert_eq!(bash, "--secret-file\ngenkey genpsk\n");
    let fish = offered("fish", "source ./simpletun.fish; complete -C 'simpletun --secr'; complete -C 'simpletun gen'");
    for word in ["--secret-file", "genkey", "genpsk"] {
        assert!(fish.contains(word), "{fish}");
    }
    let zsh = fs::read_to_string(directory.path().join("_simpletun")).expect("the file");
    assert!(zsh.starts_with("#compdef simpletun") && zsh.contains("--secret-file"));
    offered("zsh", "autoload -Uz compinit; fpath=($PWD $fpath); compinit -u -D; zsh -n _simpletun; whence _simpletun");
}

/// The page as it is read: without the marks of the fonts, `\-` as a dash.
fn plain(page: &str) -> String {
    ["\\fB", "\\fI", "\\fR"].iter().fold(page.replace("\\-", "-"), |text, mark| text.replace(mark, ""))
}

/// The keys that a file may have, from the reader's own message about one that it may not have.
fn keys() -> BTreeSet<String> {
    let error = Options::from_toml("no-such-key = 1", "file").expect_err("an unknown key");
    let text = error.to_string();
    let listed = text.split("expected one of ").nth(1).expect("a list of the keys");
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
