//! What libbpf says while it works.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::sync::Once;

/// More than this is not kept: a hostile object can make libbpf talk without end.
const LOG_LIMIT_BYTES: usize = 256 * 1024;

/// What was said.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// All warnings, a line each.
    pub(super) warnings: String,
    /// The last line below a warning: some refusals come with nothing else.
    pub(super) last: String,
}

thread_local! {
    /// The log of the innermost [`Capture`] of this thread.
    static LOG: RefCell<Option<Said>> = const { RefCell::new(None) };
}

unsafe extern "C" {
    /// The C library's; the `libc` crate leaves out all that takes a `va_list`.
    fn vsnprintf(
        buffer: *mut c_char,
        size: usize,
        format: *const c_char,
        arguments: *mut libbpf_sys::__va_list_tag,
    ) -> c_int;
}

/// Called by libbpf for each line. Lines of threads that capture nothing are dropped: a library
/// does not write on its user's terminal.
unsafe extern "C" fn print(
    level: libbpf_sys::libbpf_print_level,
    format: *const c_char,
    arguments: *mut libbpf_sys::__va_list_tag,
) -> c_int {
    // Nothing here may unwind into C: `try_with` and `try_borrow_mut` fail silently instead.
    let _ = LOG.try_with(|log| {
        if let Ok(mut log) = log.try_borrow_mut()
            && let Some(log) = log.as_mut()
            && log.warnings.len() < LOG_LIMIT_BYTES
        {
            let mut line = [0_u8; 2048];
            // SAFETY: libbpf hands over a format and its matching arguments, used once;
            // `vsnprintf` writes no more than the buffer's size and ends it in NUL.
            let wanted =
                unsafe { vsnprintf(line.as_mut_ptr().cast(), line.len(), format, arguments) };
            let len = usize::try_from(wanted).unwrap_or(0).min(line.len() - 1);
            let text = String::from_utf8_lossy(&line[..len]);
            if level == libbpf_sys::LIBBPF_WARN {
                log.warnings.push_str(&text);
            } else {
                log.last.clear();
                log.last.push_str(&text);
            }
        }
    });
    0
}

/// Collects libbpf's warnings of this thread until it is dropped.
pub(super) struct Capture {
    outer: Option<Said>,
}

impl Capture {
    pub(super) fn start() -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            // SAFETY: `print` has the type libbpf asks for and may be called from any thread.
            unsafe { libbpf_sys::libbpf_set_print(Some(print)) };
        });
        Self {
            outer: LOG.replace(Some(Said::default())),
        }
    }

    /// What was said so far.
    pub(super) fn said(&self) -> Said {
        LOG.with_borrow(|log| log.clone().unwrap_or_default())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        LOG.replace(self.outer.take());
    }
}
