//! One combination by itself.

use std::fmt;

use super::arena::{Arena, Case, Slots, new_arenas};
use super::bits::Combination;
use super::deviations::{DEVIATIONS, KnownMachine, Model};
use super::expected::Expected;
use super::findings::explain;
use super::legal::illegal;
use super::mismatch::Mismatch;
use super::observed::Observed;
use super::part::Part;
use super::plan::lacks;
use super::sets::Plane;
use super::station::{Batch, Site, modes};
use crate::bed::TestBed;
use crate::engine::EngineError;
use crate::machine::CpuidRequest;
use crate::mmu::Level;

/// A combination that was run, and what came of it.
#[derive(Clone, Debug)]
pub struct Single {
    /// What must come of it, and what did.
    pub outcome: Mismatch,
    /// Whether the two differ.
    pub differs: bool,
    /// Deviations of this KVM that explain it, if they do.
    pub deviations: Option<Vec<&'static str>>,
    /// The address of the access.
    pub virt: u64,
    /// CR3.
    pub root: u64,
    /// Its entries, from the top down.
    pub entries: Vec<SingleEntry>,
}

/// A table entry of a [`Single`].
#[derive(Clone, Debug)]
pub struct SingleEntry {
    /// Its level, or `next PTE`.
    pub name: String,
    /// Its physical address.
    pub at: u64,
    /// Before the access.
    pub before: u64,
    /// After it.
    pub after: u64,
}

/// Why a combination was not run. Its `Debug` says what to do, too, where that is known.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// There is no such combination.
    #[error("this combination is not part of the matrix: {0}")]
    Illegal(&'static str),
    /// KVM failed, or cannot do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl fmt::Debug for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Illegal(_) => fmt::Display::fmt(self, f),
            Self::Engine(error) => fmt::Debug::fmt(error, f),
        }
    }
}

/// Runs it on a CPU asked for in this way.
pub fn run(bed: &TestBed, combination: Combination, cpu: &CpuidRequest) -> Result<Single, CaseError> {
    let abilities = bed.abilities(cpu)?;
    if let Some(why) = illegal(&combination, &abilities.told) {
        return Err(CaseError::Illegal(why));
    }
    if let Some(why) = lacks(&abilities, cpu, &combination) {
        return Err(EngineError::Unable { what: "this combination".into(), why }.into());
    }
    let plane = Plane {
        name: "case",
        always: combination.iter().collect(),
        each: Vec::new(),
        one_of: Vec::new(),
        cpus: Vec::new(),
    };
    let part = Part::new(&plane, *cpu, abilities.taken, &[]);
    let machine = KnownMachine::new(abilities);
    let arenas = new_arenas()?;
    let case = arenas[0].lay_out(0, &mut Slots::default(), combination, part.told.la57);
    let case = case.ok_or_else(|| EngineError::Kvm("an arena has no slot".into()))?;

    let mut batch = Batch::new(0, 0);
    batch.cases.push(case);
    let mut site = Site::new(bed, &part, &arenas)?;
    site.open(&part, &arenas, true)?.run(&mut batch)?;
    site.close(bed, &part);
    Ok(judge(&case, &Observed::of(&arenas[0], &batch, 0), &part, &machine, &arenas[0]))
}

fn judge(case: &Case, observed: &Observed, part: &Part, machine: &KnownMachine, arena: &Arena) -> Single {
    let model = Model::of_the_sdm(modes(&part.told, &case.combination));
    let expected = Expected::of(case, &model);
    let differences = expected.differences(case, observed);
    let differs = !differences.is_empty();
    let deviations = if differs { explain(case, observed, model, machine) } else { None };
    Single {
        outcome: Mismatch::new(case, &part.request, &expected, observed, &differences),
        differs,
        deviations: deviations.map(|(indices, _)| indices.iter().map(|&index| DEVIATIONS[index].name).collect()),
        virt: case.va.0,
        root: case.root().0,
        entries: entries(case, arena),
    }
}

fn entries(case: &Case, arena: &Arena) -> Vec<SingleEntry> {
    let levels = [Level::Pml5e, Level::Pml4e, Level::Pdpte, Level::Pde, Level::Pte];
    let own = levels.map(|level| (level.to_string(), case.entries[level as usize - 1]));
    let next = ("next PTE".to_owned(), case.entries[super::bits::LEVELS]);
    let there = own.into_iter().chain([next]).filter(|(_, entry)| entry.at.0 != 0);
    there
        .map(|(name, entry)| SingleEntry { name, at: entry.at.0, before: entry.value, after: arena.entry(&entry) })
        .collect()
}
