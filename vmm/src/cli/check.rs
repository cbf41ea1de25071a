//! `efibed check`: the main job.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;

use super::gdb::Gdb;
use super::input::{MAP_HELP, Options, ReadArguments, named};
use super::limits::Limits;
use super::mapper::Mapper;
use super::progress::{Watching, counted, watched};
use super::results::{DrawnPlaces, Look, Results};
use super::sandbox::Sandbox;
use super::several::{self, Row};
use super::{Failure, Status};
use crate::report::{Report, html, json};
use crate::{EngineName, Progress, Scenario, TestBed};

/// The arguments of `check`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Memory maps or scenarios, in any known format; folders of them; Linux's runtime-map folder; `-` is standard input
    #[arg(value_name = "MAP", required = true, long_help = format!("{MAP_HELP} {SEVERAL_HELP}"))]
    maps: Vec<PathBuf>,

    #[command(flatten)]
    read: ReadArguments,

    #[command(flatten)]
    options: Options,

    /// What executes and observes: a KVM guest, or only the software walk, which asks no MMU
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES), default_value = "kvm")]
    engine: EngineName,

    #[command(flatten)]
    places: DrawnPlaces,

    /// Seed for samples: addresses that must fault, and pages that KVM_TRANSLATE is asked about
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Show the page tables that the mapping code made, as Linux's ptdump does: runs, leaves, rights, cache types, owners
    #[arg(long)]
    tables: bool,

    /// Of several maps, how many are checked at a time [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    #[command(flatten)]
    mapper: Mapper,

    #[command(flatten)]
    gdb: Gdb,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

const SEVERAL_HELP: &str = "\
Of several maps each has a line, and all have a summary. Any other folder stands for the files in it and in its folders, \
except those whose names begin with a dot or end in .md. A file that cannot be read is told, the others are checked, and \
the status is 2 unless there are findings.";

const EXAMPLES: &str = "\
Examples:
  efibed check boot.log                                  the main job
  efibed check boot.log --layout packed-down --leaf-rule va-only
                                                         the bug of 2013
  efibed check boot.log --tables                         the page tables that were made, too
  efibed check boot.log --html page.html                 a picture, for a browser
  efibed check maps/ other.log --junit results.xml       many maps, a line each
  efibed check maps/ --mapper mapper.elf --sarif results.sarif
  efibed check boot.log --mapper mapper.elf --gdb        a session with gdb on the mapping code
  efibed check boot.log --mapper mapper.elf --core mapper.core
                                                         a core of its first fault, for gdb
  efibed replay found/1.toml --gdb                       the same on a scenario that was saved";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let one_only = [(arguments.tables, "--tables"), (arguments.places.wanted().html, "--html")];
    let one_only = one_only.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, option)| option);
    match several::files(&arguments.maps)? {
        Some(_) if one_only.is_some() => {
            let option = one_only.unwrap_or_default();
            Err(Failure::Output(format!("{option} is for one map: of several each has one line; name one of them")))
        }
        None => check_one(arguments, &arguments.maps[0]),
        Some(files) => match arguments.gdb.wanted() {
            Some(option) => Err(Failure::Output(format!("{option} is for one map: name one"))),
            None => check_several(arguments, &files),
        },
    }
}

impl Arguments {
    fn scenario(&self, map: &Path) -> Result<Scenario, Failure> {
        let own = self.mapper.own_mapper(&self.options);
        let scenario = self.options.apply(self.read.scenario(map, own)?);
        let scenario = self.mapper.apply(scenario, self.engine)?;
        let scenario = self.limits.apply(scenario.engine(self.engine));
        Ok(match self.seed {
            Some(seed) => scenario.seed(seed),
            None => scenario,
        })
    }
}

fn check_one(arguments: &Arguments, map: &Path) -> Result<Status, Failure> {
    let wanted = arguments.places.wanted();
    let scenario = arguments.scenario(map)?.dump_tables(arguments.tables || wanted.html);
    let inputs: Vec<&Path> = [map].into_iter().chain(arguments.mapper.input(&scenario)).collect();
    let outputs = arguments.places.open(&inputs)?;
    let look = Look::of_standard_output();
    let results = |mut report: Report| {
        let page = if wanted.html { html::of_report("check", &report) } else { String::new() };
        if !arguments.tables {
            // They are for the page alone.
            report.tables.clear();
        }
        let text = look.text(&report);
        let results =
            Results::of(Status::of(&report), text, wanted, || json::to_json(&report), &[(&report.source, &report)]);
        results.drawn(wanted, || page)
    };
    let core = arguments.gdb.open_core(arguments.engine, &inputs)?;
    let session = arguments.gdb.wait(&scenario, arguments.engine)?;
    watched(arguments.watching, |progress| match (session, core) {
        (Some(session), core) => {
            session.run(core, arguments.sandbox, &scenario, results, |results| results.status, progress)
        }
        (None, Some(core)) => core.run(arguments.sandbox, &scenario, results, progress),
        (None, None) => {
            let run = |bed: &TestBed, progress: &dyn Fn(Progress)| Ok(results(bed.run_telling(&scenario, progress)?));
            arguments.sandbox.run(arguments.engine, run, progress)
        }
    })?
    .write(outputs)
}

fn check_several(arguments: &Arguments, files: &[PathBuf]) -> Result<Status, Failure> {
    let scenarios: Vec<Result<Scenario, Box<Row>>> = files
        .iter()
        .map(|file| {
            arguments.scenario(file).map_err(|failure| Box::new(Row::of_failure(&several::name(file), failure)))
        })
        .collect();
    let programs = scenarios.iter().flatten().filter_map(|scenario| arguments.mapper.input(scenario));
    let inputs: Vec<&Path> = files.iter().map(PathBuf::as_path).chain(programs).collect();
    let outputs = arguments.places.open(&inputs)?;
    let (look, wanted) = (Look::of_standard_output(), arguments.places.wanted());
    let check = |bed: &TestBed, index: usize| {
        let name = several::name(&files[index]);
        match &scenarios[index] {
            Ok(scenario) => bed
                .run(scenario)
                .map_or_else(|error| Row::of_failure(&name, error.into()), |report| Row::of(&name, &report, wanted)),
            Err(row) => Row::clone(row),
        }
    };
    let jobs = arguments.jobs.map_or_else(several::available, NonZeroUsize::get);
    let rows = counted(arguments.watching, "maps", |progress| {
        several::in_order(files, progress, |ended| {
            arguments.sandbox.run_each(arguments.engine, files.len(), jobs, &check, ended)
        })
    })?;
    several::results(&rows, look.paint(), wanted).write(outputs)
}
