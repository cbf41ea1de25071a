//! The same for mapping code of the process that runs the bed: a test, say.

use std::cell::RefCell;
use std::fs;
use std::io;

use super::place::Place;
use super::server::Server;
use crate::cli::{Failure, Status};
use crate::debugger::{Agent, Wire};
use crate::engine::EngineError;
use crate::guest::process::{Code, first_address_of};
use crate::machine::LONGEST_LIMIT;
use crate::report::Report;
use crate::{Scenario, TestBed};

impl TestBed {
    /// Runs a scenario in a guest under gdb: waits for it at `place` (`unix:PATH`, `HOST:PORT`, or `:PORT` on this machine alone),
    /// says so on standard error, and halts at the mapping code's first instruction, at its faults, and at findings. In gdb, name
    /// this process's executable, or the ELF file with the mapping code, and `target remote`.
    ///
    /// Meanwhile no limit of time is in force. It is of the feature `cli`.
    ///
    /// ```no_run
    /// use efibed::{MemoryMap, Scenario, TestBed};
    ///
    /// let scenario = Scenario::new(MemoryMap::read("tests/maps/ovmf-2013.toml".as_ref())?);
    /// TestBed::new()?.run_under_gdb(&scenario, "unix:/tmp/efibed.sock")?.assert_clean();
    /// # Ok::<(), efibed::Error>(())
    /// ```
    pub fn run_under_gdb(&self, scenario: &Scenario, place: &str) -> Result<Report, EngineError> {
        let unable = |why: String| EngineError::Unable { what: format!("a session with gdb at {place}"), why };
        let base = scenario.base_of_code().map_err(|error| unable(error.to_string()))?;
        let (ours, guests) = Wire::pair().map_err(|error| unable(error.to_string()))?;
        let gdb = Place::parse(place).and_then(|place| place.wait().map_err(Failure::into_words)).map_err(unable)?;
        let server = Server::start(gdb, ours, base).map_err(|error| unable(error.to_string()))?;
        let agent = RefCell::new(Agent::new(Wire::new(guests), scenario.map().clone()));
        let result = self.run_debugged(scenario, LONGEST_LIMIT, &agent, &|_| {});
        // The server waits for the run's end on the wire.
        drop(agent);
        server.end(result.as_ref().map_or(Status::Internal, Status::of));
        result
    }
}

impl Scenario {
    /// Where the first segment of the executable lies that has the mapping code, if it may lie elsewhere than it was linked for.
    pub(super) fn base_of_code(&self) -> io::Result<Option<u64>> {
        match self.code() {
            Ok(Code::Own) => {
                let executable = fs::read_link("/proc/self/exe")?;
                first_address_of(&executable.to_string_lossy())
            }
            // What is wrong with a file is an error of the run.
            Ok(Code::Program(_)) | Err(_) => Ok(self.program_base()),
        }
    }
}
