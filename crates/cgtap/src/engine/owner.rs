//! Processes that attachments go with.

use crate::store::config::Owner;

/// This process.
pub(super) fn of_this_process() -> Owner {
    let pid = std::process::id();
    Owner { pid, start_ticks: start_ticks(pid).unwrap_or_default() }
}

/// The process still runs. A pid that was given again is another process: its start differs.
pub(super) fn is_alive(owner: Owner) -> bool {
    start_ticks(owner.pid) == Some(owner.start_ticks)
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)): the start in clock ticks since boot; `None` for
/// a process that is gone or a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_is_another_process() {
        let me = of_this_process();
        assert!(is_alive(me));
        assert!(!is_alive(Owner { start_ticks: me.start_ticks + 1, ..me }));
    }
}
