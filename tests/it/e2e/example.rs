//! The example of the 0.5.3 document, word for word, on stand-ins for the base images it names.

use super::docker::Docker;
use super::http::fetch;
use super::world::World;

const FILE: &str = include_str!("../data/viking-0.5.3.yml");

/// What every process of the example does: says which part it is.
const INDEX: &str = "\
const http = require('node:http');
const name = process.cwd().split('/').pop();
http.createServer((request, response) => response.end(`${name} ${process.argv.slice(2).join(' ')}`)).listen(80);
";

const HELP: &str = "<h1>How to raid</h1>\n";

/// Stand-ins: `mon` runs what it is given, `npm install` has nothing to do, `mongo` listens.
const IMAGES: [(&str, &str); 3] = [
    (
        "quarry/monnode",
        "FROM viking/node:1\n\
         RUN printf '#!/bin/sh\\nexec \"$@\"\\n' > /usr/bin/mon && chmod +x /usr/bin/mon\n\
         RUN printf '#!/bin/sh\\necho npm \"$@\"\\n' > /usr/bin/npm && chmod +x /usr/bin/npm\n",
    ),
    (
        "quarry/mongo",
        "FROM viking/busybox:1\nRUN mkdir -p /data/db\nCMD [\"httpd\", \"-f\", \"-p\", \"27017\", \"-h\", \"/data/db\"]\n",
    ),
    (
        "quarry/redis",
        "FROM viking/redis:1\n\
         CMD [\"redis-server\", \"--bind\", \"0.0.0.0\", \"--protected-mode\", \"no\", \"--dir\", \"/data/db\", \"--appendonly\", \"yes\"]\n",
    ),
];

/// Base images that were not there before; gone afterwards.
struct BaseImages {
    docker: Docker,
    made: Vec<&'static str>,
}

impl BaseImages {
    fn make(world: &World) -> Self {
        let docker = world.docker.clone();
        let missing = IMAGES.iter().filter(|(name, _)| !docker.has_image(name));
        let missing: Vec<_> = missing.collect();
        for (name, dockerfile) in &missing {
            docker.build(name, dockerfile, &world.folder(name));
        }
        let made = missing.iter().map(|(name, _)| *name).collect();
        Self { docker, made }
    }
}

impl Drop for BaseImages {
    fn drop(&mut self) {
        for name in &self.made {
            self.docker.try_run(&["image", "rm", "--force", name]);
        }
    }
}

#[test]
fn the_example_of_0_5_3_runs_as_it_stands() {
    let world = World::started("example");
    let _images = BaseImages::make(&world);
    let repo = world.repo("ragnar");
    let commit = repo.commit(
        "Westward",
        &[
            ("viking.yml", FILE),
            ("package.json", "{\"name\": \"ragnar\"}\n"),
            ("db/index.js", INDEX),
            ("logic/index.js", INDEX),
            ("website/index.js", INDEX),
            ("help/www/index.html", HELP),
        ],
    );
    world.add(&repo);
    world.eventually("the example is live and healthy", || {
        let status = world.status("ragnar")?;
        let live = status["live"]["commit"] == commit.0.as_str() && status["health"] == "healthy";
        live.then_some(()).ok_or_else(|| status.to_string())
    });
    for (node, copies) in [
        ("db", 1),
        ("logic", 2),
        ("website", 3),
        ("mongo", 1),
        ("redis", 1),
    ] {
        assert_eq!(world.node("ragnar", node).len(), copies, "{node}");
        assert_eq!(world.endpoints("ragnar", node).len(), copies, "{node}");
    }
    for (node, says) in [
        ("db", "db --volume=/data/db"),
        ("logic", "logic"),
        ("website", "website"),
    ] {
        for end in world.endpoints("ragnar", node) {
            assert_eq!(
                fetch(&format!("http://{end}/")).as_deref().map(str::trim),
                Ok(says)
            );
        }
    }
    let inherits = world.keys().expect("the host answers");
    let image = inherits.get(&format!("/images/ragnar/{}/inherit", commit.tag()));
    let image = image.expect("the image that inherits is built too");
    let setting = world
        .docker
        .run(&["run", "--rm", image, "cat", "/etc/mysetting"]);
    assert_eq!(setting, "setting");
    let status = world.must(&["status", "ragnar"]);
    assert!(
        status.contains("help"),
        "the static website is shown: {status}"
    );
    // Through a real registry to this host's disk and out of its router.
    for domain in ["help.thetracktube.com", "a.help.thetracktube.com"] {
        let page = world.visit(domain, "/");
        assert_eq!(page.as_deref().map(str::trim), Ok(HELP.trim()), "{domain}");
    }
    repo.commit("Help", &[("help/www/index.html", "<p>other help")]);
    world.eventually("another page is served", || {
        let page = world.visit("help.thetracktube.com", "/")?;
        (page.trim() == "<p>other help").then_some(()).ok_or(page)
    });
    world.check_registry();
}
