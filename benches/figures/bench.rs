//! What all figures share: where things are, the clock, and the machine's facts.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::engine::Engine;

/// The surroundings that `benches/run.sh` made.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    /// Scratch folder, removed at the end.
    pub(crate) work: PathBuf,
    /// This repository.
    pub(crate) root: PathBuf,
    /// The release build of viking.
    pub(crate) viking: PathBuf,
    /// The engine's socket.
    pub(crate) socket: PathBuf,
    /// The engine's process.
    pub(crate) dockerd: u32,
    /// The engine, for us.
    pub(crate) engine: Engine,
    rounds: Option<usize>,
}

impl Bench {
    pub(crate) fn from_env(rounds: Option<usize>) -> anyhow::Result<Self> {
        let path = |name: &str| {
            let value = std::env::var_os(name);
            let value = value.with_context(|| format!("{name} is not set: use benches/run.sh"));
            value.map(PathBuf::from)
        };
        let work = path("VIKING_BENCH_DIR")?;
        let socket = work.join("docker.sock");
        let pid = std::env::var("VIKING_BENCH_DOCKERD").context("VIKING_BENCH_DOCKERD")?;
        Ok(Self {
            root: path("VIKING_BENCH_ROOT")?,
            viking: path("VIKING_BENCH_VIKING")?,
            dockerd: pid.parse().context("VIKING_BENCH_DOCKERD")?,
            engine: Engine::at(&socket)?,
            socket,
            work,
            rounds,
        })
    }

    /// How many rounds, unless somebody asked for another number.
    pub(crate) fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }

    /// The machine, in a line.
    pub(crate) async fn facts(&self) -> anyhow::Result<String> {
        let version = self.engine.get("/version").await?;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(format!(
            "{cores} cores, Linux {}, Docker {} (classic builder), load before {}",
            version["KernelVersion"].as_str().unwrap_or("?"),
            version["Version"].as_str().unwrap_or("?"),
            load.split_whitespace().next().unwrap_or("?"),
        ))
    }
}

/// Unix nanoseconds: the clock that the engine stamps its events with.
#[expect(
    clippy::disallowed_methods,
    reason = "what is measured are times that another process wrote down"
)]
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// Says on stderr how far it is.
pub(crate) fn say(line: &str) {
    eprintln!("    {line}");
}
