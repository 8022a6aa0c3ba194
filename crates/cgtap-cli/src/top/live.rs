//! The screen at work: readings, keys and drawing, one after the other.

use std::time::{Duration, Instant};

use cgtap::meter::usage::UsageReport;
use ratatui::crossterm::event::Event;

use super::Watch;
use super::keys::Answer;
use super::model::Model;
use super::view::View;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;

/// How often it is looked whether a signal has come.
const GLANCE: Duration = Duration::from_millis(100);

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
pub fn run<R: FnMut() -> Result<UsageReport, Failure>>(
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
        let left = view.interval.saturating_sub(read_at.elapsed());
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
