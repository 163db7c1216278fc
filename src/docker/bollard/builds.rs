//! Builds through bollard's classic builder: the context streamed in, the log streamed out. Called
//! by the engine's trait only. Dropping the future closes the connection, which ends the build.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bollard::models::BuildInfo;
use bollard::query_parameters::BuildImageOptions;
use futures_util::{StreamExt, TryStreamExt};
use tokio_stream::wrappers::ReceiverStream;

use super::errors::{Doing, said, sort};
use super::images::reference;
use super::{BollardEngine, too_late};
use crate::docker::lines::{BUILD_LINE_MAX, LineSplitter, plain};
use crate::docker::{BuildRequest, Engine, Error, Lines, Result};

/// A build's whole log, in bytes: more would fill the leader's memory and nobody reads it.
const LOG_MAX: usize = 16 * 1024 * 1024;
/// Said once when a log is longer.
const LOG_CUT: &str = "(the log is too long; all but its end is left out)";
/// Lines kept for the error of a failed build: what `status` shows.
const LAST_LINES: usize = 20;
/// The builder's own words about its containers and layers: no help in an error.
const BOOKKEEPING: &[&str] = &[" ---> ", "Removing intermediate container"];

impl BollardEngine {
    pub(super) async fn build_image(&self, request: BuildRequest, lines: &Lines) -> Result<String> {
        reference(&request.name)?;
        let raw = self.raw().await?;
        // Why the context ended early, told by the body's stream to whoever reads the answer.
        let broken: Arc<OnceLock<String>> = Arc::default();
        let seen = Arc::clone(&broken);
        let options = options(&request);
        let context = ReceiverStream::new(request.context).inspect_err(move |error| {
            seen.get_or_init(|| error.to_string());
        });
        let steps = raw.build_image(options, None, Some(bollard::body_try_stream(context)));
        let mut log = Log::new(lines);
        let reading = async {
            let mut steps = std::pin::pin!(steps);
            let mut image = None;
            while let Some(step) = steps.next().await {
                let step = step.map_err(|error| sort(error, Doing::Build))?;
                image = log.read(step).await?.or(image);
            }
            image.ok_or_else(|| Error::Other("the build ended without an image".into()))
        };
        let built = match tokio::time::timeout(self.deadlines.build, reading).await {
            Ok(built) => built,
            Err(_) => Err(self.too_long().await),
        };
        log.flush().await;
        match (built, broken.get()) {
            (Err(_), Some(reason)) => Err(Error::Other(format!("the build context: {reason}"))),
            (Err(Error::BuildFailed(text)), None) => Err(Error::BuildFailed(log.after(&text))),
            (built, _) => built,
        }
    }

    /// Whether the engine hangs or the build does.
    async fn too_long(&self) -> Error {
        let deadline = self.deadlines.build;
        match self.info().await {
            Ok(_) => Error::BuildFailed(format!("no end within {deadline:?}")),
            Err(_) => too_late(deadline),
        }
    }
}

fn options(request: &BuildRequest) -> BuildImageOptions {
    BuildImageOptions {
        dockerfile: request.dockerfile.clone(),
        t: Some(request.name.clone()),
        // Half a build leaves no container behind.
        rm: true,
        forcerm: true,
        buildargs: Some(request.args.clone().into_iter().collect()),
        labels: Some(request.labels.clone().into_iter().collect()),
        platform: request.platform.clone().unwrap_or_default(),
        target: request.target.clone().unwrap_or_default(),
        ..BuildImageOptions::default()
    }
}

/// The log on its way from the engine to people.
struct Log<'a> {
    lines: &'a Lines,
    splitter: LineSplitter,
    bytes: usize,
    last: VecDeque<String>,
}

impl<'a> Log<'a> {
    fn new(lines: &'a Lines) -> Self {
        Self {
            lines,
            splitter: LineSplitter::new(BUILD_LINE_MAX),
            bytes: 0,
            last: VecDeque::new(),
        }
    }

    /// Passes a step on; answers the image's id if it is the step that tells it.
    async fn read(&mut self, step: BuildInfo) -> Result<Option<String>> {
        if let Some(text) = &step.stream {
            for line in self.splitter.push(text.as_bytes()) {
                self.say(&line).await;
            }
        }
        if let Some(line) = pulled(&step) {
            self.say(&line).await;
        }
        match step.error_detail.and_then(|error| error.message) {
            Some(message) => Err(said(None, &message, Doing::Build)),
            None => Ok(step.aux.and_then(|aux| aux.id)),
        }
    }

    /// Says what is left; of a log that was cut, its end.
    async fn flush(&mut self) {
        if let Some(line) = self.splitter.finish() {
            self.say(&line).await;
        }
        if self.bytes > LOG_MAX {
            for line in &self.last {
                // Nobody listening is fine.
                self.lines.send(line.clone()).await.ok();
            }
        }
    }

    async fn say(&mut self, line: &str) {
        let line = plain(line);
        if line.trim().is_empty() {
            return;
        }
        self.remember(&line);
        let within = self.bytes <= LOG_MAX;
        self.bytes = self.bytes.saturating_add(line.len());
        let line = match (within, self.bytes <= LOG_MAX) {
            (_, true) => line,
            (true, false) => LOG_CUT.to_owned(),
            (false, false) => return,
        };
        // Nobody listening is fine.
        self.lines.send(line).await.ok();
    }

    fn remember(&mut self, line: &str) {
        if BOOKKEEPING.iter().any(|start| line.starts_with(start)) {
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    /// The error with the lines that led to it.
    fn after(&self, error: &str) -> String {
        let last = self.last.iter().map(String::as_str);
        std::iter::once(error)
            .chain(last)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// What the pull of a base image says; its progress bars are no lines.
fn pulled(step: &BuildInfo) -> Option<String> {
    let moving = step
        .progress_detail
        .as_ref()
        .is_some_and(|p| p.current.is_some());
    let status = step.status.as_deref().filter(|_| !moving)?;
    match &step.id {
        Some(id) => Some(format!("{id}: {status}")),
        None => Some(status.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ErrorDetail;
    use tokio::sync::mpsc;

    fn stream(text: &str) -> BuildInfo {
        BuildInfo {
            stream: Some(text.into()),
            ..BuildInfo::default()
        }
    }

    #[tokio::test]
    async fn the_error_of_a_failed_build_ends_with_its_last_lines() {
        let (lines, mut read) = mpsc::channel(100);
        let mut log = Log::new(&lines);
        for n in 0..30 {
            log.read(stream(&format!("\u{1b}[91mline {n}\n")))
                .await
                .unwrap();
        }
        let failed = BuildInfo {
            error_detail: Some(ErrorDetail {
                code: Some(1),
                message: Some("returned a non-zero code: 1".into()),
            }),
            ..BuildInfo::default()
        };
        assert!(matches!(log.read(failed).await, Err(Error::BuildFailed(_))));
        let text = log.after("why");
        assert_eq!(text.lines().count(), 1 + LAST_LINES);
        assert!(text.starts_with("why\nline 10\n") && text.ends_with("line 29"));
        assert_eq!(read.recv().await.as_deref(), Some("line 0"));
    }

    #[tokio::test]
    async fn an_endless_log_is_cut_once_and_its_end_is_kept() {
        let (lines, mut read) = mpsc::channel(100_000);
        let mut log = Log::new(&lines);
        let line = stream(&format!("{}\n", "x".repeat(BUILD_LINE_MAX)));
        for _ in 0..=LOG_MAX / BUILD_LINE_MAX + 10 {
            log.read(line.clone()).await.unwrap();
        }
        log.read(stream("the end\n")).await.unwrap();
        assert!(log.after("").ends_with("the end"));
        drop(log);
        drop(lines);
        let mut cuts = 0;
        while let Some(line) = read.recv().await {
            cuts += usize::from(line == LOG_CUT);
        }
        assert_eq!(cuts, 1);
    }
}
