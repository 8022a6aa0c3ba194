use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::interrupt::Interrupt;
use crate::top::Watch;
use crate::top::arrange::Order;
use crate::top::testing::tenants;

/// Set for the process that is shown in a terminal: what is to happen in it.
const ROLE: &str = "CGTAP_TEST_TOP";
const NAME: &str = "top::terminal::tests::shown";

/// Shows a screen where another test asks for that.
#[test]
fn shown() {
    let Some(role) = std::env::var_os(ROLE) else {
        return;
    };
    let interrupt = Interrupt::noted().unwrap();
    let mut readings = 0;
    let read = move || {
        readings += 1;
        if role == "panic" && readings == 3 {
            panic!("a panic in the middle of the screen");
        }
        if role == "fail" && readings == 3 {
            return Err(Failure::Unsupported("no more".to_owned()));
        }
        Ok(tenants(readings).into())
    };
    let mut watch = Watch {
        model: Model::default(),
        read,
    };
    watch.take().unwrap();
    let mut view = View::new(Order::default(), Duration::from_millis(100));
    let look = Look {
        colour: true,
        unicode: true,
        width: None,
    };
    let mut screen = Screen::open(look).unwrap();
    let ended = crate::top::live::run(&mut screen, &mut view, &mut watch, 0, &interrupt);
    drop(screen);
    println!(
        "\r\nended with {:?}\r",
        ended.map(|status| status.0).map_err(|e| e.message())
    );
}

/// A terminal in which a screen is shown.
struct Shown {
    script: Child,
    directory: tempfile::TempDir,
}

impl Shown {
    fn new(role: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let test = std::env::current_exe().unwrap();
        let inner = format!(
            "cd {}; stty rows 24 cols 80; stty -g >before; \
             sh -c 'echo $$ >pid; exec {} --exact {NAME} --nocapture'; stty -g >after",
            directory.path().display(),
            test.display(),
        );
        let script = Command::new("script")
            .args(["-qfc", &inner])
            .arg(directory.path().join("out"))
            .env(ROLE, role)
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run script: {e}; `./dev test` installs it"));
        Self { script, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What was written to the terminal.
    fn out(&self) -> String {
        let mut out = Vec::new();
        let file = std::fs::File::open(self.path("out"));
        let _ = file.map(|mut file| file.read_to_end(&mut out));
        String::from_utf8_lossy(&out).into_owned()
    }

    fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !what(self) {
            assert!(Instant::now() < end, "{:?}", self.out());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    fn pid(&self) -> Pid {
        let pid = std::fs::read_to_string(self.path("pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    /// Waits until the terminal is the shell's again, and looks whether it is as it was.
    fn ends(mut self) -> String {
        self.wait_for(|shown| lines(&shown.path("after")) == 1);
        drop(self.script.stdin.take());
        self.script.wait().unwrap();
        let state = |name| std::fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(state("before"), state("after"));
        let out = self.out();
        let (entered, left) = (out.find("\x1b[?1049h"), out.rfind("\x1b[?1049l"));
        assert!(entered.is_some() && entered < left, "{out:?}");
        let (hidden, shown) = (out.rfind("\x1b[?25l"), out.rfind("\x1b[?25h"));
        assert!(hidden < shown, "{out:?}");
        out[left.unwrap()..].to_owned()
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn keys_reach_the_screen_and_q_gives_the_terminal_back() {
    let mut shown = Shown::new("run");
    shown.wait_for(|shown| shown.out().contains("user.slice"));
    shown.press("?");
    shown.wait_for(|shown| shown.out().contains("Ctrl-C"));
    shown.press("?\x1b[Bq");
    assert!(shown.ends().contains("ended with Ok(0)"));
}

#[test]
fn control_c_and_signals_give_the_terminal_back() {
    let mut shown = Shown::new("run");
    shown.wait_for(|shown| shown.out().contains("user.slice"));
    shown.press("\x03");
    assert!(shown.ends().contains("ended with Ok(130)"));
    for signal in [Signal::TERM, Signal::INT] {
        let shown = Shown::new("run");
        shown.wait_for(|shown| shown.out().contains("user.slice"));
        kill_process(shown.pid(), signal).unwrap();
        assert!(shown.ends().contains("ended with Ok(130)"));
    }
}

#[test]
fn a_panic_and_a_failure_give_the_terminal_back_before_they_are_told() {
    let behind = Shown::new("panic").ends();
    assert!(
        behind.contains("a panic in the middle of the screen"),
        "{behind:?}"
    );
    let behind = Shown::new("fail").ends();
    assert!(
        behind.contains(r#"ended with Err("no more")"#),
        "{behind:?}"
    );
}

#[test]
fn it_ends_with_its_terminal() {
    let mut shown = Shown::new("run");
    shown.wait_for(|shown| shown.out().contains("user.slice"));
    let process = shown.path("pid");
    let pid = std::fs::read_to_string(process).unwrap();
    // Killed, it hangs up the terminal.
    shown.script.kill().unwrap();
    let there = || Path::new("/proc").join(pid.trim()).exists();
    shown.wait_for(|_| !there());
}

#[test]
fn the_time_of_day_is_told() {
    let at = |seconds| clock(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "00:00:00 UTC");
    assert_eq!(at(86_400 * 3 + 14 * 3600 + 2 * 60 + 31), "14:02:31 UTC");
}
