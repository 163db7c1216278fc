//! `viking logs`: what jobs print, line by line, each with its job when there may be several.

use super::Context;
use super::args::{LogsArgs, Output};
use super::failure::{Failure, Outcome};
use super::output::out;
use crate::model::names::{NodeName, StackName, node_and_slot};
use crate::model::wire::LogRow;

/// Most lines of each job to start with: the host sends no more either.
const TAIL_MAX: usize = 10_000;

/// Prints the lines of the jobs that were named.
pub(crate) async fn logs(context: &Context, args: &LogsArgs) -> Outcome {
    let what = Wanted::parse(&args.what)?;
    let follow = args.follow;
    let tail = args.tail.min(TAIL_MAX);
    let path = format!("/v1/logs/{}?follow={follow}&tail={tail}", what.path());
    let mut lines = context.client.lines(&path).await?;
    while let Some(row) = lines.next::<LogRow>().await? {
        print(context, &row)?;
    }
    Ok(0)
}

fn print(context: &Context, row: &LogRow) -> Result<(), Failure> {
    match context.print.form {
        Output::Json | Output::Yaml => {
            let line = serde_json::to_string(row).map_err(|error| Failure::new(error, ""))?;
            out(&(line + "\n"))
        }
        Output::Wide => out(&format!(
            "{} {} {} | {}\n",
            row.job, row.tag, row.host, row.text
        )),
        Output::Table | Output::Name if context.print.quiet => out(&format!("{}\n", row.text)),
        Output::Table | Output::Name => out(&format!("{} | {}\n", row.job, row.text)),
    }
}

/// `stack`, `stack/node` or `stack/node.slot`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stack: StackName,
    pub(super) node: Option<NodeName>,
    slot: Option<u32>,
}

impl Wanted {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let hint = "name jobs as stack, stack/node or stack/node.slot";
        let wrong = |why: &dyn std::fmt::Display| Failure::usage(why, hint);
        let (stack, rest) = match text.split_once('/') {
            Some((stack, rest)) => (stack, Some(rest)),
            None => (text, None),
        };
        let (node, slot) = rest.map(node_and_slot).unzip();
        let slot = slot.flatten().filter(|slot| !slot.is_empty());
        let number = |slot: &str| {
            slot.parse::<u32>()
                .map_err(|_| wrong(&format!("{slot:?} is not the number of a slot")))
        };
        Ok(Self {
            stack: stack.parse().map_err(|error| wrong(&error))?,
            node: node
                .map(str::parse)
                .transpose()
                .map_err(|error| wrong(&error))?,
            slot: slot.map(number).transpose()?,
        })
    }

    pub(super) fn path(&self) -> String {
        let stack = &self.stack;
        match (&self.node, self.slot) {
            (Some(node), Some(slot)) => format!("{stack}/{node}.{slot}"),
            (Some(node), None) => format!("{stack}/{node}"),
            (None, _) => stack.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_stack_node_and_slot() {
        for (text, path) in [
            ("a", "a"),
            ("a/b", "a/b"),
            ("a/b.3", "a/b.3"),
            ("a/b.before", "a/b.before"),
            ("a/b.before.0", "a/b.before.0"),
        ] {
            assert_eq!(Wanted::parse(text).unwrap().path(), path);
        }
        for bad in ["", "/", "a/", "a/b.x", "a/b/c", "A", "a/../x"] {
            let failure = Wanted::parse(bad).unwrap_err();
            assert_eq!(failure.code, super::super::failure::USAGE, "{bad}");
        }
    }
}
