//! The command run as its users run it, for the tests of it: what it said, and how it ended.

// Each test is a crate of its own, and uses what it needs.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use efibed::unstable::machine::Hypervisor;
use libtest_mimic::Trial;
use serde_json::Value;

/// A test that runs anywhere.
pub fn any(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// A test that is ignored, by name, without /dev/kvm; with `EFIBED_REQUIRE_KVM=1` it fails.
pub fn kvm(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    let required = std::env::var_os("EFIBED_REQUIRE_KVM").is_some_and(|value| value == "1");
    any(name, run).with_kind("kvm").with_ignored_flag(!required && Hypervisor::open().is_err())
}

/// What a command said, and how it ended.
pub struct Said {
    pub command: String,
    pub status: i32,
    pub out: String,
    pub err: String,
}

pub fn efibed<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Said {
    efibed_reading(arguments, b"")
}

pub fn efibed_reading<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>, input: &[u8]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
    command.args(arguments);
    run(command, input)
}

/// In a folder, with variables of the environment.
pub fn efibed_in(folder: &Directory, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efibed"));
    command.args(arguments).current_dir(&folder.0).envs(variables.iter().copied());
    run(command, b"")
}

fn run(mut command: Command, input: &[u8]) -> Said {
    command.env_remove("RUST_BACKTRACE").env_remove("CLICOLOR_FORCE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // One that needs no more input may close it.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().unwrap()
    });
    let said = Said {
        command: format!("{command:?}"),
        status: output.status.code().unwrap_or_else(|| panic!("{command:?}: {}", output.status)),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    for text in [&said.out, &said.err] {
        assert!(!text.contains("panicked at") && !text.contains("RUST_BACKTRACE"), "{said}");
        assert!(!text.contains('\x1b'), "colour, and no terminal: {said}");
    }
    said
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, out, err } = self;
        write!(f, "{command}\nstatus {status}\nstandard output:\n{out}\nstandard error:\n{err}")
    }
}

impl Said {
    #[track_caller]
    pub fn ends(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The output has all of these, each somewhere; lines may be broken anywhere.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        self.has(&self.out, parts);
        self
    }

    /// Nothing but an error, which has all of these.
    #[track_caller]
    pub fn complains(self, parts: &[&str]) -> Self {
        assert_eq!(self.out, "", "{self}");
        self.has(&self.err, parts);
        self
    }

    #[track_caller]
    pub fn without_errors(self) -> Self {
        assert_eq!(self.err, "", "{self}");
        self
    }

    #[track_caller]
    pub fn has(&self, text: &str, parts: &[&str]) {
        // miette marks the lines it breaks with a bar.
        let words = |text: &str| text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        let text = words(text);
        for part in parts {
            assert!(text.contains(&words(part)), "no `{part}`: {self}");
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

/// A file below `tests` of the repository.
pub fn repository(path: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    tests.join(path).into_os_string().into_string().unwrap()
}

/// A directory of its own for a test, removed at its end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("efibed-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().unwrap()
    }

    /// What is in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Resident memory, at its peak, of the largest command that has ended so far.
pub fn largest_child_bytes() -> u64 {
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) }, 0);
    // In KiB (getrusage(2)).
    usage.ru_maxrss as u64 * 1024
}
