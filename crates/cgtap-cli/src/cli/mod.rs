//! The words of the command line: one definition, from which help, the man page and the shell
//! completions come too.

mod args;
mod early;
mod place;
mod value;

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

pub use args::{
    ApplyArgs, AttachArgs, CompletionsArgs, DetachArgs, DoctorArgs, EnforceArgs, ExplainArgs,
    LimitAction, LimitArgs, LimitSetArgs, ListArgs, ManArgs, MapsArgs, MeterAction, MeterArgs,
    ReplaceArgs, ServeArgs, StatArgs, StorageArgs, TopArgs, TreeArgs, UsageArgs,
};
pub use early::Early;
pub use value::{cgroup_ref, interval};

/// What holds for several commands: it stands below the options of `--help`, and as sections of
/// the man page.
pub fn sections() -> [(&'static str, String); 4] {
    let hooks = cgtap::hook::kind::forms();
    [
        (
            "Cgroups, hooks and ids",
            format!(
                "CGROUP is a directory, absolute or relative to the cgroup root, or `id:N`, the kernel's \
                 id, `pid:N`, that of a process, or `container:NAME`, `pod:NAME`, `unit:NAME`: what \
                 systemd and runtimes call it, of a container also the beginning of its id. HOOK is one \
                 of {hooks}; libbpf's shorter prefixes (tp, raw_tp, raw_tp.w) are understood too. An ID \
                 is a number as `cgtap list` and `cgtap maps` print it; 0x and hexadecimal digits do as \
                 well."
            ),
        ),
        (
            "Exit status",
            "0 done; 1 the kernel or the state said no; 2 the words of the call are wrong; 130 \
             interrupted. `cgtap stat -- COMMAND` exits as COMMAND does; \
             `cgtap serve` exits with 0 at SIGTERM. A closed pipe is no error."
                .to_owned(),
        ),
        (
            "JSON",
            "With --json each document has \"schema\":\"cgtap/1\" first. Errors are documents on \
             standard error: {\"schema\",\"error\":{\"kind\",\"errno\",\"message\"}}, with \"log\" under -v."
                .to_owned(),
        ),
        (
            "Environment",
            "CGTAP_STATE and CGTAP_CGROUP_ROOT stand for --state and --cgroup-root where those are \
             not given. NO_COLOR turns colour off."
                .to_owned(),
        ),
    ]
}

fn after_help() -> String {
    sections()
        .map(|(title, text)| format!("{title}:\n  {text}"))
        .join("\n\n")
}

/// Tell which cgroup used how much of which device, and hold it to that, with BPF.
///
/// Meters count what each cgroup, container or unit uses (`meter`, `usage`, `top`, `serve`); limits
/// hold it and all below it to so much of that (`limit`, `apply`, `explain`). Tracing programs that
/// clang compiled run for the events of one cgroup and of the cgroups below it, ordered,
/// inherited and overridden as the kernel does it with its own cgroup programs (`attach`). What is
/// attached works on with no process of cgtap alive.
#[derive(Debug, Parser)]
#[command(name = "cgtap", version, after_long_help = after_help(), max_term_width = 100)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// Which command.
    #[command(subcommand)]
    pub command: Command,
}

/// The options of every command, understood before and after its name.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Print JSON: one document, or one object a line for streams; errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// Directory of the pinned state, in a bpffs; two states never see each other
    /// [default: /sys/fs/bpf/cgtap]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CGTAP_STATE",
        hide_env_values = true
    )]
    pub state: Option<PathBuf>,
    /// Mount point of cgroup2 [default: found by itself]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CGTAP_CGROUP_ROOT",
        hide_env_values = true
    )]
    pub cgroup_root: Option<PathBuf>,
    /// When to colour the output [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub color: Option<Color>,
    /// Say more on standard error: the whole log of the verifier, and what is done (-vv, -vvv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Also into a pipe or file.
    Always,
    /// Nowhere.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load an object and attach its programs to a cgroup, all or none
    Attach(AttachArgs),
    /// Remove attachments
    Detach(DetachArgs),
    /// Put another program in the place of an attached one
    Replace(ReplaceArgs),
    /// Show what is attached, in the order in which it runs
    List(ListArgs),
    /// Draw the cgroup tree with what runs where
    Tree(TreeArgs),
    /// Show where the maps of loaded objects are pinned
    Maps(MapsArgs),
    /// Show the cgroup storage of an attachment
    Storage(StorageArgs),
    /// Count events of cgroups while a command runs, or for a time
    Stat(StatArgs),
    /// Let meters count what cgroups use of devices
    Meter(MeterArgs),
    /// Show what cgroups used, by the meters that count
    Usage(UsageArgs),
    /// Set, show and clear limits on what cgroups use
    Limit(LimitArgs),
    /// Make meters and limits what a policy file says, whole or not at all
    Apply(ApplyArgs),
    /// Freeze and thaw cgroups by their limits, for as long as this runs
    Enforce(EnforceArgs),
    /// Say whether a cgroup is held back: by which limits, since when, until when
    Explain(ExplainArgs),
    /// Show live what cgroups use, as a tree
    Top(TopArgs),
    /// Serve what meters counted, for Prometheus
    Serve(ServeArgs),
    /// Say what this kernel, this user and this machine can do
    Doctor(DoctorArgs),
    /// Show all of it on a small cgroup tree with real work inside
    Demo,
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Print the man page, or that of one command
    Man(ManArgs),
}
