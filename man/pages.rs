//! The manual pages: templates with hand-written sections, in which lines between `@` stand for what the definitions of
//! flags and keys say.

use clap::{Arg, ArgAction, Args, Command, CommandFactory};
use roff::{Inline, Roff, bold, italic, roman};
use simpletun::cli::Cli;
use simpletun::config::Options;

const DAEMON: &str = include_str!("simpletun.8");
const FILE: &str = include_str!("simpletun.toml.5");

/// Longest line of text in a page.
const LINE_LEN: usize = 80;

/// Keys that the file has and the command line does not, with their kind and what they are for.
const FILE_KEYS: &[(&str, &str, &str)] = &[(
    "security",
    "secret, keys or plain",
    "How the link is protected: by a shared secret, by key pairs, or not at all. Mandatory, so that no link is plain by \
     omission.",
)];

/// simpletun(8) as of `date`.
pub fn daemon(date: &str) -> String {
    let command = built();
    filled(DAEMON, date, &[("OPTIONS", options(&command)), ("COMMANDS", commands(&command))])
}

/// simpletun.toml(5) as of `date`.
pub fn file(date: &str) -> String {
    filled(FILE, date, &[("KEYS", keys())])
}

fn built() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

fn filled(template: &str, date: &str, parts: &[(&str, Roff)]) -> String {
    let mut page = template.replace("@DATE@", date).replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    for (name, part) in parts {
        page = page.replace(&format!("@{name}@\n"), &part.to_roff());
    }
    wrapped(&page)
}

/// Lines of text are broken where they are long, as the rules for manual pages have it; requests and examples are not.
fn wrapped(page: &str) -> String {
    let mut wrapped = String::new();
    let mut is_example = false;
    for line in page.lines() {
        is_example = (is_example || line == ".EX") && line != ".EE";
        let mut rest = line;
        while rest.len() > LINE_LEN && !is_example && !line.starts_with('.') {
            let Some(end) =
                rest.char_indices().take_while(|(at, _)| *at <= LINE_LEN).filter(|(_, it)| *it == ' ').last()
            else {
                break;
            };
            wrapped.extend([&rest[..end.0], "\n"]);
            rest = &rest[end.0 + 1..];
        }
        wrapped.extend([rest, "\n"]);
    }
    wrapped
}

/// The daemon's own options, under the headings of its help.
fn options(command: &Command) -> Roff {
    let mut page = Roff::new();
    for (heading, arguments) in by_heading(command) {
        page.control("SS", [heading.as_str()]);
        arguments.iter().for_each(|argument| option(&mut page, argument));
    }
    page
}

/// The tools, each with its options.
fn commands(command: &Command) -> Roff {
    let mut page = Roff::new();
    for tool in command.get_subcommands().filter(|tool| !tool.is_hide_set()) {
        page.control("SS", [format!("simpletun {}", tool.get_name()).as_str()]);
        if let Some(about) = tool.get_long_about().or(tool.get_about()) {
            page.text([roman(sentence(&about.to_string()))]);
        }
        let is_shown = |argument: &&Arg| !argument.is_hide_set() && argument.get_id() != "help";
        tool.get_arguments().filter(is_shown).for_each(|argument| option(&mut page, argument));
    }
    page
}

fn option(page: &mut Roff, argument: &Arg) {
    page.control("TP", []);
    let mut head: Vec<Inline> = Vec::new();
    head.extend(argument.get_short().map(|short| bold(format!("-{short}"))));
    if let Some(long) = argument.get_long() {
        head.extend((!head.is_empty()).then(|| roman(", ")));
        head.push(bold(format!("--{long}")));
    }
    if argument.is_require_equals_set() {
        head.extend([roman("[="), italic(value(argument)), roman("]")]);
    } else if takes_value(argument) {
        head.extend((!head.is_empty()).then(|| roman(" ")));
        head.push(italic(value(argument)));
    }
    page.text(head);
    page.text([roman(help(argument))]);
}

/// The keys of the file, under the headings of the help.
fn keys() -> Roff {
    let mut page = Roff::new();
    let command = Options::augment_args(Command::new("file"));
    page.control("SS", ["Mandatory"]);
    for (name, kind, text) in FILE_KEYS {
        page.control("TP", []).text([bold(*name), roman(" = "), italic(*kind)]).text([roman(*text)]);
    }
    for (heading, arguments) in by_heading(&command) {
        page.control("SS", [heading.as_str()]);
        for argument in arguments {
            let name = argument.get_long().unwrap_or_default().to_owned();
            page.control("TP", []).text([bold(name), roman(" = "), italic(kind(argument))]);
            page.text([roman(help(argument))]);
        }
    }
    page
}

/// What a key is given.
fn kind(argument: &Arg) -> String {
    match argument.get_action() {
        ArgAction::SetTrue => "true or false".to_owned(),
        ArgAction::Append => format!("list of {}", value(argument)),
        _ if argument.get_help_heading() == Some("Hooks") && value(argument) == "COMMAND" => {
            "list of the program and its arguments".to_owned()
        }
        _ => value(argument),
    }
}

/// The options that are shown, in the order of their definition, each heading once.
fn by_heading(command: &Command) -> Vec<(String, Vec<&Arg>)> {
    let mut headings: Vec<(String, Vec<&Arg>)> = Vec::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let heading = argument.get_help_heading().unwrap_or("Other").to_owned();
        match headings.iter_mut().find(|(other, _)| *other == heading) {
            Some((_, arguments)) => arguments.push(argument),
            None => headings.push((heading, vec![argument])),
        }
    }
    headings
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

fn value(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    if names.is_empty() { argument.get_id().to_string() } else { names.join(" ") }
}

/// The text of the help, as a sentence, with the values that are possible.
fn help(argument: &Arg) -> String {
    let text = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = match argument.get_action().takes_values() {
        true => argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
        false => Vec::new(),
    };
    let text = sentence(&text);
    if values.is_empty() { text } else { format!("{text} One of {}.", values.join(", ")) }
}

fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.ends_with('.') { text } else { format!("{text}.") }
}
