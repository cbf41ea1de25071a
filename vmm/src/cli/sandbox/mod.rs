//! A sandbox for strangers' code: the guest runs in a child process that can do little else.
//!
//! A mapper, a map or a guest that got the better of KVM or of this program would act as the user who started it. So the
//! command reads its input and opens its outputs, and forks. The child opens /dev/kvm, gives up everything else
//! ([`parts`]), runs the guest, renders the report, and tells it through a pipe. Only the parent writes to files and to
//! the terminal.
//!
//! | file | what |
//! | --- | --- |
//! | `child` | the child's life, from the fork to its last message |
//! | `parts` | what the child gives up, part by part |
//! | `calls` | the system calls and KVM's ioctls that it keeps, with reasons |
//! | `message` | what it tells the parent |
//!
//! This is a matter of the command. The library never forks, and never confines the process that calls it.

mod calls;
mod child;
mod message;
mod parts;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io::{self, BufRead as _, BufReader, PipeReader, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(feature = "unstable")]
pub use self::message::PIPE;
use self::message::{BESIDE, Message, Teller};
use super::{Failure, Status};
use crate::engine::EngineError;
use crate::{EngineName, Progress, TestBed};

/// Whether the guest runs in a sandbox.
#[derive(Args, Clone, Copy, Default)]
pub struct Sandbox {
    /// Run the guest in this process; by default it runs in a child that may call little more than KVM
    #[arg(long)]
    no_sandbox: bool,
}

impl Sandbox {
    /// Runs `work` on a test bed, in the sandbox if there is a guest to run, and passes on how far it is. The walker runs
    /// built-in layouts only and calls no KVM, so it needs none.
    pub fn run<T: Serialize + DeserializeOwned, P: Serialize + DeserializeOwned>(
        self,
        engine: EngineName,
        work: impl FnOnce(&TestBed, &dyn Fn(P)) -> Result<T, EngineError>,
        progress: &dyn Fn(P),
    ) -> Result<T, Failure> {
        match engine {
            EngineName::Kvm if !self.no_sandbox => confined(work, progress),
            EngineName::Kvm | EngineName::Walker => Ok(work(&TestBed::without_kvm(), progress)?),
        }
    }
}

impl Sandbox {
    /// The same on KVM with a socket for a debugger, the other end of which this process has. `begun` is called once it may have
    /// threads.
    pub fn run_beside<T: Serialize + DeserializeOwned, P: Serialize + DeserializeOwned>(
        self,
        socket: OwnedFd,
        work: impl FnOnce(&TestBed, OwnedFd, &dyn Fn(P)) -> Result<T, EngineError>,
        begun: impl FnOnce(),
        progress: &dyn Fn(P),
    ) -> Result<T, Failure> {
        if self.no_sandbox {
            begun();
            return Ok(work(&TestBed::without_kvm(), socket, progress)?);
        }
        let body = |teller: Teller| {
            let bed = TestBed::new()?;
            parts::confine(&parts::CHILD)?;
            // SAFETY: the child has it there, and nobody else in it owns it.
            let socket = unsafe { OwnedFd::from_raw_fd(BESIDE) };
            Ok(work(&bed, socket, &|progress| teller.tell(&Message::<T, P>::Progress(progress)))?)
        };
        let (child, pipe) = start(Some(&socket), body)?;
        // So that it ends when the child does.
        drop(socket);
        begun();
        child.hear(pipe, progress)
    }
}

/// What a child says of the things that it works on.
#[derive(Serialize, Deserialize)]
enum Word<T> {
    Begun(usize),
    Ended(usize, T),
}

impl Sandbox {
    /// Runs `work` on each of `count` things, `jobs` at a time, and tells what came of it: with the engine KVM in as many
    /// confined children, otherwise in threads. One on which a child ended without a result has failed, and another child
    /// goes on with the rest.
    pub fn run_each<T: Serialize + DeserializeOwned>(
        self,
        engine: EngineName,
        count: usize,
        jobs: usize,
        work: &(impl Fn(&TestBed, usize) -> T + Sync),
        told: &(dyn Fn(usize, Result<T, Failure>) + Sync),
    ) -> Result<(), Failure> {
        match engine {
            EngineName::Kvm if !self.no_sandbox => {
                let mut left: Vec<usize> = (0..count).collect();
                while !left.is_empty() {
                    left = crew(&left, jobs, work, told)?;
                }
            }
            EngineName::Kvm => in_threads(&TestBed::new()?, count, jobs, work, told),
            EngineName::Walker => in_threads(&TestBed::without_kvm(), count, jobs, work, told),
        }
        Ok(())
    }
}

fn in_threads<T>(
    bed: &TestBed,
    count: usize,
    jobs: usize,
    work: &(impl Fn(&TestBed, usize) -> T + Sync),
    told: &(dyn Fn(usize, Result<T, Failure>) + Sync),
) {
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < count);
    let run = || std::iter::from_fn(take).for_each(|index| told(index, Ok(work(bed, index))));
    thread::scope(|scope| (0..jobs.min(count)).for_each(|_| _ = scope.spawn(run)));
}

/// Shares things among confined children, and returns those that none of them came to: of a child that ended too soon. It
/// has failed on the one that it had begun. If it had begun none, none would be better.
fn crew<T: Serialize + DeserializeOwned>(
    things: &[usize],
    jobs: usize,
    work: &(impl Fn(&TestBed, usize) -> T + Sync),
    told: &(dyn Fn(usize, Result<T, Failure>) + Sync),
) -> Result<Vec<usize>, Failure> {
    let jobs = jobs.min(things.len());
    let share = |first: usize| things.iter().copied().skip(first).step_by(jobs);
    let body = |first: usize| {
        move |teller: Teller| {
            let bed = TestBed::new()?;
            parts::confine(&parts::CHILD)?;
            let tell = |word| teller.tell(&Message::<(), Word<T>>::Progress(word));
            for index in share(first) {
                tell(Word::Begun(index));
                tell(Word::Ended(index, work(&bed, index)));
            }
            Ok(())
        }
    };
    // All of them before any is heard: a process of several threads makes no child.
    let children: Vec<_> = (0..jobs).map(|first| start(None, body(first))).collect::<Result<_, _>>()?;
    let hear = |(child, pipe): (Child, PipeReader)| {
        let (begun, ended) = (Cell::new(None), Cell::new(0));
        let heard = child.hear::<(), Word<T>>(pipe, &|word| match word {
            Word::Begun(index) => begun.set(Some(index)),
            Word::Ended(index, result) => {
                begun.set(None);
                ended.set(ended.get() + 1);
                told(index, Ok(result));
            }
        });
        match (heard, begun.get()) {
            (Ok(()), _) => Ok(ended.get()),
            (Err(failure), Some(index)) => {
                told(index, Err(failure));
                Ok(ended.get() + 1)
            }
            (Err(failure), None) => Err(failure),
        }
    };
    let ended: Vec<Result<usize, Failure>> = thread::scope(|scope| {
        let threads: Vec<_> = children.into_iter().map(|child| scope.spawn(|| hear(child))).collect();
        let lost = |_| Err(Failure::sandbox("what a child process said could not be heard".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    });
    let mut left = Vec::new();
    for (first, ended) in ended.into_iter().enumerate() {
        left.extend(share(first).skip(ended?));
    }
    Ok(left)
}

/// Runs `work` in a confined child, on a test bed whose /dev/kvm was opened before.
fn confined<T: Serialize + DeserializeOwned, P: Serialize + DeserializeOwned>(
    work: impl FnOnce(&TestBed, &dyn Fn(P)) -> Result<T, EngineError>,
    progress: &dyn Fn(P),
) -> Result<T, Failure> {
    in_child(
        |teller| {
            let bed = TestBed::new()?;
            parts::confine(&parts::CHILD)?;
            Ok(work(&bed, &|progress| teller.tell(&Message::<T, P>::Progress(progress)))?)
        },
        progress,
    )
}

/// Confines this process for good, as a child is that runs a guest. The error is a sentence.
///
/// What it is refused later ends it, with a message to [`PIPE`].
#[cfg(feature = "unstable")]
pub fn confine() -> Result<(), String> {
    parts::confine(&parts::CHILD).map_err(|failure| failure.in_words().1)
}

/// The same for a process of a campaign, which says on standard error what it is refused.
#[cfg(feature = "fuzz")]
pub fn confine_client() -> Result<(), String> {
    parts::confine(&parts::CLIENT).map_err(|failure| failure.in_words().1.trim_start_matches("efibed: ").into())
}

/// A part of the confinement, tried.
pub struct Tried {
    /// What `efibed doctor` calls it.
    pub part: &'static str,
    /// What it comes to here, in words, or why this kernel does not have it.
    pub outcome: Result<String, String>,
}

/// Tries every part, in a child.
pub fn try_parts() -> Result<Vec<Tried>, Failure> {
    let outcomes = in_child(|_| Ok(parts::try_all()), &|_: Progress| {})?;
    Ok(parts::PARTS.iter().zip(outcomes).map(|(part, outcome)| Tried { part: part.name, outcome }).collect())
}

/// The longest message, in bytes: several times the report on the largest map that is accepted. A child that sends more
/// has lost its way.
const MAX_MESSAGE_BYTES: u64 = 1 << 30;

/// Runs `body` in a child process, and returns what it returned.
fn in_child<T: Serialize + DeserializeOwned, P: DeserializeOwned>(
    body: impl FnOnce(Teller) -> Result<T, Failure>,
    progress: &dyn Fn(P),
) -> Result<T, Failure> {
    let (child, pipe) = start(None, body)?;
    child.hear(pipe, progress)
}

/// Starts a child process that runs `body`, and tells through the pipe what it returned. It has a socket beside the pipe, if one
/// is given.
///
/// Refused in a process of several threads: the others would be missing in the child, and the locks that they hold would
/// stay locked. The command has one until it shows a spinner, or makes a machine: KVM adds a thread of its own.
fn start<T: Serialize>(
    beside: Option<&OwnedFd>,
    body: impl FnOnce(Teller) -> Result<T, Failure>,
) -> Result<(Child, PipeReader), Failure> {
    let failed = |error: io::Error| Failure::sandbox(format!("no child process could be started: {error}"));
    if threads() > 1 {
        return Err(failed(io::Error::other("this process has several threads")));
    }
    let (reader, writer) = io::pipe().map_err(failed)?;
    let parent = std::process::id();
    // SAFETY: fork has no conditions, and with one thread no lock is held by another that the child will not have.
    match unsafe { libc::fork() } {
        -1 => Err(failed(io::Error::last_os_error())),
        0 => child::live(writer, beside, parent, body),
        pid => {
            // The pipe ends when the child does.
            drop(writer);
            Ok((Child { pid }, reader))
        }
    }
}

/// How many threads this process has; 1 if the system does not say.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// A child process, until it is dropped.
struct Child {
    pid: libc::pid_t,
}

impl Child {
    /// Hears it out. Nothing but its own word that it is done makes a result.
    fn hear<T: DeserializeOwned, P: DeserializeOwned>(
        mut self,
        pipe: PipeReader,
        progress: &dyn Fn(P),
    ) -> Result<T, Failure> {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            // What could not be read is no message either.
            let _ = (&mut pipe).take(MAX_MESSAGE_BYTES).read_until(b'\n', &mut line);
            match serde_json::from_slice(&line) {
                Ok(Message::Progress(how_far)) => progress(how_far),
                Ok(Message::Done(result)) => return Ok(result),
                Ok(Message::Failed { status, words }) => return Err(Failure::Told { status, words }),
                Ok(Message::Refused { call, second }) => {
                    return Err(Failure::sandbox(format!(
                        "the sandbox refused {}, which ended the run",
                        calls::in_words(call, second)
                    )));
                }
                Err(_) if line.is_empty() => return Err(Failure::sandbox(self.end())),
                Err(_) => return Err(Failure::sandbox("the child process sent what is no message".into())),
            }
        }
    }

    /// How it ended, in words, if that was before it had a result.
    fn end(&mut self) -> String {
        let how = self.reap().map_or_else(|| "in an unknown way".into(), |status| status.to_string());
        format!("the child process that runs the guest ended before it had a result: {how}")
    }

    /// Ends it, if it still runs, and takes its status. A status that it has already is not changed by the kill.
    fn reap(&mut self) -> Option<ExitStatus> {
        if self.pid != NONE {
            // SAFETY: the child was not waited for, so its number is not another's.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
        self.wait()
    }

    /// Waits for its end, and takes its status. None: it was taken before, or by a system that was told to ignore SIGCHLD.
    fn wait(&mut self) -> Option<ExitStatus> {
        let pid = std::mem::replace(&mut self.pid, NONE);
        if pid == NONE {
            return None;
        }
        let mut status = 0;
        loop {
            // SAFETY: the status outlives the call.
            match unsafe { libc::waitpid(pid, &mut status, 0) } {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => return None,
                _ => return Some(ExitStatus::from_raw(status)),
            }
        }
    }
}

/// No process has this number.
const NONE: libc::pid_t = 0;

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

impl Failure {
    /// A fault in the sandbox, or of it.
    fn sandbox(problem: String) -> Self {
        let words = format!("efibed: {problem}\n  (`--no-sandbox` runs the guest in this process, not confined)");
        Self::Told { status: Status::Internal, words }
    }
}
