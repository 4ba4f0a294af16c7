//! The command line: what can be said, and where it goes. A file a command.

mod apply;
mod build;
mod ca;
mod delete;
mod events;
mod init;
mod logs;
mod manifests;
mod plan;
mod ps;
mod release;
mod server;
mod status;
mod token;
mod top;
mod why;
mod words;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::{failure::Failure, show};

/// What every command heeds and answers with.
const AROUND: &str = "\
Variables:
  MINATO_API    Where the API is [default: http://127.0.0.1:7070]
  MINATO_TOKEN  Its token [default: what a server of this machine left for the user who started it]
  MINATO_CA     The file of roots by which an API at https:// is known, as `minato ca export` prints them
  NO_COLOR      No colours, if it isn't empty

Exit status:
  0  done
  1  failed
  2  wrong use, or an invalid manifest
  3  `plan --check` found changes
  4  the release was taken back or is refused
  5  the API can't be reached";

/// An application cluster in one binary: give it images and a manifest.
#[derive(Debug, Parser)]
#[command(name = "minato", version, max_term_width = 100, disable_help_subcommand = true, after_help = AROUND)]
struct Arguments {
    /// Print data as JSON on stdout; progress stays on stderr
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node with all roles
    Server(server::Arguments),
    /// Run a cluster with the sample application, and show what it does
    #[cfg(feature = "demo")]
    Demo,
    /// Pack a directory or a program into a reproducible image, and push it
    Build(build::Arguments),
    /// Write a manifest to begin with
    Init(init::Arguments),
    /// Show what applying a manifest would change, and why
    Plan(plan::Arguments),
    /// Make a manifest the declared state
    Apply(apply::Arguments),
    /// Take an app away
    Delete(delete::Arguments),
    /// Show what is: services, their verdicts and addresses
    Status(status::Arguments),
    /// List instances
    Ps(ps::Arguments),
    /// Watch what nodes, services and instances use and carry
    Top(top::Arguments),
    /// Explain an app, a service, a release or an instance
    Why(why::Arguments),
    /// Show what the instances of a service wrote
    Logs(logs::Arguments),
    /// Show what happened
    Events(events::Arguments),
    /// The cluster's certificate authority
    Ca(ca::Arguments),
    /// Releases of a service
    Release(release::Arguments),
    /// Make, list and revoke tokens
    Token(token::Arguments),
    /// Print a script that completes commands in a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Commands of the design that come later: refused by name, so that nobody searches for a typo.
const LATER: [&str; 15] = [
    "dev",
    "sign",
    "verify",
    "key",
    "open",
    "rollback",
    "store",
    "secret",
    "tx",
    "incidents",
    "mttr",
    "cost",
    "drill",
    "node",
    "upgrade",
];

/// Runs the command that the arguments ask for.
pub(crate) fn run() -> ExitCode {
    // Also where it comes after a command that isn't known, or the words aren't understood at all.
    let json = std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json");
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let ok = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if json && !ok {
                return misunderstood(&error).report(json);
            }
            // Nothing can be said when neither stdout nor stderr takes it.
            drop(error.print());
            return ExitCode::from(if ok { 0 } else { 2 });
        }
    };
    match dispatch(arguments.command, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// What clap says of wrong words, without its advice and its usage.
fn misunderstood(error: &clap::Error) -> Failure {
    let said = error.to_string();
    let what = said.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    Failure::Usage(what.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn dispatch(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Server(arguments) => server::run(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo => client_side(crate::demo::run()),
        Command::Build(arguments) => client_side(build::run(arguments, json)),
        Command::Init(arguments) => init::run(&arguments, json),
        Command::Plan(arguments) => client_side(plan::run(arguments, json)),
        Command::Apply(arguments) => client_side(apply::run(arguments, json)),
        Command::Delete(arguments) => client_side(delete::run(arguments, json)),
        Command::Status(arguments) => client_side(status::run(arguments, json)),
        Command::Ps(arguments) => client_side(ps::run(arguments, json)),
        Command::Top(arguments) => client_side(top::run(arguments, json)),
        Command::Why(arguments) => client_side(why::run(arguments, json)),
        Command::Logs(arguments) => client_side(logs::run(arguments, json)),
        Command::Events(arguments) => client_side(events::run(arguments, json)),
        Command::Ca(arguments) => client_side(ca::run(arguments, json)),
        Command::Release(arguments) => client_side(release::run(arguments, json)),
        Command::Token(arguments) => client_side(token::run(arguments, json)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "minato", &mut script);
            show::data(&script);
            Ok(())
        }
        Command::Man => {
            show::data(&manual().map_err(|error| Failure::Failed(error.into()))?);
            Ok(())
        }
        Command::Other(words) => Err(other(&words)),
    }
}

/// The manual: one page, every command with its flags.
fn manual() -> std::io::Result<Vec<u8>> {
    let mut whole = Arguments::command();
    whole.build();
    let page = clap_mangen::Man::new(whole.clone());
    let mut roff = Vec::new();
    page.render_title(&mut roff)?;
    page.render_name_section(&mut roff)?;
    page.render_synopsis_section(&mut roff)?;
    page.render_options_section(&mut roff)?;
    writeln!(roff, ".SH COMMANDS")?;
    for command in whole.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(&mut roff, command)?;
    }
    for line in AROUND.lines() {
        match line.strip_prefix("  ").and_then(|line| line.split_once("  ")) {
            Some((term, text)) => writeln!(roff, ".TP\n.B {term}\n{}", text.trim())?,
            None if line.is_empty() => {}
            None => writeln!(roff, ".SH {}", line.trim_end_matches(':').to_uppercase())?,
        }
    }
    Ok(roff)
}

/// A command and those below it, as a part of the manual.
fn section(roff: &mut Vec<u8>, command: &clap::Command) -> std::io::Result<()> {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    writeln!(roff, ".SS {name}")?;
    if let Some(about) = command.get_about() {
        writeln!(roff, "{about}")?;
    }
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        if !argument.is_global_set() && argument.get_id() != "help" {
            let term = argument.to_string().replace('-', "\\-");
            let text = argument.get_help().map(ToString::to_string).unwrap_or_default();
            writeln!(roff, ".TP\n.B {term}\n{text}")?;
        }
    }
    command.get_subcommands().try_for_each(|command| section(roff, command))
}

fn other(words: &[String]) -> Failure {
    let word = words.first().map(String::as_str).unwrap_or_default();
    if LATER.contains(&word) {
        return Failure::NotSupported(format!("minato {word}"));
    }
    Failure::Usage(format!("`minato {word}` is no command; `minato --help` lists them"))
}

/// Runs a command that talks to the API, until it is done or interrupted.
fn client_side(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(anyhow::anyhow!("can't start: {error}")))?;
    runtime.block_on(command)
}

/// Prints the API's answer as it is.
fn json_line(value: &serde_json::Value) {
    show::line(&value.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_manual_tells_every_command() {
        let text = String::from_utf8(manual().unwrap()).unwrap();
        for said in
            [".SS minato apply", ".SS minato release list", "MINATO_TOKEN", "EXIT STATUS", "anonymous"]
        {
            assert!(text.contains(said), "{said}");
        }
        assert!(!text.contains("minato-apply(1)"), "there is no such page");
    }

    #[test]
    fn words_that_are_no_command_are_told_from_later_ones() {
        assert!(matches!(other(&["rollback".to_owned()]), Failure::NotSupported(_)));
        assert!(matches!(other(&["statsu".to_owned()]), Failure::Usage(_)));
    }
}
