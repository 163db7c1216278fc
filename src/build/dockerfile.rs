//! Reads a Dockerfile line by line, as far as viking must know it: what it is built from, what its
//! ADD and COPY lines can reach, and where `viking:` references stand so that they (and nothing
//! else) can be replaced. Called by `build`. Pure; the builder itself judges everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::heredoc;
use super::lines::{self, Line, Word};
use super::reach::Reach;
use super::variables;
use crate::model::names::{ImageName, StackName};

/// Longest Dockerfile, in bytes: far above any that people write.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Most FROM lines: each may name an image that is looked at.
const STAGES_MAX: usize = 256;

/// What stands before `<stack>/<image>`.
const SCHEME: &str = "viking:";

/// Why a Dockerfile was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Dockerfile line {line}: {reason}")]
pub struct DockerfileError {
    /// 1-based.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// A Dockerfile that was read.
#[derive(Debug)]
pub struct Dockerfile {
    text: String,
    references: Vec<Reference>,
    reach: Reach,
    bases: Vec<Base>,
    triggers: bool,
}

/// What a FROM line builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// `viking:<stack>/<image>`.
    Viking(StackName, ImageName),
    /// Any other image.
    Named(String),
}

/// A `viking:<stack>/<image>` in a FROM or a COPY line.
#[derive(Debug)]
struct Reference {
    at: Range<usize>,
    stack: StackName,
    image: ImageName,
}

impl Dockerfile {
    /// Reads `text`; `args` are the build arguments, which FROM lines may use.
    ///
    /// # Errors
    /// The first line that is malformed, or that needs a builder viking does not use.
    pub fn parse(text: &str, args: &BTreeMap<String, String>) -> Result<Self, DockerfileError> {
        let fail = |line, reason| DockerfileError { line, reason };
        if text.len() > TEXT_BYTES_MAX {
            return Err(fail(1, format!("longer than {TEXT_BYTES_MAX} bytes")));
        }
        let (escape, lines) = lines::read(text).map_err(|(line, why)| fail(line, why))?;
        let mut reader = Reader::new(args, escape);
        for line in &lines {
            reader
                .line(line)
                .map_err(|reason| fail(line.number, reason))?;
        }
        if !reader.in_stage {
            return Err(fail(1, "there is no FROM line".to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            references: reader.references,
            reach: reader.reach,
            bases: reader.bases,
            triggers: reader.triggers,
        })
    }

    /// The images of viking it is built from or copies from, in order of first appearance.
    #[must_use]
    pub fn parents(&self) -> Vec<(StackName, ImageName)> {
        let mut seen = BTreeSet::new();
        self.references
            .iter()
            .map(|r| (r.stack.clone(), r.image.clone()))
            .filter(|parent| seen.insert(parent.clone()))
            .collect()
    }

    /// What its FROM lines build on, stages of its own left out; each once.
    #[must_use]
    pub fn bases(&self) -> &[Base] {
        &self.bases
    }

    /// The text with every `viking:` reference replaced by what `resolve` answers; everything else
    /// byte for byte.
    ///
    /// # Errors
    /// The first error of `resolve`.
    pub fn rewrite<E>(
        &self,
        mut resolve: impl FnMut(&StackName, &ImageName) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut out = String::with_capacity(self.text.len());
        let mut copied = 0;
        for reference in &self.references {
            out.push_str(self.text.get(copied..reference.at.start).unwrap_or(""));
            out.push_str(&resolve(&reference.stack, &reference.image)?);
            copied = reference.at.end;
        }
        out.push_str(self.text.get(copied..).unwrap_or(""));
        Ok(out)
    }

    /// What its ADD and COPY lines can read of the context.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Makes everything in the context reached: a parent's ONBUILD lines read it.
    pub(super) fn reach_everything(&mut self) {
        self.reach.widen();
    }

    /// Whether images built on this one read their own context through an ONBUILD line.
    #[must_use]
    pub fn triggers(&self) -> bool {
        self.triggers
    }
}

struct Reader<'a> {
    args: &'a BTreeMap<String, String>,
    escape: char,
    /// ARG lines before the first FROM: all that FROM lines may use.
    globals: BTreeMap<String, String>,
    in_stage: bool,
    /// FROM lines so far.
    froms: usize,
    /// Named stages so far, and whether their ONBUILD lines read the context.
    stages: BTreeMap<String, bool>,
    /// The stage that is being read, if it has a name.
    stage: Option<String>,
    references: Vec<Reference>,
    reach: Reach,
    bases: Vec<Base>,
    triggers: bool,
}

/// The one base that is no image.
const SCRATCH: &str = "scratch";

/// What the classic builder knows.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl<'a> Reader<'a> {
    fn new(args: &'a BTreeMap<String, String>, escape: char) -> Self {
        Self {
            args,
            escape,
            globals: BTreeMap::new(),
            in_stage: false,
            froms: 0,
            stages: BTreeMap::new(),
            stage: None,
            references: Vec::new(),
            reach: Reach::default(),
            bases: Vec::new(),
            triggers: false,
        }
    }

    fn line(&mut self, line: &Line) -> Result<(), String> {
        let words = line.words();
        let Some((first, rest)) = words.split_first() else {
            return Ok(());
        };
        let keyword = first.text.to_ascii_uppercase();
        if !INSTRUCTIONS.contains(&keyword.as_str()) {
            return Err(format!("{:?} is not an instruction", cut(&first.text)));
        }
        if !self.in_stage && keyword != "FROM" && keyword != "ARG" {
            return Err(format!("{keyword} stands before the first FROM"));
        }
        match keyword.as_str() {
            "FROM" => self.from(rest),
            "ARG" if !self.in_stage => self.arg(rest),
            "ONBUILD" => self.onbuild(line, rest),
            keyword => self.step(keyword, line, rest, false),
        }
    }

    fn from(&mut self, words: &[Word]) -> Result<(), String> {
        self.in_stage = true;
        self.froms += 1;
        if self.froms > STAGES_MAX {
            return Err(format!("there are more than {STAGES_MAX} FROM lines"));
        }
        let plain: Vec<&Word> = words
            .iter()
            .skip_while(|word| word.text.starts_with("--"))
            .collect();
        let (image, alias) = match plain.as_slice() {
            [image] => (image, None),
            [image, by, alias] if by.text.eq_ignore_ascii_case("as") => (image, Some(alias)),
            _ => return Err("FROM takes `image` or `image AS name`".to_owned()),
        };
        let name = variables::expand(&image.text, &self.globals, self.escape)?;
        self.base(&name);
        self.stage = alias.map(|alias| alias.text.to_ascii_lowercase());
        self.stages.extend(self.stage.clone().map(|s| (s, false)));
        if let Some((stack, image)) = self.reference(&name, image.at.clone())? {
            self.add_base(Base::Viking(stack, image));
        }
        Ok(())
    }

    fn base(&mut self, name: &str) {
        match self.stages.get(&name.to_ascii_lowercase()) {
            // Its ONBUILD lines run at the start of this stage.
            Some(true) => self.reach.widen(),
            Some(false) => {}
            None if name.is_empty() || name == SCRATCH || name.starts_with(SCHEME) => {}
            None => self.add_base(Base::Named(name.to_owned())),
        }
    }

    fn add_base(&mut self, base: Base) {
        if !self.bases.contains(&base) {
            self.bases.push(base);
        }
    }

    fn reference(
        &mut self,
        name: &str,
        at: Range<usize>,
    ) -> Result<Option<(StackName, ImageName)>, String> {
        let Some(path) = name.strip_prefix(SCHEME) else {
            return Ok(None);
        };
        let (stack, image) = path
            .split_once('/')
            .ok_or_else(|| format!("{:?} is not viking:<stack>/<image>", cut(name)))?;
        let stack = StackName::parse(stack).map_err(|e| e.to_string())?;
        let image = ImageName::parse(image).map_err(|e| e.to_string())?;
        self.references.push(Reference {
            at,
            stack: stack.clone(),
            image: image.clone(),
        });
        Ok(Some((stack, image)))
    }

    fn arg(&mut self, words: &[Word]) -> Result<(), String> {
        for word in words {
            let (name, default) = match word.text.split_once('=') {
                Some((name, value)) => (
                    name,
                    Some(variables::expand(value, &self.globals, self.escape)?),
                ),
                None => (word.text.as_str(), None),
            };
            if let Some(value) = self.args.get(name).cloned().or(default) {
                self.globals.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn onbuild(&mut self, line: &Line, words: &[Word]) -> Result<(), String> {
        let Some((first, rest)) = words.split_first() else {
            return Err("ONBUILD needs an instruction".to_owned());
        };
        let keyword = first.text.to_ascii_uppercase();
        match keyword.as_str() {
            "ONBUILD" | "FROM" | "MAINTAINER" => Err(format!("ONBUILD cannot hold {keyword}")),
            keyword if INSTRUCTIONS.contains(&keyword) => self.step(keyword, line, rest, true),
            _ => Err(format!("{:?} is not an instruction", cut(&first.text))),
        }
    }

    fn step(
        &mut self,
        keyword: &str,
        line: &Line,
        words: &[Word],
        later: bool,
    ) -> Result<(), String> {
        if matches!(keyword, "RUN" | "ADD" | "COPY") {
            heredoc::refuse(&words.first().map_or(String::new(), |w| line.rest(w.first)))?;
        }
        if matches!(keyword, "ADD" | "COPY") {
            self.copy(keyword, line, words, later)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        keyword: &str,
        line: &Line,
        words: &[Word],
        later: bool,
    ) -> Result<(), String> {
        let flags = words
            .iter()
            .take_while(|word| word.text.starts_with("--"))
            .count();
        let (flags, operands) = words.split_at(flags);
        if let Some(from) = flags.iter().find(|word| word.text.starts_with("--from=")) {
            return self.copy_from(from);
        }
        let paths = operand_texts(line, operands)?;
        let sources = match paths.split_last() {
            Some((_, sources)) if !sources.is_empty() => sources,
            _ => return Err(format!("{keyword} needs a source and a destination")),
        };
        if later {
            self.triggers = true;
            self.stages.extend(self.stage.clone().map(|s| (s, true)));
            return Ok(());
        }
        // Only ADD fetches; what is behind the address is not part of the input hash, as its bytes
        // are not part of the commit.
        let fetched = |s: &&String| {
            keyword == "ADD" && (s.starts_with("http://") || s.starts_with("https://"))
        };
        for source in sources.iter().filter(|s| !fetched(s)) {
            self.reach.add(source);
        }
        Ok(())
    }

    fn copy_from(&mut self, flag: &Word) -> Result<(), String> {
        let value = flag.text.trim_start_matches("--from=");
        let name = value.trim_matches(['"', '\'']);
        // `--from=` is ASCII, so its bytes are its characters; a continuation inside it is replaced
        // together with the value.
        let split = flag.at.end - flag.at.start != flag.text.len();
        if split && name.starts_with(SCHEME) {
            return Err("a `viking:` reference must stand on one line".to_owned());
        }
        self.reference(name, flag.at.end - value.len()..flag.at.end)
            .map(drop)
    }
}

/// The paths of an ADD or COPY line, in either form.
fn operand_texts(line: &Line, operands: &[Word]) -> Result<Vec<String>, String> {
    let Some(first) = operands.first() else {
        return Ok(Vec::new());
    };
    let text = line.rest(first.first);
    if text.starts_with('[')
        && let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(&text)
    {
        let texts = list
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<Vec<String>>>();
        return texts.ok_or_else(|| "the list must hold only texts".to_owned());
    }
    Ok(operands.iter().map(|word| word.text.clone()).collect())
}

/// A piece of somebody's text, short enough for a message.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[path = "dockerfile_tests.rs"]
mod tests;
