//! Commands. They speak to the API of a host; `host` and `up` start one. Called by `main`; never
//! touches the store, git or Docker itself.

pub mod args;
pub mod client;
mod etcd;
pub mod failure;
mod follow;
mod hosting;
mod lists;
mod logs;
pub mod output;
pub mod show;
mod sources;
mod status;
mod up;
mod view;

use args::{Cli, Command};
use client::Client;
use failure::Outcome;
use output::Printer;

/// What commands share.
pub(crate) struct Context {
    /// The host that is asked.
    pub(crate) client: Client,
    /// How answers are printed.
    pub(crate) print: Printer,
    /// Where the API is, or is to listen.
    pub(crate) api: String,
}

/// Does what the command line says; answers the exit code.
///
/// # Errors
/// With what to print on stderr and the exit code.
pub async fn run(cli: Cli) -> Outcome {
    let context = Context {
        client: Client::new(&cli.global.api)?,
        print: Printer::new(&cli.global),
        api: cli.global.api,
    };
    match cli.command {
        Command::Host(args) => hosting::host(&context, &args).await,
        Command::Up(args) => up::up(&context, &args).await,
        Command::Add(args) => sources::add(&context, &args).await,
        Command::Remove(args) => sources::remove(&context, &args).await,
        Command::Sync(args) => sources::sync(&context, &args).await,
        Command::Status(args) => status::status(&context, &args).await,
        Command::Stacks => lists::stacks(&context).await,
        Command::Hosts => lists::hosts(&context).await,
        Command::Images => lists::images(&context).await,
        Command::Events(args) => lists::events(&context, args.stack.as_ref()).await,
        Command::History(args) => lists::history(&context, &args.stack).await,
        Command::Logs(args) => logs::logs(&context, &args).await,
        Command::Debug {
            what: args::Debug::Keys,
        } => lists::keys(&context).await,
    }
}
