//! The host's front door: binds what the operator said, and starts the router there. Where nobody said
//! anything, a port that is taken is waited for, since it may be given up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{FrontDoor, Listen};
use crate::model::certificate::DoorRecord;
use crate::model::job::JobId;
use crate::model::site;
use crate::router::certificates;
use crate::router::front::{self, Certificates, Front, Settings, Speaks};
use crate::store::tables::Tables;

/// Most threads of the router: each has connections of its own to every copy.
const THREADS_MAX: usize = 8;

/// Largest body of a request: uploads of whole disks are for other ways in.
const BODY_BYTES_MAX: u64 = 8 << 30;

/// How long a client may take for the head of a request, and stay without sending one.
const HEAD_MAX: Duration = Duration::from_secs(30);

/// Between two tries to have a port that somebody else has.
const TAKEN_AGAIN: Duration = Duration::from_secs(15);

/// Between two looks at the folder of certificates.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);

/// Connections that wait in the kernel.
const BACKLOG: i32 = 4_096;

/// The door as it is decided, and what is bound already.
pub(super) struct Door {
    /// Told of every change; none where the router is off.
    pub(super) front: Option<Front>,
    /// What it shows clients that come over https.
    pub(super) certificates: Arc<Certificates>,
    folder: PathBuf,
    /// Whether a CA is asked for what the folder does not have.
    acme: bool,
    /// What others are told of it.
    said: watch::Sender<DoorRecord>,
    wings: Vec<Wing>,
}

/// One of its listeners.
struct Wing {
    speaks: Speaks,
    place: Place,
}

enum Place {
    Bound(TcpListener),
    Usual(u16),
}

impl Door {
    /// Binds where the operator said. `draining` is told which copies still have requests though no route
    /// leads to them, `said` where the door is open.
    ///
    /// # Errors
    /// When that cannot be had.
    pub(super) fn open(
        config: &FrontDoor,
        data_dir: &Path,
        draining: watch::Sender<Vec<JobId>>,
        said: watch::Sender<DoorRecord>,
    ) -> anyhow::Result<Self> {
        let asked = [
            (Speaks::Http, config.http, "--http"),
            (Speaks::Https, config.https, "--https"),
        ];
        let mut wings = Vec::new();
        for (speaks, listen, flag) in asked {
            let place = match listen {
                Listen::Off => continue,
                Listen::Usual(port) => Place::Usual(port),
                Listen::At(address) => Place::Bound(bind(address).with_context(|| {
                    format!(
                        "listening on {address} for the router; choose another with {flag}, or off"
                    )
                })?),
            };
            wings.push(Wing { speaks, place });
        }
        let threads = available_parallelism().map_or(1, NonZero::get);
        let certificates = Arc::new(Certificates::default());
        let settings = Settings {
            trusted: config.trusted.clone(),
            access_log: config.access_log,
            body_max: BODY_BYTES_MAX,
            head_max: HEAD_MAX,
            certificates: Arc::clone(&certificates),
            hsts_s: config.hsts_s,
            threads: threads.min(THREADS_MAX),
            sites: Some(data_dir.join(site::FOLDER)),
        };
        Ok(Self {
            front: (!wings.is_empty()).then(|| Front::new(settings, draining)),
            certificates,
            folder: config.certificates.clone(),
            acme: config.acme.is_some(),
            said,
            wings,
        })
    }

    /// Serves until shutdown.
    ///
    /// # Errors
    /// When the router's threads cannot be started, or end by themselves.
    pub(super) async fn serve(
        self,
        tables: Tables,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let secure = self.wings.iter().any(|wing| wing.speaks == Speaks::Https);
        let certificates = self.certificates;
        if secure || self.acme {
            let follow =
                Arc::clone(&certificates).follow(self.folder, CERTIFICATES_EVERY, shutdown.clone());
            tokio::spawn(follow);
        }
        let Some(front) = self.front else {
            shutdown.cancelled().await;
            return Ok(());
        };
        let said = self.said;
        let given = certificates::follow(tables, certificates, said.clone(), shutdown.clone());
        tokio::spawn(given);
        let wings = self.wings.into_iter();
        let wings = wings.map(|wing| wing.serve(front.clone(), said.clone(), shutdown.clone()));
        futures_util::future::try_join_all(wings).await?;
        Ok(())
    }
}

impl Wing {
    async fn serve(
        self,
        front: Front,
        said: watch::Sender<DoorRecord>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let listener = match self.place {
            Place::Bound(bound) => bound,
            Place::Usual(port) => {
                let until = shutdown.run_until_cancelled(usual(port, self.speaks));
                match until.await {
                    Some(listener) => listener,
                    None => return Ok(()),
                }
            }
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "the router listens");
        }
        said.send_modify(|door| match self.speaks {
            Speaks::Http => door.http = true,
            Speaks::Https => door.https = true,
        });
        front::run(front, listener, self.speaks, shutdown).await
    }
}

/// The usual port, as soon as it can be had.
async fn usual(port: u16, speaks: Speaks) -> TcpListener {
    let flag = match speaks {
        Speaks::Http => "--http",
        Speaks::Https => "--https",
    };
    let mut told = false;
    loop {
        let every = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let old = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let tried = bind(every).or_else(|error| match error.kind() {
            // Somebody has it, or we may not: without IPv6 it would be the same.
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            _ => bind(old),
        });
        match tried {
            Ok(listener) => return listener,
            Err(error) if !told => {
                told = true;
                tracing::warn!(
                    "the router cannot listen on port {port} and leads no domain from there: {error}; \
                     it tries again, {flag} IP:PORT chooses another port, {flag} off silences this"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(TAKEN_AGAIN).await;
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // As a restart needs it; two that listen at the same time are refused all the same.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
