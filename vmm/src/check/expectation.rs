//! The first witness: what must be, by the contract, the memory map and the map handed to SetVirtualAddressMap.
//!
//! Nothing here looks at tables, and nothing is shared with the mapping code.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};

use super::alias::{Alias, Role};
use super::attributes_table::{self, Attributes};
use super::contract::{Contract, Term, low_bits};
use super::given::Given;
use super::holders::{Extent, holders, virtual_addresses};
use super::marks::{Mark, Marks};
use super::merged::{fits_an_entry, in_mapping_order};
use super::spans::Spans;
use super::statement::Statement;
use super::{Phase, Rule, Witness};
use crate::memory_map::{
    ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, OddityKind, PAGE_BYTES, Region, end_of_pages,
    oddities_but, page_of,
};
use crate::mmu::{Access, Kind, Pa, Paging, Va};

/// What must be, before any table is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// What regions were given: each alias whole.
    pub placed: Vec<Alias>,
    /// By virtual address, none overlapping another: where descriptors overlap, the later one's rest.
    pub aliases: Vec<Alias>,
    /// What may be mapped and need not, off all that must be and off the kernel's own ranges. One may overlap another.
    pub allowed: Vec<Alias>,
    /// What was mapped and must not be any more.
    pub gone: Vec<Alias>,
    /// Where nothing else may translate.
    pub arenas: Vec<RangeInclusive<Va>>,
}

/// Something that firmware needs and its own Memory Attributes Table forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Runtime code, or runtime data.
    pub ty: MemoryType,
    /// The access that every page of it denies.
    pub access: Access,
    /// Its lowest virtual address.
    pub virt: Va,
    /// How many pages there are.
    pub pages: u64,
}

/// What an expectation is made from.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The memory map.
    pub map: &'a MemoryMap,
    /// What must hold.
    pub contract: &'a Contract,
    /// The map that the mapper hands to SetVirtualAddressMap.
    pub virtual_map: &'a [MemoryDescriptor],
    /// Where that map lies.
    pub virtual_map_at: &'a Range<Pa>,
    /// What the CPU was told.
    pub told: &'a Paging,
    /// Whether the mapper was offered execute-disable.
    pub nx: bool,
    /// The kernel's own ranges.
    pub kernel: &'a [RangeInclusive<Va>],
}

impl Expectation {
    /// Of phase `map`; what is wrong with the virtual map goes into `marks`. What is allowed and not owed takes its part once
    /// there are tables ([`Self::on`]).
    pub fn new(question: &Question<'_>, marks: &mut Marks) -> Self {
        let Question { map, contract, told, .. } = *question;
        let formula = contract.addresses(map);
        let mut given = Given::new(question.virtual_map);
        given.claim(map, &formula);
        let (mut placed, mut allowed, mut tails) = (Vec::new(), Vec::new(), Vec::new());
        for region in map.regions() {
            let Some(virt_start) = given.virtual_start(&region) else {
                if is_owed(&region) {
                    marks.push(Mark::of_region(Rule::NotMapped, &region, Statement::Mapped, Statement::LeftOut));
                }
                allowed.extend(question.at_physical_address(&region).filter(|alias| !alias.is_owed));
                continue;
            };
            if region.pages == 0 {
                if contract.owes(&region) {
                    marks.push(Mark::of_region(Rule::VirtualMap, &region, Statement::LeftOut, Statement::Mapped));
                }
                continue;
            }
            let at_virtual_address = match formula.get(&region.index) {
                Some(None) => {
                    marks.push(without_address(contract.without_address(), &region));
                    None
                }
                expected => question.at_virtual_address(&region, virt_start, expected.copied().flatten(), marks),
            };
            for alias in question.at_physical_address(&region).into_iter().chain(at_virtual_address) {
                if !alias.is_owed {
                    allowed.push(alias);
                    continue;
                }
                placed.push(alias);
                let tail = if region.is_aligned() { None } else { alias.tail() };
                tails.extend(tail.filter(|tail| told.is_canonical(tail.virt)));
            }
        }
        for virt in given.unclaimed() {
            marks.push(Mark {
                virt: Some(virt),
                observed: Some(Statement::Virtual(virt)),
                ..Mark::new(Rule::VirtualMap, Witness::Expectation)
            });
        }
        check_order(question, &placed, marks);
        placed.sort_by_key(|alias| (alias.region, alias.role));
        let mut aliases = placed.clone();
        question.add_what_the_call_needs(&mut aliases, &mut allowed);
        aliases.sort_by_key(|alias| alias.virt);
        let aliases = with_tails(without_overlaps(aliases, marks), tails, marks);
        let allowed = question.off_what_is_taken(&aliases, allowed);
        let arenas = contract.ground_on(told);
        let expectation = Self { placed, aliases, allowed, gone: Vec::new(), arenas };
        match contract.attributes_table {
            Term::Allowed => expectation.under_attributes(question, Attributes::may_apply_to),
            _ => expectation,
        }
    }

    /// The same after phase `finish`: boot services may be retired by then, and the Memory Attributes Table's permissions in
    /// force, if the contract says so.
    pub fn finished(&self, question: &Question<'_>) -> Self {
        let (stay, gone): (Vec<Alias>, _) = self.aliases.iter().partition(|alias| alias.stays != Term::Forbidden);
        // Of what was only allowed, the tables say anew where it is.
        let owed = stay.into_iter().filter(|alias| alias.is_owed);
        let (aliases, others): (Vec<_>, Vec<_>) = owed.partition(|alias| alias.stays == Term::Owed);
        let allowed = self.allowed.iter().copied().filter(|alias| alias.stays != Term::Forbidden);
        let allowed = allowed.chain(others.into_iter().map(Alias::allowed)).collect();
        let (placed, arenas) = (self.placed.clone(), self.arenas.clone());
        let expectation = Self { placed, aliases, allowed, gone, arenas };
        match question.contract.attributes_table {
            Term::Owed => expectation.under_attributes(question, Attributes::applied_to),
            _ => expectation,
        }
    }

    /// The same with `change` made to the pages of each entry of the Memory Attributes Table.
    fn under_attributes(self, question: &Question<'_>, change: fn(&Attributes, Alias, bool) -> Alias) -> Self {
        let attributes = attributes_table::in_force(question.map);
        if attributes.is_empty() {
            return self;
        }
        let in_parts = |alias: Alias| {
            attributes.iter().filter(|entry| entry.concerns(&alias)).fold(vec![alias], |parts, entry| {
                let changed = |part| change(entry, part, question.nx);
                parts.into_iter().flat_map(|part| entry.split(part, changed)).flatten().collect()
            })
        };
        let aliases = self.aliases.into_iter().flat_map(in_parts).collect();
        let allowed = self.allowed.into_iter().flat_map(in_parts).collect();
        Self { aliases, allowed, ..self }
    }

    /// What firmware's Memory Attributes Table leaves it without, in phase `finish`: of runtime code any page that may be
    /// executed, of runtime data any that may be written to.
    pub fn denials(&self, map: &MemoryMap) -> Vec<Denial> {
        let kinds = [
            (MemoryType::RUNTIME_SERVICES_CODE, Access::fetch()),
            (MemoryType::RUNTIME_SERVICES_DATA, Access::write()),
        ];
        let denial = |(ty, access): (MemoryType, Access)| {
            let types: Vec<MemoryType> = map.regions().map(|region| region.ty).collect();
            let is_of_type = |alias: &&Alias| {
                alias.role == Role::Virtual && alias.region.is_some_and(|index| types.get(index) == Some(&ty))
            };
            let mut aliases = self.aliases.iter().filter(is_of_type).peekable();
            let virt = aliases.peek()?.virt;
            let (all, pages) = aliases.fold((true, 0_u64), |(all, pages), alias| {
                (all && alias.access(access) == Term::Forbidden, pages.saturating_add(alias.pages))
            });
            all.then_some(Denial { ty, access, virt, pages })
        };
        kinds.into_iter().filter_map(denial).collect()
    }

    /// Whether an access to an address is one that the expectation denies to firmware, or leaves open.
    pub fn denies(&self, virt: Va, kind: Kind) -> bool {
        self.alias_at(virt).is_some_and(|index| self.aliases[index].access(Access::new(kind)) != Term::Owed)
    }

    /// The first virtual address that stands for a physical one after SetVirtualAddressMap.
    pub fn virtual_of(&self, phys: Pa) -> Option<Va> {
        let holds =
            |alias: &&Alias| alias.role == Role::Virtual && (alias.phys..=alias.target(alias.last())).contains(&phys);
        let alias = self.aliases.iter().find(holds)?;
        Some(alias.virt.wrapping_add(phys.wrapping_offset_from(alias.phys)))
    }

    /// Whether this kernel, started by an earlier one, has each runtime region where that one told firmware that it is.
    pub fn compare_with_earlier(&self, map: &MemoryMap, earlier: &[MemoryDescriptor], marks: &mut Marks) {
        let given: HashMap<usize, Va> = (self.placed.iter().rev())
            .filter(|alias| alias.role == Role::Virtual)
            .filter_map(|alias| Some((alias.region?, alias.virt)))
            .collect();
        let owed: Vec<Region> = map.regions().filter(is_owed).collect();
        let starts: Vec<Pa> = owed.iter().map(|region| Pa(region.phys)).collect();
        for (region, expected) in owed.iter().zip(virtual_addresses(earlier, &starts)) {
            let observed = given.get(&region.index).map(|virt| virt.wrapping_add(region.phys % PAGE_BYTES));
            if expected != observed {
                let state = |virt: Option<Va>| virt.map_or(Statement::LeftOut, Statement::Virtual);
                let mark = Mark::of_region(Rule::KexecMoved, region, state(expected), state(observed));
                marks.push(Mark { virt: expected.or(observed), ..mark });
            }
        }
        let was_owed = |d: &&MemoryDescriptor| d.att.contains(MemoryAttribute::RUNTIME) && d.page_count > 0;
        let before: Vec<_> = earlier.iter().filter(was_owed).collect();
        let starts: Vec<Pa> = before.iter().map(|d| Pa(d.phys_start)).collect();
        let extents: Vec<_> = owed.iter().map(|region| Extent::of_pages(Pa(region.phys), region.pages)).collect();
        let known = holders(&starts, &extents);
        for (d, _) in before.into_iter().zip(known).filter(|(_, known)| known.is_none()) {
            marks.push(Mark {
                virt: Some(Va(d.virt_start)),
                pages: d.page_count,
                expected: Some(Statement::Virtual(Va(d.virt_start))),
                observed: Some(Statement::text("a memory map without it")),
                ..Mark::new(Rule::KexecMoved, Witness::Expectation)
            });
        }
    }

    /// The alias that covers an address.
    pub fn alias_at(&self, virt: Va) -> Option<usize> {
        at(&self.aliases, virt)
    }

    /// The alias that covered an address, and went.
    pub fn gone_at(&self, virt: Va) -> Option<Alias> {
        at(&self.gone, virt).map(|index| self.gone[index])
    }

    /// Whose an address was before that went, and how far that holds, to `last` at most.
    pub fn gone_from(&self, virt: Va, last: Va) -> (Option<usize>, Va) {
        let alias = self.gone.get(self.gone.partition_point(|alias| alias.last() < virt));
        match alias {
            Some(alias) if alias.virt <= virt => (alias.region, last.min(alias.last())),
            Some(alias) => (None, last.min(alias.virt.wrapping_sub(1))),
            None => (None, last),
        }
    }
}

/// The physical address that a map handed to SetVirtualAddressMap gives a virtual one for: the first RUNTIME descriptor that
/// holds it decides (UEFI 2.10, 8.4.2).
pub fn physical_of(virtual_map: &[MemoryDescriptor], virt: Va) -> Option<Pa> {
    let offset = |d: &MemoryDescriptor| {
        virt.checked_offset_from(Va(d.virt_start)).filter(|offset| offset / PAGE_BYTES < d.page_count)
    };
    let mut runtime = virtual_map.iter().filter(|d| d.att.contains(MemoryAttribute::RUNTIME));
    runtime.find_map(|d| Some(Pa(d.phys_start).wrapping_add(offset(d)?)))
}

/// The one of several aliases, by address, that covers an address.
fn at(aliases: &[Alias], virt: Va) -> Option<usize> {
    let index = aliases.partition_point(|alias| alias.virt <= virt).checked_sub(1)?;
    (aliases[index].last() >= virt).then_some(index)
}

impl Question<'_> {
    /// A region where SetVirtualAddressMap is told that it is; `expected` is where it should be. Of one that need not be mapped
    /// there is nothing else to say.
    fn at_virtual_address(
        &self,
        region: &Region,
        virt_start: Va,
        expected: Option<Va>,
        marks: &mut Marks,
    ) -> Option<Alias> {
        let offset = region.phys % PAGE_BYTES;
        let alias = self.alias(region, Role::Virtual, virt_start.wrapping_sub(offset));
        if let Some(expected) = expected.filter(|expected| *expected != virt_start) {
            marks.push(Mark {
                expected: Some(Statement::Virtual(expected)),
                observed: Some(Statement::Virtual(virt_start)),
                ..alias.mark(Rule::WrongAddress, Witness::Expectation)
            });
        }
        let mut unsaid = Marks::default();
        let (alias, marks) = if self.contract.owes(region) { (alias, marks) } else { (alias.allowed(), &mut unsaid) };
        if alias.virt.page_offset() != 0 {
            marks.push(Mark {
                expected: Some(Statement::text("whole pages at a page's offset")),
                observed: Some(Statement::Virtual(virt_start)),
                ..alias.mark(Rule::VirtualMap, Witness::Expectation)
            });
            return None;
        }
        self.is_placed_well(&alias, marks).then_some(alias)
    }

    /// The same region 1:1, where the contract has it so and the lower half reaches so far.
    fn at_physical_address(&self, region: &Region) -> Option<Alias> {
        let Contract { identity, .. } = *self.contract;
        // Its physical address serves as a virtual one.
        let alias = self.alias(region, Role::Physical, Va(page_of(region.phys)));
        let is_low = end_of_pages(alias.phys.0, alias.pages) <= 1 << low_bits(self.told);
        let is_owed = identity == Term::Owed && self.contract.owes(region);
        let alias = if is_owed { alias } else { alias.allowed() };
        (identity != Term::Forbidden && self.contract.maps(region) && is_low).then_some(alias)
    }

    fn alias(&self, region: &Region, role: Role, virt: Va) -> Alias {
        let phys = Pa(region.phys).page();
        Alias {
            role,
            region: Some(region.index),
            virt,
            phys,
            pages: region.pages,
            writable: Term::Owed,
            executable: if region.is_code() { Term::Owed } else { self.executable_data() },
            cache: self.contract.cache.indices(region.attribute),
            stays: if region.is_runtime() { Term::Owed } else { self.contract.boot_services },
            past_maxphyaddr: end_of_pages(phys.0, region.pages) > 1 << self.told.maxphyaddr,
            is_owed: true,
        }
    }

    /// Without execute-disable everything can be executed.
    fn executable_data(&self) -> Term {
        if self.nx { self.contract.executable_data } else { Term::Owed }
    }

    /// Page 0 and the virtual map, as data, where the contract has them.
    fn add_what_the_call_needs(&self, aliases: &mut Vec<Alias>, allowed: &mut Vec<Alias>) {
        let data = |role, start: Pa, pages| Alias {
            role,
            region: None,
            virt: Va(start.0),
            phys: start,
            pages,
            writable: Term::Owed,
            executable: self.executable_data(),
            cache: self.contract.cache.indices(MemoryAttribute::WRITE_BACK),
            stays: Term::Owed,
            past_maxphyaddr: false,
            is_owed: true,
        };
        let map = self.virtual_map_at;
        let bytes = map.end.checked_offset_from(map.start).unwrap_or(0);
        let pages = bytes.div_ceil(PAGE_BYTES);
        let virtual_map = (pages > 0).then(|| data(Role::VirtualMap, map.start, pages));
        match self.contract.virtual_map {
            Term::Owed => aliases.extend(virtual_map),
            Term::Allowed => allowed.extend(virtual_map.map(Alias::allowed)),
            Term::Forbidden => {}
        }
        let page_zero = data(Role::PageZero, Pa(0), 1);
        match self.contract.page_zero {
            Term::Owed => add_page_zero(page_zero, aliases),
            Term::Allowed => allowed.push(page_zero.allowed()),
            Term::Forbidden => {}
        }
    }

    /// Of what is allowed, what is off all that is owed, and off the kernel's own ranges.
    fn off_what_is_taken(&self, aliases: &[Alias], allowed: Vec<Alias>) -> Vec<Alias> {
        if allowed.is_empty() {
            return allowed;
        }
        let mut taken = Spans::default();
        for range in aliases.iter().map(Alias::range).chain(self.kernel.iter().cloned()) {
            let last = range.end().page().wrapping_add(PAGE_BYTES - 1);
            taken.take(&(range.start().page()..=last));
        }
        allowed.into_iter().flat_map(|alias| alias.free_of(&taken)).collect()
    }

    /// Whether an alias's addresses can be looked at; says so if they are not where they may be.
    fn is_placed_well(&self, alias: &Alias, marks: &mut Marks) -> bool {
        let Self { contract, told, kernel, .. } = *self;
        let mut found = |rule, expected| {
            let observed = Some(Statement::Virtual(alias.virt));
            marks.push(Mark { expected: Some(expected), observed, ..alias.mark(rule, Witness::Expectation) });
        };
        let last = end_of_pages(alias.virt.0, alias.pages).checked_sub(1).and_then(|last| u64::try_from(last).ok());
        let canonical =
            |last: &Va| told.is_canonical(alias.virt) && told.is_canonical(*last) && (alias.virt.0 ^ last.0) >> 63 == 0;
        let Some(last) = last.map(Va).filter(canonical) else {
            found(Rule::NotCanonical, Statement::text("canonical addresses"));
            return false;
        };
        let arenas = contract.arenas_on(told);
        if kernel.iter().chain(&contract.off_limits).any(|range| alias.virt <= *range.end() && *range.start() <= last) {
            found(Rule::KernelOverlap, Statement::text("addresses that are not the kernel's"));
        } else if !arenas.iter().any(|arena| arena.contains(&alias.virt) && arena.contains(&last)) {
            found(Rule::OutsideArena, within(&arenas));
        }
        true
    }
}

/// Where page 0 is a region's, it has that region's cache type, and goes with it.
fn add_page_zero(page_zero: Alias, aliases: &mut Vec<Alias>) {
    let Some(owner) = aliases.iter_mut().find(|alias| alias.role == Role::Physical && alias.virt == Va(0)) else {
        return aliases.push(page_zero);
    };
    let page_zero = Alias { region: owner.region, cache: owner.cache, stays: owner.stays, ..page_zero };
    (owner.virt, owner.phys, owner.pages) = (Va(PAGE_BYTES), Pa(PAGE_BYTES), owner.pages.saturating_sub(1));
    aliases.retain(|alias| alias.pages > 0);
    aliases.push(page_zero);
}

/// Where an alias should have been.
fn within(arenas: &[RangeInclusive<Va>]) -> Statement {
    match arenas {
        [arena] => Statement::Between(*arena.start(), *arena.end()),
        _ => Statement::text("addresses in one of the arenas"),
    }
}

/// Regions every mapper must map.
fn is_owed(region: &Region) -> bool {
    region.is_runtime() && region.pages > 0 && fits_an_entry(region)
}

/// A region that gets no virtual address, by the closed form itself.
fn without_address(rule: Rule, region: &Region) -> Mark {
    let (expected, observed) = match rule {
        Rule::NoVirtualStart => ("a VirtualStart in the memory map", "VirtualStart 0"),
        _ => ("an address", "none: firmware is handed the VirtualStart that was there before"),
    };
    Mark::of_region(rule, region, Statement::text(expected), Statement::text(observed))
}

/// Linux's own rules, which a contract may have: addresses rise with firmware's list, since code and data of one image are
/// descriptors one after another; and what of them is contiguous in physical memory is contiguous at its virtual addresses.
fn check_order(question: &Question<'_>, placed: &[Alias], marks: &mut Marks) {
    let Question { map, contract, .. } = *question;
    let mut regions: Vec<&Alias> = placed.iter().filter(|alias| alias.role == Role::Virtual).collect();
    let descriptors = map.descriptors();
    let descriptor_of = |alias: &Alias| alias.region.map(|index| &descriptors[index]);
    if map.kind() == ListKind::Runtime {
        // Such a list is in the order in which Linux maps, the last first. What of it Linux makes one region of rises together.
        let merged = in_mapping_order(map);
        let parts =
            merged.iter().zip(0..).flat_map(|(one, number)| one.parts.iter().map(move |part| (part.index, number)));
        let numbers: HashMap<usize, usize> = parts.collect();
        let number = |alias: &Alias| alias.region.and_then(|index| numbers.get(&index));
        let are_one = |before: &&Alias, after: &&Alias| number(before).is_some_and(|one| number(after) == Some(one));
        regions = regions.chunk_by(are_one).rev().flatten().copied().collect();
    }
    let is_image = |alias: &Alias| {
        descriptor_of(alias).is_some_and(|d| {
            d.att.contains(MemoryAttribute::RUNTIME)
                && matches!(d.ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA)
        })
    };
    for pair in regions.windows(2) {
        let [before, after] = [pair[0], pair[1]];
        let end = before.virt.wrapping_add(before.bytes());
        let observed = Some(Statement::Virtual(after.virt));
        if contract.rising && after.virt < before.virt {
            let expected = Some(Statement::text("an address above that of the region before it in the list"));
            marks.push(Mark {
                expected,
                observed: observed.clone(),
                ..after.mark(Rule::WindowOrder, Witness::Expectation)
            });
        }
        // A region between them in the list, which this mapper need not map, is no part of their image.
        let follows = before.region.zip(after.region).is_some_and(|(before, after)| before.abs_diff(after) == 1);
        let contiguous = contract.contiguous_images && follows && before.physical_end() == after.phys;
        if contiguous && is_image(before) && is_image(after) && after.virt != end {
            let expected = Some(Statement::Virtual(end));
            marks.push(Mark { expected, observed, ..after.mark(Rule::NotContiguous, Witness::Expectation) });
        }
    }
}

/// Drops, and says so, what overlaps an earlier alias. Where both mean the same frames there is nothing to say: the
/// regions themselves overlap, which is a finding of its own.
fn without_overlaps(aliases: Vec<Alias>, marks: &mut Marks) -> Vec<Alias> {
    let mut kept: Vec<Alias> = Vec::with_capacity(aliases.len());
    for alias in aliases {
        let Some(before) = kept.last().filter(|before| before.last() >= alias.virt) else {
            kept.push(alias);
            continue;
        };
        if before.target(alias.virt) != alias.phys {
            marks.push(Mark {
                expected: Some(Statement::text("addresses of its own")),
                observed: Some(Statement::Virtual(alias.virt)),
                ..alias.mark(Rule::RegionOverlap, Witness::Expectation)
            });
        }
        // What sticks out is still to be checked.
        if let Some(rest) = alias.last().checked_offset_from(before.last()).filter(|rest| *rest > 0) {
            let pages = rest / PAGE_BYTES;
            let skipped = alias.bytes().saturating_sub(rest);
            let (virt, phys) = (alias.virt.saturating_add(skipped), alias.phys.saturating_add(skipped));
            kept.push(Alias { virt, phys, pages, ..alias });
        }
    }
    kept
}

/// Adds the pages in which regions end that start within a page: firmware is told the unaligned start, and owed every byte
/// from there on. Where another region's page lies instead, firmware reaches that one.
fn with_tails(mut aliases: Vec<Alias>, tails: Vec<Alias>, marks: &mut Marks) -> Vec<Alias> {
    let mut free = Vec::new();
    for tail in tails {
        match at(&aliases, tail.virt).map(|index| aliases[index].target(tail.virt)) {
            None => free.push(tail),
            Some(phys) if phys == tail.phys => {}
            Some(phys) => marks.push(Mark {
                expected: Some(Statement::Physical(tail.phys)),
                observed: Some(Statement::Physical(phys)),
                ..tail.mark(Rule::WrongFrame, Witness::Expectation)
            }),
        }
    }
    aliases.extend(free);
    aliases.sort_by_key(|alias| alias.virt);
    aliases.dedup_by_key(|alias| alias.virt);
    aliases
}

/// What is wrong with the memory map itself, and what is merely odd: (findings, notes).
pub fn judge_map(map: &MemoryMap, told: &Paging, marks: &mut Marks) -> Vec<String> {
    let mut notes = Vec::new();
    // A layout that has no room for a region says so.
    for oddity in oddities_but(map, Some(OddityKind::AboveWindow)) {
        let rule = match oddity.kind {
            OddityKind::Overlap => Rule::MapOverlap,
            OddityKind::Wrap => Rule::MapWrap,
            OddityKind::Unaligned => Rule::MapUnaligned,
            _ => {
                notes.push(oddity.message);
                continue;
            }
        };
        marks.push_worded(Phase::Input, rule, Some(oddity.index), oddity.message);
    }
    for region in map.regions().filter(|region| region.is_mapped()) {
        let Some(last) = region.last().filter(|last| u128::from(*last) >= 1 << told.maxphyaddr) else { continue };
        let message = format!(
            "region {} ends at {last:#x}, past the {} bits of physical address that the CPU has",
            region.index, told.maxphyaddr
        );
        marks.push_worded(Phase::Input, Rule::PastMaxphyaddr, Some(region.index), message);
    }
    notes
}
