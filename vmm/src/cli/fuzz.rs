//! `efibed fuzz`: many maps for one piece of mapping code.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::input::{Options, named};
use super::limits::time;
use super::mapper::Mapper;
use super::progress::{Watching, told};
use super::results::{DrawnPlaces, Results};
use super::sandbox::{self, Sandbox};
use super::{Failure, Status, several};
use crate::check::{Rule, Severity};
use crate::fuzz::{Fuzz, FuzzEngine, FuzzError, Status as Progress, Summary};
use crate::memory_map::MemoryMap;
use crate::report::html;
use crate::report::junit::{Case, Outcome, Suite};
use crate::report::sarif::{Entry, Notice, Part};
use crate::{EngineName, Layout, Scenario, TestBed};

/// The arguments of `fuzz`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Maps to begin with, in any format that `efibed check` reads: those of real machines, for instance
    #[arg(value_name = "MAP")]
    maps: Vec<PathBuf>,

    /// End after N maps [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,

    /// End after a time: 90s, 10m, 8h [default: never]
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    time: Option<Duration>,

    /// Begin with other maps [default: 2013]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where maps are run: each natively and those that show something new in a guest, too; each in a guest; each natively
    /// [default: both, and kvm for an ELF file]
    #[arg(long, value_name = "both|kvm|walker", value_parser = named::<FuzzEngine>(FuzzEngine::NAMES))]
    engine: Option<FuzzEngine>,

    /// Processes that run maps [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    cores: Option<NonZeroUsize>,

    /// The folder to write to, and to go on from
    #[arg(long, value_name = "DIR", default_value = "efibed-fuzz")]
    out: PathBuf,

    /// Make maps with at most so many pages to map [default: 262144, which is 1 GiB]
    #[arg(long, value_name = "PAGES")]
    max_pages: Option<u64>,

    /// How long one map may take [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: Option<u64>,

    /// Have the guest call firmware's services, too
    #[arg(long)]
    calls: bool,

    /// Listen for other campaigns at this port of loopback [default: any that is free]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    listen: Option<u16>,

    /// Exchange maps and findings with the campaign that listens there; nothing on the way is encrypted
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,

    /// Count what is found on maps that are wrong by themselves, too, where this layout does not show it: for mapping code
    /// that is to do what the layout does
    #[arg(long, value_name = "NAME", value_parser = named::<Layout>(Layout::NAMES), hide_possible_values = true)]
    like: Option<Layout>,

    #[command(flatten)]
    places: DrawnPlaces,

    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    mapper: Mapper,

    /// Run maps in processes that may call anything; by default those that run guests may call little more than KVM
    #[arg(long)]
    no_sandbox: bool,

    #[command(flatten)]
    watching: Watching,
}

const ABOUT: &str = "\
Try memory maps on mapping code, steered by what they show, and keep those that break it

Maps are made from nothing, some as real firmware makes them and most at borders that are hard to map, and changed and \
crossed. What shows a new finding is a file in DIR/findings: a scenario that `efibed check` runs and `efibed shrink` makes \
small. Findings are the same if they have the same rule, type of region, phase and level of the guilty entry, and the same \
line of the mapping code that set it, where a guest can tell that. What shows \
something else new is kept in DIR/corpus. A campaign that is started again goes on from both, and reports what is new.

A map that is wrong by itself, or that a layout has no room for, is run too. Of its findings those count that no map \
excuses: stray accesses, faults of the mapping code, and the like. With --like, what that layout does not show counts, too.

Ctrl-C ends a campaign, with its summary. The exit status is 0 if nothing new was found, and 1 if something was.";

const EXAMPLES: &str = "\
Examples:
  efibed fuzz --layout packed-down --leaf-rule va-only --runs 1000    finds the bug of 2013
  efibed fuzz --layout linux --for 10m boot.log                       begins with a real map
  efibed fuzz --mapper mapper.elf --for 8h --out night                a mapper of your own
  efibed shrink efibed-fuzz/findings/reserved-bit.RuntimeServicesData.map.PDE.toml
  efibed fuzz --broker 127.0.0.1:1337                                 joins another campaign: `--listen 1337` there";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let (fuzz, scenario) = campaign(arguments)?;
    if Fuzz::is_client() {
        // It does not return.
        fuzz.run()?;
    }
    let inputs: Vec<_> = arguments.maps.iter().map(PathBuf::as_path).collect();
    let outputs = arguments.places.open(&inputs)?;
    let wanted = arguments.places.wanted();
    let go = || told(arguments.watching, |tell| fuzz.run_telling(&|progress| tell(in_words(progress))));
    let (summary, page) = match wanted.html {
        false => (go()?, String::new()),
        true if arguments.no_sandbox => {
            let summary = go()?;
            let page = Drawn::of(&summary).page(&TestBed::without_kvm(), &scenario);
            (summary, page)
        }
        true => with_page(go, &scenario)?,
    };
    let Progress { runs, unable, incomplete, guests, .. } = summary.status;
    let status = if !summary.findings.is_empty() {
        Status::Findings
    } else if runs <= unable + incomplete || (guests == 0 && arguments.engine != Some(FuzzEngine::Walker)) {
        // What was asked for was done for no map.
        Status::Unable
    } else {
        Status::Clean
    };
    let like = arguments.like;
    let parts = || vec![part(&summary, status)];
    Results::new(
        status,
        text(&summary, like),
        wanted,
        || summary.to_json(),
        || vec![suite(&summary, status, like)],
        parts,
    )
    .drawn(wanted, || page)
    .write(outputs)
}

const NONE_WAS_RUN: &str = "what was asked for was done for no map";

/// A case for the campaign, and one for each new finding.
fn suite(summary: &Summary, status: Status, like: Option<Layout>) -> Suite {
    let whole = Case::new("campaign", format!("{} maps, seed {}", summary.status.runs, summary.seed));
    let whole = match status {
        Status::Unable => whole.with(Outcome::Error { kind: "not-done".into(), message: NONE_WAS_RUN.into() }),
        _ => whole,
    };
    let findings = found(summary).map(|(name, rule, path)| {
        let text = format!("efibed check {path}\n{}", shrink(&path, like));
        let message = format!("{path} shows it");
        Case::new("findings", name).with(Outcome::Failed { rule: rule.into(), message, text })
    });
    let cases = [whole].into_iter().chain(findings).collect();
    Suite { name: "fuzz".into(), time: summary.status.elapsed, cases }
}

fn part(summary: &Summary, status: Status) -> Part {
    let notices = Some(Notice { message: NONE_WAS_RUN.into(), file: None }).filter(|_| status == Status::Unable);
    let results = found(summary).map(|(name, id, path)| {
        let rule = id.parse::<Rule>().ok();
        Entry {
            rule: id.into(),
            summary: rule.map_or("The process that ran the mapping code ended.", Rule::summary).into(),
            help: rule.map_or("The report in the file says how.", Rule::explanation).into(),
            is_doubt: rule.is_some_and(|rule| rule.severity() == Severity::Doubt),
            message: format!("a map shows {name}"),
            file: Some(path),
            line: None,
            place: None,
            fingerprint: name.into(),
            is_expected: false,
            set_by: None,
        }
    });
    Part { results: results.collect(), notices: notices.into_iter().collect() }
}

/// The campaign, and the page of what it found. For the page maps run once more, in the sandbox: that child is started first, since
/// a campaign has threads, and a process of several makes none. It waits for what there will be to draw.
fn with_page(
    go: impl FnOnce() -> Result<Summary, FuzzError>,
    scenario: &Scenario,
) -> Result<(Summary, String), Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| Failure::Output(error.to_string()))?;
    let mut summary = None;
    let draw = |bed: &TestBed, socket: OwnedFd, _: &dyn Fn(())| {
        // Ctrl-C ends the campaign, and not what shows it.
        // SAFETY: to ignore a signal has no conditions.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
        Ok(Drawn::hear(UnixStream::from(socket)).page(bed, scenario))
    };
    let begun = || summary = Some(go().inspect(|summary| Drawn::of(summary).tell(ours)));
    let page = Sandbox::default().run_beside(theirs.into(), draw, begun, &|()| ());
    let Some(summary) = summary else {
        page?;
        return Err(Failure::Output("the campaign did not begin".into()));
    };
    // A campaign that has found something has its summary, whatever becomes of the page.
    let summary: Summary = summary?;
    let page = page.unwrap_or_else(|failure| Drawn::of(&summary).page_without(&failure.in_short()));
    Ok((summary, page))
}

/// Findings drawn on one page at most.
const MAX_DRAWN: usize = 16;

/// New findings that are drawn, each with the report of its map, which is run once more in a guest.
#[derive(Default, Serialize, Deserialize)]
struct Drawn {
    /// What each is called, its file, and what is in that, or why it is not known.
    findings: Vec<(String, String, Result<String, String>)>,
    /// What there is no room for.
    omitted: Option<String>,
}

impl Drawn {
    fn of(summary: &Summary) -> Self {
        let shown = found(summary).take(MAX_DRAWN);
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"));
        let findings = shown.map(|(name, _, path)| (name.to_owned(), path.clone(), read(&path))).collect();
        let more = summary.saved.len().checked_sub(MAX_DRAWN).filter(|more| *more > 0);
        let omitted =
            more.map(|more| format!("{more} more findings, each in a file that `efibed check FILE --html PAGE` draws"));
        Self { findings, omitted }
    }

    /// Tells the child. If it is gone, that is told elsewhere.
    fn tell(&self, mut socket: UnixStream) {
        let _ = serde_json::to_vec(self).map(|words| socket.write_all(&words));
    }

    /// What the parent tells; nothing, if its campaign failed.
    fn hear(mut socket: UnixStream) -> Self {
        let mut words = Vec::new();
        let _ = socket.read_to_end(&mut words);
        serde_json::from_slice(&words).unwrap_or_default()
    }

    /// Only the maps are read: in the sandbox an ELF file could not be opened.
    fn page(self, bed: &TestBed, scenario: &Scenario) -> String {
        let run = |path: &str, text: Result<String, String>| {
            let map = MemoryMap::parse_named(path, &text?).map_err(|error| error.to_string())?;
            let scenario = scenario.clone().with_map(map).engine(EngineName::Kvm).dump_tables(true);
            bed.run(&scenario).map_err(|error| Failure::from(error).in_short())
        };
        let runs: Vec<_> = self.findings.into_iter().map(|(name, path, text)| (name, run(&path, text))).collect();
        html::of_runs("fuzz", &runs, self.omitted)
    }

    /// The page without the runs, and why.
    fn page_without(self, why: &str) -> String {
        let runs: Vec<_> = self.findings.into_iter().map(|(name, ..)| (name, Err(why.to_owned()))).collect();
        html::of_runs("fuzz", &runs, self.omitted)
    }
}

/// Each new finding: its name, which is its file's; the rule in that; and the file.
fn found(summary: &Summary) -> impl Iterator<Item = (&str, &str, String)> {
    summary.saved.iter().filter_map(|path| {
        let name = path.file_stem()?.to_str()?;
        Some((name, name.split('.').next().unwrap_or(name), path.display().to_string()))
    })
}

/// The campaign, and what each of its findings is: this scenario with another map.
fn campaign(arguments: &Arguments) -> Result<(Fuzz, Scenario), Failure> {
    let maps: Vec<MemoryMap> =
        arguments.maps.iter().map(|path| MemoryMap::read(path).map_err(Failure::input)).collect::<Result<_, _>>()?;
    let scenario = arguments.options.apply(Scenario::new(MemoryMap::from_descriptors("", Vec::new())));
    let scenario = arguments.mapper.apply(scenario, EngineName::Kvm)?;
    let is_program = scenario.program().is_some();
    let engine = match arguments.engine {
        None if is_program => FuzzEngine::Kvm,
        Some(engine) if is_program && engine != FuzzEngine::Kvm => return Err(Failure::Output(NOT_NATIVE.into())),
        engine => engine.unwrap_or_default(),
    };
    let cores = arguments.cores.map_or_else(several::available, NonZeroUsize::get);
    let scenario = scenario.firmware_calls(arguments.calls);
    let fuzz = Fuzz::of(scenario.clone()).engine(engine).cores(cores);
    let mut fuzz = fuzz.out(&arguments.out).calls(arguments.calls).maps(maps);
    if let Some(runs) = arguments.runs {
        fuzz = fuzz.runs(runs);
    }
    if let Some(time) = arguments.time {
        fuzz = fuzz.time(time);
    }
    if let Some(seed) = arguments.seed {
        fuzz = fuzz.seed(seed);
    }
    if let Some(pages) = arguments.max_pages {
        fuzz = fuzz.max_mapped_pages(pages);
    }
    if let Some(seconds) = arguments.limit {
        fuzz = fuzz.limit(Duration::from_secs(seconds));
    }
    if let Some(port) = arguments.listen {
        fuzz = fuzz.listen(port);
    }
    if let Some(broker) = &arguments.broker {
        fuzz = fuzz.broker(broker);
    }
    if let Some(layout) = arguments.like {
        fuzz = fuzz.like(layout);
    }
    // As elsewhere: without a guest there is only this program's own code.
    if engine != FuzzEngine::Walker && !arguments.no_sandbox {
        fuzz = fuzz.confined(sandbox::confine_client);
    }
    Ok((fuzz, scenario))
}

const NOT_NATIVE: &str = "--mapper needs the engine kvm: what is in a file runs in a guest, and nowhere else";

fn in_words(progress: &Progress) -> String {
    let Progress { runs, guests, corpus, cells, covered, findings, .. } = progress;
    let rate = progress.per_second();
    let covered = if *covered > 0 { format!(", {covered} counters") } else { String::new() };
    format!(
        "{runs} maps, {rate:.0} a second, {guests} in a guest; corpus {corpus}, {cells} cells{covered}; {findings} findings"
    )
}

/// The command that makes a finding's map small.
fn shrink(path: &str, like: Option<Layout>) -> String {
    let like = like.map_or(String::new(), |layout| format!(" --like {layout}"));
    format!("efibed shrink {path}{like}")
}

fn text(summary: &Summary, like: Option<Layout>) -> String {
    let Summary { status, seed, findings, saved, .. } = summary;
    let mut text = String::new();
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    for key in findings {
        line(&format!("found {key}"));
    }
    if let Some(path) = saved.first() {
        let path = path.display().to_string();
        line(&format!("\nTry:  efibed check {path}\n      {}\n", shrink(&path, like)));
    }
    let seconds = status.elapsed.as_secs_f64();
    let rate = status.per_second();
    let Progress { runs, outside, unable, incomplete, guests, corpus, cells, covered, died, .. } = status;
    line(&format!("{runs} maps in {seconds:.1} s, {rate:.0} a second, {guests} of them in a guest; seed {seed}"));
    let unlike = like.map_or(String::new(), |layout| format!(", and what {layout} does not show"));
    line(&format!("{outside} maps were wrong by themselves, or had no room: few findings count there{unlike}"));
    for (count, what) in [
        (unable, "maps could not be run on this machine"),
        (incomplete, "maps could not be asked about in full, or came to a limit"),
        (died, "processes died: findings named `ended-...` have what a guest did not explain"),
    ] {
        if *count > 0 {
            line(&format!("{count} {what}"));
        }
    }
    let counters = if *covered > 0 { format!(", {covered} counters of the mapping code") } else { String::new() };
    line(&format!("{corpus} maps in the corpus, {cells} cells of shape{counters}"));
    match findings.len() {
        0 => line("nothing new was found"),
        1 => line("1 new finding, a scenario in a file"),
        new => line(&format!("{new} new findings, each a scenario in a file of its own")),
    }
    text
}

impl From<FuzzError> for Failure {
    fn from(error: FuzzError) -> Self {
        match error {
            FuzzError::Corpus(error) => Self::input(error),
            FuzzError::Client(words) => Self::Told {
                status: Status::Unable,
                words: format!("efibed: a process of the campaign could not go on: {words}"),
            },
            error => Self::Output(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("8h", 28_800), ("2d", 172_800)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "10", "m", "0s", "1.5h", "-3s", "999999999999999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
