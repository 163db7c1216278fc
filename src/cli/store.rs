//! `viking store`: copy, restore and move, for operators. They open the store themselves, with the
//! settings of `viking host`: no secret goes through the API.

use serde::Serialize;

use super::Context;
use super::args::{Output, StoreAction};
use super::failure::{Failure, Outcome};
use super::hosting::config;
use super::output::out;
use crate::host::keep;
use crate::model::wire::{rfc3339, schema};

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    schema: String,
    cluster: String,
    keys: usize,
    /// When it was read.
    at: String,
    /// Where it is now.
    place: String,
}

/// Does what was asked for.
pub(crate) async fn store(context: &Context, what: &StoreAction) -> Outcome {
    let (copy, place, verb) = match what {
        StoreAction::Copy(args) => {
            let config = config(&args.host, &context.api)?;
            let copy = keep::copy_store(&config, &args.file).await?;
            (copy, format!("in {}", args.file.display()), "copied")
        }
        StoreAction::Restore(args) => {
            let config = config(&args.host, &context.api)?;
            let (copy, place) = keep::restore(&config, &args.file).await?;
            (copy, place, "restored")
        }
        StoreAction::Move(args) => {
            let config = config(&args.host, &context.api)?;
            if config.etcd.is_none() {
                let hint = "give --etcd https://host:2379 and what reaching it needs";
                return Err(Failure::usage("nowhere to move the store to", hint));
            }
            let (copy, place) = keep::move_to_etcd(&config).await?;
            (copy, place, "moved")
        }
    };
    let report = Report {
        schema: schema("store-copy"),
        cluster: copy.cluster.clone(),
        keys: copy.len(),
        at: rfc3339(copy.at_ms),
        place,
    };
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(&report)?,
        Output::Name => out(&format!("{}\n", report.cluster))?,
        Output::Table | Output::Wide => out(&format!(
            "{verb}: {} keys of cluster {} as of {}, now {}\n",
            report.keys, report.cluster, report.at, report.place
        ))?,
    }
    Ok(0)
}
