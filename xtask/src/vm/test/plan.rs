//! Builds all test binaries, and says which of them run where.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{Args, PLAN_FILE};
use crate::Result;

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

/// How a guest is booted for a test binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// With a GPU that shows pictures.
    Plain,
    /// With one that renders 3D on the host, which takes a screen there: it is not asked for where it is
    /// not needed.
    Virgl,
}

impl Plan {
    /// The plan by how guests are booted for it, those that have something to do.
    pub fn boots(&self) -> Vec<(Boot, Self)> {
        let of = |boot: Boot| Self {
            binaries: (self.binaries.iter())
                .filter(|b| b.boot() == boot)
                .cloned()
                .collect(),
            arguments: self.arguments.clone(),
            timeout_s: self.timeout_s,
        };
        let all = [Boot::Plain, Boot::Virgl].map(|boot| (boot, of(boot)));
        all.into_iter()
            .filter(|(_, plan)| !plan.binaries.is_empty())
            .collect()
    }

    /// A test binary of this name is among them.
    pub fn has(&self, target: &str) -> bool {
        let end = format!("/{target}");
        self.binaries.iter().any(|b| b.name.ends_with(&end))
    }
}

impl Binary {
    fn boot(&self) -> Boot {
        match self.name.ends_with("/guest_virgl") {
            true => Boot::Virgl,
            false => Boot::Plain,
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

/// Builds what the tests need.
pub fn make(args: &Args) -> Result<Plan> {
    let built = cargo(&["test", "--workspace", "--no-run"])?;
    // Tests start them, and a guest has no time to build.
    cargo(&["build", "--workspace", "--examples"])?;
    compile_fixtures();
    let mut binaries: Vec<Binary> = built.into_iter().filter_map(test_binary).collect();
    let chosen = |binary: &Binary| {
        let target = binary.name.rsplit('/').next().unwrap_or_default();
        args.only
            .iter()
            .any(|only| only == target || *only == binary.name)
    };
    if !args.only.is_empty() {
        let known = binaries
            .iter()
            .map(|b| b.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        binaries.retain(chosen);
        if binaries.is_empty() {
            return Err(format!(
                "no test binary is called {}; there are {known}",
                args.only.join(" or ")
            )
            .into());
        }
    }
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Plan {
        binaries,
        arguments: args.arguments.clone(),
        timeout_s: args.binary_timeout_s,
    })
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
