//! `efibed schema`: what a scenario file may hold, for editors and programs.

use super::{Failure, Status, terminal};
use crate::Scenario;

/// Prints the JSON schema of scenario files.
pub fn run() -> Result<Status, Failure> {
    terminal::print(&format!("{:#}\n", Scenario::schema()))?;
    Ok(Status::Clean)
}
