//! `efibed schema`: what a scenario file may hold, for editors and programs.

use super::{Failure, Status, output};
use crate::Scenario;

/// Prints the JSON schema of scenario files.
pub fn run() -> Result<Status, Failure> {
    output::print(&format!("{:#}\n", Scenario::schema()))?;
    Ok(Status::Clean)
}
