//! A screen for guests with a GPU that renders: an X server without a monitor, which QEMU opens its
//! window on. What the guest's GPU does is done by the host's CPU, with Mesa's software renderer.
//! (`egl-headless`, which needs no screen, needs a GPU of the host's.)

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::Result;

/// An X server of our own. It ends with the value, and with us if we are killed.
pub struct Display {
    server: Child,
    number: u32,
}

impl Display {
    /// Starts one on a number that is free.
    pub fn start() -> Result<Self> {
        let mut server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "Xvfb"])
            .args(["-displayfd", "1", "-screen", "0", "1280x1024x24"])
            .args(["-nolisten", "tcp"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot run setpriv: {e}; install the package util-linux"))?;
        // It writes its number when it can be reached.
        let mut line = String::new();
        if let Some(out) = server.stdout.as_mut() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let Ok(number) = line.trim().parse() else {
            server.kill()?;
            let ended = server.wait()?;
            return Err(format!(
                "Xvfb does not start ({ended}); install the packages xvfb and libgl1-mesa-dri"
            )
            .into());
        };
        Ok(Self { server, number })
    }

    /// QEMU's words for a GPU that renders.
    pub fn qemu_args() -> [String; 4] {
        ["-display", "sdl,gl=on", "-device", "virtio-gpu-gl-pci"].map(str::to_owned)
    }

    /// What QEMU has to know of it.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("DISPLAY", format!(":{}", self.number)),
            ("LIBGL_ALWAYS_SOFTWARE", "1".to_owned()),
        ]
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
