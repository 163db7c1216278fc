//! The live view of `viking up`: a moving line on a terminal, plain lines elsewhere, nothing with
//! `-q`. Always on stderr. Shows what it is told; asks nobody.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{clean, note};
use crate::model::progress::{Progress, Stage};
use crate::model::status::{Role, StackStatus};

/// How progress is shown.
pub(crate) struct View {
    how: How,
    /// Last words of each job, so that only changes are printed.
    jobs: BTreeMap<String, String>,
    /// Last words of the stack.
    stack: String,
}

enum How {
    Quiet,
    Plain,
    Moving(ProgressBar),
}

impl View {
    /// As flags, environment and stderr say.
    pub(crate) fn new(quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let how = if quiet {
            How::Quiet
        } else if plain || !std::io::stderr().is_terminal() {
            How::Plain
        } else {
            How::Moving(spinner())
        };
        Self {
            how,
            jobs: BTreeMap::new(),
            stack: String::new(),
        }
    }

    /// A step of the commit.
    pub(crate) fn progress(&self, progress: &Progress) {
        let stage = word(progress.stage);
        let about = clean(&progress.about);
        let line = clean(&progress.line);
        let text = format!(
            "{stage:<10}{about}{}{line}",
            if about.is_empty() { "" } else { "  " }
        );
        match (&self.how, progress.stage) {
            // A build's log is long: on a terminal its last line is enough while it runs.
            (How::Moving(bar), Stage::Build | Stage::Push) => bar.set_message(text),
            // What jobs do is shown from their state, which cannot be missed.
            (How::Moving(bar), Stage::Start | Stage::Health) => bar.set_message(text),
            (_, Stage::Start | Stage::Health) => {}
            _ => self.line(&text),
        }
    }

    /// How the stack is: prints what changed since the last time.
    pub(crate) fn status(&mut self, stack: &StackStatus) {
        let staged = stack.staged.as_ref();
        let words = match staged {
            Some(staged) => {
                let why = clean(&staged.reason);
                let dash = if why.is_empty() { "" } else { ": " };
                format!("{:<10}{}{dash}{why}", staged.phase.to_string(), staged.tag)
            }
            None => String::new(),
        };
        if !words.is_empty() && words != self.stack {
            self.line(&words);
        }
        self.stack = words;
        for (name, words) in job_words(stack) {
            if self.jobs.get(&name) != Some(&words) {
                self.line(&format!("{:<10}{name} {words}", "job"));
                self.jobs.insert(name, words);
            }
        }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.how {
            How::Quiet => {}
            How::Plain => note(text),
            How::Moving(bar) => bar.suspend(|| note(text)),
        }
    }

    /// Nothing moves any more.
    pub(crate) fn rest(&self) {
        if let How::Moving(bar) = &self.how {
            bar.set_message("");
            bar.finish_and_clear();
        }
    }

    /// Something moves again.
    pub(crate) fn wake(&mut self) {
        if let How::Moving(bar) = &mut self.how {
            *bar = spinner();
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// What each job of the newest release does, in words.
fn job_words(stack: &StackStatus) -> Vec<(String, String)> {
    let shown = |role: Role| role != Role::Retiring;
    let jobs = stack.jobs().filter(|(node, _)| shown(node.release));
    jobs.map(|(node, job)| {
        let name = format!("{}/{}.{} ({})", stack.stack, node.node, job.slot, node.tag);
        let why = if job.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", clean(&job.reason))
        };
        (name, format!("{}{why}", job.state))
    })
    .collect()
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Fetch => "fetch",
        Stage::Parse => "parse",
        Stage::Build => "build",
        Stage::Push => "push",
        Stage::Stage => "stage",
        Stage::Start => "start",
        Stage::Health => "health",
        Stage::Live => "live",
        Stage::Failed => "failed",
    }
}
