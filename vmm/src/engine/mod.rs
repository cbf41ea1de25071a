//! Engines: what runs a scenario's mapping code and observes what it made.
//!
//! - [`Kvm`]: a KVM guest runs the mapping code, loads its tables, and its MMU is asked about every page.
//! - [`walker`]: the same mapping code runs natively, and only the software walk looks at its tables. It is used when
//!   asked for, never instead of the other.
//!
//! `course` is what a run does one after another, over the little that each engine does in its own way; `judging`, `regions`,
//! `denials`, `dump`, `reports` and `left_out` are what it says of it. `cpu` is what may be asked of the CPU, `calls` which
//! runtime services are called. `trials` finds out what a machine's MMU really does,
//! and `writers` which line of the mapping code set an entry that is to blame.

mod calls;
mod course;
mod cpu;
mod denials;
mod dump;
mod firmware_memory;
mod judging;
mod kvm;
mod left_out;
mod machines;
mod mapping;
mod memories;
mod native;
mod options;
mod pool;
mod regions;
mod reports;
mod snapshot;
mod subject;
mod trials;
pub mod walker;
mod writers;

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use crate::check::{Contract, Depth};
use crate::guest::process::{Debugger, ProcessError};
use crate::guest::{BootError, ImageError, LoadError, Strides};
use crate::machine::{CpuidRequest, CreateError, OpenError};
use crate::memory_map::{MemoryDescriptor, MemoryMap};
use crate::mmu::{Level, PagingRules};

pub use kvm::Kvm;
#[cfg(feature = "cli")]
pub(crate) use left_out::misbehaviour as misbehaviour_in_words;
pub use memories::Memories;
pub use options::{DescriptorSize, FirmwareOptions, KernelOptions, Miscall, VariableBytes};
pub use subject::Subject;
pub use trials::{Abilities, TrialResult};

/// What an engine is to do.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The memory map.
    pub map: &'a MemoryMap,
    /// The mapping code.
    pub subject: &'a Subject,
    /// What must hold of its result.
    pub contract: &'a Contract,
    /// What the CPU is to say it is.
    pub cpu: CpuidRequest,
    /// Seeds all sampling.
    pub seed: u64,
    /// For the whole run: what is not done by then is left out, and said.
    pub limit: Duration,
    /// For each stretch of running in the guest, which counts as hung after it.
    pub stretch_limit: Duration,
    /// How much the guest's MMU is asked.
    pub depth: Depth,
    /// Pages swept at most at the addresses that SetVirtualAddressMap is told; of the rest, a sample.
    pub sweep_limit: u64,
    /// How firmware behaves.
    pub firmware: &'a FirmwareOptions,
    /// What the kernel around the mapping code does.
    pub kernel: &'a KernelOptions,
    /// What an earlier kernel did, if this one was kexec'ed: firmware is virtual already.
    pub earlier: Option<Earlier<'a>>,
    /// Changes made to the finished tables, for negative controls.
    pub tampers: &'a [Tamper],
    /// The walker's rules in force, for negative controls.
    pub rules: PagingRules,
    /// Whether the whole tables are to be in the report.
    pub dumps_tables: bool,
    /// Who looks on while the mapping code runs in a guest.
    pub debugger: Option<&'a RefCell<dyn Debugger>>,
    /// Told now and then how far the run is.
    pub progress: &'a dyn Fn(Progress),
}

impl Job<'_> {
    /// How far descriptors are apart.
    pub fn strides(&self) -> Strides {
        let firmware = self.firmware.descriptor_size;
        let kernel = self.kernel.descriptor_size.unwrap_or(firmware);
        Strides { firmware: firmware.get(), kernel: kernel.get() }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Progress {
    /// The mapping code builds tables.
    Mapping {
        /// Tables that it has built.
        tables: u64,
    },
    /// The host begins to walk the tables.
    Walking,
    /// The guest writes to page after page.
    Sweeping {
        /// Pages that it is done with.
        done: u64,
        /// Pages in all.
        all: u64,
    },
    /// The mapping code's second phase begins.
    Finishing,
}

/// The kernel that called SetVirtualAddressMap.
#[derive(Clone, Copy)]
pub struct Earlier<'a> {
    /// The memory map that firmware gave it.
    pub map: &'a MemoryMap,
    /// What it handed back.
    pub virtual_map: &'a [MemoryDescriptor],
}

/// A change of one entry in the finished tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tamper {
    /// An address that the entry translates.
    pub virt: u64,
    /// Its level.
    pub level: Level,
    /// The bits to flip.
    pub flip: u64,
    /// When they are flipped, by the phases of the run.
    pub moment: Moment,
}

/// When the tables are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Moment {
    /// Before the host's first walk: every witness sees it.
    BeforeWalk,
    /// After it: the guest's MMU must notice by itself.
    AfterWalk,
    /// While the guest's MMU is asked about tables that were walked.
    WhileProbed,
    /// At the end of phase `finish`, as if the mapping code had done it.
    AfterFinish,
}

/// Why there is no report. Its `Debug` says what to do, too, where that is known.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// /dev/kvm.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What this process has in memory cannot be told.
    #[error("/proc/self/maps cannot be read, and without it no code of this process runs in the guest: {0}")]
    OwnMemory(std::io::Error),
    /// The ELF file with the mapping code cannot be run.
    #[error("{0}")]
    Program(String),
    /// The machine cannot do what was asked for.
    #[error("this machine cannot do {what}: {why}")]
    Unable {
        /// What was asked for.
        what: String,
        /// What was found.
        why: String,
    },
    /// A virtual machine could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Its memory could not.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nor what the mapping code needs of it.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It could not be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The guest image is unusable.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// KVM failed at something it did before.
    #[error("KVM failed: {0}")]
    Kvm(String),
}

impl EngineError {
    /// What to do about it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Open(error) => Some(error.help()),
            _ => None,
        }
    }
}

/// What the command prints of the same error.
impl fmt::Debug for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.help().map_or(Ok(()), |help| write!(f, "\n  {help}"))
    }
}
