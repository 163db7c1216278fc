//! Commands. They speak to the API of a host; `host` and `up` start one. Called by `main`; never
//! touches the store, git or Docker itself.

pub mod args;
mod check;
pub mod client;
pub mod env;
mod etcd;
pub mod failure;
mod follow;
mod foretold;
mod hosting;
mod hosts;
pub mod layers;
mod lists;
mod logs;
mod operate;
pub mod output;
mod plan;
mod route;
pub mod show;
mod sim;
mod sources;
mod status;
mod store;
mod up;
mod view;
mod why;

use args::{Cli, Command};
use client::Client;
use failure::Outcome;
use layers::Layers;
use output::{Printer, out};

/// Every key of the configuration file, for people.
pub const EXAMPLE: &str = include_str!("../../deploy/config.yml");
/// How systemd runs a host.
pub const UNIT: &str = include_str!("../../deploy/viking.service");

/// What commands share.
pub(crate) struct Context {
    /// The host that is asked.
    pub(crate) client: Client,
    /// How answers are printed.
    pub(crate) print: Printer,
    /// Where the API is, or is to listen.
    pub(crate) api: String,
    /// Where the settings came from.
    pub(crate) layers: Layers,
}

/// Does what the command line says; answers the exit code.
///
/// # Errors
/// With what to print on stderr and the exit code.
pub async fn run(cli: Cli, layers: Layers) -> Outcome {
    let context = Context {
        client: Client::new(&cli.global.api)?,
        print: Printer::new(&cli.global),
        api: cli.global.api,
        layers,
    };
    context.layers.remark(&context.print);
    match cli.command {
        Command::Host(args) => hosting::host(&context, &args).await,
        Command::Up(args) => up::up(&context, &args).await,
        Command::Add(args) => sources::add(&context, &args).await,
        Command::Remove(args) => sources::remove(&context, &args).await,
        Command::Sync(args) => sources::sync(&context, &args).await,
        Command::Rollback(args) => operate::rollback(&context, &args).await,
        Command::Retry(args) => operate::retry(&context, &args.stack).await,
        Command::Restart(args) => operate::restart(&context, &args).await,
        Command::Suspend(args) => operate::suspend(&context, &args.stack).await,
        Command::Resume(args) => operate::resume(&context, &args.stack).await,
        Command::Env { what } => env::env(&context, &what).await,
        Command::Status(args) => status::status(&context, &args).await,
        Command::Stacks => lists::stacks(&context).await,
        Command::Hosts { what } => hosts::hosts(&context, what.as_ref()).await,
        Command::Images => lists::images(&context).await,
        Command::Events(args) => lists::events(&context, args.stack.as_ref()).await,
        Command::History(args) => lists::history(&context, &args.stack).await,
        Command::Why(args) => why::why(&context, &args).await,
        Command::Routes => route::routes(&context).await,
        Command::Route(args) => route::route(&context, &args).await,
        Command::Plan(args) => plan::plan(&context, &args).await,
        Command::Apply(args) => plan::apply(&context, &args).await,
        Command::Diff(args) => plan::diff(&context, &args).await,
        Command::Sim(args) => sim::sim(&context, &args),
        Command::Logs(args) => logs::logs(&context, &args).await,
        Command::Config { what } => match what {
            args::Config::Check(args) => check::check(&context, &args.host),
            args::Config::Example => out(EXAMPLE).map(|()| 0),
            args::Config::Unit => out(UNIT).map(|()| 0),
        },
        Command::Store { what } => store::store(&context, &what).await,
        Command::Debug { what } => match what {
            args::Debug::Keys => lists::keys(&context).await,
            args::Debug::Dump => lists::dump(&context).await,
        },
    }
}
