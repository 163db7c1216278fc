//! Values of the model as a good `viking.yml` could mean them. Used by the round-trip property.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::{collection, option, sample};
use viking::model::names::{ImageName, NodeName, StackName, VolumeName};
use viking::model::release::{Domain, Filter, FilterRule, NodeKind};
use viking::model::spec::{
    Expose, Health, HealthCheck, LinkTarget, Proto, Resources, Settings, StopPolicy, VolumeMount,
};
use viking::model::vikingfile::{BuildEntry, DeployNode, DockerfileSource, ImageText, VikingFile};

const NAME: &str = "[a-z0-9][a-z0-9_-]{0,8}";

/// Lines depend on the text, not on the meaning.
pub(super) fn without_lines(mut file: VikingFile) -> VikingFile {
    file.build.iter_mut().for_each(|entry| entry.line = 0);
    file.deploy.iter_mut().for_each(|node| node.line = 0);
    file
}

pub(super) fn files() -> impl Strategy<Value = VikingFile> {
    let build = collection::btree_map(NAME, builds(), 0..4);
    let deploy = collection::btree_map(NAME, nodes(), 0..5);
    let comment = option::of("[a-zé0-9:#'\" -]{1,20}".prop_map(|text| tidy(&text)));
    // Stacks have at most nine letters, so these are always others.
    let require = collection::btree_set("other-stack-[a-z]", 0..3);
    (NAME, comment, require, build, deploy)
        .prop_map(|(stack, comment, require, build, deploy)| VikingFile {
            stack: StackName::parse(&stack).expect("generated to be a name"),
            comment: comment.filter(|text| !text.is_empty()),
            require: require
                .iter()
                .map(|name| StackName::parse(name).expect("generated to be a name"))
                .collect(),
            build: build
                .into_iter()
                .map(|(name, entry)| named_image(&name, entry))
                .collect(),
            deploy: consistent(deploy),
        })
        .prop_filter("core is reserved", |file| file.stack != StackName::core())
}

fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn named_image(name: &str, entry: BuildEntry) -> BuildEntry {
    let name = ImageName::parse(name).expect("generated to be a name");
    BuildEntry { name, ..entry }
}

/// What must hold between nodes: domains are unique and have a port.
fn consistent(nodes: BTreeMap<String, DeployNode>) -> Vec<DeployNode> {
    let fix = |(index, (name, mut node)): (usize, (String, DeployNode))| {
        let mut exposed = node.settings.expose.iter();
        let tcp = exposed.rfind(|e| e.proto == Proto::Tcp);
        let tcp = tcp.map(|e| e.port);
        for (n, domain) in node.domains.iter_mut().enumerate() {
            domain.name = domain.name.replace("N", &format!("{index}-{n}"));
            domain.port = domain.port.and(tcp);
        }
        if node.kind == NodeKind::Container && tcp.is_none() {
            node.domains.clear();
        }
        DeployNode {
            name: NodeName::parse(&name).expect("generated to be a name"),
            ..node
        }
    };
    nodes.into_iter().enumerate().map(fix).collect()
}

fn builds() -> impl Strategy<Value = BuildEntry> {
    let text = "FROM [a-z]{1,6}\n(RUN [a-z \"':#&|]{1,20}[a-z]\n){0,3}";
    let dockerfile = prop_oneof![
        text.prop_map(DockerfileSource::Text),
        "[a-z]{1,5}/Dockerfile".prop_map(DockerfileSource::File),
    ];
    let context = prop_oneof![Just(String::new()), "[a-z]{1,5}(/[a-z]{1,5})?"];
    let args = collection::btree_map("[A-Z]{1,5}", values(), 0..3);
    let target = option::of("[a-z]{1,6}");
    (dockerfile, context, target, args).prop_map(|(dockerfile, context, target, args)| BuildEntry {
        name: ImageName::parse("x").expect("a name"),
        line: 0,
        dockerfile,
        context,
        target,
        args,
        platform: None,
    })
}

/// Texts that YAML might take for something else.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~é]{0,16}",
        sample::select(vec![
            "no",
            "0644",
            "1.10",
            "80:80",
            "null",
            "~",
            "",
            "2024-01-01",
            "a\nb",
            "*x",
            "&y",
            "!z",
            "- w"
        ])
        .prop_map(str::to_owned),
    ]
    .prop_filter("names the shared store", |text| !text.starts_with('_'))
}

fn nodes() -> impl Strategy<Value = DeployNode> {
    prop_oneof![4 => containers(), 1 => websites()]
}

fn websites() -> impl Strategy<Value = DeployNode> {
    let root = prop_oneof![Just(String::new()), "[a-z]{1,5}(/[a-z]{1,5}){0,2}"];
    (root, domains()).prop_map(|(document_root, mut domains)| {
        domains.iter_mut().for_each(|domain| domain.port = None);
        let mut node = blank(NodeKind::Website { document_root });
        node.domains = domains;
        node
    })
}

fn blank(kind: NodeKind) -> DeployNode {
    DeployNode {
        name: NodeName::parse("x").expect("a name"),
        line: 0,
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

fn domains() -> impl Strategy<Value = Vec<Domain>> {
    let name = prop_oneof!["[a-z]{1,6}N\\.example", "\\*\\.[a-z]{1,6}N\\.test"];
    let domain = (name, option::of(Just(1_u16))).prop_map(|(name, port)| Domain {
        name,
        port,
        since_ms: 0,
    });
    collection::vec(domain, 0..3)
}

fn containers() -> impl Strategy<Value = DeployNode> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let stop = (
        option::of(sample::select(vec!["SIGTERM", "SIGQUIT"])),
        0..3_600_000_u64,
    );
    (
        (
            settings(),
            option::of(collection::vec("[a-z][ -~]{0,6}", 1..4)),
        ),
        0..=1000_u32,
        domains(),
        filters(),
        flags,
        stop,
        images(),
    )
        .prop_map(
            |((settings, before), scale, domains, filter, flags, stop, image)| {
                let (spread_required, service, fixed) = flags;
                DeployNode {
                    before_release: before.filter(|_| !service),
                    settings,
                    scale,
                    domains,
                    filter,
                    spread_required,
                    service,
                    fixed,
                    image: Some(image),
                    stop: StopPolicy {
                        signal: stop.0.map(str::to_owned),
                        timeout_ms: stop.1,
                        drain_ms: stop.1 / 2,
                    },
                    ..blank(NodeKind::Container)
                }
            },
        )
}

fn images() -> impl Strategy<Value = ImageText> {
    // Generated stacks have at most nine letters, so this is always another one.
    let ours = ("other-stack-[a-z]{2}", NAME).prop_map(|(stack, image)| ImageText::Viking {
        stack: StackName::parse(&stack).expect("generated to be a name"),
        image: ImageName::parse(&image).expect("generated to be a name"),
    });
    prop_oneof![
        ours,
        "([a-z]{1,5}/)?[a-z]{1,6}(:[0-9a-z][0-9.a-z]{0,4})?".prop_map(ImageText::External)
    ]
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    let rule = sample::select(vec![
        FilterRule::Required,
        FilterRule::Forbidden,
        FilterRule::Preferred,
    ]);
    collection::btree_map("[a-z][a-z0-9-]{0,5}", rule, 0..3).prop_map(|tags| {
        tags.into_iter()
            .map(|(tag, rule)| Filter { tag, rule })
            .collect()
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let words = || {
        option::of(collection::vec(values(), 1..4).prop_filter("a command", |w| !w[0].is_empty()))
    };
    let places = (
        option::of("(/[a-z]{1,4}){1,3}"),
        option::of("[a-z]{1,4}(:[0-9]{1,3})?"),
    );
    let env = collection::btree_map("[A-UW-Z_][A-Z0-9_]{0,5}", values(), 0..4);
    (
        words(),
        words(),
        places,
        env,
        exposes(),
        volumes(),
        links(),
        healths(),
        resources(),
    )
        .prop_map(
            |(run, entrypoint, (cwd, user), env, expose, volume, link, health, resources)| {
                let mut settings = Settings {
                    run,
                    entrypoint,
                    cwd,
                    user,
                    env,
                    shared: BTreeMap::new(),
                    expose,
                    volume,
                    link,
                    health,
                    resources,
                };
                let first = settings.first_tcp_port();
                if let Some(HealthCheck::Http { port, .. }) = &mut settings.health.check {
                    *port = port
                        .or(first.is_none().then_some(81))
                        .filter(|port| Some(*port) != first);
                }
                settings
            },
        )
}

fn exposes() -> impl Strategy<Value = Vec<Expose>> {
    let one = (any::<bool>(), option::of(1..=u16::MAX));
    collection::btree_map(1..=u16::MAX, one, 0..4).prop_map(|ports| {
        let mut taken = std::collections::BTreeSet::new();
        let expose = |(port, (udp, host_port)): (u16, (bool, Option<u16>))| Expose {
            port,
            proto: if udp { Proto::Udp } else { Proto::Tcp },
            host_port: host_port.filter(|p| taken.insert(*p)),
        };
        ports.into_iter().map(expose).collect()
    })
}

fn volumes() -> impl Strategy<Value = Vec<VolumeMount>> {
    collection::btree_map("(/[a-z]{1,4}){1,3}", option::of(NAME), 0..3).prop_map(|volumes| {
        let mount = |(path, name): (String, Option<String>)| VolumeMount {
            name: name.map(|n| VolumeName::parse(&n).expect("generated to be a name")),
            path,
        };
        volumes.into_iter().map(mount).collect()
    })
}

/// Links to other stacks only: those of the same stack have tests of their own.
fn links() -> impl Strategy<Value = Vec<LinkTarget>> {
    collection::btree_map("[a-z]{1,6}", "other-stack-[a-z]{2}", 0..3).prop_map(|links| {
        let target = |(node, stack): (String, String)| LinkTarget {
            stack: Some(StackName::parse(&stack).expect("generated to be a name")),
            node: NodeName::parse(&node).expect("generated to be a name"),
        };
        links.into_iter().map(target).collect()
    })
}

fn healths() -> impl Strategy<Value = Health> {
    let http = (
        "/[a-z]{0,5}",
        option::of(1..=u16::MAX),
        option::of(100..=599_u16),
    )
        .prop_map(|(path, port, status)| HealthCheck::Http { path, port, status });
    let tcp = (1..=u16::MAX).prop_map(|port| HealthCheck::Tcp { port });
    let cmd = collection::vec("[a-z]{1,4}", 1..3).prop_map(|argv| HealthCheck::Cmd { argv });
    let times = (
        100..=3_600_000_u64,
        100..=3_600_000_u64,
        0..=3_600_000_u64,
        1..=1000_u32,
    );
    (option::of(prop_oneof![http, tcp, cmd]), option::of(times)).prop_map(|(check, times)| {
        let default = Health {
            check,
            ..Health::default()
        };
        let Some((interval_ms, timeout_ms, start_period_ms, retries)) = times else {
            return default;
        };
        Health {
            interval_ms,
            timeout_ms,
            start_period_ms,
            retries,
            ..default
        }
    })
}

fn resources() -> impl Strategy<Value = Resources> {
    let cpu = option::of(1..=1_024_000_u64);
    let memory = option::of((6_u64 << 20)..=(64 << 40));
    (cpu, memory).prop_map(|(cpu_millis, memory_bytes)| Resources {
        cpu_millis,
        memory_bytes,
    })
}
