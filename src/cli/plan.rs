//! `viking plan`, `apply` and `diff`: what a commit would do, doing exactly that, and how far what runs is
//! from what is wanted. A folder is looked at here, commits by the host.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Context;
use super::args::{ApplyArgs, DiffArgs, Output, PlanArgs};
use super::failure::{CANNOT_TELL, Failure, Outcome};
use super::foretold::{Show, text};
use super::output::{clean, out};
use super::sources::say;
use super::status::{self, cannot_tell};
use crate::foretell;
use crate::model::dump::Dump;
use crate::model::foretold::Foretold;
use crate::model::names::StackName;
use crate::model::status::{StackStatus, SyncWord};
use crate::model::vikingfile::VikingFile;
use crate::model::wire::{self, Accepted, ApplyRequest, List, PlanRequest, StackRow};

/// Exit code when something would change.
const CHANGES: u8 = 1;

/// What is asked about.
enum What {
    /// The files of a folder.
    Folder(PathBuf),
    /// A commit of a followed stack; the newest one, if it is not said which.
    Commit(StackName, Option<String>),
}

/// Foretells.
pub(crate) async fn plan(context: &Context, args: &PlanArgs) -> Outcome {
    let told = told(context, args).await;
    let told = match told {
        Err(failure) if args.exit_code => return Err(cannot_tell(failure)),
        told => told?,
    };
    print(context, &told)?;
    if told.commit.at_ms != 0 && args.what.is_none() && told.refused.is_empty() && told.changes() {
        let (stack, digest) = (&told.stack, &told.digest);
        context.print.remark(&format!(
            "once {stack} is suspended, exactly this is done by: viking apply --plan {digest}"
        ));
    }
    Ok(
        match (args.exit_code, told.refused.is_empty(), told.changes()) {
            (false, ..) | (true, true, false) => 0,
            (true, true, true) => CHANGES,
            (true, false, _) => CANNOT_TELL,
        },
    )
}

async fn told(context: &Context, args: &PlanArgs) -> Result<Foretold, Failure> {
    match what(context, args).await? {
        What::Folder(folder) => of_folder(context, folder).await,
        What::Commit(stack, revision) => of_commit(context, &stack, revision).await,
    }
}

async fn of_commit(
    context: &Context,
    stack: &StackName,
    revision: Option<String>,
) -> Result<Foretold, Failure> {
    let path = format!("/v1/stack/{stack}/plan");
    context.client.post(&path, &PlanRequest { revision }).await
}

async fn of_folder(context: &Context, folder: PathBuf) -> Result<Foretold, Failure> {
    let dump: Dump = context.client.get("/v1/debug/dump").await?;
    let own = env!("CARGO_PKG_VERSION");
    if dump.version != own {
        let remark = format!(
            "the host runs viking {}, this is {own}: it may decide otherwise",
            dump.version
        );
        context.print.remark(&remark);
    }
    let work = move || foretell::of_folder(&dump.world, &folder);
    let told = tokio::task::spawn_blocking(work).await;
    let told = told.map_err(|error| Failure::new(error, ""))?;
    told.map_err(|why| Failure::new(why, "viking.yml is described in the README"))
}

/// What the words mean: a folder where there is one of that name, else a branch or a commit.
async fn what(context: &Context, args: &PlanArgs) -> Result<What, Failure> {
    let here = Path::new(foretell::FILE);
    match &args.what {
        None if args.stack.is_none() && here.exists() => Ok(What::Folder(PathBuf::from("."))),
        Some(word) if args.stack.is_none() && is_folder(word) => Ok(What::Folder(word.into())),
        word => {
            let stack = match &args.stack {
                Some(stack) => stack.clone(),
                None => stack_of(context, here).await?,
            };
            Ok(What::Commit(stack, word.clone()))
        }
    }
}

fn is_folder(word: &str) -> bool {
    let path = Path::new(word);
    path.is_dir() && (path.join(foretell::FILE).exists() || word.contains(['/', '.']))
}

/// The stack that the `viking.yml` here names, or the only one that is followed.
async fn stack_of(context: &Context, file: &Path) -> Result<StackName, Failure> {
    if let Ok(text) = std::fs::read(file) {
        let file = VikingFile::parse(foretell::FILE, &text);
        return file.map(|file| file.stack).map_err(|error| {
            Failure::usage(
                format!("which stack? {error}"),
                "name it with --stack STACK",
            )
        });
    }
    let list: List<StackRow> = context.client.get("/v1/stacks").await?;
    let followed: Vec<_> = list.items.iter().filter(|row| row.url.is_some()).collect();
    match followed.as_slice() {
        [only] => Ok(only.stack.clone()),
        some => {
            let names: Vec<_> = some.iter().map(|row| row.stack.as_str()).collect();
            let hint = format!("give --stack, one of: {}", names.join(", "));
            Err(Failure::usage(
                "there is no viking.yml here, and it is not said of which stack",
                hint,
            ))
        }
    }
}

/// Prints it in the form that is asked for.
pub(super) fn print(context: &Context, told: &Foretold) -> Result<(), Failure> {
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(told),
        Output::Name => out(&format!("{}\n", told.digest)),
        form @ (Output::Table | Output::Wide) => {
            let show = Show {
                all: form == Output::Wide,
                colour: context.print.colour,
                order: true,
            };
            out(&format!("{}  digest {}\n", text(told, show), told.digest))
        }
    }
}

/// Asks that a plan is done.
pub(crate) async fn apply(context: &Context, args: &ApplyArgs) -> Outcome {
    let path = format!("/v1/stack/{}/apply", args.plan.stack);
    let request = ApplyRequest {
        plan: args.plan.to_string(),
    };
    let accepted: Accepted = context.client.post(&path, &request).await?;
    say(context, &accepted)?;
    let remark = format!("see how it goes: viking status {}", args.plan.stack);
    context.print.remark(&remark);
    Ok(0)
}

/// Answer of `viking diff -o json`.
#[derive(Debug, Serialize)]
struct Differences {
    /// `viking.diff/v1`.
    schema: String,
    /// One per stack.
    stacks: Vec<Difference>,
}

/// How far a stack is from what is wanted.
#[derive(Debug, Serialize)]
struct Difference {
    /// What the newest commit would change.
    newest: Foretold,
    /// What is not as the live release says.
    status: StackStatus,
}

impl Difference {
    fn differs(&self) -> bool {
        let settled = self.status.sync == SyncWord::Synced && self.status.drift.is_empty();
        self.newest.changes() || !self.newest.refused.is_empty() || !settled
    }
}

/// Compares what runs with what is wanted.
pub(crate) async fn diff(context: &Context, args: &DiffArgs) -> Outcome {
    let stacks = differences(context, args).await.map_err(cannot_tell)?;
    let differ = stacks.iter().any(Difference::differs);
    match context.print.form {
        Output::Json | Output::Yaml => {
            let schema = wire::schema("diff");
            context.print.data(&Differences { schema, stacks })?;
        }
        Output::Name => {
            let differing = stacks.iter().filter(|stack| stack.differs());
            let names = differing.map(|stack| format!("{}\n", stack.status.stack));
            out(&names.collect::<String>())?;
        }
        form @ (Output::Table | Output::Wide) => {
            let show = Show {
                all: form == Output::Wide,
                colour: context.print.colour,
                order: false,
            };
            let shown = stacks.iter().filter(|stack| show.all || stack.differs());
            let shown = shown.map(|stack| difference(stack, show));
            out(&shown.collect::<Vec<_>>().join("\n"))?;
            if !differ {
                context
                    .print
                    .remark("what runs is what the newest commits say");
            }
        }
    }
    Ok(u8::from(differ))
}

async fn differences(context: &Context, args: &DiffArgs) -> Result<Vec<Difference>, Failure> {
    let report = status::fetch(context, args.stack.as_ref()).await?;
    let mut found = Vec::new();
    for status in report.stacks {
        // The built-in stack comes from nowhere, and a removed one goes.
        if status.source.is_none() {
            continue;
        }
        let newest = of_commit(context, &status.stack, None).await?;
        found.push(Difference { newest, status });
    }
    Ok(found)
}

fn difference(stack: &Difference, show: Show) -> String {
    let mut text = text(&stack.newest, show);
    for drift in &stack.status.drift {
        let line = format!("{}: {}", drift.job, drift.what);
        text += &format!(
            "  drift {} (found {}, wanted {})\n",
            clean(&line),
            clean(&drift.found),
            clean(&drift.wanted)
        );
    }
    text
}
