//! The processes that there are.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// Looks at each process of `proc`, which is /proc or made as that is: by its number and its directory. One
/// that ends meanwhile is left out. Returns how many may not be looked at.
///
/// # Errors
/// The list cannot be read.
pub fn each(proc: &Path, mut look: impl FnMut(u32, &Path) -> Result<()>) -> Result<usize> {
    let mut refused = 0;
    for entry in std::fs::read_dir(proc)? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let looked = look(pid, &entry.path());
        let is_refused = |e: &Error| e.kind() == ErrorKind::PermissionDenied;
        refused += usize::from(looked.as_ref().is_err_and(is_refused));
    }
    Ok(refused)
}
