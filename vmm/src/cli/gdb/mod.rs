//! `--gdb`: a session with gdb on mapping code in the guest.
//!
//! The socket stays in this process, which speaks gdb's protocol in a thread. The guest's process, confined as ever, has one end
//! of a pair of sockets, and exchanges the messages of [`wire`](crate::debugger::Wire) over it. So nothing that a guest could
//! make of its process reaches gdb but registers, bytes of memory and text: gdb would carry out requests for files.
//!
//! | file | holds |
//! | --- | --- |
//! | `place` | where gdb finds us, and waiting for it there |
//! | `server` | the session: who may speak next |
//! | `target` | what gdb asks of a target |

mod place;
mod server;
mod target;

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use clap::Args;

use super::message::tell;
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::debugger::{Agent, Wire};
use crate::engine::EngineError;
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
}

impl Gdb {
    /// Whether it is.
    pub fn is_wanted(&self) -> bool {
        self.place.is_some()
    }

    /// Waits for gdb, if it is to look on.
    pub fn wait(&self, scenario: &Scenario, engine: EngineName) -> Result<Option<Session>, Failure> {
        let Some(place) = &self.place else { return Ok(None) };
        if engine == EngineName::Walker {
            let problem = "--gdb needs the engine kvm: without a guest there is nothing to halt";
            return Err(Failure::Output(problem.into()));
        }
        let failed = |error| Failure::Output(format!("--gdb: no pair of sockets: {error}"));
        let (ours, guests) = Wire::pair().map_err(failed)?;
        let gdb = place.wait()?;
        Ok(Some(Session { gdb, ours, guests, base: scenario.program_base() }))
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
    /// Runs a scenario under gdb, confined or not. `of` makes what is told of the report in the process of the guest.
    pub fn run<T: serde::Serialize + serde::de::DeserializeOwned>(
        self,
        sandbox: Sandbox,
        scenario: &Scenario,
        of: impl FnOnce(Report) -> T,
        status: impl FnOnce(&T) -> Status,
        progress: &dyn Fn(Progress),
    ) -> Result<T, Failure> {
        let Self { gdb, ours, guests, base } = self;
        let work = |bed: &TestBed, socket: OwnedFd, progress: &dyn Fn(Progress)| -> Result<T, EngineError> {
            let agent = RefCell::new(Agent::new(Wire::new(socket), scenario.map().clone()));
            Ok(of(bed.run_debugged(scenario, &agent, progress)?))
        };
        let mut server = None;
        // A process of several threads makes no child: the session's begins once there is one.
        let begun =
            || server = Server::start(gdb, ours, base).map_err(|error| tell(&format!("efibed: gdb: {error}"))).ok();
        let result = sandbox.run_beside(guests, work, begun, progress);
        if let Some(server) = server {
            server.end(result.as_ref().map_or(Status::Internal, status));
        }
        result
    }
}
