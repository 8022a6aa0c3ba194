//! The open files of GPUs, of all processes: what their drivers tell of them, and whose they are.
//!
//! Only descriptors of character devices with DRM's major are read further; where there is no such
//! device, no process is looked at. What ends meanwhile is not there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, major, statat};
use rustix::io::Errno;

use super::fdinfo::Client;
use crate::cgroup::{self, processes};

/// Majors of GPUs and of accelerators (include/uapi/linux/major.h).
const MAJORS: [u32; 2] = [226, 261];
/// Bytes of a file's text that are read.
const TEXT_MAX: u64 = 64 << 10;

/// An open file of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// The device's number.
    pub device: u64,
    /// What its driver tells.
    pub client: Client,
    /// The process that has it.
    pub pid: u32,
    /// When that was started, in the kernel's ticks since boot.
    pub started: u64,
    /// That process's cgroup, as /proc tells it.
    pub cgroup: PathBuf,
}

/// What all processes have open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Their files, one a process and client.
    pub files: Vec<OpenFile>,
    /// Processes whose files may not be looked at.
    pub refused: usize,
    /// Files of drivers that do not say which client it is, so that one cannot be told from another.
    pub nameless: usize,
}

/// Looks at all processes; `root` is `/`, or a directory that is made as that is.
///
/// # Errors
/// The process list cannot be read.
pub fn scan(root: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    if !has_devices(root) {
        return Ok(scan);
    }
    scan.refused = processes::each(&root.join("proc"), |pid, dir| {
        scan.take(process(dir, pid)?);
        Ok(())
    })?;
    Ok(scan)
}

impl Scan {
    fn take(&mut self, files: Vec<OpenFile>) {
        for file in files {
            if file.client.id.is_some() {
                self.files.push(file);
            } else {
                self.nameless += 1;
            }
        }
    }
}

/// Whether there is a device whose files could be open.
fn has_devices(root: &Path) -> bool {
    let all = std::fs::read_dir(root.join("sys/dev/char"));
    all.into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.split_once(':'));
        number.is_some_and(|(major, _)| MAJORS.iter().any(|m| major == m.to_string()))
    })
}

/// The files of GPUs that a process has open, each client once.
fn process(dir: &Path, pid: u32) -> io::Result<Vec<OpenFile>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds = File::from(rustix::fs::open(dir.join("fd"), flags, Mode::empty())?);
    let mut found: Vec<OpenFile> = Vec::new();
    let mut whose = None;
    for entry in Dir::read_from(&fds)? {
        let Ok(entry) = entry else { break };
        let name = entry.file_name();
        let Some(device) = device(&fds, name)? else {
            continue;
        };
        let Some(client) = text(dir, name).and_then(|text| Client::parse(&text)) else {
            continue;
        };
        // Descriptors that were duplicated.
        let is_known = |f: &OpenFile| f.device == device && f.client.id == client.id;
        if client.id.is_some() && found.iter().any(is_known) {
            continue;
        }
        if whose.is_none() {
            whose = Some((started(dir)?, cgroup::of_process(dir)?));
        }
        let (started, cgroup) = whose.clone().unwrap_or_default();
        found.push(OpenFile {
            device,
            client,
            pid,
            started,
            cgroup,
        });
    }
    Ok(found)
}

/// The number of the GPU that a descriptor is of; none of what is no GPU, or was closed meanwhile.
///
/// # Errors
/// EACCES: what a process has open may not be looked at. That its descriptors may be listed, for which
/// CAP_DAC_READ_SEARCH is enough, does not say so (fs/proc/base.c, `proc_pid_get_link()`).
fn device(fds: &impl AsFd, name: &std::ffi::CStr) -> io::Result<Option<u64>> {
    let stat = match statat(fds, name, AtFlags::empty()) {
        Ok(stat) => stat,
        Err(refused @ Errno::ACCESS) => return Err(refused.into()),
        Err(_) => return Ok(None),
    };
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let is_gpu = is_device && MAJORS.contains(&major(stat.st_rdev));
    Ok(is_gpu.then_some(stat.st_rdev))
}

fn text(dir: &Path, name: &std::ffi::CStr) -> Option<String> {
    let info = File::open(dir.join("fdinfo").join(name.to_str().ok()?)).ok()?;
    let mut bytes = Vec::new();
    info.take(TEXT_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a process was started, in the kernel's ticks since boot (field 22 of its `stat`; its name, which may
/// hold anything, is in parentheses before). `dir` is its directory in /proc.
///
/// # Errors
/// There is no such process any more.
pub fn started(dir: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(dir.join("stat"))?;
    let behind = text.rsplit_once(')').map_or("", |(_, behind)| behind);
    let field = behind.split_whitespace().nth(19);
    let number = field.and_then(|field| field.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
