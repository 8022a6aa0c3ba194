//! Places in programs and libraries, for uprobes.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::elf::{DT_SONAME, PF_X, SHT_SYMTAB};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, SegmentFlags, SymbolKind};

use crate::hook::BinaryPlace;
use crate::near::hint;

/// Where a name without a slash is looked for: programs as the shell finds them, libraries as the
/// loader does.
const PROGRAMS: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"];
const LIBRARIES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
];
/// More names than this are not listed.
const LISTED: usize = 4;

/// Why a place in a binary cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// There is no such file.
    #[error("there is no file {name}{looked}")]
    Missing {
        /// What was asked for.
        name: String,
        /// ` in DIR, DIR`, or nothing.
        looked: String,
    },
    /// No such file is here, and no process maps one.
    #[error(
        "this machine has no file {name}, and no process maps one{unreached}; try again when one runs that does"
    )]
    Unmapped {
        /// What was asked for.
        name: String,
        /// What may be one and cannot be reached, in parentheses; or nothing.
        unreached: String,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no program.
    #[error("{} is no ELF program or library: {why}", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It has no such symbol.
    #[error("{} has no function {symbol}{hint}{stripped}", path.display())]
    NoSymbol {
        /// The file.
        path: PathBuf,
        /// The symbol.
        symbol: String,
        /// `; did you mean ...`, or nothing.
        hint: String,
        /// That it is stripped, and what to do then; or nothing.
        stripped: &'static str,
    },
    /// Several functions have the name.
    #[error(
        "{} has {symbol} {count} times, at {places}; name one by its place in the file, as in \
         uprobe:{}:{first}", path.display(), path.display()
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// The symbol.
        symbol: String,
        /// How many there are.
        count: usize,
        /// Their places.
        places: String,
        /// One of them.
        first: String,
    },
    /// Nothing is executed there.
    #[error("{} holds no code at {offset:#x}", path.display())]
    NoCode {
        /// The file.
        path: PathBuf,
        /// The place.
        offset: u64,
    },
}

/// The file behind a name: a path with all links followed, so that a file has one name; a bare
/// name is looked for where programs and libraries are.
///
/// # Errors
/// [`BinaryError::Missing`], or what the system says of the path.
pub fn find(name: &str) -> Result<PathBuf, BinaryError> {
    let read = |path: &Path| {
        path.canonicalize().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => BinaryError::Missing {
                name: name.to_owned(),
                looked: String::new(),
            },
            _ => BinaryError::Read {
                path: path.to_owned(),
                source,
            },
        })
    };
    if name.contains('/') {
        return read(Path::new(name));
    }
    let dirs: &[&str] = if name.contains(".so") {
        &LIBRARIES
    } else {
        &PROGRAMS
    };
    match dirs
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
    {
        Some(path) => read(&path),
        None => Err(BinaryError::Missing {
            name: name.to_owned(),
            looked: format!(" in {}", dirs.join(", ")),
        }),
    }
}

/// What a library says that it is called (`DT_SONAME`).
#[must_use]
pub fn soname(path: &Path) -> Option<String> {
    let cache = ReadCache::new(File::open(path).ok()?);
    let elf = Elf::parse(&cache).ok()?;
    let (endian, data) = (elf.endian(), elf.data());
    let sections = elf.elf_section_table();
    let (entries, names) = sections.dynamic(endian, data).ok()??;
    let strings = sections.strings(endian, data, names).ok()?;
    let entry = entries.iter().find(|e| e.d_tag.get(endian) == DT_SONAME)?;
    let offset = u32::try_from(entry.d_val.get(endian)).ok()?;
    String::from_utf8(strings.get(offset).ok()?.to_vec()).ok()
}

/// Where `place` lies in the file, in bytes from its beginning: what the kernel wants of a uprobe.
///
/// # Errors
/// [`BinaryError`].
pub fn offset(path: &Path, place: BinaryPlace<'_>) -> Result<u64, BinaryError> {
    let read = |source| BinaryError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Err(BinaryError::NotElf {
            path: path.to_owned(),
            why: "it is not a regular file".to_owned(),
        });
    }
    let cache = ReadCache::new(file);
    let not_elf = |e: object::Error| BinaryError::NotElf {
        path: path.to_owned(),
        why: e.to_string(),
    };
    let elf =
        object::read::elf::ElfFile64::<object::Endianness, _>::parse(&cache).map_err(not_elf)?;
    let found = match place {
        BinaryPlace::Offset(offset) => offset,
        BinaryPlace::Symbol(symbol, behind) => {
            let start = of_symbol(path, &elf, symbol)?;
            start.checked_add(behind).ok_or(BinaryError::NoCode {
                path: path.to_owned(),
                offset: u64::MAX,
            })?
        }
    };
    let is_code = elf.segments().any(|segment| {
        let (start, len) = segment.file_range();
        let flags = segment.flags();
        matches!(flags, SegmentFlags::Elf { p_flags, .. } if p_flags.contains(PF_X))
            && (start..start.saturating_add(len)).contains(&found)
    });
    if is_code {
        Ok(found)
    } else {
        Err(BinaryError::NoCode {
            path: path.to_owned(),
            offset: found,
        })
    }
}

type Elf<'a> = object::read::elf::ElfFile64<'a, object::Endianness, &'a ReadCache<File>>;

fn of_symbol(path: &Path, elf: &Elf<'_>, wanted: &str) -> Result<u64, BinaryError> {
    let mut places: Vec<u64> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        // STT_GNU_IFUNC and assembler labels are code too.
        let is_code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown);
        let (Ok(name), true) = (symbol.name(), is_code && symbol.address() != 0) else {
            continue;
        };
        // `memcpy@@GLIBC_2.14` in a full table.
        let bare = name.split('@').next().unwrap_or(name);
        if name == wanted || bare == wanted {
            places.extend(to_file(elf, symbol.address()));
        } else if names.len() < 100_000 {
            names.push(bare.to_owned());
        }
    }
    places.sort_unstable();
    places.dedup();
    match places.as_slice() {
        [one] => Ok(*one),
        [] => {
            let has_table = elf
                .elf_header()
                .sections(elf.endian(), elf.data())
                .is_ok_and(|s| s.iter().any(|s| s.sh_type(elf.endian()) == SHT_SYMTAB));
            Err(BinaryError::NoSymbol {
                path: path.to_owned(),
                symbol: wanted.to_owned(),
                hint: near(wanted, &names),
                stripped: if has_table {
                    ""
                } else {
                    "; it is stripped, so only what it exports has a name: give the place in the \
                     file, as in uprobe:BINARY:0x1234"
                },
            })
        }
        [first, ..] => {
            let shown: Vec<String> = (places.iter().take(LISTED))
                .map(|p| format!("{p:#x}"))
                .collect();
            Err(BinaryError::Ambiguous {
                path: path.to_owned(),
                symbol: wanted.to_owned(),
                count: places.len(),
                places: shown.join(", "),
                first: format!("{first:#x}"),
            })
        }
    }
}

/// Names that hold what was asked for (as those of Rust and C++ do), or are like it.
fn near(wanted: &str, names: &[String]) -> String {
    let mut holding: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|n| wanted.len() > 2 && n.contains(wanted))
        .collect();
    holding.sort_unstable_by_key(|n| n.len());
    holding.dedup();
    match holding.get(..holding.len().min(LISTED)) {
        Some(some) if !some.is_empty() => format!("; it has {}", some.join(", ")),
        _ => hint(wanted, names),
    }
}

/// The place in the file of what is loaded at `address`.
fn to_file(elf: &Elf<'_>, address: u64) -> Option<u64> {
    elf.segments().find_map(|segment| {
        let (start, len) = segment.file_range();
        let behind = address.checked_sub(segment.address())?;
        (behind < len).then_some(start + behind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libc_is_found_with_its_functions() {
        let libc = find("libc.so.6").unwrap();
        assert!(libc.is_absolute());
        assert_eq!(soname(&libc).as_deref(), Some("libc.so.6"));
        assert_eq!(soname(Path::new("/etc/passwd")), None);
        let getpid = offset(&libc, BinaryPlace::Symbol("getpid", 0)).unwrap();
        assert_eq!(
            offset(&libc, BinaryPlace::Symbol("getpid", 2)).unwrap(),
            getpid + 2
        );
        assert_eq!(offset(&libc, BinaryPlace::Offset(getpid)).unwrap(), getpid);
        let error = offset(&libc, BinaryPlace::Symbol("getpidd", 0)).unwrap_err();
        assert!(error.to_string().contains("getpid"), "{error}");
        let error = offset(&libc, BinaryPlace::Offset(1)).unwrap_err();
        assert!(matches!(error, BinaryError::NoCode { .. }), "{error}");
    }

    #[test]
    fn what_is_no_binary_is_refused() {
        let error = find("cgtap-no-such-program").unwrap_err();
        assert!(error.to_string().contains("/usr/bin"), "{error}");
        assert!(matches!(
            find("/no/such/file"),
            Err(BinaryError::Missing { .. })
        ));
        for path in ["/etc/passwd", "/dev/null", "/etc"] {
            let error = offset(Path::new(path), BinaryPlace::Offset(0)).unwrap_err();
            assert!(
                matches!(error, BinaryError::NotElf { .. } | BinaryError::Read { .. }),
                "{error}"
            );
        }
    }
}
