//! `viking host`, and the configuration that `host`, `up` and `config check` share, made of what
//! `layers` put together and checked before anything starts.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::args::HostArgs;
use super::etcd::etcd;
use super::failure::{Failure, Outcome};
use crate::config::{Acme, Config, FrontDoor, Listen};
use crate::host::identity::Identity;
use crate::model::host::Declared;
use crate::model::names::HostName;

/// Runs this machine as a host until SIGTERM or SIGINT; a second one ends it at once.
pub(crate) async fn host(context: &Context, args: &HostArgs) -> Outcome {
    let config = config(args, &context.api).map_err(|failure| context.layers.blame(failure))?;
    let shutdown = CancellationToken::new();
    let run = crate::host::run(config, shutdown.clone());
    tokio::pin!(run);
    tokio::select! {
        ended = &mut run => return ended.map(|()| 0).map_err(Failure::from),
        () = stop_signal() => shutdown.cancel(),
    }
    stopped(run).await
}

/// Waits for a host that was told to stop, unless a second signal comes.
pub(crate) async fn stopped(run: impl Future<Output = anyhow::Result<()>>) -> Outcome {
    tokio::select! {
        ended = run => ended.map(|()| 0).map_err(Failure::from),
        () = stop_signal() => Err(Failure::new(
            "ended at the second signal, before everything was put away",
            "containers keep running; the next start finds them",
        )),
    }
}

/// Returns when somebody wants this process to end.
pub(crate) async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A checked configuration.
pub(crate) fn config(args: &HostArgs, api: &str) -> Result<Config, Failure> {
    let data_dir = args.data_dir.clone().unwrap_or_else(data_dir);
    let host = Identity::of(&data_dir).host(args.host_name.as_ref(), machine_name)?;
    Ok(Config {
        data_dir,
        docker: args.docker.clone(),
        api: listen_address(api)?,
        registry_port: args.registry_port,
        registry_image: args.registry_image.clone(),
        host,
        address: args.address,
        front: FrontDoor {
            http: args.front.http.unwrap_or(Listen::Usual(80)),
            https: args.front.https.unwrap_or(Listen::Usual(443)),
            certificates: args.front.certificates.clone(),
            hsts_s: args.front.hsts,
            acme: args.front.acme.0.clone().map(|email| Acme {
                email,
                directory: args.front.acme_directory.clone(),
                ca: args.front.acme_ca.clone(),
            }),
            trusted: args.front.trust_proxy.clone(),
            access_log: args.front.access_log,
        },
        declared: Declared {
            tags: args.tag.iter().cloned().collect(),
            cpu_millis: args.capacity_cpu,
            memory_bytes: args.capacity_memory,
        },
        prefix: args.prefix.clone(),
        etcd: etcd(&args.etcd)?,
    })
}

/// The address a host's API listens on: loopback only, until there are tokens.
fn listen_address(api: &str) -> Result<SocketAddr, Failure> {
    let bare = api.strip_prefix("http://").unwrap_or(api);
    let bare = bare.trim_end_matches('/');
    let local = bare
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = local.as_deref().unwrap_or(bare).parse().map_err(|_| {
        let hint = "give --api as ip:port, like 127.0.0.1:8791";
        Failure::usage(format!("{api:?} is not an address to listen on"), hint)
    })?;
    if !address.ip().is_loopback() {
        let hint = "listen on 127.0.0.1 or [::1], and reach it through ssh -L from elsewhere";
        return Err(Failure::usage(
            format!(
                "the API on {address} would be open to others, and tokens are not supported yet"
            ),
            hint,
        ));
    }
    Ok(address)
}

/// Where state is kept when nobody says: the system's place for root, the user's own otherwise.
fn data_dir() -> PathBuf {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let own = || {
        let base = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        base.map(PathBuf::from).or_else(home)
    };
    match own().filter(|_| !root) {
        Some(base) => base.join("viking"),
        None => Config::default().data_dir,
    }
}

/// The machine's name, as far as it can be a host's.
fn machine_name() -> HostName {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host_name_of(text.trim()).unwrap_or_else(|| Config::default().host)
}

fn host_name_of(text: &str) -> Option<HostName> {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    let text: String = text.to_ascii_lowercase().chars().map(allowed).collect();
    HostName::parse(text.trim_matches(|c| c == '-' || c == '.')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_listens_on_loopback_only() {
        assert!(listen_address("localhost:1").unwrap().ip().is_loopback());
        assert_eq!(
            listen_address("http://127.0.0.1:8791/").unwrap().port(),
            8791
        );
        assert!(listen_address("[::1]:80").is_ok());
        for bad in ["0.0.0.0:8791", "192.0.2.1:1", "nowhere", "[::]:1", ""] {
            let failure = listen_address(bad).unwrap_err();
            assert_eq!(failure.code, super::super::failure::USAGE, "{bad}");
            assert!(!failure.hint.is_empty());
        }
    }

    #[test]
    fn any_machine_name_becomes_a_host_name() {
        assert_eq!(
            host_name_of("Anna's_Mac.local").unwrap().as_str(),
            "anna-s-mac.local"
        );
        assert_eq!(host_name_of(""), None);
    }
}
