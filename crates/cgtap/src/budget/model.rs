//! Charges beside each other: every order of their atomic steps, and of the clock's.
//!
//! A charge is a machine whose every step touches one shared word; the clock ticks between any two.
//! What is kept beside the words (`Level::booked` and on) is what nobody in a program can see; it is
//! there to check the words with.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

const LEVELS: usize = 4;
const THREADS: usize = 3;

/// What a level is.
#[derive(Clone, Copy)]
enum Kind {
    Absolute {
        cap: i16,
    },
    /// So much comes with each tick.
    Bucket {
        cap: i16,
        rate: i16,
    },
}

use Kind::{Absolute, Bucket};

impl Kind {
    fn cap(self) -> i16 {
        match self {
            Absolute { cap } | Bucket { cap, .. } => cap,
        }
    }

    /// What came until then; 0 of an absolute one.
    fn refilled(self, clock: i16) -> i16 {
        match self {
            Absolute { .. } => 0,
            Bucket { rate, .. } => rate * clock,
        }
    }

    fn is_bucket(self) -> bool {
        matches!(self, Bucket { .. })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Charges if it fits.
    Try,
    /// Charges whatever there is.
    Post,
    /// The same, if the last try of the thread was let through: what was made, or what is not needed
    /// any more of what was reserved.
    Settle,
    /// Asks whether so much would fit.
    Ask,
}

#[derive(Clone, Copy)]
struct Charge {
    act: Act,
    /// Innermost first.
    path: &'static [usize],
    n: i16,
}

impl Charge {
    /// It asks nobody.
    fn is_sure(self) -> bool {
        matches!(self.act, Act::Post | Act::Settle)
    }
}

fn charge(path: &'static [usize], n: i16) -> Charge {
    let act = Act::Try;
    Charge { act, path, n }
}

fn post(path: &'static [usize], n: i16) -> Charge {
    let act = Act::Post;
    Charge { act, path, n }
}

fn settle(path: &'static [usize], n: i16) -> Charge {
    let act = Act::Settle;
    Charge { act, path, n }
}

fn ask(path: &'static [usize], n: i16) -> Charge {
    let act = Act::Ask;
    Charge { act, path, n }
}

/// How the algorithm goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// A clamp that another one overtook is left at that.
    Once,
    /// A clamp that an older one overtook adds what is missing.
    Topped,
    /// `Once`, and wrongly expected to be as good as `Topped`.
    OnceHeldToBeStrict,
    /// Wrong: what is being tried keeps tokens from being lost.
    ClampFromTaken,
    /// Wrong: what others took meanwhile is not looked at.
    TakeUnseen,
    /// Wrong: a refused charge keeps what it took further in.
    KeepInner,
}

/// A level's words, and what is known of it besides.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Level {
    taken: i16,
    done: i16,
    lost: i16,
    /// The sum of what was let through: tries when they are decided, posts when they are taken.
    booked: i16,
    /// What was made of what was reserved.
    made: i16,
    /// The least `booked - refilled` that a clamp began an interval with.
    since: i16,
    /// What a bucket without races would have lost.
    ideal: i16,
    /// The most that was booked at a clamp and that it did not see.
    unseen: i16,
    /// What clamps lost that topped up beside each other.
    twice: i16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Begin,
    LoadDone,
    LoadLost,
    Swap,
    TopUp,
    LoadLostAgain,
    LoadTaken,
    Take,
    PutBack,
    Undo,
    Done,
    End,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Thread {
    /// Which of its charges.
    nth: u8,
    at: At,
    /// Which level of its path.
    level: u8,
    /// The level that said no.
    no: u8,
    now: i16,
    /// Its clock; from a clamp on that an older one overtook, the oldest of all that were on their
    /// way when that clamp began.
    oldest: i16,
    done: i16,
    lost: i16,
    allowed: i16,
    /// What would have been left, had those that were on their way given back; and who they are.
    doubt: Option<(u8, i16)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    clock: i16,
    /// The longest that a charge has been on its way.
    longest: i16,
    levels: [Level; LEVELS],
    threads: [Thread; THREADS],
}

struct Model {
    how: How,
    kinds: Vec<Kind>,
    threads: Vec<Vec<Charge>>,
    /// The clock at the beginning, and up to where it may go.
    clock: (i16, i16),
}

/// What a search came to.
struct Found {
    states: usize,
    /// Whether a charge was let through, and whether one was refused, anywhere.
    passed: bool,
    refused: bool,
    /// The fewest and the most successes of all the ends.
    fewest: usize,
    most: usize,
    /// The most that `Level::unseen` and `Level::twice` came to.
    cost: i16,
}

/// Fast enough to look at a million states without optimisation.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }
    fn write_i16(&mut self, word: i16) {
        self.write_u64(word.cast_unsigned().into());
    }
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

type Step = Result<(), String>;

impl Model {
    fn new(how: How, kinds: &[Kind], threads: &[&[Charge]], clock: (i16, i16)) -> Self {
        assert!(kinds.len() <= LEVELS && threads.len() <= THREADS);
        Self {
            how,
            kinds: kinds.to_vec(),
            threads: threads.iter().map(|c| c.to_vec()).collect(),
            clock,
        }
    }

    fn first(&self) -> State {
        let mut levels = [Level::default(); LEVELS];
        for (level, kind) in levels.iter_mut().zip(&self.kinds) {
            // Nobody came yet: all that did is lost, to a bucket without races.
            level.ideal = kind.refilled(self.clock.0);
        }
        State {
            clock: self.clock.0,
            longest: 0,
            levels,
            threads: [Thread::default(); THREADS],
        }
    }

    fn charge_of(&self, thread: &Thread, t: usize) -> Option<Charge> {
        self.threads[t].get(thread.nth as usize).copied()
    }

    /// What this thread holds at a level and has not been let through with; and whether it is
    /// sure to give it back.
    fn held(&self, state: &State, t: usize, level: usize) -> (i16, bool) {
        let thread = &state.threads[t];
        let Some(charge) = self.charge_of(thread, t) else {
            return (0, false);
        };
        if charge.act != Act::Try {
            return (0, false);
        }
        let Some(nth) = charge.path.iter().position(|l| *l == level) else {
            return (0, false);
        };
        let (nth, at, no) = (nth, thread.level as usize, thread.no as usize);
        match thread.at {
            At::Begin | At::Done | At::End => (0, false),
            At::PutBack => (if nth <= no { charge.n } else { 0 }, true),
            // Undo goes from the innermost out.
            At::Undo => (if nth >= at && nth < no { charge.n } else { 0 }, true),
            _ => (if nth < at { charge.n } else { 0 }, false),
        }
    }

    /// All that somebody holds at a level; and that without what is sure to be given back.
    fn all_held(&self, state: &State, level: usize) -> (i16, i16) {
        (0..self.threads.len()).fold((0, 0), |(all, open), t| {
            let (held, doomed) = self.held(state, t, level);
            (all + held, open + if doomed { 0 } else { held })
        })
    }

    /// A charge is let through: it counts at all its levels at once.
    fn book(&self, state: &mut State, t: usize, charge: Charge, found: &mut Found) -> Step {
        found.passed = true;
        for level in charge.path {
            state.levels[*level].booked += charge.n;
        }
        for other in 0..self.threads.len() {
            if let Some((who, room)) = state.threads[other].doubt
                && who & (1 << t) != 0
            {
                let (who, room) = (who & !(1 << t), room - charge.n);
                state.threads[other].doubt = (room >= 0).then_some((who, room));
                if room >= 0 && who == 0 {
                    return Err(format!("{other} was refused beside no refused charge"));
                }
            }
        }
        Ok(())
    }

    /// A charge is refused at its level, now.
    fn refuse(&self, state: &mut State, t: usize, charge: Charge, found: &mut Found) -> Step {
        found.refused = true;
        // Whoever was refused beside this one had a reason.
        for other in &mut state.threads {
            if other.doubt.is_some_and(|(who, _)| who & (1 << t) != 0) {
                other.doubt = None;
            }
        }
        let thread = state.threads[t];
        let at = charge.path[thread.no as usize];
        let (kind, level) = (self.kinds[at], state.levels[at]);
        let allowed = kind.refilled(thread.now) + kind.cap() - level.lost;
        let room = allowed - level.booked - charge.n;
        if room < 0 {
            return Ok(());
        }
        let mut who = 0;
        for other in (0..self.threads.len()).filter(|other| *other != t) {
            match self.held(state, other, at) {
                (0, _) => {}
                (_, true) => return Ok(()),
                (_, false) => who |= 1 << other,
            }
        }
        if who == 0 {
            return Err(format!("{t} was refused at {at} beside nobody"));
        }
        if state.threads[t].doubt.is_some() {
            return Err("two doubts of one thread: keep a list".into());
        }
        state.threads[t].doubt = Some((who, room));
        Ok(())
    }

    /// To the next level of the path, or to what comes after the last.
    fn next_level(&self, state: &mut State, t: usize, charge: Charge) {
        let thread = &mut state.threads[t];
        thread.level += 1;
        (thread.done, thread.lost, thread.allowed) = (0, 0, 0);
        thread.oldest = thread.now;
        match charge.path.get(thread.level as usize) {
            Some(next) => {
                thread.at = if self.kinds[*next].is_bucket() {
                    At::LoadDone
                } else {
                    thread.allowed = self.kinds[*next].cap();
                    At::LoadTaken
                };
            }
            None => thread.at = At::End,
        }
    }

    fn end(state: &mut State, t: usize) {
        let thread = &mut state.threads[t];
        *thread = Thread {
            nth: thread.nth + 1,
            doubt: thread.doubt,
            ..Thread::default()
        };
    }

    /// What would have been settled was not reserved.
    fn end_refused(&self, state: &mut State, t: usize) {
        Self::end(state, t);
        let is_settled = |thread: &Thread| {
            let next = self.charge_of(thread, t);
            next.is_some_and(|c| c.act == Act::Settle)
        };
        while is_settled(&state.threads[t]) {
            state.threads[t].nth += 1;
        }
    }

    /// The next bucket of the path that is to be told, from this level on.
    fn next_done(&self, state: &mut State, t: usize, charge: Charge, from: usize) {
        let next = (from..charge.path.len()).find(|nth| self.kinds[charge.path[*nth]].is_bucket());
        match next {
            Some(next) => {
                let thread = &mut state.threads[t];
                thread.at = At::Done;
                thread.level = u8::try_from(next).unwrap();
                (thread.done, thread.lost, thread.allowed) = (0, 0, 0);
            }
            None => Self::end(state, t),
        }
    }

    /// A clamp holds: an interval begins.
    fn clamped(&self, level: &mut Level, kind: Kind, clock: i16) {
        level.since = level.since.min(level.booked - kind.refilled(clock));
    }

    /// After the clamp of a level.
    fn after_clamp(charge: Charge) -> At {
        if charge.is_sure() {
            At::Take
        } else {
            At::LoadLostAgain
        }
    }

    /// One atomic step of a thread.
    #[allow(clippy::too_many_lines)]
    fn step(&self, state: &mut State, t: usize, found: &mut Found) -> Step {
        let Some(charge) = self.charge_of(&state.threads[t], t) else {
            return Ok(());
        };
        let mut thread = state.threads[t];
        let nth = thread.level as usize;
        let at = charge.path[nth];
        let kind = self.kinds[at];
        let refilled = kind.refilled(thread.now);
        let want = refilled - thread.done;
        let n = charge.n;
        if thread.at != At::Begin {
            state.longest = state.longest.max(state.clock - thread.now);
        }
        match thread.at {
            At::Begin => {
                thread.now = state.clock;
                thread.oldest = state.clock;
                thread.at = match (kind, charge.act) {
                    (Bucket { .. }, _) => At::LoadDone,
                    (Absolute { .. }, Act::Post | Act::Settle) => At::Take,
                    (Absolute { cap }, _) => {
                        thread.allowed = cap;
                        At::LoadTaken
                    }
                };
                state.threads[t] = thread;
            }
            At::LoadDone => {
                let level = &state.levels[at];
                thread.done = if self.how == How::ClampFromTaken {
                    level.taken
                } else {
                    level.done
                };
                thread.at = At::LoadLost;
                state.threads[t] = thread;
            }
            At::LoadLost => {
                thread.lost = state.levels[at].lost;
                if want > thread.lost {
                    thread.at = At::Swap;
                    // Only `Begin` has no clock; a charge that ended is no longer on its way.
                    thread.oldest = (0..self.threads.len())
                        .filter(|other| state.threads[*other].at != At::Begin)
                        .map(|other| state.threads[other].now)
                        .min()
                        .unwrap_or(thread.now);
                } else {
                    self.clamped(&mut state.levels[at], kind, thread.now);
                    thread.lost = 0;
                    thread.at = Self::after_clamp(charge);
                }
                state.threads[t] = thread;
            }
            At::Swap => {
                let level = &mut state.levels[at];
                let was = level.lost;
                thread.at = Self::after_clamp(charge);
                if was == thread.lost {
                    level.lost = want;
                    thread.oldest = thread.now;
                    level.unseen = level.unseen.max(level.booked - thread.done);
                    self.clamped(level, kind, thread.now);
                } else if want <= was || self.how == How::OnceHeldToBeStrict {
                    self.clamped(level, kind, thread.now);
                    thread.oldest = thread.now;
                } else if self.how == How::Topped {
                    thread.at = At::TopUp;
                } else {
                    // The one that came between was on its way when this clamp began, or is no
                    // older than this one.
                    self.clamped(level, kind, thread.oldest);
                }
                thread.lost = if thread.at == At::TopUp { was } else { 0 };
                state.threads[t] = thread;
            }
            At::TopUp => {
                let level = &mut state.levels[at];
                let more = want - thread.lost;
                level.unseen = level.unseen.max(level.booked - thread.done);
                level.twice += level.lost.min(want) - thread.lost;
                level.lost += more;
                self.clamped(level, kind, thread.now);
                if more > refilled - kind.refilled(thread.oldest) + level.booked - thread.done {
                    return Err(format!("{t} topped up by more than it may"));
                }
                thread.at = Self::after_clamp(charge);
                (thread.lost, thread.oldest) = (0, thread.now);
                state.threads[t] = thread;
            }
            At::LoadLostAgain => {
                thread.allowed = refilled + kind.cap() - state.levels[at].lost;
                thread.done = 0;
                thread.at = At::LoadTaken;
                state.threads[t] = thread;
            }
            At::LoadTaken => {
                let fits = state.levels[at].taken + n <= thread.allowed;
                if charge.act == Act::Ask {
                    state.threads[t] = thread;
                    self.next_level(state, t, charge);
                    if !fits || state.threads[t].at == At::End {
                        Self::end(state, t);
                    }
                } else if fits {
                    thread.at = At::Take;
                    state.threads[t] = thread;
                } else {
                    thread.at = At::Undo;
                    thread.no = thread.level;
                    thread.level = 0;
                    (thread.done, thread.allowed) = (0, 0);
                    let none = thread.no == 0;
                    state.threads[t] = thread;
                    self.refuse(state, t, charge, found)?;
                    if none || self.how == How::KeepInner {
                        self.end_refused(state, t);
                    }
                }
            }
            At::Take => {
                let old = state.levels[at].taken;
                state.levels[at].taken += n;
                if charge.is_sure() {
                    state.levels[at].booked += n;
                    if charge.act == Act::Settle {
                        state.levels[at].made += n.max(0);
                    }
                    thread.allowed = 0;
                    thread.done = 0;
                    state.threads[t] = thread;
                    if kind.is_bucket() {
                        state.threads[t].at = At::Done;
                    } else {
                        self.next_post(state, t, charge);
                    }
                } else if old + n > thread.allowed && self.how != How::TakeUnseen {
                    thread.at = At::PutBack;
                    thread.no = thread.level;
                    thread.level = 0;
                    (thread.done, thread.allowed) = (0, 0);
                    state.threads[t] = thread;
                    self.refuse(state, t, charge, found)?;
                } else {
                    let (_, open) = self.all_held(state, at);
                    let level = &state.levels[at];
                    let bound = match kind {
                        Absolute { cap } => cap,
                        Bucket { cap, .. } => {
                            let late = refilled - kind.refilled(thread.oldest);
                            cap + kind.refilled(state.clock) + level.since + late
                        }
                    };
                    let sum = level.booked + open + n;
                    if sum > bound {
                        return Err(format!("{t} was let through at {at} beyond {bound}"));
                    }
                    // Of all intervals up to now, the one with the least room.
                    let times = if self.how == How::Topped { 1 } else { 2 };
                    let late = kind.refilled(times * state.longest);
                    let room = kind.cap() + kind.refilled(state.clock) - level.ideal + late;
                    if kind.is_bucket() && sum > room {
                        return Err(format!("too much in an interval at {at}: {t}"));
                    }
                    self.next_level(state, t, charge);
                    if state.threads[t].at == At::End {
                        self.book(state, t, charge, found)?;
                        self.next_done(state, t, charge, 0);
                    }
                }
            }
            At::PutBack => {
                let at = charge.path[thread.no as usize];
                state.levels[at].taken -= n;
                thread.at = At::Undo;
                let none = thread.no == 0;
                state.threads[t] = thread;
                if none || self.how == How::KeepInner {
                    self.end_refused(state, t);
                }
            }
            At::Undo => {
                state.levels[at].taken -= n;
                thread.level += 1;
                state.threads[t] = thread;
                if thread.level == thread.no {
                    self.end_refused(state, t);
                }
            }
            At::Done => {
                state.levels[at].done += n;
                if charge.is_sure() {
                    self.next_post(state, t, charge);
                } else {
                    self.next_done(state, t, charge, nth + 1);
                }
            }
            At::End => return Err("a step after the end".into()),
        }
        Ok(())
    }

    /// The next level of a charge that is not asked.
    fn next_post(&self, state: &mut State, t: usize, charge: Charge) {
        self.next_level(state, t, charge);
        match state.threads[t].at {
            At::End => Self::end(state, t),
            At::LoadTaken => {
                state.threads[t].at = At::Take;
                state.threads[t].allowed = 0;
            }
            _ => {}
        }
    }

    /// What holds at every moment.
    fn check(&self, state: &State, found: &mut Found) -> Step {
        let ended = (0..self.threads.len()).all(|t| self.charge_of(&state.threads[t], t).is_none());
        for (at, (level, kind)) in state.levels.iter().zip(&self.kinds).enumerate() {
            let (held, _) = self.all_held(state, at);
            if level.taken != level.booked + held {
                return Err(format!(
                    "taken of {at} is not what was let through and is held"
                ));
            }
            if kind.is_bucket()
                && (level.done > level.booked || ended && level.done != level.booked)
            {
                return Err(format!("done of {at} is not what was let through"));
            }
            if !kind.is_bucket() && level.made > kind.cap() {
                return Err(format!("more was made at {at} than it allows"));
            }
            if level.lost > level.ideal + level.unseen + level.twice {
                return Err(format!("{at} lost more than was on its way"));
            }
            found.cost = found.cost.max(level.unseen + level.twice);
        }
        if ended {
            let sum = usize::try_from(state.levels[self.kinds.len() - 1].booked.max(0)).unwrap();
            found.fewest = found.fewest.min(sum);
            found.most = found.most.max(sum);
        }
        Ok(())
    }

    /// Every order there is, or the first that goes wrong: who went, and where to.
    fn search(&self) -> Result<Found, String> {
        let mut found = Found {
            states: 0,
            passed: false,
            refused: false,
            fewest: usize::MAX,
            most: 0,
            cost: 0,
        };
        let mut seen: HashSet<State, BuildHasherDefault<Mix>> = HashSet::default();
        // Whose turn is next in each state of the way; the clock's is the last.
        let mut way = vec![(self.first(), 0)];
        seen.insert(self.first());
        while let Some((state, turn)) = way.last_mut() {
            let t = *turn;
            *turn += 1;
            if t > self.threads.len() {
                way.pop();
                continue;
            }
            let mut next = state.clone();
            let stepped = if t == self.threads.len() {
                next.clock = self.clock.1.min(next.clock + 1);
                Ok(())
            } else {
                self.step(&mut next, t, &mut found)
            };
            for (level, kind) in next.levels.iter_mut().zip(&self.kinds) {
                let ideal = kind.refilled(next.clock) - level.booked;
                level.ideal = level.ideal.max(ideal);
            }
            if let Err(what) = stepped.and_then(|()| self.check(&next, &mut found)) {
                way.push((next, 0));
                return Err(self.tell(&way, &what));
            }
            if seen.insert(next.clone()) {
                way.push((next, 0));
            }
        }
        found.states = seen.len();
        Ok(found)
    }

    /// The way to a mistake.
    fn tell(&self, way: &[(State, usize)], what: &str) -> String {
        let mut lines = vec![what.to_owned()];
        for pair in way.windows(2) {
            let ((before, turn), (after, _)) = (&pair[0], &pair[1]);
            let t = turn - 1;
            let who = match before.threads.get(t) {
                Some(thread) if t < self.threads.len() => {
                    format!("{t} {:?}[{}] of {}", thread.at, thread.level, thread.now)
                }
                _ => format!("clock {}", after.clock),
            };
            let words: Vec<_> = after.levels[..self.kinds.len()]
                .iter()
                .map(|l| format!("{}/{}/{}", l.taken, l.done, l.lost))
                .collect();
            lines.push(format!("{who:32} {}", words.join("  ")));
        }
        lines.join("\n")
    }
}

/// It holds, in every order; says in how many states.
#[track_caller]
fn holds(model: &Model) -> Found {
    let found = model.search().unwrap_or_else(|way| panic!("{way}"));
    let at = std::panic::Location::caller().line();
    println!(
        "line {at}: {} states, {} to {} let through, {} lost to races",
        found.states, found.fewest, found.most, found.cost
    );
    found
}

/// It does not, and this is how.
#[track_caller]
fn breaks(model: &Model, what: &str) {
    let way = model.search().err().expect("a way to a mistake");
    println!("{way}\n");
    assert!(way.contains(what), "{way}");
}

const fn absolute(cap: i16) -> Kind {
    Absolute { cap }
}

const fn bucket(cap: i16, rate: i16) -> Kind {
    Bucket { cap, rate }
}

/// Both ways to clamp.
const BOTH: [How; 2] = [How::Once, How::Topped];

#[test]
fn two_that_collide_at_a_cap() {
    let model = |a, b| {
        let threads: [&[Charge]; 2] = [&[charge(&[0], a)], &[charge(&[0], b)]];
        holds(&Model::new(How::Once, &[absolute(3)], &threads, (0, 0)))
    };
    assert_eq!(model(1, 2).fewest, 3);
    let found = model(2, 2);
    assert_eq!((found.fewest, found.most), (2, 2));
    // The one that never fits keeps the other from nothing: it does not even try.
    let found = model(4, 3);
    assert_eq!((found.fewest, found.most), (3, 3));
}

#[test]
fn three_that_collide_at_a_cap_twice_each() {
    let twice: &[Charge] = &[charge(&[0], 1), charge(&[0], 2)];
    let model = Model::new(How::Once, &[absolute(6)], &[twice; 3], (0, 0));
    let found = holds(&model);
    assert!(found.refused && found.most == 6);
}

#[test]
fn three_under_two_leaves_of_one_parent() {
    // Leaves 0 and 1, their parent 2, and the root 3.
    let kinds = [absolute(2), absolute(3), absolute(4), absolute(4)];
    let threads: [&[Charge]; 3] = [
        &[charge(&[0, 2, 3], 1), charge(&[0, 2, 3], 1)],
        &[charge(&[1, 2, 3], 2)],
        &[charge(&[1, 2, 3], 2)],
    ];
    let found = holds(&Model::new(How::Once, &kinds, &threads, (0, 0)));
    assert!(found.refused);
}

#[test]
fn what_fits_all_together_is_never_refused() {
    let kinds = [absolute(3), absolute(2), absolute(5)];
    let threads: [&[Charge]; 3] = [
        &[charge(&[0, 2], 2)],
        &[charge(&[0, 2], 1)],
        &[charge(&[1, 2], 1), charge(&[1, 2], 1)],
    ];
    assert!(!holds(&Model::new(How::Once, &kinds, &threads, (0, 0))).refused);
}

#[test]
fn a_refused_one_may_keep_another_out_while_it_gives_back() {
    // 2 does not fit the root; while it is tried there, 1 does not fit the leaf.
    let kinds = [absolute(2), absolute(1)];
    let threads: [&[Charge]; 2] = [&[charge(&[0, 1], 2)], &[charge(&[0, 1], 1)]];
    let found = holds(&Model::new(How::Once, &kinds, &threads, (0, 0)));
    assert_eq!((found.fewest, found.most), (0, 1));
}

#[test]
fn a_gauge_that_is_given_back_beside_those_who_take() {
    let kinds = [absolute(3), absolute(3)];
    let threads: [&[Charge]; 3] = [
        &[charge(&[0, 1], 2), post(&[0, 1], -2)],
        &[charge(&[0, 1], 2)],
        &[charge(&[0, 1], 1), post(&[0, 1], -1)],
    ];
    holds(&Model::new(How::Once, &kinds, &threads, (0, 0)));
}

/// What is made of a reservation is charged before that is given back; one that comes to nothing leaves
/// nothing.
#[test]
fn reservations_never_make_more_than_there_may_be() {
    let kinds = [absolute(4), absolute(4)];
    let leaf = &[0, 1];
    let threads: [&[Charge]; 3] = [
        &[charge(leaf, 2), settle(leaf, 2), settle(leaf, -2)],
        // It is smaller than it was expected to be.
        &[charge(leaf, 3), settle(leaf, 1), settle(leaf, -3)],
        // It fails.
        &[charge(&[1], 2), settle(&[1], -2)],
    ];
    let found = holds(&Model::new(How::Once, &kinds, &threads, (0, 0)));
    assert!(found.refused);
    let threads: [&[Charge]; 2] = [
        &[charge(leaf, 2), settle(leaf, 2), settle(leaf, -2)],
        &[charge(leaf, 2), settle(leaf, 2), settle(leaf, -2)],
    ];
    let found = holds(&Model::new(How::Once, &kinds, &threads, (0, 0)));
    // One may be refused while the other has its buffer and its reservation too.
    assert_eq!((found.fewest, found.most), (2, 4));
}

#[test]
fn the_model_sees_a_reservation_that_is_given_back_before_the_charge() {
    let leaf = &[0];
    let threads: [&[Charge]; 2] = [
        &[charge(leaf, 2), settle(leaf, -2), settle(leaf, 2)],
        &[charge(leaf, 2), settle(leaf, -2), settle(leaf, 2)],
    ];
    breaks(
        &Model::new(How::Once, &[absolute(3)], &threads, (0, 0)),
        "more was made",
    );
}

#[test]
fn two_at_a_bucket_and_whole_windows_between_their_steps() {
    for how in BOTH {
        for (a, b) in [(1, 1), (2, 2), (1, 2)] {
            let threads: [&[Charge]; 2] = [
                &[charge(&[0], a), charge(&[0], a)],
                &[charge(&[0], b), charge(&[0], b)],
            ];
            // Long nobody came.
            holds(&Model::new(how, &[bucket(2, 2)], &threads, (5, 8)));
            holds(&Model::new(how, &[bucket(3, 1)], &threads, (2, 4)));
        }
    }
}

#[test]
fn three_at_a_bucket_and_whole_windows_between_their_steps() {
    for how in BOTH {
        let threads: [&[Charge]; 3] = [&[charge(&[0], 2)], &[charge(&[0], 1)], &[charge(&[0], 2)]];
        holds(&Model::new(how, &[bucket(2, 2)], &threads, (3, 5)));
    }
}

#[test]
fn a_bucket_within_a_bucket_within_a_cap() {
    for how in BOTH {
        let kinds = [bucket(2, 2), bucket(3, 2), absolute(4)];
        let threads: [&[Charge]; 2] = [&[charge(&[0, 1, 2], 2)], &[charge(&[0, 1, 2], 1)]];
        holds(&Model::new(how, &kinds, &threads, (2, 4)));
    }
}

#[test]
fn a_bucket_under_a_cap_and_a_cap_under_it() {
    for how in BOTH {
        // Leaves 0 (a bucket) and 1 (a cap), their parent 2.
        for parent in [bucket(2, 2), absolute(3)] {
            let kinds = [bucket(2, 1), absolute(2), parent];
            let threads: [&[Charge]; 3] = [
                &[charge(&[0, 2], 2)],
                &[charge(&[0, 2], 1)],
                &[charge(&[1, 2], 2)],
            ];
            holds(&Model::new(how, &kinds, &threads, (2, 3)));
        }
    }
}

#[test]
fn usage_that_comes_afterwards_beside_those_who_ask() {
    for how in BOTH {
        let threads: [&[Charge]; 3] = [&[post(&[0], 3)], &[charge(&[0], 2)], &[ask(&[0], 1)]];
        holds(&Model::new(how, &[bucket(2, 2)], &threads, (2, 4)));
        let kinds = [bucket(2, 2), absolute(4)];
        let threads: [&[Charge]; 2] = [
            &[post(&[0, 1], 3), charge(&[0, 1], 1)],
            &[charge(&[0, 1], 2), ask(&[0, 1], 1)],
        ];
        holds(&Model::new(how, &kinds, &threads, (2, 4)));
    }
}

#[test]
fn what_is_let_through_and_not_yet_done_costs_as_much_of_the_burst() {
    // Nothing is done between the load and the swap of the clamp: what counts is what is on its way.
    let threads: [&[Charge]; 2] = [&[charge(&[0], 2)], &[charge(&[0], 2)]];
    let found = holds(&Model::new(How::Once, &[bucket(2, 2)], &threads, (1, 2)));
    assert_eq!(found.cost, 2);
}

#[test]
fn the_model_sees_a_clamp_that_an_older_one_overtook() {
    let threads: [&[Charge]; 2] = [&[charge(&[0], 2)], &[charge(&[0], 3)]];
    let model = |how| Model::new(how, &[bucket(2, 2)], &threads, (1, 2));
    breaks(&model(How::OnceHeldToBeStrict), "beyond");
    holds(&model(How::Once));
    holds(&model(How::Topped));
}

#[test]
fn the_model_sees_a_clamp_that_counts_what_is_only_tried() {
    // What never fits the root holds on to the leaf, and gives it back behind the clamp.
    let kinds = [bucket(2, 2), absolute(1)];
    let threads: [&[Charge]; 2] = [&[charge(&[0, 1], 2)], &[charge(&[0], 3)]];
    breaks(
        &Model::new(How::ClampFromTaken, &kinds, &threads, (1, 3)),
        "beyond",
    );
}

#[test]
fn the_model_sees_a_charge_that_does_not_look_again() {
    let threads: [&[Charge]; 2] = [&[charge(&[0], 1)], &[charge(&[0], 1)]];
    breaks(
        &Model::new(How::TakeUnseen, &[absolute(1)], &threads, (0, 0)),
        "beyond",
    );
}

#[test]
fn the_model_sees_a_refused_charge_that_keeps_what_it_took() {
    let kinds = [absolute(2), absolute(1)];
    let threads: [&[Charge]; 1] = [&[charge(&[0, 1], 2)]];
    breaks(
        &Model::new(How::KeepInner, &kinds, &threads, (0, 0)),
        "is not what was let through and is held",
    );
}
