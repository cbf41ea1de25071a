//! `--gdb`: a session with gdb on mapping code in the guest.
//!
//! The socket stays in this process, which speaks gdb's protocol in a thread. The guest's process, confined as ever, has one end
//! of a pair of sockets, and exchanges the messages of [`wire`](crate::debugger::Wire) over it. So nothing that a guest could
//! make of its process reaches gdb but registers, bytes of memory and text: gdb would carry out requests for files.
//!
//! | file | holds |
//! | --- | --- |
//! | `own` | the same for mapping code of a test's own process |
//! | `place` | where gdb finds us, and waiting for it there |
//! | `server` | the session: who may speak next |
//! | `target` | what gdb asks of a target |

mod own;
mod place;
mod server;
mod target;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;

use super::message::tell;
use super::output::OutputFile;
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::debugger::{Agent, Core, CoreTaker, Wire};
use crate::engine::EngineError;
use crate::machine::LONGEST_LIMIT;
use crate::report::Report;
use crate::{EngineName, Progress, Scenario, TestBed};

use place::Place;
use server::Server;

/// Whether gdb is to look on.
#[derive(Args)]
pub struct Gdb {
    /// Wait for gdb, and halt at the mapping code's first instruction, at its faults and at findings; in gdb, `target remote` as
    /// told
    #[arg(
        long = "gdb",
        value_name = "unix:PATH|HOST:PORT",
        num_args = 0..=1,
        default_missing_value = place::DEFAULT,
        value_parser = Place::parse,
        help_heading = "Debugging"
    )]
    place: Option<Place>,

    /// Write an ELF core of the guest at the mapping code's first fault, or at the first finding: gdb opens it with the program.
    /// With --gdb it is as gdb found it there
    #[arg(long, value_name = "FILE", help_heading = "Debugging")]
    core: Option<PathBuf>,
}

impl Gdb {
    /// The first option of the two that is there.
    pub fn wanted(&self) -> Option<&'static str> {
        self.place.as_ref().map(|_| "--gdb").or(self.core.as_ref().map(|_| "--core"))
    }

    /// Opens the file for a core, if there is to be one. None may be an input.
    pub fn open_core(&self, engine: EngineName, inputs: &[&Path]) -> Result<Option<CoreFile>, Failure> {
        let Some(path) = &self.core else { return Ok(None) };
        needs_kvm("--core", engine)?;
        Ok(Some(CoreFile { path: path.clone(), file: OutputFile::open(path, inputs)? }))
    }

    /// Waits for gdb, if it is to look on.
    pub fn wait(&self, scenario: &Scenario, engine: EngineName) -> Result<Option<Session>, Failure> {
        let Some(place) = &self.place else { return Ok(None) };
        needs_kvm("--gdb", engine)?;
        let failed = |error| Failure::Output(format!("--gdb: no pair of sockets: {error}"));
        let (ours, guests) = Wire::pair().map_err(failed)?;
        // Without it gdb has no symbols, and no other harm.
        let base = scenario.base_of_code().unwrap_or_default();
        let gdb = place.wait()?;
        Ok(Some(Session { gdb, ours, guests, base }))
    }
}

fn needs_kvm(option: &str, engine: EngineName) -> Result<(), Failure> {
    match engine {
        EngineName::Kvm => Ok(()),
        EngineName::Walker => {
            Err(Failure::Output(format!("{option} needs the engine kvm: without a guest there is nothing to look at")))
        }
    }
}

/// The file for a core.
pub struct CoreFile {
    path: PathBuf,
    file: OutputFile,
}

impl CoreFile {
    /// Runs a scenario, and writes its core if it comes to one.
    pub fn run<T: serde::Serialize + serde::de::DeserializeOwned>(
        self,
        sandbox: Sandbox,
        scenario: &Scenario,
        of: impl FnOnce(Report) -> T,
        progress: &dyn Fn(Progress),
    ) -> Result<T, Failure> {
        let work = |bed: &TestBed, progress: &dyn Fn(Progress)| -> Result<(T, Option<Core>), EngineError> {
            let taker = RefCell::new(CoreTaker::default());
            let report = bed.run_debugged(scenario, scenario.limit_of_run(), &taker, progress)?;
            Ok((of(report), taker.into_inner().core))
        };
        let (told, core) = sandbox.run(EngineName::Kvm, work, progress)?;
        self.write(core)?;
        Ok(told)
    }

    fn write(self, core: Option<Core>) -> Result<(), Failure> {
        let Self { path, file } = self;
        let path = path.display();
        let Some(core) = core else {
            tell(&format!("efibed: {path} is not written: the mapping code met no fault, and nothing was found"));
            return Ok(());
        };
        let bytes = core.to_bytes().ok_or_else(|| Failure::Output(format!("{path}: what came is no core")))?;
        file.write(&bytes).map_err(Failure::Output)?;
        let left_out = match core.left_out {
            0 => String::new(),
            pages => format!(", without {pages} pages that were too many"),
        };
        tell(&format!("efibed: {path}: {} KiB{left_out}; gdb MAPPER {path}", bytes.len() / 1024));
        Ok(())
    }
}

/// gdb is there, and nothing runs yet.
pub struct Session {
    gdb: OwnedFd,
    ours: OwnedFd,
    guests: OwnedFd,
    base: Option<u64>,
}

impl Session {
    /// Runs a scenario under gdb, confined or not. `of` makes what is told of the report in the process of the guest. The core,
    /// if one is wanted, is written at the end.
    pub fn run<T: serde::Serialize + serde::de::DeserializeOwned>(
        self,
        core: Option<CoreFile>,
        sandbox: Sandbox,
        scenario: &Scenario,
        of: impl FnOnce(Report) -> T,
        status: impl FnOnce(&T) -> Status,
        progress: &dyn Fn(Progress),
    ) -> Result<T, Failure> {
        let Self { gdb, ours, guests, base } = self;
        let has_core = core.is_some();
        let work = |bed: &TestBed, socket: OwnedFd, progress: &dyn Fn(Progress)| -> Result<_, EngineError> {
            let agent = Agent::new(Wire::new(socket), scenario.map().clone()).with_core(has_core);
            let agent = RefCell::new(agent);
            let told = of(bed.run_debugged(scenario, LONGEST_LIMIT, &agent, progress)?);
            Ok((told, agent.into_inner().into_core()))
        };
        let mut server = None;
        // A process of several threads makes no child: the session's begins once there is one.
        let begun =
            || server = Server::start(gdb, ours, base).map_err(|error| tell(&format!("efibed: gdb: {error}"))).ok();
        let result = sandbox.run_beside(guests, work, begun, progress);
        if let Some(server) = server {
            server.end(result.as_ref().map_or(Status::Internal, |(told, _)| status(told)));
        }
        let (told, taken) = result?;
        core.map_or(Ok(()), |core| core.write(taken))?;
        Ok(told)
    }
}
