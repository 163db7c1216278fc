//! `viking`: parse, log, run, exit code. Everything else is in the library.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use viking::cli::args::{Cli, Command, LogForm};
use viking::cli::failure::{FAILED, USAGE};
use viking::cli::layers::{self, Stop};

fn main() -> ExitCode {
    let (cli, layers) = match layers::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(Stop::Usage(error)) => return usage(&error),
        Err(Stop::Failed(failure)) => {
            eprint!("{}", failure.text());
            return ExitCode::from(failure.code);
        }
    };
    log_to_stderr(&cli);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let ended = runtime.block_on(viking::cli::run(cli, layers));
    // A read from a remote that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprint!("{}", failure.text());
            ExitCode::from(failure.code)
        }
    }
}

/// Help and version are answers; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() || printed.is_err() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Hosts tell what they do; other commands are quiet unless `VIKING_LOG` (or `RUST_LOG`) says else.
fn log_to_stderr(cli: &Cli) {
    let (level, form) = match &cli.command {
        Command::Host(args) => ("info", args.log),
        Command::Up(args) => ("warn", args.host.log),
        _ => ("error", LogForm::Text),
    };
    let wanted = ["VIKING_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let filter = wanted.and_then(|wanted| EnvFilter::try_new(wanted).ok());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_env_filter(discreet(filter.unwrap_or_else(|| EnvFilter::new(level))));
    match form {
        LogForm::Text => log.with_target(false).init(),
        LogForm::Json => log.json().init(),
    }
}

/// Whatever people ask for.
fn discreet(filter: EnvFilter) -> EnvFilter {
    viking::docker::LOG_AT_MOST
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}
