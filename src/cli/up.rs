//! `viking up`: a host if none answers, a source, and a view of the newest commit until it is live
//! or failed. Puts the parts together; each of them is its own file.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::{Output, UpArgs};
use super::failure::{FAILED, Failure, Outcome};
use super::follow::{End, Follow};
use super::output::{note, out};
use super::view::View;
use super::{Context, hosting, show, sources};
use crate::model::status::{Role, StackStatus};
use crate::model::wire::{self, AddRequest, Added, UpResult};

/// Time a host of our own has until its API answers; the registry's image may have to come first.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two tries until then.
const READY_EVERY: Duration = Duration::from_millis(50);

/// Brings the newest commit of a repository live.
pub(crate) async fn up(context: &Context, args: &UpArgs) -> Outcome {
    // Before anything starts: a wrong path is the most common mistake.
    let request = sources::request(&args.source)?;
    if context.client.answers().await {
        let remark = format!("a host answers at {}: asking that one", context.api);
        context.print.remark(&remark);
        return once(context, &request, args.timeout).await;
    }
    let config = hosting::config(&args.host, &context.api)
        .map_err(|failure| context.layers.blame(failure))?;
    let shutdown = CancellationToken::new();
    let run = crate::host::run(config, shutdown.clone());
    tokio::pin!(run);
    let outcome = tokio::select! {
        ended = &mut run => return Err(ended_early(ended)),
        outcome = with_own_host(context, args, &request) => outcome,
        () = hosting::stop_signal() => Ok(0),
    };
    shutdown.cancel();
    context.print.remark("stopping; containers keep running");
    hosting::stopped(run).await?;
    outcome
}

async fn with_own_host(context: &Context, args: &UpArgs, request: &AddRequest) -> Outcome {
    ready(context).await?;
    if args.once {
        return once(context, request, args.timeout).await;
    }
    let added = add(context, request).await?;
    let Err(failure) = watch(context, &added).await;
    // The host serves other stacks too: that this one cannot be followed is no reason to end it.
    note(failure.text().trim_end());
    context.print.remark("the host goes on until Ctrl-C");
    std::future::pending().await
}

/// Shows the end of every commit, for as long as the stack can be followed.
async fn watch(context: &Context, added: &Added) -> Result<Infallible, Failure> {
    let mut view = View::new(context.print.quiet);
    let mut follow = following(context, added).await;
    loop {
        let end = follow.end(&mut view).await;
        view.rest();
        tell(context, added, &end?)?;
        context.print.remark("following commits until Ctrl-C");
        follow.newer().await?;
        view.wake();
    }
}

/// Until the newest commit has its end, or for so long.
async fn once(context: &Context, request: &AddRequest, limit: Duration) -> Outcome {
    let mut view = View::new(context.print.quiet);
    let added = add(context, request).await?;
    let mut follow = following(context, &added).await;
    let end = tokio::time::timeout(limit, follow.end(&mut view)).await;
    view.rest();
    match end {
        Ok(end) => tell(context, &added, &end?),
        Err(_) => {
            let span = humantime::format_duration(limit);
            let stack = &added.stack;
            Err(Failure::new(
                format!("{stack} is not live after {span}: {}", follow.reason),
                format!("it goes on: viking status {stack}; give it longer with --timeout"),
            ))
        }
    }
}

async fn add(context: &Context, request: &AddRequest) -> Result<Added, Failure> {
    context.client.post("/v1/stacks", request).await
}

async fn following<'a>(context: &'a Context, added: &Added) -> Follow<'a> {
    let head = added.head.as_ref().map(|head| head.id.clone());
    Follow::new(context, added.stack.clone(), head).await
}

/// Says how it ended; the exit code is the end.
fn tell(context: &Context, added: &Added, end: &End) -> Outcome {
    let print = &context.print;
    match (end, print.form) {
        (_, Output::Json | Output::Yaml) => print.data(&result(added, end))?,
        (End::Live(_), Output::Name) => out(&format!("{}\n", added.stack))?,
        (End::Live(stack), Output::Table | Output::Wide) => out(&live_text(stack))?,
        (End::Failed(staged), Output::Name | Output::Table | Output::Wide) => {
            note(show::failure(added.stack.as_str(), staged).trim_end());
        }
    }
    Ok(match end {
        End::Live(_) => 0,
        End::Failed(_) => FAILED,
    })
}

/// The end, for programs.
fn result(added: &Added, end: &End) -> UpResult {
    let (live, failed) = match end {
        End::Live(stack) => (Some((**stack).clone()), None),
        End::Failed(staged) => (None, Some((**staged).clone())),
    };
    UpResult {
        schema: wire::schema("up"),
        stack: added.stack.clone(),
        live,
        failed,
    }
}

/// `live at a1b2c3d4e5f6: 3 jobs on 1 host`, then a line for each endpoint.
fn live_text(stack: &StackStatus) -> String {
    let tag = stack
        .live
        .as_ref()
        .map(|live| live.tag.to_string())
        .unwrap_or_default();
    let live = |role: Role| role == Role::Live;
    let jobs: Vec<_> = stack
        .jobs()
        .filter(|(node, _)| live(node.release))
        .collect();
    let mut hosts: Vec<_> = jobs
        .iter()
        .filter_map(|(_, job)| job.host.as_ref())
        .collect();
    hosts.sort();
    hosts.dedup();
    let head = format!(
        "live at {tag}: {} on {}\n",
        count(jobs.len(), "job"),
        count(hosts.len(), "host")
    );
    let endpoints = jobs.iter().flat_map(|(node, job)| {
        job.endpoints.iter().map(move |end| {
            let name = format!("{}/{}.{}", stack.stack, node.node, job.slot);
            format!("  {name}  {}  {}\n", end.port, end.address)
        })
    });
    head + &endpoints.collect::<String>()
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

async fn ready(context: &Context) -> Result<(), Failure> {
    let waiting = async {
        while !context.client.answers().await {
            tokio::time::sleep(READY_EVERY).await;
        }
    };
    tokio::time::timeout(READY_TIMEOUT, waiting)
        .await
        .map_err(|_| {
            let api = &context.api;
            Failure::new(
                format!("the host was started and its API at {api} does not answer"),
                "its log above says why",
            )
        })
}

fn ended_early(ended: anyhow::Result<()>) -> Failure {
    match ended {
        Ok(()) => Failure::new("the host ended by itself", "its log above says why"),
        Err(error) => Failure::from(error),
    }
}
