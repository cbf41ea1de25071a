//! `efibed check`: the main job.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::{Input, named};
use super::limits::Limits;
use super::mapper::Mapper;
use super::output::Outputs;
use super::progress::{Watching, watched};
use super::results::{Look, Results};
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::report::{json, junit};
use crate::{EngineName, Progress, TestBed};

/// The arguments of `check`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// What executes and observes: a KVM guest, or only the software walk, which asks no MMU
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES), default_value = "kvm")]
    engine: EngineName,

    /// Write the report as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Write the report as JUnit's XML: a test case for each region and each call; `-` as with --json
    #[arg(long, value_name = "FILE|-")]
    junit: Option<PathBuf>,

    /// Seed for samples: addresses that must fault, and pages that KVM_TRANSLATE is asked about
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    #[command(flatten)]
    mapper: Mapper,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let own = arguments.mapper.own_mapper(&arguments.input.options);
    let scenario = arguments.mapper.apply(arguments.input.scenario(own)?, arguments.engine)?;
    let mut scenario = arguments.limits.apply(scenario.engine(arguments.engine));
    if let Some(seed) = arguments.seed {
        scenario = scenario.seed(seed);
    }
    let own_file = arguments.mapper.input(&scenario);
    let inputs: Vec<&Path> = [arguments.input.map.as_path()].into_iter().chain(own_file).collect();
    let outputs = Outputs::open([arguments.json.as_deref(), arguments.junit.as_deref()], &inputs)?;
    let look = Look::of_standard_output();
    let (is_json, is_junit) = (arguments.json.is_some(), arguments.junit.is_some());
    let run = |bed: &TestBed, progress: &dyn Fn(Progress)| {
        let report = bed.run_telling(&scenario, progress)?;
        Ok(Results {
            status: Status::of(&report),
            text: look.text(&report),
            json: is_json.then(|| json::to_json(&report)),
            junit: is_junit.then(|| junit::to_junit(&[(&report.source, &report)])),
        })
    };
    watched(arguments.watching, |progress| arguments.sandbox.run(arguments.engine, run, progress))?.write(outputs)
}
