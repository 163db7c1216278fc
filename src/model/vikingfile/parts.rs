//! The mappings inside a node: health, resources, stop, domains, environment. Called by `deploy`.

use std::collections::BTreeMap;

use super::super::env::VarRef;
use super::super::release::Domain;
use super::super::spec::{DURATION_MS_MAX, Health, HealthCheck, Resources, StopPolicy};
use super::error::{Error, cut};
use super::fields::{Field, Fields};
use super::keys;
use super::size;
use super::words;
use super::yaml::Value;

/// Variables of one node.
const ENV_MAX: usize = 512;
/// Variables that viking injects begin so.
const ENV_RESERVED: &str = "VIKING_";
/// Words of a command.
pub(super) const WORDS_MAX: usize = 1024;
/// Shortest time between tries and for a try: less keeps the host busy with checks alone.
const CHECK_MS_MIN: u64 = 100;
/// Most failures in a row before a job counts as unhealthy.
const RETRIES_MAX: u32 = 1_000;
/// Least memory the engine accepts.
const MEMORY_BYTES_MIN: u64 = 6 << 20;
/// Most memory of one container; more is a typing error.
const MEMORY_BYTES_MAX: u64 = 64 << 40;
/// Most processors of one container, in thousandths; more is a typing error.
const CPU_MILLIS_MAX: u64 = 1_024_000;

const PORTS_ALLOWED: &[&str] = &["ports from 1 to 65535"];

/// `health:`; `first_port` is what an http check without port falls back to.
pub(super) fn health(field: &Field<'_>, first_port: Option<u16>) -> Result<Health, Error> {
    let fields = Fields::read(&keys::HEALTH, field)?;
    let default = Health::default();
    let times = |name: &str, min: u64, default: u64| match fields.get(name) {
        Some(field) => duration(&field, min),
        None => Ok(default),
    };
    Ok(Health {
        check: check(field, &fields, first_port)?,
        interval_ms: times("interval", CHECK_MS_MIN, default.interval_ms)?,
        timeout_ms: times("timeout", CHECK_MS_MIN, default.timeout_ms)?,
        start_period_ms: times("start_period", 0, default.start_period_ms)?,
        retries: match fields.get("retries") {
            Some(field) => field.number(1..=RETRIES_MAX)?,
            None => default.retries,
        },
    })
}

fn check(
    field: &Field<'_>,
    fields: &Fields<'_>,
    first_port: Option<u16>,
) -> Result<Option<HealthCheck>, Error> {
    let kinds = [fields.get("http"), fields.get("tcp"), fields.get("cmd")];
    if let [_, Some(second), ..] = kinds.iter().flatten().map(Some).collect::<Vec<_>>()[..] {
        let what = "only one kind of check can be given";
        return Err(Error::at(second.at, format!("{}: {what}", field.place))
            .with_allowed(["one of http, tcp, cmd"]));
    }
    let [http, tcp, cmd] = kinds;
    if let Some(http) = http {
        return http_check(&http, fields, first_port).map(Some);
    }
    if let Some(orphan) = fields.get("port").or_else(|| fields.get("status")) {
        return Err(orphan.wrong("belongs to an http check; give \"http: /path\" too"));
    }
    if let Some(tcp) = tcp {
        let port = tcp.parsed(words::port, PORTS_ALLOWED)?;
        return Ok(Some(HealthCheck::Tcp { port }));
    }
    let argv = cmd.map(|cmd| exec_form(&cmd)).transpose()?;
    Ok(argv.map(|argv| HealthCheck::Cmd { argv }))
}

fn http_check(
    http: &Field<'_>,
    fields: &Fields<'_>,
    first_port: Option<u16>,
) -> Result<HealthCheck, Error> {
    let path = http.text()?;
    if !path.starts_with('/') || path.contains(char::is_whitespace) || !path.is_ascii() {
        let what = format!("{:?} is not a path", cut(path));
        return Err(http.wrong(what).with_allowed(["paths such as /health"]));
    }
    let port = fields
        .get("port")
        .map(|f| f.parsed(words::port, PORTS_ALLOWED))
        .transpose()?;
    if port.is_none() && first_port.is_none() {
        let what = "no port is given, and the node exposes no tcp port";
        return Err(http.wrong(what));
    }
    let status = match fields.get("status") {
        Some(field) => u16::try_from(field.number(100..=599)?).ok(),
        None => None,
    };
    Ok(HealthCheck::Http {
        path: path.to_owned(),
        // The same check in two spellings must not look like a change.
        port: port.filter(|port| Some(*port) != first_port),
        status,
    })
}

fn duration(field: &Field<'_>, min: u64) -> Result<u64, Error> {
    let text = field.text()?;
    let ms = size::duration_ms(text).ok_or_else(|| {
        let what = format!("{:?} is not a duration", cut(text));
        field.wrong(what).with_allowed([size::DURATION_ALLOWED])
    })?;
    if (min..=DURATION_MS_MAX).contains(&ms) {
        return Ok(ms);
    }
    let allowed = if min == 0 {
        "durations up to 1h".to_owned()
    } else {
        format!("durations from {min}ms to 1h")
    };
    let what = format!("{:?} is not allowed", cut(text));
    Err(field.wrong(what).with_allowed([allowed]))
}

/// A command as a list of words, as written.
pub(super) fn exec_form(field: &Field<'_>) -> Result<Vec<String>, Error> {
    let words: Result<Vec<String>, Error> = field
        .list(WORDS_MAX)?
        .iter()
        .map(|word| Ok(word.long_text()?.to_owned()))
        .collect();
    let words = words?;
    if words.first().is_none_or(String::is_empty) {
        return Err(field.wrong("the command is empty"));
    }
    Ok(words)
}

/// `run:` and `entrypoint:`: a text is split like a shell would, a list is taken as it is.
pub(super) fn command(field: &Field<'_>) -> Result<Vec<String>, Error> {
    match &field.node.value {
        Value::List(_) => exec_form(field),
        Value::Text { .. } | Value::Map(_) if field.node.is_null() => {
            Err(field.wrong("a text or a list is needed, this is nothing"))
        }
        Value::Text { .. } => {
            let words = words::shell(field.long_text()?).map_err(|what| field.wrong(what))?;
            if words.len() > WORDS_MAX {
                return Err(field.wrong("the command has too many words"));
            }
            Ok(words)
        }
        Value::Map(_) => Err(field.wrong("a text or a list is needed, this is a mapping")),
    }
}

/// `resources:`
pub(super) fn resources(field: &Field<'_>) -> Result<Resources, Error> {
    let fields = Fields::read(&keys::RESOURCES, field)?;
    let cpu = fields.get("cpu").map(|f| {
        amount(&f, size::cpu_millis, size::CPU_ALLOWED, |millis| {
            millis <= CPU_MILLIS_MAX
        })
    });
    let memory = fields.get("memory").map(|f| {
        let good = |bytes| (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&bytes);
        amount(&f, size::memory_bytes, size::MEMORY_ALLOWED, good)
    });
    Ok(Resources {
        cpu_millis: cpu.transpose()?,
        memory_bytes: memory.transpose()?,
    })
}

fn amount(
    field: &Field<'_>,
    parse: fn(&str) -> Option<u64>,
    allowed: &str,
    good: impl FnOnce(u64) -> bool,
) -> Result<u64, Error> {
    let text = field.text()?;
    let wrong = |what: &str| {
        let what = format!("{:?} {what}", cut(text));
        field.wrong(what).with_allowed([allowed])
    };
    let amount = parse(text).ok_or_else(|| wrong("is not an amount"))?;
    if good(amount) {
        Ok(amount)
    } else {
        Err(wrong("is too little or too much"))
    }
}

/// `stop:`
pub(super) fn stop(field: &Field<'_>) -> Result<StopPolicy, Error> {
    let fields = Fields::read(&keys::STOP, field)?;
    let signal = fields
        .get("signal")
        .map(|f| f.parsed(words::signal, words::SIGNALS))
        .transpose()?;
    let timeout_ms = match fields.get("timeout") {
        Some(field) => duration(&field, 0)?,
        None => StopPolicy::default().timeout_ms,
    };
    let drain_ms = match fields.get("drain") {
        Some(field) => duration(&field, 0)?,
        None => StopPolicy::default().drain_ms,
    };
    Ok(StopPolicy {
        signal,
        timeout_ms,
        drain_ms,
    })
}

/// One entry of `domains:`: `name`, `name:port`, `name: port` or `{domain, port}`.
pub(super) fn domain(field: &Field<'_>) -> Result<Domain, Error> {
    let Value::Map(entries) = &field.node.value else {
        let text = field.text()?;
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name.trim_end(), Some(port.trim_start())),
            None => (text, None),
        };
        let port = port.map(words::port).transpose();
        let port = port.map_err(|what| field.wrong(what).with_allowed(PORTS_ALLOWED.to_vec()))?;
        let name = words::domain(name).map_err(|what| field.wrong(what))?;
        return Ok(Domain {
            name,
            port,
            since_ms: 0,
        });
    };
    if let [entry] = entries.as_slice()
        && keys::DOMAIN.find(&entry.key).is_none()
        && entry.key.contains(['.', '*'])
    {
        let name = words::domain(&entry.key)
            .map_err(|what| Error::at(entry.at, format!("{}: {what}", field.place)))?;
        let value = Field::of(field.place.clone(), entry);
        let port = value.parsed(words::port, PORTS_ALLOWED)?;
        return Ok(Domain {
            name,
            port: Some(port),
            since_ms: 0,
        });
    }
    let fields = Fields::read(&keys::DOMAIN, field)?;
    let port = fields.get("port");
    Ok(Domain {
        name: fields.need("domain")?.parsed(words::domain, &[])?,
        port: port
            .map(|f| f.parsed(words::port, PORTS_ALLOWED))
            .transpose()?,
        since_ms: 0,
    })
}

/// `env:`: values are texts as written, but for those that name a shared variable, which go to
/// `shared`.
pub(super) fn env(
    field: &Field<'_>,
    shared: &mut BTreeMap<String, VarRef>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    for (entry, value) in field.map(ENV_MAX)? {
        let wrong = |what: &str| {
            let message = format!("{}: {:?} {what}", field.place, cut(&entry.key));
            Error::at(entry.at, message).with_found(&entry.key)
        };
        if !words::variable(&entry.key) {
            return Err(wrong("is not the name of a variable"));
        }
        if entry.key.starts_with(ENV_RESERVED) {
            return Err(wrong(
                "is reserved: viking sets the variables that begin with VIKING_",
            ));
        }
        if value.node.is_null() {
            return Err(value.wrong("nothing is given; write \"\" for an empty value"));
        }
        let text = value.long_text()?;
        match words::shared(text).transpose() {
            Ok(Some(var)) => drop(shared.insert(entry.key.clone(), var)),
            Ok(None) => drop(env.insert(entry.key.clone(), text.to_owned())),
            Err(what) => return Err(value.wrong(what).with_allowed(["_<scope>:<VAR>"])),
        }
    }
    Ok(env)
}
