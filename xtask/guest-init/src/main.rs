//! The first process of a test guest. It is linked statically and starts in an initramfs that holds
//! nothing but itself, a job and some modules. The host's root becomes the guest's, read-only below
//! an overlay in memory, so the tree and its builds have the same paths inside.
#![forbid(unsafe_code)]

mod loopback;
mod mounts;
mod run;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use cgtap_guest_init::{EXIT_PORT, EXIT_VALUE, JOB_FILE, Job, OUT_DIR};

/// Whatever went wrong, in words. It goes to the console, which the host keeps.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a test guest; use `xtask vm run`");
        std::process::exit(2);
    }
    if let Err(error) = guest() {
        eprintln!("guest-init: {error}");
    }
    rustix::fs::sync();
    if let Err(error) = leave() {
        // The end of the first process is a panic, and with panic=-1 that ends the guest too.
        eprintln!("guest-init: cannot leave through port {EXIT_PORT:#x}: {error}");
    }
}

fn guest() -> Result<()> {
    mounts::for_init()?;
    let job = std::fs::read(Path::new("/").join(JOB_FILE))?;
    let job: Job = serde_json::from_slice(&job)?;
    for module in &job.modules {
        load(&module.file, &module.parameters)
            .map_err(|e| format!("cannot load {}: {e}", module.file))?;
    }
    mounts::take_host_root(&job)?;
    rustix::system::sethostname(job.hostname.as_bytes())?;
    if let Err(error) = loopback::bring_up() {
        eprintln!("guest-init: the network device lo stays down: {error}");
    }
    let status = run::run(&job)?;
    std::fs::write(
        Path::new(OUT_DIR).join(&job.status_file),
        status.to_string(),
    )?;
    Ok(())
}

fn load(file: &str, parameters: &str) -> Result<()> {
    let image = std::fs::read(file)?;
    let parameters = std::ffi::CString::new(parameters)?;
    match rustix::system::init_module(&image, &parameters) {
        // Built in after all, or named twice.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

/// Ends the guest at once, through a device that QEMU has for this.
fn leave() -> Result<()> {
    let ports = OpenOptions::new().write(true).open("/dev/port")?;
    std::io::stderr().flush()?;
    ports.write_all_at(&[EXIT_VALUE], EXIT_PORT.into())?;
    Ok(())
}
