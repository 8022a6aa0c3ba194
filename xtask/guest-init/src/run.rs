//! Runs the job's command, and takes in orphans meanwhile, as a first process must.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cgtap_guest_init::{Job, PORTS};
use rustix::process::{Resource, Rlimit, WaitOptions, WaitStatus};

use crate::Result;

/// What processes that outlive the command may still have to say.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// virtio tells of its ports some time after the device.
const PORTS_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptors: the kernel's own limit for a first process is low for tests with many cgroups.
const DESCRIPTORS: u64 = 65_536;

/// Runs it; its exit status as a shell counts it.
pub fn run(job: &Job) -> Result<i32> {
    let [out, error] = open_ports()?;
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    let child = match start(job) {
        Ok(child) => child,
        Err(words) => {
            let mut error = error;
            writeln!(error, "guest-init: {words}")?;
            // What a shell gives for a command that it cannot run.
            return Ok(127);
        }
    };
    let pid = child.id();
    let (ended, drained) = channel();
    relay(child.stdout, out, ended.clone());
    relay(child.stderr, error, ended);
    let status = wait(pid)?;
    drain(&drained);
    Ok(status)
}

fn start(job: &Job) -> Result<Child, String> {
    let (program, arguments) = job.command.split_first().ok_or("no command")?;
    std::env::set_current_dir(&job.cwd)
        .map_err(|e| format!("cannot enter the directory {}: {e}", job.cwd))?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {program}: {e}"))
}

/// Waits for the command, and for every orphan that ends before it.
fn wait(command: u32) -> Result<i32> {
    loop {
        let Some((pid, status)) = rustix::process::wait(WaitOptions::empty())? else {
            continue;
        };
        if pid.as_raw_nonzero().get().unsigned_abs() == command {
            return Ok(as_shell(status));
        }
    }
}

fn as_shell(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    }
}

/// Copies all that comes from a pipe to a port. Programs get a pipe, not the port itself, because a
/// port can be opened once only, and `/dev/stderr` is opened anew.
fn relay(from: Option<impl Read + Send + 'static>, mut to: File, ended: Sender<()>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        let mut from = from;
        while let Some(pipe) = &mut from {
            match pipe.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    if let Err(error) = to.write_all(&buffer[..length]) {
                        eprintln!("guest-init: output is lost: {error}");
                        break;
                    }
                }
                _ => break,
            }
        }
        // Nobody listens any more if the drain took too long.
        let _ = ended.send(());
    });
}

fn drain(drained: &Receiver<()>) {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    for _ in PORTS {
        let left = deadline.saturating_duration_since(Instant::now());
        if drained.recv_timeout(left).is_err() {
            eprintln!("guest-init: a process outlives the command and holds its output");
            return;
        }
    }
}

/// The ports of the command's output and errors.
fn open_ports() -> Result<[File; 2]> {
    let deadline = Instant::now() + PORTS_TIMEOUT;
    loop {
        match PORTS.map(find_port) {
            [Some(out), Some(error)] => {
                let open = |path: String| OpenOptions::new().write(true).open(path);
                return Ok([open(out)?, open(error)?]);
            }
            _ if Instant::now() > deadline => {
                return Err(format!("no virtio ports {PORTS:?} in /sys/class/virtio-ports").into());
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn find_port(name: &str) -> Option<String> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let said = std::fs::read_to_string(port.path().join("name")).ok()?;
        let device = format!("/dev/{}", port.file_name().to_str()?);
        (said.trim() == name && std::path::Path::new(&device).exists()).then_some(device)
    })
}
