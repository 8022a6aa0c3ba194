//! The words of each command.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cgtap::attach::Mode;
use cgtap::engine::{CgroupRef, ProgramChoice};
use cgtap::hook::{HookFilter, Scope};
use cgtap::id::{AttachmentId, InstanceId, LimitId, ProgramId};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Subcommand, ValueHint};

use super::place::{After, Before, place};
use super::value;

/// `cgtap attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The cgroup whose events, and those of the cgroups below it, the programs see
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: CgroupRef,
    /// The object file, as clang compiles it
    #[arg(value_name = "OBJECT", value_hint = ValueHint::FilePath)]
    #[arg(required_unless_present = "instance", conflicts_with = "instance")]
    pub object: Option<PathBuf>,
    /// Attach this program only, at HOOK if not where its section says; may be repeated
    #[arg(long = "program", value_name = "NAME[@HOOK]", value_parser = value::program_choice)]
    pub programs: Vec<ProgramChoice>,
    /// How the list shares its cgroup: alone, yielding to lists further down, or with others
    #[arg(long, value_name = "MODE", default_value = Mode::Multi.name(), value_parser = mode_parser())]
    pub mode: Mode,
    /// Run before all that are not preorder, ancestors first
    #[arg(long)]
    pub preorder: bool,
    /// Stand directly before this attachment, or before all
    #[arg(long, value_name = "ID|first")]
    pub before: Option<Before>,
    /// Stand directly after this attachment, or after all
    #[arg(long, value_name = "ID|last")]
    pub after: Option<After>,
    /// Take the place of this attachment
    #[arg(long, value_name = "ID", value_parser = value::attachment)]
    pub replace: Option<AttachmentId>,
    /// What bpf_get_attach_cookie() returns in the programs
    #[arg(long, value_name = "N", default_value = "0", value_parser = value::number_u64)]
    pub cookie: u64,
    /// Refuse if the list is at another revision
    #[arg(long, value_name = "N", value_parser = value::number_u64)]
    pub expect_revision: Option<u64>,
    /// Whose event it is: `current`, the running task's; a path from the hook's arguments, such as
    /// `next` or `rq->bio`; or `owner(KEY) noted at HOOK by KEY`
    #[arg(long, value_name = "EXPR", default_value_t = Scope::Current)]
    pub scope: Scope,
    /// Attach programs of an instance that is loaded, instead of loading an object
    #[arg(long, value_name = "ID", value_parser = value::instance)]
    pub instance: Option<InstanceId>,
    /// Give a global variable of the object a value before it is loaded; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = value::assignment)]
    #[arg(conflicts_with = "instance")]
    pub set: Vec<(String, String)>,
}

impl AttachArgs {
    /// Where `--before` and `--after` put the attachment, or why they cannot both be meant.
    pub fn place(&self) -> Result<cgtap::attach::Place, String> {
        place(self.before, self.after)
    }
}

fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| name.parse::<Mode>())
}

/// `cgtap detach`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["ids", "cgroup", "instance", "all"]))]
pub struct DetachArgs {
    /// These attachments
    #[arg(value_name = "ID", value_parser = value::attachment)]
    pub ids: Vec<AttachmentId>,
    /// Everything on the lists of this cgroup
    #[arg(long, value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: Option<CgroupRef>,
    /// With --cgroup: on the lists of this hook only, whatever their scope; `HOOK scope=EXPR` names
    /// one
    #[arg(long, value_name = "HOOK", requires = "cgroup", conflicts_with_all = ["ids", "instance", "all"])]
    pub hook: Option<HookFilter>,
    /// Every attachment of this instance
    #[arg(long, value_name = "ID", value_parser = value::instance)]
    pub instance: Option<InstanceId>,
    /// Everything in the state
    #[arg(long)]
    pub all: bool,
}

/// `cgtap replace`.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The attachment whose program is to change; it keeps its id and its place
    #[arg(value_name = "ID", value_parser = value::attachment)]
    pub id: AttachmentId,
    /// The object file with the new program
    #[arg(value_name = "OBJECT", value_hint = ValueHint::FilePath)]
    pub object: PathBuf,
    /// Which program of it; the one that fits the hook if not given
    #[arg(long, value_name = "NAME")]
    pub program: Option<String>,
    /// Refuse unless this program is there now: its instance, or instance and index
    #[arg(long, value_name = "INSTANCE[.INDEX]", value_parser = value::program_id)]
    pub expect_program: Option<ProgramId>,
    /// Give a global variable of the object a value before it is loaded; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = value::assignment)]
    pub set: Vec<(String, String)>,
}

/// `cgtap list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Lists of this cgroup; of all cgroups that have one if not given
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: Option<CgroupRef>,
    /// Only of this hook, whatever its scope; `HOOK scope=EXPR` names one
    #[arg(long, value_name = "HOOK")]
    pub hook: Option<HookFilter>,
    /// What runs for the cgroup's events, inherited programs included
    #[arg(long)]
    pub effective: bool,
    /// The cgroups below too
    #[arg(long)]
    pub recursive: bool,
}

/// `cgtap tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// Where to begin; the cgroup root if not given
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: Option<CgroupRef>,
}

/// `cgtap maps`.
#[derive(Debug, Args)]
pub struct MapsArgs {
    /// Only this instance's
    #[arg(value_name = "INSTANCE", value_parser = value::instance)]
    pub instance: Option<InstanceId>,
}

/// `cgtap storage`.
#[derive(Debug, Args)]
pub struct StorageArgs {
    /// The attachment
    #[arg(value_name = "ID", value_parser = value::attachment)]
    pub id: AttachmentId,
}

/// `cgtap stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Count in this cgroup and those below it; may be repeated. If not given: in a new cgroup
    /// around COMMAND, or without COMMAND in all
    #[arg(short, long = "cgroup", value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroups: Vec<CgroupRef>,
    /// What to count: a HOOK, or a perf event such as cycles, task-clock, context-switches; may be
    /// repeated, or several with commas. `HOOK sum(FIELD) hist(FIELD) by FIELD if EXPR` adds up and
    /// splits what its events carry
    #[arg(short, long = "event", value_name = "EVENT", required = true, value_parser = value::events)]
    pub events: Vec<value::Events>,
    /// Count for so long; until Ctrl-C if neither this nor COMMAND is given
    #[arg(short, long, value_name = "SECONDS", value_parser = value::seconds, conflicts_with = "command")]
    pub duration: Option<Duration>,
    /// A row for each cgroup below, with its own events beside those of the cgroups below it
    #[arg(long)]
    pub per_cgroup: bool,
    /// With --per-cgroup: rows for so many levels below only
    #[arg(long, value_name = "N", requires = "per_cgroup")]
    pub depth: Option<usize>,
    /// Write the counts to this file; the command has standard output for itself
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Count while this command runs
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// `cgtap top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// This cgroup and those below it; all if not given
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: Option<CgroupRef>,
    /// How long between two readings
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = value::interval)]
    pub delay: Duration,
    /// End after so many readings, the first not counted; 0 for never. If not given, what is printed
    /// ends after one
    #[arg(short = 'n', long, value_name = "N")]
    pub iterations: Option<u64>,
    /// Print a table instead of drawing; without a terminal that is done anyway
    #[arg(long)]
    pub once: bool,
    /// What uses most of this first, such as block_bytes; `name` for the order of names
    #[arg(long, value_name = "METER")]
    pub sort: Option<String>,
    /// Rows for so many levels below only
    #[arg(long, value_name = "N")]
    pub depth: Option<usize>,
}

/// `cgtap serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen; port 0 takes one that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9754", value_parser = value::socket)]
    pub listen: SocketAddr,
    /// Of each meter, name the cgroups that used most, so many; the others are summed up as `other`
    #[arg(long, value_name = "N", default_value = "200", value_parser = value::top)]
    pub top: usize,
    /// Apply this policy first, and again when it changes or a cgroup comes that its patterns match
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// How long between two readings of what limits are on that is read; longer where it takes long
    #[arg(long, value_name = "SECONDS", default_value = "0.25", value_parser = value::seconds)]
    pub read_every: Duration,
    /// With --config: directory of more meter files
    #[arg(long, value_name = "DIR", env = "CGTAP_METERS", hide_env_values = true,
          default_value = cgtap::meter::library::DEFAULT_DIR, value_hint = ValueHint::DirPath)]
    pub meters: PathBuf,
}

/// `cgtap doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Remove what a crash left in the state
    #[arg(long)]
    pub repair: bool,
}

/// `cgtap completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `cgtap man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The page of this command; of cgtap itself if not given
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// `cgtap meter`.
#[derive(Debug, Args)]
pub struct MeterArgs {
    /// Directory of more meter files
    #[arg(long, value_name = "DIR", global = true, env = "CGTAP_METERS", hide_env_values = true,
          default_value = cgtap::meter::library::DEFAULT_DIR, value_hint = ValueHint::DirPath)]
    pub meters: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub action: MeterAction,
}

/// What is done with meters.
#[derive(Debug, Subcommand)]
pub enum MeterAction {
    /// Show the meters that there are: which count, and which cannot be had here, and why
    List,
    /// Show a meter: what it counts, and what it cannot see
    Show {
        /// Its name, or a meter file
        #[arg(value_name = "METER")]
        name: String,
        /// The programs that it is on this kernel
        #[arg(long, conflicts_with = "file")]
        code: bool,
        /// The file that it is written in
        #[arg(long)]
        file: bool,
    },
    /// Let meters count from now on, with no process of ours alive
    Enable {
        /// Their names, or meter files
        #[arg(value_name = "METER", required_unless_present = "all")]
        names: Vec<String>,
        /// All that can be had here and do not count yet
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// The cgroup to count for, with all below it
        #[arg(long, value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
        cgroup: Option<CgroupRef>,
    },
    /// Let meters count no more; what they counted is gone
    Disable {
        /// Their names
        #[arg(value_name = "METER", required_unless_present = "all")]
        names: Vec<String>,
        /// All that count
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Print the JSON schema of meter files
    Schema,
}

/// `cgtap usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// The cgroup; the root if not given
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: Option<CgroupRef>,
    /// The cgroups below it too
    #[arg(long)]
    pub recursive: bool,
    /// With --recursive: so many levels below it only
    #[arg(long, value_name = "N", requires = "recursive")]
    pub depth: Option<usize>,
}

/// `cgtap limit`.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Directory of more meter files
    #[arg(long, value_name = "DIR", global = true, env = "CGTAP_METERS", hide_env_values = true,
          default_value = cgtap::meter::library::DEFAULT_DIR, value_hint = ValueHint::DirPath)]
    pub meters: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub action: LimitAction,
}

/// What is done with limits.
#[derive(Debug, Subcommand)]
pub enum LimitAction {
    /// Limit what a cgroup and all below it may use; a limit that is there changes
    Set(LimitSetArgs),
    /// Show the limits and how they stand
    List {
        /// Of this cgroup only
        #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
        cgroup: Option<CgroupRef>,
    },
    /// Take limits away
    #[command(group = ArgGroup::new("which").required(true).args(["ids", "cgroup", "all"]))]
    Clear {
        /// These
        #[arg(value_name = "ID", value_parser = value::limit)]
        ids: Vec<LimitId>,
        /// All of this cgroup
        #[arg(long, value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
        cgroup: Option<CgroupRef>,
        /// All
        #[arg(long)]
        all: bool,
    },
    /// Show what limits denied, the oldest first; the newest 4096 are kept
    Log {
        /// The last so many only
        #[arg(short = 'n', long, value_name = "N")]
        last: Option<usize>,
    },
}

/// `cgtap limit set`.
#[derive(Debug, Args)]
pub struct LimitSetArgs {
    /// The cgroup whose use, and that of the cgroups below it, is limited
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: CgroupRef,
    /// What is limited, as usage calls it, such as nbd_bytes; `block_bytes{direction=write}` counts
    /// only what has these labels
    #[arg(value_name = "METER")]
    pub meter: String,
    /// How much: `10GiB` in all, `300ms/1s` each period
    #[arg(value_name = "AMOUNT[/PERIOD]", allow_hyphen_values = true)]
    pub amount: String,
    /// What happens then: deny:ERRNO, signal:NAME, freeze (`cgtap enforce` has to run), cpu.max,
    /// io.max, memory.high or dmem.max (a controller of the kernel's holds it), or observe
    /// [default: what clients of this meter bear]
    #[arg(long, value_name = "ACTION")]
    pub on: Option<String>,
    /// How much may gather while nobody uses it [default: AMOUNT]
    #[arg(long, value_name = "AMOUNT")]
    pub burst: Option<String>,
    /// With freeze: hold it only while others of the same parent want their share
    #[arg(long)]
    pub borrow: bool,
    /// Also deny with an errno at which clients try again at once, for ever
    #[arg(long)]
    pub force: bool,
}

/// `cgtap apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The policy, a TOML file
    #[arg(value_name = "FILE", required_unless_present = "schema", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Change nothing; say what would change, and whom each limit reaches
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Directory of more meter files
    #[arg(long, value_name = "DIR", env = "CGTAP_METERS", hide_env_values = true,
          default_value = cgtap::meter::library::DEFAULT_DIR, value_hint = ValueHint::DirPath)]
    pub meters: PathBuf,
    /// Print the JSON schema of policy files
    #[arg(long, conflicts_with_all = ["file", "dry_run"])]
    pub schema: bool,
}

/// `cgtap explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The cgroup
    #[arg(value_name = "CGROUP", value_parser = value::cgroup_parser(), value_hint = ValueHint::DirPath)]
    pub cgroup: CgroupRef,
}

/// `cgtap enforce`.
#[derive(Debug, Args)]
pub struct EnforceArgs {
    /// How long between two looks at the budgets
    #[arg(long, value_name = "SECONDS", default_value = "0.002", value_parser = value::seconds)]
    pub tick: Duration,
    /// How long between two readings of what limits are on that is read; longer where it takes long
    #[arg(long, value_name = "SECONDS", default_value = "0.25", value_parser = value::seconds)]
    pub read_every: Duration,
    /// Be the process that thaws what is frozen when the one that freezes has died.
    #[arg(long, hide = true)]
    pub guard: bool,
}
