//! Builds all test binaries, and says which of them run where.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Args, PLAN_FILE};
use crate::Result;
use crate::vm::kernels;

/// What the agent does.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// The binaries, in the order in which they run.
    pub binaries: Vec<Binary>,
    /// Goes to each of them.
    pub arguments: Vec<String>,
    /// Seconds for each.
    pub timeout_s: u64,
}

/// A test binary.
#[derive(Clone, Serialize, Deserialize)]
pub struct Binary {
    /// PACKAGE/TARGET.
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// The package's directory, where cargo runs its tests.
    pub dir: PathBuf,
}

/// What we read of cargo's messages.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// One guest of a kernel.
pub struct Boot {
    /// What it is booted on.
    pub machine: Machine,
    /// It has what was chosen for its kernel alone.
    pub is_named: bool,
    /// What it runs.
    pub plan: Plan,
}

/// What a guest is booted on for a test binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// With a GPU that shows pictures.
    Plain,
    /// With one that renders 3D on the host, which takes a screen there: it is not asked for where it is
    /// not needed.
    Virgl,
}

/// A test binary that was asked for: `[KERNEL:]BINARY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Only on this kernel, in a guest of its own beside the one for what runs on all.
    kernel: Option<String>,
    /// TARGET or PACKAGE/TARGET.
    binary: String,
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, Self::Err> {
        let Some((kernel, binary)) = words.split_once(':') else {
            let binary = words.to_owned();
            return Ok(Self {
                kernel: None,
                binary,
            });
        };
        let named = kernels::named(kernel).map_err(|e| e.to_string())?;
        if kernel != kernels::ALL && named.len() > 1 {
            return Err("a kernel each, or none for all of the run".to_owned());
        }
        Ok(Self {
            // One of your own build is called by its release.
            kernel: match &named[..] {
                [one] => Some(one.name.clone()),
                _ => None,
            },
            binary: binary.to_owned(),
        })
    }
}

impl Plan {
    /// Of the plan what runs on a kernel, by guests, those that have something to do: what was chosen for
    /// this kernel alone has guests of its own, and so has what needs another machine. Empty choice, all.
    pub fn boots(&self, only: &[Chosen], kernel: &str) -> Vec<Boot> {
        let is_chosen = |binary: &Binary, kernel: Option<&str>| {
            let mut chosen = only.iter().filter(|c| c.kernel.as_deref() == kernel);
            chosen.any(|c| binary.is_called(&c.binary))
        };
        let is_named = |binary: &Binary| is_chosen(binary, Some(kernel));
        let is_common = |binary: &Binary| only.is_empty() || is_chosen(binary, None);
        let mut all = Vec::new();
        for machine in [Machine::Virgl, Machine::Plain] {
            for by_name in [true, false] {
                let is_here = |b: &&Binary| {
                    b.machine() == machine && is_named(b) == by_name && (by_name || is_common(b))
                };
                let plan = Self {
                    binaries: self.binaries.iter().filter(is_here).cloned().collect(),
                    arguments: self.arguments.clone(),
                    timeout_s: self.timeout_s,
                };
                if !plan.binaries.is_empty() {
                    all.push(Boot {
                        machine,
                        is_named: by_name,
                        plan,
                    });
                }
            }
        }
        all
    }

    /// A test binary of this name is among them.
    pub fn has(&self, target: &str) -> bool {
        self.binaries.iter().any(|b| b.is_called(target))
    }
}

impl Binary {
    /// Whether TARGET or PACKAGE/TARGET means it.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.ends_with(&format!("/{name}"))
    }

    fn machine(&self) -> Machine {
        match self.is_called("guest_virgl") {
            true => Machine::Virgl,
            false => Machine::Plain,
        }
    }

    /// What this binary is told besides. The tests of devices are marked as ignored, so that they
    /// are counted as not run where there are none: in `guest_*` files, and here they run.
    pub fn arguments(&self) -> &'static [&'static str] {
        if self.name.contains("/guest_") {
            &["--include-ignored", "--test-threads=1"]
        } else {
            &[]
        }
    }
}

impl Plan {
    /// Writes it where the agent looks.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(std::fs::write(
            dir.join(PLAN_FILE),
            serde_json::to_vec_pretty(self)?,
        )?)
    }

    /// Reads it there.
    pub fn read(dir: &Path) -> Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(
            dir.join(PLAN_FILE),
        )?)?)
    }
}

/// Builds what the tests need; the binaries that run, and which of them were chosen, all if none.
pub fn make(args: &Args) -> Result<(Plan, Vec<Chosen>)> {
    let spread = args.spread.as_deref().map(|word| spread_over(word, args));
    let spread = spread.transpose()?.unwrap_or_default();
    let built = cargo(&["test", "--workspace", "--no-run"])?;
    // Tests start them, and a guest has no time to build.
    cargo(&["build", "--workspace", "--examples"])?;
    compile_fixtures();
    let mut binaries: Vec<Binary> = built.into_iter().filter_map(test_binary).collect();
    if let Some(unknown) =
        (args.only.iter()).find(|c| !binaries.iter().any(|b| b.is_called(&c.binary)))
    {
        let known: Vec<_> = binaries.iter().map(|b| b.name.as_str()).collect();
        let (unknown, known) = (&unknown.binary, known.join(", "));
        return Err(format!("no test binary is called {unknown}; there are {known}").into());
    }
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut only = args.only.clone();
    only.extend(rest(&binaries, &only, &spread));
    if !only.is_empty() {
        binaries.retain(|b| only.iter().any(|c| b.is_called(&c.binary)));
    }
    let plan = Plan {
        binaries,
        arguments: args.arguments.clone(),
        timeout_s: args.binary_timeout_s,
    };
    Ok((plan, only))
}

/// The kernels of `--spread`, which are among those of the run.
fn spread_over(word: &str, args: &Args) -> Result<Vec<String>> {
    let of_run = kernels::named(&args.kernel)?;
    let all: Vec<_> = kernels::named(word)?.into_iter().map(|k| k.name).collect();
    match all
        .iter()
        .find(|name| of_run.iter().all(|k| &k.name != *name))
    {
        Some(name) => Err(format!("--spread {name} is no kernel of this run").into()),
        None => Ok(all),
    }
}

/// What was not chosen, each on one of `kernels`.
fn rest(binaries: &[Binary], only: &[Chosen], kernels: &[String]) -> Vec<Chosen> {
    let is_left = |b: &&Binary| !only.iter().any(|c| b.is_called(&c.binary));
    let left = binaries.iter().filter(is_left);
    let turns = kernels.iter().cycle();
    let rest = left.zip(turns).map(|(binary, kernel)| Chosen {
        kernel: Some(kernel.clone()),
        binary: binary.name.clone(),
    });
    rest.collect()
}

/// Has the objects of the tests compiled here. Guests see them; a compiler in a guest is slow.
fn compile_fixtures() {
    // What it compiles is where all tests look for it.
    if let Err(error) = cargo(&["test", "-p", "cgtap", "--test", "fixtures"]) {
        eprintln!("vm: {error}; guests compile the tests' fixtures, and that takes them minutes");
    }
}

fn test_binary(message: Message) -> Option<Binary> {
    if message.reason != "compiler-artifact" || !message.profile?.test {
        return None;
    }
    let dir = message.manifest_path?.parent()?.to_owned();
    let package = dir.file_name()?.to_str()?;
    Some(Binary {
        name: format!("{package}/{}", message.target?.name),
        path: message.executable?,
        dir,
    })
}

/// Runs cargo; its messages. What it says to people goes through.
fn cargo(arguments: &[&str]) -> Result<Vec<Message>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(super::super::tree())
        .args(arguments)
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run cargo: {e}; install it with rustup"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed ({})", arguments.join(" "), output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    // Tests that are run write lines of their own between.
    let messages = text
        .lines()
        .filter(|line| line.starts_with("{\"reason\":"))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>();
    Ok(messages.map_err(|e| format!("cannot read cargo's messages: {e}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str]) -> Plan {
        let binaries = names.iter().map(|name| Binary {
            name: format!("package/{name}"),
            path: PathBuf::new(),
            dir: PathBuf::new(),
        });
        Plan {
            binaries: binaries.collect(),
            arguments: Vec::new(),
            timeout_s: 1,
        }
    }

    /// The names in each guest of a kernel.
    fn boots(words: &[&str], kernel: &str) -> Vec<Vec<String>> {
        let only: Vec<Chosen> = words.iter().map(|w| w.parse().unwrap()).collect();
        let plan = plan(&["a", "b", "guest_virgl", "long"]);
        let names = |plan: Plan| plan.binaries.into_iter().map(|b| b.name).collect();
        let boots = plan.boots(&only, kernel).into_iter();
        boots.map(|boot| names(boot.plan)).collect()
    }

    #[test]
    fn without_a_choice_all_run_on_each_kernel() {
        let all = [
            &["package/guest_virgl"][..],
            &["package/a", "package/b", "package/long"],
        ];
        assert_eq!(boots(&[], "6.1"), all);
        assert_eq!(boots(&[], "6.12"), all);
    }

    #[test]
    fn what_is_for_one_kernel_runs_there_once_beside_the_others() {
        let words = ["package/a", "6.12:long", "long", "6.12:guest_virgl"];
        assert_eq!(boots(&words, "6.1"), [["package/a", "package/long"]]);
        let here = [["package/guest_virgl"], ["package/long"], ["package/a"]];
        assert_eq!(boots(&words, "6.12"), here);
        assert_eq!(boots(&["6.12:long"], "6.1"), Vec::<Vec<String>>::new());
    }

    #[test]
    fn the_rest_is_spread_over_kernels() {
        let only: Vec<Chosen> = ["a", "6.12:guest_virgl"].map(|w| w.parse().unwrap()).into();
        let binaries = plan(&["a", "b", "c", "guest_virgl", "long"]).binaries;
        let rest = rest(&binaries, &only, &["6.1", "6.18"].map(str::to_owned));
        let rest: Vec<_> = rest
            .iter()
            .map(|c| (c.kernel.as_deref(), &c.binary[..]))
            .collect();
        let (old, new) = (Some("6.1"), Some("6.18"));
        assert_eq!(
            rest,
            [
                (old, "package/b"),
                (new, "package/c"),
                (old, "package/long")
            ]
        );
        assert!(super::rest(&binaries, &only, &[]).is_empty());
    }

    #[test]
    fn a_kernel_of_ones_own_is_called_by_its_release() {
        let build = tempfile::tempdir().unwrap();
        let path = build.path().to_str().unwrap();
        let refused = format!("{path}:a").parse::<Chosen>().unwrap_err();
        assert!(refused.contains("kernel.release"), "{refused}");
        std::fs::create_dir_all(build.path().join("include/config")).unwrap();
        let release = build.path().join("include/config/kernel.release");
        std::fs::write(release, "7.4.0-rc1\n").unwrap();
        let chosen: Chosen = format!("{path}:a").parse().unwrap();
        assert_eq!(chosen.kernel.as_deref(), Some("7.4.0-rc1"));
    }

    #[test]
    fn an_unknown_kernel_is_an_error() {
        let error = "5.4:long".parse::<Chosen>().unwrap_err();
        assert!(error.contains("no kernel 5.4"), "{error}");
    }
}
