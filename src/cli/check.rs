//! `viking config check`: what a host would start with and where each value comes from, what stops it
//! from starting, and what is allowed but risky. Reads files and their modes; changes nothing and asks
//! neither Docker nor the store.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use url::{Host, Url};

use super::args::HostArgs;
use super::failure::{FAILED, Failure, Outcome};
use super::layers::{Effective, Layers};
use super::output::{Columns, Printer};
use super::{Context, hosting};
use crate::config::file::ConfigFile;
use crate::config::{Config, Listen};
use crate::model::wire;

/// Mode bits that let others than owner and group in.
const OTHERS: u32 = 0o007;
/// Mode bits that let anybody but the owner in.
const NOT_OWNER: u32 = 0o077;
/// Mode bits that let anybody but the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// The answer, for programs.
#[derive(Serialize)]
struct Report<'r> {
    schema: String,
    file: Option<&'r Path>,
    settings: &'r [Effective],
    warnings: &'r [String],
}

/// Prints what is in force; ends with 1 when a host could not start with it.
pub(crate) fn check(context: &Context, args: &HostArgs) -> Outcome {
    let layers = &context.layers;
    let config = hosting::config(args, &context.api)
        .map_err(|failure| layers.blame(failure))
        .map_err(|failure| Failure {
            code: FAILED,
            ..failure
        })?;
    data_dir(layers, &config.data_dir)?;
    etcd(layers)?;
    acme(layers)?;
    let warnings = warnings(layers, &config);
    let settings: Vec<Effective> = layers
        .settings
        .iter()
        .map(|setting| shown(setting, &config))
        .collect();
    let report = Report {
        schema: wire::schema("config"),
        file: layers.file.as_ref().map(ConfigFile::path),
        settings: &settings,
        warnings: &warnings,
    };
    context.print.list(&report, &settings, &COLUMNS)?;
    warn(&context.print, &warnings);
    Ok(0)
}

const COLUMNS: Columns<'_, Effective> = Columns {
    narrow: &[
        ("KEY", |setting| setting.key.to_owned()),
        ("VALUE", |setting| match setting.values.join(", ") {
            none if none.is_empty() => "-".to_owned(),
            values => values,
        }),
        ("FROM", |setting| setting.place.clone()),
    ],
    wide: &[],
    name: |setting| setting.key.to_owned(),
};

fn warn(print: &Printer, warnings: &[String]) {
    for warning in warnings {
        print.remark(&format!("warning: {warning}"));
    }
}

/// A setting as people may see it: found out where it has no value, without what is secret.
fn shown(setting: &Effective, config: &Config) -> Effective {
    let found = || match setting.key {
        "name" => vec![config.host.to_string()],
        "data_dir" => vec![config.data_dir.display().to_string()],
        _ => Vec::new(),
    };
    let values = if setting.values.is_empty() {
        found()
    } else {
        setting.values.iter().map(|value| hidden(value)).collect()
    };
    Effective {
        values,
        ..setting.clone()
    }
}

/// A URL without the password in it.
fn hidden(value: &str) -> String {
    match Url::parse(value) {
        Ok(mut url) if url.password().is_some() => {
            // Only a URL that cannot have a password refuses one.
            url.set_password(Some("***")).ok();
            url.to_string()
        }
        _ => value.to_owned(),
    }
}

/// What is wrong with one setting.
fn wrong(setting: &Effective, what: &str, hint: &str) -> Failure {
    Failure::new(format!("{}: {}: {what}", setting.place, setting.key), hint)
}

fn data_dir(layers: &Layers, dir: &Path) -> Result<(), Failure> {
    let Some(setting) = layers.of("data_dir") else {
        return Ok(());
    };
    match std::fs::read_dir(dir) {
        Ok(_) => Ok(()),
        // It is made at the first start.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let what = format!("{} cannot be read: {error}", dir.display());
            Err(wrong(
                setting,
                &what,
                "it must be a folder of the user that runs the host",
            ))
        }
    }
}

/// Everything about reaching etcd that can be known without asking it.
fn etcd(layers: &Layers) -> Result<(), Failure> {
    let insecure = layers.of("etcd.insecure").is_some_and(|setting| {
        let on = |value: &String| !matches!(value.as_str(), "false" | "");
        setting.values.iter().any(on)
    });
    if let Some(endpoints) = layers.of("etcd.endpoints") {
        for text in &endpoints.values {
            endpoint(endpoints, text, insecure)?;
        }
    }
    let given = |key: &str| layers.of(key).filter(|setting| !setting.values.is_empty());
    for (one, other) in [("cert", "key"), ("user", "password_file")] {
        for (one, other) in [(one, other), (other, one)] {
            let (one, other) = (format!("etcd.{one}"), format!("etcd.{other}"));
            if let (Some(setting), None) = (given(&one), given(&other)) {
                let what = format!("it is of no use without {other}");
                return Err(wrong(setting, &what, "give both or none"));
            }
        }
    }
    for (key, forbidden) in [
        ("etcd.ca", 0),
        ("etcd.cert", 0),
        ("etcd.key", OTHERS),
        ("etcd.password_file", NOT_OWNER),
    ] {
        if let Some(setting) = given(key) {
            for file in &setting.values {
                referenced(setting, Path::new(file), forbidden)?;
            }
        }
    }
    Ok(())
}

/// The file that a CA is trusted by.
fn acme(layers: &Layers) -> Result<(), Failure> {
    let files = layers.of("acme_ca").into_iter();
    let mut files =
        files.flat_map(|setting| setting.values.iter().map(move |file| (setting, file)));
    files.try_for_each(|(setting, file)| referenced(setting, Path::new(file), 0))
}

fn endpoint(setting: &Effective, text: &str, insecure: bool) -> Result<(), Failure> {
    let allowed = "allowed: https://host:port, and http://127.0.0.1:port";
    let url = Url::parse(text).ok();
    let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    else {
        return Err(wrong(
            setting,
            &format!("{text:?} is not a URL of an etcd"),
            allowed,
        ));
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "give etcd.user and etcd.password_file; a file can be kept from others";
        return Err(wrong(setting, "a URL with a user in it", hint));
    }
    if url.scheme() == "http" && !loopback(&url) && !insecure {
        let what =
            format!("{text}: plain http off loopback; whoever reaches etcd runs code on all hosts");
        let hint = "use https with etcd.ca, etcd.cert and etcd.key; or, on a network that nobody \
                    else is on, set etcd.insecure: true";
        return Err(wrong(setting, &what, hint));
    }
    Ok(())
}

fn loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// A file that is named must be there, readable, and kept from whom it must be kept from.
fn referenced(setting: &Effective, file: &Path, forbidden: u32) -> Result<(), Failure> {
    let show = file.display();
    let meta = std::fs::File::open(file)
        .and_then(|file| file.metadata())
        .map_err(|error| {
            wrong(
                setting,
                &format!("{show}: {error}"),
                "it must be a readable file",
            )
        })?;
    if !meta.is_file() {
        return Err(wrong(setting, &format!("{show} is not a file"), ""));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        let what = format!("{show} can be read by others (mode {mode:04o})");
        return Err(wrong(setting, &what, &format!("chmod 600 {show}")));
    }
    Ok(())
}

/// What a host can start with and an operator may regret.
fn warnings(layers: &Layers, config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let values = |key: &str| {
        layers
            .of(key)
            .map_or(&[][..], |setting| &setting.values[..])
    };
    let endpoints = values("etcd.endpoints").len();
    let address = config.address;
    if address.is_unspecified() || is_public(address) {
        found.push(format!(
            "address {address}: ports of jobs are open to whoever reaches this machine; an address of a \
             private network is safer"
        ));
    }
    if address.is_loopback() && endpoints > 0 {
        found.push(format!(
            "address {address}: jobs on other hosts cannot reach the jobs of this one"
        ));
    }
    if endpoints == 2 || endpoints == 4 {
        found.push(format!(
            "etcd.endpoints: of {endpoints} members no more may fail than of {}",
            endpoints - 1
        ));
    }
    if values("etcd.insecure").iter().any(|value| value == "true") {
        found.push("etcd.insecure: whoever is on the network to etcd rules the cluster".to_owned());
    }
    if config.front.acme.is_some() && config.front.https == Listen::Off {
        found.push("acme: https is off, so this host serves none of the certificates".to_owned());
    }
    if config.docker.starts_with("tcp://") || config.docker.starts_with("http://") {
        found.push(format!(
            "docker {}: whoever reaches it without TLS is root there",
            hidden(&config.docker)
        ));
    }
    if config.data_dir.starts_with("/tmp") || config.data_dir.starts_with("/run") {
        let dir = config.data_dir.display();
        found.push(format!(
            "data_dir {dir}: it is gone after a restart of the machine"
        ));
    }
    found.extend(writable(
        layers.file.as_ref().map(|file| file.path().to_owned()),
    ));
    found
}

/// Neither loopback, nor private, nor of one link.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// Who can write the file decides what root runs.
fn writable(file: Option<PathBuf>) -> Option<String> {
    let file = file?;
    let meta = std::fs::metadata(&file)
        .ok()
        .filter(std::fs::Metadata::is_file)?;
    let mode = meta.permissions().mode() & 0o777;
    let show = file.display();
    (mode & OTHERS_WRITE != 0).then(|| {
        format!("{show}: others than its owner can write it (mode {mode:04o}); chmod 644 {show}")
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
