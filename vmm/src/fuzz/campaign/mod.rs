//! A campaign: many maps for one piece of mapping code, steered by what they show.
//!
//! The engine is LibAFL: its corpus, feedback, scheduler and broker. A supervisor starts the program again as often as there
//! are cores. Each of these clients runs maps, and the broker passes between them what showed something new.
//!
//! | file | holds |
//! | --- | --- |
//! | `supervisor` | clients, files, signals |
//! | `client` | a process that runs maps |
//! | `target` | the mapping code as LibAFL sees it |
//! | `trial` | one map, run on the engines that were asked for, and which findings count |
//! | `shape` | what a run did, as cells |
//! | `counters` | coverage, where the mapping code was compiled with it |
//! | `counted` | the built-in layouts, compiled with it |
//! | `mutator` | the next map |
//! | `input` | a map as it is sent |
//! | `post` | what clients send |
//! | `slate` | what a client that died was doing |
//! | `segments` | shared memory that no process can leave behind |
//! | `folder` | findings and corpus, as files |
//! | `summary` | what it came to |

mod client;
mod counted;
mod counters;
mod folder;
mod input;
mod mutator;
mod post;
mod segments;
mod shape;
mod slate;
mod summary;
mod supervisor;
mod target;
mod trial;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use efibed_guest::Mapper;

#[cfg(feature = "cli")]
pub(crate) use client::CLIENT_FAILED;
pub use summary::{Status, Summary};

use self::client::Orders;
use self::input::MapInput;
use self::trial::Judge;
use crate::memory_map::{MemoryMap, ReadError};
use crate::{Layout, Scenario};

/// A campaign of memory maps against mapping code: a fuzz target is a `main` that runs one.
///
/// ```no_run
/// use efibed::fuzz::Fuzz;
/// # use efibed::LayoutMapper as MyMapper;
///
/// fn main() -> Result<(), efibed::Error> {
///     let summary = Fuzz::new(MyMapper::default()).runs(100_000).run()?;
///     assert!(summary.findings.is_empty(), "{summary:#?}");
///     Ok(())
/// }
/// ```
///
/// It starts the program again, once for each core, with the same arguments: what `main` does before [`Fuzz::run`] is done in
/// each. There `run` does not return.
#[derive(Clone, Debug)]
pub struct Fuzz {
    scenario: Scenario,
    engine: FuzzEngine,
    runs: Option<u64>,
    time: Option<Duration>,
    seed: u64,
    cores: usize,
    out: PathBuf,
    maps: Vec<MapInput>,
    max_mapped_pages: u64,
    limit: Duration,
    listen: Option<u16>,
    broker: Option<String>,
    like: Option<Layout>,
    confine: Option<Confine>,
}

/// Has a process give up what it needs no more; the error says in words why it could not.
pub(crate) type Confine = fn() -> Result<(), String>;

/// Where maps are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum FuzzEngine {
    /// Each natively, and those that show something new in a guest, too.
    #[default]
    Both,
    /// Each in a guest.
    Kvm,
    /// Each natively: the mapping code is trusted, and no MMU is asked.
    Walker,
}

efibed_stub::names! {
    FuzzEngine, "engine":
    Both "both",
    Kvm "kvm",
    Walker "walker",
}

/// How long one map may take: those that a campaign makes take milliseconds.
const LIMIT: Duration = Duration::from_secs(10);
/// Pages that a guest's MMU is asked about one by one, besides both ends of every run of leaves. The walk looks at all, and a
/// person who runs the finding again has them all reached.
const SWEEP_LIMIT: u64 = 512;
/// 1 GiB: room for leaves of every size. Larger maps take longer.
const MAX_MAPPED_PAGES: u64 = 1 << 18;
/// The folder where nothing else is said.
const OUT: &str = "efibed-fuzz";
const SEED: u64 = 2013;

impl Fuzz {
    /// A campaign against a function of this process, held to the usual contract: see [`Scenario::mapper`].
    pub fn new(mapper: impl Mapper + Clone + Send + Sync + 'static) -> Self {
        Self::of(Scenario::new(MemoryMap::from_descriptors("", Vec::new())).mapper(mapper))
    }

    /// A campaign against a scenario's mapping code, under its contract, on its CPU. Its map is not used. Firmware is not
    /// called, unless [`Self::calls`] says so.
    pub fn of(scenario: Scenario) -> Self {
        Self {
            scenario: scenario.firmware_calls(false).sweep_limit(SWEEP_LIMIT),
            engine: FuzzEngine::default(),
            runs: None,
            time: None,
            seed: SEED,
            cores: 1,
            out: OUT.into(),
            maps: Vec::new(),
            max_mapped_pages: MAX_MAPPED_PAGES,
            limit: LIMIT,
            listen: None,
            broker: None,
            like: None,
            confine: None,
        }
        .limit(LIMIT)
    }

    /// Has what is found on maps that are wrong by themselves, or that there is no room for, count where this layout does not
    /// show it: for mapping code that is to do there, too, what the layout does.
    #[must_use]
    pub fn like(self, layout: Layout) -> Self {
        Self { like: Some(layout), ..self }
    }

    /// Where maps are run.
    #[must_use]
    pub fn engine(self, engine: FuzzEngine) -> Self {
        Self { engine, ..self }
    }

    /// Ends after so many maps; the default is never.
    #[must_use]
    pub fn runs(self, runs: u64) -> Self {
        Self { runs: Some(runs), ..self }
    }

    /// Ends after so long; the default is never.
    #[must_use]
    pub fn time(self, time: Duration) -> Self {
        Self { time: Some(time), ..self }
    }

    /// Begins with other maps.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Runs in so many processes; in one at least.
    #[must_use]
    pub fn cores(self, cores: usize) -> Self {
        Self { cores: cores.max(1), ..self }
    }

    /// Writes to this folder, and goes on from what is there; the default is `efibed-fuzz`.
    #[must_use]
    pub fn out(self, out: impl Into<PathBuf>) -> Self {
        Self { out: out.into(), ..self }
    }

    /// Begins with these maps: those of real machines, for instance.
    #[must_use]
    pub fn maps(self, maps: impl IntoIterator<Item = MemoryMap>) -> Self {
        Self { maps: maps.into_iter().map(|map| MapInput::from(&map)).collect(), ..self }
    }

    /// Makes maps with at most so many pages to map; the default is 1 GiB. What is made of a larger map that was given may be
    /// as large as that.
    #[must_use]
    pub fn max_mapped_pages(self, max_mapped_pages: u64) -> Self {
        Self { max_mapped_pages, ..self }
    }

    /// How long one map may take on one engine; the default is 10 seconds. What runs for half of that in a guest without a word
    /// counts as hung, which is a finding.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { scenario: self.scenario.limit(limit).stretch_limit(limit / 2), limit, ..self }
    }

    /// Has the guest call firmware's services, too.
    #[must_use]
    pub fn calls(self, calls: bool) -> Self {
        Self { scenario: self.scenario.firmware_calls(calls), ..self }
    }

    /// The port on loopback at which other campaigns find this one; the default is any that is free.
    #[must_use]
    pub fn listen(self, port: u16) -> Self {
        Self { listen: Some(port), ..self }
    }

    /// Exchanges maps and findings with the campaign that listens there, as HOST:PORT. Nothing on the way is encrypted, and
    /// nobody is asked who they are.
    #[must_use]
    pub fn broker(self, address: impl Into<String>) -> Self {
        Self { broker: Some(address.into()), ..self }
    }

    /// Has every process that runs maps call this once it has all that it works with: files, the broker, KVM. The map of one
    /// that dies is a finding as it is then: nothing is run where it is not confined.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn confined(self, confine: Confine) -> Self {
        Self { confine: Some(confine), ..self }
    }

    /// Runs the campaign.
    pub fn run(&self) -> Result<Summary, FuzzError> {
        self.run_telling(&|_| {})
    }

    /// The same, and tells now and then how far it is.
    pub fn run_telling(&self, tell: &dyn Fn(&Status)) -> Result<Summary, FuzzError> {
        match Orders::given() {
            None => supervisor::run(self, tell),
            Some(orders) => client::run(self, orders),
        }
    }

    /// Whether this process is one that a campaign started again: it has nothing to do but come to [`Self::run`].
    pub fn is_client() -> bool {
        Orders::given().is_some()
    }

    fn judge(&self) -> Judge {
        Judge { contract: self.scenario.contract_in_force().clone(), like: self.like }
    }

    /// When a client counts as hung: each engine has its limit, which native mapping code does not keep.
    fn hang_limit(&self) -> Duration {
        self.limit * 3
    }
}

/// A scenario as a campaign runs it in a guest, until something is found.
#[cfg(feature = "unstable")]
pub fn in_guest(scenario: Scenario) -> Scenario {
    trial::quick(trial::in_guest(Fuzz::of(scenario).scenario))
}

/// Why a campaign could not begin, or go on.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum FuzzError {
    /// A file or a folder.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it could not be.
        error: io::Error,
    },
    /// A map of the corpus.
    #[error(transparent)]
    Corpus(ReadError),
    /// The port to listen at.
    #[error("cannot listen at port {0} of this machine: {1}")]
    Port(u16, io::Error),
    /// Another campaign's broker.
    #[error("cannot join the campaign at {0}: {1}")]
    Broker(String, String),
    /// A process, or its memory.
    #[error("cannot start a process of the campaign: {0}")]
    Process(io::Error),
    /// A client that could not go on, in its own words.
    #[error("a process of the campaign could not go on: {0}")]
    Client(String),
    /// Findings that a process told of, and that did not arrive.
    #[error("{0} findings were lost between the processes of the campaign: run it again, in the same folder")]
    Lost(u64),
    /// LibAFL.
    #[error("LibAFL: {0}")]
    Engine(String),
}

/// The same words: no error has more to say.
impl fmt::Debug for FuzzError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corpus(error) => fmt::Debug::fmt(error, f),
            _ => fmt::Display::fmt(self, f),
        }
    }
}

impl FuzzError {
    fn file(what: &'static str, path: &Path, error: io::Error) -> Self {
        Self::File { what, path: path.into(), error }
    }
}

impl From<libafl::Error> for FuzzError {
    fn from(error: libafl::Error) -> Self {
        Self::Engine(error.to_string())
    }
}
