//! Maps.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::types::MapType;
use super::{object_name, own};
use crate::errno::{Errno, SysError};

/// Flags of map creation that cgtap uses (include/uapi/linux/bpf.h).
pub mod flags {
    /// `BPF_F_NO_PREALLOC`: a hash allocates entries as they come.
    pub const NO_PREALLOC: u32 = 1 << 0;
    /// `BPF_F_RDONLY_PROG`: programs may only read.
    pub const RDONLY_PROG: u32 = 1 << 7;
    /// `BPF_F_MMAPABLE`: an ARRAY's values can be mapped, since 5.5.
    pub const MMAPABLE: u32 = 1 << 10;
}

/// What to create.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec<'a> {
    /// Name, for bpftool; cut to 15 characters.
    pub name: &'a str,
    /// Type.
    pub map_type: MapType,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
    /// Number of entries at the most.
    pub max_entries: u32,
    /// [`flags`].
    pub flags: u32,
}

/// What the kernel tells of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Its id.
    pub id: u32,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
    /// Number of entries at the most.
    pub max_entries: u32,
}

/// A descriptor of a map.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

/// A key and its value.
pub type MapEntry = (Vec<u8>, Vec<u8>);

/// Number of CPUs that a per-CPU value has room for.
///
/// # Errors
/// If /sys/devices/system/cpu/possible cannot be read.
pub fn possible_cpus() -> Result<usize, SysError> {
    // SAFETY: takes no pointer; caches its answer with atomics.
    let ret = unsafe { libbpf_sys::libbpf_num_possible_cpus() };
    SysError::check("read of /sys/devices/system/cpu/possible", ret).map(|n| n as usize)
}

fn is_per_cpu(map_type: u32) -> bool {
    [
        libbpf_sys::BPF_MAP_TYPE_PERCPU_HASH,
        libbpf_sys::BPF_MAP_TYPE_PERCPU_ARRAY,
        libbpf_sys::BPF_MAP_TYPE_LRU_PERCPU_HASH,
        libbpf_sys::BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
    ]
    .contains(&map_type)
}

impl Map {
    /// Creates a map (`BPF_MAP_CREATE`).
    ///
    /// # Errors
    /// The kernel's answer: `EPERM` without CAP_BPF, `ENOMEM`, `E2BIG`.
    pub fn create(spec: &MapSpec<'_>) -> Result<Self, SysError> {
        Self::make(spec, None)
    }

    /// Creates an array of one map like `inner` (`BPF_MAP_TYPE_ARRAY_OF_MAPS`, since 4.12).
    ///
    /// # Errors
    /// As [`Map::create`].
    pub(super) fn of_maps(name: &str, inner: &Self) -> Result<Self, SysError> {
        let spec = MapSpec {
            name,
            map_type: MapType::ArrayOfMaps,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            flags: 0,
        };
        Self::make(&spec, Some(inner))
    }

    fn make(spec: &MapSpec<'_>, inner: Option<&Self>) -> Result<Self, SysError> {
        let name = object_name(spec.name);
        // SAFETY: all-zero is the documented default of this plain C struct.
        let mut opts: libbpf_sys::bpf_map_create_opts = unsafe { std::mem::zeroed() };
        opts.sz = size_of_val(&opts) as _;
        opts.map_flags = spec.flags;
        if let Some(inner) = inner {
            opts.inner_map_fd = inner.fd.as_raw_fd() as _;
        }
        // SAFETY: name and options outlive the call.
        let ret = unsafe {
            libbpf_sys::bpf_map_create(
                spec.map_type as u32,
                name.as_ptr(),
                spec.key_size,
                spec.value_size,
                spec.max_entries,
                &raw const opts,
            )
        };
        Self::from_fd(own("BPF_MAP_CREATE", ret)?)
    }

    /// Takes a descriptor, which must be one of a map.
    ///
    /// # Errors
    /// `EINVAL` if it is not.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SysError> {
        let info = info(fd.as_fd())?;
        let value_size = if is_per_cpu(info.map_type) {
            (info.value_size as usize).next_multiple_of(8) * possible_cpus()?
        } else if info.map_type == libbpf_sys::BPF_MAP_TYPE_PROG_ARRAY {
            4
        } else {
            info.value_size as usize
        };
        Ok(Self {
            fd,
            key_size: info.key_size as usize,
            value_size,
        })
    }

    /// What the kernel tells of it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn info(&self) -> Result<MapInfo, SysError> {
        info(self.fd.as_fd())
    }

    /// Size in bytes of a value as user space sees it: for per-CPU maps all CPUs' values.
    #[must_use]
    pub fn value_size(&self) -> usize {
        self.value_size
    }

    /// Another descriptor of the same map.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self, SysError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|_| SysError::last("F_DUPFD_CLOEXEC"))?;
        Ok(Self {
            fd,
            key_size: self.key_size,
            value_size: self.value_size,
        })
    }

    fn check_sizes(&self, call: &'static str, key: usize, value: usize) -> Result<(), SysError> {
        if key == self.key_size && value == self.value_size {
            Ok(())
        } else {
            Err(SysError {
                call,
                errno: Errno::EINVAL,
            })
        }
    }

    /// The value under `key`, `None` if there is none.
    ///
    /// # Errors
    /// The kernel's answer; `EINVAL` for a key of the wrong size.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SysError> {
        let call = "BPF_MAP_LOOKUP_ELEM";
        let mut value = vec![0; self.value_size];
        self.check_sizes(call, key.len(), value.len())?;
        // SAFETY: key and value have the sizes that this map reads and writes.
        let ret = unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                self.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_mut_ptr().cast(),
            )
        };
        match SysError::check(call, ret) {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.errno == Errno::ENOENT => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes `value` under `key`, whether it is there or not.
    ///
    /// # Errors
    /// The kernel's answer: `E2BIG` for a full hash, `EPERM` for a frozen map, `EINVAL` for a
    /// program that does not fit a PROG_ARRAY or for wrong sizes.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<(), SysError> {
        self.write(key, value, libbpf_sys::BPF_ANY)
    }

    /// Writes `value` under `key` if there is none yet; whether that was so.
    ///
    /// # Errors
    /// As [`Map::update`].
    pub fn insert(&self, key: &[u8], value: &[u8]) -> Result<bool, SysError> {
        match self.write(key, value, libbpf_sys::BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(e) if e.errno == Errno::EEXIST => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn write(&self, key: &[u8], value: &[u8], flags: u32) -> Result<(), SysError> {
        let call = "BPF_MAP_UPDATE_ELEM";
        self.check_sizes(call, key.len(), value.len())?;
        // SAFETY: key and value have the sizes that this map reads.
        let ret = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                u64::from(flags),
            )
        };
        SysError::check(call, ret).map(drop)
    }

    /// Puts a program into a PROG_ARRAY.
    ///
    /// # Errors
    /// As [`Map::update`].
    pub fn set_prog(&self, index: u32, prog: BorrowedFd<'_>) -> Result<(), SysError> {
        self.update(&index.to_ne_bytes(), &prog.as_raw_fd().to_ne_bytes())
    }

    /// Puts a perf event into a PERF_EVENT_ARRAY, which then keeps it: its descriptor may be closed.
    /// The entry goes with the map's descriptor it was written through
    /// (kernel/bpf/arraymap.c, `perf_event_fd_array_release`).
    ///
    /// # Errors
    /// As [`Map::update`]; `EOPNOTSUPP` for an event that programs cannot read.
    pub fn set_perf_event(&self, index: u32, event: BorrowedFd<'_>) -> Result<(), SysError> {
        self.update(&index.to_ne_bytes(), &event.as_raw_fd().to_ne_bytes())
    }

    /// Removes `key`; whether it was there.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn delete(&self, key: &[u8]) -> Result<bool, SysError> {
        let call = "BPF_MAP_DELETE_ELEM";
        self.check_sizes(call, key.len(), self.value_size)?;
        // SAFETY: the key has the size that this map reads.
        let ret =
            unsafe { libbpf_sys::bpf_map_delete_elem(self.fd.as_raw_fd(), key.as_ptr().cast()) };
        match SysError::check(call, ret) {
            Ok(_) => Ok(true),
            Err(e) if e.errno == Errno::ENOENT => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Every key. Keys that come or go meanwhile may or may not be among them.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, SysError> {
        let call = "BPF_MAP_GET_NEXT_KEY";
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let last = keys.last().map_or(std::ptr::null(), |k| k.as_ptr());
            // SAFETY: both keys have this map's key size; null asks for the first key.
            let ret = unsafe {
                libbpf_sys::bpf_map_get_next_key(
                    self.fd.as_raw_fd(),
                    last.cast(),
                    next.as_mut_ptr().cast(),
                )
            };
            match SysError::check(call, ret) {
                Ok(_) => keys.push(next),
                Err(e) if e.errno == Errno::ENOENT => return Ok(keys),
                Err(e) => return Err(e),
            }
        }
    }

    /// Every key of a hash with its value, many a system call (`BPF_MAP_LOOKUP_BATCH`, since 5.6).
    /// Keys that come or go meanwhile may or may not be among them.
    ///
    /// # Errors
    /// The kernel's answer; `EINVAL` for a map that has no such call.
    pub fn entries(&self) -> Result<Vec<MapEntry>, SysError> {
        /// Entries a call; the kernel wants room for a whole bucket.
        const BATCH: usize = 1024;
        let call = "BPF_MAP_LOOKUP_BATCH";
        let mut room = BATCH;
        let mut entries = Vec::new();
        // Where the last call left off, in the kernel's own words.
        let mut place = [0u8; 8];
        let mut is_first = true;
        loop {
            let mut keys = vec![0; self.key_size * room];
            let mut values = vec![0; self.value_size * room];
            let mut count = room as u32;
            let mut next = [0u8; 8];
            let from: *mut u8 = if is_first {
                std::ptr::null_mut()
            } else {
                place.as_mut_ptr()
            };
            // SAFETY: both buffers have room for `count` keys and values of this map's sizes, and a
            // place takes at most eight bytes (a hash's is an u32, an array's its key).
            let ret = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.fd.as_raw_fd(),
                    from.cast(),
                    next.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &raw mut count,
                    std::ptr::null(),
                )
            };
            let is_last = match SysError::check(call, ret) {
                Ok(_) => false,
                Err(e) if e.errno == Errno::ENOENT => true,
                Err(e) if e.errno == Errno::ENOSPC && room < BATCH << 10 => {
                    room *= 2;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let found = (keys.chunks_exact(self.key_size))
                .zip(values.chunks_exact(self.value_size))
                .take(count as usize);
            entries.extend(found.map(|(k, v)| (k.to_vec(), v.to_vec())));
            if is_last {
                return Ok(entries);
            }
            place = next;
            is_first = false;
        }
    }

    /// No more writes from user space (`BPF_MAP_FREEZE`).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn freeze(&self) -> Result<(), SysError> {
        // SAFETY: takes a descriptor only.
        let ret = unsafe { libbpf_sys::bpf_map_freeze(self.fd.as_raw_fd()) };
        SysError::check("BPF_MAP_FREEZE", ret).map(drop)
    }
}

impl From<Map> for OwnedFd {
    fn from(map: Map) -> Self {
        map.fd
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn info(fd: BorrowedFd<'_>) -> Result<MapInfo, SysError> {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut info: libbpf_sys::bpf_map_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info` is writable for `len` bytes.
    let ret =
        unsafe { libbpf_sys::bpf_map_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut len) };
    SysError::check("BPF_OBJ_GET_INFO_BY_FD", ret)?;
    Ok(MapInfo {
        id: info.id,
        map_type: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
    })
}
