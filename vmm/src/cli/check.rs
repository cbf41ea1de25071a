//! `efibed check`: the main job.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::{Input, engines};
use super::progress::watched;
use super::{Failure, Status, output};
use crate::report::text::Text;
use crate::report::{Report, json};
use crate::{EngineName, TestBed};

/// The arguments of `check`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// What executes and observes: a KVM guest, or, with no MMU asked, the software walk alone
    #[arg(long, value_name = "kvm|walker", value_parser = engines(), default_value = "kvm")]
    engine: EngineName,

    /// Write the report as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Seed of what is sampled: addresses that must fault, pages KVM_TRANSLATE is asked about
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let mut scenario = arguments.input.scenario()?.engine(arguments.engine);
    if let Some(seed) = arguments.seed {
        scenario = scenario.seed(seed);
    }
    let report = watched(|progress| TestBed::without_kvm().run_telling(&scenario, progress))?;
    show(&report, arguments.json.as_deref())?;
    Ok(Status::of(&report))
}

fn show(report: &Report, json: Option<&Path>) -> Result<(), Failure> {
    if json == Some(Path::new("-")) {
        return output::print(&json::to_json(report));
    }
    if let Some(path) = json {
        output::write_file(path, json::to_json(report))?;
    }
    let text = if output::takes_colour() { Text::coloured(report) } else { Text::plain(report) };
    let text = text.columns(output::columns());
    output::print(&format!("{text}\n"))
}
