//! `viking routes` and `viking route`: which domains lead where, and why.

use super::Context;
use super::args::{Output, RouteArgs};
use super::failure::Outcome;
use super::lists::{list, or_dash};
use super::output::{Columns, Grid, clean, out};
use crate::model::wire::{RouteReport, RouteRow};

/// Every domain.
pub(crate) async fn routes(context: &Context) -> Outcome {
    let columns = Columns::<RouteRow> {
        narrow: &[
            ("DOMAIN", |row| row.domain.clone()),
            ("NODE", |row| format!("{}/{}", row.stack, row.node)),
            ("PORT", |row| or_dash(row.port.as_ref())),
            ("COPIES", |row| row.copies.to_string()),
            ("NOTE", note),
        ],
        wide: &[
            ("SINCE", |row| or_nothing(&row.since)),
            ("CERTIFICATE", |row| or_nothing(&row.certificate)),
        ],
        name: |row| row.domain.clone(),
    };
    list(context, "/v1/routes", &columns).await
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn note(row: &RouteRow) -> String {
    match row.denied.as_slice() {
        [] if row.copies == 0 => "no healthy copy".to_owned(),
        [] => "-".to_owned(),
        denied => format!("not given to {}", denied.join(", ")),
    }
}

/// One URL. Ends with 1 when it leads nowhere.
pub(crate) async fn route(context: &Context, args: &RouteArgs) -> Outcome {
    let url: String = url::form_urlencoded::byte_serialize(args.url.as_bytes()).collect();
    let report: RouteReport = context.client.get(&format!("/v1/route?url={url}")).await?;
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(&report)?,
        Output::Name => {
            let node = report.route.iter();
            let node = node.map(|row| format!("{}/{}\n", row.stack, row.node));
            out(&node.collect::<String>())?;
        }
        Output::Table | Output::Wide => out(&text(&report, context.print.colour))?,
    }
    Ok(if report.route.is_some() { 0 } else { 1 })
}

fn text(report: &RouteReport, colour: bool) -> String {
    let Some(row) = &report.route else {
        return format!("{}: {}\n", clean(&report.host), clean(&report.because));
    };
    let port = row.port.map(|port| format!(", port {port}"));
    let mut text = format!(
        "{} → {}/{}{}\n  {}\n",
        clean(&report.host),
        row.stack,
        row.node,
        port.unwrap_or_default(),
        clean(&report.because)
    );
    if !row.certificate.is_empty() {
        text += &format!("  certificate: {}\n", clean(&row.certificate));
    }
    for denied in &row.denied {
        text += &format!("  not given to {denied}, which names it too\n");
    }
    let mut grid = Grid::new(colour);
    for copy in &report.copies {
        grid.row([
            if copy.asked { "→" } else { "-" }.to_owned(),
            copy.job.clone(),
            copy.tag.to_string(),
            copy.host.to_string(),
            or_dash(copy.address.as_ref()),
            copy.because.clone(),
        ]);
    }
    text + &grid.text("  ")
}
