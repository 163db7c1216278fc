//! `viking why`: why jobs are where they are, or nowhere.

use super::Context;
use super::args::{Output, WhyArgs};
use super::failure::{Failure, Outcome};
use super::logs::Wanted;
use super::output::{Grid, clean, out};
use crate::model::wire::{WhyJob, WhyReport};

/// Asks and prints.
pub(crate) async fn why(context: &Context, args: &WhyArgs) -> Outcome {
    let what = Wanted::parse(&args.what)?;
    if what.node.is_none() {
        let hint = format!(
            "viking why {}/NODE; viking status lists the nodes",
            what.stack
        );
        return Err(Failure::usage("a stack has many jobs: name a node", hint));
    }
    let mut path = format!("/v1/why/{}", what.path());
    if let Some(host) = &args.not {
        path = format!("{path}?not={host}");
    }
    let report: WhyReport = context.client.get(&path).await?;
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(&report)?,
        Output::Name => {
            let names = report
                .jobs
                .iter()
                .map(|job| format!("{}\n", job.job.short()));
            out(&names.collect::<String>())?;
        }
        form @ (Output::Table | Output::Wide) => {
            let wide = form == Output::Wide;
            let jobs = report
                .jobs
                .iter()
                .map(|job| text(job, wide, context.print.colour));
            out(&jobs.collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(0)
}

fn text(job: &WhyJob, wide: bool, colour: bool) -> String {
    let at = job.host.as_ref().map(|host| format!(" on {host}"));
    let mut text = format!(
        "{} at {} ({}): {}{}\n",
        job.job.short(),
        job.job.tag,
        job.role,
        job.state,
        at.unwrap_or_default()
    );
    if !job.because.is_empty() {
        text += &format!("  {}\n", clean(&job.because));
    }
    if let Some(decided) = &job.decided {
        text += &format!(
            "  decided {} in run {}, on revision {}\n",
            decided.at, decided.run, decided.revision
        );
    }
    if let Some(not) = &job.not {
        let when = if not.decided {
            ""
        } else {
            ", as the rules are now"
        };
        text += &format!("  not on {}{when}: {}\n", not.host, clean(&not.because));
    }
    // Of a job that has a host the sentence says it; of one that has none each host matters.
    if wide || (job.not.is_none() && job.host.is_none()) {
        let mut grid = Grid::new(colour);
        for verdict in &job.verdicts {
            let mark = match (job.host.as_ref() == Some(&verdict.host), verdict.fits) {
                (true, _) => "→",
                (false, true) => "+",
                (false, false) => "-",
            };
            let cells = [
                mark.to_owned(),
                verdict.host.to_string(),
                verdict.reason.clone(),
            ];
            grid.row(cells);
        }
        text += &grid.text("  ");
    }
    text
}
