//! The first witness: what the memory map and the layout's closed form say must be.
//!
//! Nothing here looks at tables, and nothing is shared with the mapping code.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};

use efibed_guest::Layout;

use super::attributes_table;
use super::closed_form::{self, BELOW_2G};
use super::given::Given;
use super::holders::{Extent, holders, virtual_addresses};
use super::marks::{Mark, Marks, Statement};
use super::{Phase, Rule, Witness};
use crate::memory_map::{
    ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES, Region, end_of_pages, page_of,
};
use crate::mmu::{Access, Kind, Paging, Privilege, Va};

/// One stretch of virtual addresses that stands for one stretch of physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What it is for.
    pub role: Role,
    /// The descriptor's index in the memory map, if it is a region's.
    pub region: Option<usize>,
    /// The first address.
    pub virt: u64,
    /// What it must reach.
    pub phys: u64,
    /// How many pages.
    pub pages: u64,
    /// Whether it may be written to.
    pub writable: bool,
    /// Whether it may be executed.
    pub executable: bool,
    /// The PAT index asked for.
    pub pat_index: u8,
    /// It is mapped for good: not boot services', which go.
    pub stays: bool,
    /// Past the CPU's physical-address width: it cannot be probed.
    pub past_maxphyaddr: bool,
}

/// What an alias is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A region where SetVirtualAddressMap is told that it is.
    Virtual,
    /// A region at its physical addresses.
    Physical,
    /// Page 0, which some firmware writes to in SetVirtualAddressMap.
    PageZero,
    /// The map handed to SetVirtualAddressMap, at its physical address.
    VirtualMap,
}

impl Alias {
    /// How many bytes it has. What is looked at lies in one half of the canonical addresses, so they fit.
    pub fn bytes(&self) -> u64 {
        self.pages.saturating_mul(PAGE_BYTES)
    }

    /// The last byte.
    pub fn last(&self) -> u64 {
        self.virt.saturating_add(self.bytes().saturating_sub(1))
    }

    /// The physical address past its last byte.
    pub fn physical_end(&self) -> u64 {
        self.phys.saturating_add(self.bytes())
    }

    /// The physical address that `virt` in it must reach.
    pub fn target(&self, virt: u64) -> u64 {
        self.phys.wrapping_add(virt.wrapping_sub(self.virt))
    }

    /// Whether an access must get through: none of ring 3, no write of what is read-only, no fetch of what is not code.
    pub fn permits(&self, access: Access) -> bool {
        let granted = match access.kind {
            Kind::Read => true,
            Kind::Write => self.writable,
            Kind::Fetch => self.executable,
        };
        granted && access.privilege != Privilege::User
    }
}

/// What must be, before any table is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// What regions were given: each alias whole.
    pub placed: Vec<Alias>,
    /// By virtual address, none overlapping another: where descriptors overlap, the later one's rest.
    pub aliases: Vec<Alias>,
    /// What was mapped and must not be any more.
    pub gone: Vec<Alias>,
    /// Where nothing else may translate.
    pub arenas: Vec<RangeInclusive<u64>>,
}

/// Something that firmware needs and its own Memory Attributes Table forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Runtime code, or runtime data.
    pub ty: MemoryType,
    /// The access that every page of it denies.
    pub access: Access,
    /// Its lowest virtual address.
    pub virt: u64,
    /// How many pages there are.
    pub pages: u64,
}

/// What an expectation is made from.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The memory map.
    pub map: &'a MemoryMap,
    /// The mapper's layout.
    pub layout: Layout,
    /// The map that the mapper hands to SetVirtualAddressMap.
    pub virtual_map: &'a [MemoryDescriptor],
    /// Where that map lies.
    pub virtual_map_at: &'a Range<u64>,
    /// What the CPU was told.
    pub told: &'a Paging,
    /// Whether the mapper was offered execute-disable.
    pub nx: bool,
    /// The kernel's own ranges.
    pub kernel: &'a [RangeInclusive<u64>],
}

impl Expectation {
    /// Of phase `map`; what is wrong with the virtual map goes into `marks`.
    pub fn new(question: &Question<'_>, marks: &mut Marks) -> Self {
        let Question { map, layout, told, .. } = *question;
        let formula = closed_form::addresses(map, layout);
        let mut given = Given::new(question.virtual_map);
        given.claim(map, &formula);
        let (mut placed, mut tails) = (Vec::new(), Vec::new());
        for region in map.regions() {
            let Some(virt_start) = given.virtual_start(&region) else {
                if is_owed(&region) {
                    marks.push(Mark::of_region(Rule::NotMapped, &region, Statement::Mapped, Statement::Absent));
                }
                continue;
            };
            if region.pages == 0 {
                marks.push(Mark::of_region(Rule::VirtualMap, &region, Statement::Absent, Statement::Mapped));
                continue;
            }
            let before = placed.len();
            placed.extend(question.at_physical_address(&region));
            if formula.get(&region.index) == Some(&None) {
                marks.push(without_address(layout, &region));
            } else {
                let expected = formula.get(&region.index).copied().flatten();
                placed.extend(question.at_virtual_address(&region, virt_start, expected, marks));
            }
            if !region.is_aligned() {
                let tails_of_region = placed[before..].iter().filter_map(Alias::tail);
                tails.extend(tails_of_region.filter(|tail| told.is_canonical(Va(tail.virt))));
            }
        }
        for virt in given.unclaimed() {
            marks.push(Mark {
                virt: Some(virt),
                observed: Statement::Virtual(virt),
                ..Mark::new(Rule::VirtualMap, Witness::Expectation)
            });
        }
        if closed_form::has_identity(layout) {
            check_order(map, &placed, marks);
        }
        placed.sort_by_key(|alias| (alias.region, alias.role));
        let mut aliases = placed.clone();
        if layout == Layout::Linux {
            question.add_what_the_call_needs(&mut aliases);
        }
        aliases.sort_by_key(|alias| alias.virt);
        let aliases = with_tails(without_overlaps(aliases, marks), tails, marks);
        Self { placed, aliases, gone: Vec::new(), arenas: arenas(layout, told) }
    }

    /// The same after phase `finish`. With layout `linux` boot services are gone by then, and the Memory Attributes Table's
    /// permissions are in force; the others have nothing to do there.
    pub fn finished(&self, question: &Question<'_>) -> Self {
        if question.layout != Layout::Linux {
            return self.clone();
        }
        let (stay, gone): (Vec<_>, Vec<_>) = self.aliases.iter().copied().partition(|alias| alias.stays);
        let attributes = attributes_table::in_force(question.map);
        let aliases = stay.into_iter().flat_map(|alias| {
            let parts = vec![alias];
            attributes.iter().filter(|entry| entry.concerns(&alias)).fold(parts, |parts, entry| {
                parts.into_iter().flat_map(|part| entry.applied_to(part, question.nx)).flatten().collect()
            })
        });
        let aliases = aliases.collect();
        Self { placed: self.placed.clone(), aliases, gone, arenas: self.arenas.clone() }
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
                (all && !alias.permits(access), pages.saturating_add(alias.pages))
            });
            all.then_some(Denial { ty, access, virt, pages })
        };
        kinds.into_iter().filter_map(denial).collect()
    }

    /// Whether an access to an address is one that the expectation denies to firmware.
    pub fn denies(&self, virt: u64, kind: Kind) -> bool {
        self.alias_at(virt).is_some_and(|index| !self.aliases[index].permits(Access::new(kind)))
    }

    /// The first virtual address that stands for a physical one after SetVirtualAddressMap.
    pub fn virtual_of(&self, phys: u64) -> Option<u64> {
        let holds =
            |alias: &&Alias| alias.role == Role::Virtual && (alias.phys..=alias.target(alias.last())).contains(&phys);
        let alias = self.aliases.iter().find(holds)?;
        Some(alias.virt.wrapping_add(phys.wrapping_sub(alias.phys)))
    }

    /// Whether this kernel, started by an earlier one, has each runtime region where that one told firmware that it is.
    pub fn compare_with_earlier(&self, map: &MemoryMap, earlier: &[MemoryDescriptor], marks: &mut Marks) {
        let given: HashMap<usize, u64> = (self.placed.iter().rev())
            .filter(|alias| alias.role == Role::Virtual)
            .filter_map(|alias| Some((alias.region?, alias.virt)))
            .collect();
        let owed: Vec<Region> = map.regions().filter(is_owed).collect();
        let starts: Vec<u64> = owed.iter().map(|region| region.phys).collect();
        for (region, expected) in owed.iter().zip(virtual_addresses(earlier, &starts)) {
            let observed = given.get(&region.index).map(|virt| virt.wrapping_add(region.phys % PAGE_BYTES));
            if expected != observed {
                let state = |virt: Option<u64>| virt.map_or(Statement::Absent, Statement::Virtual);
                let mark = Mark::of_region(Rule::KexecMoved, region, state(expected), state(observed));
                marks.push(Mark { virt: expected.or(observed), ..mark });
            }
        }
        let was_owed = |d: &&MemoryDescriptor| d.att.contains(MemoryAttribute::RUNTIME) && d.page_count > 0;
        let before: Vec<_> = earlier.iter().filter(was_owed).collect();
        let starts: Vec<u64> = before.iter().map(|d| d.phys_start).collect();
        let extents: Vec<_> = owed.iter().map(|region| Extent::of_pages(region.phys, region.pages)).collect();
        let known = holders(&starts, &extents);
        for (d, _) in before.into_iter().zip(known).filter(|(_, known)| known.is_none()) {
            marks.push(Mark {
                virt: Some(d.virt_start),
                pages: d.page_count,
                expected: Statement::Virtual(d.virt_start),
                observed: Statement::Text("a memory map without it"),
                ..Mark::new(Rule::KexecMoved, Witness::Expectation)
            });
        }
    }

    /// The alias that covers an address.
    pub fn alias_at(&self, virt: u64) -> Option<usize> {
        at(&self.aliases, virt)
    }

    /// The alias that covered an address, and went.
    pub fn gone_at(&self, virt: u64) -> Option<Alias> {
        at(&self.gone, virt).map(|index| self.gone[index])
    }

    /// Whose an address was before that went, and how far that holds, to `last` at most.
    pub fn gone_from(&self, virt: u64, last: u64) -> (Option<usize>, u64) {
        let alias = self.gone.get(self.gone.partition_point(|alias| alias.last() < virt));
        match alias {
            Some(alias) if alias.virt <= virt => (alias.region, last.min(alias.last())),
            Some(alias) => (None, last.min(alias.virt.saturating_sub(1))),
            None => (None, last),
        }
    }
}

/// The physical address that a map handed to SetVirtualAddressMap gives a virtual one for: the first RUNTIME descriptor that
/// holds it decides (UEFI 2.10, 8.4.2).
pub fn physical_of(virtual_map: &[MemoryDescriptor], virt: u64) -> Option<u64> {
    let offset =
        |d: &MemoryDescriptor| virt.checked_sub(d.virt_start).filter(|offset| offset / PAGE_BYTES < d.page_count);
    let mut runtime = virtual_map.iter().filter(|d| d.att.contains(MemoryAttribute::RUNTIME));
    runtime.find_map(|d| Some(d.phys_start.wrapping_add(offset(d)?)))
}

/// The one of several aliases, by address, that covers an address.
fn at(aliases: &[Alias], virt: u64) -> Option<usize> {
    let index = aliases.partition_point(|alias| alias.virt <= virt).checked_sub(1)?;
    (aliases[index].last() >= virt).then_some(index)
}

impl Question<'_> {
    /// A region where SetVirtualAddressMap is told that it is; `expected` is where it should be.
    fn at_virtual_address(
        &self,
        region: &Region,
        virt_start: u64,
        expected: Option<u64>,
        marks: &mut Marks,
    ) -> Option<Alias> {
        let offset = region.phys % PAGE_BYTES;
        let alias = self.alias(region, Role::Virtual, virt_start.wrapping_sub(offset));
        if !alias.virt.is_multiple_of(PAGE_BYTES) {
            marks.push(Mark {
                expected: Statement::Text("whole pages at a page's offset"),
                observed: Statement::Virtual(virt_start),
                ..alias.mark(Rule::VirtualMap, Witness::Expectation)
            });
            return None;
        }
        if let Some(expected) = expected.filter(|expected| *expected != virt_start) {
            marks.push(Mark {
                expected: Statement::Virtual(expected),
                observed: Statement::Virtual(virt_start),
                ..alias.mark(Rule::WrongAddress, Witness::Expectation)
            });
        }
        alias.is_placed_well(&closed_form::window(self.layout), self.told, self.kernel, marks).then_some(alias)
    }

    /// The same region 1:1, where the layout maps it so and the lower half reaches so far.
    fn at_physical_address(&self, region: &Region) -> Option<Alias> {
        let alias = self.alias(region, Role::Physical, page_of(region.phys));
        let is_low = end_of_pages(alias.phys, alias.pages) <= 1 << low_bits(self.told);
        (closed_form::has_identity(self.layout) && closed_form::maps(self.layout, region) && is_low).then_some(alias)
    }

    fn alias(&self, region: &Region, role: Role, virt: u64) -> Alias {
        let phys = page_of(region.phys);
        Alias {
            role,
            region: Some(region.index),
            virt,
            phys,
            pages: region.pages,
            writable: true,
            executable: region.is_code() || !self.nx,
            pat_index: cache_index(self.layout, region.attribute),
            stays: region.is_runtime() || self.layout != Layout::Linux,
            past_maxphyaddr: end_of_pages(phys, region.pages) > 1 << self.told.maxphyaddr,
        }
    }

    /// Page 0 and the virtual map, as data. Where page 0 is a region's, it has that region's cache type, and goes with it.
    fn add_what_the_call_needs(&self, aliases: &mut Vec<Alias>) {
        let data = |role, start, pages| Alias {
            role,
            region: None,
            virt: start,
            phys: start,
            pages,
            writable: true,
            executable: !self.nx,
            pat_index: 0,
            stays: true,
            past_maxphyaddr: false,
        };
        let map = self.virtual_map_at;
        let pages = map.end.saturating_sub(map.start).div_ceil(PAGE_BYTES);
        aliases.extend((pages > 0).then(|| data(Role::VirtualMap, map.start, pages)));

        let page_zero = data(Role::PageZero, 0, 1);
        let Some(owner) = aliases.iter_mut().find(|alias| alias.role == Role::Physical && alias.virt == 0) else {
            return aliases.push(page_zero);
        };
        let page_zero = Alias { region: owner.region, pat_index: owner.pat_index, stays: owner.stays, ..page_zero };
        (owner.virt, owner.phys, owner.pages) = (PAGE_BYTES, PAGE_BYTES, owner.pages.saturating_sub(1));
        aliases.retain(|alias| alias.pages > 0);
        aliases.push(page_zero);
    }
}

impl Alias {
    pub(super) fn mark(&self, rule: Rule, witness: Witness) -> Mark {
        Mark { region: self.region, virt: Some(self.virt), pages: self.pages, ..Mark::new(rule, witness) }
    }

    /// Whether its addresses can be looked at; says so if they are not where they may be.
    fn is_placed_well(
        &self,
        window: &RangeInclusive<u64>,
        told: &Paging,
        kernel: &[RangeInclusive<u64>],
        marks: &mut Marks,
    ) -> bool {
        let mut found = |rule, expected| {
            let observed = Statement::Virtual(self.virt);
            marks.push(Mark { expected, observed, ..self.mark(rule, Witness::Expectation) });
        };
        let last = end_of_pages(self.virt, self.pages).checked_sub(1).and_then(|last| u64::try_from(last).ok());
        let canonical = |last: &u64| {
            told.is_canonical(Va(self.virt)) && told.is_canonical(Va(*last)) && (self.virt ^ *last) >> 63 == 0
        };
        let Some(last) = last.filter(canonical) else {
            found(Rule::NotCanonical, Statement::Text("canonical addresses"));
            return false;
        };
        let kernels = kernel.iter().chain([&(BELOW_2G..=u64::MAX)]);
        if kernels.into_iter().any(|range| self.virt <= *range.end() && *range.start() <= last) {
            found(Rule::KernelOverlap, Statement::Text("addresses below the kernel's"));
        } else if self.virt < *window.start() || last > *window.end() {
            found(Rule::OutsideArena, Statement::Between(*window.start(), *window.end()));
        }
        true
    }

    /// The page after its last, in which a region ends that starts within a page.
    fn tail(&self) -> Option<Self> {
        let [virt, phys] = [self.virt, self.phys].map(|start| start.checked_add(self.bytes()));
        Some(Self { virt: virt?, phys: phys?, pages: 1, ..*self })
    }

    /// The pages from `from` to `end`, physical addresses, with `change` made to them; None where there are none.
    pub(super) fn part(&self, from: u64, end: u64, change: impl FnOnce(Self) -> Self) -> Option<Self> {
        let skipped = from.checked_sub(self.phys)?;
        let pages = end.checked_sub(from)? / PAGE_BYTES;
        (pages > 0).then(|| change(Self { virt: self.virt.wrapping_add(skipped), phys: from, pages, ..*self }))
    }
}

/// Regions every mapper must map.
fn is_owed(region: &Region) -> bool {
    region.is_runtime() && region.pages > 0 && closed_form::fits_an_entry(region)
}

/// A region that gets no virtual address, by the layout's own formula.
fn without_address(layout: Layout, region: &Region) -> Mark {
    if layout == Layout::LinuxFixed {
        let expected = Statement::Text("a VirtualStart in the memory map");
        return Mark::of_region(Rule::NoVirtualStart, region, expected, Statement::Text("VirtualStart 0"));
    }
    let observed = Statement::Text("none: firmware is handed the VirtualStart that was there before");
    Mark::of_region(Rule::WindowOverflow, region, Statement::Text("an address"), observed)
}

/// What the built-in layouts ask for. Linux: WB, else UC-. The others: the first of WB, WT (where UC is not possible),
/// UC- of the region's capabilities. Indices are those of the PAT at reset, PWT = 1 and PCD = 2 (SDM vol. 3A, table
/// 11-12).
fn cache_index(layout: Layout, attribute: MemoryAttribute) -> u8 {
    let can = |bit| attribute.contains(bit);
    if can(MemoryAttribute::WRITE_BACK) {
        0
    } else if can(MemoryAttribute::WRITE_THROUGH)
        && !can(MemoryAttribute::UNCACHEABLE)
        && !closed_form::has_identity(layout)
    {
        1
    } else {
        2
    }
}

fn low_half(told: &Paging) -> RangeInclusive<u64> {
    0..=!(u64::MAX << low_bits(told))
}

/// Bits of an address in the lower half.
fn low_bits(told: &Paging) -> u32 {
    if told.la57 { 56 } else { 47 }
}

fn arenas(layout: Layout, told: &Paging) -> Vec<RangeInclusive<u64>> {
    let window = closed_form::window(layout);
    match closed_form::has_identity(layout) {
        true => vec![low_half(told), window],
        false => vec![window],
    }
}

/// Linux's own rules: addresses rise with firmware's list, since code and data of one image are descriptors one after
/// another; and what of them is contiguous in physical memory is contiguous at its virtual addresses.
fn check_order(map: &MemoryMap, placed: &[Alias], marks: &mut Marks) {
    let mut regions: Vec<&Alias> = placed.iter().filter(|alias| alias.role == Role::Virtual).collect();
    if map.kind() == ListKind::Runtime {
        regions.reverse();
    }
    let descriptors = map.descriptors();
    let is_image = |alias: &Alias| {
        let descriptor = alias.region.map(|index| &descriptors[index]);
        descriptor.is_some_and(|d| {
            d.att.contains(MemoryAttribute::RUNTIME)
                && matches!(d.ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA)
        })
    };
    for pair in regions.windows(2) {
        let [before, after] = [pair[0], pair[1]];
        let end = before.virt.wrapping_add(before.bytes());
        let observed = Statement::Virtual(after.virt);
        if after.virt < before.virt {
            let expected = Statement::Text("an address above that of the region before it in the list");
            marks.push(Mark { expected, observed, ..after.mark(Rule::WindowOrder, Witness::Expectation) });
        }
        let contiguous = before.physical_end() == after.phys;
        if contiguous && is_image(before) && is_image(after) && after.virt != end {
            let expected = Statement::Virtual(end);
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
        if before.target(before.virt).wrapping_sub(before.virt) != alias.phys.wrapping_sub(alias.virt) {
            marks.push(Mark {
                expected: Statement::Text("addresses of its own"),
                observed: Statement::Virtual(alias.virt),
                ..alias.mark(Rule::RegionOverlap, Witness::Expectation)
            });
        }
        // What sticks out is still to be checked.
        if let Some(rest) = alias.last().checked_sub(before.last()).filter(|rest| *rest > 0) {
            let pages = rest / PAGE_BYTES;
            let skipped = alias.bytes().saturating_sub(rest);
            let [virt, phys] = [alias.virt, alias.phys].map(|start| start.saturating_add(skipped));
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
                expected: Statement::Frame(tail.phys),
                observed: Statement::Frame(phys),
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
    use crate::memory_map::OddityKind;
    let mut notes = Vec::new();
    for oddity in crate::memory_map::oddities(map) {
        let rule = match oddity.kind {
            OddityKind::Overlap => Rule::MapOverlap,
            OddityKind::Wrap => Rule::MapWrap,
            OddityKind::Unaligned => Rule::MapUnaligned,
            // A layout that has no room for it says so.
            OddityKind::AboveWindow => continue,
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
