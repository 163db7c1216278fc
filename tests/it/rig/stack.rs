//! What runs on a rig: the example that ships with viking, and a stack of small servers that start in no time,
//! so that a measured time is viking's and not an application's.

use std::path::Path;

use serde_json::Value;

use super::Rig;
use crate::e2e::repo::{Commit, Repo};

/// A stack and its repository.
pub(crate) struct Stack {
    pub(crate) repo: Repo,
}

/// Copies on every host, one that is pinned, and one that an image is built for.
fn fleet(says: &str) -> String {
    format!(
        "
viking: {{name: fleet}}
build:
  page: |
    FROM viking/busybox:1
    ADD page.html /www/index.html
deploy:
  oar:
    image: viking:fleet/page
    run: httpd -f -p 80 -h /www
    env: {{SAYS: {says}}}
    expose: [80]
    scale: 3
    health: {{http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}
    stop: {{timeout: 1s}}
  chest:
    image: viking/busybox:1
    run: httpd -f -p 80 -h /data
    expose: [80]
    volume: [/data]
    health: {{tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}
    stop: {{timeout: 1s}}
"
    )
}

impl Rig {
    /// The example, followed and live.
    pub(crate) fn ragnar(&self) -> Stack {
        let repo = self.repo("ragnar");
        repo.copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ragnar"));
        let commit = repo.commit("Set sail", &[]);
        self.must(&["add", repo.path(), "--poll", "1s"]);
        self.live("ragnar", &commit);
        Stack { repo }
    }

    /// The small servers, followed and live.
    pub(crate) fn fleet(&self) -> Stack {
        let repo = self.repo("fleet");
        let files = [("viking.yml", &*fleet("one")), ("page.html", "one\n")];
        let commit = repo.commit("Launch", &files);
        self.must(&["add", repo.path(), "--poll", "1s"]);
        self.live("fleet", &commit);
        Stack { repo }
    }

    /// Waits until a commit is live, which all of it that changed has to be healthy for, and what it replaced seen
    /// off. A copy that no commit changes may wait for its host meanwhile.
    pub(crate) fn live(&self, stack: &str, commit: &Commit) {
        self.until(&format!("{} of {stack} is live", commit.tag()), || {
            let report = self.get(&format!("/v1/status/{stack}"))?;
            let found = report["stacks"].as_array().into_iter().flatten();
            let found = found.into_iter().find(|row| row["stack"] == stack);
            let status = found.ok_or_else(|| format!("no stack {stack}"))?;
            if status["live"]["commit"] != commit.0.as_str() {
                return Err(status.to_string());
            }
            let keys = self.keys()?;
            let pointer = keys.get(&format!("/release/{stack}")).ok_or("no pointer")?;
            let pointer: Value = serde_json::from_str(pointer).map_err(|e| e.to_string())?;
            let over = pointer["retiring"].is_null() && pointer["phase"] == "live";
            over.then_some(()).ok_or_else(|| pointer.to_string())
        });
    }
}

impl Stack {
    /// A commit that changes every stateless copy of the small servers.
    pub(crate) fn change(&self, says: &str) -> Commit {
        let files = [("viking.yml", &*fleet(says)), ("page.html", says)];
        self.repo.commit(says, &files)
    }
}
