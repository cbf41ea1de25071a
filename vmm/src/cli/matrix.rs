//! `efibed matrix`: every combination of paging's bits against the SDM.

use std::num::NonZeroUsize;

use clap::Args;

use super::output::{self, Outputs};
use super::progress::{Watching, counted};
use super::results::{Places, Results};
use super::{Failure, Status, input};
use crate::matrix::{CaseError, Combination, Matrix, MatrixReport, Mismatch, Set, Shard, json, text};
use crate::report::junit::{Case, Outcome, Suite};
use crate::report::sarif::{Entry, Part};
use crate::{CpuidRequest, TestBed};

/// The arguments of `matrix`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Which combinations
    #[arg(long, value_name = "access|full", value_parser = input::named::<Set>(Set::NAMES), default_value = "access", long_help = SET_HELP)]
    set: Set,

    /// Only the I-th of N equal shares: for several machines or jobs, or to continue where one stopped
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,

    /// At most N combinations, the same number from each part of the set
    #[arg(long, value_name = "N")]
    sample: Option<u64>,

    /// Which combinations a sample takes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Guests at a time [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// Also time bare loops of the same accesses, before and after, and compare the matrix with them
    #[arg(long)]
    floor: bool,

    /// Run this one combination, and show its tables: the short names of its bits, as a mismatch prints them
    #[arg(long, value_name = "BITS", conflicts_with_all = ["junit", "sarif", "set", "shard", "sample", "seed", "threads", "floor"])]
    case: Option<Combination>,

    /// The guest's CPU, for `--case`: maxphyaddr=N,1g=on|off,la57=on|off,pku=on|off
    #[arg(long, value_name = "LIST", value_parser = input::cpu, requires = "case")]
    cpu: Option<CpuidRequest>,

    #[command(flatten)]
    places: Places,

    #[command(flatten)]
    watching: Watching,
}

const ABOUT: &str = "\
Try every combination of paging's bits in a guest, and compare the results with the SDM

Each combination has page tables of its own. The guest makes one access. It is checked for: fault or not, the \
error code, CR2, the physical page reached, and the A and D bits of every entry. A mismatch that comes from a known \
deviation of this KVM is attributed to it by name, and does not fail the run. What this machine cannot do is listed as \
skipped.

It needs only /dev/kvm: run it on any host, nested or not, to learn whether its KVM can be trusted.";

const SET_HELP: &str = "\
Which combinations: `access` is the enumeration of kvm-unit-tests' x86/access.c, of a PTE or PDE as leaf; `full` adds \
every level, 1 GiB leaves, each reserved bit, other physical-address widths, SMEP, SMAP, protection keys, non-canonical \
addresses, accesses that cross pages, and five-level paging";

const EXAMPLES: &str = "\
Examples:
  efibed matrix                                       what kvm-unit-tests' access test tries
  efibed matrix --set full                            everything
  efibed matrix --set full --sample 100000 --seed 7   an even sample of everything
  efibed matrix --set full --shard 2/5                the second of five jobs
  efibed matrix --case \"pml4e.p pdpte.p pde.p pde.ps pde.b13 user\"

The names of bits, for `--case`:
  pde.b13, pte.w   a bit of an entry: pml5e, pml4e, pdpte, pde or pte, with p, w, u, a, d, ps,
                   g, pat, nx, or bN for bit N
  next.p           the same of the next page's PTE, if the access is `crossing`
  pkey             the leaf has protection key 1, which pkru.ad and pkru.wd deny
  va.b47           bit 47 of the address is inverted; likewise up to va.b63
  pml4.256         the address is in the first slot of the high half
  unbacked         the leaf may lead to an address without memory
  efer.nx, cr0.wp, cr4.smep, cr4.smap, cr4.pke, pkru.ad, pkru.wd, ac
  user             the access is made in ring 3, otherwise in ring 0
  write, fetch     the access is a write or a fetch, otherwise a read
  crossing, stack  it crosses into a second page; it goes through SS
  implicit         it is the processor's own, to a segment descriptor
  twice            a read in ring 0 comes before it

Exit status: 0 if everything is as the SDM says, except for known deviations; 1 if not.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let bed = TestBed::new()?;
    let outputs = arguments.places.open(&[])?;
    let wanted = arguments.places.wanted();
    if let Some(combination) = arguments.case {
        return run_case(&bed, combination, arguments, outputs);
    }
    let matrix = Matrix {
        shard: arguments.shard.unwrap_or_default(),
        sample: arguments.sample,
        seed: arguments.seed,
        threads: arguments.threads,
        floor: arguments.floor,
        ..Matrix::new(arguments.set)
    };
    let report =
        counted(arguments.watching, "combinations", |progress| matrix.run(&bed, &|at| progress(at.done, at.all)))?;
    let status = if report.is_clean() { Status::Clean } else { Status::Findings };
    let text = text::Text::plain(&report).columns(output::columns()).to_string();
    let suites = || vec![suite(&report)];
    let parts = || vec![Part { results: wrong(&report).map(entry).collect(), notices: Vec::new() }];
    Results::new(status, text, wanted, || json::to_json(&report), suites, parts).write(outputs)
}

/// Everything that makes the status 1: a rule's name, and a sentence.
fn wrong(report: &MatrixReport) -> impl Iterator<Item = (&'static str, String)> {
    let shown = report.shown.iter().map(|mismatch| (MISMATCH, in_words(mismatch)));
    let more = report.mismatches.saturating_sub(report.shown.len() as u64);
    let more = (more > 0).then(|| (MISMATCH, format!("{more} more combinations are not as the SDM says")));
    let not_found = report
        .not_found
        .iter()
        .map(|name| (DEVIATION, format!("single accesses show the deviation {name}, and no combination does")));
    let not_shown = report
        .not_shown
        .iter()
        .map(|name| (DEVIATION, format!("combinations show the deviation {name}, and single accesses do not")));
    shown.chain(more).chain(not_found).chain(not_shown)
}

const MISMATCH: &str = "matrix-mismatch";
const DEVIATION: &str = "matrix-deviation";

fn in_words(mismatch: &Mismatch) -> String {
    let Mismatch { case, cpu, expected, observed, .. } = mismatch;
    let cpu = if cpu.is_empty() { String::new() } else { format!(" (cpu {cpu})") };
    format!("{case}{cpu}: expected {expected}; observed {observed}")
}

fn suite(report: &MatrixReport) -> Suite {
    let mut whole = Case::new("matrix", format!("{} combinations of the set {}", report.combinations, report.set));
    let sentences: Vec<_> = wrong(report).collect();
    if let Some((rule, message)) = sentences.first().cloned() {
        let text: Vec<_> = sentences.into_iter().map(|(_, sentence)| sentence).collect();
        whole.outcome = Outcome::Failed { rule: rule.into(), message, text: text.join("\n") };
    }
    let deviations = report.deviations.iter().map(|found| format!("{}: {} combinations", found.name, found.count));
    let deviations = deviations.collect::<Vec<_>>().join("\n");
    whole.output = (!deviations.is_empty()).then(|| format!("known deviations of this KVM\n{deviations}"));
    let skipped = report.skipped.iter().map(|skipped| {
        let case = Case::new("not run", format!("{} combinations: {}", skipped.count, skipped.what));
        case.with(Outcome::Skipped { why: skipped.reason.clone() })
    });
    let cases = [whole].into_iter().chain(skipped).collect();
    Suite { name: "matrix".into(), time: report.elapsed, cases }
}

fn entry((rule, message): (&str, String)) -> Entry {
    let summary = "A combination of paging's bits does not come out as the SDM says.";
    let help = "This KVM, its hardware or this test bed is wrong. `efibed matrix --case` runs one combination.";
    Entry::of_no_file(rule, summary, help, true, message)
}

fn run_case(
    bed: &TestBed,
    combination: Combination,
    arguments: &Arguments,
    outputs: Outputs,
) -> Result<Status, Failure> {
    let single = Matrix::case(bed, combination, &arguments.cpu.unwrap_or_default()).map_err(|error| match error {
        CaseError::Engine(error) => Failure::Engine(error),
        illegal @ CaseError::Illegal(_) => Failure::Input(miette::miette!("{illegal}")),
    })?;
    let status = if single.differs && single.deviations.is_none() { Status::Findings } else { Status::Clean };
    let text = text::SingleText::plain(&single).columns(output::columns()).to_string();
    let wanted = arguments.places.wanted();
    Results::new(status, text, wanted, || json::single_to_json(&single), Vec::new, Vec::new).write(outputs)
}
