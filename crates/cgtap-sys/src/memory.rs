//! Map values in our own address space.

use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf::Map;
use crate::errno::{Errno, SysError};

/// The values of a `BPF_F_MMAPABLE` ARRAY, mapped shared: words that programs and we read and
/// write whole, without a system call.
#[derive(Debug)]
pub struct Words {
    base: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the words are atomics; the mapping belongs to this value alone.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the values of `map`.
    ///
    /// # Errors
    /// `EPERM` for a frozen map or one made without `BPF_F_MMAPABLE`, `EINVAL` for an empty one.
    pub fn map(map: &Map) -> Result<Self, SysError> {
        let info = map.info()?;
        // The kernel rounds each value up to 8 bytes (kernel/bpf/arraymap.c).
        let bytes = (info.value_size as usize).next_multiple_of(8) * info.max_entries as usize;
        let call = "mmap of a map";
        if bytes == 0 {
            return Err(SysError {
                call,
                errno: Errno::EINVAL,
            });
        }
        // SAFETY: asks for a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(SysError::last(call));
        }
        let base = NonNull::new(base.cast()).ok_or(SysError {
            call,
            errno: Errno::EFAULT,
        })?;
        Ok(Self {
            base,
            len: bytes / 8,
        })
    }

    /// The words.
    #[must_use]
    pub fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `len` words long and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Word `index`, 0 behind the end.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.as_slice()
            .get(index)
            .map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Sets word `index`; does nothing behind the end.
    pub fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.as_slice().get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length and is not used again.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len * 8) };
    }
}
