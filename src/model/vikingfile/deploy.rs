//! The `deploy:` section: nodes in file order, each with the places that later checks point at.
//! Called by `VikingFile::parse`; what concerns more than one node is in `check`.

use std::collections::BTreeMap;

use super::super::env::VarRef;
use super::super::names::{NodeName, StackName};
use super::super::release::NodeKind;
use super::super::spec::{Expose, LinkTarget, Resources, Settings, StopPolicy, VolumeMount};
use super::DeployNode;
use super::error::{At, Error, cut};
use super::fields::{Field, Fields};
use super::keys::{self, Section};
use super::parts;
use super::words;
use super::yaml::{Entry, Value};

/// Nodes of one stack: a plan is made of all of them at once.
pub const NODES_MAX: usize = 1_000;
/// Ports of one node: each is published, watched and kept from others.
pub const PORTS_MAX: usize = 64;
/// Copies of one node.
pub const SCALE_MAX: u32 = 1_000;
const VOLUMES_MAX: usize = 64;
const LINKS_MAX: usize = 64;
const DOMAINS_MAX: usize = 256;
const FILTERS_MAX: usize = 64;

/// A node and the places in the file that checks point at.
pub(super) struct Draft {
    pub(super) node: DeployNode,
    pub(super) image_at: At,
    pub(super) scale_at: At,
    pub(super) link_at: Vec<At>,
    pub(super) domain_at: Vec<At>,
}

/// Reads all nodes; nothing written means none: a stack of images only.
pub(super) fn read(field: &Field<'_>, stack: &StackName) -> Result<Vec<Draft>, Error> {
    if field.node.is_null() {
        return Ok(Vec::new());
    }
    let nodes = field.map(NODES_MAX)?;
    nodes
        .iter()
        .map(|(entry, field)| {
            let name = NodeName::declared(&entry.key)
                .map_err(|e| Error::at(entry.at, e.to_string()).with_found(&entry.key))?;
            node(name, entry, field, stack)
        })
        .collect()
}

fn node(
    name: NodeName,
    entry: &Entry,
    field: &Field<'_>,
    stack: &StackName,
) -> Result<Draft, Error> {
    // What is wrong with a node as a whole is shown at its name.
    let field = Field {
        place: field.place.clone(),
        at: entry.at,
        node: field.node,
    };
    if is_website(&field) {
        website(name, &field)
    } else {
        container(name, &field, stack)
    }
}

/// `document_root` alone makes a website too.
fn is_website(field: &Field<'_>) -> bool {
    let Value::Map(entries) = &field.node.value else {
        return false;
    };
    let has = |key: &str| entries.iter().any(|e| e.key == key);
    has("type") || (has("document_root") && !has("image"))
}

fn empty(name: NodeName, line: u64, kind: NodeKind) -> DeployNode {
    DeployNode {
        name,
        line,
        kind,
        image: None,
        settings: Settings::default(),
        shared: BTreeMap::new(),
        scale: 1,
        domains: Vec::new(),
        filter: Vec::new(),
        spread_required: false,
        stop: StopPolicy::default(),
        service: false,
        fixed: false,
        before_release: None,
    }
}

fn website(name: NodeName, field: &Field<'_>) -> Result<Draft, Error> {
    known_type(field)?;
    refuse_container_keys(field)?;
    let fields = Fields::read(&keys::WEBSITE, field)?;
    let root = fields.need("document_root")?;
    let document_root = root.parsed(words::relative, &["folders of the repository"])?;
    let mut node = empty(name, field.at.line, NodeKind::Website { document_root });
    let (domains, domain_at) = domains(&fields)?;
    if let Some(index) = domains.iter().position(|d| d.port.is_some()) {
        let at = domain_at.get(index).copied().unwrap_or(field.at);
        let message = format!("{}.domains: a website has no ports", field.place);
        return Err(Error::at(at, message));
    }
    node.domains = domains;
    Ok(Draft {
        node,
        image_at: field.at,
        scale_at: field.at,
        link_at: Vec::new(),
        domain_at,
    })
}

/// Looked at before the other keys: with a wrong type they say nothing.
fn known_type(field: &Field<'_>) -> Result<(), Error> {
    let values = field.map(usize::MAX)?;
    let Some((_, kind)) = values.iter().find(|(entry, _)| entry.key == "type") else {
        return Ok(());
    };
    let text = kind.text()?;
    if text == "website" {
        return Ok(());
    }
    let what = format!("{:?} is not a type of node", cut(text));
    Err(kind.wrong(what).with_allowed(["website"]))
}

fn refuse_container_keys(field: &Field<'_>) -> Result<(), Error> {
    let Value::Map(entries) = &field.node.value else {
        return Ok(());
    };
    let only_container = |section: &Section, key: &str| {
        section.find(key).is_some() && keys::WEBSITE.find(key).is_none()
    };
    let Some(entry) = entries
        .iter()
        .find(|e| only_container(&keys::CONTAINER, &e.key))
    else {
        return Ok(());
    };
    let message = format!(
        "key {:?} is for containers, {} is a website",
        entry.key, field.place
    );
    Err(Error::at(entry.at, message)
        .with_found(&entry.key)
        .with_allowed(keys::WEBSITE.allowed()))
}

fn container(name: NodeName, field: &Field<'_>, stack: &StackName) -> Result<Draft, Error> {
    let fields = Fields::read(&keys::CONTAINER, field)?;
    if let Some(root) = fields.get("document_root") {
        return Err(root.wrong("a node with an image cannot be a website too"));
    }
    let image = fields.need("image")?;
    let mut node = empty(name, field.at.line, NodeKind::Container);
    node.image = Some(image.parsed(
        words::image,
        &[
            "viking:<stack>/<image>",
            "references such as redis:7 or quay.io/x/y",
        ],
    )?);
    let (links, link_at) = links(&fields, stack)?;
    let (domains, domain_at) = domains(&fields)?;
    (node.settings, node.shared) = settings(&fields, links)?;
    node.domains = domains;
    placement(&fields, &mut node)?;
    if let Some(before) = fields.get("before_release") {
        node.before_release = Some(parts::command(&before)?);
        if node.service {
            return Err(before.wrong(
                "no release replaces a service, so nothing would run before one; give it to the node \
                 that uses the service",
            ));
        }
    }
    Ok(Draft {
        node,
        image_at: image.at,
        scale_at: fields.get("scale").map_or(field.at, |scale| scale.at),
        link_at,
        domain_at,
    })
}

type Shared = BTreeMap<String, VarRef>;

fn settings(fields: &Fields<'_>, link: Vec<LinkTarget>) -> Result<(Settings, Shared), Error> {
    let optional = |name: &str, read: fn(&Field<'_>) -> Result<String, Error>| {
        fields.get(name).map(|f| read(&f)).transpose()
    };
    let command = |name: &str| fields.get(name).map(|f| parts::command(&f)).transpose();
    let mut shared = Shared::new();
    let mut settings = Settings {
        run: command("run")?,
        entrypoint: command("entrypoint")?,
        cwd: optional("cwd", |f| f.parsed(words::absolute, &["absolute paths"]))?,
        user: optional("user", |f| {
            f.parsed(words::user, &["names or ids, with :group if needed"])
        })?,
        env: match fields.get("env") {
            Some(field) => parts::env(&field, &mut shared)?,
            None => BTreeMap::new(),
        },
        expose: exposes(fields)?,
        volume: volumes(fields)?,
        link,
        ..Settings::default()
    };
    if let Some(field) = fields.get("health") {
        settings.health = parts::health(&field, settings.first_tcp_port())?;
    }
    settings.resources = match fields.get("resources") {
        Some(field) => parts::resources(&field)?,
        None => Resources::default(),
    };
    Ok((settings, shared))
}

fn placement(fields: &Fields<'_>, node: &mut DeployNode) -> Result<(), Error> {
    let flag = |name: &str| fields.get(name).map_or(Ok(false), |f| f.flag());
    node.service = flag("service")?;
    node.fixed = flag("fixed")?;
    if let Some(scale) = fields.get("scale") {
        node.scale = scale.number(0..=SCALE_MAX)?;
    }
    if let Some(stop) = fields.get("stop") {
        node.stop = parts::stop(&stop)?;
    }
    if let Some(spread) = fields.get("spread") {
        node.spread_required = match spread.text()? {
            "required" => true,
            "preferred" => false,
            other => {
                let what = format!("{:?} is not allowed", cut(other));
                return Err(spread.wrong(what).with_allowed(["required", "preferred"]));
            }
        };
    }
    if let Some(filter) = fields.get("filter") {
        let mut seen = Seen::new("host tag");
        for item in filter.one_or_many(FILTERS_MAX)? {
            let one = item.parsed(words::filter, &["tag", "!tag", "tag:flexible"])?;
            seen.add(&item, &one.tag)?;
            node.filter.push(one);
        }
    }
    Ok(())
}

fn exposes(fields: &Fields<'_>) -> Result<Vec<Expose>, Error> {
    let mut exposes = Vec::new();
    let (mut inside, mut outside) = (Seen::new("port"), Seen::new("host port"));
    let Some(field) = fields.get("expose") else {
        return Ok(exposes);
    };
    for item in field.list(PORTS_MAX)? {
        let one = item.parsed(words::expose, &["80", "53/udp", "8080:80", "8080:80/udp"])?;
        inside.add(&item, &one.label())?;
        if let Some(host_port) = one.host_port {
            outside.add(&item, &format!("{host_port}/{}", one.proto))?;
        }
        exposes.push(one);
    }
    Ok(exposes)
}

fn volumes(fields: &Fields<'_>) -> Result<Vec<VolumeMount>, Error> {
    let mut volumes: Vec<VolumeMount> = Vec::new();
    let mut seen = Seen::new("path");
    let Some(field) = fields.get("volume") else {
        return Ok(volumes);
    };
    for item in field.list(VOLUMES_MAX)? {
        let one = item.parsed(words::volume, &["/path", "name:/path"])?;
        seen.add(&item, &one.path)?;
        volumes.push(one);
    }
    Ok(volumes)
}

fn links(fields: &Fields<'_>, stack: &StackName) -> Result<(Vec<LinkTarget>, Vec<At>), Error> {
    let (mut links, mut places) = (Vec::new(), Vec::new());
    let (mut targets, mut names) = (Seen::new("link"), Seen::new("name of link variables"));
    let Some(field) = fields.get("link") else {
        return Ok((links, places));
    };
    for item in field.one_or_many(LINKS_MAX)? {
        let one = item.parsed(|t| words::link(t, stack), &["node", "stack/node"])?;
        targets.add(&item, &one.to_string())?;
        names.add(&item, &words::link_variable(&one.node))?;
        links.push(one);
        places.push(item.at);
    }
    Ok((links, places))
}

type Domains = (Vec<super::super::release::Domain>, Vec<At>);

fn domains(fields: &Fields<'_>) -> Result<Domains, Error> {
    let (mut domains, mut places) = (Vec::new(), Vec::new());
    let mut seen = Seen::new("domain");
    let Some(field) = fields.get("domains") else {
        return Ok((domains, places));
    };
    for item in field.list(DOMAINS_MAX)? {
        let one = parts::domain(&item)?;
        seen.add(&item, &one.name)?;
        domains.push(one);
        places.push(item.at);
    }
    Ok((domains, places))
}

/// What was given before, so that the second one can name the line of the first.
struct Seen {
    what: &'static str,
    lines: BTreeMap<String, u64>,
}

impl Seen {
    fn new(what: &'static str) -> Self {
        let lines = BTreeMap::new();
        Self { what, lines }
    }

    fn add(&mut self, field: &Field<'_>, word: &str) -> Result<(), Error> {
        match self.lines.insert(word.to_owned(), field.at.line) {
            None => Ok(()),
            Some(first) => Err(field.wrong(format!(
                "{} {word:?} is given twice, first in line {first}",
                self.what
            ))),
        }
    }
}
