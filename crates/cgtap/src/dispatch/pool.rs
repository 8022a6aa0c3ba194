//! What the programs of a change are made from: maps and BTFs, each held once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cgtap_sys::bpf::{Map, load_btf};
use cgtap_sys::{Errno, SysError};

use super::specialise::PoolIndex;

/// The maps that the sets of a change may use, each once.
#[derive(Debug, Default)]
pub struct MapPool {
    maps: Vec<Map>,
}

impl MapPool {
    /// Takes a map; its place is what members and plans speak of.
    pub fn add(&mut self, map: Map) -> PoolIndex {
        self.maps.push(map);
        self.maps.len() - 1
    }

    /// Descriptors of the maps at these places.
    ///
    /// # Errors
    /// `EBADF` for a place where there is none.
    pub fn fds(&self, places: &[PoolIndex]) -> Result<Vec<BorrowedFd<'_>>, SysError> {
        places
            .iter()
            .map(|index| {
                self.maps.get(*index).map(AsFd::as_fd).ok_or(SysError {
                    call: "BPF_PROG_LOAD",
                    errno: Errno::EBADF,
                })
            })
            .collect()
    }
}

/// BTF of the objects that members come from.
#[derive(Debug, Default)]
pub struct BtfPool {
    objects: Vec<(Vec<u8>, std::cell::OnceCell<OwnedFd>)>,
}

impl BtfPool {
    /// Takes raw BTF, or finds the same bytes again; its place is what members speak of. `None`
    /// for an object without BTF.
    pub fn add(&mut self, raw: &[u8]) -> Option<usize> {
        if raw.is_empty() {
            return None;
        }
        Some(
            self.objects
                .iter()
                .position(|(o, _)| o == raw)
                .unwrap_or_else(|| {
                    self.objects
                        .push((raw.to_vec(), std::cell::OnceCell::new()));
                    self.objects.len() - 1
                }),
        )
    }

    /// A descriptor of it, loaded at first use.
    ///
    /// # Errors
    /// What the kernel says of the BTF.
    pub fn fd(&self, index: usize) -> Result<BorrowedFd<'_>, SysError> {
        let (raw, cell) = self.objects.get(index).ok_or(SysError {
            call: "BPF_BTF_LOAD",
            errno: Errno::EINVAL,
        })?;
        if cell.get().is_none() {
            let fd = load_btf(raw)?;
            drop(cell.set(fd));
        }
        cell.get().map(AsFd::as_fd).ok_or(SysError {
            call: "BPF_BTF_LOAD",
            errno: Errno::EINVAL,
        })
    }

    pub(super) fn raw(&self, index: usize) -> &[u8] {
        self.objects.get(index).map_or(&[], |(raw, _)| raw)
    }
}
