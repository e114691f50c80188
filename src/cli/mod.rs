//! The command line: one file a command.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::app::Signals;
use crate::telemetry::{self, outputs::Outputs};
use output::Output;

mod accept;
mod admin;
mod check;
mod demo;
mod events;
mod explain;
mod hash_key;
mod output;
#[cfg(feature = "etcd")]
mod register;
mod routes;
mod run;
pub mod sample;
mod status;
mod table;
mod upstreams;

/// It went well.
const FINE: u8 = 0;
/// The answer is no: an invalid configuration, a failed start, a gateway that is not ready, a refused action.
const FAILED: u8 = 1;
/// The command could not be understood, nobody could be asked, or the answer could not be written. clap exits with it, too.
const UNANSWERED: u8 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0  it went well; status: the gateway is ready
  1  the answer is no: the configuration is invalid, the gateway does not start or is not ready, it refuses
     what is asked of it, or knows no such upstream, route or endpoint
  2  the command line can't be read, or the admin API can't be asked: nothing or something else answers at
     its address, or it wants another token; or standard output can't be written";

const SIGNALS: &str = "\
Signals:
  TERM, INT, QUIT  stops: leaves the registries, drains and ends; a second one ends at once
  HUP              reads the files of the configuration again, and opens logs again
  USR1             opens logs again
  others           that would end a program by default are ignored, but for ABRT, KILL, XCPU
                   and those of faults, such as SEGV";

/// An API gateway for fleets of machines: Consul and etcd feed a balanced proxy with canaries.
#[derive(Debug, Parser)]
#[command(
    name = "fleetgate",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = EXIT_CODES
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway
    #[command(after_help = SIGNALS)]
    Run(Config),
    /// Checks the configuration without contacting a registry: prints every problem, exits 1 if there is any
    Check {
        #[command(flatten)]
        config: Config,
        /// The same without --config
        #[arg(conflicts_with = "config")]
        file: Option<PathBuf>,
    },
    /// Runs the gateway with three small services inside and no registry, and prints what to try on it
    Demo(demo::Arguments),
    /// Shows the state of a running gateway; exits 1 if it is not ready
    Status(admin::Access),
    /// Lists the routes of a running gateway
    Routes(admin::Access),
    /// Lists the upstreams and endpoints of a running gateway
    Upstreams(admin::Access),
    /// Gives an endpoint of an upstream no new requests, until it is undrained
    Drain(Place),
    /// Lets a drained endpoint take requests again
    Undrain(Place),
    /// Accepts what a registry or file lost and the gateway holds: shows what goes, and asks
    Accept(accept::Arguments),
    /// Tells what changed in a running gateway, when and why; --at TIME how endpoints stood then
    Events(events::Arguments),
    /// Tells what a request would meet in a running gateway, and why; the request is not sent
    Explain(explain::Arguments),
    /// Keeps an endpoint in etcd for a service that can't do it itself, while the service's check passes
    #[cfg(feature = "etcd")]
    Register(Box<register::Arguments>),
    /// Prints the hash of a consumer's key, which is read from standard input
    HashKey {
        /// Makes a key of 192 random bits, and prints it on the first line
        #[arg(long)]
        new: bool,
    },
    /// Prints the JSON Schema of the configuration, for editors
    Schema,
    /// Prints completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// There is no such command; people look for it
    #[command(hide = true)]
    Metrics {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<std::ffi::OsString>,
    },
    /// A small HTTP service that registers itself, for trying things out
    #[command(hide = true)]
    SampleService(sample::Arguments),
}

/// An endpoint, and how to reach the gateway.
#[derive(Clone, Debug, clap::Args)]
struct Place {
    /// The upstream
    upstream: String,
    /// The endpoint's address, as `fleetgate upstreams` shows it
    address: String,
    #[command(flatten)]
    access: admin::Access,
}

/// Where the configuration is.
#[derive(Clone, Debug, clap::Args)]
struct Config {
    /// The configuration file (TOML, YAML or JSON by its extension)
    ///
    /// Without it config/fleetgate.toml and /etc/fleetgate/fleetgate.toml are tried; if there is neither, the
    /// FLEETGATE_ variables alone count.
    #[arg(long, short, value_name = "PATH")]
    config: Option<PathBuf>,
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let (mut output, stderr) = (Output::new(std::io::stdout()), &mut std::io::stderr());
    let code = match Cli::try_parse() {
        Ok(cli) => run_command(cli.command, &mut output, stderr),
        // Exits with 2.
        Err(mistake) if mistake.use_stderr() => mistake.exit(),
        // --help and --version
        Err(asked) => {
            if let Err(error) = asked.print() {
                output.note(error);
            }
            FINE
        }
    };
    ExitCode::from(output.settle(code, stderr))
}

fn run_command(command: Command, stdout: &mut impl Write, stderr: &mut impl Write) -> u8 {
    match command {
        Command::Run(config) => lasting(|outputs| run::run(config.config, variables(), outputs)),
        Command::Check { config, file } => check::run(config.config.or(file).as_deref(), variables(), stdout, stderr),
        Command::Demo(arguments) => lasting(|outputs| demo::run(&arguments, outputs)),
        Command::Status(access) => admin::show(&access, "/api/v1/status", &status::page(), stdout, stderr),
        Command::Routes(access) => {
            let page = admin::Page::new(admin::ITEMS, routes::render);
            admin::show(&access, "/api/v1/routes", &page, stdout, stderr)
        }
        Command::Upstreams(access) => {
            let page = admin::Page::new(admin::ITEMS, upstreams::render);
            admin::show(&access, "/api/v1/upstreams", &page, stdout, stderr)
        }
        Command::Drain(place) => place.tell("drain", stdout, stderr),
        Command::Undrain(place) => place.tell("undrain", stdout, stderr),
        Command::Accept(arguments) => accept::run(&arguments, stdout, stderr),
        Command::Events(arguments) => events::run(&arguments, stdout, stderr),
        Command::Explain(arguments) => explain::run(&arguments, stdout, stderr),
        #[cfg(feature = "etcd")]
        Command::Register(arguments) => lasting(|outputs| register::run(*arguments, variables(), outputs)),
        Command::HashKey { new } => hash_key::run(new, &mut std::io::stdin(), stdout, stderr),
        Command::Schema => {
            say(stdout, &format!("{:#}", crate::config::schema()));
            FINE
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fleetgate", &mut script);
            say(stdout, String::from_utf8_lossy(&script).trim_end());
            FINE
        }
        Command::Metrics { .. } => {
            let hint =
                format!("there is no command `metrics`: the gateway serves them, curl {}/metrics", admin::DEFAULT_URL);
            say(stderr, &format!("fleetgate: {hint}"));
            UNANSWERED
        }
        Command::SampleService(arguments) => lasting(|outputs| sample_service(arguments, &mut outputs.stderr())),
    }
}

impl Place {
    fn tell(&self, word: &str, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
        let (upstream, address) = (admin::segment(&self.upstream), admin::segment(&self.address));
        let path = format!("/api/v1/upstreams/{upstream}/endpoints/{address}/{word}");
        admin::tell(&self.access, &path, out, remarks)
    }
}

/// Runs a command that goes on until a signal ends it: what it prints, logs and says in a panic waits for no reader.
fn lasting(command: impl FnOnce(&Arc<Outputs>) -> u8) -> u8 {
    let outputs = match Outputs::start() {
        Ok(outputs) => Arc::new(outputs),
        Err(error) => {
            say(&mut std::io::stderr(), &format!("fleetgate: cannot start: {error}"));
            return FAILED;
        }
    };
    telemetry::log::tell_panics(&outputs);
    let code = command(&outputs);
    outputs.finish();
    code
}

fn sample_service(arguments: sample::Arguments, stderr: &mut dyn Write) -> u8 {
    let stop = async {
        match Signals::listen() {
            Ok(mut signals) => signals.stop_or_hang_up().await,
            // They end the process, as any other.
            Err(_) => std::future::pending().await,
        }
    };
    let outcome = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime.block_on(sample::run(arguments, stop)),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    match outcome {
        Ok(()) => FINE,
        Err(error) => {
            say(stderr, &format!("fleetgate: {error}"));
            FAILED
        }
    }
}

/// The environment; variables that are not text are nobody's.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
}

/// Writes a text and a newline; whether that went well. [`Output`] remembers that it did not.
fn say(out: &mut dyn Write, text: &str) -> bool {
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
