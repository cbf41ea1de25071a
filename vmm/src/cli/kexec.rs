//! `efibed kexec`: whether a second kernel finds firmware where the first one put it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::input::{Options, ReadArguments, named};
use super::limits::Limits;
use super::mapper::Mapper;
use super::output::Outputs;
use super::progress::{Watching, watched};
use super::results::{Look, Results};
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::bed::OwnMapper;
use crate::report::{json, junit};
use crate::{EngineName, Progress, TestBed};

/// The arguments of `kexec`.
#[derive(Args)]
#[command(long_about = ABOUT)]
pub struct Arguments {
    /// The memory map that firmware gave the first kernel, in any known format, or a scenario
    #[arg(value_name = "FIRST")]
    first: PathBuf,

    /// The memory map that the second kernel sees; boot services are usually gone from it
    #[arg(value_name = "SECOND")]
    second: PathBuf,

    #[command(flatten)]
    read: ReadArguments,

    #[command(flatten)]
    options: Options,

    /// What executes and observes: a KVM guest, or only the software walk, which asks no MMU
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES), default_value = "kvm")]
    engine: EngineName,

    /// Write both reports as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

    /// Write both reports as JUnit's XML, a suite for each kernel; `-` as with --json
    #[arg(long, value_name = "FILE|-")]
    junit: Option<PathBuf>,

    #[command(flatten)]
    mapper: Mapper,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

const ABOUT: &str = "\
Map a memory map, start a second kernel, and see whether it finds firmware where the first one put it

SetVirtualAddressMap works once: firmware's pointers hold the first kernel's addresses for good. The first kernel maps
FIRST and makes the call; the second maps SECOND without a call. With `--layout linux-fixed`, as in Linux, the first one
has layout `linux` and hands its addresses over, as in setup_data. With any other layout the second one computes its
own. A shorter map may shift them, which is the finding `kexec-moved`. With `--mapper` both kernels have the mapping code
of that file, and `--contract` is what each result is held to.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let Arguments { options, mapper, limits, engine, .. } = arguments;
    let scenario = options.apply(arguments.read.scenario(&arguments.first, mapper.own_mapper(options))?);
    let scenario = limits.apply(mapper.apply(scenario, *engine)?.engine(*engine));
    let second = arguments.read.scenario(&arguments.second, OwnMapper::LeftOut)?.map().clone();
    let maps = [arguments.first.as_path(), &arguments.second];
    let inputs: Vec<&Path> = maps.into_iter().chain(mapper.input(&scenario)).collect();
    let outputs = Outputs::open([arguments.json.as_deref(), arguments.junit.as_deref()], &inputs)?;
    let look = Look::of_standard_output();
    let (is_json, is_junit) = (arguments.json.is_some(), arguments.junit.is_some());
    let run = |bed: &TestBed, progress: &dyn Fn(Progress)| {
        let reports = bed.kexec_telling(&scenario, second, progress)?;
        let kernels = [FIRST, SECOND].into_iter().zip(&reports);
        let [first, second] = &reports;
        Ok(Results {
            status: Status::of_kernels(reports.each_ref().map(Status::of)),
            text: kernels.map(|(title, report)| format!("== {title}\n{}\n", look.text(report))).collect(),
            json: is_json.then(|| json::kexec_to_json(first, second)),
            junit: is_junit.then(|| junit::to_junit(&[(FIRST, first), (SECOND, second)])),
        })
    };
    watched(arguments.watching, |progress| arguments.sandbox.run(*engine, run, progress))?.write(outputs)
}

const FIRST: &str = "the first kernel";
const SECOND: &str = "the second kernel";
