//! The command line: the original's flags unchanged, the new ones with long names, and the tool subcommands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Parser, Subcommand};

use crate::config::Options;
use crate::tools::pair::invite;
use crate::tools::relatives::{self, OpenVpn, Tunctl};

/// What was asked for on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "simpletun",
    version,
    about = "Point-to-point tunnel: joins a tun or tap device to one peer over TCP or UDP",
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 110,
    after_help = "Quick link:\n  \
        far end    simpletun -i tun3 -s --address 192.168.0.2/24\n  \
        near end   simpletun -i tun11 -c 10.86.43.52 --address 192.168.0.1/24\n\n\
        Signals: TERM and INT end, HUP re-reads the file and applies it, USR1 reconnects, USR2 logs statistics.\n\
        Exit status: 0 ended as asked, 1 failure at run time, 2 mistake in usage or configuration."
)]
pub struct Cli {
    /// Settings that the configuration file knows too.
    #[command(flatten)]
    pub options: Options,

    /// With --server: make a secret for this run, kept in memory alone, and print the command line for the client, to a
    /// terminal or, with --pair=print, wherever standard output goes
    #[arg(
        long,
        value_name = "print",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "terminal",
        help_heading = "Security"
    )]
    pub pair: Option<invite::Output>,

    /// Read the settings from this file; flags override it
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// Check flags and file, say what is wrong with them, and exit
    #[arg(long, help_heading = "Configuration")]
    pub check_config: bool,

    /// Say more (twice: everything)
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// Say only warnings (twice: only errors)
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    pub quiet: u8,

    /// A tool, instead of the tunnel itself.
    #[command(subcommand)]
    pub tool: Option<Tool>,
}

/// The tools beside the tunnel.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Make a persistent tun or tap device
    Mktun(crate::tools::mktun::Mktun),
    /// Remove a persistent tun or tap device
    Rmtun(crate::tools::mktun::Rmtun),
    /// Show how running tunnels are
    Status(crate::tools::status::Status),
    /// Check a tunnel for monitoring: one line, and 0 to 3 as the exit status
    Check(crate::tools::check::Check),
    /// Find out why a tunnel does not work: each check with its cure
    Doctor(Box<crate::tools::doctor::Doctor>),
    /// Measure what a running link carries, to its peer and back
    Test(crate::tools::test::Test),
    /// List tun and tap devices
    List(crate::tools::list::List),
    /// Say what crosses a running tunnel, or what the kernel sends into a device
    Dump(crate::tools::dump::Dump),
    /// Answer pings to whatever is behind a device
    Echo(crate::tools::echo::Echo),
    /// Take back what a killed tunnel has left on a device that it had not created
    Cleanup(crate::tools::cleanup::Cleanup),
    /// The half of the daemon that keeps the right to configure the network
    #[command(hide = true)]
    Helper(crate::helper::serve::Helper),
    /// Set up both ends of a new tunnel: their files, or over ssh all of it
    Pair(crate::tools::pair::Pair),
    /// The half of pair that works at one end
    #[command(hide = true)]
    PairEnd(crate::tools::pair::end::PairEnd),
    /// Print a new private key
    Genkey,
    /// Print a new shared secret
    Genpsk,
    /// Print the public key of the private key on standard input
    Pubkey,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Refusal {
    /// Help or version was asked for: print this to standard output and succeed.
    Print(String),
    /// A mistake: one sentence for standard error.
    Usage(String),
}

impl Cli {
    /// The name of the instance, if it has one beside its device's: that of its configuration file.
    pub fn instance(&self) -> Option<String> {
        let stem = self.config.as_ref().and_then(|path| path.file_stem());
        stem.map(|stem| stem.to_string_lossy().into_owned())
    }

    /// Parses the arguments; `arguments` includes the program's name.
    ///
    /// # Errors
    /// Help or version to be printed, or a mistake in the arguments as one sentence. The original's texts are kept
    /// where it had one.
    pub fn from_arguments<I, T>(arguments: I) -> Result<Self, Refusal>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Self::try_parse_from(arguments).map_err(|error| refusal(&error))
    }
}

/// What the program is to do.
#[derive(Debug)]
pub enum Request {
    /// The tunnel, or a tool by its name.
    Own(Box<Cli>),
    /// The program was called by the name tunctl.
    Tunctl(Tunctl),
    /// The arguments are those of openvpn for making a device.
    OpenVpn(OpenVpn),
}

impl Request {
    /// Parses the arguments, in whichever of the forms they are.
    ///
    /// # Errors
    /// As [`Cli::from_arguments`].
    pub fn from_arguments(arguments: &[OsString]) -> Result<Self, Refusal> {
        if relatives::is_tunctl(arguments.first()) {
            return Tunctl::try_parse_from(arguments).map(Self::Tunctl).map_err(|error| refusal(&error));
        }
        if relatives::is_openvpn(arguments) {
            return OpenVpn::try_parse_from(arguments).map(Self::OpenVpn).map_err(|error| refusal(&error));
        }
        Cli::from_arguments(arguments).map(|cli| Self::Own(Box::new(cli)))
    }
}

fn refusal(error: &clap::Error) -> Refusal {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Print(error.render().to_string()),
        _ => Refusal::Usage(sentence(error)),
    }
}

/// One sentence instead of clap's page.
fn sentence(error: &clap::Error) -> String {
    let argument = context(error, ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if !argument.starts_with('-') => "Too many options!".to_owned(),
        // A word behind the options is a conflict too: options exclude tools, and no other options exclude each other.
        ErrorKind::InvalidSubcommand | ErrorKind::ArgumentConflict => "Too many options!".to_owned(),
        ErrorKind::UnknownArgument => match error.get(ContextKind::SuggestedArg) {
            Some(suggestion) => format!("Unknown option {argument}; did you mean {suggestion}?"),
            None => format!("Unknown option {argument}; simpletun --help lists the options"),
        },
        // An empty list of possible values: an option at the end that lacks its argument.
        ErrorKind::InvalidValue if context(error, ContextKind::InvalidValue).is_empty() => {
            format!("Option {argument} lacks its value; simpletun --help shows what it takes")
        }
        ErrorKind::InvalidValue => format!(
            "Option {argument} cannot be {:?}: choose one of {}",
            context(error, ContextKind::InvalidValue),
            context(error, ContextKind::ValidValue).replace(' ', ", ")
        ),
        ErrorKind::MissingRequiredArgument => {
            format!("Option {argument} is missing; simpletun --help shows what it is for")
        }
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            format!("{first}; simpletun --help lists the options")
        }
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, Refusal> {
        Cli::from_arguments(line.split(' '))
    }

    fn mistake(line: &str) -> String {
        match parse(line) {
            Err(Refusal::Usage(text)) => text,
            other => panic!("{line} gave {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_options_cluster_and_the_last_role_and_kind_win() {
        let cli = parse("simpletun -sdi tun3 -u -a").expect("a legal line");
        assert!(cli.options.server && cli.options.debug && cli.options.tap && !cli.options.tun);
        let cli = parse("simpletun -i tun3 -s -c host -a -u -p 1 -p 2").expect("a legal line");
        assert!(!cli.options.server && cli.options.tun && !cli.options.tap);
        assert_eq!(cli.options.port.expect("a port").to_string(), "2");
        let cli = parse("simpletun -i tun3 -chost -s").expect("a legal line");
        assert!(cli.options.server && cli.options.connect.is_none());
    }

    #[test]
    fn repeatable_options_collect() {
        let cli = parse("simpletun -i t -s --route 10.0.0.0/8 --route fd00::/8").expect("a legal line");
        assert_eq!(cli.options.route.len(), 2);
    }

    #[test]
    fn mistakes_are_one_sentence() {
        assert_eq!(mistake("simpletun -i tun3 -s surplus"), "Too many options!");
        assert!(mistake("simpletun --adress 10.0.0.1/8").contains("did you mean"));
        assert!(mistake("simpletun -s -i").contains("lacks its value"));
        for line in ["simpletun --nonsense", "simpletun -i", "simpletun -x", "simpletun mktun", "simpletun -i t mktun"]
        {
            assert_eq!(mistake(line).lines().count(), 1, "{line}");
        }
        assert!(mistake("simpletun mktun --dev t --dev-type x").contains("choose one of tun, tap"));
        assert!(mistake("simpletun mktun").contains("--dev"));
    }
}
