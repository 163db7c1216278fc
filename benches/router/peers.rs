//! What viking is measured beside, and viking as it is measured: processes that serve, each with one
//! worker, and the processor time that each has taken.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::serve::Role;

/// A process that serves, ended with this value.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    pub(crate) fn start(
        name: &'static str,
        address: SocketAddr,
        command: &mut Command,
    ) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name}: is it installed?"))?;
        let server = Self {
            name,
            child,
            address,
        };
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > until {
                bail!("{name} does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Ticks of processor time of its process so far.
    pub(crate) fn ticks(&self) -> anyhow::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit_once(')').context("a line of /proc")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field =
            |n: usize| -> anyhow::Result<u64> { Ok(fields.get(n).context("a field")?.parse()?) };
        Ok(field(11)? + field(12)?)
    }
}

pub(crate) fn free() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

const NGINX: &str =
    "daemon off; worker_processes 1; master_process off; pid PID; error_log /dev/null;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; sendfile on; tcp_nodelay on; ";

pub(crate) fn nginx(
    dir: &Path,
    name: &'static str,
    rest: &str,
    address: SocketAddr,
) -> anyhow::Result<Server> {
    let pid = dir.join(format!("{}.pid", word(name)));
    let text = NGINX.replace("PID", &pid.display().to_string()) + rest + " }\n";
    let file = dir.join(format!("{}.conf", word(name)));
    std::fs::write(&file, text)?;
    Server::start(
        name,
        address,
        Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(dir),
    )
}

pub(crate) fn haproxy(
    dir: &Path,
    name: &'static str,
    mode: &str,
    backend: SocketAddr,
) -> anyhow::Result<Server> {
    let address = free()?;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  timeout connect 5s\n  timeout client 30s\n  \
         timeout server 30s\n{mode}frontend f\n  bind {address}\n  default_backend b\nbackend b\n  \
         server s {backend}\n"
    );
    let file = dir.join(format!("{}.cfg", word(name)));
    std::fs::write(&file, text)?;
    Server::start(name, address, Command::new("haproxy").arg("-f").arg(&file))
}

/// viking itself.
pub(crate) fn viking(name: &'static str, role: &Role<'_>) -> anyhow::Result<Server> {
    let address = free()?;
    let own = std::env::current_exe()?;
    Server::start(name, address, Command::new(own).args(role.args(address)))
}

/// A name that no settings file takes apart.
fn word(name: &str) -> String {
    name.replace([' ', ','], "-")
}
