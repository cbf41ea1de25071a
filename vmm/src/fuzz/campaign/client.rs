//! One process that runs maps. Its supervisor starts it, as the same program again, and it ends with its supervisor.

use std::cell::RefCell;
use std::env;
use std::io;
use std::num::NonZeroUsize;
use std::process::exit;
use std::rc::Rc;

use libafl::corpus::{Corpus as _, InMemoryCorpus};
use libafl::events::{AwaitRestartSafe as _, EventConfig, LlmpEventManager, LlmpEventManagerBuilder, SendExiting as _};
use libafl::feedback_or;
use libafl::feedbacks::{MapFeedbackMetadata, MaxMapFeedback};
use libafl::schedulers::QueueScheduler;
use libafl::stages::StdMutationalStage;
use libafl::state::{HasCorpus as _, StdState};
use libafl::{Evaluator as _, Fuzzer as _, HasNamedMetadata as _, HasObjective as _, StdFuzzer};
use libafl_bolts::rands::StdRand;
use libafl_bolts::shmem::{ShMemProvider as _, StdShMem};
use libafl_bolts::tuples::tuple_list;

use super::folder::Folder;
use super::input::MapInput;
use super::mutator::Mutate;
use super::post::{FINDING, Told};
use super::segments::Segments;
use super::slate::{Slate, Word};
use super::target::{Hit, Hits, NewCells, NewFinding, Shape, Target};
use super::trial::Trials;
use super::{Fuzz, FuzzEngine, FuzzError, counters};
use crate::TestBed;
use crate::fuzz::saved::Writer;
use crate::random::Random;

/// What a supervisor tells a client, in a variable of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// The broker's port on loopback.
    pub port: u16,
    /// Which client it is, of all that were started.
    pub number: u64,
    /// How many maps to run.
    pub runs: u64,
    /// The supervisor.
    pub parent: u32,
}

/// The variable.
pub const VARIABLE: &str = "EFIBED_FUZZ_CLIENT";

impl Orders {
    /// Those that this process was given, if it is a client.
    pub fn given() -> Option<Self> {
        Self::parse(&env::var(VARIABLE).ok()?)
    }

    /// As the variable has them.
    pub fn to_text(self) -> String {
        let Self { port, number, runs, parent } = self;
        format!("{port} {number} {runs} {parent}")
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [port, number, runs, parent] = numbers[..] else { return None };
        Some(Self { port: port.try_into().ok()?, number, runs, parent: parent.try_into().ok()? })
    }
}

type State = StdState<InMemoryCorpus<MapInput>, MapInput, StdRand, InMemoryCorpus<MapInput>>;
type Manager = LlmpEventManager<(), MapInput, State, StdShMem, Segments>;

/// Maps made of one, before other clients' are looked at, and findings are told. A run in the guest takes milliseconds.
const ROUND: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");
/// Maps from nothing that a search begins with.
const FIRST_MAPS: u64 = 32;

/// Runs maps until the orders are carried out; then the process ends.
pub fn run(fuzz: &Fuzz, orders: Orders) -> ! {
    ignore_ends();
    let begun = end_with(orders.parent).and_then(|()| limit_memory()).map_err(FuzzError::Process);
    let ended = begun.and_then(|()| search(fuzz, orders));
    match ended {
        Ok(()) => exit(0),
        Err(error) => {
            // The supervisor shows it, and says whose words they are.
            match error {
                FuzzError::Client(words) => eprintln!("{words}"),
                error => eprintln!("{error:?}"),
            }
            exit(CLIENT_FAILED)
        }
    }
}

/// The status of a client that could not go on, and said why.
pub const CLIENT_FAILED: i32 = 70;

/// It is the supervisor that is asked to end, and tells its clients. A service manager asks all processes of a campaign at once:
/// each map that is being run would be a finding.
fn ignore_ends() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: to ignore a signal has no conditions.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Has the kernel end this process with its supervisor, which may have ended already.
fn end_with(parent: u32) -> io::Result<()> {
    // SAFETY: this sets an attribute of the process, and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if std::os::unix::process::parent_id() == parent { Ok(()) } else { exit(0) }
}

/// What mapping code that eats memory may have of it: so the process dies, and not another.
const MAX_DATA_BYTES: u64 = 8 << 30;

fn limit_memory() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: MAX_DATA_BYTES, rlim_max: MAX_DATA_BYTES };
    // SAFETY: the call reads `limit`, and nothing else.
    if unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn search(fuzz: &Fuzz, orders: Orders) -> Result<(), FuzzError> {
    let slate = Slate::given().map_err(FuzzError::Process)?;
    let folder = Folder::open(&fuzz.out)?;
    let shape = Rc::<RefCell<Shape>>::default();
    let coverage = counters::observer(fuzz.scenario.program_counters());
    let mut feedback = feedback_or!(NewCells(Rc::clone(&shape)), MaxMapFeedback::new(&coverage));
    let [found, untold] = [Hits::default(), Hits::default()];
    let mut objective = NewFinding::new(Rc::clone(&found), folder.known()?, Rc::clone(&untold));
    // A client that takes another's place must not do the same again.
    let seed = Random::of_run(fuzz.seed, orders.number).number();
    let [corpus, solutions] = [InMemoryCorpus::new(), InMemoryCorpus::new()];
    let mut state: State = StdState::new(StdRand::with_seed(seed), corpus, solutions, &mut feedback, &mut objective)?;
    // In turn: LibAFL's minimizer goes through tables in an order that no seed gives.
    let mut fuzzer = StdFuzzer::new(QueueScheduler::new(), feedback, objective);
    fuzzer.set_share_objectives(true);
    let trials = Trials::new(bed(fuzz)?, fuzz.scenario.clone(), fuzz.engine, fuzz.judge());
    let mut target = Target::new(trials, slate, coverage, Rc::clone(&shape), found, orders.runs);
    let provider = Segments::new()?;
    let mut manager: Manager =
        LlmpEventManagerBuilder::new().build_on_port(provider, orders.port, EventConfig::AlwaysUnique)?;

    let mutate = Mutate::new(fuzz.max_mapped_pages);
    let first = first_maps(fuzz, &folder, &mutate, seed)?;
    let writer = Writer::new(&fuzz.scenario);
    fuzz.confine.map_or(Ok(()), |confine| confine()).map_err(FuzzError::Client)?;
    for input in first {
        fuzzer.evaluate_input(&mut state, &mut target, &mut manager, &input)?;
        tell(&writer, &untold, &mut manager, &state, &shape, target.slate())?;
    }
    if state.corpus().count() == 0 && !target.is_done() {
        return Err(FuzzError::Client(format!(
            "no map could be run: {}",
            target.unable().unwrap_or("none showed anything")
        )));
    }
    let mut stages = tuple_list!(StdMutationalStage::with_max_iterations(mutate, ROUND));
    while !target.is_done() {
        fuzzer.fuzz_one(&mut stages, &mut target, &mut state, &mut manager)?;
        tell(&writer, &untold, &mut manager, &state, &shape, target.slate())?;
    }
    manager.send_exiting()?;
    manager.await_restart_safe();
    Ok(())
}

/// Where maps run. A process that is to be confined opens /dev/kvm before that.
fn bed(fuzz: &Fuzz) -> Result<TestBed, FuzzError> {
    match fuzz.confine {
        Some(_) if fuzz.engine != FuzzEngine::Walker => {
            TestBed::new().map_err(|error| FuzzError::Client(error.to_string()))
        }
        _ => Ok(TestBed::without_kvm()),
    }
}

/// The maps that were given, the corpus of an earlier campaign, and maps from nothing.
fn first_maps(fuzz: &Fuzz, folder: &Folder, mutate: &Mutate, seed: u64) -> Result<Vec<MapInput>, FuzzError> {
    let mut random = Random::new(seed);
    let fresh = (0..FIRST_MAPS).map(|_| MapInput::from(&mutate.fresh(&mut random)));
    Ok(fuzz.maps.iter().cloned().chain(folder.corpus()?).chain(fresh).collect())
}

/// Tells the supervisor how far this client is, and of new findings, each with the scenario that shows it.
fn tell(
    writer: &Writer<'_>,
    untold: &Hits,
    manager: &mut Manager,
    state: &State,
    shape: &RefCell<Shape>,
    slate: &Slate,
) -> Result<(), FuzzError> {
    slate.set(Word::Corpus, state.corpus().count() as u64);
    slate.set(Word::Cells, shape.borrow().kept.count());
    let metadata = state.named_metadata::<MapFeedbackMetadata<u8>>(counters::NAME);
    slate.set(Word::Covered, metadata.map_or(0, |metadata| metadata.num_covered_map_indexes as u64));
    for Hit { key, report, map } in untold.take() {
        let told = Told { key: key.to_string(), toml: writer.finding(&key, &report, &map) };
        let message = postcard::to_allocvec(&told).map_err(|error| FuzzError::Engine(error.to_string()))?;
        manager.llmp.send_buf(FINDING, &message)?;
        slate.add(Word::Told, 1);
        // Its memory goes with this process, unless the supervisor has it too. The next map may be the last.
        manager.await_restart_safe();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        let orders = Orders { port: 1337, number: 3, runs: u64::MAX, parent: 4_000_000 };
        assert_eq!(Orders::parse(&orders.to_text()), Some(orders));
        for text in ["", "1 2 3", "1 2 3 4 5", "65536 2 3 4", "1 2 x 4"] {
            assert_eq!(Orders::parse(text), None, "{text}");
        }
    }
}
