//! `efibed matrix`: every combination of paging's bits against the SDM.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::output::{self, Outputs};
use super::progress::{Watching, counted};
use super::{Failure, Status, input};
use crate::matrix::{CaseError, Combination, Matrix, Set, Shard, json, text};
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
    #[arg(long, value_name = "BITS", conflicts_with_all = ["set", "shard", "sample", "seed", "threads", "floor"])]
    case: Option<Combination>,

    /// The guest's CPU, for `--case`: maxphyaddr=N,1g=on|off,la57=on|off,pku=on|off
    #[arg(long, value_name = "LIST", value_parser = input::cpu, requires = "case")]
    cpu: Option<CpuidRequest>,

    /// Write the result as JSON to a file, or with `-` to standard output in place of the text
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,

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
    let outputs = Outputs::open([arguments.json.as_deref()], &[])?;
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
    outputs.write(
        || text::Text::plain(&report).columns(output::columns()).to_string(),
        &[&|| json::to_json(&report)],
        status,
    )
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
    outputs.write(
        || text::SingleText::plain(&single).columns(output::columns()).to_string(),
        &[&|| json::single_to_json(&single)],
        status,
    )
}
