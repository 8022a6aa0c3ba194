//! Loading: the parent's side.

use std::os::fd::OwnedFd;
use std::path::Path;

use cgtap_sys::bpf::Map;
use cgtap_sys::libbpf::{ChildError, ChildLimits, Reply, run_in_child, signal_name};

use super::elf::Elf;
use super::error::{ObjectError, Problem};
use super::image::{MapImage, ObjectImage};
use super::relocate::{Relocated, relocate};
use super::select::Skipped;
use super::validate::{Invalid, validate};

/// More than this is no object.
const LARGEST_FILE_BYTES: u64 = 256 << 20;

/// How to load an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// What to call the object in errors; its last part without ending is its name in the kernel.
    pub name: String,
    /// The programs to attach; `None` (or none): all that can be scoped.
    pub programs: Option<Vec<String>>,
    /// What to set before programs see it, name and value: global variables, and sizes of maps
    /// as `MAP.max_entries`, `MAP.key_size`, `MAP.value_size`.
    pub set: Vec<(String, String)>,
}

/// An object that is ready to be given to the kernel: relocated, its maps created, no program
/// loaded yet.
#[derive(Debug)]
pub struct LoadedObject {
    /// Its programs and maps.
    pub image: ObjectImage,
    /// A descriptor for each map of the image, at the same index; `None` for cgroup storage,
    /// which is created once for each attachment.
    pub maps: Vec<Option<OwnedFd>>,
    /// The programs to attach, as indices into the image's. The others are in it because these
    /// reach them by tail calls.
    pub chosen: Vec<u32>,
    /// Programs that were left out though nobody said so, and why.
    pub skipped: Vec<Skipped>,
}

/// Reads and loads the object at `path`; where `options` has no name, the path is it.
///
/// # Errors
/// As [`load`]; also a file that cannot be read, is no regular file or is larger than 256 MiB.
pub fn load_file(path: &Path, options: &LoadOptions) -> Result<LoadedObject, ObjectError> {
    let mut options = options.clone();
    if options.name.is_empty() {
        options.name = path.display().to_string();
    }
    let elf = read(path).map_err(|problem| problem.of(&options.name))?;
    load(&elf, &options)
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |e: std::io::Error| Problem::Unreadable {
        reason: e.to_string(),
        errno: e.raw_os_error(),
    };
    let refused = |reason: &str| Problem::Unreadable {
        reason: reason.to_owned(),
        errno: None,
    };
    // Asked first: opening a FIFO waits for a writer, and a device has no end.
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        return Err(refused("it is not a regular file"));
    }
    if about.len() > LARGEST_FILE_BYTES {
        return Err(refused("it is larger than 256 MiB"));
    }
    std::fs::read(path).map_err(unreadable)
}

/// Loads an object from memory: libbpf relocates it for this kernel and creates its maps, in a
/// child process that a damaged file may crash. No program is loaded.
///
/// Maps are not taken from or pinned to /sys/fs/bpf, whatever the object says
/// (`LIBBPF_PIN_BY_NAME`).
///
/// # Errors
/// [`ObjectError`], see [`Problem`]. Needs `CAP_BPF`, and BTF in the kernel if the object does.
pub fn load(elf: &[u8], options: &LoadOptions) -> Result<LoadedObject, ObjectError> {
    load_within(elf, options, &ChildLimits::default()).map_err(|problem| problem.of(&options.name))
}

fn load_within(
    elf: &[u8],
    options: &LoadOptions,
    limits: &ChildLimits,
) -> Result<LoadedObject, Problem> {
    // The commonest mistakes need no child to be seen.
    Elf::parse(elf)?;
    let name = kernel_name(&options.name);
    let (bytes, fds) = run_in_child(|| serve(elf, &name, options), limits).map_err(told)?;
    let nonsense = |why: &str| {
        Problem::Invalid(Invalid {
            part: "answer".to_owned(),
            why: why.to_owned(),
        })
    };
    let relocated: Relocated =
        postcard::from_bytes(&bytes).map_err(|_| nonsense("it cannot be read"))?;
    let Relocated {
        image,
        has_fd,
        chosen,
        skipped,
    } = relocated;
    validate(&image).map_err(Problem::Invalid)?;
    let programs = image.programs.len();
    if chosen.is_empty() || chosen.iter().any(|i| *i as usize >= programs) {
        return Err(nonsense("it chooses programs that are not there"));
    }
    let maps = deal(&image.maps, &has_fd, fds).ok_or_else(|| nonsense("its maps do not fit"))?;
    Ok(LoadedObject {
        image,
        maps,
        chosen,
        skipped,
    })
}

/// In the child.
fn serve(elf: &[u8], name: &str, options: &LoadOptions) -> Result<Reply, Vec<u8>> {
    let send = |problem: Problem| postcard::to_stdvec(&problem).unwrap_or_default();
    let (relocated, fds) = relocate(elf, name, options).map_err(send)?;
    match postcard::to_stdvec(&relocated) {
        Ok(bytes) => Ok((bytes, fds)),
        Err(error) => Err(send(Problem::Child {
            reason: format!("cannot send the image: {error}"),
            errno: None,
        })),
    }
}

/// The problem behind the child's end.
fn told(error: ChildError) -> Problem {
    match error {
        ChildError::Failed(bytes) => {
            postcard::from_bytes(&bytes).unwrap_or_else(|_| Problem::Child {
                reason: "the child process sent an error that cannot be read".to_owned(),
                errno: None,
            })
        }
        ChildError::Signal { signal } => Problem::Crashed {
            signal: signal_name(signal),
        },
        ChildError::TimedOut { after } => Problem::TimedOut {
            seconds: after.as_secs(),
        },
        ChildError::System(error) => Problem::Child {
            reason: error.to_string(),
            errno: Some(error.errno.0),
        },
        other => Problem::Child {
            reason: other.to_string(),
            errno: None,
        },
    }
}

/// `BPF_MAP_TYPE_LRU_HASH` and `BPF_MAP_TYPE_LRU_PERCPU_HASH`.
const LRU: [u32; 2] = [9, 10];

/// Gives each map its descriptor, if they are as many as announced and of maps like these.
fn deal(maps: &[MapImage], has_fd: &[bool], fds: Vec<OwnedFd>) -> Option<Vec<Option<OwnedFd>>> {
    if has_fd.len() != maps.len() || has_fd.iter().filter(|has| **has).count() != fds.len() {
        return None;
    }
    let mut fds = fds.into_iter();
    maps.iter()
        .zip(has_fd)
        .map(|(map, has_fd)| {
            if *has_fd == map.storage.is_some() {
                return None;
            }
            if !has_fd {
                return Some(None);
            }
            let fd = fds.next()?;
            let info = Map::from_fd(fd.try_clone().ok()?).ok()?.info().ok()?;
            let same = info.map_type == map.map_type
                && info.key_size == map.key_size
                && info.value_size == map.value_size
                && (info.max_entries == map.max_entries
                    // With BPF_F_NO_COMMON_LRU as many on each CPU (`htab_map_alloc`).
                    || LRU.contains(&info.map_type) && info.max_entries > map.max_entries);
            same.then_some(Some(fd))
        })
        .collect()
}

/// `/a/b/my-tool.bpf.o` becomes `my_tool`: what the kernel takes in names, and what libbpf puts
/// before `.rodata`.
fn kernel_name(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or("");
    let clean: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(64)
        .collect();
    if clean.is_empty() {
        "object".to_owned()
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_for_the_kernel() {
        for (name, want) in [
            ("/a/b/my-tool.bpf.o", "my_tool"),
            ("biosnoop.o", "biosnoop"),
            (".o", "o"),
            ("", "object"),
            ("/x/", "object"),
            ("späti.o", "sp_ti"),
        ] {
            assert_eq!(kernel_name(name), want);
        }
    }

    #[test]
    fn deaths_are_put_into_words() {
        let error = told(ChildError::Signal { signal: 11 }).of("x.o");
        assert_eq!(
            error.to_string(),
            "cannot load x.o: libbpf died of SIGSEGV (a memory fault) while reading the object; \
             the file is damaged or hostile"
        );
        assert_eq!(error.kind(), "crashed");
        let error = told(ChildError::Failed(vec![255; 3])).of("x.o");
        assert_eq!(error.kind(), "child");
    }
}
