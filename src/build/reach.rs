//! Which paths of a context the ADD and COPY lines of a Dockerfile can read. Only those are hashed,
//! and only those are sent: what is not part of the input hash cannot change the image. When in doubt
//! the answer is "everything". Made by `dockerfile`, used by `context`. Pure.

use regex::Regex;

use super::glob::{Stars, clean, compile};

/// Paths that ADD and COPY can read.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    whole: bool,
    paths: Vec<String>,
    globs: Vec<Regex>,
}

impl Reach {
    /// Everything in the context.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            whole: true,
            ..Self::default()
        }
    }

    /// Adds one source of an ADD or COPY line, as written there.
    pub(super) fn add(&mut self, source: &str) {
        // Variables and quotes are the builder's to expand, with values this reader does not know.
        if source.contains(['$', '"', '\'']) {
            self.whole = true;
            return;
        }
        let cleaned = clean(source);
        let path = cleaned.trim_start_matches('/');
        if path.is_empty() || path == "." || path.starts_with("..") {
            self.whole = true;
        } else if path.contains(['*', '?', '[', '\\']) {
            match compile(path, Stars::One) {
                Some(glob) => self.globs.push(glob),
                None => self.whole = true,
            }
        } else {
            self.paths.push(path.to_owned());
        }
    }

    /// Reaches everything from now on.
    pub(super) fn widen(&mut self) {
        self.whole = true;
    }

    /// Whether a file is reached, itself or through a folder above it.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        self.whole || self.matches(path) || folders(path).any(|folder| self.matches(folder))
    }

    /// Whether a line names exactly this path, not by a pattern and not by a folder.
    #[must_use]
    pub fn names(&self, path: &str) -> bool {
        self.paths.iter().any(|p| p == path)
    }

    /// Whether the builder would follow the symbolic link at `path`, because a source is the link
    /// itself or lies behind it. What it leads to is then reached as well.
    #[must_use]
    pub fn follows(&self, path: &str) -> bool {
        self.matches(path)
            || self
                .paths
                .iter()
                .any(|p| folders(p).any(|folder| folder == path))
    }

    fn matches(&self, path: &str) -> bool {
        self.names(path) || self.globs.iter().any(|glob| glob.is_match(path))
    }
}

fn folders(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .filter_map(move |(at, _)| path.get(..at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_reach_what_the_builder_could_read() {
        let cases: &[(&str, &str, bool)] = &[
            (".", "a/b", true),
            ("./", "a/b", true),
            ("/", "a/b", true),
            ("src", "src/main.rs", true),
            ("src/", "src/main.rs", true),
            ("/src", "src/main.rs", true),
            ("./src/./x", "src/x", true),
            ("src", "srcs", false),
            ("package*.json", "package-lock.json", true),
            ("package*.json", "a/package.json", false),
            ("d*", "docs/a/b", true),
            ("*/x", "a/x/y", true),
            ("$WHERE/x", "anything", true),
            ("../x", "anything", true),
            ("[", "anything", true),
        ];
        for (source, path, want) in cases {
            let mut reach = Reach::default();
            reach.add(source);
            assert_eq!(reach.covers(path), *want, "{source} on {path}");
        }
        assert!(!Reach::default().covers("a"));
    }

    #[test]
    fn only_an_exact_source_names_a_file() {
        let mut reach = Reach::default();
        reach.add("./viking.yml");
        reach.add("*.txt");
        assert!(reach.names("viking.yml"));
        assert!(!reach.names("a.txt"));
    }
}
