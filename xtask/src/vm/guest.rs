//! Boots a guest under QEMU, without KVM, for one command.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cgtap_guest_init::{EXIT_PORT, EXIT_STATUS, Job, OUT_TAG, PORTS, ROOT_TAG};

use super::cache::Cache;
use super::display::Display;
use super::kernels::Unpacked;
use super::{Options, environment, initramfs};
use crate::Result;

/// Everything that a test may want to look at is on (LSM programs, debugfs), what costs time and
/// protects nobody here is off. A panic ends the guest. The CPUs' counters are the host's, so they agree;
/// 6.1 believes that they do not, and would read a device for each look at the clock.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 mitigations=off init_on_alloc=0 nokaslr \
    no_timer_check tsc=reliable lsm=capability,landlock,yama,bpf";
/// Lines of the console that are shown when a guest fails.
const CONSOLE_LINES: usize = 40;
/// How often the guest is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The command ended with this status, as a shell counts it.
    Exited(u8),
    /// It took too long and was killed.
    TimedOut,
    /// It was interrupted from outside, and killed.
    Interrupted,
    /// It ended by itself without a word on the command. These words say more.
    Died(String),
}

/// A guest that has not booted yet.
pub struct Guest<'a> {
    /// Stands before each line that it writes, where several write at once.
    pub label: Option<&'a str>,
    /// What it runs on.
    pub kernel: &'a Unpacked,
    /// What it is given.
    pub options: &'a Options,
    /// The directory of the host that takes its results.
    pub out: &'a Path,
}

impl Guest<'_> {
    /// Boots, runs the command to its end, and passes on what it writes while it does.
    pub fn run(&self, cache: &Cache, command: &[String]) -> Result<End> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let work = tempfile::Builder::new()
            .prefix("guest-")
            .tempdir_in(cache.sub("run")?)?;
        let status_file = format!(".cgtap-status-{}", std::process::id());
        let archive = work.path().join("initramfs");
        let job = Job {
            hostname: format!("guest-{}", self.kernel.name),
            modules: Vec::new(),
            modules_dir: as_text(&self.kernel.modules_dir)?,
            boot_dir: as_text(&self.kernel.boot_dir)?,
            command: command.to_vec(),
            env: environment::for_guest(&self.kernel.name, &self.options.env)?,
            cwd: as_text(&std::env::current_dir()?)?,
            status_file: status_file.clone(),
        };
        initramfs::write(&archive, self.kernel, &self.options.modules, job)?;
        let console = work.path().join("console");
        let display = self.options.virgl.then(Display::start).transpose()?;
        let mut qemu = self
            .qemu(&archive, &console, display.as_ref())?
            .spawn()
            .map_err(|e| format!("cannot run setpriv: {e}; install the package util-linux"))?;
        let copies = [
            copy(qemu.stdout.take(), self.label, std::io::stdout()),
            copy(qemu.stderr.take(), self.label, std::io::stderr()),
        ];
        let end = self.wait(&mut qemu, &interrupted)?;
        for copy in copies {
            // What is left in the pipes belongs before what we say.
            drop(copy.join());
        }
        let status = self.out.join(status_file);
        let said = std::fs::read_to_string(&status).ok();
        drop(std::fs::remove_file(&status));
        let end = match (end, said.and_then(|s| s.trim().parse().ok())) {
            (Waited::Over(ended), Some(code)) if ended.code() == Some(EXIT_STATUS) => {
                End::Exited(code)
            }
            (Waited::Over(ended), _) => End::Died(words_of_death(ended)),
            (Waited::TimedOut, _) => End::TimedOut,
            (Waited::Interrupted, _) => End::Interrupted,
        };
        if matches!(end, End::TimedOut | End::Died(_)) {
            self.show_console(cache, &console)?;
        }
        Ok(end)
    }

    fn qemu(&self, archive: &Path, console: &Path, display: Option<&Display>) -> Result<Command> {
        let options = self.options;
        let append = format!("{COMMAND_LINE} {}", options.append.join(" "));
        let share = |tag: &str, path: &Path, mode: &str| -> Result<String> {
            let path = as_text(path)?.replace(',', ",,");
            Ok(format!(
                "local,id={tag},path={path},security_model=none,multidevs=remap{mode}"
            ))
        };
        // The guest ends when we do, even if we are killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            // One thread for all CPUs: with a thread each, a CPU that runs into code which the kernel
            // is patching (tracepoints, as tests switch them on and off) can spin there for ever.
            .args(["-accel", "tcg,thread=single"])
            // Emulated, a string instruction goes byte by byte: a kernel that believes them to be fast
            // clears each page with one, a tenth of all that our tests take. And what guards pages against
            // the kernel itself makes each copy from and to a process cost more: another tenth.
            .args(["-cpu", "max,-erms,-fsrm,-smap,-smep,-pku,-la57"])
            .args(["-smp", &options.cpus.to_string()])
            .args(["-m", &format!("{}M", options.memory_mib)])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", append.trim()])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,path={}",
                as_text(console)?.replace(',', ",,")
            ))
            .args(["-serial", "chardev:console"])
            .args([
                "-device",
                &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x04"),
            ])
            .args(["-fsdev", &share(ROOT_TAG, Path::new("/"), ",readonly=on")?])
            .args([
                "-device",
                &format!("virtio-9p-pci,fsdev={ROOT_TAG},mount_tag={ROOT_TAG}"),
            ])
            .args(["-fsdev", &share(OUT_TAG, self.out, "")?])
            .args([
                "-device",
                &format!("virtio-9p-pci,fsdev={OUT_TAG},mount_tag={OUT_TAG}"),
            ])
            .args(["-device", "virtio-serial-pci"]);
        // QEMU's own standard streams, which are pipes to us. (Its `stdio` goes deaf at the end of
        // the standard input.)
        for (chardev, name) in ["stdout", "stderr"].iter().zip(PORTS) {
            command.args([
                "-chardev",
                &format!("file,id={chardev},path=/dev/{chardev},append=on"),
            ]);
            command.args([
                "-device",
                &format!("virtserialport,chardev={chardev},name={name}"),
            ]);
        }
        match display {
            Some(display) => command.args(Display::qemu_args()).envs(display.env()),
            None => command.args(["-device", "virtio-gpu-pci"]),
        };
        command
            .args(&options.qemu_args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn wait(&self, qemu: &mut Child, interrupted: &AtomicBool) -> Result<Waited> {
        let deadline = Instant::now() + Duration::from_secs(self.options.timeout_s());
        loop {
            if let Some(status) = qemu.try_wait()? {
                // The terminal's Ctrl-C reaches QEMU too.
                if interrupted.load(Ordering::Relaxed) {
                    return Ok(Waited::Interrupted);
                }
                return Ok(Waited::Over(status));
            }
            let why = match interrupted.load(Ordering::Relaxed) {
                true => Some(Waited::Interrupted),
                false => (Instant::now() > deadline).then_some(Waited::TimedOut),
            };
            if let Some(why) = why {
                qemu.kill()?;
                qemu.wait()?;
                return Ok(why);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Keeps the console of a guest that failed, and shows its end.
    fn show_console(&self, cache: &Cache, console: &Path) -> Result<()> {
        let label = self.label.unwrap_or(&self.kernel.name).replace(' ', "-");
        let name = format!("{label}-{}.log", std::process::id());
        let kept = cache.sub("console")?.join(name);
        std::fs::copy(console, &kept)?;
        let text = String::from_utf8_lossy(&std::fs::read(&kept)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!(
            "vm: the end of the guest's console; all of it is in {}",
            kept.display()
        );
        for line in &lines[lines.len().saturating_sub(CONSOLE_LINES)..] {
            eprintln!("    {}", line.trim_end());
        }
        Ok(())
    }
}

/// What waiting for QEMU came to.
enum Waited {
    Over(ExitStatus),
    TimedOut,
    Interrupted,
}

fn words_of_death(status: ExitStatus) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(EXIT_STATUS), _) => "init gave up".to_owned(),
        (Some(0), _) => "the kernel ended, by a panic or a reset".to_owned(),
        (Some(127), _) => {
            "qemu-system-x86_64 is missing; install the package qemu-system-x86".to_owned()
        }
        (Some(code), _) => format!("QEMU failed with status {code}"),
        (None, signal) => format!("QEMU was killed by signal {}", signal.unwrap_or_default()),
    };
    format!("the guest ended without saying how its command did: {how}")
}

/// Copies a stream: as it comes, or line by line with a label before each.
fn copy(
    from: Option<impl Read + Send + 'static>,
    label: Option<&str>,
    mut to: impl Write + Send + 'static,
) -> JoinHandle<()> {
    let label = label.map(|label| format!("{label}: ").into_bytes());
    // Whoever read our output is gone: the guest's command does not need to know.
    let mut write = move |bytes: &[u8]| drop(to.write_all(bytes).and_then(|()| to.flush()));
    std::thread::spawn(move || {
        let Some(mut from) = from else { return };
        if let Some(label) = label {
            let lines = BufReader::new(from)
                .split(b'\n')
                .map_while(|line| line.ok());
            for line in lines {
                write(&[&label, &line[..], b"\n"].concat());
            }
            return;
        }
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            write(&buffer[..length]);
        }
    })
}

fn as_text(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

/// A directory of the host for a guest's results: a given one, or one that goes with the value.
pub struct Out {
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Out {
    /// The given directory, made if need be, or a new one.
    pub fn new(cache: &Cache, given: Option<&Path>) -> Result<Self> {
        if let Some(dir) = given {
            std::fs::create_dir_all(dir)?;
            return Ok(Self {
                dir: std::fs::canonicalize(dir)?,
                _temporary: None,
            });
        }
        let temporary = tempfile::Builder::new()
            .prefix("out-")
            .tempdir_in(cache.sub("run")?)?;
        Ok(Self {
            dir: temporary.path().to_owned(),
            _temporary: Some(temporary),
        })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
