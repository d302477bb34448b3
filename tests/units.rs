//! The files for systemd, judged by systemd's own tools. `tests/containers.rs` runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// systemd takes the units without a complaint.
#[test]
fn systemd_finds_no_fault_with_the_units() {
    let directory = units();
    let output = analyze(&directory, &["verify", "--man=no", "simpletun@link.service", "simpletun.target"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""));
}

/// What a tunnel could do to its host if it were taken over is little, by systemd's reckoning from 0 to 10.
#[test]
fn the_exposure_of_the_service_is_low() {
    let directory = units();
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=18", "simpletun@.service"];
    let output = analyze(&directory, &arguments);
    assert!(text(&output).contains("Overall exposure level"), "{}", text(&output));
    assert!(output.status.success(), "{}", text(&output));
}

/// The units as they are shipped, but with a program that is there.
fn units() -> tempfile::TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["simpletun@.service", "simpletun.target"] {
        let unit = fs::read_to_string(source.join(name)).expect("the unit");
        let unit = unit.replace("/usr/bin/simpletun ", concat!(env!("CARGO_BIN_EXE_simpletun"), " "));
        fs::write(directory.path().join(name), unit).expect("write the unit");
    }
    directory
}

fn analyze(directory: &tempfile::TempDir, arguments: &[&str]) -> Output {
    let paths = arguments.iter().map(|argument| {
        let file = directory.path().join(argument);
        if argument.ends_with(".service") || argument.ends_with(".target") { file } else { PathBuf::from(argument) }
    });
    Command::new("systemd-analyze").args(paths).output().expect("systemd-analyze of the package systemd")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}
