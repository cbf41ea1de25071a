//! `efibed shrink`: the smallest map on which a run still has the same finding.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::input::{Input, named};
use super::limits::{Limits, time};
use super::mapper::Mapper;
use super::message::tell;
use super::output::{self, OutputFile};
use super::progress::{Watching, told};
use super::sandbox::Sandbox;
use super::{Failure, Status};
use crate::check::Rule;
use crate::engine::EngineError;
use crate::fuzz::saved::{from_root, scenario_to_toml};
use crate::fuzz::{FindingKey, Shrinker, as_built_in, keys, keys_beyond};
use crate::memory_map::MemoryMap;
use crate::report::Report;
use crate::report::text::Text;
use crate::{EngineName, Layout, Scenario, TestBed};

/// The arguments of `shrink`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// Write to a file in place of standard output: whole or not at all, unless it is a device, a pipe or a hard link
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The rule of the finding to keep [default: that of the first finding]
    #[arg(long, value_name = "NAME", value_parser = named::<Rule>(Rule::NAMES), hide_possible_values = true)]
    rule: Option<Rule>,

    /// What executes and observes [default: walker for a built-in layout, kvm for an ELF file]
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES))]
    engine: Option<EngineName>,

    /// Keep a finding that this layout does not show on the same map: what `efibed fuzz --like` found
    #[arg(long, value_name = "NAME", value_parser = named::<Layout>(Layout::NAMES), hide_possible_values = true)]
    like: Option<Layout>,

    /// How many maps to try; then the smallest so far is the result
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,

    /// How long to try, as 90s, 10m, 8h; then the smallest so far is the result [default: 1h]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    time: Option<Duration>,

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
Find the smallest map on which a run still has the same finding

Descriptors are left out, regions shortened, and addresses rounded, as long as the run has the finding. Findings are the same
if they have the same rule, type of region, phase and level of the guilty table entry, and the same line of the mapping code
that set the entry, where that is known. The result is a scenario: the map, how it is mapped, and the report on it as a
comment. `efibed check` runs it.

The exit status is 0 if there was a finding to keep, and 2 if not.";

const EXAMPLES: &str = "\
Examples:
  efibed shrink boot.log --layout packed-down --leaf-rule va-only     the smallest map that shows the bug of 2013
  efibed shrink found.toml -o small.toml                              what a run found, small
  efibed shrink found.toml --rule wrong-frame --engine kvm            another of its findings, in a guest";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let scenario = arguments.input.scenario(arguments.mapper.own_mapper(&arguments.input.options))?;
    let has_program = arguments.mapper.input(&scenario).is_some();
    let engine = arguments.engine.unwrap_or(if has_program { EngineName::Kvm } else { EngineName::Walker });
    let scenario = arguments.limits.apply(arguments.mapper.apply(scenario, engine)?.engine(engine));
    let elf = arguments.mapper.input(&scenario).map(Path::to_path_buf);
    let inputs: Vec<&Path> = [arguments.input.map.as_path()].into_iter().chain(elf.as_deref()).collect();
    let file = arguments.output.as_deref().map(|path| OutputFile::open(path, &inputs)).transpose()?;
    let Arguments { rule, like, runs, time, sandbox, .. } = *arguments;
    let (wanted, most) = (Wanted { rule, like }, Most { runs, time: time.unwrap_or(USUAL_TIME) });
    let shrunk = told(arguments.watching, |progress| {
        sandbox.run(engine, |bed, progress| Shrunk::of(bed, &scenario, wanted, most, progress), progress)
    })?;
    let Some(shrunk) = shrunk else { return Err(nothing_to_keep(wanted)) };
    let text = shrunk.to_toml(&scenario, elf.as_deref());
    match file {
        Some(file) => file.write(text.as_bytes()).map_err(Failure::Output)?,
        None => output::print_bytes(text.as_bytes())?,
    }
    tell(&format!("efibed: {}", shrunk.in_words()));
    Ok(Status::Clean)
}

/// Longer than as many runs as there usually may be take, except for those of the largest maps in a guest. So it ends the command
/// only where it would go on for hours.
const USUAL_TIME: Duration = Duration::from_secs(3600);

fn nothing_to_keep(Wanted { rule, like }: Wanted) -> Failure {
    let mut what = rule.map_or_else(|| "no finding".into(), |rule| format!("no finding of the rule {rule}"));
    if let Some(layout) = like {
        what.push_str(&format!(" that {layout} does not show, too"));
    }
    let help = "`efibed check` with the same options shows what the run finds; the walker, which is the engine here unless \
                another is named, does not call firmware";
    Failure::Input(miette::miette!(help = help, "the run has {what}: there is nothing to keep"))
}

/// Which finding is kept.
#[derive(Clone, Copy)]
struct Wanted {
    rule: Option<Rule>,
    /// One that this layout does not show on the map.
    like: Option<Layout>,
}

impl Wanted {
    /// What is found in a run; on a map that cannot be run, nothing.
    fn found(self, bed: &TestBed, scenario: &Scenario, report: &Report) -> Vec<FindingKey> {
        let right = self.like.map(|layout| bed.run(&as_built_in(scenario, layout)));
        match right {
            None => keys(report),
            Some(right) => right.map_or(Vec::new(), |right| keys_beyond(report, &right)),
        }
    }

    /// The first finding's key, or the first with this rule.
    fn key(self, found: Vec<FindingKey>) -> Option<FindingKey> {
        found.into_iter().find(|key| self.rule.is_none_or(|rule| key.rule == rule))
    }
}

/// How much is tried.
#[derive(Clone, Copy)]
struct Most {
    runs: u64,
    time: Duration,
}

/// What ended it before all was tried.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Cut {
    Runs,
    Time,
}

/// What it came to.
#[derive(Serialize, Deserialize)]
struct Shrunk {
    key: String,
    /// The smallest map.
    map: String,
    /// The report on it, for people.
    report: String,
    /// Descriptors and pages, before and after.
    sizes: [Size; 2],
    runs: u64,
    /// None: there is no smaller map to try.
    cut: Option<Cut>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Size {
    descriptors: usize,
    pages: u128,
}

impl Size {
    fn of(map: &MemoryMap) -> Self {
        let pages = map.regions().map(|region| u128::from(region.pages)).sum();
        Self { descriptors: map.descriptors().len(), pages }
    }

    fn in_words(self) -> String {
        let s = if self.descriptors == 1 { "" } else { "s" };
        format!("{} descriptor{s} and {:#x} pages", self.descriptors, self.pages)
    }
}

impl Shrunk {
    /// Shrinks a scenario's map. None: the run has no such finding.
    fn of(
        bed: &TestBed,
        scenario: &Scenario,
        wanted: Wanted,
        most: Most,
        progress: &dyn Fn(String),
    ) -> Result<Option<Self>, EngineError> {
        let started = Instant::now();
        let mut report = bed.run(scenario)?;
        let Some(key) = wanted.key(wanted.found(bed, scenario, &report)) else { return Ok(None) };
        let (mut shrinker, mut runs) = (Shrinker::new(scenario.map().clone()), 1);
        let cut = loop {
            let Some(map) = shrinker.propose() else { break None };
            let left = most.time.saturating_sub(started.elapsed());
            if runs >= most.runs || left.is_zero() {
                break Some(if left.is_zero() { Cut::Time } else { Cut::Runs });
            }
            runs += 1;
            // No run goes on past the end.
            let smaller = scenario.clone().with_map(map.clone()).limit(scenario.limit_of_run().min(left));
            // A map that cannot be run has no finding.
            let run = bed.run(&smaller).ok();
            if let Some(smaller) = run.filter(|report| wanted.found(bed, &smaller, report).contains(&key)) {
                shrinker.accept(map);
                report = smaller;
                progress(format!("{runs} maps tried, {} left", Size::of(shrinker.best()).in_words()));
            }
        };
        Ok(Some(Self {
            key: key.to_string(),
            map: shrinker.best().to_toml(),
            report: Text::plain(&report).to_string(),
            sizes: [scenario.map(), shrinker.best()].map(Size::of),
            runs,
            cut,
        }))
    }

    /// The scenario, for people and for `efibed check`.
    fn to_toml(&self, scenario: &Scenario, elf: Option<&Path>) -> String {
        let what = format!("{}: {}", scenario.map().source(), self.in_words());
        scenario_to_toml(&what, &self.report, &self.map, scenario, elf.map(from_root).as_deref())
    }

    fn in_words(&self) -> String {
        let [before, after] = self.sizes.map(Size::in_words);
        let cut = match self.cut {
            None => "",
            Some(Cut::Runs) => ", which are not all: see --runs",
            Some(Cut::Time) => ", for which there was time: see --for",
        };
        let s = if self.runs == 1 { "" } else { "s" };
        format!("{} shrunk from {before} to {after} in {} run{s}{cut}", self.key, self.runs)
    }
}
