//! Programs of the host that are called: what they say is kept, and a missing one names its package.

use std::process::Command;

use crate::Result;

/// Runs a program; its standard output. `package` is what has it on Debian.
pub fn run(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|e| format!("cannot run {name}: {e}; install the package {package}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let status = output.status;
        return Err(format!("{name} failed ({status}): {}", words.trim()).into());
    }
    Ok(output.stdout)
}

/// The same, for output that is text.
pub fn text(command: &mut Command, package: &str) -> Result<String> {
    Ok(String::from_utf8(run(command, package)?)?)
}
