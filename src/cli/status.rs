//! `viking status`: asks, prints, and says how things are by its exit code.

use std::time::Duration;

use super::Context;
use super::args::{Output, StatusArgs};
use super::failure::{CANNOT_TELL, Failure, Outcome, USAGE};
use super::output::out;
use super::show;
use crate::model::names::StackName;
use crate::model::status::{StackStatus, StatusReport};

/// Time between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Shows how things are.
pub(crate) async fn status(context: &Context, args: &StatusArgs) -> Outcome {
    let mut last: Option<Vec<StackStatus>> = None;
    loop {
        let report = fetch(context, args.stack.as_ref())
            .await
            .map_err(cannot_tell)?;
        if last.as_ref() != Some(&report.stacks) {
            print(context, &report, args.watch)?;
        }
        if !args.watch {
            return Ok(if args.exit_code {
                show::exit_code(&report)
            } else {
                0
            });
        }
        last = Some(report.stacks);
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The report of all stacks, or of one.
pub(crate) async fn fetch(
    context: &Context,
    stack: Option<&StackName>,
) -> Result<StatusReport, Failure> {
    let path = match stack {
        Some(stack) => format!("/v1/status/{stack}"),
        None => "/v1/status".to_owned(),
    };
    context.client.get(&path).await
}

/// No answer is not a bad answer.
pub(super) fn cannot_tell(failure: Failure) -> Failure {
    match failure.code {
        USAGE => failure,
        _ => Failure {
            code: CANNOT_TELL,
            ..failure
        },
    }
}

fn print(context: &Context, report: &StatusReport, watch: bool) -> Result<(), Failure> {
    let printer = &context.print;
    match printer.form {
        Output::Json if watch => {
            let line = serde_json::to_string(report).map_err(|error| Failure::new(error, ""))?;
            out(&(line + "\n"))
        }
        Output::Json | Output::Yaml => printer.data(report),
        Output::Name => {
            let names = report
                .stacks
                .iter()
                .map(|stack| format!("{}\n", stack.stack));
            out(&names.collect::<String>())
        }
        Output::Table | Output::Wide => {
            if report.stacks.is_empty() {
                printer.remark("nothing is followed yet: viking add URL, or viking up PATH");
            }
            let clear = if watch && printer.colour {
                "\u{1b}[H\u{1b}[J"
            } else {
                ""
            };
            let wide = printer.form == Output::Wide;
            out(&format!(
                "{clear}{}",
                show::report(report, printer.colour, wide)
            ))
        }
    }
}
