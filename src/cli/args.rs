//! The command line: commands, flags and the help that teaches them. Parsed by `cli::run`; never
//! acts.

mod plan;
mod route;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::env::EnvAction;
use crate::config::file::FILE_DEFAULT;
use crate::config::{self, Listen};
use crate::model::names::{HostName, NameError, NodeName, StackName, Tag};
use crate::model::vikingfile::{CPU_ALLOWED, MEMORY_ALLOWED, cpu_millis, host_tag, memory_bytes};

pub use plan::{ApplyArgs, DiffArgs, PlanArgs};
pub use route::RouteArgs;

const AFTER: &str = "\
Examples:
  viking up .                    run this machine as a host and follow the repository here
  viking up https://git.example/shop.git --once
                                 bring the newest commit live, then end: 0 live, 1 failed
  viking host                    run this machine as a host; in another shell:
  viking add /srv/git/shop.git   follow a repository
  viking status                  what is live, what is on its way, what is wrong
  viking logs shop/web -f        follow the output of a node

Things are named stack, stack/node and stack/node.slot.
Data goes to stdout, progress to stderr. `-o json` prints a versioned form for programs.
Exit codes: 0 done, 1 failed, 64 wrong usage; `viking status --help` names its own.";

/// Push a commit; the hosts converge on it.
#[derive(Debug, Parser)]
#[command(name = "viking", version, about, after_help = AFTER, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Address of the host's API: where to ask, and where `host` and `up` listen
    #[arg(long, global = true, env = "VIKING_API", hide_env_values = true, default_value = config::API_DEFAULT, value_name = "IP:PORT")]
    pub api: String,
    /// Settings of this machine: of `host`, `up` and `config check`, and of all commands where the API is
    #[arg(long, global = true, env = "VIKING_CONFIG", hide_env_values = true, default_value = FILE_DEFAULT, value_name = "FILE")]
    pub config: PathBuf,
    /// Form of the answer: table, wide, json, yaml or name
    #[arg(short, long, global = true, value_enum, hide_possible_values = true, default_value_t = Output::Table, value_name = "FORM")]
    pub output: Output,
    /// Print no progress and no remarks, only data and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Leave out the heading of tables
    #[arg(long, global = true)]
    pub no_header: bool,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For people with wide windows.
    Wide,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
    /// One name a line.
    Name,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this machine as a host: sync, build, schedule and run what the stacks want
    Host(HostArgs),
    /// Follow a repository and wait until its newest commit is live, with a host of its own if none answers
    Up(UpArgs),
    /// Follow a repository: its viking.yml names the stack
    Add(SourceArgs),
    /// Stop following a repository and stop its jobs; volumes stay
    Remove(RemoveArgs),
    /// Show what is live, what is on its way and what is wrong
    Status(StatusArgs),
    /// List stacks
    Stacks,
    /// List hosts, or say what becomes of one
    Hosts {
        /// What to do; without it they are listed.
        #[command(subcommand)]
        what: Option<HostsAction>,
    },
    /// List images and the releases that use them
    Images,
    /// Say what a commit or a folder would do, before it lands
    Plan(PlanArgs),
    /// Bring up a suspended stack's newest commit, if it does what was planned
    Apply(ApplyArgs),
    /// Show how far what runs is from what the newest commits say
    Diff(DiffArgs),
    /// Say why jobs are where they are, or nowhere: what the rules said of each host
    Why(WhyArgs),
    /// List domains and where they lead
    Routes,
    /// Say where the router leads an address, and why
    Route(RouteArgs),
    /// Try out what would be done: in a world that is written down, or in one that is not here
    Sim(Box<SimArgs>),
    /// Print what jobs print
    Logs(LogsArgs),
    /// List what happened, newest last
    Events(OneStack),
    /// List the runs of a stack: what each commit came to
    History(NamedStack),
    /// Look at the repository now
    Sync(SyncArgs),
    /// Bring an earlier release back, without a build
    Rollback(RollbackArgs),
    /// Try the newest commit again, which failed or was set aside
    #[command(after_help = "\
Only the newest commit is tried again, as a release of its own (-2, -3). A commit that failed is not
tried again by itself: a newer one goes on, and so does this.
`viking status STACK` says what failed and why, and what a rollback has set aside.")]
    Retry(NamedStack),
    /// Make a node's containers anew, and take the changed spec of a service
    #[command(after_help = "\
Examples:
  viking restart shop/web   each copy is started beside the old one, which stops when all are healthy
  viking restart shop/db    one with a volume or a fixed port: one stop, one start
A push never restarts a service: its changed spec waits, and this is what takes it. If the new
containers do not get healthy, the old ones go on. While a release is on its way, this waits.
It does not wait for the end: `viking status STACK` and `viking history STACK` say how it went.")]
    Restart(RestartArgs),
    /// Bring up nothing new of a stack for a while; what runs is kept running
    #[command(after_help = "\
Its repository is not looked at and no commit is staged; what is on its way comes to its end. What
runs is kept healthy, moved and repaired. `viking rollback` and `viking restart` work meanwhile.
`viking resume STACK` ends it.")]
    Suspend(NamedStack),
    /// Follow a suspended stack's repository again, and look at once
    Resume(NamedStack),
    /// Set, unset and list variables that stacks share by name
    Env {
        /// What to do.
        #[command(subcommand)]
        what: EnvAction,
    },
    /// Look at the settings of this machine's host
    Config {
        /// What to do.
        #[command(subcommand)]
        what: Config,
    },
    /// Copy, restore or move what the cluster remembers
    Store {
        /// What to do.
        #[command(subcommand)]
        what: StoreAction,
    },
    /// Look inside
    Debug {
        /// What to look at.
        #[command(subcommand)]
        what: Debug,
    },
}

/// What is done with the store. All three open it themselves, as `viking host` would.
#[derive(Debug, Subcommand)]
pub enum StoreAction {
    /// Write everything the store holds to a file that only its owner can read; it holds secrets
    Copy(Box<StoreFile>),
    /// Put a copy into an empty store; hosts of that cluster then go on with it and restart nothing
    #[command(after_help = "\
Each host keeps a copy of its own, some minutes old at most: <data dir>/copy.json. Of several take
the newest. Hosts that run meanwhile change nothing until the store is whole again.")]
    Restore(Box<StoreFile>),
    /// Move this machine's own store into an empty etcd, and use it no longer
    #[command(after_help = "\
Stop viking first; containers run on. Then start it with --etcd and the same addresses.")]
    Move(Box<StoreMove>),
}

/// A store and a file.
#[derive(Debug, Args)]
pub struct StoreFile {
    /// The copy
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which store.
    #[command(flatten)]
    pub host: HostArgs,
}

/// A store and where it goes.
#[derive(Debug, Args)]
pub struct StoreMove {
    /// The data directory, and which etcd.
    #[command(flatten)]
    pub host: HostArgs,
}

/// What becomes of a host.
#[derive(Debug, Subcommand)]
pub enum HostsAction {
    /// Give it no new jobs; what runs there stays
    Cordon(OneHost),
    /// Give it jobs again
    Uncordon(OneHost),
    /// Give it no new jobs and move those that may move, each started elsewhere first
    Drain(DrainArgs),
    /// Count no longer on a host that is gone for good: what may move is started elsewhere
    Forget(OneHost),
}

/// A host.
#[derive(Debug, Args)]
pub struct OneHost {
    /// Host, as `viking hosts` lists it
    pub host: HostName,
}

/// Arguments of `hosts drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 0 when nothing is left there, with 1 when some jobs cannot leave, each with the reason.
Jobs with volumes stay where their data is. `viking hosts uncordon HOST` takes the host back.")]
pub struct DrainArgs {
    /// Host, as `viking hosts` lists it
    pub host: HostName,
    /// Do not wait for its jobs to leave
    #[arg(long)]
    pub no_wait: bool,
    /// Give up waiting after this long; the host goes on draining
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m", value_name = "TIME")]
    pub timeout: Duration,
}

/// Things to look at.
#[derive(Debug, Subcommand)]
pub enum Debug {
    /// Print every key of the store, a tab, its value; secrets are left out
    Keys,
    /// Print the world that the planner reads, for `viking sim --state`; the `env` of processes is in it
    Dump,
}

/// What can be done with settings.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Read all settings as `viking host` would, print them with where each comes from, and say what is wrong
    Check(Box<CheckArgs>),
    /// Print a configuration file with every key, commented out
    Example,
    /// Print the systemd unit that runs `viking host`
    Unit,
}

/// Arguments of `config check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Flags win over VIKING_* variables, those over the file, the file over defaults.
Exit codes: 0 the host can start with this, 1 it cannot. Risky settings are warned of and are not an error.")]
pub struct CheckArgs {
    /// Those of `viking host`.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Flags of a process that is a host.
#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    /// Folder of the store, the mirrors and the cluster's id [default: /var/lib/viking for root, else ~/.local/share/viking]
    #[arg(
        long,
        env = "VIKING_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub data_dir: Option<PathBuf>,
    /// Address of the Docker engine
    #[arg(
        long,
        env = "VIKING_DOCKER",
        hide_env_values = true,
        default_value = "unix:///var/run/docker.sock",
        value_name = "URL"
    )]
    pub docker: String,
    /// Port on 127.0.0.1 under which images are pushed and pulled
    #[arg(long, env = "VIKING_REGISTRY_PORT", hide_env_values = true, default_value_t = config::REGISTRY_PORT_DEFAULT, value_name = "PORT")]
    pub registry_port: u16,
    /// Image that serves the registry
    #[arg(
        long,
        env = "VIKING_REGISTRY_IMAGE",
        hide_env_values = true,
        default_value = "registry:2",
        value_name = "IMAGE"
    )]
    pub registry_image: String,
    /// Name of this host [default: the machine's name]
    #[arg(
        long,
        visible_alias = "name",
        env = "VIKING_HOST_NAME",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub host_name: Option<HostName>,
    /// Address on which ports of jobs are published
    #[arg(
        long,
        env = "VIKING_ADDRESS",
        hide_env_values = true,
        default_value = "127.0.0.1",
        value_name = "IP"
    )]
    pub address: IpAddr,
    /// The front router.
    #[command(flatten)]
    pub front: FrontArgs,
    /// Tag of this host, for `filter:`; more of them with commas, or the flag again
    #[arg(long, env = "VIKING_TAGS", hide_env_values = true, value_delimiter = ',', value_parser = host_tag, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Cores that jobs may reserve here [default: what Docker sees]
    #[arg(long, env = "VIKING_CAPACITY_CPU", hide_env_values = true, value_parser = cores, value_name = "CORES")]
    pub capacity_cpu: Option<u64>,
    /// Memory that jobs may reserve here, such as 8G [default: what Docker sees]
    #[arg(long, env = "VIKING_CAPACITY_MEMORY", hide_env_values = true, value_parser = memory, value_name = "BYTES")]
    pub capacity_memory: Option<u64>,
    /// Start of every key in the store
    #[arg(
        long,
        env = "VIKING_PREFIX",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub prefix: String,
    /// Where etcd is.
    #[command(flatten)]
    pub etcd: EtcdArgs,
    /// Form of the log on stderr: text or json
    #[arg(long, env = "VIKING_LOG_FORMAT", hide_env_values = true, value_enum, hide_possible_values = true, default_value_t = LogForm::Text, value_name = "FORM")]
    pub log: LogForm,
}

fn cores(text: &str) -> Result<u64, String> {
    cpu_millis(text).ok_or_else(|| format!("allowed: {CPU_ALLOWED}"))
}

fn memory(text: &str) -> Result<u64, String> {
    memory_bytes(text).ok_or_else(|| format!("allowed: {MEMORY_ALLOWED}"))
}

/// Flags about the router that leads domains to jobs.
#[derive(Debug, Clone, Default, Args)]
pub struct FrontArgs {
    /// Where the router listens, or off [default: port 80 of every address, if it is free]
    #[arg(
        long,
        env = "VIKING_HTTP",
        hide_env_values = true,
        value_parser = listen,
        value_name = "IP:PORT|off"
    )]
    pub http: Option<Listen>,
    /// Where the router listens for https, or off [default: port 443 of every address, if it is free]
    #[arg(
        long,
        env = "VIKING_HTTPS",
        hide_env_values = true,
        value_parser = listen,
        value_name = "IP:PORT|off"
    )]
    pub https: Option<Listen>,
    /// Folder of certificates: NAME.crt or NAME.pem, each with NAME.key, in PEM; read again when they change
    #[arg(
        long,
        env = "VIKING_CERTIFICATES",
        hide_env_values = true,
        default_value = "/etc/viking/certificates",
        value_name = "DIR"
    )]
    pub certificates: PathBuf,
    /// How long browsers are told to come over https only, such as 180d, or off
    #[arg(
        long,
        env = "VIKING_HSTS",
        hide_env_values = true,
        default_value = "off",
        value_parser = seconds,
        value_name = "TIME|off"
    )]
    pub hsts: u64,
    /// Get certificates for the domains of live releases from a CA by ACME, and agree to its terms; it may write to this address
    #[arg(
        long,
        env = "VIKING_ACME",
        hide_env_values = true,
        default_value = "off",
        value_parser = email,
        value_name = "EMAIL|off"
    )]
    pub acme: Email,
    /// Directory of that CA
    #[arg(
        long,
        env = "VIKING_ACME_DIRECTORY",
        hide_env_values = true,
        default_value = config::ACME_DIRECTORY_DEFAULT,
        value_parser = directory,
        value_name = "URL"
    )]
    pub acme_directory: String,
    /// Authority to trust that directory by, in PEM [default: those that browsers trust]
    #[arg(
        long,
        env = "VIKING_ACME_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub acme_ca: Option<PathBuf>,
    /// Network of proxies in front of the router, whose X-Forwarded-… and X-Request-Id count; more of them with commas
    #[arg(
        long,
        env = "VIKING_TRUSTED_PROXIES",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = network,
        value_name = "IP[/BITS]"
    )]
    pub trust_proxy: Vec<IpNet>,
    /// Which requests the log tells: off, all, or each N-th
    #[arg(
        long,
        env = "VIKING_ACCESS_LOG",
        hide_env_values = true,
        default_value = "off",
        value_parser = each,
        value_name = "off|all|N"
    )]
    pub access_log: u64,
}

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        _ => text
            .parse()
            .map(Listen::At)
            .map_err(|_| "allowed: ip:port, like 0.0.0.0:80, or off".to_owned()),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        _ => humantime::parse_duration(text)
            .map(|time| time.as_secs())
            .map_err(|_| "allowed: a time like 180d, or off".to_owned()),
    }
}

/// Whom a CA may write to; none when there is no CA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Email(pub Option<String>);

fn email(text: &str) -> Result<Email, String> {
    if text == "off" {
        return Ok(Email(None));
    }
    let plain = |part: &str| {
        let good = |b: u8| b.is_ascii_graphic() && !br#"<>()[]\,;:@?&#%""#.contains(&b);
        !part.is_empty() && part.bytes().all(good)
    };
    let parts = text.split_once('@');
    let sound = parts.is_some_and(|(name, at)| plain(name) && plain(at) && at.contains('.'));
    if !sound || text.len() > 254 {
        return Err("allowed: an address like ops@example.org, or off".to_owned());
    }
    Ok(Email(Some(text.to_owned())))
}

fn directory(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).ok();
    let url = url.filter(|url| url.scheme() == "https" && url.username().is_empty());
    match url.filter(|url| url.password().is_none()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("allowed: https://host/path, without a user in it".to_owned()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    let wrong = |_| "allowed: an IP address, or a network like 10.0.0.0/8".to_owned();
    text.parse().or_else(|_| one()).map_err(wrong)
}

fn each(text: &str) -> Result<u64, String> {
    let wrong = |_| "allowed: off, all, or a number: each so many-th request".to_owned();
    match text {
        "off" => Ok(0),
        "all" => Ok(1),
        _ => text.parse().map_err(wrong),
    }
}

/// Flags about etcd, the store of several machines.
#[derive(Debug, Clone, Default, Args)]
pub struct EtcdArgs {
    /// Keep the store in etcd, at these addresses of its members [default: in the data directory]
    #[arg(
        long,
        env = "VIKING_ETCD",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URL,…"
    )]
    pub etcd: Vec<String>,
    /// Certificate of the authority that signed etcd's certificates, in PEM; for https
    #[arg(
        long,
        env = "VIKING_ETCD_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub etcd_ca: Option<PathBuf>,
    /// Certificate that etcd knows this host by, in PEM
    #[arg(
        long,
        env = "VIKING_ETCD_CERT",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub etcd_cert: Option<PathBuf>,
    /// Key of --etcd-cert, in PEM
    #[arg(
        long,
        env = "VIKING_ETCD_KEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub etcd_key: Option<PathBuf>,
    /// User to log in to etcd as
    #[arg(
        long,
        env = "VIKING_ETCD_USER",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub etcd_user: Option<String>,
    /// File of that user's password
    #[arg(
        long,
        env = "VIKING_ETCD_PASSWORD_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub etcd_password_file: Option<PathBuf>,
    /// Allow http to an etcd on another machine: whoever is in between reads and writes everything
    #[arg(long, env = "VIKING_INSECURE_ETCD", hide_env_values = true)]
    pub insecure_etcd: bool,
}

/// Form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which repository to follow.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Repository: https, ssh or file URL, or the path of one on this machine
    #[arg(value_name = "URL|PATH", default_value = ".")]
    pub repository: String,
    /// Branch to follow [default: the one the repository's HEAD names]
    #[arg(long)]
    pub branch: Option<String>,
    /// Folder in the repository that holds viking.yml
    #[arg(
        long,
        default_value = "",
        value_name = "DIR",
        hide_default_value = true
    )]
    pub path: String,
    /// Time between two looks at the repository [default: 30s, for a path on this machine 2s]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub poll: Option<Duration>,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viking up .                        host and follow until Ctrl-C; containers keep running then
  viking up . --once --timeout 5m    for scripts: 0 live, 1 failed
With a host that answers at --api already, `up` asks that one and ends like --once.")]
pub struct UpArgs {
    /// What to follow.
    #[command(flatten)]
    pub source: SourceArgs,
    /// End as soon as the newest commit is live (0) or has failed (1)
    #[arg(long)]
    pub once: bool,
    /// With --once: give up after this long
    #[arg(long, value_parser = humantime::parse_duration, default_value = "15m", value_name = "TIME")]
    pub timeout: Duration,
    /// For the host of its own, if none answers.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Stack to remove
    pub stack: StackName,
    /// The stack's name once more, instead of typing it when asked
    #[arg(long, visible_alias = "yes", value_name = "STACK")]
    pub confirm: Option<String>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
With --exit-code: 0 converged and healthy, 1 drift or something pending, 2 cannot tell, 3 degraded
or blocked. Without it: 0 whenever there is an answer.
sync:   synced, behind, quarantined, unknown
health: healthy, progressing, degraded, blocked, suspended")]
pub struct StatusArgs {
    /// Only this stack
    pub stack: Option<StackName>,
    /// End with a code that says how things are
    #[arg(long)]
    pub exit_code: bool,
    /// Show it again whenever it changes; with -o json one line each time
    #[arg(short, long)]
    pub watch: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viking rollback shop                to the release that was live before this one
  viking rollback shop a1b2c3d4e5f6   to this one; `viking history shop` lists them
It is a release of its own (a1b2c3d4e5f6-2) with the images of the earlier one, and goes the same
way as a commit: what is the same runs on, and if it does not get healthy, what serves goes on.
While a release is starting, it is taken back, and without TAG what serves now stays. Services are
not restarted. What was left is set aside: the next commit goes live as always, that one only by
`viking retry`. Data is not rolled back.
It does not wait for the end: `viking status STACK` and `viking history STACK` say how it went.")]
pub struct RollbackArgs {
    /// Stack
    pub stack: StackName,
    /// Release to go back to [default: the last one that was live before]
    pub tag: Option<Tag>,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Node
    #[arg(value_name = "STACK/NODE", value_parser = node_of_stack)]
    pub what: (StackName, NodeName),
}

fn node_of_stack(text: &str) -> Result<(StackName, NodeName), String> {
    let Some((stack, node)) = text.split_once('/') else {
        return Err("give the node too: STACK/NODE".to_owned());
    };
    let stack = stack
        .parse()
        .map_err(|error: NameError| error.to_string())?;
    let node = node.parse().map_err(|error: NameError| error.to_string())?;
    Ok((stack, node))
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// stack, stack/node or stack/node.slot
    #[arg(value_name = "STACK[/NODE[.SLOT]]")]
    pub what: String,
    /// Go on as lines come
    #[arg(short, long)]
    pub follow: bool,
    /// Lines of each job to start with
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N")]
    pub tail: usize,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
#[command(after_help = "\
  viking why shop/web             all copies of a node
  viking why shop/web.1           one of them
  viking why shop/web.1 --not h3  why it is not on that host

What is shown of a job that has a host is what was said when it was placed, from the events; with
`-o wide` of each host that was looked at. Of one that has none, it is what the rules say now.")]
pub struct WhyArgs {
    /// stack/node or stack/node.slot
    #[arg(value_name = "STACK/NODE[.SLOT]")]
    pub what: String,
    /// Say why it is not on this host
    #[arg(long, value_name = "HOST")]
    pub not: Option<HostName>,
}

/// Arguments of `sim`.
#[derive(Debug, Args)]
#[command(after_help = "\
  viking sim --world world.yml                 what the planner makes of a world written by hand
  viking debug dump > dump.json                what a cluster looks like now
  viking sim --state dump.json --lose h3       what would move without a host
  viking sim --state dump.json --add h9:cpu=4,memory=8G,tags=ssd
  viking sim --state dump.json --commit .      what a folder would do there, as `viking plan` says it

Nothing is asked and nothing is changed; no host need run. The form of worlds is described in
docs/worlds.md. Printed is what would change, with `-o wide` what stays and what the rules said
of hosts as well, with `-o json` all of it (viking.plan/v1). With --lose and --add it is told first what
would change without them, if anything.")]
pub struct SimArgs {
    /// A world in YAML, written by hand
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "state",
        conflicts_with = "state"
    )]
    pub world: Option<PathBuf>,
    /// A world that `viking debug dump` wrote
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Without this host; again for more
    #[arg(long, value_name = "HOST")]
    pub lose: Vec<HostName>,
    /// With this host besides: cpu in cores, memory such as 8G, tags with + between them; again for more
    #[arg(long, value_name = "HOST[:cpu=N,memory=SIZE,tags=TAG+TAG]")]
    pub add: Vec<String>,
    /// What the files of this folder would do there were they committed (viking.foretold/v1)
    #[arg(long, value_name = "PATH")]
    pub commit: Option<PathBuf>,
}

/// A stack, if wanted.
#[derive(Debug, Args)]
pub struct OneStack {
    /// Only this stack
    pub stack: Option<StackName>,
}

/// A stack.
#[derive(Debug, Args)]
pub struct NamedStack {
    /// Stack
    pub stack: StackName,
}

/// Arguments of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Stack
    pub stack: StackName,
    /// Look up external images again as well
    #[arg(long)]
    pub pull: bool,
}
