//! A plan as the lines people compare. Only prints; decides nothing.

use std::fmt::Write as _;

use crate::model::job::Assignment;
use crate::model::plan::{Flip, Plan};
use crate::model::world::PinKey;

/// A plan as lines, in a stable order.
#[must_use]
pub fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    for job in &plan.kept {
        line(&mut text, format_args!("keep    {job}"));
    }
    for start in &plan.start {
        let beside = if start.beside {
            ", beside the one there is"
        } else {
            ""
        };
        line(
            &mut text,
            format_args!("start   {} on {}{beside}", start.job, start.host),
        );
        for verdict in &start.verdicts {
            line(
                &mut text,
                format_args!("          {}: {}", verdict.host, verdict.ruling),
            );
        }
    }
    for flip in &plan.flip {
        let Flip {
            job,
            from,
            to,
            reason,
            ..
        } = flip;
        line(
            &mut text,
            format_args!("flip    {job} from {from} to {to}: {reason}"),
        );
    }
    for stop in &plan.stop {
        let Assignment { job, host, .. } = &stop.placement;
        line(
            &mut text,
            format_args!("stop    {job} on {host}: {}", stop.reason),
        );
    }
    for (word, list) in [("waiting", &plan.waiting), ("blocked", &plan.blocked)] {
        for unplaced in list {
            line(
                &mut text,
                format_args!("{word} {}: {}", unplaced.job, unplaced.reason),
            );
            for verdict in &unplaced.verdicts {
                line(
                    &mut text,
                    format_args!("          {}: {}", verdict.host, verdict.ruling),
                );
            }
        }
    }
    for (key, pin) in plan.pins.values() {
        let key = match key {
            PinKey::Seat(seat) => seat.to_string(),
            PinKey::Volume(stack, volume) => format!("{stack}/{volume}"),
        };
        line(
            &mut text,
            format_args!("pin     {key} to {}: {}", pin.host, pin.reason),
        );
    }
    text
}

fn line(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    writeln!(text, "{args}").ok();
}
