//! `viking hosts`: the machines, and what becomes of one. The leader moves the jobs; `drain` waits
//! and says how far it is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Context;
use super::args::{DrainArgs, HostsAction, OneHost, Output};
use super::failure::{FAILED, Failure, Outcome};
use super::lists::{list, mebibytes, millis, or_dash};
use super::output::{Columns, clean, out};
use crate::model::host::{EngineState, Readiness};
use crate::model::names::HostName;
use crate::model::wire::{HostJob, HostJobs, HostRow};

/// Between two looks at a host that is drained.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Lists hosts, or changes one.
pub(crate) async fn hosts(context: &Context, what: Option<&HostsAction>) -> Outcome {
    match what {
        None => list_hosts(context).await,
        Some(HostsAction::Cordon(OneHost { host })) => {
            let now = decide(context, host, "cordon").await?;
            let line = format!("{host}: takes no new jobs; {} stay\n", count(&now.jobs));
            say(context, &now, &line)
        }
        Some(HostsAction::Uncordon(OneHost { host })) => {
            let now = decide(context, host, "uncordon").await?;
            say(context, &now, &format!("{host}: takes jobs again\n"))
        }
        Some(HostsAction::Drain(args)) => drain(context, args).await,
        Some(HostsAction::Forget(OneHost { host })) => {
            let path = format!("/v1/hosts/{host}");
            let before: HostJobs = context.client.delete(&path).await?;
            say(context, &before, &forgotten(&before))
        }
    }
}

async fn decide(context: &Context, host: &HostName, verb: &str) -> Result<HostJobs, Failure> {
    let path = format!("/v1/hosts/{host}/{verb}");
    context.client.post(&path, &serde_json::json!({})).await
}

fn say(context: &Context, now: &HostJobs, line: &str) -> Outcome {
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(now)?,
        Output::Name => out(&format!("{}\n", now.host))?,
        Output::Table | Output::Wide => {
            let lines = line.lines().map(|line| format!("{}\n", clean(line)));
            out(&lines.collect::<String>())?;
        }
    }
    Ok(0)
}

fn count(jobs: &[HostJob]) -> String {
    match jobs.len() {
        1 => "1 job".to_owned(),
        n => format!("{n} jobs"),
    }
}

fn forgotten(before: &HostJobs) -> String {
    let mut text = format!("{}: counted on no longer\n", before.host);
    for job in &before.jobs {
        let what = if job.leaves {
            "is started elsewhere".to_owned()
        } else {
            format!("stays blocked: {}", job.why)
        };
        text.push_str(&format!("  {}  {what}\n", job.job));
    }
    text
}

/// Asks, then waits until everything that may leave has left.
async fn drain(context: &Context, args: &DrainArgs) -> Outcome {
    let host = &args.host;
    let mut now = decide(context, host, "drain").await?;
    let until = Instant::now() + args.timeout;
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    while !args.no_wait && now.jobs.iter().any(|job| job.leaves) {
        for job in now.jobs.iter().filter(|job| job.leaves) {
            if told.insert(job.job.clone(), job.why.clone()).as_ref() != Some(&job.why) {
                context
                    .print
                    .remark(&clean(&format!("{}  {}", job.job, job.why)));
            }
        }
        if Instant::now() >= until {
            let left = now.jobs.iter().filter(|job| job.leaves).count();
            return Err(Failure::new(
                format!("{left} jobs are still on {host} after {:?}", args.timeout),
                format!("it goes on: see `viking hosts drain {host}` again, or `viking events`"),
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        now = context
            .client
            .get(&format!("/v1/hosts/{host}/jobs"))
            .await?;
        if now.readiness != Readiness::Draining {
            return Err(Failure::new(
                format!("{host} is drained no longer: somebody took that back"),
                format!("viking hosts drain {host}"),
            ));
        }
    }
    say(context, &now, &drained(&now, args.no_wait))?;
    Ok(if now.jobs.is_empty() || args.no_wait {
        0
    } else {
        FAILED
    })
}

fn drained(now: &HostJobs, no_wait: bool) -> String {
    let host = &now.host;
    if now.jobs.is_empty() {
        return format!("{host}: nothing is left there\n");
    }
    let head = if no_wait {
        "is being drained"
    } else {
        "all that may leave has left"
    };
    let mut text = format!("{host}: {head}\n");
    for job in &now.jobs {
        let what = if job.leaves { "leaves" } else { "stays" };
        text.push_str(&format!("  {}  {what}: {}\n", job.job, job.why));
    }
    text
}

async fn list_hosts(context: &Context) -> Outcome {
    let columns = Columns::<HostRow> {
        narrow: &[
            ("HOST", |row| row.host.to_string()),
            ("SEEN", seen),
            ("TAKES JOBS", readiness),
            ("DOCKER", |row| {
                row.engine.as_ref().map_or_else(|| "-".to_owned(), engine)
            }),
            ("ADDRESS", |row| or_dash(row.address.as_ref())),
            ("JOBS", |row| row.jobs.to_string()),
            ("TAGS", |row| {
                row.tags.iter().cloned().collect::<Vec<_>>().join(",")
            }),
        ],
        wide: &[
            ("CPU", |row| {
                let (used, all) = (row.reserved.cpu_millis, row.capacity.cpu_millis);
                format!("{:.1}/{:.1}", millis(used), millis(all))
            }),
            ("MEMORY", |row| {
                let (used, all) = (row.reserved.memory_bytes, row.capacity.memory_bytes);
                format!("{}/{}", mebibytes(used), mebibytes(all))
            }),
            ("API", |row| or_dash(row.api.as_ref())),
            ("VIKING", |row| or_dash(row.version.as_ref())),
        ],
        name: |row| row.host.to_string(),
    };
    list(context, "/v1/hosts", &columns).await
}

fn seen(row: &HostRow) -> String {
    match (row.alive, row.leader, &row.gone_since) {
        (true, true, _) => "now, leads".to_owned(),
        (true, false, _) => "now".to_owned(),
        (false, _, Some(since)) => format!("not since {since}"),
        (false, _, None) => "no".to_owned(),
    }
}

fn readiness(row: &HostRow) -> String {
    match row.readiness {
        Readiness::Ready => "yes",
        Readiness::Cordoned => "no, cordoned",
        Readiness::Draining => "no, draining",
    }
    .to_owned()
}

fn engine(engine: &EngineState) -> String {
    match engine {
        EngineState::Up { version } => version.clone(),
        EngineState::Down { reason } => format!("down: {reason}"),
    }
}
