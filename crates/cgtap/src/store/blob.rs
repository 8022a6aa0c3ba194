//! A record in a pinned map: bpffs holds nothing but BPF objects, so what has to be remembered is
//! the one value of a frozen ARRAY, with a header that tells ours from a stranger's.

use std::path::Path;

use cgtap_sys::bpf::{Map, MapSpec, MapType, get_map, pin};
use cgtap_sys::{Errno, SysError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// First bytes of every record of ours.
const MAGIC: [u8; 8] = *b"cgtap\0st";
/// Layout of what follows. A newer one is refused, not guessed at.
pub const VERSION: u32 = 8;
const HEADER: usize = 24;

/// A record that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The kernel said no.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// It is no record of ours.
    #[error("it was not made by cgtap")]
    Foreign,
    /// It is one of a newer cgtap.
    #[error("it was made by a newer cgtap (layout {found}; this one knows {VERSION})")]
    Newer {
        /// Its layout.
        found: u32,
    },
    /// It is damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Makes a record of `value` in a new map and pins it at `path`, where nothing may be.
///
/// # Errors
/// [`BlobError::Sys`]: `EEXIST`, `ENOMEM`, `ENOSPC`, `EROFS`.
pub fn write(path: &Path, name: &str, value: &impl Serialize) -> Result<(), BlobError> {
    let body = postcard::to_stdvec(value).map_err(|_| BlobError::Damaged("cannot be encoded"))?;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_ne_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_ne_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_ne_bytes());
    bytes.extend_from_slice(&body);
    let size = u32::try_from(bytes.len()).map_err(|_| SysError {
        call: "BPF_MAP_CREATE",
        errno: Errno::E2BIG,
    })?;
    let map = Map::create(&MapSpec {
        name,
        map_type: MapType::Array,
        key_size: 4,
        value_size: size,
        max_entries: 1,
        flags: 0,
    })?;
    map.update(&0u32.to_ne_bytes(), &bytes)?;
    map.freeze()?;
    pin(&map, path)?;
    Ok(())
}

/// Reads the record pinned at `path`; `None` if nothing is there.
///
/// # Errors
/// [`BlobError`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, BlobError> {
    let map = match get_map(path) {
        Ok(map) => map,
        Err(e) if e.errno == Errno::ENOENT => return Ok(None),
        Err(e) if e.errno == Errno::EINVAL => return Err(BlobError::Foreign),
        Err(e) => return Err(e.into()),
    };
    let info = map.info()?;
    if info.map_type != MapType::Array as u32 || info.key_size != 4 || info.max_entries != 1 {
        return Err(BlobError::Foreign);
    }
    let bytes = map.lookup(&0u32.to_ne_bytes())?.ok_or(BlobError::Foreign)?;
    decode(&bytes).map(Some)
}

/// Checks the header and reads what is behind it.
///
/// # Errors
/// [`BlobError`] for anything that is no whole record of ours.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BlobError> {
    let (header, body) = bytes.split_at_checked(HEADER).ok_or(BlobError::Foreign)?;
    if header[..8] != MAGIC {
        return Err(BlobError::Foreign);
    }
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let found = word(8);
    if found > VERSION {
        return Err(BlobError::Newer { found });
    }
    if found < VERSION {
        return Err(BlobError::Damaged(
            "its layout is one that no release has had",
        ));
    }
    if word(16) as usize != body.len() || word(20) != 0 {
        return Err(BlobError::Damaged("its length is not what it says"));
    }
    if word(12) != crc32fast::hash(body) {
        return Err(BlobError::Damaged("its checksum is wrong"));
    }
    postcard::from_bytes(body).map_err(|_| BlobError::Damaged("its content makes no sense"))
}
