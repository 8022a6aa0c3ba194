//! Reading for limits, and following the files of hooks, in a thread of its own: it may take longer than a
//! look at budgets.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cgtap::engine::{Engine, Reader};

use crate::failure::Failure;
use crate::tell::Teller;

/// Of the time it reads no more than one part of so many: what takes longer is read less often.
const READS_OF: u32 = 10;

/// A thread that reads for limits as long as the value is there.
#[derive(Debug)]
pub struct Reading {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    /// Begins to read, each `every`.
    ///
    /// # Errors
    /// [`Failure::System`] if there can be no thread.
    pub fn start(engine: &Engine, every: Duration, teller: Teller) -> Result<Self, Failure> {
        let mut reader = engine.reader();
        let (stop, stopped) = channel();
        let read = move || {
            let mut said = Said::default();
            let mut pause = Duration::ZERO;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                let begin = Instant::now();
                said.of(&mut reader, &teller);
                pause = pause_after(begin.elapsed(), every);
            }
        };
        let thread = std::thread::Builder::new()
            .name("reading".to_owned())
            .spawn(read)
            .map_err(|e| Failure::system("cannot start a thread", e))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A reading that is under way is charged to its end.
            let _ = thread.join();
        }
    }
}

/// How long nothing is read after a reading that took so long.
fn pause_after(took: Duration, every: Duration) -> Duration {
    every.saturating_sub(took).max(took * (READS_OF - 1))
}

/// What was said of readings: each thing once, until it is over.
#[derive(Default)]
struct Said(BTreeSet<String>);

impl Said {
    fn of(&mut self, reader: &mut Reader, teller: &Teller) {
        let unread: BTreeSet<String> = match reader.step() {
            Ok(unread) => unread.into_iter().flatten().collect(),
            Err(e) => [format!("what is read was not read: {e}")].into(),
        };
        for why in unread.difference(&self.0) {
            teller.note(why);
        }
        self.0 = unread;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_read_less_often() {
        let every = Duration::from_millis(250);
        let ms = Duration::from_millis;
        assert_eq!(pause_after(ms(0), every), ms(250));
        assert_eq!(pause_after(ms(20), every), ms(230));
        assert_eq!(pause_after(ms(100), every), ms(900));
    }
}
