//! The small texts of a node, each with its own grammar: ports, volumes, links, host tags, domains,
//! image references, paths, commands. Pure; errors say what is wrong and never repeat the key.

use super::super::env::VarRef;
use super::super::names::{ImageName, NodeName, ScopeName, StackName, VarName, VolumeName};
use super::super::release::{Filter, FilterRule};
use super::super::spec::{Expose, LinkTarget, Proto, VolumeMount};
use super::ImageText;
use super::error::cut;

/// Longest host name, as DNS has it.
const DOMAIN_BYTES_MAX: usize = 253;
/// Longest label of a host name, as DNS has it.
const LABEL_BYTES_MAX: usize = 63;
/// Longest host tag.
const TAG_BYTES_MAX: usize = 63;
/// Longest tag of an image reference, as registries have it.
const REFERENCE_TAG_BYTES_MAX: usize = 128;

/// A port from 1 to 65535, in plain digits.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    let number = text.parse().ok().filter(|_| plain);
    number.ok_or_else(|| format!("{:?} is not a port", cut(text)))
}

/// `80`, `53/udp`, `8080:80`, `8080:80/udp`.
pub(super) fn expose(text: &str) -> Result<Expose, String> {
    let (ports, proto) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Proto::Tcp),
        Some((ports, "udp")) => (ports, Proto::Udp),
        Some((_, other)) => return Err(format!("{:?} is neither tcp nor udp", cut(other))),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (host_port, container) = match parts.as_slice() {
        [container] => (None, *container),
        [host, container] => (Some(port(host)?), *container),
        _ => {
            return Err("an address cannot be given: ports are published on the host's own".into());
        }
    };
    Ok(Expose {
        port: port(container)?,
        proto,
        host_port,
    })
}

/// `/path` or `name:/path`.
pub(super) fn volume(text: &str) -> Result<VolumeMount, String> {
    let Some((name, path)) = text.split_once(':') else {
        let path = volume_path(text)?;
        return Ok(VolumeMount { name: None, path });
    };
    if name.starts_with(['/', '.', '~', '\\']) {
        return Err(format!(
            "{:?} is a path of the host; host paths need the operator's config, \
             viking.yml can only name volumes",
            cut(name)
        ));
    }
    let name = VolumeName::parse(name).map_err(|e| e.to_string())?;
    let path = volume_path(path)?;
    Ok(VolumeMount {
        name: Some(name),
        path,
    })
}

fn volume_path(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err("a volume takes no options and no ':' in its path".into());
    }
    let path = absolute(text)?;
    if path == "/" {
        return Err("a volume cannot be the container's root".into());
    }
    Ok(path)
}

/// An absolute path in its one spelling: no `.`, no empty segment, no `..`, no slash at the end.
pub(super) fn absolute(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("{:?} is not an absolute path", cut(text)));
    }
    Ok(format!("/{}", segments(text)?))
}

/// A path of the commit, below the folder of `viking.yml`; empty for that folder itself.
pub(super) fn relative(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Err(format!("{:?} is not a path in the repository", cut(text)));
    }
    segments(text)
}

fn segments(text: &str) -> Result<String, String> {
    if text.contains(['\0', '\\']) {
        return Err("a path must not hold a backslash or NUL".into());
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|s| !matches!(*s, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return Err("a path must not hold '..'".into());
    }
    Ok(parts.join("/"))
}

/// `node` or `stack/node`; a link into `own` is one without a stack.
pub(super) fn link(text: &str, own: &StackName) -> Result<LinkTarget, String> {
    let (stack, node) = match text.split_once('/') {
        Some((stack, node)) => (
            Some(StackName::parse(stack).map_err(|e| e.to_string())?),
            node,
        ),
        None => (None, text),
    };
    if stack.as_ref() == Some(&StackName::core()) {
        return Err("the stack \"core\" is viking's own and cannot be linked".into());
    }
    Ok(LinkTarget {
        stack: stack.filter(|stack| stack != own),
        node: NodeName::declared(node).map_err(|e| e.to_string())?,
    })
}

/// `tag`, `!tag`, `tag:flexible`.
pub(super) fn filter(text: &str) -> Result<Filter, String> {
    let (tag, rule) = match (text.strip_prefix('!'), text.split_once(':')) {
        (Some(_), Some(_)) => return Err("a host tag is either forbidden or flexible".into()),
        (Some(tag), None) => (tag, FilterRule::Forbidden),
        (None, Some((tag, "flexible"))) => (tag, FilterRule::Preferred),
        (None, Some((_, other))) => return Err(format!("{:?} is not \"flexible\"", cut(other))),
        (None, None) => (text, FilterRule::Required),
    };
    Ok(Filter {
        tag: host_tag(tag)?,
        rule,
    })
}

/// A tag of a host, as its operator gives it and as `filter:` asks for it.
pub(crate) fn host_tag(tag: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.=".contains(&b);
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX || !tag.bytes().all(good) {
        return Err(format!("{:?} is not a host tag", cut(tag)));
    }
    Ok(tag.to_owned())
}

/// A host name, perhaps with a leading `*.`, in lower case.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_lowercase();
    let rest = name.strip_prefix("*.").unwrap_or(&name);
    if !rest.is_ascii() {
        return Err(format!("{:?} needs its ASCII (punycode) form", cut(text)));
    }
    if name.len() > DOMAIN_BYTES_MAX || !rest.split('.').all(label) {
        return Err(format!("{:?} is not a host name", cut(text)));
    }
    Ok(name)
}

fn label(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(good)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `viking:<stack>/<image>` or a reference to a registry.
pub(super) fn image(text: &str) -> Result<ImageText, String> {
    if let Some(ours) = text.strip_prefix("viking:") {
        let (stack, image) = ours.split_once('/').ok_or_else(|| {
            format!(
                "{:?} names no stack; write viking:<stack>/<image>",
                cut(text)
            )
        })?;
        return Ok(ImageText::Viking {
            stack: StackName::parse(stack).map_err(|e| e.to_string())?,
            image: ImageName::parse(image).map_err(|e| e.to_string())?,
        });
    }
    if !reference(text) {
        return Err(format!("{:?} is not an image reference", cut(text)));
    }
    Ok(ImageText::External(text.to_owned()))
}

/// `[host[:port]/]path[:tag][@sha256:…]`
fn reference(text: &str) -> bool {
    let (rest, digest) = split_behind(text, text.find('@'));
    let last_slash = rest.rfind('/').unwrap_or(0);
    let colon = rest.rfind(':').filter(|colon| *colon >= last_slash);
    let (name, tag) = split_behind(rest, colon);
    let (first, path) = name.split_once('/').unwrap_or(("", name));
    let registry = first.contains(['.', ':']) || first == "localhost";
    let path_good = path.split('/').all(path_part);
    let first_good = first.is_empty() != name.contains('/')
        && (first.is_empty()
            || if registry {
                registry_host(first)
            } else {
                path_part(first)
            });
    first_good && path_good && tag.is_none_or(reference_tag) && digest.is_none_or(sha256)
}

fn split_behind(text: &str, at: Option<usize>) -> (&str, Option<&str>) {
    let split = at.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?)));
    split.map_or((text, None), |(before, behind)| (before, Some(behind)))
}

fn registry_host(text: &str) -> bool {
    let (host, number) = split_behind(text, text.find(':'));
    domain(host).is_ok() && !host.starts_with('*') && number.is_none_or(|n| port(n).is_ok())
}

fn path_part(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || b"._-".contains(b))
        && bytes.split(alnum).all(separator)
}

/// What may stand between the letters and digits of a reference, as Docker has it.
fn separator(between: &[u8]) -> bool {
    matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
}

fn reference_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= REFERENCE_TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn sha256(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:")
        .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

/// `name` or id, perhaps with `:group`.
pub(super) fn user(text: &str) -> Result<String, String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    let part = |t: &str| !t.is_empty() && !t.starts_with('-') && t.bytes().all(word);
    let (user, group) = split_behind(text, text.find(':'));
    if part(user) && group.is_none_or(part) {
        Ok(text.to_owned())
    } else {
        Err(format!("{:?} is not a user", cut(text)))
    }
}

/// Splits like a shell would, without expanding anything.
pub(super) fn shell(text: &str) -> Result<Vec<String>, String> {
    let words = shell_words::split(text).map_err(|_| "a quote is not closed".to_owned())?;
    if words.first().is_none_or(String::is_empty) {
        return Err("the command is empty".into());
    }
    Ok(words)
}

/// A signal in its one spelling, such as `SIGQUIT`.
pub(super) fn signal(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&name) {
        Ok(format!("SIG{name}"))
    } else {
        Err(format!("{:?} is not a signal to stop with", cut(text)))
    }
}

/// Signals a process may take as "stop".
pub(super) const SIGNALS: &[&str] = &[
    "TERM", "INT", "QUIT", "HUP", "KILL", "USR1", "USR2", "WINCH", "ABRT", "ALRM",
];

/// `linux/amd64`, `linux/arm/v7`.
pub(super) fn platform(text: &str) -> Result<String, String> {
    let word = |t: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        !t.is_empty() && t.bytes().all(good)
    };
    let parts = text.split('/').count();
    if (2..=3).contains(&parts) && text.split('/').all(word) {
        Ok(text.to_owned())
    } else {
        Err(format!("{:?} is not a platform", cut(text)))
    }
}

/// Name of a variable or build argument.
pub(super) fn variable(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(good)
}

/// `_<scope>:<VAR>` names a shared variable; every other text is a value as written.
pub(super) fn shared(text: &str) -> Option<Result<VarRef, String>> {
    let (scope, name) = text.strip_prefix('_')?.split_once(':')?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    let meant = !scope.is_empty() && scope.bytes().all(word) && variable(name);
    meant.then(|| {
        Ok(VarRef {
            scope: ScopeName::parse(scope).map_err(|e| e.to_string())?,
            name: VarName::parse(name).map_err(|e| e.to_string())?,
        })
    })
}

/// The stem of the variables that a link to `node` injects: upper case, `-` as `_`.
#[must_use]
pub fn link_variable(node: &NodeName) -> String {
    node.as_str().to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_a_shared_variable_or_is_a_value_as_written() {
        let named = |text: &str| shared(text).unwrap().unwrap().to_string();
        assert_eq!(named("_prod:TOKEN"), "prod/TOKEN");
        assert_eq!(named("_eu-1:db.url"), "eu-1/db.url");
        // What only looks a little like it.
        for text in ["_x", "_a b:c", "_:X", "a:B", "_a:1x", "_a:", "_", ""] {
            assert_eq!(shared(text), None, "{text:?}");
        }
        let long = format!("_a:{}", "X".repeat(129));
        for text in ["_Prod:TOKEN", "__x:TOKEN", "_-x:TOKEN", &long] {
            assert!(shared(text).unwrap().is_err(), "{text:?}");
        }
    }
}
