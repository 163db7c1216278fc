//! The text of a `viking.yml` for a value of the model, in spellings chosen by a seed. Used by the
//! round-trip property.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use viking::model::release::{Domain, FilterRule, NodeKind};
use viking::model::spec::{Health, HealthCheck, Proto, Settings};
use viking::model::vikingfile::{BuildEntry, DeployNode, DockerfileSource, ImageText, VikingFile};

/// The text of `file`; bits of `seed` choose between spellings.
pub(super) fn yaml(file: &VikingFile, seed: u64) -> String {
    let mut writer = Writer {
        text: String::new(),
        seed,
    };
    writer.line(
        0,
        &format!("viking: {{name: {}}}", quoted(file.stack.as_str())),
    );
    if let Some(comment) = &file.comment {
        writer.text.truncate(writer.text.len() - 2);
        writer.line(0, &format!(", comment: {}}}", quoted(comment)));
    }
    if !file.require.is_empty() {
        writer.text.truncate(writer.text.len() - 2);
        writer.line(0, &format!(", require: {}}}", list(&file.require)));
    }
    writer.line(
        0,
        if file.build.is_empty() {
            "# no images"
        } else {
            "build:"
        },
    );
    file.build.iter().for_each(|entry| writer.image(entry));
    writer.line(0, "deploy:");
    file.deploy.iter().for_each(|node| writer.node(node));
    writer.text
}

struct Writer {
    text: String,
    seed: u64,
}

/// JSON's quotes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| quoted(&item.to_string()))
        .collect();
    format!("[{}]", items.join(", "))
}

impl Writer {
    fn line(&mut self, indent: usize, text: &str) {
        writeln!(self.text, "{}{text}", " ".repeat(indent)).expect("a String takes any text");
    }

    fn either<'t>(&mut self, one: &'t str, other: &'t str) -> &'t str {
        self.seed = self.seed.rotate_left(1);
        if self.seed & 1 == 0 { one } else { other }
    }

    fn map(&mut self, indent: usize, key: &str, map: &BTreeMap<String, String>) {
        if !map.is_empty() {
            self.line(indent, &format!("{key}:"));
            for (key, value) in map {
                self.line(indent + 2, &format!("{key}: {}", quoted(value)));
            }
        }
    }

    fn image(&mut self, entry: &BuildEntry) {
        self.line(2, &format!("{}:", quoted(entry.name.as_str())));
        match &entry.dockerfile {
            DockerfileSource::Text(text) => {
                self.line(4, "dockerfile: |");
                text.lines().for_each(|line| self.line(6, line));
            }
            DockerfileSource::File(path) => self.line(4, &format!("dockerfile: ./{path}")),
        }
        self.line(
            4,
            &format!("context: {}", quoted(&format!("./{}", entry.context))),
        );
        if let Some(target) = &entry.target {
            self.line(4, &format!("target: {}", quoted(target)));
        }
        self.map(4, "args", &entry.args);
    }

    fn node(&mut self, node: &DeployNode) {
        self.line(2, &format!("{}:", quoted(node.name.as_str())));
        if let NodeKind::Website { document_root } = &node.kind {
            let kind = self.either("type: website", "# a website by its root");
            self.line(4, kind);
            self.line(
                4,
                &format!("document_root: {}", quoted(&format!("./{document_root}/"))),
            );
        } else {
            self.container(node);
            self.settings(&node.settings);
            if let Some(before) = &node.before_release {
                self.line(4, &format!("before_release: {}", list(before)));
            }
        }
        if !node.domains.is_empty() {
            let key = self.either("domains", "route");
            self.line(4, &format!("{key}:"));
            node.domains.iter().for_each(|domain| self.domain(domain));
        }
    }

    fn domain(&mut self, domain: &Domain) {
        let name = quoted(self.either(&domain.name, &domain.name.to_uppercase()));
        let line = match domain.port {
            None => name,
            Some(port) if self.either("map", "short") == "map" => {
                format!("{{domain: {name}, port: {port}}}")
            }
            Some(port) => format!("{name}: {port}"),
        };
        self.line(6, &format!("- {line}"));
    }

    fn container(&mut self, node: &DeployNode) {
        let image = match &node.image {
            Some(ImageText::Viking { stack, image }) => format!("viking:{stack}/{image}"),
            Some(ImageText::External(text)) => text.clone(),
            None => String::new(),
        };
        self.line(4, &format!("image: {}", quoted(&image)));
        self.line(4, &format!("scale: {}", node.scale));
        let service = self.either("service", "static");
        self.line(4, &format!("{service}: {}", node.service));
        self.line(
            4,
            &format!("fixed: {}", if node.fixed { "yes" } else { "no" }),
        );
        self.line(
            4,
            &format!(
                "spread: {}",
                if node.spread_required {
                    "required"
                } else {
                    "preferred"
                }
            ),
        );
        let tags = node.filter.iter().map(|f| match f.rule {
            FilterRule::Required => f.tag.clone(),
            FilterRule::Forbidden => format!("!{}", f.tag),
            FilterRule::Preferred => format!("{}:flexible", f.tag),
        });
        self.line(4, &format!("filter: {}", list(tags)));
        let signal = node
            .stop
            .signal
            .as_ref()
            .map_or(String::new(), |s| format!("signal: {s}, "));
        self.line(
            4,
            &format!(
                "stop: {{{signal}timeout: {}ms, drain: {}ms}}",
                node.stop.timeout_ms, node.stop.drain_ms
            ),
        );
    }

    fn settings(&mut self, settings: &Settings) {
        if let Some(run) = &settings.run {
            let key = self.either("run", "command");
            let words = self.either("list", "text") == "list";
            let value = if words {
                list(run)
            } else {
                quoted(&shell_words::join(run))
            };
            self.line(4, &format!("{key}: {value}"));
        }
        if let Some(entrypoint) = &settings.entrypoint {
            self.line(4, &format!("entrypoint: {}", list(entrypoint)));
        }
        for (key, value) in [("cwd", &settings.cwd), ("user", &settings.user)] {
            if let Some(value) = value {
                self.line(4, &format!("{key}: {}", quoted(value)));
            }
        }
        self.map(4, "env", &settings.env);
        self.lists(settings);
        self.health(&settings.health);
        let cpu = settings
            .resources
            .cpu_millis
            .map(|c| format!("cpu: {}.{:03}", c / 1_000, c % 1_000));
        let memory = settings
            .resources
            .memory_bytes
            .map(|m| format!("memory: {m}"));
        let both: Vec<String> = cpu.into_iter().chain(memory).collect();
        self.line(4, &format!("resources: {{{}}}", both.join(", ")));
    }

    fn lists(&mut self, settings: &Settings) {
        let ports = settings.expose.iter().map(|e| {
            let host = e.host_port.map_or(String::new(), |p| format!("{p}:"));
            let proto = if e.proto == Proto::Udp { "/udp" } else { "" };
            format!("{host}{}{proto}", e.port)
        });
        let ports: Vec<String> = ports.collect();
        let plain = self.either("plain", "quoted") == "plain";
        let ports = if plain {
            format!("[{}]", ports.join(", "))
        } else {
            list(ports)
        };
        self.line(4, &format!("expose: {ports}"));
        let volumes = settings.volume.iter().map(|v| match &v.name {
            Some(name) => format!("{name}:{}", v.path),
            None => v.path.clone(),
        });
        self.line(4, &format!("volume: {}", list(volumes)));
        self.line(4, &format!("link: {}", list(&settings.link)));
    }

    fn health(&mut self, health: &Health) {
        self.line(4, "health:");
        self.line(6, &format!("interval: {}ms", health.interval_ms));
        self.line(6, &format!("timeout: {}ms", health.timeout_ms));
        self.line(6, &format!("start_period: {}ms", health.start_period_ms));
        self.line(6, &format!("retries: {}", health.retries));
        match &health.check {
            None => {}
            Some(HealthCheck::Tcp { port }) => self.line(6, &format!("tcp: {port}")),
            Some(HealthCheck::Cmd { argv }) => self.line(6, &format!("cmd: {}", list(argv))),
            Some(HealthCheck::Http { path, port, status }) => {
                self.line(6, &format!("http: {path}"));
                for (key, value) in [("port", port), ("status", status)] {
                    if let Some(value) = value {
                        self.line(6, &format!("{key}: {value}"));
                    }
                }
            }
        }
    }
}
