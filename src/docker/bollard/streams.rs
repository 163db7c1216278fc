//! What flows from the engine: logs, events, a command's output. Called by the engine's trait only.
//! Every stream is bounded, and a reader that went away ends it.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptions, LogsOptions};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::errors::{Doing, sort};
use super::{BollardEngine, inspect, segment, within};
use crate::docker::lines::{LOG_LINE_MAX, LineSplitter};
use crate::docker::{EngineEvent, Error, LogLine, LogQuery, Result};

/// Log lines waiting for a reader; then the engine waits.
const LOG_QUEUE: usize = 256;
/// Events waiting for a reader; further ones are dropped, since one that is late looks at
/// everything anyway.
const EVENT_QUEUE: usize = 256;
/// Room for the time in front of a log line: RFC 3339 with nanoseconds and a blank.
const LOG_TIME_MAX: usize = 40;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// What is kept of a command's output.
const EXEC_OUTPUT_MAX: usize = 16 * 1024;
/// Shown of a failed health command.
const PROBE_OUTPUT_MAX: usize = 300;
/// Events worth a look. Not `exec_*`: every health command makes three.
const ACTIONS: &[&str] = &[
    "create",
    "start",
    "die",
    "oom",
    "stop",
    "kill",
    "destroy",
    "pause",
    "unpause",
    "update",
    "rename",
    "health_status",
    "connect",
    "disconnect",
];

type RawResult<T> = std::result::Result<T, bollard::errors::Error>;

/// How a command inside a container ended.
enum Ran {
    Ended(i64, String),
    TooLong,
}

impl BollardEngine {
    pub(super) async fn stream_logs(
        &self,
        id: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>> {
        // The stream says nothing before the first line, so a missing container is found here.
        let missing = || Error::NotFound(format!("container {id}"));
        let container = self.inspect_container(id).await?.ok_or_else(missing)?;
        let LogQuery {
            tail,
            after_ns,
            follow,
        } = query;
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            timestamps: true,
            // Whole seconds: the lines before are left out one by one.
            since: i32::try_from(after_ns / NANOS_PER_SECOND).unwrap_or(0),
            tail: tail.to_string(),
            ..LogsOptions::default()
        };
        let raw = self.raw().await?.clone();
        let idle = (!follow).then_some(self.deadlines.look);
        let (lines, reader) = mpsc::channel(LOG_QUEUE);
        tokio::spawn(async move {
            let output = raw.logs(&container.id, Some(options));
            tokio::select! {
                () = lines.closed() => {}
                () = pass_lines(output, idle, after_ns, &lines) => {}
            }
        });
        Ok(reader)
    }

    pub(super) async fn stream_events(&self) -> Result<mpsc::Receiver<EngineEvent>> {
        let raw = self.raw().await?.clone();
        within(self.deadlines.look, Doing::Else, raw.ping()).await?;
        let options = EventsOptions {
            // The subscription takes a moment; what happens in it is told again.
            since: Some(event_time(crate::clock::wall_ms())),
            until: None,
            filters: Some(event_filter()),
        };
        let (events, reader) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(async move {
            let stream = raw.events(Some(options));
            tokio::select! {
                () = events.closed() => {}
                () = pass_events(stream, &events) => {}
            }
        });
        Ok(reader)
    }

    pub(super) async fn run_inside(
        &self,
        id: &str,
        argv: &[String],
        timeout: Duration,
    ) -> Result<(i64, String)> {
        match self.run(id, argv, timeout).await? {
            Ran::Ended(code, output) => Ok((code, output)),
            Ran::TooLong => Err(Error::Other(format!("no end within {timeout:?}"))),
        }
    }

    pub(super) async fn probe_command(
        &self,
        id: &str,
        argv: &[String],
        timeout: Duration,
    ) -> Result<std::result::Result<(), String>> {
        let name = argv.first().map_or("", String::as_str);
        match self.run(id, argv, timeout).await {
            Ok(Ran::Ended(0, _)) => Ok(Ok(())),
            Ok(Ran::Ended(code, output)) => {
                let said: String = output.trim().chars().take(PROBE_OUTPUT_MAX).collect();
                Ok(Err(format!("{name}: exit code {code}: {said}")))
            }
            Ok(Ran::TooLong) => Ok(Err(format!("{name}: no end within {timeout:?}"))),
            Err(error @ Error::Unreachable(_)) => Err(error),
            Err(error) => Ok(Err(format!("{name}: {error}"))),
        }
    }

    async fn run(&self, id: &str, argv: &[String], timeout: Duration) -> Result<Ran> {
        let raw = self.raw().await?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.to_vec()),
            ..CreateExecOptions::default()
        };
        let look = self.deadlines.look;
        let call = raw.create_exec(segment(id)?, options);
        let exec = within(look, Doing::Start, call).await?.id;
        let running = async {
            let started = within(look, Doing::Start, raw.start_exec(&exec, None)).await?;
            match started {
                StartExecResults::Attached { output, .. } => Ok(collect(output).await),
                StartExecResults::Detached => Ok(String::new()),
            }
        };
        let output = match tokio::time::timeout(timeout, running).await {
            Ok(output) => output?,
            Err(_) => return Ok(Ran::TooLong),
        };
        let ended = within(look, Doing::Else, raw.inspect_exec(&exec)).await?;
        Ok(Ran::Ended(ended.exit_code.unwrap_or(0), output))
    }
}

/// A command's output up to its end; what is too much is read and dropped, so that the command is
/// not held up.
async fn collect(mut output: impl Stream<Item = RawResult<LogOutput>> + Unpin) -> String {
    let mut kept = Vec::new();
    while let Some(Ok(piece)) = output.next().await {
        let bytes = piece.into_bytes();
        let room = EXEC_OUTPUT_MAX - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Passes log lines on until either side ends; `idle` bounds the wait for each piece.
async fn pass_lines(
    output: impl Stream<Item = RawResult<LogOutput>>,
    idle: Option<Duration>,
    after_ns: u64,
    lines: &mpsc::Sender<LogLine>,
) {
    let mut output = std::pin::pin!(output);
    let is_new = |line: &LogLine| after_ns == 0 || line.at_ns > after_ns;
    let line_max = LOG_LINE_MAX + LOG_TIME_MAX;
    let mut splitters = [false, true].map(|stderr| (stderr, LineSplitter::new(line_max)));
    loop {
        let next = match idle {
            Some(idle) => tokio::time::timeout(idle, output.next())
                .await
                .ok()
                .flatten(),
            None => output.next().await,
        };
        let Some(Ok(piece)) = next else {
            break;
        };
        let stderr = matches!(piece, LogOutput::StdErr { .. });
        let (_, splitter) = &mut splitters[usize::from(stderr)];
        for text in splitter.push(&piece.into_bytes()) {
            let line = log_line(stderr, &text);
            if is_new(&line) && lines.send(line).await.is_err() {
                return;
            }
        }
    }
    for (stderr, splitter) in &mut splitters {
        let last = splitter.finish().map(|text| log_line(*stderr, &text));
        if let Some(line) = last.filter(is_new) {
            // The reader may have gone.
            lines.send(line).await.ok();
        }
    }
}

/// A line as the engine gives it: its time, a blank, its text.
fn log_line(stderr: bool, line: &str) -> LogLine {
    let (time, text) = line.split_once(' ').unwrap_or((line, ""));
    let at = humantime::parse_rfc3339(time).ok();
    let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let at_ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
    LogLine {
        stderr,
        // What has no time is not the engine's doing; all of it is text then.
        text: if at_ns.is_some() { text } else { line }.to_owned(),
        at_ns: at_ns.unwrap_or(0),
    }
}

/// Passes events on until the engine goes away. Never waits for the reader: a listener that does
/// not read is dropped by the engine.
async fn pass_events(
    stream: impl Stream<Item = RawResult<EventMessage>>,
    events: &mpsc::Sender<EngineEvent>,
) {
    let mut stream = std::pin::pin!(stream);
    while let Some(message) = stream.next().await {
        match message {
            Ok(message) => {
                if let Some(event) = event(message) {
                    // Full: the reader has enough reasons to look already.
                    events.try_send(event).ok();
                }
            }
            Err(error) => {
                let error = sort(error, Doing::Else);
                tracing::debug!("docker's events ended: {error}");
                return;
            }
        }
    }
}

fn event(raw: EventMessage) -> Option<EngineEvent> {
    let action = raw.action?;
    if action.starts_with("exec_") {
        return None;
    }
    // `health_status: healthy` and the like carry their state after a colon.
    let action = action.split(':').next().unwrap_or_default().to_owned();
    let actor = raw.actor.unwrap_or_default();
    let mut labels = inspect::labels(actor.attributes);
    let of_network = raw.typ == Some(EventMessageTypeEnum::NETWORK);
    let container = match of_network {
        true => labels.remove("container"),
        false => actor.id.clone(),
    };
    let name = labels.remove("name").or(actor.id).unwrap_or_default();
    if of_network {
        labels.clear();
    }
    let nanos = raw.time_nano.unwrap_or(0);
    Some(EngineEvent {
        action,
        labels,
        name,
        container,
        at_ms: u64::try_from(nanos / 1_000_000).unwrap_or(0),
    })
}

fn event_filter<M: FromIterator<(String, Vec<String>)>>() -> M {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let filters = [
        ("type".to_owned(), words(&["container", "network"])),
        ("event".to_owned(), words(ACTIONS)),
    ];
    filters.into_iter().collect()
}

/// Milliseconds as Docker wants them: seconds, a dot, nanoseconds.
fn event_time(ms: u64) -> String {
    format!("{}.{:09}", ms / 1000, ms % 1000 * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(action: &str) -> EventMessage {
        EventMessage {
            action: Some(action.into()),
            ..EventMessage::default()
        }
    }

    #[test]
    fn health_commands_are_no_events() {
        assert_eq!(event(message("exec_start: sh -c true")), None);
        let health = event(message("health_status: healthy")).unwrap();
        assert_eq!(health.action, "health_status");
    }

    #[test]
    fn an_event_of_a_network_names_the_container_it_is_about() {
        let attributes = [
            ("name", "viking-x"),
            ("container", "abc"),
            ("type", "bridge"),
        ];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let connected = event(EventMessage {
            typ: Some(EventMessageTypeEnum::NETWORK),
            actor: Some(bollard::models::EventActor {
                id: Some("n1".into()),
                attributes: Some(attributes.into_iter().collect()),
            }),
            ..message("connect")
        });
        let connected = connected.unwrap();
        assert_eq!(connected.container.as_deref(), Some("abc"));
        assert_eq!(connected.name, "viking-x");
        assert!(connected.labels.is_empty());
    }

    #[test]
    fn times_are_as_docker_wants_them() {
        assert_eq!(event_time(1_700_000_000_042), "1700000000.042000000");
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_never_holds_up_the_engine() {
        let (events, _reader) = mpsc::channel(1);
        let many = futures_util::stream::iter((0..100).map(|_| Ok(message("die"))));
        pass_events(many, &events).await;
    }

    #[tokio::test]
    async fn both_outputs_are_split_by_themselves_and_old_lines_left_out() {
        let (lines, mut reader) = mpsc::channel(10);
        let out = |text: &'static str| {
            Ok(LogOutput::StdOut {
                message: text.into(),
            })
        };
        let err = |text: &'static str| {
            Ok(LogOutput::StdErr {
                message: text.into(),
            })
        };
        let pieces = vec![
            out("2026-01-01T00:00:00.000000001Z old\n2026-01-01T00:00:00.000000003Z on"),
            err("2026-01-01T00:00:00.000000004Z bad\n"),
            out("e\n2026-01-01T00:00:00.000000005Z two"),
        ];
        let after = 1_767_225_600_000_000_001;
        pass_lines(futures_util::stream::iter(pieces), None, after, &lines).await;
        drop(lines);
        let mut read = Vec::new();
        while let Some(line) = reader.recv().await {
            read.push((line.stderr, line.text));
        }
        let wanted = [(true, "bad"), (false, "one"), (false, "two")];
        assert_eq!(read, wanted.map(|(e, t)| (e, t.to_owned())));
    }
}
