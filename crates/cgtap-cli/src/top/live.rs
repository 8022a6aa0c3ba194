//! The screen at work: readings, keys and drawing, one after the other.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::Event;

use super::keys::Answer;
use super::model::Model;
use super::view::View;
use super::{Snapshot, Watch};
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;

/// How often it is looked whether a signal has come.
const GLANCE: Duration = Duration::from_millis(100);

/// A reading may take one part in so many of the time: where there are thousands of cgroups they are
/// read less often.
const SHARE: u32 = 50;
/// But not less often than this, or than was asked for.
const SLOWEST: Duration = Duration::from_secs(5);

/// Where is drawn, and keys come from.
pub trait Display {
    /// Draws.
    ///
    /// # Errors
    /// [`Failure`] where that cannot be done.
    fn draw(&mut self, view: &mut View, model: &Model) -> Result<(), Failure>;

    /// What has happened, waited for no longer than `wait`.
    ///
    /// # Errors
    /// [`Failure`] where nothing can happen any more.
    fn event(&mut self, wait: Duration) -> Result<Option<Event>, Failure>;
}

/// Runs until a key or a signal ends it, or, unless that is 0, after `iterations` readings.
///
/// # Errors
/// What the reading or the display says.
pub fn run<R: FnMut() -> Result<Snapshot, Failure>>(
    display: &mut impl Display,
    view: &mut View,
    watch: &mut Watch<R>,
    iterations: u64,
    interrupt: &Interrupt,
) -> Result<Status, Failure> {
    let mut read_at = Instant::now();
    let mut done = 0;
    view.arrange(&watch.model);
    let mut changed = true;
    loop {
        if interrupt.requested() {
            return Ok(Status(Failure::INTERRUPTED_STATUS));
        }
        // Keys that are waiting all come first: who holds a key down is not drawn behind.
        match display.event(Duration::ZERO)? {
            Some(event) => {
                changed = true;
                match answer(&event, view, &watch.model) {
                    Answer::Draw => continue,
                    Answer::Quit => return Ok(Status::DONE),
                    Answer::Interrupted => return Ok(Status(Failure::INTERRUPTED_STATUS)),
                }
            }
            None if changed => display.draw(view, &watch.model)?,
            None => {}
        }
        changed = false;
        let left = view.pace().saturating_sub(read_at.elapsed());
        if view.frozen || !left.is_zero() {
            let wait = if view.frozen {
                GLANCE
            } else {
                left.min(GLANCE)
            };
            if let Some(event) = display.event(wait)? {
                changed = true;
                match answer(&event, view, &watch.model) {
                    Answer::Draw => {}
                    Answer::Quit => return Ok(Status::DONE),
                    Answer::Interrupted => return Ok(Status(Failure::INTERRUPTED_STATUS)),
                }
            }
            continue;
        }
        if iterations != 0 && done == iterations {
            return Ok(Status::DONE);
        }
        // Counted from before the reading, so that a slow one does not stretch the interval.
        read_at = Instant::now();
        watch.take()?;
        view.arrange(&watch.model);
        view.slowed_to = (read_at.elapsed() * SHARE).min(SLOWEST);
        done += 1;
        changed = true;
    }
}

fn answer(event: &Event, view: &mut View, model: &Model) -> Answer {
    match event {
        Event::Key(key) => view.key(*key, model),
        _ => Answer::Draw,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::top::arrange::Order;
    use crate::top::testing::tenants;

    /// Keys that come one after each drawing.
    struct Script {
        keys: Vec<char>,
        drawn: usize,
        due: bool,
    }

    impl Display for Script {
        fn draw(&mut self, _: &mut View, _: &Model) -> Result<(), Failure> {
            self.drawn += 1;
            self.due = true;
            Ok(())
        }

        fn event(&mut self, wait: Duration) -> Result<Option<Event>, Failure> {
            if wait.is_zero() || !self.due || self.keys.is_empty() {
                std::thread::sleep(wait.min(Duration::from_millis(1)));
                return Ok(None);
            }
            self.due = false;
            std::thread::sleep(Duration::from_millis(3));
            let code = KeyCode::Char(self.keys.remove(0));
            Ok(Some(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))))
        }
    }

    fn shown(keys: &str, frozen: bool, iterations: u64) -> (Status, usize, u64) {
        let mut display = Script {
            keys: keys.chars().collect(),
            drawn: 0,
            due: false,
        };
        let mut readings = 0;
        let mut watch = Watch {
            model: Model::default(),
            read: || {
                readings += 1;
                Ok(tenants(readings).into())
            },
        };
        let mut view = View::new(Order::default(), Duration::from_millis(10));
        view.frozen = frozen;
        let interrupt = Interrupt::default();
        let status = run(&mut display, &mut view, &mut watch, iterations, &interrupt);
        (status.unwrap(), display.drawn, readings)
    }

    #[test]
    fn it_ends_after_its_readings_and_draws_each() {
        let (status, drawn, readings) = shown("", false, 3);
        assert_eq!((status, readings), (Status::DONE, 3));
        // Before the first, and after each.
        assert_eq!(drawn, 4);
    }

    #[test]
    fn each_key_is_drawn_and_q_ends_it() {
        let (status, drawn, _) = shown("jsrq", false, 0);
        assert_eq!(status, Status::DONE);
        assert!(drawn >= 4);
    }

    #[test]
    fn frozen_it_reads_nothing() {
        let (_, _, readings) = shown("jkjkjkjkq", true, 0);
        assert_eq!(readings, 0);
    }
}
