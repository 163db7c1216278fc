//! What the engine says of a container, in our words. Pure; and the numbers that stand for
//! "no limit" once a limit was taken away again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum as Listing, EndpointSettings, HealthStatusEnum, HostConfig, PortMap,
};

use crate::docker::{Container, ImageHealth, Listed, PortBinding, RunState};
use crate::model::spec::Proto;

/// Engine 20.10 reads a memory limit of 0 in an update as "leave it" and refuses -1, so a limit can
/// only be raised. This is the kernel's own number for "none" (cgroup v1 shows it, v2 takes it).
pub(super) const MEMORY_UNLIMITED: i64 = 0x7fff_ffff_ffff_f000;
/// For the same reason a CPU limit is raised to all cores less this many billionths of one: no
/// limit of ours looks like it, ours being whole thousandths.
const CPU_UNLIMITED_MARK: i64 = 1;
const NANOS_PER_CORE: i64 = 1_000_000_000;
/// Docker's word for a mount that is a volume.
const VOLUME: &str = "volume";
/// Docker's period when only a quota was given, in microseconds.
const CPU_PERIOD_DEFAULT: i64 = 100_000;

/// The number of billionths that stands for "no CPU limit" on a host of `cores`.
pub(super) fn cpu_unlimited(cores: u64) -> i64 {
    let cores = i64::try_from(cores.max(1)).unwrap_or(1);
    cores.saturating_mul(NANOS_PER_CORE) - CPU_UNLIMITED_MARK
}

/// A container from its inspection; `None` when the engine gave neither id nor name.
pub(super) fn container(raw: ContainerInspectResponse) -> Option<Container> {
    let state = raw.state.unwrap_or_default();
    let host = raw.host_config.unwrap_or_default();
    let network = raw.network_settings.unwrap_or_default();
    let networks = network.networks.unwrap_or_default();
    let mounts = raw.mounts.unwrap_or_default();
    let (started_ms, finished_ms) = times(&state);
    Some(Container {
        id: raw.id?,
        name: raw.name?.trim_start_matches('/').to_owned(),
        labels: labels(raw.config.unwrap_or_default().labels),
        state: run_state(&state),
        exit_code: state.exit_code.unwrap_or(0),
        oom_killed: state.oom_killed.unwrap_or(false),
        started_ms,
        finished_ms,
        health: health(&state),
        error: state.error.unwrap_or_default(),
        networks: addresses(networks),
        mounts: mounts
            .into_iter()
            .filter(|mount| mount.typ.as_deref() == Some(VOLUME))
            .filter_map(|mount| Some((mount.name?, mount.destination?)))
            .collect(),
        memory_bytes: memory(&host),
        cpu_millis: cpu(&host),
        published: published(host.port_bindings.unwrap_or_default()),
        image_id: raw.image.unwrap_or_default(),
    })
}

/// A container from a list; `None` when the engine gave neither id nor name. One with aliases from
/// old-style links has further names, which hold a second slash.
pub(super) fn listed(raw: ContainerSummary) -> Option<Listed> {
    let names = raw.names.unwrap_or_default();
    let own = names.iter().find_map(|name| {
        let name = name.trim_start_matches('/');
        (!name.contains('/')).then(|| name.to_owned())
    });
    Some(Listed {
        id: raw.id?,
        name: own?,
        labels: labels(raw.labels),
        state: match raw.state {
            Some(Listing::RUNNING | Listing::RESTARTING | Listing::STOPPING) => RunState::Running,
            Some(Listing::PAUSED) => RunState::Paused,
            Some(Listing::CREATED) => RunState::Created,
            Some(Listing::EXITED) => RunState::Exited,
            Some(Listing::REMOVING | Listing::DEAD | Listing::EMPTY) | None => RunState::Dead,
        },
        networks: addresses(
            raw.network_settings
                .and_then(|settings| settings.networks)
                .unwrap_or_default(),
        ),
    })
}

/// The address on each network; none while the container stands still.
fn addresses(
    networks: impl IntoIterator<Item = (String, EndpointSettings)>,
) -> BTreeMap<String, Option<IpAddr>> {
    networks
        .into_iter()
        .map(|(name, end)| (name, end.ip_address.and_then(|ip| ip.parse().ok())))
        .collect()
}

/// Labels in order.
pub(super) fn labels(
    raw: Option<impl IntoIterator<Item = (String, String)>>,
) -> BTreeMap<String, String> {
    raw.map(|labels| labels.into_iter().collect())
        .unwrap_or_default()
}

fn run_state(state: &ContainerState) -> RunState {
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::RUNNING | Status::RESTARTING | Status::STOPPING) => RunState::Running,
        Some(Status::PAUSED) => RunState::Paused,
        Some(Status::CREATED) => RunState::Created,
        Some(Status::EXITED) => RunState::Exited,
        Some(Status::REMOVING | Status::DEAD | Status::EMPTY) | None => RunState::Dead,
    }
}

fn health(state: &ContainerState) -> Option<ImageHealth> {
    match state.health.as_ref()?.status? {
        HealthStatusEnum::STARTING => Some(ImageHealth::Starting),
        HealthStatusEnum::HEALTHY => Some(ImageHealth::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(ImageHealth::Unhealthy),
        HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
    }
}

fn memory(host: &HostConfig) -> u64 {
    match host.memory.unwrap_or(0) {
        MEMORY_UNLIMITED.. => 0,
        bytes => u64::try_from(bytes).unwrap_or(0),
    }
}

/// The limit in thousandths of a core, given either way Docker knows.
fn cpu(host: &HostConfig) -> u64 {
    let nanos = host.nano_cpus.unwrap_or(0);
    if nanos % NANOS_PER_CORE == NANOS_PER_CORE - CPU_UNLIMITED_MARK {
        return 0;
    }
    let quota = host.cpu_quota.unwrap_or(0);
    let millis = match (nanos, quota) {
        (1.., _) => nanos / 1_000_000,
        (_, 1..) => {
            let period = host.cpu_period.filter(|period| *period > 0);
            quota.saturating_mul(1000) / period.unwrap_or(CPU_PERIOD_DEFAULT)
        }
        _ => 0,
    };
    u64::try_from(millis).unwrap_or(0)
}

/// Ports as asked for; what is malformed is left out and so counts as drift.
fn published(raw: PortMap) -> BTreeSet<PortBinding> {
    let all = raw.into_iter().flat_map(|(key, bindings)| {
        let bindings = bindings.unwrap_or_default().into_iter();
        bindings.filter_map(move |binding| {
            let (port, proto) = port_key(&key)?;
            let ip = binding.host_ip.filter(|ip| !ip.is_empty());
            Some(PortBinding {
                port,
                proto,
                ip: match ip {
                    Some(ip) => ip.parse().ok()?,
                    None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                },
                host_port: binding.host_port?.parse().ok()?,
            })
        })
    });
    all.collect()
}

fn port_key(key: &str) -> Option<(u16, Proto)> {
    let (port, proto) = key.split_once('/').unwrap_or((key, "tcp"));
    let proto = match proto {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        _ => return None,
    };
    Some((port.parse().ok()?, proto))
}

/// Last start and last end. Docker notes the end of a process that ends at once before its start;
/// what has ended did so no earlier than it began.
fn times(state: &ContainerState) -> (u64, u64) {
    let started = unix_ms(state.started_at.as_deref());
    let finished = unix_ms(state.finished_at.as_deref());
    match run_state(state) {
        RunState::Exited => (started, finished.max(started)),
        _ => (started, finished),
    }
}

/// Docker's time; its year 1 means never.
fn unix_ms(time: Option<&str>) -> u64 {
    let since = time
        .and_then(|time| humantime::parse_rfc3339_weak(time).ok())
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_unix_milliseconds_and_never_is_zero() {
        assert_eq!(unix_ms(Some("0001-01-01T00:00:00Z")), 0);
        assert_eq!(unix_ms(Some("1970-01-01T00:00:01.5Z")), 1500);
        assert_eq!(unix_ms(Some("1970-01-01T00:00:01.123456789Z")), 1123);
        assert_eq!(unix_ms(None), 0);
    }

    #[test]
    fn an_end_is_never_before_its_start() {
        let state = |status| ContainerState {
            status: Some(status),
            started_at: Some("1970-01-01T00:00:02Z".into()),
            finished_at: Some("1970-01-01T00:00:01Z".into()),
            ..ContainerState::default()
        };
        let exited = state(ContainerStateStatusEnum::EXITED);
        assert_eq!(times(&exited), (2000, 2000));
        // Started again after an earlier end.
        let running = state(ContainerStateStatusEnum::RUNNING);
        assert_eq!(times(&running), (2000, 1000));
    }

    #[test]
    fn a_limit_taken_away_again_reads_as_none() {
        let host = HostConfig {
            memory: Some(MEMORY_UNLIMITED),
            nano_cpus: Some(cpu_unlimited(2)),
            cpu_quota: Some(-1),
            ..HostConfig::default()
        };
        assert_eq!((memory(&host), cpu(&host)), (0, 0));
    }

    #[test]
    fn a_cpu_limit_reads_the_same_however_it_was_given() {
        let cpus = |nanos, quota| {
            cpu(&HostConfig {
                nano_cpus: Some(nanos),
                cpu_quota: Some(quota),
                ..HostConfig::default()
            })
        };
        assert_eq!(cpus(500_000_000, -1), 500);
        assert_eq!(cpus(2_000_000_000, 0), 2000);
        assert_eq!(cpus(0, 50_000), 500);
        assert_eq!(cpus(0, 0), 0);
    }

    #[test]
    fn port_keys_are_docker_s() {
        assert_eq!(port_key("53/udp"), Some((53, Proto::Udp)));
        assert_eq!(port_key("80"), Some((80, Proto::Tcp)));
        assert_eq!(port_key("80/sctp"), None);
    }
}
