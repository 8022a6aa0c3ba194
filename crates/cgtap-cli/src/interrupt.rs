//! Ctrl-C and its like: a request that is looked at between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// How often something that waits looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);

/// How long a single change of the state, once begun, may take to end well after Ctrl-C.
const GRACE: Duration = Duration::from_secs(2);

/// Whether the user, or the system, wants the command to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// For commands that wait, or that have to clean up: the signal is noted and all else is
    /// theirs.
    ///
    /// # Errors
    /// [`Failure::System`] if a handler cannot be set.
    pub fn noted() -> Result<Self, Failure> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // `nohup` means it: the end of the terminal is not to end this. SIGINT is ignored in
            // what a script runs in its background too, but `kill -INT` is then meant.
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            let number = usize::try_from(signal).unwrap_or(1);
            signal_hook::flag::register_usize(signal, Arc::clone(&interrupt.signal), number)
                .map_err(|e| Failure::system("cannot watch for signals", e))?;
        }
        Ok(interrupt)
    }

    /// For commands that make one call of the engine, which cannot be left in the middle: after a
    /// signal the call has [`GRACE`] to end, and the command then says what it did. If it does
    /// not end, or at a second signal, `tell` is called and the process ends with status 130; the
    /// state is whole even then, as after any other death.
    ///
    /// # Errors
    /// [`Failure::System`] if handlers cannot be set.
    pub fn with_grace(tell: impl FnOnce(&Failure) + Send + 'static) -> Result<(), Failure> {
        let watch = |e| Failure::system("cannot watch for signals", e);
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(watch)?;
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                signals.forever().next();
                let end = Instant::now() + GRACE;
                while Instant::now() < end && signals.pending().next().is_none() {
                    thread::sleep(GLANCE);
                }
                tell(&Failure::Interrupted);
                signal_hook::low_level::exit(i32::from(Failure::INTERRUPTED_STATUS));
            })
            .map_err(watch)?;
        Ok(())
    }

    /// For what has to be done before there is anything to wait for, such as waiting for the state: as long as
    /// the value lives, a signal gives it [`GRACE`] to end; then `give_up` is called and the process ends with
    /// status 130.
    ///
    /// # Errors
    /// [`Failure::System`] if there is no thread for it.
    pub fn begin(
        &self,
        give_up: impl FnOnce(&Failure) + Send + 'static,
    ) -> Result<Beginning, Failure> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (interrupt, ended) = (self.clone(), Arc::clone(&is_over));
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let mut end = None;
                while !ended.load(Ordering::Relaxed) {
                    if interrupt.requested() {
                        let end = *end.get_or_insert_with(|| Instant::now() + GRACE);
                        if Instant::now() >= end {
                            give_up(&Failure::Interrupted);
                            signal_hook::low_level::exit(i32::from(Failure::INTERRUPTED_STATUS));
                        }
                    }
                    thread::sleep(GLANCE);
                }
            })
            .map_err(|e| Failure::system("cannot watch for signals", e))?;
        Ok(Beginning { is_over })
    }

    /// The signal that has come, if one has.
    pub fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// Whether a signal has come.
    pub fn requested(&self) -> bool {
        self.signal().is_some()
    }

    /// Goes on only if no signal has come.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] if one has.
    pub fn check(&self) -> Result<(), Failure> {
        if self.requested() {
            Err(Failure::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits until `end`, or for ever, but not beyond a signal. True if the time is over.
    pub fn wait_until(&self, end: Option<Instant>) -> bool {
        while !self.requested() {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => return true,
                Some(left) => thread::sleep(left.min(GLANCE)),
                None => thread::sleep(GLANCE),
            }
        }
        false
    }
}

/// What has to be done first, see [`Interrupt::begin`].
#[derive(Debug)]
pub struct Beginning {
    is_over: Arc<AtomicBool>,
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Whether the process was started with `signal` ignored.
fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| ignored_mask(&status))
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn ignored_mask(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tcgtap\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert_eq!(ignored_mask(status), Some(0x1001));
        assert_eq!(ignored_mask("Name:\tcgtap\n"), None);
    }

    #[test]
    fn waiting_ends_with_the_time_or_with_a_signal() {
        let interrupt = Interrupt::default();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(interrupt.wait_until(Some(soon)));
        assert!(interrupt.check().is_ok());
        interrupt.signal.store(2, Ordering::Relaxed);
        assert!(!interrupt.wait_until(None));
        assert!(matches!(interrupt.check(), Err(Failure::Interrupted)));
    }
}
