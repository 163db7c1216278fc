//! What Docker says, through its own command line and past viking: containers by cluster with ids
//! and start times, and the meddling of tests. Never asks viking.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// An engine.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    address: String,
}

/// One container, as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) stack: String,
    pub(crate) tag: String,
    pub(crate) node: String,
    pub(crate) slot: String,
    pub(crate) running: bool,
    pub(crate) paused: bool,
    pub(crate) started: String,
    pub(crate) memory: u64,
    pub(crate) env: BTreeMap<String, String>,
}

impl Container {
    fn from(value: &Value) -> Self {
        let text = |pointer: &str| {
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let label = |name: &str| text(&format!("/Config/Labels/viking.{name}"));
        let flag = |pointer: &str| value.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let env = value.pointer("/Config/Env").and_then(Value::as_array);
        let pair = |line: &Value| {
            let (name, value) = line.as_str()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Self {
            id: text("/Id"),
            name: text("/Name").trim_start_matches('/').to_owned(),
            stack: label("stack"),
            tag: label("tag"),
            node: label("node"),
            slot: label("slot"),
            running: flag("/State/Running"),
            paused: flag("/State/Paused"),
            started: text("/State/StartedAt"),
            memory: memory(value),
            env: env.into_iter().flatten().filter_map(pair).collect(),
        }
    }
}

/// The limit in bytes; 0 for none, which the kernel says with the largest number of pages.
fn memory(container: &Value) -> u64 {
    let bytes = container
        .pointer("/HostConfig/Memory")
        .and_then(Value::as_u64);
    bytes
        .filter(|bytes| *bytes < u64::from(u32::MAX) << 20)
        .unwrap_or(0)
}

/// Running containers: id to start time. Equal means that nothing was restarted.
pub(crate) type Runs = BTreeMap<String, String>;

/// Ids and start times of those that run.
pub(crate) fn runs<'a>(containers: impl IntoIterator<Item = &'a Container>) -> Runs {
    let running = containers.into_iter().filter(|container| container.running);
    running.map(|c| (c.id.clone(), c.started.clone())).collect()
}

impl Docker {
    /// The engine that tests use.
    ///
    /// # Panics
    /// When it does not answer or lacks an image: such a test cannot say anything.
    pub(crate) fn of_tests() -> Self {
        let named = ["VIKING_TEST_DOCKER", "DOCKER_HOST"].into_iter();
        let address = named
            .filter_map(|name| std::env::var(name).ok())
            .find(|text| !text.is_empty());
        let address = address.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let docker = Self { address };
        let version = docker.output(&["version", "--format", "{{.Server.Version}}"]);
        assert!(
            version.status.success(),
            "Docker at {} does not answer (start it, or name another with VIKING_TEST_DOCKER): {}",
            docker.address,
            String::from_utf8_lossy(&version.stderr)
        );
        for image in [
            "viking/busybox:1",
            "viking/redis:1",
            "viking/node:1",
            "viking/registry:2",
        ] {
            assert!(
                docker.has_image(image),
                "no image {image}: run deploy/base-images.sh"
            );
        }
        docker
    }

    /// The engine at an address.
    pub(crate) fn at(address: String) -> Self {
        Self { address }
    }

    /// The socket's file.
    pub(crate) fn socket(&self) -> PathBuf {
        let path = self.address.strip_prefix("unix://");
        PathBuf::from(path.unwrap_or_else(|| panic!("{} is not a unix socket", self.address)))
    }

    fn output(&self, args: &[&str]) -> Output {
        Command::new("docker")
            .args(["--host", &self.address])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("the docker command is installed")
    }

    /// Runs `docker ARGS`, which must succeed, and gives what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(
            output.status.success(),
            "docker {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Runs `docker ARGS` for what it prints; its end does not matter.
    pub(crate) fn try_run(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.output(args).stdout)
            .trim_end()
            .to_owned()
    }

    /// Whether the engine has an image of this name.
    pub(crate) fn has_image(&self, name: &str) -> bool {
        self.output(&["image", "inspect", name]).status.success()
    }

    /// Makes an image of a Dockerfile without a context.
    pub(crate) fn build(&self, name: &str, dockerfile: &str, folder: &std::path::Path) {
        std::fs::create_dir_all(folder).expect("a folder is made");
        std::fs::write(folder.join("Dockerfile"), dockerfile).expect("a file is written");
        let folder = folder.to_str().expect("test folders are UTF-8");
        self.run(&["build", "--quiet", "--tag", name, folder]);
    }

    /// Containers with a label, by name.
    pub(crate) fn containers(&self, label: &str) -> Vec<Container> {
        let filter = format!("label={label}");
        let ids = self.run(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        self.inspect(&ids.lines().collect::<Vec<_>>())
    }

    /// These containers, as far as they are there still.
    pub(crate) fn inspect(&self, ids: &[&str]) -> Vec<Container> {
        if ids.is_empty() {
            return Vec::new();
        }
        let text = self.try_run(&[&["container", "inspect"], ids].concat());
        let values: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        let mut found: Vec<Container> = values.iter().map(Container::from).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Names or ids of networks, volumes or images with a label.
    pub(crate) fn labelled(&self, kind: &str, label: &str) -> Vec<String> {
        let filter = format!("label={label}");
        let text = self.run(&[kind, "ls", "--quiet", "--filter", &filter]);
        text.lines().map(str::to_owned).collect()
    }

    /// Removes everything with a label.
    pub(crate) fn remove_labelled(&self, label: &str) {
        let filter = format!("label={label}");
        let ids = self.try_run(&["ps", "--all", "--quiet", "--filter", &filter]);
        self.remove(&["container", "rm", "--force", "--volumes"], ids.lines());
        for (kind, verb) in [("network", "rm"), ("volume", "rm")] {
            let names = self.labelled(kind, label);
            self.remove(&[kind, verb], names.iter().map(String::as_str));
        }
        let images = self.labelled("image", &label.replacen("viking.", "viking.image.", 1));
        self.remove(
            &["image", "rm", "--force"],
            images.iter().map(String::as_str),
        );
    }

    fn remove<'a>(&self, verb: &[&str], names: impl Iterator<Item = &'a str>) {
        let names: Vec<&str> = names.collect();
        if !names.is_empty() {
            self.try_run(&[verb, &names].concat());
        }
    }
}
