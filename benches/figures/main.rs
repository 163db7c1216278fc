//! Measures viking's figures against their peers, each pair in one run, and prints medians, ratio
//! and PASS or FAIL. Started by `benches/run.sh`, which starts the Docker engine all of it runs on.

mod alone;
mod bench;
mod drift;
mod engine;
mod host;
mod idle;
mod kill;
mod place;
mod proxy;
mod push;
mod repo;
mod scale;
mod stats;
mod swarm;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use bench::Bench;

const FIGURES: [&str; 7] = ["p1", "p2", "p7", "p8", "p9", "p14", "p16"];

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every figure passed.
async fn run() -> anyhow::Result<bool> {
    let (figures, rounds) = arguments()?;
    let bench = Bench::from_env(rounds)?;
    println!("{}\n", bench.facts().await?);
    println!("| figure | peer | viking | engine alone (+ viking) | ratio | pass | rounds | |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut passed = true;
    for figure in figures {
        let rows = match figure.as_str() {
            "p1" => push::changed_file(&bench).await,
            "p2" => push::changed_deploy(&bench).await,
            "p7" => place::place(&bench).await,
            "p8" => scale::scale(&bench).await,
            "p9" => kill::kill_one_by_one(&bench).await,
            "p14" => drift::drift(&bench).await,
            "p16" => idle::idle(&bench).await,
            other => bail!("no figure {other:?}; there are {}", FIGURES.join(", ")),
        };
        for row in rows.with_context(|| figure.clone())? {
            println!("{row}");
            passed &= row.passed();
        }
    }
    Ok(passed)
}

/// The figures asked for, and how many rounds instead of what each asks for.
fn arguments() -> anyhow::Result<(Vec<String>, Option<usize>)> {
    let (mut figures, mut rounds) = (Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // `cargo bench` adds it.
            "--bench" => {}
            "--n" => {
                let text = arguments.next().context("--n needs a number")?;
                rounds = Some(text.parse().with_context(|| format!("--n {text}"))?);
            }
            figure => figures.push(figure.to_lowercase()),
        }
    }
    if figures.is_empty() {
        figures = FIGURES.map(str::to_owned).to_vec();
    }
    Ok((figures, rounds))
}
