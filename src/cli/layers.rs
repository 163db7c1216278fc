//! Puts the layers of settings above one another: flags over `VIKING_*` over the configuration file
//! over defaults. What the file says becomes the default of the flag that says the same, so that a
//! flag needs no code here, only its key in `config::file`. Called by `main` before anything else;
//! never starts anything, and reads nothing but that one file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory as _, FromArgMatches as _};
use serde::Serialize;

use super::args::Cli;
use super::failure::{FAILED, Failure, USAGE};
use super::output::Printer;
use crate::config::file::{ConfigFile, KNOWN, Known, Setting};

/// Commands that are given the settings of a host.
const HOSTS: &[&[&str]] = &[
    &["host"],
    &["up"],
    &["config", "check"],
    &["store", "copy"],
    &["store", "restore"],
    &["store", "move"],
];

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// Wrong usage, or a question for help.
    Usage(clap::Error),
    /// A configuration file that cannot be used.
    Failed(Failure),
}

impl From<clap::Error> for Stop {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

/// Which layer a value is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The command line.
    Flag,
    /// A variable.
    Env,
    /// The configuration file.
    File,
    /// None of them.
    Default,
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Key of the configuration file.
    pub key: &'static str,
    /// What it says; none for what is found out at start.
    pub values: Vec<String>,
    /// Which layer it is of.
    pub source: Source,
    /// The flag, the variable, or file and line.
    pub place: String,
}

/// Where the settings of this run came from.
#[derive(Debug, Default)]
pub struct Layers {
    /// The file, if there is one.
    pub file: Option<ConfigFile>,
    /// What is in force, in the order of the keys; nothing for commands that are no host.
    pub settings: Vec<Effective>,
    /// What was passed over, for people.
    pub remark: Option<String>,
}

impl Layers {
    /// The setting in force of a key.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<&Effective> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// Says where a refused address of the API was written, when it was not on the command line.
    #[must_use]
    pub fn blame(&self, failure: Failure) -> Failure {
        let api = self.of("api").filter(|api| {
            let said = api.values.iter().any(|value| failure.error.contains(value));
            said && matches!(api.source, Source::File | Source::Env)
        });
        match api {
            Some(api) => Failure {
                error: format!("{}: {}", api.place, failure.error),
                ..failure
            },
            None => failure,
        }
    }

    /// Tells what was passed over.
    pub fn remark(&self, print: &Printer) {
        if let Some(remark) = &self.remark {
            print.remark(remark);
        }
    }
}

/// Reads the command line and all that is below it.
///
/// # Errors
/// With what to print, and the exit code.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Cli, Layers), Stop> {
    let args: Vec<OsString> = args.into_iter().collect();
    let first = Cli::command().try_get_matches_from(&args)?;
    let (path, leaf) = leaf(&first);
    let host = HOSTS.contains(&path.as_slice());
    let (file, remark) = match read(&path, host, leaf) {
        Ok(file) => (file, None),
        // A question needs nothing of the file but an address, and that has a default.
        Err(failure) if !host => (None, Some(passed_over(&failure))),
        Err(failure) => return Err(Stop::Failed(failure)),
    };
    let Some(file) = file else {
        let settings = in_force(host, leaf, None);
        let cli = Cli::from_arg_matches(&first)?;
        let layers = Layers {
            file: None,
            settings,
            remark,
        };
        return Ok((cli, layers));
    };
    let command = layered(&file, host).map_err(|error| failed(&path, &error.to_string()));
    let matches = command.map_err(Stop::Failed)?.try_get_matches_from(&args)?;
    let settings = in_force(host, self::leaf(&matches).1, Some(&file));
    let cli = Cli::from_arg_matches(&matches)?;
    let layers = Layers {
        file: Some(file),
        settings,
        remark,
    };
    Ok((cli, layers))
}

/// The subcommand that was called, and its matches.
fn leaf(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut path, mut matches) = (Vec::new(), matches);
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name);
        matches = inner;
    }
    (path, matches)
}

/// The file that this command is to read, if there is one.
fn read(path: &[&str], host: bool, matches: &ArgMatches) -> Result<Option<ConfigFile>, Failure> {
    let said = |id: &str| {
        let source = matches.value_source(id);
        source.is_some_and(|source| source != ValueSource::DefaultValue)
    };
    // Others want to know where to ask; these were told, or ask nobody.
    if !host && (said("api") || path.first() == Some(&"config")) {
        return Ok(None);
    }
    let file: &PathBuf = matches.get_one("config").expect("it has a default");
    match ConfigFile::read(file) {
        Ok(None) if said("config") => {
            let error = format!("there is no file {}", file.display());
            Err(Failure {
                hint: "`viking config example` prints one".to_owned(),
                ..failed(path, &error)
            })
        }
        Ok(found) => Ok(found),
        Err(error) => Err(failed(path, &format!("{:#}", anyhow::Error::new(error)))),
    }
}

/// For a host a wrong file is wrong usage: starting it again does not help. A check has found what it
/// was to look for.
fn failed(path: &[&str], error: &str) -> Failure {
    let code = if path.first() == Some(&"config") {
        FAILED
    } else {
        USAGE
    };
    Failure {
        code,
        ..Failure::new(error, "")
    }
}

fn passed_over(failure: &Failure) -> String {
    let line = failure.error.lines().next().unwrap_or_default();
    format!("warning: {line}; it was passed over")
}

/// The command line with what the file says as defaults.
fn layered(
    file: &ConfigFile,
    host: bool,
) -> Result<clap::Command, crate::model::vikingfile::Error> {
    let mut command = Cli::command();
    for setting in file.settings() {
        // Of everything else in the file others take no notice, also when it is wrong.
        if host {
            accepted(file, setting)?;
        } else if setting.known.key != "api" {
            continue;
        }
        command = with_default(command, setting);
    }
    Ok(command)
}

/// Asks the flag itself whether it takes the value: what is allowed is written down once.
fn accepted(file: &ConfigFile, setting: &Setting) -> Result<(), crate::model::vikingfile::Error> {
    let known = setting.known;
    if flag(&Cli::command(), known).is_none() {
        return Err(file.wrong(setting, "is not supported by this version", &[]));
    }
    if switch(known) {
        return Ok(());
    }
    for value in &setting.values {
        let args = ["viking", "host", &format!("--{}={value}", known.flag)].map(str::to_owned);
        let Err(error) = Cli::command().try_get_matches_from(args) else {
            continue;
        };
        // What else this one flag lacks, other layers may give.
        if !matches!(
            error.kind(),
            ErrorKind::ValueValidation | ErrorKind::InvalidValue
        ) {
            continue;
        }
        let allowed = match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(words)) => words.clone(),
            _ => Vec::new(),
        };
        let why = std::error::Error::source(&error).map(ToString::to_string);
        let what = match why {
            Some(why) if why.contains(value.as_str()) => why,
            Some(why) => format!("{value:?} is not allowed: {why}"),
            None => format!("{value:?} is not allowed"),
        };
        return Err(file.wrong(setting, &what, &allowed));
    }
    Ok(())
}

/// The flag of `viking host` that means a key.
fn flag(command: &clap::Command, known: Known) -> Option<&Arg> {
    let host = command.find_subcommand("host")?;
    let mut args = host.get_arguments().chain(command.get_arguments());
    args.find(|arg| arg.get_long() == Some(known.flag))
}

fn switch(known: Known) -> bool {
    let command = Cli::command();
    flag(&command, known).is_some_and(|arg| !arg.get_action().takes_values())
}

fn with_default(command: clap::Command, setting: &Setting) -> clap::Command {
    let Some(id) = flag(&command, setting.known).map(|arg| arg.get_id().to_string()) else {
        return command;
    };
    let put = |command: clap::Command| {
        let values = setting.values.clone();
        command.mut_arg(&id, |arg| arg.default_values(values))
    };
    if command.get_arguments().any(|arg| *arg.get_id() == id) {
        return put(command);
    }
    HOSTS.iter().fold(command, |command, path| match *path {
        [outer, inner] => command.mut_subcommand(outer, |outer| outer.mut_subcommand(inner, put)),
        [name] => command.mut_subcommand(name, put),
        _ => command,
    })
}

/// The settings of a host, with the layer each is of.
fn in_force(host: bool, matches: &ArgMatches, file: Option<&ConfigFile>) -> Vec<Effective> {
    let command = Cli::command();
    let known = KNOWN.iter().filter(|_| host);
    let effective = |known: &Known| {
        let arg = flag(&command, *known)?;
        let id = arg.get_id().as_str();
        let raw = matches.get_raw(id).into_iter().flatten();
        let values = raw.map(|value| value.to_string_lossy().into_owned());
        let written = file.and_then(|file| {
            let setting = file.settings().iter().find(|s| s.known == *known)?;
            Some(file.place(setting))
        });
        let (source, place) = match (matches.value_source(id), written) {
            (Some(ValueSource::CommandLine), _) => (Source::Flag, format!("--{}", known.flag)),
            (Some(ValueSource::EnvVariable), _) => (Source::Env, variable(arg)),
            (_, Some(place)) => (Source::File, place),
            _ => (Source::Default, "default".to_owned()),
        };
        Some(Effective {
            key: known.key,
            values: values.collect(),
            source,
            place,
        })
    };
    known.filter_map(effective).collect()
}

fn variable(arg: &Arg) -> String {
    let name = arg.get_env().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only etcd's keys may be ahead of their flags.
    #[test]
    fn every_key_has_its_flag_and_every_flag_of_a_host_its_key() {
        let command = Cli::command();
        for known in KNOWN {
            let ahead = known.key.starts_with("etcd.");
            assert!(ahead || flag(&command, *known).is_some(), "{}", known.key);
        }
        let host = command.find_subcommand("host").unwrap();
        for arg in host.get_arguments() {
            let long = arg.get_long().unwrap();
            let known = KNOWN.iter().any(|known| known.flag == long);
            assert!(known, "--{long} has no key in config::file");
            assert!(arg.get_env().is_some(), "--{long} has no variable");
        }
    }

    #[test]
    fn the_file_is_below_flags_and_above_defaults() {
        let text = b"api: 127.0.0.1:1\nlog: json\ntags: [a, b]\nregistry_port: 5\n";
        let file = ConfigFile::parse("c.yml".as_ref(), text).unwrap();
        let args = [
            "viking",
            "config",
            "check",
            "--tag",
            "c",
            "--api",
            "127.0.0.1:2",
        ];
        let matches = layered(&file, true).unwrap().try_get_matches_from(args);
        let matches = matches.unwrap();
        let settings = in_force(true, leaf(&matches).1, Some(&file));
        let layers = Layers {
            settings,
            ..Layers::default()
        };
        for (key, value, place) in [
            ("api", "127.0.0.1:2", "--api"),
            ("log", "json", "c.yml:2"),
            ("tags", "c", "--tag"),
            ("registry_port", "5", "c.yml:4"),
            ("registry_image", "registry:2", "default"),
        ] {
            let setting = layers.of(key).unwrap();
            assert_eq!(
                (setting.values.join(" ").as_str(), setting.place.as_str()),
                (value, place)
            );
        }
        assert!(layers.of("data_dir").unwrap().values.is_empty());
    }

    #[test]
    fn a_value_that_its_flag_refuses_is_blamed_on_its_line() {
        for (text, says) in [
            (
                "registry_port: 70000\n",
                "registry_port: 70000 is not in 0..=65535",
            ),
            ("\nname: Not A Name\n", "is not a valid host name"),
            ("address: here\n", "address: \"here\" is not allowed"),
            ("log: xml\n", "\n  allowed: text, json"),
            ("tags: [ok, \"no good\"]\n", "\"no good\" is not a host tag"),
            ("capacity: {memory: lots}\n", "allowed: amounts such as"),
        ] {
            let file = ConfigFile::parse("c.yml".as_ref(), text.as_bytes()).unwrap();
            let error = layered(&file, true).unwrap_err().to_string();
            assert!(
                error.starts_with("c.yml:") && error.contains(says),
                "{error}"
            );
            assert!(layered(&file, false).is_ok(), "a question does not mind");
        }
    }
}
