//! The body of a container's creation, with the hardening that is the same for all. Pure; nothing
//! in a `viking.yml` reaches the fields set here.

use std::net::IpAddr;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, PortBinding as RawBinding, RestartPolicy, RestartPolicyNameEnum,
};

use crate::docker::{NewContainer, PortBinding};

/// Processes and threads of one container: a fork bomb stays in its box, a JVM does not notice.
const PIDS_MAX: i64 = 4096;
/// Size of one log file, and how many are kept: 30 MB per container at most.
const LOG_FILE_MAX: &str = "10m";
const LOG_FILES: &str = "3";
/// Dropped from Docker's default capabilities. What stays (chown, setuid, setgid, net_bind_service,
/// kill, sys_chroot, …) is what the entry points of redis, nginx and postgres need to become
/// another user. Forging packets, making device nodes, writing the kernel's audit log and giving
/// files capabilities (useless under no-new-privileges) are needed by no service.
const CAPABILITIES_DROPPED: &[&str] = &["NET_RAW", "MKNOD", "AUDIT_WRITE", "SETFCAP"];
/// Name of Docker's "no network at all".
const NETWORK_NONE: &str = "none";

/// Everything Docker needs to make `new`.
pub(super) fn body(new: &NewContainer) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(new.image.clone()),
        cmd: new.command.clone(),
        entrypoint: new.entrypoint.clone(),
        working_dir: new.cwd.clone(),
        user: new.user.clone(),
        env: Some(new.env.clone()),
        labels: Some(new.labels.clone().into_iter().collect()),
        stop_signal: new.stop_signal.clone(),
        exposed_ports: Some(new.ports.iter().map(port_key).collect()),
        host_config: Some(hardened(host_config(new))),
        networking_config: networking(new),
        ..ContainerCreateBody::default()
    }
}

/// What one container differs in from another.
fn host_config(new: &NewContainer) -> HostConfig {
    let memory = i64::try_from(new.memory_bytes).unwrap_or(i64::MAX);
    HostConfig {
        network_mode: Some(network(new).to_owned()),
        mounts: Some(new.mounts.iter().map(mount).collect()),
        port_bindings: Some(port_bindings(&new.ports)),
        memory: Some(memory),
        // The limit is the limit: no swap on top, which Docker would add.
        memory_swap: Some(memory),
        nano_cpus: Some(nano_cpus(new.cpu_millis)),
        ..HostConfig::default()
    }
}

/// What is the same for all and cannot be asked away.
fn hardened(config: HostConfig) -> HostConfig {
    let words = |list: &[&str]| Some(list.iter().map(|word| (*word).to_owned()).collect());
    HostConfig {
        // Reaps orphans and passes signals on: without it a shell as process 1 ignores SIGTERM.
        init: Some(true),
        privileged: Some(false),
        security_opt: words(&["no-new-privileges:true"]),
        cap_drop: words(CAPABILITIES_DROPPED),
        pids_limit: Some(PIDS_MAX),
        log_config: Some(log_config()),
        // The worker restarts; two supervisors would fight.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        publish_all_ports: Some(false),
        ..config
    }
}

fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", LOG_FILE_MAX), ("max-file", LOG_FILES)];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
    HostConfigLogConfig {
        typ: Some("json-file".into()),
        config: Some(options.into_iter().collect()),
    }
}

fn network(new: &NewContainer) -> &str {
    match new.network.as_str() {
        "" => NETWORK_NONE,
        name => name,
    }
}

fn networking(new: &NewContainer) -> Option<NetworkingConfig> {
    if new.network.is_empty() {
        return None;
    }
    let endpoint = EndpointSettings {
        aliases: Some(new.aliases.clone()),
        ..EndpointSettings::default()
    };
    Some(NetworkingConfig {
        endpoints_config: Some([(new.network.clone(), endpoint)].into_iter().collect()),
    })
}

/// A volume by its name: never a path of the host.
fn mount((volume, path): &(String, String)) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.clone()),
        target: Some(path.clone()),
        ..Mount::default()
    }
}

fn port_bindings(ports: &[PortBinding]) -> bollard::models::PortMap {
    let mut map = bollard::models::PortMap::default();
    for binding in ports {
        let at = RawBinding {
            host_ip: Some(address(binding.ip)),
            host_port: Some(binding.host_port.to_string()),
        };
        let list = map.entry(port_key(binding)).or_default();
        list.get_or_insert_default().push(at);
    }
    map
}

fn address(ip: IpAddr) -> String {
    ip.to_string()
}

fn port_key(binding: &PortBinding) -> String {
    format!("{}/{}", binding.port, binding.proto)
}

/// Thousandths of a core as Docker counts them.
pub(super) fn nano_cpus(millis: u64) -> i64 {
    i64::try_from(millis.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Proto;

    fn new() -> NewContainer {
        NewContainer {
            name: "a".into(),
            image: "image".into(),
            network: "net".into(),
            aliases: vec!["web".into()],
            mounts: vec![("volume".into(), "/data".into())],
            ports: vec![PortBinding {
                port: 80,
                proto: Proto::Tcp,
                ip: "127.0.0.1".parse().unwrap(),
                host_port: 20_000,
            }],
            ..NewContainer::default()
        }
    }

    #[test]
    fn every_container_is_hardened() {
        let config = body(&new()).host_config.unwrap();
        assert_eq!(config.init, Some(true));
        assert_eq!(config.privileged, Some(false));
        assert_eq!(config.pids_limit, Some(PIDS_MAX));
        assert_eq!(
            config.security_opt.unwrap(),
            ["no-new-privileges:true".to_owned()]
        );
        assert!(config.cap_add.is_none() && config.binds.is_none() && config.devices.is_none());
        assert_eq!(
            config.log_config.unwrap().config.unwrap()["max-size"],
            "10m"
        );
    }

    #[test]
    fn mounts_are_volumes_by_name() {
        let config = body(&new()).host_config.unwrap();
        let mounts = config.mounts.unwrap();
        assert_eq!(mounts[0].typ, Some(MountType::VOLUME));
        assert_eq!(mounts[0].source.as_deref(), Some("volume"));
    }

    #[test]
    fn without_a_network_there_is_none_at_all() {
        let body = body(&NewContainer::default());
        assert_eq!(body.host_config.unwrap().network_mode.unwrap(), "none");
        assert!(body.networking_config.is_none());
    }
}
