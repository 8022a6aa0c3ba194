//! As much of ELF as cgtap reads itself: whether a file is an object for BPF and whole, and the
//! few things libbpf does not tell (licence, initial slots of PROG_ARRAYs).

use serde::{Deserialize, Serialize};

const EM_NONE: u16 = 0;
const EM_BPF: u16 = 247;
const ET_REL: u16 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_REL: u32 = 9;
const HEADER_BYTES: usize = 64;
const SECTION_HEADER_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const REL_BYTES: usize = 16;

/// `STT_FUNC`.
pub(super) const SYMBOL_FUNC: u8 = 2;

/// Why bytes are no object for this machine's BPF.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ElfProblem {
    /// No byte at all.
    #[error("the file is empty")]
    Empty,
    /// It does not begin as ELF does.
    #[error("it is not an ELF file; give what `clang -target bpf -c` made")]
    NotElf,
    /// It is for a processor.
    #[error(
        "it is an ELF file for {machine}, not for BPF; give the object that `clang -target bpf \
         -c` made, not the program that loads it"
    )]
    Machine {
        /// The architecture's name, or its number.
        machine: String,
    },
    /// It has the other byte order.
    #[error("it is BPF for a {order} machine; compile it with `-target {target}`")]
    ByteOrder {
        /// `big-endian` or `little-endian`.
        order: String,
        /// clang's name for this machine's BPF.
        target: String,
    },
    /// 32-bit ELF.
    #[error("it is a 32-bit ELF file; BPF objects are 64-bit ones")]
    Class,
    /// ELF, but linked.
    #[error("it is ELF for BPF, but no relocatable object (e_type {kind}); compile it with `-c`")]
    NotRelocatable {
        /// `e_type`.
        kind: u16,
    },
    /// Something lies behind its end.
    #[error("it is cut short: {what} ends at byte {end} of {len}; copy or compile it again")]
    Truncated {
        /// What lies outside.
        what: String,
        /// Where it would end.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// It contradicts itself.
    #[error("it is not a well-formed ELF file: {what}; compile it again")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

/// A section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    pub(super) name: &'a str,
    kind: u32,
    data: &'a [u8],
    link: u32,
    info: u32,
}

/// A symbol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'a> {
    pub(super) name: &'a str,
    /// `STT_*`.
    pub(super) kind: u8,
}

/// A file whose header and sections lie where they say.
#[derive(Debug)]
pub(super) struct Elf<'a> {
    sections: Vec<Section<'a>>,
}

/// `N` bytes at `at`, if they are there.
fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk::<N>().copied()
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    bytes(data, at).map(u16::from_ne_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(u32::from_ne_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    bytes(data, at).map(u64::from_ne_bytes)
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32-bit)".to_owned(),
        8 => "MIPS".to_owned(),
        20 | 21 => "PowerPC".to_owned(),
        22 => "s390".to_owned(),
        40 => "ARM (32-bit)".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        258 => "LoongArch".to_owned(),
        other => format!("machine number {other}"),
    }
}

/// A text that ends in NUL.
fn text(data: &[u8], at: usize) -> Option<&str> {
    let rest = data.get(at..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

fn header(data: &[u8]) -> Result<(), ElfProblem> {
    if data.is_empty() {
        return Err(ElfProblem::Empty);
    }
    if !data.starts_with(b"\x7fELF") {
        return Err(ElfProblem::NotElf);
    }
    let short = || ElfProblem::Truncated {
        what: "its header".to_owned(),
        end: HEADER_BYTES as u64,
        len: data.len() as u64,
    };
    let class = *data.get(4).ok_or_else(short)?;
    let big = match data.get(5).ok_or_else(short)? {
        1 => false,
        2 => true,
        other => {
            return Err(ElfProblem::Malformed {
                what: format!("byte order {other}"),
            });
        }
    };
    let half = |at| {
        bytes(data, at)
            .map(if big {
                u16::from_be_bytes
            } else {
                u16::from_le_bytes
            })
            .ok_or_else(short)
    };
    let machine = half(18)?;
    // Compilers of old left the machine out.
    if machine != EM_BPF && machine != EM_NONE {
        return Err(ElfProblem::Machine {
            machine: machine_name(machine),
        });
    }
    if big != cfg!(target_endian = "big") {
        let (order, target) = if big {
            ("big-endian", "bpfel")
        } else {
            ("little-endian", "bpfeb")
        };
        return Err(ElfProblem::ByteOrder {
            order: order.to_owned(),
            target: target.to_owned(),
        });
    }
    if class != 2 {
        return Err(ElfProblem::Class);
    }
    let kind = half(16)?;
    if kind != ET_REL {
        return Err(ElfProblem::NotRelocatable { kind });
    }
    if data.len() < HEADER_BYTES {
        return Err(short());
    }
    Ok(())
}

/// `data[start..start + len]`, or what lies outside.
fn within<'a>(data: &'a [u8], start: u64, len: u64, what: &str) -> Result<&'a [u8], ElfProblem> {
    let end = start.saturating_add(len);
    let range = usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| data.get(start..end));
    range.ok_or_else(|| ElfProblem::Truncated {
        what: what.to_owned(),
        end,
        len: data.len() as u64,
    })
}

impl<'a> Elf<'a> {
    /// Reads header and section headers.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, ElfProblem> {
        header(data)?;
        let malformed = |what: &str| ElfProblem::Malformed {
            what: what.to_owned(),
        };
        let no_header = || malformed("its header is incomplete");
        let offset = u64_at(data, 40).ok_or_else(no_header)?;
        let entry = u16_at(data, 58).ok_or_else(no_header)?;
        let count = u16_at(data, 60).ok_or_else(no_header)?;
        let names = u16_at(data, 62).ok_or_else(no_header)?;
        if offset == 0 || usize::from(entry) != SECTION_HEADER_BYTES || count == 0 {
            return Err(malformed("it has no sections"));
        }
        let table = within(
            data,
            offset,
            u64::from(count) * SECTION_HEADER_BYTES as u64,
            "its table of sections",
        )?;
        let mut found = Vec::with_capacity(usize::from(count));
        for raw in table.chunks_exact(SECTION_HEADER_BYTES) {
            let word = |at| u32_at(raw, at).unwrap_or(0);
            let long = |at| u64_at(raw, at).unwrap_or(0);
            let kind = word(4);
            let data = if kind == 0 || kind == SHT_NOBITS {
                &data[..0]
            } else {
                within(data, long(24), long(32), "a section")?
            };
            let section = Section {
                name: "",
                kind,
                data,
                link: word(40),
                info: word(44),
            };
            found.push((word(0), section));
        }
        let strings = found
            .get(usize::from(names))
            .map(|(_, section)| section.data)
            .ok_or_else(|| malformed("it has no names of sections"))?;
        let sections = found
            .into_iter()
            .map(|(name, section)| Section {
                name: text(strings, name as usize).unwrap_or(""),
                ..section
            })
            .collect();
        Ok(Self { sections })
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.sections.iter().position(|s| s.name == name)
    }

    /// The bytes of a section.
    pub(super) fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.get(self.index(name)?).map(|s| s.data)
    }

    /// The licence the object declares; empty if none.
    pub(super) fn license(&self) -> &'a str {
        self.section("license")
            .and_then(|data| text(data, 0))
            .unwrap_or("")
    }

    fn symbol(&self, index: usize) -> Option<Symbol<'a>> {
        let table = self.sections.iter().find(|s| s.kind == SHT_SYMTAB)?;
        let raw = table.data.get(index.checked_mul(SYMBOL_BYTES)?..)?;
        let names = self.sections.get(table.link as usize)?.data;
        Some(Symbol {
            name: text(names, u32_at(raw, 0)? as usize)?,
            kind: raw.get(4)? & 0xf,
        })
    }

    /// Where in the section `name` something is to be filled in, and with which symbol.
    pub(super) fn relocations(&self, name: &str) -> Vec<(u64, Symbol<'a>)> {
        let Some(target) = self.index(name) else {
            return Vec::new();
        };
        self.sections
            .iter()
            .filter(|s| s.kind == SHT_REL && s.info as usize == target)
            .flat_map(|s| s.data.chunks_exact(REL_BYTES))
            .filter_map(|raw| {
                let symbol = usize::try_from(u64_at(raw, 8)? >> 32).ok()?;
                Some((u64_at(raw, 0)?, self.symbol(symbol)?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header alone, of a relocatable object for BPF.
    fn minimal() -> Vec<u8> {
        let mut data = vec![0_u8; HEADER_BYTES];
        data[..6].copy_from_slice(b"\x7fELF\x02\x01");
        data[16] = 1;
        data[18] = 247;
        data
    }

    #[test]
    fn each_wrong_file_is_named() {
        let problem = |data: &[u8]| Elf::parse(data).unwrap_err();
        assert_eq!(problem(b""), ElfProblem::Empty);
        assert_eq!(problem(b"#!/bin/sh\n"), ElfProblem::NotElf);
        for len in 4..HEADER_BYTES {
            assert!(
                matches!(problem(&minimal()[..len]), ElfProblem::Truncated { .. }),
                "{len} bytes"
            );
        }
        let changed = |at: usize, value: u8| {
            let mut data = minimal();
            data[at] = value;
            data
        };
        assert_eq!(
            problem(&changed(18, 62)).to_string(),
            "it is an ELF file for x86-64, not for BPF; give the object that `clang -target bpf -c` \
             made, not the program that loads it"
        );
        let mut big = changed(5, 2);
        big[16..20].copy_from_slice(&[0, 1, 0, 247]);
        assert_eq!(
            problem(&big).to_string(),
            "it is BPF for a big-endian machine; compile it with `-target bpfel`"
        );
        assert_eq!(problem(&changed(4, 1)), ElfProblem::Class);
        assert!(matches!(
            problem(&changed(16, 2)),
            ElfProblem::NotRelocatable { kind: 2 }
        ));
        assert!(matches!(
            problem(&changed(5, 9)),
            ElfProblem::Malformed { .. }
        ));
        assert!(matches!(problem(&minimal()), ElfProblem::Malformed { .. }));
    }

    #[test]
    fn sections_behind_the_end_are_refused() {
        let mut data = minimal();
        data[40] = 64;
        data[58] = 64;
        data[60] = 1;
        assert!(matches!(
            Elf::parse(&data).unwrap_err(),
            ElfProblem::Truncated { end: 128, .. }
        ));
        data[40..48].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert!(matches!(
            Elf::parse(&data).unwrap_err(),
            ElfProblem::Truncated { .. }
        ));
    }
}
