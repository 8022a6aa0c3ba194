//! Processes of this same program that work in a cgroup when they are told to: a line in, a line
//! out.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Result;
use crate::ground;

/// Such a process, from outside. It ends with this value.
pub struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts it with these arguments and waits until it is ready.
    pub fn start(command: &str, dir: &Path, arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(command)
            .arg(dir)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let mut helper = Self {
            input: child.stdin.take(),
            child,
            output,
        };
        if helper.hear()? != "ready" {
            return Err(format!("{command} in {} did not start", dir.display()).into());
        }
        Ok(helper)
    }

    /// Tells it something.
    pub fn say(&mut self, line: &str) -> Result<()> {
        Ok(self
            .input
            .as_mut()
            .ok_or("no pipe")?
            .write_all(format!("{line}\n").as_bytes())?)
    }

    /// What it answers.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.input.take());
        drop(self.child.wait());
    }
}

/// What a worker is told.
#[derive(clap::Args)]
pub struct Args {
    /// The cgroup to work in.
    dir: PathBuf,
}

/// A worker: as many calls of getppid as each line says, and not one more.
pub fn serve(args: &Args) -> Result<()> {
    ground::enter(&args.dir)?;
    println!("ready");
    for line in std::io::stdin().lines() {
        for _ in 0..line?.trim().parse::<u64>()? {
            std::hint::black_box(rustix::process::getppid());
        }
        println!("done");
    }
    Ok(())
}
