//! What is put to the test.

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, OnceLock};

use efibed_guest::{LayoutMapper, Mapper};

use super::EngineError;
use crate::check::{Contract, Place};
use crate::guest::process::{Code, Frame, Program, ProgramError, Symbols};
use crate::report::MapperName;

/// Mapping code, and what it is held to.
#[derive(Clone)]
pub struct Subject {
    name: MapperName,
    contract: Contract,
    door: Door,
}

/// The way in.
#[derive(Clone)]
enum Door {
    /// A mapper of this process: each run gets its own.
    Function(Arc<dyn Fn() -> Box<dyn Mapper> + Send + Sync>),
    /// An ELF file; the error says why it is none.
    Program(Arc<Result<(Program, Symbols), ProgramError>>),
}

impl Subject {
    /// Somebody's mapper. Each run works on a copy.
    pub fn function<M: Mapper + Clone + Send + Sync + 'static>(mapper: M) -> Self {
        Self::new(MapperName::Function(type_name::<M>().into()), Contract::default(), mapper)
    }

    /// A built-in layout, in code that does the same.
    pub fn layout(mapper: LayoutMapper, code: impl Mapper + Clone + Send + Sync + 'static) -> Self {
        Self::new(mapper.into(), Contract::of(mapper.layout), code)
    }

    /// An ELF file of that name.
    pub fn program(name: String, elf: &[u8]) -> Self {
        let loaded = Program::load(elf).map(|program| {
            let symbols = Symbols::of_elf(elf, program.bias);
            (program, symbols)
        });
        Self { name: MapperName::Elf(name), contract: Contract::default(), door: Door::Program(Arc::new(loaded)) }
    }

    fn new<M: Mapper + Clone + Send + Sync + 'static>(name: MapperName, contract: Contract, mapper: M) -> Self {
        Self { name, contract, door: Door::Function(Arc::new(move || Box::new(mapper.clone()))) }
    }

    /// As reports have it.
    pub fn name(&self) -> &MapperName {
        &self.name
    }

    /// What must hold of its result, if nobody says otherwise.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// A mapper for a run; None: it is a program.
    pub fn mapper(&self) -> Option<Box<dyn Mapper>> {
        match &self.door {
            Door::Function(make) => Some(make()),
            Door::Program(_) => None,
        }
    }

    /// What a process runs of it.
    pub fn code(&self) -> Result<Code<'_>, EngineError> {
        match &self.door {
            Door::Function(_) => Ok(Code::Own),
            Door::Program(loaded) => match &**loaded {
                Ok((program, _)) => Ok(Code::Program(program)),
                Err(error) => Err(EngineError::Program(format!("{} {error}", self.name.file()))),
            },
        }
    }

    /// What is odd about it, and not wrong.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let notes = match &self.door {
            Door::Program(loaded) => loaded.as_ref().as_ref().map_or(&[][..], |(program, _)| &program.notes),
            Door::Function(_) => &[],
        };
        notes.iter().map(|note| format!("{}: {note}", self.name.file()))
    }

    /// Where in its source an instruction is: the innermost place, and those that it was inlined into.
    ///
    /// Of a built-in layout nobody asks: it is this test bed's own, and a command that is confined cannot open the files that
    /// say so.
    pub fn places(&self, address: u64) -> Vec<Place> {
        self.symbols().map_or_else(Vec::new, |symbols| symbols.chain(address))
    }

    /// The frames that led to one, innermost first, as far as can be told; `word` is what is in memory.
    pub fn callers(&self, frame: Frame, word: &dyn Fn(u64) -> Option<u64>) -> impl Iterator<Item = Frame> {
        /// More than enough for a message; a stack may hold anything.
        const MOST: usize = 32;
        let caller = |frame: &Frame| self.symbols()?.caller(frame, word);
        std::iter::successors(Some(frame), caller).skip(1).take(MOST)
    }

    /// Whether instructions of it may have a place.
    pub fn has_places(&self) -> bool {
        self.symbols().is_some()
    }

    fn symbols(&self) -> Option<&Symbols> {
        match (&self.door, &self.name) {
            (Door::Program(loaded), _) => loaded.as_ref().as_ref().ok().map(|(_, symbols)| symbols),
            (Door::Function(_), MapperName::Layout { .. }) => None,
            (Door::Function(_), _) => Some(OWN_SYMBOLS.get_or_init(Symbols::of_this_process)),
        }
    }
}

/// Read once: those of a test's executable can be a hundred megabytes.
static OWN_SYMBOLS: OnceLock<Symbols> = OnceLock::new();

impl From<LayoutMapper> for Subject {
    fn from(mapper: LayoutMapper) -> Self {
        Self::layout(mapper, mapper)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.name).finish()
    }
}
