//! What a run found, and how it is shown: [`text`] for people, [`json`] for programs; [`explain`] says what it means. And a
//! [`map`] by itself, before anything is run.

pub mod diff;
pub(crate) mod error_code;
pub mod explain;
#[cfg(feature = "cli")]
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod html;
pub mod json;
#[cfg(feature = "cli")]
pub mod junit;
pub mod map;
#[cfg(feature = "cli")]
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod run_diff;
#[cfg(test)]
mod samples;
#[cfg(feature = "cli")]
pub mod sarif;
pub(crate) mod style;
pub(crate) mod table;
pub mod text;
mod verdict;
pub(crate) mod walk;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use efibed_guest::{Layout, LayoutMapper, LeafRule};

pub use verdict::{Expected, RunVerdict};

use crate::check::{FaultRecord, Finding, LeafCounts, Phase, ProbeCounts, Rule, Skipped};
use crate::firmware::Misbehaviour;
use crate::memory_map::{MemoryDescriptor, Region};
use crate::mmu::{Cpu, Listing, Pa, Run, Va};

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where the map came from.
    pub source: String,
    /// The mapping code.
    pub mapper: MapperName,
    /// What executed and observed.
    pub engine: EngineName,
    /// What the CPU was told, and what it checks.
    pub cpu: Cpu,
    /// Every descriptor of the map, in list order, and what became of it.
    pub regions: Vec<RegionReport>,
    /// Accesses made in the guest.
    pub probes: ProbeCounts,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings left out, because there were too many.
    pub findings_omitted: u64,
    /// Unexpected faults.
    pub faults: Vec<FaultDetail>,
    /// How many more there were.
    pub faults_omitted: u64,
    /// Why no runtime service was called at all, if none was in a guest.
    pub uncalled: Option<String>,
    /// Calls of runtime services.
    pub calls: Vec<CallReport>,
    /// What was not asked, and why.
    pub skipped: Vec<Skipped>,
    /// The rules that the scenario expects to be found, and no others; None: it says nothing of it.
    pub expected_rules: Option<Vec<Rule>>,
    /// What is odd, but not wrong.
    pub notes: Vec<String>,
    /// How long it took.
    pub timing: Timing,
    /// Everything that translates in the regions, by virtual address, before anything is unmapped in phase `finish`.
    pub runs: Vec<Run>,
    /// What the mapper handed to SetVirtualAddressMap, in its order.
    pub virtual_map: Vec<MemoryDescriptor>,
    /// The whole tables of each phase that made or changed them, where the scenario asks for that.
    pub tables: Vec<TableDump>,
    /// What a program has counted of its coverage, a byte for each edge; empty: it was compiled to count nothing, or is no
    /// program.
    pub counters: Vec<u8>,
}

/// All that is present in the tables of a phase, as the walk reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDump {
    /// The phase after which they were read.
    pub phase: Phase,
    /// By virtual address.
    pub runs: Vec<Run>,
    /// Where the kernel's own mapping is, first and last address of each range.
    pub kernel: Vec<RangeInclusive<Va>>,
    /// Whether there is more than is listed.
    pub is_cut: bool,
    /// Where they begin: CR3.
    pub root: Pa,
    /// The same tables entry by entry.
    pub listing: Listing,
}

/// The mapping code that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapperName {
    /// A built-in layout.
    Layout {
        /// Where regions go.
        layout: Layout,
        /// Which leaves map them.
        leaf_rule: LeafRule,
    },
    /// A mapper of the process that called the test bed, by the name of its type.
    Function(String),
    /// An ELF file.
    Elf(String),
}

impl MapperName {
    /// The file's name, or what else there is.
    pub(crate) fn file(&self) -> &str {
        match self {
            Self::Layout { layout, .. } => layout.name(),
            Self::Function(name) | Self::Elf(name) => name,
        }
    }
}

impl From<LayoutMapper> for MapperName {
    fn from(LayoutMapper { layout, leaf_rule }: LayoutMapper) -> Self {
        Self::Layout { layout, leaf_rule }
    }
}

impl fmt::Display for MapperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { layout, leaf_rule } => write!(f, "layout {}, leaf rule {}", layout.name(), leaf_rule.name()),
            Self::Function(name) => write!(f, "{name}, a mapper of this process"),
            Self::Elf(name) => write!(f, "{name}"),
        }
    }
}

/// What executed and observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum EngineName {
    /// A KVM guest: its MMU is asked about every page.
    #[default]
    Kvm,
    /// The mapping code ran natively; only the software walk looked at its tables.
    Walker,
}

efibed_stub::names! {
    EngineName, "engine":
    Kvm "kvm",
    Walker "walker",
}

/// What became of a descriptor.
#[derive(Clone, Debug)]
pub struct RegionReport {
    /// The descriptor.
    pub region: Region,
    /// The line, from 1, at which the map's text has it; None: the map is of no text.
    pub line: Option<usize>,
    /// Its virtual address, if it was given one.
    pub virt: Option<u64>,
    /// Further virtual addresses of it.
    pub aliases: Vec<u64>,
    /// The leaves that map it.
    pub leaves: LeafCounts,
    /// In a word.
    pub verdict: Verdict,
}

/// What became of a descriptor, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Mapped, and no finding of an error names it.
    Ok,
    /// Some finding of an error names it.
    Wrong,
    /// Owed to firmware, and not mapped.
    Unmapped,
    /// Nobody has to map it, and nobody did.
    NotOwed,
    /// It could not be asked about.
    Skipped,
}

efibed_stub::names! {
    Verdict, "verdict":
    Ok "ok",
    Wrong "wrong",
    Unmapped "unmapped",
    NotOwed "not-owed",
    Skipped "skipped",
}

/// A fault that had no business to be.
#[derive(Clone, Debug)]
pub struct FaultDetail {
    /// The phase in which the guest met it.
    pub phase: Phase,
    /// The fault, as the handler saw it.
    pub record: FaultRecord,
    /// The instruction at RIP, where it could be read.
    pub instruction: Option<String>,
    /// The runtime service that it came in; None: a probe.
    pub service: Option<&'static str>,
    /// Whose fault it was.
    pub culprit: Culprit,
}

/// Whose fault a fault was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Culprit {
    /// The mapping code's: something was owed.
    MappingCode,
    /// Firmware's: it did what it must not.
    Firmware(Misbehaviour),
    /// Firmware's, too: its Memory Attributes Table denies what it needs.
    AttributesTable,
    /// The kernel's that called firmware: at a wrong address, or on wrong tables.
    Kernel,
}

/// A call of a runtime service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallReport {
    /// The phase in which it was made.
    pub phase: Phase,
    /// The service's name, such as `SetVirtualAddressMap`.
    pub service: &'static str,
    /// Where it trapped to the host, or, if it did not come to that, where it was called; None if it was not called.
    pub rip: Option<u64>,
    /// CR3 there.
    pub cr3: Option<u64>,
    /// Whose tables were loaded: `mapper` or `boot`.
    pub tables: &'static str,
    /// Its first four arguments.
    pub args: [u64; 4],
    /// Its status; None: it was not called, or (with `rip`) did not return.
    pub status: Option<u64>,
    /// The status that it must answer; None: it must not return.
    pub expected: Option<u64>,
    /// Why there is no status.
    pub reason: Option<String>,
}

impl CallReport {
    /// Whether it was called, and answered as it must.
    pub fn is_right(&self) -> bool {
        self.rip.is_some() && self.status == self.expected
    }
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Laying out memory and booting the guest.
    pub build: Duration,
    /// The mapping code.
    pub map: Duration,
    /// Probes.
    pub probe: Duration,
    /// Walks, plans and judgements.
    pub check: Duration,
    /// All of it.
    pub total: Duration,
}

impl Report {
    /// Whether all that there was to ask was asked, and answered rightly.
    pub fn is_clean(&self) -> bool {
        self.verdict() == RunVerdict::Clean
    }

    /// Panics with the report as a person would read it, if the run is not clean.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "\n{self}");
    }

    /// The first finding of a rule.
    pub fn finding(&self, rule: Rule) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.rule == rule)
    }

    /// The verdict, and how much it stands for, on one line.
    pub fn headline(&self) -> String {
        text::headline::line(self)
    }

    /// The report as one JSON object: see [`json`].
    pub fn to_json(&self) -> String {
        json::to_json(self)
    }

    /// Where an address of a region leads, by the walk.
    pub fn translate(&self, virt: u64) -> Option<Pa> {
        let after = self.runs.partition_point(|run| run.va.0 <= virt);
        let run = self.runs[..after].last()?;
        let offset = virt.checked_sub(run.va.0).filter(|offset| *offset < run.bytes && run.defect.is_none())?;
        run.pa.0.checked_add(offset).map(Pa)
    }
}

/// As a person reads it, without colour.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::Text::plain(self).fmt(f)
    }
}
