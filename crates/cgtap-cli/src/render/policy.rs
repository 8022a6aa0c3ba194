//! What applying a policy changes.

use cgtap::limit::amount::{Amount, show, show_amount};

use super::{Look, Tone, counted, printable};
use crate::commands::apply::{Act, Difference, Reach, Stand};

fn stand(stand: &Stand) -> String {
    let amount = Amount {
        amount: stand.amount,
        period_ns: stand.period_ns,
    };
    let mut text = show_amount(amount, stand.unit);
    if stand.burst != stand.amount {
        text += &format!(" burst {}", show(stand.burst, stand.unit));
    }
    text += &format!(" on {}", stand.on);
    if stand.borrow {
        text += " borrow";
    }
    text
}

/// A line a change, and how much stays.
pub fn policy_changes(difference: &Difference, look: &Look) -> String {
    let mut text = String::new();
    for change in &difference.changes {
        let (sign, what) = match change.change {
            Act::Enable => ("+", "meter"),
            Act::Set => ("+", "limit"),
            Act::Change => ("~", "limit"),
            Act::Clear => ("-", "limit"),
            Act::Follow => ("+", "later"),
            Act::Unfollow => ("-", "later"),
        };
        let (cgroup, meter) = (printable(&change.cgroup), printable(&change.meter));
        let mut line = match &change.stand {
            Some(to) => format!("{sign} {what} {cgroup} {meter} {}", stand(to)),
            None => format!("{sign} {what} {meter} for {cgroup}"),
        };
        if let Some(was) = &change.was {
            line += &format!(", was {}", stand(was));
        }
        let tone = if change.is_to_be() {
            Tone::Plain
        } else {
            Tone::Warn
        };
        text += &(look.paint(tone, &line) + "\n");
    }
    text + &format!("= {} kept\n", difference.kept)
}

/// Whom each limit of a policy reaches, now and later.
pub fn policy_reach(all: &[Reach]) -> String {
    let mut text = String::new();
    for reach in all {
        let (place, written) = (printable(&reach.place), printable(&reach.written));
        text += &match (reach.matches, &reach.obstacle) {
            (None, _) => format!(
                "{place}: {written}: holds for what comes below it later too, with no process of \
                 cgtap alive\n"
            ),
            (Some(now), None) => format!(
                "{place}: {written}: {} now, each with what comes below it later; one that matches \
                 later is held from its first event on, with no process of cgtap alive\n",
                counted(now, "cgroup matches", "cgroups match")
            ),
            (Some(now), Some(why)) => format!(
                "{place}: {written}: {} now, each with what comes below it later; one that matches \
                 later is held after the next apply, or while `cgtap serve --config` runs: {why}\n",
                counted(now, "cgroup matches", "cgroups match")
            ),
        };
    }
    text
}
