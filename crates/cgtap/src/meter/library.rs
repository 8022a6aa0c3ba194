//! The meters that there are: those that come with cgtap, and those of a directory.

use std::path::{Path, PathBuf};

use super::file::{self, FileError};
use super::written::Meter;

/// Where meter files are looked for unless told otherwise.
pub const DEFAULT_DIR: &str = "/etc/cgtap/meters.d";

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        /// Meter files that come with cgtap: name and text.
        pub const BUILTIN: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("builtin/", $name, ".toml")))),*
        ];
    };
}
builtin!(
    "amdgpu",
    "block",
    "cpu",
    "cuda",
    "device",
    "drm",
    "drm_ioctl",
    "drm_memory",
    "gpu_engine",
    "gpu_memory",
    "i915",
    "memory",
    "nbd",
    "net",
    "net_packets",
    "nvidia",
    "nvidia_ioctl",
    "runqueue",
    "tasks",
    "virtio_gpu",
    "xe",
);

/// Where a meter comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It comes with cgtap.
    Builtin,
    /// This file.
    File(PathBuf),
}

/// A meter and where it comes from.
#[derive(Clone, Debug)]
pub struct Known {
    /// The meter.
    pub meter: Meter,
    /// Where from.
    pub source: Source,
    /// Its file's text.
    pub text: String,
}

/// The meters that there are, by name, and what is wrong with files that are none.
#[derive(Debug, Default)]
pub struct Library {
    /// By name.
    pub meters: Vec<Known>,
    /// Files that are no meters: the others work.
    pub wrong: Vec<FileError>,
}

impl Library {
    /// What comes with cgtap.
    #[must_use]
    pub fn builtin() -> Self {
        let mut library = Self::default();
        for (name, text) in BUILTIN {
            library.add(Source::Builtin, name, (*text).to_owned());
        }
        library
    }

    /// What comes with cgtap, and what is in `dir`. A directory that is not there is empty.
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        let mut library = Self::builtin();
        let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        paths.sort();
        for path in paths {
            let name = path.display().to_string();
            match std::fs::read_to_string(&path) {
                Ok(text) => library.add(Source::File(path), &name, text),
                Err(source) => library.wrong.push(FileError::Read { path: name, source }),
            }
        }
        library
            .meters
            .sort_by(|a, b| a.meter.name.cmp(&b.meter.name));
        library
    }

    fn add(&mut self, source: Source, path: &str, text: String) {
        let meter = match file::parse(path, &text) {
            Ok(meter) => meter,
            Err(e) => return self.wrong.push(e),
        };
        if let Some(known) = self.find(&meter.name) {
            let other = match &known.source {
                Source::Builtin => "comes with cgtap".to_owned(),
                Source::File(path) => format!("is in {}", path.display()),
            };
            self.wrong.push(FileError::Wrong {
                path: path.to_owned(),
                line: 0,
                why: format!("a meter {} {other}; give this one another name", meter.name),
            });
            return;
        }
        self.meters.push(Known {
            meter,
            source,
            text,
        });
    }

    /// The meter of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Known> {
        self.meters.iter().find(|k| k.meter.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_come_with_cgtap_are_meters_of_their_names() {
        let library = Library::load(Path::new("/nonexistent"));
        assert!(library.wrong.is_empty(), "{:?}", library.wrong);
        let names: Vec<&str> = library
            .meters
            .iter()
            .map(|k| k.meter.name.as_str())
            .collect();
        let files: Vec<&str> = BUILTIN.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, files);
    }
}
