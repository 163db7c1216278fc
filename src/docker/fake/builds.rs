//! The fake engine's builds: the context is read to its end and hashed, never parsed; scripts decide
//! what is printed and whether it fails.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::images::{Stored, hash, split};
use super::state::BuildRule;
use super::{FakeEngine, take_fault};
use crate::docker::{BuildRequest, Error, Lines, Result};

impl FakeEngine {
    pub(super) async fn run_build(
        &self,
        mut request: BuildRequest,
        lines: &Lines,
    ) -> Result<String> {
        self.enter("build").await?;
        let context = read(&mut request.context).await?;
        let rules = self.rules(&context);
        let step = format!("Step 1/1 : {}", request.dockerfile);
        let said = rules.iter().flat_map(|rule| rule.lines.iter().cloned());
        let said: Vec<String> = std::iter::once(step).chain(said).collect();
        for line in &said {
            // Nobody listening is fine.
            lines.send(line.clone()).await.ok();
        }
        if let Some(error) = rules.iter().find_map(|rule| rule.error.clone()) {
            let text = std::iter::once(error).chain(said);
            return Err(Error::BuildFailed(text.collect::<Vec<_>>().join("\n")));
        }
        let id = image_id(&request, &context);
        let stored = Stored {
            id: id.clone(),
            digest: None,
            has_healthcheck: false,
            on_build: rules
                .iter()
                .flat_map(|rule| rule.on_build.clone())
                .collect(),
            behaviour: rules.into_iter().find_map(|rule| rule.behaviour),
        };
        let (repository, tag) = split(&request.name);
        let name = format!("{repository}:{tag}");
        let mut state = self.state();
        state.images.insert(stored, Some(name), None);
        match take_fault(&mut state.faults.after, "build") {
            Some(error) => Err(error),
            None => Ok(id),
        }
    }

    /// The scripts that a build context calls for.
    fn rules(&self, context: &[u8]) -> Vec<BuildRule> {
        let state = self.state();
        let rules = state.build_rules.iter();
        let meant = rules.filter(|rule| holds(context, rule.text.as_bytes()));
        meant.cloned().collect()
    }
}

/// Reads a build context to its end.
async fn read(context: &mut mpsc::Receiver<std::io::Result<Bytes>>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = context.recv().await {
        let broken = |error| Error::Other(format!("the build context: {error}"));
        all.extend_from_slice(&piece.map_err(broken)?);
    }
    Ok(all)
}

fn image_id(request: &BuildRequest, context: &[u8]) -> String {
    let context = hex::encode(Sha256::digest(context));
    let target = request.target.clone().unwrap_or_default();
    let args = format!("{:?}", request.args);
    hash(&["built", &context, &request.dockerfile, &target, &args])
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}
