//! The terminal: taken for as long as the screen is shown, and given back however that ends.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::draw::draw;
use super::live::Display;
use super::model::Model;
use super::view::View;
use crate::failure::Failure;
use crate::render::Look;

/// The terminal in raw mode, with a screen of our own. Goes back to what it was with the value,
/// and before anything is said of a panic.
#[derive(Debug)]
pub struct Screen {
    terminal: DefaultTerminal,
    /// Where keys come from if not from standard input.
    keys: Option<File>,
    look: Look,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// [`Failure::System`] where there is none, or it refuses.
    pub fn open(look: Look) -> Result<Self, Failure> {
        let cannot = |e| Failure::system("cannot use the terminal; --once prints instead", e);
        let keys = if io::stdin().is_terminal() {
            None
        } else {
            Some(File::open("/dev/tty").map_err(cannot)?)
        };
        let terminal = ratatui::try_init().map_err(|e| {
            let _ = ratatui::try_restore();
            cannot(e)
        })?;
        Ok(Self {
            terminal,
            keys,
            look,
        })
    }

    /// Waits until a key is there, or a signal has come. An error where the terminal has gone.
    fn wait(&self, wait: Duration) -> io::Result<()> {
        let stdin = io::stdin();
        let keys = match &self.keys {
            Some(file) => file.as_fd(),
            None => stdin.as_fd(),
        };
        let mut fds = [PollFd::new(&keys, PollFlags::IN)];
        // The longest that is asked for is a glance.
        let wait = Timespec::try_from(wait).map_err(|_| Errno::INVAL)?;
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        if fds[0].revents().intersects(gone) {
            return Err(Errno::IO.into());
        }
        Ok(())
    }
}

impl Display for Screen {
    fn draw(&mut self, view: &mut View, model: &Model) -> Result<(), Failure> {
        let clock = clock(SystemTime::now());
        let look = self.look;
        self.terminal
            .draw(|frame| draw(frame, view, model, &look, &clock))
            .map_err(Failure::output)?;
        Ok(())
    }

    fn event(&mut self, wait: Duration) -> Result<Option<Event>, Failure> {
        let cannot = |e| Failure::system("the terminal is gone", e);
        // Looked at first each time: reading from a terminal that is gone would never end.
        self.wait(Duration::ZERO).map_err(cannot)?;
        // What was read with the last key may be several.
        if event::poll(Duration::ZERO).map_err(cannot)? {
            return event::read().map(Some).map_err(cannot);
        }
        if wait.is_zero() {
            return Ok(None);
        }
        self.wait(wait).map_err(cannot)?;
        if event::poll(Duration::ZERO).map_err(cannot)? {
            return event::read().map(Some).map_err(cannot);
        }
        Ok(None)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // After a panic it was done before the message, which this would write over.
        if !std::thread::panicking() {
            let _ = ratatui::try_restore();
        }
    }
}

/// The time of day.
fn clock(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
}

#[cfg(test)]
mod tests;
