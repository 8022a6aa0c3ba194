//! Budgets: what may be taken, what was, and how it is taken.
//!
//! A charge goes through the budgets of its cgroup from the innermost out, one atomic step at a
//! time, without loops or locks. With any number beside each other, in any order of their steps:
//!
//! - **A cap holds.** At no level is more let through than an absolute budget's cap; a try that
//!   would pass it is refused, whatever is being tried beside it.
//! - **A rate holds.** In any interval at most the burst is let through, and what refills in that
//!   interval and in twice the longest time that a charge was on its way, from reading the clock to
//!   its end. Twice, since a clamp that an older one overtook is left at that.
//! - **A refused charge leaves nothing.** Once it has ended, no level has anything of it; once all
//!   have ended, what is taken is the sum of what was let through, and so is what is done.
//! - **Nobody is refused for nothing.** A charge that would fit is refused only beside another that
//!   is itself refused and has not given everything back yet. If all that are on their way fit
//!   together, none is refused.
//! - **Races may cost tokens, and make none** beyond the above. At most so much is missing from a
//!   bucket as was let through and not yet done when a clamp looked, or was let through before it
//!   wrote. It does not add up: it is the most of one clamp, not the sum of all.
//!
//! All this is checked in every order of a few charges, by the model beside this file. Usage that is
//! only known afterwards is not asked; it is in what is taken for all that come after it.
//!
//! | file | what |
//! |---|---|
//! | `words`, `rate` | the words of a budget, and how it refills |
//! | `emit` | the steps of a charge, as instructions |
//! | `ladder` | a charge of budgets that are found on the way up |
//! | `pair` | what comes to a gate two times |
//! | `reserve` | what is taken for an event that may not happen |
//! | `places` | budgets that cgroups are given as they are made |
//! | `denial` | the ring of what was denied |
//! | `model` | every order of a few charges |

pub mod denial;
pub mod emit;
pub mod ladder;
#[cfg(test)]
mod model;
pub mod pair;
pub mod places;
pub mod rate;
pub mod reserve;
pub mod words;
