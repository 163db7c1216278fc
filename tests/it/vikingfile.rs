//! `viking.yml` from outside: the example of 0.5.3 verbatim, the wording of every error as people
//! see it (stored beside, one file per topic), and properties over generated files and garbage.

mod generate;
mod write;

use std::fmt::Write as _;

use proptest::prelude::*;
use viking::model::release::NodeKind;
use viking::model::vikingfile::{
    DeployNode, DockerfileSource, Error, FILE_BYTES_MAX, ImageText, VikingFile, known_keys,
};

const EXAMPLE: &[u8] = include_bytes!("data/viking-0.5.3.yml");

#[test]
fn the_example_of_0_5_3_parses_verbatim() {
    let file = VikingFile::parse("viking.yml", EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(file.stack.as_str(), "ragnar");
    let images: Vec<&str> = file.build.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(images, ["src", "inherit"]);
    let text = "FROM quarry/monnode\nADD . /srv/app\nRUN cd /srv/app && npm install\n";
    assert_eq!(
        file.build[0].dockerfile,
        DockerfileSource::Text(text.into())
    );
    let nodes: Vec<(&str, u32, bool)> = file
        .deploy
        .iter()
        .map(|n| (n.name.as_str(), n.scale, n.service))
        .collect();
    let want = [
        ("db", 1, false),
        ("logic", 2, false),
        ("website", 3, false),
        ("help", 1, false),
        ("mongo", 1, true),
        ("redis", 1, true),
    ];
    assert_eq!(nodes, want);
    insta::assert_yaml_snapshot!("example_settings", settings(&file));
}

fn settings(file: &VikingFile) -> Vec<serde_json::Value> {
    file.deploy
        .iter()
        .map(|node| {
            let image = node.image.as_ref().map(|image| match image {
                ImageText::Viking { stack, image } => format!("ours: {stack}/{image}"),
                ImageText::External(text) => format!("external: {text}"),
            });
            let root = match &node.kind {
                NodeKind::Website { document_root } => Some(document_root),
                NodeKind::Container => None,
            };
            serde_json::json!({
                "name": node.name, "line": node.line, "image": image, "document_root": root,
                "settings": node.settings, "domains": node.domains,
            })
        })
        .collect()
}

/// The one node of a file with these lines, or why it is refused.
fn node(lines: &str) -> Result<DeployNode, String> {
    let text = format!("viking: {{name: s}}\ndeploy:\n  web:\n    image: x\n    {lines}\n");
    let parsed = VikingFile::parse("viking.yml", text.as_bytes());
    let mut file = parsed.map_err(|error| Error::one_line(&error))?;
    Ok(file.deploy.remove(0))
}

#[test]
fn before_release_is_a_command_of_a_node_that_releases_replace() {
    let words = |lines| node(lines).expect(lines).before_release;
    let refused = |lines| node(lines).expect_err(lines);
    let migrate = ["node", "migrate.js"].map(str::to_owned);
    let migrate = Some(migrate.to_vec());
    assert_eq!(words("before_release: node migrate.js"), migrate);
    assert_eq!(words("before_release: [node, migrate.js]"), migrate);
    assert_eq!(words("scale: 1"), None);
    assert!(
        refused("service: true\n    before_release: x").contains("no release replaces a service")
    );
    assert!(refused("before_release: ''").contains("before_release"));
    // Not part of what the container itself is made from.
    let settings = |lines| node(lines).expect(lines).settings;
    assert_eq!(settings("before_release: x"), settings("scale: 1"));
    let named = VikingFile::parse(
        "viking.yml",
        b"viking: {name: s}\ndeploy: {web.before: {image: x}}",
    );
    assert!(
        named
            .expect_err("a dot")
            .message()
            .contains("before_release")
    );
    assert!(refused("link: other/web.before").contains("before_release"));
}

#[test]
fn a_stack_requires_others_and_never_itself() {
    let parse = |require: &str| {
        let text = format!("viking: {{name: s, require: {require}}}");
        VikingFile::parse("viking.yml", text.as_bytes())
    };
    let names = |file: VikingFile| -> Vec<String> {
        file.require.iter().map(ToString::to_string).collect()
    };
    assert_eq!(names(parse("b").expect("one")), ["b"]);
    assert_eq!(names(parse("[b, a]").expect("two")), ["a", "b"]);
    assert!(names(parse("[]").expect("none")).is_empty());
    for (bad, why) in [
        ("s", "cannot require itself"),
        ("[a, a]", "given twice"),
        ("[A]", "not a valid stack name"),
        ("{a: b}", "a text or a list is needed"),
    ] {
        let error = parse(bad).expect_err(bad);
        assert!(error.message().contains(why), "{error}");
    }
}

#[test]
fn every_key_is_documented_with_what_it_takes() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/viking-yml.md")).expect("the page");
    for section in known_keys() {
        let heading = match section.name {
            "the file" => "## The file".to_owned(),
            name => format!("## `{name}`"),
        };
        let (_, rest) = page.split_once(&format!("{heading}\n")).expect(&heading);
        let part = rest.split("\n## ").next().unwrap_or_default();
        for key in section.keys {
            let words = key.aliases.iter().copied();
            let words = std::iter::once(key.name).chain(words);
            let words: Vec<_> = words.map(|word| format!("`{word}`")).collect();
            let takes = key.takes.replace('<', "\\<");
            let later = if key.later {
                " (not supported yet)"
            } else {
                ""
            };
            let row = format!("| {} | {takes}{later} |\n", words.join(" or "));
            assert!(part.contains(&row), "{heading} lacks {row}");
        }
        let rows = part.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, section.keys.len(), "{heading}");
    }
}

/// All errors of one topic as people see them, under the text that caused them.
fn wording(cases: &[&str]) -> String {
    let mut text = String::new();
    for case in cases {
        let error = VikingFile::parse("viking.yml", case.as_bytes()).expect_err(case);
        let line = error.one_line();
        assert!(!line.contains('\n') && !error.to_string().contains("<input>"));
        write!(text, "{error}\n\n· {line}\n\n\n").expect("a String takes any text");
    }
    text
}

#[test]
fn wording_of_unknown_keys() {
    let cases = [
        "viking:\n  name: ragnar\n\ndeploy:\n  web:\n    image: redis\n    sclae: 2\n    expose:\n      - 80\n",
        "viking:\n  name: ragnar\ndeploy:\n  web:\n    image: redis\n    privileged: true\n",
        "viking:\n  name: ragnar\ndeploy:\n  web:\n    image: redis\n    depends_on: [db]\n",
        "viking:\n  nmae: ragnar\n",
        "version: 3\nservices: {}\n",
        "viking: {name: a}\ndeploy:\n  web:\n    image: x\n    health: {path: /}\n",
        "viking: {name: a}\ndeploy:\n  help:\n    type: website\n    image: x\n",
        "viking: {name: a}\ndeploy:\n  web:\n    image: x\n    run: a\n    command: b\n",
        "viking: {name: a}\ndeploy:\n  web:\n    image: x\n    scale: 1\n    scale: 2\n",
        "viking: {name: a}\nbuild:\n  web:\n    dockerfile: FROM x\n    secrets: [key]\n",
        "viking: {name: a}\ndeploy:\n  web:\n    image: x\n    before_relase: migrate\n",
    ];
    insta::assert_snapshot!(wording(&cases));
}

#[test]
fn wording_of_bad_values() {
    let node = |line: &str| {
        format!("viking: {{name: a}}\ndeploy:\n  web:\n    image: x\n    {line}\n    cwd: /\n")
    };
    let cases = [
        "scale: many",
        "scale: \"2\"",
        "scale: -1",
        "service: maybe",
        "expose: 80",
        "expose: [80, 70000]",
        "expose: [8080: 80]",
        "expose: [53/sctp]",
        "volume: [/etc:/etc]",
        "volume: [data:relative]",
        "volume: [/a/../b]",
        "env: [A=b]",
        "env: {VIKING_ID: x}",
        "env: {A: }",
        "env: {A: '_Shared:TOKEN'}",
        "run: \"a 'b\"",
        "health: {http: /up}",
        "health: {cmd: ls}",
        "health: {http: /, tcp: 1}",
        "health: {interval: soon}",
        "resources: {memory: lots}",
        "resources: {cpu: 0}",
        "stop: {signal: SIGSEGV}",
        "spread: always",
        "filter: [ssd, '!ssd']",
        "user: \"a b\"",
        "domains: [a_b.c]",
        "run:",
        "link: {db: 1}",
    ];
    let cases: Vec<String> = cases.iter().map(|line| node(line)).collect();
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    insta::assert_snapshot!(wording(&cases));
}

#[test]
fn wording_of_what_does_not_fit_together() {
    let stack = |nodes: &str| {
        format!(
            "viking: {{name: ragnar}}\nbuild:\n  src: FROM x\ndeploy:\n  db:\n    image: viking:ragnar/src\n    expose: [80]\n{nodes}"
        )
    };
    let cases = [
        "  web:\n    image: viking:ragnar/scr\n",
        "  web:\n    image: viking:src\n",
        "  web:\n    image: viking:ragnar/src:latest\n",
        "  web:\n    run: x\n",
        "  web:\n",
        "  web:\n    image: x\n    link: bd\n",
        "  web:\n    image: x\n    link: [db, other/db]\n",
        "  help:\n    document_root: www\n  web:\n    image: x\n    link: help\n",
        "  a:\n    image: x\n  b:\n    image: x\n    link: a\n",
        "  a:\n    image: x\n    expose: [1]\n    link: b\n  b:\n    image: x\n    expose: [1]\n    link: [db, a]\n",
        "  a:\n    image: x\n    expose: [1]\n    link: a\n",
        "  a:\n    image: x\n    expose: [1]\n    domains: [\"a.b: 2\"]\n",
        "  a:\n    image: x\n    expose: [1]\n    domains: [a.b]\n  b:\n    document_root: www\n    domains: [A.b]\n",
        "  Web:\n    image: x\n",
        "  web:\n    type: job\n    image: x\n",
    ];
    let cases: Vec<String> = cases.iter().map(|nodes| stack(nodes)).collect();
    let mut cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    cases.extend([
        "viking: {name: core}\n",
        "viking: {comment: x}\n",
        "viking: {name: \"a/b\"}\n",
        "viking:\n",
        "build: {}\n",
    ]);
    insta::assert_snapshot!(wording(&cases));
}

#[test]
fn wording_of_what_is_no_yaml() {
    let cases = [
        "",
        "# nothing\n",
        "viking:\n\tname: a\n",
        "viking:\n  name: 'a\ndeploy: {}\n",
        "viking:\n  name: [a\n",
        "viking:\n  name: a\n comment: b\n",
        "viking: {name: a}\n---\nviking: {name: b}\n",
        "viking: {name: *gone}\n",
        "viking: {name: a\0b}\n",
        "viking: !include x.yml\n",
        "[1, 2]\n",
        "just words\n",
        "? {a: b}\n: c\n",
        "%YAML 1.2\n---\nviking: {name: a}\n",
        "viking: {name: a}\ndeploy: {web: {image: x, comment: \"☃ é 🛶\", run: 1}}\n",
    ];
    insta::assert_snapshot!(wording(&cases));
}

/// Billion laughs: each level holds the one before nine times.
fn laughs() -> String {
    let mut text = String::from("viking: {name: a}\nx0: &x0 [lol, lol, lol]\n");
    for n in 1..20 {
        let items = vec![format!("*x{}", n - 1); 9].join(", ");
        writeln!(text, "x{n}: &x{n} [{items}]").expect("a String takes any text");
    }
    text
}

#[test]
fn hostile_files_are_refused() {
    let cases = [
        "x".repeat(10 << 20),
        "#\n".repeat(5 << 20),
        laughs(),
        "[".repeat(100_000),
        "{".repeat(100_000),
        "- ".repeat(100_000),
        "a: {".repeat(50_000),
        (0..300).fold(String::new(), |text, n| text + &" ".repeat(n) + "a:\n"),
        "? ".repeat(100_000),
        "&a ".repeat(80_000),
        "\"".repeat(200_000),
        "a: |\n".to_owned() + &" b\n".repeat(80_000),
        (0..20_000).fold(String::new(), |text, n| text + &format!("k{n}: 1\n")),
        "viking: {name: a}\nbuild: &b\n  a: &t |\n    FROM x\n".to_owned()
            + &format!("    RUN {}\n", "x".repeat(100_000))
            + &(0..150).fold(String::new(), |text, n| text + &format!("  i{n}: *t\n")),
    ];
    for case in cases {
        let error = VikingFile::parse("viking.yml", case.as_bytes()).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("viking.yml:"), "{text}");
        assert!(text.len() < 4_096, "{} bytes of message", text.len());
    }
    assert!(VikingFile::parse("f", &vec![b'\xff'; FILE_BYTES_MAX]).is_err());
    assert!(VikingFile::parse("f", &vec![0; FILE_BYTES_MAX]).is_err());
}

#[test]
fn carriage_returns_and_byte_order_mark_change_nothing() {
    let text = String::from_utf8(EXAMPLE.to_vec()).expect("the example is UTF-8");
    let other = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let read = |text: &str| VikingFile::parse("viking.yml", text.as_bytes());
    assert_eq!(read(&other), read(&text));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_written_file_means_what_was_written(file in generate::files(), seed in any::<u64>()) {
        let text = write::yaml(&file, seed);
        let parsed = VikingFile::parse("viking.yml", text.as_bytes())
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        prop_assert_eq!(generate::without_lines(parsed), generate::without_lines(file), "{}", text);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let read = VikingFile::parse("viking.yml", &bytes);
        prop_assert!(read.is_err());
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(text in "([a-z:\\-\\[\\]{}&*!|>'\"#%@`?, \t\n\r~<\u{e9}\u{2028}0-9]{0,12}(viking|build|deploy|name|image|: |\n  |\n    )){0,30}") {
        if let Err(error) = VikingFile::parse("viking.yml", text.as_bytes()) {
            prop_assert!(error.line() >= 1 && error.column() >= 1);
            prop_assert!(!error.one_line().contains('\n'), "{}", error.one_line());
        }
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0..EXAMPLE.len(), cut in 0..40_usize, with in ".{0,8}") {
        let mut bytes = EXAMPLE.to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with.bytes());
        if let Err(error) = VikingFile::parse("viking.yml", &bytes) {
            prop_assert!(error.to_string().len() < 8_192);
        }
    }
}
