//! `efibed show`: a map as a person wants it. No guest runs, and no KVM is needed.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::Input;
use super::{Failure, Status, output};
use crate::report::map::{MapReport, Text};

/// The arguments of `show`.
#[derive(Args)]
#[command(long_about = ABOUT)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// Write everything as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

const ABOUT: &str = "\
Show a memory map: regions, holes, overlaps, what is odd about it, and what would be mapped where

Nothing is run: addresses are the layout's by its rule, and not what some mapping code does (`efibed check`). The \
Memory Attributes Table is shown if the text has one. The status is 0 however odd the map is.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let scenario = arguments.input.scenario()?;
    let report = MapReport::new(scenario.map(), scenario.mapper().layout, scenario.cpu_request().maxphyaddr);
    show(&report, arguments.json.as_deref())?;
    Ok(Status::Clean)
}

fn show(report: &MapReport<'_>, json: Option<&Path>) -> Result<(), Failure> {
    if json == Some(Path::new("-")) {
        return output::print(&report.to_json());
    }
    if let Some(path) = json {
        output::write_file(path, report.to_json())?;
    }
    let text = if output::takes_colour() { Text::coloured(report) } else { Text::plain(report) };
    let text = text.columns(output::columns());
    output::print(&format!("{text}\n"))
}
