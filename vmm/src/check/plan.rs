//! Which accesses the guest is to make, and what the walk says will come of each.
//!
//! Every page of every alias is reached once: written, where the walk says that no memory is behind it (such a write
//! costs next to nothing and KVM reports where it arrived), else read. A write the walk says will fault is made too. Of
//! what is too large for that a sample is written, and both ends of every leaf run are read. On top come reads at both ends
//! of every alias and around it, a seeded sample of the rest of the arena, and write, fetch and ring-3 probes.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use efibed_stub::stamp::{NUMBER_OFFSET, SCRATCH_OFFSET};

use super::alias::{Alias, Role};
use super::budget::Budget;
use super::contract::Term;
use super::expectation::Expectation;
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Access, Fault, Kind, Outcome, Pa, Paging, Run, Runs, TableMemory, Va, walk};
use crate::random::Random;

/// Where in a stamped page its number is, and the word that may be written.
const NUMBER: u64 = NUMBER_OFFSET as u64;
const SCRATCH: u64 = SCRATCH_OFFSET as u64;
/// Addresses of an arena tried at random: as many as a quarter of the pages that are mapped, within these bounds. Each faults,
/// which takes 17 us where ring 0 is emulated, and the walk has seen all of the arena.
const SAMPLE: RangeInclusive<u64> = 8..=32;
/// Pages read one by one, at most; each is an exit.
const MAX_READS: u64 = 4096;
/// Pages swept that fault, at most: each costs a fault and its record, 40 us where ring 0 is emulated.
const MAX_SWEPT_FAULTS: u64 = 1 << 15;
/// Of all that is past what may be swept, pages swept at random.
const SWEPT_SAMPLE: u64 = 1024;
/// The same where every page is asked about once.
const SHALLOW_SAMPLE: u64 = 64;

/// How much the guest's MMU is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Every page, every alias in every way, its neighbours, and a sample of what nobody owns.
    #[default]
    Full,
    /// Every page once, and no more: for one run among thousands.
    Pages,
}

/// What the guest is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Pages to be written, in runs, by address.
    pub sweeps: Vec<PlannedSweep>,
    /// Single accesses, those of one kind together.
    pub groups: Vec<Group>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Probes of one kind.
#[derive(Clone, Debug)]
pub struct Group {
    /// The access that each makes.
    pub access: Access,
    /// The probes.
    pub probes: Vec<PlannedProbe>,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedProbe {
    /// The address that is accessed.
    pub virt: Va,
    /// What it is for.
    pub purpose: Purpose,
    /// What the walk says.
    pub predicted: Outcome,
    /// What is read there, where that is the guest's own memory: it does not hold the number of its page.
    pub content: Option<u64>,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A page of this alias.
    Alias(usize),
    /// An address that belongs to no region.
    Nobody,
}

/// Pages written one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedSweep {
    /// The first page.
    pub virt: Va,
    /// Pages from there on.
    pub pages: u64,
    /// The alias they belong to.
    pub alias: usize,
    /// What the walk says.
    pub predicted: Frames,
}

impl PlannedSweep {
    /// Some of its pages.
    fn part(self, first: u64, pages: u64) -> Self {
        let offset = first.saturating_mul(PAGE_BYTES);
        let predicted = match self.predicted {
            Frames::From(pa) => Frames::From(pa.saturating_add(offset)),
            fault => fault,
        };
        Self { virt: self.virt.saturating_add(offset), pages, predicted, ..self }
    }
}

/// What the walk says of consecutive pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// They reach consecutive physical pages from this one on.
    From(Pa),
    /// They fault.
    Fault(Fault),
}

/// Something that was not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What kind of gap it is.
    pub kind: SkipKind,
    /// The question, as reports name it.
    pub what: String,
    /// What kept it from being asked.
    pub reason: String,
    /// How many of it.
    pub count: u64,
}

impl Skipped {
    /// Something that was asked for by name, and was not done.
    pub fn not_done(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { kind: SkipKind::NotDone, what: what.into(), reason: reason.into(), count: 1 }
    }
}

/// Why something was not asked. The first two leave a run clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipKind {
    /// This machine, or this test bed on it, cannot ask.
    Machine,
    /// A sample of it was asked instead.
    Sample,
    /// It was asked for, and could not be done.
    NotDone,
}

efibed_stub::names! {
    SkipKind, "kind of gap":
    Machine "machine",
    Sample "sample",
    NotDone "not-done",
}

/// What is behind a physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// No memory: KVM says where an access arrived.
    Nothing,
    /// A page that holds its number, and has a word that may be written.
    Stamped,
    /// The guest's own memory, which is only read.
    Own,
}

/// Where the plan gets its knowledge.
pub struct Ground<'a> {
    /// Where the tables are.
    pub memory: &'a dyn TableMemory,
    /// The mapper's root.
    pub root: Pa,
    /// What the machine checks.
    pub checks: &'a Paging,
    /// Physical pages that have memory, by address, and what kind.
    pub memory_behind: &'a [(Range<Pa>, Behind)],
    /// The kernel's own ranges.
    pub kernel: &'a [RangeInclusive<Va>],
    /// How much is asked.
    pub depth: Depth,
    /// Of the sample.
    pub seed: u64,
    /// Pages swept at most at the addresses that SetVirtualAddressMap is told, and at others; of the rest a sample.
    pub sweep_owed: u64,
    /// See `sweep_owed`.
    pub sweep_others: u64,
    /// Whether ring 3 writes and fetches, too, where it reads.
    pub user_in_every_way: bool,
    /// What all walks of the run may cost.
    pub budget: &'a Budget,
}

impl Plan {
    /// Everything there is to ask about these tables.
    pub fn new(expectation: &Expectation, ground: &Ground<'_>) -> Self {
        let mut maker = Maker {
            ground,
            expectation,
            plan: Self::default(),
            probes: Default::default(),
            written: BTreeSet::new(),
            random: Random::new(ground.seed),
            reads: 0,
            tried: tried(expectation.aliases.len(), ground.seed),
            room_to_sweep: ground.sweep_owed,
            room_to_fault: MAX_SWEPT_FAULTS,
            unswept: Vec::new(),
        };
        // What firmware is owed first: it has the first claim on what may be swept.
        for owed in [true, false] {
            let of_role = |(_, alias): &(usize, &Alias)| (alias.role == Role::Virtual) == owed;
            for (index, alias) in expectation.aliases.iter().enumerate().filter(of_role) {
                maker.alias(index, alias);
            }
            maker.sample_unswept(if owed {
                "pages of large regions"
            } else {
                "pages of large regions at their physical addresses"
            });
            maker.room_to_sweep = ground.sweep_others;
        }
        if ground.depth == Depth::Full {
            maker.gone();
            maker.sample();
        }
        maker.finish()
    }
}

/// Aliases that are tried in every way: ten times as many as any known map has. Each takes up to nine accesses, of 8 to 60
/// us each where ring 0 is emulated.
const MOST_TRIED: usize = 4096;

/// Which of so many aliases are tried in every way; None: all.
fn tried(aliases: usize, seed: u64) -> Option<BTreeSet<usize>> {
    let mut random = Random::new(seed ^ 0x7472_6965);
    (aliases > MOST_TRIED).then(|| (0..MOST_TRIED).map(|_| random.below(aliases as u64) as usize).collect())
}

/// What a probe may be, in the order in which they are made.
const ACCESSES: [Access; 6] = [
    Access::read(),
    Access::write(),
    Access::fetch(),
    Access::read().user(),
    Access::write().user(),
    Access::fetch().user(),
];

struct Maker<'a> {
    ground: &'a Ground<'a>,
    expectation: &'a Expectation,
    plan: Plan,
    /// Addresses by access, in the order of [`ACCESSES`]; sets, since leaf runs and aliases share their ends.
    probes: [BTreeSet<Va>; ACCESSES.len()],
    /// Physical pages whose word some probe writes already: a word written twice would tell of the last write only.
    written: BTreeSet<Pa>,
    random: Random,
    /// Of the aliases, those that are tried in every way; None: all of them.
    tried: Option<BTreeSet<usize>>,
    reads: u64,
    /// Pages that may still be swept.
    room_to_sweep: u64,
    /// Of those, pages that fault.
    room_to_fault: u64,
    /// What was too much to be swept.
    unswept: Vec<PlannedSweep>,
}

impl Maker<'_> {
    fn alias(&mut self, index: usize, alias: &Alias) {
        if alias.past_maxphyaddr {
            return self.skip(
                SkipKind::Machine,
                "pages past the CPU's physical-address width",
                "they can be walked, not reached",
                alias.pages,
            );
        }
        let range = alias.range();
        let mut next = alias.virt;
        let ground = self.ground;
        let mut runs = Runs::new(&ground.memory, ground.root, range, ground.checks, ground.budget.entries());
        loop {
            match ground.budget.next_run(&mut runs) {
                Ok(Some(run)) => {
                    self.faulting(index, next, run.va);
                    self.run(index, &run);
                    next = run.va.wrapping_add(run.bytes);
                }
                Ok(None) => break,
                Err(cut) => {
                    let pages = alias.last().wrapping_add(1).wrapping_offset_from(next) / PAGE_BYTES;
                    return self.skip(SkipKind::NotDone, "pages of large tables", cut.as_text(), pages);
                }
            }
        }
        self.faulting(index, next, alias.last().wrapping_add(1));
        let why_not = match self.ground.depth {
            Depth::Full if self.is_tried(index) => None,
            Depth::Full => Some("a seeded sample of them was; of the others pages were swept"),
            Depth::Pages => Some("every page was reached once"),
        };
        if let Some(reason) = why_not {
            return self.skip(SkipKind::Sample, "addresses of regions to be tried in every way", reason, 1);
        }
        self.ends(alias.virt, alias.last());
        self.write_page(alias.virt);
        self.add(Access::fetch(), alias.virt);
        // Entering ring 3 is what costs. What refuses its reads, U/S, refuses all of its accesses (SDM vol. 3A, 4.6.1): that they
        // fault as they should is seen once, where something stays mapped for good.
        self.add(Access::read().user(), alias.virt);
        if self.ground.user_in_every_way && alias.stays != Term::Forbidden {
            self.add(Access::write().user(), alias.virt);
            self.add(Access::fetch().user(), alias.virt);
        }
        for neighbour in [alias.virt.wrapping_sub(PAGE_BYTES), alias.last().wrapping_add(1)] {
            self.nobody(neighbour);
        }
    }

    fn is_tried(&self, alias: usize) -> bool {
        self.tried.as_ref().is_none_or(|tried| tried.contains(&alias))
    }

    /// Pages that translate, or have a defect.
    fn run(&mut self, alias: usize, run: &Run) {
        let last = run.last();
        if run.defect.is_some() {
            self.faulting(alias, run.va, last.wrapping_add(1));
            return;
        }
        let unswept = self.unswept.len();
        let mut start = run.va;
        for page in self.backed_pages(run) {
            self.sweep(alias, run, start, page);
            self.read_page(page);
            self.write_page(page);
            start = page.wrapping_add(PAGE_BYTES);
        }
        self.sweep(alias, run, start, last.wrapping_add(1));
        // What can be written can be read (SDM vol. 3A, 4.6.1): where every page is reached anyway, its ends are.
        if self.unswept.len() > unswept && self.is_tried(alias) {
            self.ends(run.va, last);
        }
    }

    /// Pages of a run that reach memory.
    fn backed_pages(&self, run: &Run) -> Vec<Va> {
        let end = run.pa.saturating_add(run.bytes);
        let ranges = self.ground.memory_behind;
        let from = ranges.partition_point(|(range, _)| range.end <= run.pa);
        let met = ranges[from..].iter().take_while(|(range, _)| range.start < end);
        let pages =
            met.flat_map(|(range, _)| (range.start.max(run.pa).0..range.end.min(end).0).step_by(PAGE_BYTES as usize));
        pages.map(|pa| run.va.wrapping_add(Pa(pa).wrapping_offset_from(run.pa))).collect()
    }

    fn behind(&self, pa: Pa) -> Behind {
        let ranges = self.ground.memory_behind;
        let range = ranges.get(ranges.partition_point(|(range, _)| range.end <= pa));
        range.filter(|(range, _)| range.contains(&pa)).map_or(Behind::Nothing, |(_, behind)| *behind)
    }

    /// Pages from `start` to `end`, without memory behind them.
    fn sweep(&mut self, alias: usize, run: &Run, start: Va, end: Va) {
        let pages = end.wrapping_offset_from(start) / PAGE_BYTES;
        if pages == 0 {
            return;
        }
        if !run.rights.writable && self.ground.checks.wp {
            // Only a read can tell where they lead.
            let read = pages.min(MAX_READS.saturating_sub(self.reads));
            (0..read).for_each(|page| self.read_page(nth_page(start, page)));
            if read < pages {
                let reason = "each read of a page without memory is an exit";
                self.skip(SkipKind::Sample, "read-only pages", reason, pages.saturating_sub(read));
            }
            return;
        }
        let predicted = Frames::From(run.pa.wrapping_add(start.wrapping_offset_from(run.va)));
        self.push_sweep(PlannedSweep { virt: start, pages, alias, predicted });
    }

    /// A sweep; what is too much is put aside for the sample.
    fn push_sweep(&mut self, sweep: PlannedSweep) {
        let mut now = sweep.pages.min(self.room_to_sweep);
        if let Frames::Fault(_) = sweep.predicted {
            now = now.min(self.room_to_fault);
            self.room_to_fault = self.room_to_fault.saturating_sub(now);
        }
        self.room_to_sweep = self.room_to_sweep.saturating_sub(now);
        if now > 0 {
            self.plan.sweeps.push(PlannedSweep { pages: now, ..sweep });
        }
        if now < sweep.pages {
            self.unswept.push(sweep.part(now, sweep.pages.saturating_sub(now)));
        }
    }

    /// Of all that was put aside, some pages at random.
    fn sample_unswept(&mut self, what: &str) {
        let all = self.unswept.iter().fold(0_u64, |all, sweep| all.saturating_add(sweep.pages));
        if all == 0 {
            return;
        }
        let sample = if self.ground.depth == Depth::Full { SWEPT_SAMPLE } else { SHALLOW_SAMPLE };
        let picked: BTreeSet<u64> = (0..sample).map(|_| self.random.below(all)).collect();
        let reason = match self.tried {
            None => "a seeded sample of them was reached, and both ends of every run of leaves",
            Some(_) => "a seeded sample of them was reached",
        };
        self.skip(SkipKind::Sample, what, reason, all.saturating_sub(picked.len() as u64));
        let mut picked = picked.into_iter().peekable();
        let mut before = 0_u64;
        for sweep in std::mem::take(&mut self.unswept) {
            let end = before.saturating_add(sweep.pages);
            while let Some(page) = picked.next_if(|page| *page < end) {
                self.plan.sweeps.push(sweep.part(page.saturating_sub(before), 1));
            }
            before = end;
        }
    }

    /// Pages from `start` to `end` that fault, by the walk: each is written, one is tried in every way.
    fn faulting(&mut self, alias: usize, start: Va, end: Va) {
        let pages = end.wrapping_offset_from(start) / PAGE_BYTES;
        if pages == 0 {
            return;
        }
        let Outcome::Fault(fault) = self.walk(start, Access::write()) else {
            return self.skip(
                SkipKind::Machine,
                "pages whose tables lie where no memory is",
                "what is read there depends on the machine",
                pages,
            );
        };
        self.push_sweep(PlannedSweep { virt: start, pages, alias, predicted: Frames::Fault(fault) });
        if self.ground.depth == Depth::Pages {
            return;
        }
        self.ends(start, end.wrapping_sub(1));
        self.add(Access::write(), start);
        self.add(Access::fetch(), start);
    }

    /// Reads at the first and the last eight bytes.
    fn ends(&mut self, first: Va, last: Va) {
        self.read_page(first);
        let last_word = last.wrapping_sub(7);
        if self.is_backed(last_word) {
            self.read_page(last.page());
        } else {
            self.add(Access::read(), last_word);
        }
    }

    /// A read of a page: where it says which one it is, if it has memory. The guest's own memory is known by what it
    /// holds; a descriptor's physical address, its second word, is a good mark.
    fn read_page(&mut self, page: Va) {
        self.reads = self.reads.saturating_add(1);
        let offset = match self.walk(page, Access::read()).translation().map(|to| self.behind(to.pa)) {
            Some(Behind::Stamped) => NUMBER,
            Some(Behind::Own) => 8,
            Some(Behind::Nothing) | None => 0,
        };
        self.add(Access::read(), page.wrapping_add(offset));
    }

    /// A write of a page: where it may be written, if it has memory.
    fn write_page(&mut self, page: Va) {
        let offset = if self.is_backed(page) { SCRATCH } else { 0 };
        self.add(Access::write(), page.wrapping_add(offset));
    }

    fn is_backed(&self, virt: Va) -> bool {
        let reached = self.walk(virt, Access::read());
        matches!(reached, Outcome::Translated(t) if self.behind(t.pa) != Behind::Nothing)
    }

    /// What was mapped in an earlier phase must not be any more: both ends of it, and a page in between.
    fn gone(&mut self) {
        for alias in &self.expectation.gone {
            let between = nth_page(alias.virt, self.random.below(alias.pages));
            for virt in [alias.virt, alias.last().wrapping_sub(7), between] {
                self.nobody(virt);
            }
        }
    }

    /// Addresses of the arenas that nobody owns, taken at random.
    fn sample(&mut self) {
        let mapped = self.expectation.aliases.iter().fold(0_u64, |all, alias| all.saturating_add(alias.pages));
        let sample = (mapped / 4).clamp(*SAMPLE.start(), *SAMPLE.end());
        for arena in &self.expectation.arenas {
            let (first, last) = (*arena.start(), *arena.end());
            let pages = (last.wrapping_offset_from(first) / PAGE_BYTES).saturating_add(1);
            for _ in 0..sample {
                let page = nth_page(first, self.random.below(pages));
                let word = self.random.below(PAGE_BYTES / 8);
                self.nobody(page.wrapping_add(word << 3));
            }
        }
    }

    /// A read that must fault, unless the address is somebody's.
    fn nobody(&mut self, virt: Va) {
        let kernels = self.ground.kernel.iter().any(|range| range.contains(&virt));
        if !kernels && self.expectation.alias_at(virt).is_none() && self.ground.checks.is_canonical(virt) {
            self.add(Access::read(), virt);
        }
    }

    fn add(&mut self, access: Access, virt: Va) {
        if let Some((addresses, _)) = self.probes.iter_mut().zip(ACCESSES).find(|(_, it)| *it == access) {
            addresses.insert(virt);
        }
    }

    fn skip(&mut self, kind: SkipKind, what: &str, reason: &str, count: u64) {
        match self.plan.skipped.iter_mut().find(|skipped| skipped.what == what) {
            Some(skipped) => skipped.count = skipped.count.saturating_add(count),
            None => self.plan.skipped.push(Skipped { kind, what: what.into(), reason: reason.into(), count }),
        }
    }

    fn walk(&self, virt: Va, access: Access) -> Outcome {
        walk(&self.ground.memory, self.ground.root, virt, access, self.ground.checks).outcome
    }

    fn finish(mut self) -> Plan {
        for (access, addresses) in ACCESSES.into_iter().zip(std::mem::take(&mut self.probes)) {
            let mut probes = Vec::new();
            for virt in addresses {
                let predicted = self.walk(virt, access);
                if self.is_safe(access, virt, &predicted) {
                    let purpose = self.expectation.alias_at(virt).map_or(Purpose::Nobody, Purpose::Alias);
                    probes.push(PlannedProbe { virt, purpose, predicted, content: self.own_content(&predicted) });
                }
            }
            self.plan.groups.push(Group { access, probes });
        }
        self.plan.sweeps.sort_unstable_by_key(|sweep| sweep.virt);
        self.plan
    }

    /// What the guest's own memory holds where an access arrives in it.
    fn own_content(&self, predicted: &Outcome) -> Option<u64> {
        let pa = predicted.translation()?.pa;
        let word = Pa(pa.0 & !7);
        (self.behind(pa) == Behind::Own).then(|| self.ground.memory.entry(word)).flatten()
    }

    /// Whether an address leads to its own page, and is the first to write there.
    fn is_own(&mut self, virt: Va, predicted: &Outcome) -> bool {
        let target = self.expectation.alias_at(virt).map(|index| self.expectation.aliases[index].target(virt));
        match predicted.translation() {
            Some(to) if Some(to.pa) == target => self.written.insert(to.pa),
            _ => false,
        }
    }

    /// A probe that the walk says will succeed must do no harm: writes go only to where no memory is, or to the word for
    /// them, and only a page that has memory can be executed.
    fn is_safe(&mut self, access: Access, virt: Va, predicted: &Outcome) -> bool {
        let behind = match predicted {
            Outcome::Fault(_) => return true,
            Outcome::Stranded { .. } => return false,
            Outcome::Translated(translation) => self.behind(translation.pa),
        };
        match (access.kind, behind) {
            (Kind::Read, _) | (Kind::Write, Behind::Nothing) => true,
            (Kind::Write, Behind::Stamped) => virt.page_offset() == SCRATCH && self.is_own(virt, predicted),
            (Kind::Write, Behind::Own) => false,
            (Kind::Fetch, Behind::Stamped) => virt.page_offset() == 0,
            (Kind::Fetch, _) => {
                let what = "fetches from pages that can be executed";
                self.skip(SkipKind::Machine, what, "the test bed has no code there", 1);
                false
            }
        }
    }
}

/// Of pages one after another.
fn nth_page(first: Va, nth: u64) -> Va {
    first.wrapping_add(nth.wrapping_mul(PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::bits::{P, PS, W};

    const ARENA: Va = Va(0xffff_ffef_0000_0000);
    const GIB: u64 = 1 << 30;
    /// 16 GiB.
    const MAX_SWEPT: u64 = 1 << 22;
    const PAGES_PER_GIB: u64 = GIB / PAGE_BYTES;

    /// Up to 64 leaves of 1 GiB from [`ARENA`] up, contiguous but where `gap` lies after each.
    struct Window {
        gib: u64,
        gap: u64,
    }

    impl TableMemory for Window {
        fn entry(&self, at: Pa) -> Option<u64> {
            let nth = (at.0 >> 3 & 511).wrapping_sub(ARENA.0 >> 30 & 511);
            Some(match at.0 >> 12 {
                1 => 0x2000 | P | W,
                2 if nth < self.gib => (nth * (1 + self.gap) * GIB) | P | W | PS,
                2 => 0,
                _ => return None,
            })
        }
    }

    /// Aliases of so many GiB each.
    fn expectation(gib: &[u64]) -> Expectation {
        let mut virt = ARENA;
        let aliases = gib.iter().enumerate().map(|(region, gib)| {
            let alias = Alias::of_data(virt, Pa(virt.0 - ARENA.0), gib * PAGES_PER_GIB);
            let alias = Alias { region: Some(region), ..alias };
            virt = virt.wrapping_add(gib * GIB);
            alias
        });
        let aliases: Vec<_> = aliases.collect();
        let arenas = vec![ARENA..=ARENA.wrapping_add(64 * GIB - 1)];
        Expectation { placed: aliases.clone(), aliases, gone: Vec::new(), allowed: Vec::new(), arenas }
    }

    fn plan(window: &Window, expectation: &Expectation, seed: u64) -> Plan {
        plan_with(Depth::Full, true, window, expectation, seed)
    }

    fn plan_with(depth: Depth, user_in_every_way: bool, window: &Window, expectation: &Expectation, seed: u64) -> Plan {
        let checks = Paging::default();
        let ground = Ground {
            memory: window,
            root: Pa(0x1000),
            checks: &checks,
            memory_behind: &[],
            kernel: &[],
            budget: &Budget::new(None),
            depth,
            seed,
            sweep_owed: MAX_SWEPT,
            sweep_others: 0,
            user_in_every_way,
        };
        Plan::new(expectation, &ground)
    }

    /// So many bytes into the arena.
    fn at(offset: u64) -> Va {
        ARENA.wrapping_add(offset)
    }

    fn swept(plan: &Plan) -> u64 {
        plan.sweeps.iter().map(|sweep| sweep.pages).sum()
    }

    #[test]
    fn a_shallow_plan_reaches_every_page_once_and_says_what_it_leaves_out() {
        // The second of two GiB is not mapped.
        let expectation = expectation(&[2]);
        let plan = plan_with(Depth::Pages, true, &Window { gib: 1, gap: 0 }, &expectation, 1);
        let fine = plan.sweeps.iter().filter(|sweep| matches!(sweep.predicted, Frames::From(_)));
        assert_eq!(fine.map(|sweep| sweep.pages).sum::<u64>(), PAGES_PER_GIB);
        assert!(plan.sweeps.iter().any(|sweep| matches!(sweep.predicted, Frames::Fault(_))));
        assert!(plan.groups.iter().all(|group| group.probes.is_empty()));
        let skipped = plan.skipped.iter().find(|skipped| skipped.what.contains("in every way")).unwrap();
        assert_eq!((skipped.kind, skipped.count), (SkipKind::Sample, 1));
        let full = super::tests::plan(&Window { gib: 1, gap: 0 }, &expectation, 1);
        assert!(full.groups.iter().any(|group| !group.probes.is_empty()));
    }

    #[test]
    fn ring_3_reads_in_every_phase_and_does_all_in_one() {
        let (window, expectation) = (Window { gib: 2, gap: 0 }, expectation(&[1, 1]));
        let by_user = |in_every_way| {
            let plan = plan_with(Depth::Full, in_every_way, &window, &expectation, 1);
            let of = |access: Access| {
                let group = plan.groups.iter().find(|group| group.access == access.user());
                group.map_or(0, |group| group.probes.len())
            };
            [Access::read(), Access::write(), Access::fetch()].map(of)
        };
        assert_eq!([by_user(true), by_user(false)], [[2, 2, 2], [2, 0, 0]]);
    }

    #[test]
    fn sixteen_gib_are_swept_in_full() {
        let plan = plan(&Window { gib: 16, gap: 0 }, &expectation(&[16]), 1);
        assert_eq!((swept(&plan), plan.sweeps.len()), (16 * PAGES_PER_GIB, 1));
        assert!(!plan.skipped.iter().any(|skipped| skipped.what.contains("large regions")));
    }

    #[test]
    fn of_more_a_sample_is_swept_and_the_rest_is_counted_as_skipped() {
        // One alias in one run, one in runs of 1 GiB, and many aliases: the sample is one for all.
        for (gap, aliases) in [(0, vec![64]), (1, vec![64]), (0, vec![1; 64])] {
            let plan = plan(&Window { gib: 64, gap }, &expectation(&aliases), 1);
            let skipped = plan.skipped.iter().find(|skipped| skipped.what.contains("large regions")).unwrap();
            let sampled = swept(&plan) - MAX_SWEPT;
            assert!((SWEPT_SAMPLE - 8..=SWEPT_SAMPLE).contains(&sampled), "{sampled}: a few may be drawn twice");
            assert_eq!(swept(&plan) + skipped.count, 64 * PAGES_PER_GIB);
            assert!(plan.sweeps.windows(2).all(|pair| nth_page(pair[0].virt, pair[0].pages) <= pair[1].virt));
            // Each quarter of the rest has its share, more or less.
            for quarter in 1..=3 {
                let range = at(quarter * 16 * GIB)..at((quarter + 1) * 16 * GIB);
                let some = plan.sweeps.iter().filter(|sweep| sweep.pages == 1 && range.contains(&sweep.virt)).count();
                assert!((250..450).contains(&some), "{some}");
            }
            for sweep in &plan.sweeps {
                let offset = sweep.virt.wrapping_offset_from(ARENA);
                let pa = offset / GIB * (1 + gap) * GIB + offset % GIB;
                assert_eq!(sweep.predicted, Frames::From(Pa(pa)));
                assert_eq!(sweep.alias, (aliases.len() as u64 * offset / (64 * GIB)) as usize);
            }
        }
    }

    #[test]
    fn of_pages_that_fault_no_more_are_swept_than_some_seconds_allow() {
        // Nothing is mapped of the second of two GiB.
        let swept_of = |gib: u64| {
            let plan = plan(&Window { gib, gap: 0 }, &expectation(&[2]), 1);
            let (mut fine, mut faulting) = (0, 0);
            for sweep in &plan.sweeps {
                match sweep.predicted {
                    Frames::From(_) => fine += sweep.pages,
                    Frames::Fault(_) => faulting += sweep.pages,
                }
            }
            let rows = plan.skipped.iter().filter(|skipped| skipped.what.contains("large regions"));
            let skipped: u64 = rows.map(|skipped| skipped.count).sum();
            assert_eq!(fine + faulting + skipped, 2 * PAGES_PER_GIB);
            (fine, faulting)
        };
        assert_eq!(swept_of(2), (2 * PAGES_PER_GIB, 0));
        let (fine, faulting) = swept_of(1);
        assert_eq!(fine, PAGES_PER_GIB);
        assert!((1 << 15..=(1 << 15) + 1024).contains(&faulting), "{faulting}: 32768, and a sample");
    }

    #[test]
    fn more_of_an_arena_is_tried_where_more_is_mapped() {
        let tried = |pages: u64| {
            let mut expectation = expectation(&[1]);
            expectation.aliases[0].pages = pages;
            let plan = plan(&Window { gib: 1, gap: 0 }, &expectation, 1);
            let reads = plan.groups.iter().find(|group| group.access == Access::read()).unwrap();
            let nobodys = reads.probes.iter().filter(|probe| probe.purpose == Purpose::Nobody);
            // Two are neighbours. Those drawn at random may be one address, or lie in the alias.
            nobodys.count() as u64 - 2
        };
        assert!((7..=8).contains(&tried(1)) && (7..=8).contains(&tried(32)), "{} {}", tried(1), tried(32));
        assert!((14..=16).contains(&tried(64)), "{}", tried(64));
        assert!((29..=32).contains(&tried(1 << 17)), "{}", tried(1 << 17));
    }

    #[test]
    fn the_sample_is_the_seeds() {
        let sweeps = |seed| plan(&Window { gib: 64, gap: 0 }, &expectation(&[64]), seed).sweeps;
        assert_eq!(sweeps(1), sweeps(1));
        assert_ne!(sweeps(1), sweeps(2));
    }

    #[test]
    fn both_ends_of_every_leaf_run_are_reached_however_much_is_swept() {
        let plan = plan(&Window { gib: 64, gap: 1 }, &expectation(&[64]), 1);
        let reads = plan.groups.iter().find(|group| group.access == Access::read()).unwrap();
        let read = |virt| reads.probes.iter().any(|probe| probe.virt == virt);
        let ends_read = |run: &u64| read(at(run * GIB)) && read(at(run * GIB + GIB - 8));
        // The alias's own end, and those of the runs that are too much to be swept.
        let swept = MAX_SWEPT / PAGES_PER_GIB;
        assert!((swept..64).all(|run| ends_read(&run)));
        assert!(read(ARENA) && (0..swept).filter(ends_read).count() == 0);
        assert!(!read(at(50 * GIB + GIB / 2)), "what is in the middle is not");
    }
}
