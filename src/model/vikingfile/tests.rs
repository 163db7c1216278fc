//! What `VikingFile::parse` promises about meaning; the wording of errors is in `tests/it`.

use super::*;
use crate::model::release::FilterRule;
use crate::model::spec::{Expose, Health, HealthCheck, Proto};

fn parse(text: &str) -> VikingFile {
    VikingFile::parse("viking.yml", text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// A file with one container node that has `lines` besides its image.
fn file(lines: &str) -> String {
    let mut text = String::from("viking: {name: s}\ndeploy:\n  web:\n    image: x\n");
    for line in lines.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

fn node(lines: &str) -> DeployNode {
    parse(&file(lines)).deploy.remove(0)
}

fn refused(lines: &str) -> String {
    VikingFile::parse("viking.yml", file(lines).as_bytes())
        .expect_err(lines)
        .one_line()
}

#[test]
fn two_spellings_of_one_meaning_give_equal_settings() {
    for (one, other) in [
        ("run: a 'b c'", "command: [a, b c]"),
        ("domains: [a.b]", "route: [A.B.]"),
        ("service: true", "static: yes"),
        ("link: other/db", "link: [other/db]"),
        ("filter: !ssd", "filter: ['!ssd']"),
        ("expose: [80/tcp, 53/udp]", "expose: ['80', \"53/udp\"]"),
        ("volume: [/data//db/]", "volume: [/data/./db]"),
        ("cwd: /srv/", "cwd: /srv"),
        ("health: {interval: 2s, retries: 3}", ""),
        (
            "resources: {memory: 256M}",
            "resources: {memory: 268435456}",
        ),
        (
            "stop: {signal: quit, timeout: 1m}",
            "stop: {signal: SIGQUIT, timeout: 60}",
        ),
        ("stop: {timeout: 10s}", ""),
        ("stop: {drain: 30s}", ""),
        ("stop: {drain: 2m}", "stop: {drain: 120}"),
        ("spread: preferred", "scale: 1"),
        ("env: {A: 0644}", "env: {A: '0644'}"),
    ] {
        let ports = if one.contains("domains") {
            "expose: [80]\n"
        } else {
            ""
        };
        let (one, other) = (format!("{ports}{one}"), format!("{ports}{other}"));
        assert_eq!(node(&one), node(&other), "{one} | {other}");
    }
    let with = node("expose: [80]\nhealth: {http: /, port: 80}");
    assert_eq!(with, node("expose: [80]\nhealth: {http: /}"));
}

#[test]
fn ports_are_text_and_never_clock_times() {
    let node = node("expose: [80, 53/udp, 8080:80/udp, 59:59]");
    let port = |port, proto, host_port| Expose {
        port,
        proto,
        host_port,
    };
    let want = [
        port(80, Proto::Tcp, None),
        port(53, Proto::Udp, None),
        port(80, Proto::Udp, Some(8080)),
        port(59, Proto::Tcp, Some(59)),
    ];
    assert_eq!(node.settings.expose, want);
    for bad in [
        "0",
        "70000",
        "080",
        "80-90",
        "1.2.3.4:80:80",
        "80/sctp",
        "-1",
        "80/",
        ":80",
        "''",
    ] {
        refused(&format!("expose: [{bad}]"));
    }
}

#[test]
fn health_takes_exactly_one_kind_or_none() {
    let check = |health: &str| {
        node(&format!("expose: [80]\nhealth: {health}"))
            .settings
            .health
    };
    assert_eq!(check("{}"), Health::default());
    let http = HealthCheck::Http {
        path: "/up".into(),
        port: Some(81),
        status: Some(204),
    };
    assert_eq!(
        check("{http: /up, port: 81, status: 204}").check,
        Some(http)
    );
    assert_eq!(
        check("{tcp: 80}").check,
        Some(HealthCheck::Tcp { port: 80 })
    );
    let cmd = HealthCheck::Cmd {
        argv: vec!["a".into(), "b c".into()],
    };
    let health = check("{cmd: [a, b c], interval: 500ms, timeout: 1, start_period: 0, retries: 9}");
    assert_eq!(health.check, Some(cmd));
    let times = (
        health.interval_ms,
        health.timeout_ms,
        health.start_period_ms,
    );
    assert_eq!((times, health.retries), ((500, 1_000, 0), 9));
    for bad in [
        "{http: /, tcp: 80}",
        "{port: 80}",
        "{status: 200}",
        "{cmd: a b}",
        "{http: up}",
        "{tcp: 0}",
        "{interval: 0}",
        "{timeout: 2h}",
        "{retries: 0}",
        "{http: /, status: 99}",
        "{cmd: []}",
        "5",
    ] {
        refused(&format!("expose: [80]\nhealth: {bad}"));
    }
    assert!(refused("health: {http: /}").contains("no port"));
}

#[test]
fn domains_in_every_form() {
    let node = node(
        "expose: [80, 81]\ndomains: [A.com, '*.a.com', b.com:81, {c.com: 81}, {domain: d.com, port: 80}, {domain: e.com}]",
    );
    let got: Vec<_> = node
        .domains
        .iter()
        .map(|d| (d.name.as_str(), d.port))
        .collect();
    let want = [
        ("a.com", None),
        ("*.a.com", None),
        ("b.com", Some(81)),
        ("c.com", Some(81)),
        ("d.com", Some(80)),
        ("e.com", None),
    ];
    assert_eq!(got, want);
    for bad in [
        "'*'",
        "a..b",
        "-a.b",
        "a_b.c",
        "'a b'",
        "münchen.de",
        "a.b:99",
        "http://a.b",
        "'a.*.b'",
        "a.b, A.b",
        "{a.com: 1, b.com: 2}",
    ] {
        refused(&format!("expose: [80]\ndomains: [{bad}]"));
    }
    assert!(refused("domains: [a.b]").contains("exposes no port"));
}

#[test]
fn what_could_leave_the_container_is_refused() {
    for bad in [
        "/etc:/etc",
        "./x:/y",
        "/",
        "/a/../b",
        "a",
        "n:/",
        "n:b",
        "/a:/b:ro",
        "n:/a:ro",
        "../x",
        "UP:/a",
        "'/a\\b'",
    ] {
        refused(&format!("volume: [{bad}]"));
    }
    assert!(refused("volume: [/var/lib:/x]").contains("operator's config"));
    for key in [
        "privileged: true",
        "cap_add: [ALL]",
        "network_mode: host",
        "devices: [/dev/x]",
    ] {
        assert!(refused(key).contains("unknown key"), "{key}");
    }
    assert!(refused("env: {VIKING_ID: x}").contains("reserved"));
}

#[test]
fn what_is_not_acted_on_yet_is_refused_as_such() {
    let text = "viking: {name: s}\nbuild: {a: {secrets: [b]}}";
    let error = VikingFile::parse("viking.yml", text.as_bytes()).unwrap_err();
    assert!(error.message().contains("not supported yet"), "{error}");
}

#[test]
fn a_value_that_names_a_shared_variable_is_no_text() {
    let node = node("env: {A: '_prod:TOKEN', B: text}");
    assert_eq!(node.settings.env, [("B".into(), "text".into())].into());
    assert_eq!(node.shared["A"].to_string(), "prod/TOKEN");
}

#[test]
fn a_filter_says_required_forbidden_or_preferred() {
    let node = node("filter: [ssd, !gpu, eu:flexible]");
    let got: Vec<_> = node
        .filter
        .iter()
        .map(|f| (f.tag.as_str(), f.rule))
        .collect();
    let want = [
        ("ssd", FilterRule::Required),
        ("gpu", FilterRule::Forbidden),
        ("eu", FilterRule::Preferred),
    ];
    assert_eq!(got, want);
    for bad in ["ssd, '!ssd'", "'!'", "''", "a:b", "'!a:flexible'", "a b"] {
        refused(&format!("filter: [{bad}]"));
    }
}

#[test]
fn images_are_ours_or_references() {
    let image = |text: &str| {
        let text = format!("viking: {{name: s}}\ndeploy: {{a: {{image: '{text}'}}}}");
        VikingFile::parse("f", text.as_bytes()).map(|mut file| file.deploy.remove(0).image)
    };
    let hex = "a".repeat(64);
    for good in [
        "redis",
        "redis:7-alpine",
        "quarry/mongo",
        "quay.io/x/y:1",
        "localhost:5000/a/b",
        "a/b/c",
        "x/a.b_c__d---e/f",
        &format!("redis@sha256:{hex}"),
        &format!("r.io:1/x:t@sha256:{hex}"),
    ] {
        assert_eq!(image(good).unwrap(), Some(ImageText::External(good.into())));
    }
    for bad in [
        "Redis",
        "redis:",
        "redis:a b",
        "-x",
        "/x",
        "x/",
        "x//y",
        "a..b/c",
        "x/a___b",
        "x/a.-b",
        "x/a_-b",
        "redis@sha256:1",
        "r.io:0/x",
        "viking:x",
        "viking:s/x:1",
        "viking:/x",
        "viking:s/",
        "viking:s/unbuilt",
        "http://x/y",
        "x:1:2",
        ":",
        "@",
        "r.io/",
    ] {
        assert!(image(bad).is_err(), "{bad}");
    }
    let other = ImageText::Viking {
        stack: StackName::parse("other").unwrap(),
        image: ImageName::parse("x").unwrap(),
    };
    assert_eq!(image("viking:other/x").unwrap(), Some(other));
}

#[test]
fn a_dockerfile_is_a_text_or_a_file() {
    let text = "viking: {name: s}\nbuild:\n  a: |\n    FROM x\n    ADD . /\n  b: {dockerfile: ./d/Dockerfile, context: ./app/, target: run, args: {V: 1.10}, platform: linux/arm64}\n  c: {}\n  d:\n    dockerfile: |\n      FROM x\n  e: {dockerfile: FROM y}\n";
    let build = parse(text).build;
    let file = |path: &str| DockerfileSource::File(path.into());
    assert_eq!(
        build[0].dockerfile,
        DockerfileSource::Text("FROM x\nADD . /\n".into())
    );
    assert_eq!(build[1].dockerfile, file("d/Dockerfile"));
    assert_eq!((build[1].context.as_str(), build[1].line), ("app", 6));
    assert_eq!(build[1].args.get("V").map(String::as_str), Some("1.10"));
    assert_eq!(build[2].dockerfile, file("Dockerfile"));
    assert_eq!(
        build[3].dockerfile,
        DockerfileSource::Text("FROM x\n".into())
    );
    assert_eq!(build[4].dockerfile, DockerfileSource::Text("FROM y".into()));
    for bad in [
        "{context: ../x}",
        "{context: /x}",
        "{dockerfile: ../D}",
        "./Dockerfile",
        "''",
        "[a]",
        "{platform: arm}",
        "{args: {1a: b}}",
        "{dockerfile: .}",
    ] {
        let text = format!("viking: {{name: s}}\nbuild:\n  a: {bad}\n");
        assert!(VikingFile::parse("f", text.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_website_has_a_root_in_the_repository() {
    let site = |lines: &str| {
        let text = format!("viking: {{name: s}}\ndeploy: {{help: {{{lines}}}}}");
        VikingFile::parse("f", text.as_bytes()).map(|mut file| file.deploy.remove(0))
    };
    let node = site("type: website, document_root: ./help/www").unwrap();
    let root = NodeKind::Website {
        document_root: "help/www".into(),
    };
    assert_eq!((&node.kind, &node.image), (&root, &None));
    assert_eq!(site("document_root: help/www").unwrap(), node);
    for bad in [
        "type: website",
        "type: website, document_root: ../x",
        "type: website, document_root: /x",
        "type: job",
        "type: website, document_root: x, image: y",
        "document_root: x, scale: 2",
        "document_root: x, domains: [a.b: 80]",
        "image: x, document_root: y",
    ] {
        assert!(site(bad).is_err(), "{bad}");
    }
}

#[test]
fn links_lead_to_a_port_and_in_no_circle() {
    let stack = |nodes: &str| {
        let text = format!("viking: {{name: s}}\ndeploy:\n{nodes}");
        VikingFile::parse("f", text.as_bytes())
    };
    let db = "  db: {image: x, expose: [80]}\n";
    let file = stack(&format!("{db}  a: {{image: x, link: s/db}}\n")).unwrap();
    assert_eq!(file.deploy[1].settings.link[0].to_string(), "db");
    for bad in [
        "bd",
        "help",
        "shut",
        "a",
        "core/registry",
        "[db, s/db]",
        "[db, o/db]",
        "[x/my-db, y/my_db]",
        "o/",
        "UP",
    ] {
        let nodes = format!(
            "{db}  help: {{document_root: x}}\n  shut: {{image: x}}\n  a: {{image: x, expose: [1], link: {bad}}}\n"
        );
        assert!(stack(&nodes).is_err(), "{bad}");
    }
    let circle = "  e: {image: x, link: a}\n  a: {image: x, expose: [1], link: b}\n  b: {image: x, expose: [1], link: c}\n  c: {image: x, expose: [1], link: a}\n";
    let error = stack(circle).unwrap_err();
    assert_eq!(
        (error.line(), error.message()),
        (6, "links go in a circle: a → b → c → a")
    );
}

#[test]
fn numbers_and_flags_are_strict() {
    assert_eq!(node("scale: 0").scale, 0);
    assert_eq!(node("scale: 1000").scale, 1000);
    for bad in [
        "-1",
        "1e9",
        "1001",
        "\"2\"",
        "2.0",
        "0x2",
        "many",
        "",
        "[2]",
        "99999999999999999999",
    ] {
        refused(&format!("scale: {bad}"));
    }
    for bad in ["\"true\"", "1", "", "maybe"] {
        refused(&format!("service: {bad}"));
    }
    for bad in [
        "{cpu: 0}",
        "{cpu: 2000}",
        "{memory: 1}",
        "{memory: 100T}",
        "{memory: x}",
        "{disk: 1}",
    ] {
        refused(&format!("resources: {bad}"));
    }
}

#[test]
fn tcp_and_udp_ports_are_linked_and_only_tcp_ports_are_routed() {
    let file = |expose: &str, rest: &str| {
        let text = format!(
            "viking: {{name: s}}\ndeploy:\n  dns: {{image: x, expose: [{expose}]{rest}}}\n  \
             web: {{image: x, link: dns}}\n"
        );
        VikingFile::parse("f", text.as_bytes())
    };
    assert!(file("53/udp, 53", "").is_ok());
    assert!(file("53/udp", "").is_ok());
    for (expose, domains) in [
        ("53/udp", "[a.example]"),
        ("53/udp, 80", "[{a.example: 53}]"),
    ] {
        let error = file(expose, &format!(", domains: {domains}")).unwrap_err();
        assert!(error.message().contains("TCP port"), "{error}");
        assert_eq!(error.line(), 3);
    }
    assert!(file("53/udp, 80", ", domains: [{a.example: 80}]").is_ok());
}

#[test]
fn jobs_of_all_nodes_together_are_bounded() {
    let file = |last: u32| {
        let full: String = (0..9)
            .map(|n| format!("  n{n}: {{image: x, scale: 1000}}\n"))
            .collect();
        let text = format!(
            "viking: {{name: s}}\ndeploy:\n{full}  last: {{image: x, scale: {last}}}\n  \
             one: {{image: x}}\n"
        );
        VikingFile::parse("f", text.as_bytes())
    };
    assert!(file(999).is_ok());
    let error = file(1000).unwrap_err();
    assert_eq!(error.line(), 13);
    assert!(error.message().contains("10001 jobs"), "{error}");
}

#[test]
fn a_stack_of_images_alone_is_a_stack() {
    let file = parse("viking: {name: s, comment: ' two\n  words '}\nbuild: {a: FROM x}\ndeploy:\n");
    assert_eq!((file.build.len(), file.deploy.len()), (1, 0));
    assert_eq!(file.comment.as_deref(), Some("two words"));
}

#[test]
fn what_others_can_make_large_is_bounded() {
    let many = |count: usize| {
        let nodes: String = (0..count)
            .map(|n| format!("  n{n}: {{image: x}}\n"))
            .collect();
        VikingFile::parse(
            "f",
            format!("viking: {{name: s}}\ndeploy:\n{nodes}").as_bytes(),
        )
    };
    assert_eq!(many(NODES_MAX).unwrap().deploy.len(), NODES_MAX);
    assert!(many(NODES_MAX + 1).is_err());
    let ports: Vec<String> = (1..=PORTS_MAX + 1).map(|n| n.to_string()).collect();
    refused(&format!("expose: [{}]", ports.join(", ")));
    refused(&format!("run: {}", "x".repeat(200_000)));
    refused(&format!("cwd: /{}", "x".repeat(5_000)));
}
