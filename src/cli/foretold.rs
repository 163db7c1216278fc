//! What a commit would do, as text: for `viking plan`, `viking diff` and `viking sim --commit`. Pure.

use super::output::{Grid, clean};
use crate::model::foretold::{Downtime, FieldChange, Foretold, NodeFate};
use crate::model::history::ChangeKind;

/// How much is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    /// What stays as it is as well.
    pub(super) all: bool,
    /// Whether words get their colour.
    pub(super) colour: bool,
    /// What would happen, one after the other.
    pub(super) order: bool,
}

/// The sections, each with a heading, those without content left out.
pub(super) fn text(told: &Foretold, show: Show) -> String {
    let mut text = heading(told);
    if !told.refused.is_empty() {
        text += &format!("  it would fail: {}\n", lines(&told.refused));
    }
    if !told.waits_for.is_empty() {
        text += &format!("  it would wait: {}\n", lines(&told.waits_for));
    }
    let mut section = |name: &str, mut grid: Grid| {
        let rows = grid.text("    ");
        if !rows.is_empty() {
            text += &format!("  {name}\n{rows}");
        }
    };
    section("images", images(told, show));
    section("nodes", nodes(told, show));
    section("jobs", jobs(told, show));
    section("routes", routes(told, show));
    if show.order {
        let mut order = Grid::new(show.colour);
        for (n, step) in told.order.iter().enumerate() {
            order.row([format!("{}.", n + 1), step.clone()]);
        }
        section("order", order);
    }
    if !told.changes() && told.refused.is_empty() {
        text += "  nothing changes\n";
    }
    text
}

fn heading(told: &Foretold) -> String {
    let beside = match (&told.live, &told.staged) {
        (Some(live), Some(staged)) => format!("{live} is live, {staged} would give way"),
        (Some(live), None) => format!("{live} is live"),
        (None, Some(staged)) => format!("nothing is live, {staged} would give way"),
        (None, None) => "nothing is live".to_owned(),
    };
    let commit = &told.commit;
    let subject = clean(&commit.subject);
    format!("{}: {} {subject:?} ({beside})\n", told.stack, told.tag)
}

/// Errors of `viking.yml` have several.
fn lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(clean).collect();
    lines.join("\n    ")
}

fn images(told: &Foretold, show: Show) -> Grid {
    let mut grid = Grid::new(show.colour);
    for image in told.images.iter().filter(|image| image.built || show.all) {
        let what = if image.built { "build" } else { "reuse" };
        grid.row([image.image.to_string(), what.to_owned(), image.why.clone()]);
    }
    grid
}

fn nodes(told: &Foretold, show: Show) -> Grid {
    let mut grid = Grid::new(show.colour);
    for node in told.nodes.iter().filter(|node| show.all || node.differs()) {
        grid.row([node.node.to_string(), what(node), remarks(told, node)]);
        for field in &node.fields {
            grid.row([String::new(), format!("  {}", field.field), change(field)]);
        }
    }
    grid
}

fn what(node: &NodeFate) -> String {
    let word = match node.what {
        ChangeKind::Kept if node.pending => "waits",
        ChangeKind::Kept if !node.fields.is_empty() => "adjusted",
        ChangeKind::Kept => "kept",
        ChangeKind::Changed => "changed",
        ChangeKind::New => "new",
        ChangeKind::Gone => "gone",
        ChangeKind::First => "runs first",
    };
    word.to_owned()
}

fn remarks(told: &Foretold, node: &NodeFate) -> String {
    let mut remarks = Vec::new();
    if node.pending {
        let restart = format!("viking restart {}/{}", told.stack, node.node);
        remarks.push(format!("a service: its spec waits for `{restart}`"));
    }
    match node.downtime {
        Downtime::None if node.what == ChangeKind::Changed => {
            remarks.push("no downtime".to_owned());
        }
        Downtime::None => {}
        Downtime::StopFirst => {
            remarks.push("each copy stops before its successor starts".to_owned());
        }
        Downtime::Data => remarks.push(
            "each copy stops before its successor starts, which works on its data".to_owned(),
        ),
    }
    if !node.volumes.is_empty() {
        let stay = match node.what {
            ChangeKind::Gone => "stay",
            ChangeKind::New => "made",
            ChangeKind::Kept | ChangeKind::Changed | ChangeKind::First => "kept",
        };
        remarks.push(format!("volumes {stay}: {}", node.volumes.join(", ")));
    }
    remarks.join("; ")
}

fn change(field: &FieldChange) -> String {
    match (field.before.as_str(), field.after.as_str()) {
        ("", "") => "differs".to_owned(),
        ("", after) => format!("→ {after}"),
        (before, "") => format!("{before} → (none)"),
        (before, after) => format!("{before} → {after}"),
    }
}

fn jobs(told: &Foretold, show: Show) -> Grid {
    let mut grid = Grid::new(show.colour);
    for job in told.jobs.iter().filter(|job| show.all || job.differs()) {
        let place = match (&job.was, &job.host) {
            (Some(was), Some(host)) if was == host => format!("on {host}"),
            (Some(was), Some(host)) => format!("{was} → {host}"),
            (None, Some(host)) => format!("→ {host}"),
            (Some(was), None) if job.tag.is_none() => format!("ends on {was}"),
            (_, None) if job.tag.is_none() => "ends".to_owned(),
            (_, None) => "nowhere".to_owned(),
        };
        let how = match (&job.tag, job.restarts) {
            (Some(_), false) => "runs on".to_owned(),
            (Some(tag), true) => format!("new container at {tag}"),
            (None, _) => String::new(),
        };
        grid.row([format!("{}.{}", job.node, job.slot), place, how]);
    }
    grid
}

fn routes(told: &Foretold, show: Show) -> Grid {
    let mut grid = Grid::new(show.colour);
    for route in told
        .routes
        .iter()
        .filter(|route| show.all || route.differs())
    {
        let what = match route.what {
            ChangeKind::Kept | ChangeKind::First => "kept",
            ChangeKind::Changed => "changed",
            ChangeKind::New => "new",
            ChangeKind::Gone => "gone",
        };
        let held = route.held_by.as_ref();
        let held = held.map(|stack| format!("{stack} has it and keeps it"));
        grid.row([
            route.domain.clone(),
            what.to_owned(),
            route.node.to_string(),
            held.unwrap_or_default(),
        ]);
    }
    grid
}
