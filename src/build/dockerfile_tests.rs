//! Tables of Dockerfiles: what is read from each, what is refused.

use super::*;

fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn parse(text: &str) -> Result<Dockerfile, DockerfileError> {
    Dockerfile::parse(text, &BTreeMap::new())
}

fn rewritten(file: &Dockerfile) -> String {
    file.rewrite(|stack, image| Ok::<_, ()>(format!("reg/{stack}/{image}@sha256:0")))
        .unwrap()
}

#[test]
fn only_viking_references_are_rewritten() {
    let text = "# viking:s/comment\r\n\tfrom  --platform=linux/amd64   viking:s/a   AS one\r\n\
        RUN echo viking:s/a \\\n  # FROM viking:s/a\n  viking:s/b\n\
        FROM redis:7 AS two\nCOPY --chown=1:1 --from=viking:t/b /x /y\n\
        COPY --from=one viking:s/c /z\nONBUILD COPY --from=\"viking:s/a\" /p /q\nLABEL a=viking:s/a";
    let file = parse(text).unwrap();
    let want = text
        .replace("viking:s/a   AS", "reg/s/a@sha256:0   AS")
        .replace("--from=viking:t/b", "--from=reg/t/b@sha256:0")
        .replace("--from=\"viking:s/a\"", "--from=reg/s/a@sha256:0");
    assert_eq!(rewritten(&file), want);
    let parents: Vec<String> = file
        .parents()
        .iter()
        .map(|(stack, image)| format!("{stack}/{image}"))
        .collect();
    assert_eq!(parents, ["s/a", "t/b"]);
}

#[test]
fn a_reference_over_two_lines_is_replaced_as_one() {
    let file = parse("FROM vik\\\ning:s/a\nRUN x").unwrap();
    assert_eq!(rewritten(&file), "FROM reg/s/a@sha256:0\nRUN x");
    assert!(parse("FROM a\nCOPY --from=vik\\\ning:s/a x y").is_err());
}

#[test]
fn text_without_references_stays_byte_for_byte() {
    let text = "\u{feff}# escape=`\r\nFROM a `\r\n AS b\r\n\r\nRUN c\\d\n\n";
    assert_eq!(rewritten(&parse(text).unwrap()), text);
}

#[test]
fn an_argument_can_name_the_base() {
    let text = "ARG V=b\nARG BASE=viking:s/$V\nFROM ${BASE}\nARG BASE\n";
    let file = parse(text).unwrap();
    assert_eq!(file.parents()[0].1.as_str(), "b");
    assert_eq!(
        rewritten(&file).lines().nth(2),
        Some("FROM reg/s/b@sha256:0")
    );
    let other = Dockerfile::parse(text, &args(&[("BASE", "redis")])).unwrap();
    assert_eq!(other.parents(), []);
    // An argument the file does not declare is not seen by FROM.
    let undeclared = Dockerfile::parse("FROM $X", &args(&[("X", "viking:s/a")])).unwrap();
    assert_eq!(undeclared.parents(), []);
}

#[test]
fn malformed_files_name_their_line() {
    let cases = [
        ("", 1, "no FROM"),
        ("# only\n", 1, "no FROM"),
        ("ARG A\n", 1, "no FROM"),
        ("\nRUN x\nFROM a", 2, "before the first FROM"),
        ("FROM a\nFRMO b", 2, "not an instruction"),
        ("FROM", 1, "FROM takes"),
        ("FROM a b", 1, "FROM takes"),
        ("FROM a in b", 1, "FROM takes"),
        ("FROM viking:x", 1, "viking:<stack>/<image>"),
        ("FROM viking:../x", 1, "stack name"),
        ("FROM viking:s/A", 1, "image name"),
        ("FROM a\n\nCOPY x", 3, "source and a destination"),
        ("FROM a\nCOPY [\"x\"]", 2, "source and a destination"),
        ("FROM a\nCOPY [\"x\", 1]", 2, "only texts"),
        (
            "FROM a\nRUN cat <<EOF >x\nhello\nEOF",
            2,
            "not supported by the builder",
        ),
        ("FROM a\nCOPY <<-'E' /x", 2, "not supported by the builder"),
        ("FROM a\nONBUILD", 2, "ONBUILD needs"),
        ("FROM a\nONBUILD FROM b", 2, "cannot hold"),
        ("FROM ${A?}", 1, "form of variable"),
        ("# escape=x\nFROM a", 1, "escape"),
    ];
    for (text, line, reason) in cases {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text:?}: {error}");
        assert!(error.reason.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn shifts_and_quoted_arrows_are_not_here_documents() {
    for text in [
        "RUN echo $((1<<2))",
        "RUN echo \"a <<EOF b\"",
        "RUN read x <<< word",
        "RUN [\"sh\", \"-c\", \"a <<EOF\"]",
    ] {
        assert!(parse(&format!("FROM a\n{text}")).is_ok(), "{text}");
    }
}

#[test]
fn reach_follows_every_form_of_copy() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("RUN x", &[], &["a"]),
        ("COPY . /app", &["a", "b/c"], &[]),
        ("COPY package.json ./", &["package.json"], &["src/x"]),
        ("COPY --chown=1:1 a b /x/", &["a", "b/c"], &["c"]),
        ("COPY [\"a b\", \"c\", \"/x\"]", &["a b", "c/d"], &["a"]),
        ("ADD [a]b /x", &["ab"], &["b"]),
        ("ADD https://h/x.tgz /x", &[], &["x.tgz"]),
        ("COPY --from=0 . /x", &[], &["a"]),
        ("COPY --from=viking:s/a . /x", &[], &["a"]),
        ("ARG D=x\nCOPY $D /x", &["a"], &[]),
        ("COPY \\\n  a \\\n # c\n b /x", &["a", "b"], &["c"]),
        ("ONBUILD COPY . /x", &[], &["a"]),
        (
            "COPY src/*.js lib/ /x",
            &["src/a.js", "lib/b/c"],
            &["src/a.ts"],
        ),
    ];
    for (text, reached, not) in cases {
        let file = parse(&format!("FROM a\n{text}")).unwrap();
        for path in *reached {
            assert!(file.reach().covers(path), "{text}: {path}");
        }
        for path in *not {
            assert!(!file.reach().covers(path), "{text}: {path}");
        }
    }
    assert!(parse("FROM a\nONBUILD ADD . /x").unwrap().triggers());
}

#[test]
fn a_stage_on_a_stage_with_onbuild_lines_reads_the_context() {
    let reaches = |last: &str| {
        let text = format!("FROM a AS Base\nONBUILD COPY . /x\nFROM b AS other\nFROM {last}");
        parse(&text).unwrap().reach().covers("a")
    };
    assert!(reaches("base"));
    assert!(!reaches("other"));
    assert!(!reaches("a"));
}

#[test]
fn bases_are_the_images_of_from_lines() {
    let text = "ARG V=7\nFROM redis:$V AS one\nFROM one\nFROM scratch\nFROM viking:s/a\n\
                FROM redis:7\nCOPY --from=other:1 a b\nCOPY --from=viking:s/b a b";
    let viking = Base::Viking("s".parse().unwrap(), "a".parse().unwrap());
    let named = Base::Named("redis:7".to_owned());
    assert_eq!(parse(text).unwrap().bases(), [named, viking]);
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_no_foreign_byte_changes(text in "(FROM|COPY|RUN|ARG|ONBUILD|--from=|viking:s/a|<<|\\[|\"|\\\\|\\$|\\{|\\}|:-|é|#|=| |\n|\r|x){0,40}") {
        if let Ok(file) = parse(&text) {
            let kept = file
                .rewrite(|stack, image| Ok::<_, ()>(format!("viking:{stack}/{image}")))
                .unwrap();
            if file.parents().is_empty() {
                proptest::prop_assert_eq!(kept, text);
            }
        }
    }
}
