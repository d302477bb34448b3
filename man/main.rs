//! Makes the manual pages and the completions: `cargo run --example paper -- DIRECTORY DATE`. Not installed.

use std::path::PathBuf;
use std::{env, fs, io};

use clap::CommandFactory as _;
use clap_complete::Shell;
use simpletun::cli::Cli;

mod pages;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(directory), Some(date), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: paper DIRECTORY YYYY-MM-DD"));
    };
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("simpletun.8"), pages::daemon(&date))?;
    fs::write(directory.join("simpletun.toml.5"), pages::file(&date))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "simpletun", &directory)?;
    }
    Ok(())
}
