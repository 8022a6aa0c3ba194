//! What the kernel said.

use std::fmt;

/// An error number, shown by its name: `EPERM`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self(libc::$name);
            )*

            /// The name in errno.h, or `errno N`.
            #[must_use]
            pub fn name(self) -> String {
                match self.0 {
                    // ENOTSUPP is the kernel's own and in no header of user space.
                    524 => "ENOTSUPP".to_owned(),
                    $(libc::$name => stringify!($name).to_owned(),)*
                    other => format!("errno {other}"),
                }
            }

            /// The errno of a name in errno.h.
            #[must_use]
            pub fn by_name(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ETXTBSY EFBIG ENOSPC EROFS ENAMETOOLONG ENOSYS
    ENOTEMPTY ELOOP ERANGE EOVERFLOW EOPNOTSUPP ETIMEDOUT ESTALE EDQUOT ENOLINK ECANCELED EPROTO
    EILSEQ EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT ENOTTY ENOBUFS
}

impl Errno {
    /// The calling thread's `errno`.
    #[must_use]
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A system call that failed: which, and the kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {errno}")]
pub struct SysError {
    /// The call, as the manual page or `enum bpf_cmd` names it.
    pub call: &'static str,
    /// The kernel's answer.
    pub errno: Errno,
}

impl SysError {
    pub(crate) fn last(call: &'static str) -> Self {
        Self {
            call,
            errno: Errno::last(),
        }
    }

    /// For libbpf's low-level calls, which return the negative number.
    pub(crate) fn check(call: &'static str, ret: i32) -> Result<i32, Self> {
        if ret < 0 {
            Err(Self {
                call,
                errno: Errno(-ret),
            })
        } else {
            Ok(ret)
        }
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_errno_and_back() {
        for errno in [Errno::EPERM, Errno::EIO, Errno::EAGAIN, Errno::EDQUOT] {
            assert_eq!(Errno::by_name(&errno.name()), Some(errno));
        }
        for name in ["", "EFOO", "eperm", "ENOTSUPP", "errno 1"] {
            assert_eq!(Errno::by_name(name), None, "{name}");
        }
    }
}
