//! A CA that speaks ACME: Caddy's, with a root of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use viking::config::Acme;

/// Where it listens, in the test's own network.
const ADDRESS: &str = "127.0.0.1:9443";

/// Certificates of four days: shorter ones than the intermediate's, and long enough that a test can go
/// beyond two thirds of their life without the clock of others.
const SETTINGS: &str = "
{
	admin off
	auto_https disable_redirects
	skip_install_trust
	https_port 9443
	storage file_system DIR
	log default {
		output stderr
		level ERROR
	}
	pki {
		ca local {
			intermediate_lifetime 30d
		}
	}
}
https://127.0.0.1:9443 {
	tls internal
	acme_server {
		lifetime 4d
	}
}
";

pub(super) struct Ca {
    dir: TempDir,
    running: Option<Child>,
}

impl Ca {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = SETTINGS.replace("DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join("Caddyfile"), settings).unwrap();
        let mut ca = Self { dir, running: None };
        ca.again().await;
        ca
    }

    /// Starts it, with the root it had.
    pub(super) async fn again(&mut self) {
        let dir = self.dir.path();
        let child = Command::new("caddy")
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(dir.join("Caddyfile"))
            .env("HOME", dir)
            .env("XDG_DATA_HOME", dir)
            .env("XDG_CONFIG_HOME", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("caddy is needed; tests/run.sh installs it");
        self.running = Some(child);
        let up = async {
            while TcpStream::connect(ADDRESS).await.is_err() || !self.root().exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let up = tokio::time::timeout(Duration::from_secs(20), up).await;
        up.expect("Caddy starts");
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Where its root's certificate is.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("pki/authorities/local/root.crt")
    }

    pub(super) fn settings(&self) -> Acme {
        Acme {
            email: "ops@shop.test".to_owned(),
            directory: format!("https://{ADDRESS}/acme/local/directory"),
            ca: Some(self.root()),
        }
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.stop();
    }
}
