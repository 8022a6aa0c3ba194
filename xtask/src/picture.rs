//! A picture of `cgtap top`: tenants with real work in them, the program in a terminal of its own,
//! and what that terminal shows after a while.
//!
//! Nothing in it is made up: the figures are those of this machine, in these seconds.

mod svg;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::ground::{Ground, remove_tree, shell};

/// Arguments of `picture`.
#[derive(clap::Args)]
pub struct Args {
    /// The program whose screen it is
    #[arg(long, default_value = "target/release/cgtap")]
    program: PathBuf,
    /// Where to write it
    #[arg(long, default_value = "docs/top.svg")]
    out: PathBuf,
    /// Seconds of work before the picture is taken
    #[arg(long, default_value_t = 14)]
    seconds: u64,
}

/// Rows and columns of the terminal.
const SIZE: (u16, u16) = (31, 104);

/// What is enabled, which is also what is shown.
const METERS: [&str; 3] = ["cpu", "runqueue", "memory"];

/// Who works, and at what, in the words of a shell. `$scratch` is a directory on a disk.
const WORK: [(&str, &str); 4] = [
    ("a/train", "while :; do :; done"),
    (
        "a/loader",
        "while :; do dd if=/dev/zero of=$scratch/a bs=256k count=32 oflag=direct 2>/dev/null; sleep 0.2; done",
    ),
    ("b", "while :; do :; done"),
    (
        "ci/job7",
        "while :; do head -c 64k /dev/urandom >/dev/null; sleep 0.02; done",
    ),
];

/// Writes the picture.
pub fn run(args: &Args) -> Result<()> {
    let program = args
        .program
        .canonicalize()
        .map_err(|e| format!("{}: {e}; ./dev picture builds it", args.program.display()))?;
    let ground = Ground::new()?;
    // On a disk, since what is written into memory is no I/O.
    let scratch = tempfile::tempdir_in(args.out.parent().unwrap_or(Path::new(".")))?;
    let tenants = Tenants::new(&ground)?;
    let (_, state) = ground.engine()?;
    let cgtap = |words: &[&str]| -> Result<()> {
        let status = Command::new(&program)
            .arg("--state")
            .arg(&state)
            .args(words)
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            return Ok(());
        }
        Err(format!("cgtap {}: {status}", words.join(" ")).into())
    };
    for meter in METERS {
        cgtap(&["meter", "enable", meter])?;
    }
    cgtap(&[
        "limit",
        "set",
        "tenants/b",
        "cpu_time",
        "300ms/1s",
        "--on",
        "freeze",
    ])?;
    let _enforcer = Ended(
        Command::new(&program)
            .arg("--state")
            .arg(&state)
            .args(["enforce"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let mut workers = Vec::new();
    for (tenant, work) in WORK {
        workers.push(tenants.start(tenant, work, scratch.path())?);
    }
    let screen = watch(&program, &state, Duration::from_secs(args.seconds))?;
    drop(workers);
    cgtap(&["limit", "clear", "--all"])?;
    for meter in METERS {
        cgtap(&["meter", "disable", meter])?;
    }
    std::fs::write(&args.out, svg::draw(&screen))
        .map_err(|e| format!("cannot write {}: {e}", args.out.display()))?;
    println!("{}", screen.contents());
    println!("{}", args.out.display());
    Ok(())
}

/// Runs `top` in a terminal, presses keys as somebody would who looks closer at a tenant, and says
/// what the terminal shows then.
fn watch(program: &Path, state: &Path, time: Duration) -> Result<vt100::Screen> {
    let (rows, columns) = SIZE;
    let top = format!(
        "stty rows {rows} cols {columns}; exec {} --state {} top tenants -d 1",
        program.display(),
        state.display()
    );
    let mut script = Ended(
        Command::new("script")
            .args(["-qefc", &top, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot run script(1): {e}"))?,
    );
    let mut keys = script.0.stdin.take().ok_or("no pipe")?;
    let mut shown = script.0.stdout.take().ok_or("no pipe")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        shown.read_to_end(&mut bytes).map(|_| bytes)
    });
    // Down to the first tenant, and into it.
    std::thread::sleep(Duration::from_secs(2));
    for key in ["j", "\r"] {
        keys.write_all(key.as_bytes())?;
        std::thread::sleep(Duration::from_millis(300));
    }
    std::thread::sleep(time);
    keys.write_all(b"q")?;
    script.0.wait()?;
    let bytes = reader
        .join()
        .map_err(|_| "the reader of the terminal died")??;
    let mut terminal = vt100::Parser::new(rows.try_into()?, columns.try_into()?, 0);
    terminal.process(before_the_end(&bytes));
    Ok(terminal.screen().clone())
}

/// What was written before the terminal was given back.
fn before_the_end(bytes: &[u8]) -> &[u8] {
    const LEAVE: &[u8] = b"\x1b[?1049l";
    let end = bytes.windows(LEAVE.len()).position(|w| w == LEAVE);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// A cgroup `tenants` in the root, with those below it, for a while.
struct Tenants {
    top: PathBuf,
}

impl Tenants {
    fn new(ground: &Ground) -> Result<Self> {
        let top = ground.root()?.join("tenants");
        std::fs::create_dir(&top).map_err(|e| {
            format!(
                "{}: {e}; the picture wants to make it itself",
                top.display()
            )
        })?;
        let tenants = Self { top };
        for (tenant, _) in WORK {
            std::fs::create_dir_all(tenants.top.join(tenant))?;
        }
        Ok(tenants)
    }

    fn start(&self, tenant: &str, work: &str, scratch: &Path) -> Result<Ended> {
        let mut shell = shell(&self.top.join(tenant), work);
        shell.env("scratch", scratch);
        Ok(Ended(shell.spawn()?))
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        remove_tree(&self.top);
    }
}

/// A process that is killed with this value, if it has not ended.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
