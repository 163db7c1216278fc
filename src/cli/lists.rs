//! Commands that print lists: `stacks`, `images`, `events`, `history`, `debug keys`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Context;
use super::args::Output;
use super::failure::{Failure, Outcome};
use super::output::{Columns, out};
use super::show;
use crate::model::dump::Dump;
use crate::model::history::{RunEnd, RunRecord};
use crate::model::names::StackName;
use crate::model::wire::{EventRow, ImageRow, KeyRow, List, StackRow, rfc3339};

/// Asks for a list and prints it.
pub(super) async fn list<T>(context: &Context, path: &str, columns: &Columns<'_, T>) -> Outcome
where
    T: Serialize + DeserializeOwned,
{
    let list: List<T> = context.client.get(path).await?;
    context.print.list(&list, &list.items, columns)?;
    Ok(0)
}

pub(super) fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// Stacks.
pub(crate) async fn stacks(context: &Context) -> Outcome {
    let columns = Columns::<StackRow> {
        narrow: &[
            ("STACK", |row| row.stack.to_string()),
            ("LIVE", |row| or_dash(row.live.as_ref())),
            ("STAGED", |row| or_dash(row.staged.as_ref())),
            ("PHASE", |row| row.phase.to_string()),
            ("REPOSITORY", |row| or_dash(row.url.as_ref())),
        ],
        wide: &[
            ("BRANCH", |row| or_dash(row.branch.as_ref())),
            ("PATH", |row| row.path.clone()),
        ],
        name: |row| row.stack.to_string(),
    };
    list(context, "/v1/stacks", &columns).await
}

#[expect(clippy::cast_precision_loss, reason = "a count of cores, for people")]
pub(super) fn millis(thousandths: u64) -> f64 {
    thousandths as f64 / 1000.0
}

pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}

/// Images.
pub(crate) async fn images(context: &Context) -> Outcome {
    let columns = Columns::<ImageRow> {
        narrow: &[
            ("IMAGE", |row| format!("{}/{}", row.stack, row.image)),
            ("TAG", |row| row.tag.to_string()),
            ("DIGEST", |row| short_digest(&row.record.digest)),
            ("SIZE", |row| mebibytes(row.record.size_bytes)),
            ("BUILT BY", |row| row.record.built_by.to_string()),
        ],
        wide: &[
            ("SECONDS", |row| {
                format!("{:.1}", millis(row.record.build_ms))
            }),
            ("INPUT", |row| row.record.input.clone()),
            ("REFERENCE", |row| {
                format!("{}@{}", row.record.repository, row.record.digest)
            }),
        ],
        name: |row| format!("{}/{}:{}", row.stack, row.image, row.tag),
    };
    list(context, "/v1/images", &columns).await
}

fn short_digest(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

/// Events, of all stacks or one.
pub(crate) async fn events(context: &Context, stack: Option<&StackName>) -> Outcome {
    let columns = Columns::<EventRow> {
        narrow: &[
            ("WHEN", |row| row.at.clone()),
            ("WHO", |row| row.event.who.clone()),
            ("ABOUT", |row| row.event.about.clone()),
            ("WHAT", |row| row.event.what.clone()),
            ("WHY", |row| row.event.why.clone()),
        ],
        wide: &[],
        name: |row| row.event.about.clone(),
    };
    let path = match stack {
        Some(stack) => format!("/v1/events?stack={stack}"),
        None => "/v1/events".to_owned(),
    };
    list(context, &path, &columns).await
}

/// Runs of a stack.
pub(crate) async fn history(context: &Context, stack: &StackName) -> Outcome {
    let columns = Columns::<RunRecord> {
        narrow: &[
            ("ENDED", |row| rfc3339(row.ended_ms)),
            ("END", |row| end(row.end).to_owned()),
            ("TAG", |row| row.tag.to_string()),
            ("COMMIT", |row| {
                show::commit(&row.commit.id, &row.commit.subject)
            }),
            ("AUTHOR", |row| row.commit.author.clone()),
            ("WHY", why),
        ],
        wide: &[("STAGES", stages), ("RUN", |row| row.run.to_string())],
        name: |row| row.run.to_string(),
    };
    list(context, &format!("/v1/history/{stack}"), &columns).await
}

fn end(end: RunEnd) -> &'static str {
    match end {
        RunEnd::Live => "live",
        RunEnd::Failed => "failed",
        RunEnd::Superseded => "superseded",
        RunEnd::RolledBack => "rolled-back",
    }
}

fn why(run: &RunRecord) -> String {
    if run.stage.is_empty() {
        run.reason.clone()
    } else {
        format!("{}: {}", run.stage, run.reason)
    }
}

fn stages(run: &RunRecord) -> String {
    let stage = |(stage, ms): &(String, u64)| format!("{stage} {:.1}s", millis(*ms));
    run.stages_ms
        .iter()
        .map(stage)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Every key, a tab, its value on one line.
pub(crate) async fn keys(context: &Context) -> Outcome {
    let keys: List<KeyRow> = context.client.get("/v1/debug/keys").await?;
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(&keys)?,
        Output::Name => {
            out(&keys
                .items
                .iter()
                .map(|row| format!("{}\n", row.key))
                .collect::<String>())?;
        }
        Output::Table | Output::Wide => {
            let line = |row: &KeyRow| format!("{}\t{}\n", row.key, one_line(&row.value));
            out(&keys.items.iter().map(line).collect::<String>())?;
        }
    }
    Ok(0)
}

/// The world that the planner reads, always as JSON: it is for `viking sim`.
pub(crate) async fn dump(context: &Context) -> Outcome {
    let dump: Dump = context.client.get("/v1/debug/dump").await?;
    let text = serde_json::to_string(&dump).map_err(|error| Failure::new(error, ""))?;
    out(&(text + "\n"))?;
    Ok(0)
}

/// Line ends as `\n`, so that one line is one key.
fn one_line(value: &str) -> String {
    value.replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_on_its_line() {
        assert_eq!(one_line("a\nb"), "a\\nb");
        assert_eq!(short_digest("sha256:0123456789abcdef"), "0123456789ab");
    }
}
