//! Static sites: what a browser gets, what it need not get again, and what nobody gets.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use viking::model::names::{ImageName, NodeName, StackName};
use viking::model::release::{ImageRecord, NodeKind, Release};
use viking::router::front::Settings;

use super::app::header;
use super::{Door, settings};

/// Writes files below the folder of a site.
fn unpack(sites: &Path, digits: &str, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = sites.join(digits.repeat(64)).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn release(door: &mut Door) -> &mut Release {
    let shop = StackName::parse("shop").unwrap();
    let map = door.seen.stacks.get_mut(&shop).unwrap();
    map.releases.values_mut().next().unwrap()
}

/// The release that is live has a website of these digits in the place of its node.
fn lead_to(door: &mut Door, digits: &str) {
    let release = release(door);
    let web = NodeName::parse("web").unwrap();
    release.nodes.get_mut(&web).unwrap().kind = NodeKind::Website {
        document_root: "www".to_owned(),
    };
    let image = ImageRecord {
        v: 1,
        repository: "shop/site.web".to_owned(),
        digest: format!("sha256:{}", digits.repeat(64)),
        input: String::new(),
        size_bytes: 1,
        build_ms: 0,
        commit: String::new(),
        built_by: release.tag.clone(),
        bases: BTreeMap::new(),
        made_of: None,
    };
    release.images.insert(ImageName::of_site(&web), image);
    door.update();
}

struct Site {
    door: Door,
    dir: tempfile::TempDir,
}

/// What came back.
struct Got {
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> String {
        header(&self.head, name).unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Status and text.
    fn is(&self, status: u16, text: &str) -> bool {
        self.status() == status && self.body == text.as_bytes()
    }
}

impl Site {
    fn of(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        unpack(dir.path(), "a", files);
        let settings = Settings {
            sites: Some(dir.path().to_owned()),
            ..settings()
        };
        let mut door = Door::with(settings, &[]);
        lead_to(&mut door, "a");
        Self { door, dir }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> Got {
        let mut stream = self.door.connect().await;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        let mut fours = said.windows(4);
        let at = fours.position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(said[..at + 2].to_vec()).unwrap();
        let body = said[at + 4..].to_vec();
        let body = match header(&head, "transfer-encoding") {
            Some(_) => unchunked(&body),
            None => body,
        };
        Got { head, body }
    }

    async fn get(&self, path: &str) -> Got {
        self.ask("GET", path, "").await
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let at = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = std::str::from_utf8(&rest[..at]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        rest = &rest[at + 2..];
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}

#[tokio::test]
async fn a_folder_is_its_index_and_each_answer_has_a_type_a_name_and_a_time() {
    let site = Site::of(&[
        ("index.html", "<p>home"),
        ("a/index.html", "<p>a"),
        ("a b/ä.css", "css"),
        (".well-known/security.txt", "mail us"),
    ]);
    let home = site.get("/").await;
    assert!(home.is(200, "<p>home"), "{}", home.head);
    assert_eq!(home.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(home.header("cache-control"), "no-cache");
    assert!(home.header("etag").starts_with('"'), "{}", home.head);
    assert_eq!(home.header("x-request-id").len(), 32);
    assert_eq!(home.header("last-modified"), "", "its time says nothing");
    assert!(site.get("/a/").await.is(200, "<p>a"));
    let moved = site.get("/a?b=c").await;
    assert_eq!(moved.status(), 307);
    assert_eq!(moved.header("location"), "/a/?b=c");
    let style = site.get("/a%20b/%C3%A4.css?v=1").await;
    assert!(style.is(200, "css"), "{}", style.head);
    assert_eq!(style.header("content-type"), "text/css; charset=utf-8");
    assert_eq!(style.header("cache-control"), "public, max-age=60");
    let known = site.get("/.well-known/security.txt").await;
    assert!(known.is(200, "mail us"), "{}", known.head);
    let head = site.ask("HEAD", "/", "").await;
    assert!(head.is(200, ""), "{}", head.head);
    assert_eq!(head.header("content-length"), "7");
    assert_eq!(head.header("etag"), home.header("etag"));
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again_until_the_site_is_another_one() {
    let mut site = Site::of(&[("a.css", "one"), ("b.css", "one")]);
    let tag = site.get("/a.css").await.header("etag");
    assert_ne!(tag, site.get("/b.css").await.header("etag"));
    let knows = |known: &str| format!("If-None-Match: {known}\r\n");
    for known in [&tag, &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
        let again = site.ask("GET", "/a.css", &knows(known)).await;
        assert!(again.is(304, ""), "{known}: {}", again.head);
        assert_eq!(again.header("etag"), tag);
        assert_eq!(again.header("cache-control"), "public, max-age=60");
    }
    let future = "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n";
    let dated = site.ask("GET", "/a.css", future).await;
    assert_eq!(dated.status(), 200, "dates do not count");
    let missing = site.ask("GET", "/nothing", &knows(&tag)).await;
    assert_eq!(missing.status(), 404);
    let other = site.ask("GET", "/a.css", "If-Match: \"x\"\r\n").await;
    assert_eq!(other.status(), 412);
    // Same size, other bytes: another release.
    unpack(site.dir.path(), "b", &[("a.css", "two")]);
    lead_to(&mut site.door, "b");
    let changed = site.ask("GET", "/a.css", &knows(&tag)).await;
    assert!(changed.is(200, "two"), "{}", changed.head);
    assert_eq!(site.get("/b.css").await.status(), 404);
}

#[tokio::test]
async fn a_part_is_sent_to_who_has_the_rest_of_the_same_file() {
    let site = Site::of(&[("film.bin", "0123456789"), ("film.bin.gz", "packed")]);
    let whole = site.get("/film.bin").await;
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let tag = whole.header("etag");
    let part = |more: &str| format!("Range: bytes=2-4\r\nAccept-Encoding: gzip\r\n{more}");
    let some = site.ask("GET", "/film.bin", &part("")).await;
    assert!(some.is(206, "234"), "{}", some.head);
    assert_eq!(some.header("content-range"), "bytes 2-4/10");
    assert_eq!(some.header("content-encoding"), "");
    assert_eq!(some.header("etag"), tag);
    let same = part(&format!("If-Range: {tag}\r\n"));
    assert_eq!(site.ask("GET", "/film.bin", &same).await.status(), 206);
    let other = part("If-Range: \"x\"\r\n");
    assert_eq!(site.ask("GET", "/film.bin", &other).await.status(), 200);
    let beyond = site.ask("GET", "/film.bin", "Range: bytes=20-\r\n").await;
    assert_eq!(beyond.status(), 416);
}

#[tokio::test]
async fn texts_are_packed_for_who_takes_them_so_and_a_packed_file_beside_goes_first() {
    let long = "all work and no play ".repeat(500);
    let files = [
        ("long.js", long.as_str()),
        ("own.js", &long),
        ("own.js.br", "by hand"),
        ("short.js", "x"),
        ("film.mp4", &long),
    ];
    let site = Site::of(&files);
    let takes = "Accept-Encoding: gzip, br\r\n";
    let plain = site.get("/long.js").await;
    assert!(plain.is(200, &long), "{}", plain.head);
    assert_eq!(plain.header("content-encoding"), "");
    let packed = site.ask("GET", "/long.js", takes).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert_eq!(packed.body[..2], [0x1f, 0x8b]);
    assert!(packed.body.len() < long.len() / 10);
    let vary = packed.header("vary");
    assert!(vary.contains("accept-encoding"), "{}", packed.head);
    assert_ne!(packed.header("etag"), plain.header("etag"));
    let known = format!("{takes}If-None-Match: {}\r\n", packed.header("etag"));
    assert_eq!(site.ask("GET", "/long.js", &known).await.status(), 304);
    let own = site.ask("GET", "/own.js", takes).await;
    assert_eq!(own.header("content-encoding"), "br");
    assert!(own.is(200, "by hand"), "{}", own.head);
    let kind = own.header("content-type");
    assert!(kind.starts_with("text/javascript"), "{kind}");
    for whole in ["/short.js", "/film.mp4"] {
        let got = site.ask("GET", whole, takes).await;
        assert_eq!(got.header("content-encoding"), "", "{whole}");
    }
}

#[tokio::test]
async fn what_is_not_there_has_the_sites_own_page_or_one_that_names_the_request() {
    let site = Site::of(&[("404.html", "<p>lost?"), ("index.html", "x")]);
    let lost = site.get("/nothing").await;
    assert!(lost.is(404, "<p>lost?"), "{}", lost.head);
    assert_eq!(lost.header("cache-control"), "no-cache");
    assert_eq!(lost.header("etag"), "");
    assert_eq!(lost.header("x-request-id").len(), 32);
    let range = site.ask("GET", "/nothing", "Range: bytes=0-1\r\n").await;
    assert!(range.is(404, "<p>lost?"), "{}", range.head);
    let bare = Site::of(&[("index.html", "x")]);
    let lost = bare.get("/nothing").await;
    assert_eq!(lost.status(), 404);
    let id = lost.header("x-request-id");
    assert!(lost.text().contains(&id), "{}", lost.text());
}

#[tokio::test]
async fn nobody_gets_out_of_a_site_or_sees_what_is_hidden_in_it() {
    let site = Site::of(&[
        ("index.html", "home"),
        (".env", "secret"),
        (".git/config", "secret"),
        ("a/b", "b"),
    ]);
    std::fs::write(site.dir.path().join("secret"), "secret").unwrap();
    let hostile = [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/a/../../secret",
        "/a/..%5c..%5csecret",
        "/..\\secret",
        "//secret",
        "/a//b",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/a%00",
        "/a%2fb",
        "/%",
        "/%zz",
        "/a/./b",
        "/a/%2e/b",
        "/.",
        "/..",
        "/%ff",
        "/%c0%ae%c0%ae/secret",
        "/%252e%252e/secret",
        "/index.html/x",
    ];
    for path in hostile {
        let got = site.get(path).await;
        assert!(matches!(got.status(), 400 | 404), "{path}: {}", got.head);
        let told = got.text().replace(path, "");
        assert!(!told.contains("secret"), "{path}: {told}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let got = site.ask(method, "/", "").await;
        assert_eq!(got.status(), 405, "{method}");
        assert_eq!(got.header("allow"), "GET, HEAD", "{method}");
    }
}

#[tokio::test]
async fn until_a_site_is_unpacked_here_it_is_said_so_and_then_it_serves() {
    let mut site = Site::of(&[]);
    let early = site.get("/").await;
    assert_eq!(early.status(), 503);
    assert_eq!(early.header("retry-after"), "5");
    unpack(site.dir.path(), "a", &[("index.html", "home")]);
    assert!(site.get("/").await.is(200, "home"));
    // A release of a version that kept no files.
    release(&mut site.door).images.clear();
    site.door.update();
    assert_eq!(site.get("/").await.status(), 503);
}
