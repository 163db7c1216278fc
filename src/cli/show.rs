//! `viking status` for people, and its exit code. Pure: a report in, text and a number out.

use std::time::{Duration, SystemTime};

use super::failure::CANNOT_TELL;
use super::output::{Grid, clean, paint};
use crate::model::release::{Phase, SET_ASIDE};
use crate::model::status::{
    HealthWord, JobStatus, NodeStatus, Role, StackStatus, StagedStatus, StatusReport, SyncWord,
};

/// Hex digits of a commit that people see.
const SHORT: usize = 12;
/// Exit code: drift, or something pending.
const PENDING: u8 = 1;
/// Exit code: degraded or blocked.
const DEGRADED: u8 = 3;

/// How things are, as an exit code: the worst wins, and "cannot tell" is never 0.
#[must_use]
pub fn exit_code(report: &StatusReport) -> u8 {
    let of = |stack: &StackStatus| match (stack.health, stack.sync) {
        (HealthWord::Degraded | HealthWord::Blocked, _) => DEGRADED,
        (_, SyncWord::Unknown) => CANNOT_TELL,
        (HealthWord::Progressing | HealthWord::Suspended, _)
        | (_, SyncWord::Behind | SyncWord::Quarantined) => PENDING,
        _ if stack.pending > 0 || !stack.drift.is_empty() => PENDING,
        (HealthWord::Healthy, SyncWord::Synced) => 0,
    };
    report.stacks.iter().map(of).max().unwrap_or(0)
}

/// The whole report.
#[must_use]
pub fn report(report: &StatusReport, colour: bool, wide: bool) -> String {
    let view = View {
        at: humantime::parse_rfc3339(&report.at).ok(),
        colour,
        wide,
    };
    let stacks: Vec<String> = report
        .stacks
        .iter()
        .map(|stack| view.stack(stack))
        .collect();
    stacks.join("\n")
}

/// Why a commit failed, with the last lines of its log.
#[must_use]
pub fn failure(stack: &str, staged: &StagedStatus) -> String {
    let what = commit(&staged.commit, &staged.subject);
    let reason = clean(&staged.reason);
    if staged.stage == SET_ASIDE {
        return format!("{stack} {what} is {reason}\n");
    }
    let mut text = format!("{stack} {what} failed at {}: {reason}\n", staged.stage);
    text.push_str(&log(&staged.log, "    "));
    text
}

/// A commit as people name it: `a1b2c3d4e5f6 "Add search"`.
#[must_use]
pub fn commit(id: &str, subject: &str) -> String {
    format!("{} \"{}\"", id.get(..SHORT).unwrap_or(id), clean(subject))
}

/// Whether a release was made from no commit, as viking's own stack is.
fn built_in(commit: &str) -> bool {
    commit.bytes().all(|digit| digit == b'0')
}

struct View {
    at: Option<SystemTime>,
    colour: bool,
    wide: bool,
}

impl View {
    fn stack(&self, stack: &StackStatus) -> String {
        let mut text = self.headline(stack);
        if !stack.reason.is_empty() {
            text.push_str(&format!("  {}\n", clean(&stack.reason)));
        }
        for staged in stack.staged.iter().chain(&stack.next) {
            text.push_str(&self.staged(staged));
        }
        let mut grid = Grid::new(self.colour);
        for node in &stack.nodes {
            self.node(node, &mut grid);
        }
        text.push_str(&grid.text("  "));
        text.push_str(&self.details(stack));
        text
    }

    /// `STACK shop  a1b2c3d4e5f6 "Add search" (anna, 12m ago)  synced  healthy`
    fn headline(&self, stack: &StackStatus) -> String {
        let live = match &stack.live {
            Some(live) if built_in(&live.commit) => "built in".to_owned(),
            Some(live) => format!(
                "{} ({}, {})",
                commit(&live.commit, &live.subject),
                clean(&live.author),
                self.ago(&live.at)
            ),
            None => "nothing live".to_owned(),
        };
        let (sync, health) = (stack.sync.to_string(), stack.health.to_string());
        let (sync, health) = (paint(&sync, self.colour), paint(&health, self.colour));
        format!("STACK {}  {live}  {sync}  {health}\n", stack.stack)
    }

    fn staged(&self, staged: &StagedStatus) -> String {
        let what = commit(&staged.commit, &staged.subject);
        let phase = paint(&staged.phase.to_string(), self.colour);
        let author = clean(&staged.author);
        let since = self.ago(&staged.since);
        if staged.phase != Phase::Failed {
            return format!("  next  {what} ({author})  {phase}, began {since}\n");
        }
        let stage = &staged.stage;
        if stage == SET_ASIDE {
            return format!("  not live  {what} ({author})  set aside, {since}\n");
        }
        let head = format!("  not live  {what} ({author})  {phase} at {stage}, {since}\n");
        head + &log(&staged.log, "    | ")
    }

    fn node(&self, node: &NodeStatus, grid: &mut Grid) {
        let counts = format!("{}/{}", node.healthy, node.want);
        let note = match (node.pending, node.note.is_empty()) {
            (true, _) => "a changed spec waits for `viking restart`".to_owned(),
            (false, false) => node.note.clone(),
            (false, true) => String::new(),
        };
        let role = match node.release {
            Role::Live => String::new(),
            role => role.to_string(),
        };
        let tag = node.tag.to_string();
        grid.row([node.node.to_string(), counts, tag, role, note]);
        for job in &node.jobs {
            self.job(node, job, grid);
        }
    }

    fn job(&self, node: &NodeStatus, job: &JobStatus, grid: &mut Grid) {
        let host = job
            .host
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let endpoints: Vec<String> = job
            .endpoints
            .iter()
            .map(|end| format!("{} at {}", end.port, end.address))
            .collect();
        let mut row = vec![
            format!("  {}.{}", node.node, job.slot),
            job.state.clone(),
            host,
            String::new(),
            endpoints.join(", ") + &self.why(job),
        ];
        if self.wide {
            row.push(job.container.clone().unwrap_or_default());
        }
        grid.row(row);
    }

    fn why(&self, job: &JobStatus) -> String {
        let mut why = job.reason.clone();
        if job.failures > 1 {
            why.push_str(&format!(", {} failures in a row", job.failures));
        }
        if let Some(next) = &job.next_try {
            why.push_str(&format!(", next try {}", self.until(next)));
        }
        why
    }

    /// Logs of failing jobs, drift, and what is still to do.
    fn details(&self, stack: &StackStatus) -> String {
        let mut text = String::new();
        for (node, job) in stack.jobs().filter(|(_, job)| !job.log.is_empty()) {
            let name = format!("{}/{}.{}", stack.stack, node.node, job.slot);
            text.push_str(&format!("  last lines of {name}:\n"));
            text.push_str(&log(&job.log, "    | "));
        }
        for drift in &stack.drift {
            text.push_str(&format!(
                "  drift  {}: {} is {}, wanted {} ({}); {}\n",
                drift.job,
                drift.what,
                clean(&drift.found),
                clean(&drift.wanted),
                self.ago(&drift.since),
                drift.action
            ));
        }
        if stack.pending > 0 {
            text.push_str(&format!("  {} pending\n", stack.pending));
        }
        text
    }

    fn ago(&self, time: &str) -> String {
        match self.distance(time) {
            Some((span, _)) => format!("{} ago", span_text(span)),
            None => time.to_owned(),
        }
    }

    fn until(&self, time: &str) -> String {
        match self.distance(time) {
            Some((span, true)) => format!("in {}", span_text(span)),
            Some((_, false)) => "now".to_owned(),
            None => time.to_owned(),
        }
    }

    /// How far a time is from the report's, and whether it is later.
    fn distance(&self, time: &str) -> Option<(Duration, bool)> {
        let (at, time) = (self.at?, humantime::parse_rfc3339(time).ok()?);
        Some(match at.duration_since(time) {
            Ok(ago) => (ago, false),
            Err(ahead) => (ahead.duration(), true),
        })
    }
}

/// The largest unit is enough for people: `12m`.
fn span_text(span: Duration) -> String {
    match span.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

fn log(lines: &[String], indent: &str) -> String {
    let line = |line: &String| format!("{indent}{}\n", clean(line));
    lines.iter().map(line).collect()
}
