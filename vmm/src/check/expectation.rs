//! The first witness: what the memory map and the layout's closed form say must be.
//!
//! Nothing here looks at tables, and nothing is shared with the mapping code.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use efibed_guest::Layout;

use super::Rule;
use super::marks::{Mark, Marks, Statement};
use super::{Phase, Witness};
use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, PAGE_BYTES, Region};
use crate::mmu::{Paging, Va};

const GIB: u64 = 1 << 30;
/// -4 GiB, -68 GiB, -2 GiB: the EFI window and the kernel's text of Linux's memory layout.
const BELOW_4G: u64 = (4 * GIB).wrapping_neg();
const BELOW_68G: u64 = (68 * GIB).wrapping_neg();
const BELOW_2G: u64 = (2 * GIB).wrapping_neg();

/// One stretch of virtual addresses that stands for one stretch of physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The descriptor's index in the memory map.
    pub region: usize,
    /// The first address.
    pub virt: u64,
    /// What it must reach.
    pub phys: u64,
    /// How many pages.
    pub pages: u64,
    /// Data and code are written to in the phase before permissions are tightened.
    pub writable: bool,
    /// Code is, data is not.
    pub executable: bool,
    /// The PAT index asked for.
    pub pat_index: u8,
    /// RUNTIME: it stays when boot services go.
    pub runtime: bool,
    /// Past the CPU's physical-address width: it cannot be probed.
    pub past_maxphyaddr: bool,
}

impl Alias {
    /// The last byte.
    pub fn last(&self) -> u64 {
        self.virt + (self.pages * PAGE_BYTES - 1)
    }

    /// The physical address that `virt` in it must reach.
    pub fn target(&self, virt: u64) -> u64 {
        self.phys.wrapping_add(virt.wrapping_sub(self.virt))
    }
}

/// What must be, before any table is looked at.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// What the mapper gave virtual addresses: each alias whole, as it was handed over.
    pub placed: Vec<Alias>,
    /// By virtual address, none overlapping another: where descriptors overlap, the later one's rest.
    pub aliases: Vec<Alias>,
    /// Where nothing else may translate.
    pub arena: RangeInclusive<u64>,
}

impl Expectation {
    /// From the map that the mapper hands to SetVirtualAddressMap; what is wrong with that map goes into `marks`. `nx`:
    /// whether the mapper was offered execute-disable.
    pub fn new(
        map: &MemoryMap,
        layout: Layout,
        virtual_map: &[MemoryDescriptor],
        told: &Paging,
        nx: bool,
        kernel: &[RangeInclusive<u64>],
        marks: &mut Marks,
    ) -> Self {
        let formula = addresses(map, layout);
        let mut given: HashMap<(u64, u64, u32, u64), Vec<u64>> = HashMap::new();
        for d in virtual_map.iter().rev() {
            given.entry((d.phys_start, d.page_count, d.ty.0, d.att.bits())).or_default().push(d.virt_start);
        }
        let mut aliases = Vec::new();
        for region in map.regions() {
            let key = (region.phys, region.pages, region.ty.0, region.attribute.bits());
            let Some(virt_start) = given.get_mut(&key).and_then(Vec::pop) else {
                if is_owed(&region) {
                    marks.push(Mark::of_region(Rule::NotMapped, &region, Statement::Mapped, Statement::Absent));
                }
                continue;
            };
            let alias = Alias::new(&region, virt_start, told, nx);
            if alias.pages == 0 || !alias.virt.is_multiple_of(PAGE_BYTES) {
                marks.push(Mark {
                    expected: Statement::Text("whole pages at a page's offset"),
                    observed: Statement::Virtual(virt_start),
                    ..alias.mark(Rule::VirtualMap, Witness::Expectation)
                });
                continue;
            }
            match formula.get(&region.index) {
                Some(virt) if *virt != alias.virt => marks.push(Mark {
                    expected: Statement::Virtual(*virt),
                    observed: Statement::Virtual(alias.virt),
                    ..alias.mark(Rule::WrongAddress, Witness::Expectation)
                }),
                _ => {}
            }
            if alias.is_placed_well(&arena(layout), told, kernel, marks) {
                aliases.push(alias);
            }
        }
        for virt in given.into_values().flatten() {
            marks.push(Mark {
                virt: Some(virt),
                observed: Statement::Virtual(virt),
                ..Mark::new(Rule::VirtualMap, Witness::Expectation)
            });
        }
        let placed = aliases.clone();
        aliases.sort_by_key(|alias| alias.virt);
        Self { placed, aliases: without_overlaps(aliases, marks), arena: arena(layout) }
    }

    /// The first virtual address that stands for a physical one.
    pub fn virtual_of(&self, phys: u64) -> Option<u64> {
        let alias = self.aliases.iter().find(|alias| (alias.phys..alias.target(alias.last())).contains(&phys))?;
        Some(alias.virt + (phys - alias.phys))
    }

    /// The alias that covers an address.
    pub fn alias_at(&self, virt: u64) -> Option<usize> {
        let after = self.aliases.partition_point(|alias| alias.virt <= virt);
        let index = after.checked_sub(1)?;
        (self.aliases[index].last() >= virt).then_some(index)
    }
}

impl Alias {
    fn new(region: &Region, virt_start: u64, told: &Paging, nx: bool) -> Self {
        let offset = region.phys % PAGE_BYTES;
        let phys = region.phys - offset;
        Self {
            region: region.index,
            virt: virt_start.wrapping_sub(offset),
            phys,
            pages: region.pages,
            writable: true,
            executable: region.is_code() || !nx,
            pat_index: cache_index(region.attribute),
            runtime: region.is_runtime(),
            past_maxphyaddr: u128::from(phys) + u128::from(region.pages) * 4096 > 1 << told.maxphyaddr,
        }
    }

    pub(super) fn mark(&self, rule: Rule, witness: Witness) -> Mark {
        Mark { region: Some(self.region), virt: Some(self.virt), pages: self.pages, ..Mark::new(rule, witness) }
    }

    /// Whether its addresses can be looked at; says so if they are not where they may be.
    fn is_placed_well(
        &self,
        arena: &RangeInclusive<u64>,
        told: &Paging,
        kernel: &[RangeInclusive<u64>],
        marks: &mut Marks,
    ) -> bool {
        let mut found = |rule, expected| {
            let observed = Statement::Virtual(self.virt);
            marks.push(Mark { expected, observed, ..self.mark(rule, Witness::Expectation) });
        };
        let last = self.pages.checked_mul(PAGE_BYTES).and_then(|bytes| self.virt.checked_add(bytes - 1));
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
        } else if self.virt < *arena.start() || last > *arena.end() {
            found(Rule::OutsideArena, Statement::Between(*arena.start(), *arena.end()));
        }
        true
    }
}

/// Regions every mapper must map.
fn is_owed(region: &Region) -> bool {
    region.is_runtime() && region.pages > 0 && fits_an_entry(region)
}

/// 52 bits of physical address are the most a page-table entry can hold (SDM vol. 3A, 4.1.4).
fn fits_an_entry(region: &Region) -> bool {
    (region.phys / PAGE_BYTES).checked_add(region.pages).is_some_and(|end| end <= 1 << 40)
}

/// What the built-in layouts ask for: the first of WB, WT (where UC is not possible), UC- of the region's capabilities.
/// Indices are those of the PAT at reset, PWT = 1 and PCD = 2 (SDM vol. 3A, table 11-12).
fn cache_index(attribute: MemoryAttribute) -> u8 {
    let can = |bit| attribute.contains(bit);
    if can(MemoryAttribute::WRITE_BACK) {
        0
    } else if can(MemoryAttribute::WRITE_THROUGH) && !can(MemoryAttribute::UNCACHEABLE) {
        1
    } else {
        2
    }
}

fn arena(layout: Layout) -> RangeInclusive<u64> {
    match layout {
        Layout::Window | Layout::PackedDown => BELOW_68G..=BELOW_4G - 1,
        Layout::PackedUp => BELOW_4G..=BELOW_2G - 1,
    }
}

/// The layout's closed form: the virtual address of each region that it maps, by index.
fn addresses(map: &MemoryMap, layout: Layout) -> HashMap<usize, u64> {
    let extent = |region: &Region| (region.phys & !(PAGE_BYTES - 1), region.pages * PAGE_BYTES);
    let mapped = || map.regions().filter(|region| region.is_mapped() && fits_an_entry(region));
    match layout {
        Layout::Window => {
            let ends = mapped().map(|region| extent(&region).0 + extent(&region).1);
            let efi_va = BELOW_4G.wrapping_sub(ends.max().unwrap_or(0));
            mapped().map(|region| (region.index, efi_va.wrapping_add(extent(&region).0))).collect()
        }
        Layout::PackedDown => mapped()
            .scan(BELOW_4G, |below, region| {
                *below = below.wrapping_sub(extent(&region).1);
                Some((region.index, *below))
            })
            .collect(),
        Layout::PackedUp => mapped()
            .scan(BELOW_4G, |next, region| {
                let virt = *next;
                *next = next.wrapping_add(extent(&region).1);
                Some((region.index, virt))
            })
            .collect(),
    }
}

/// Drops, and says so, what overlaps an earlier alias. Where both mean the same frames there is nothing to say: the
/// regions themselves overlap, which is a finding of its own.
fn without_overlaps(aliases: Vec<Alias>, marks: &mut Marks) -> Vec<Alias> {
    let mut kept: Vec<Alias> = Vec::with_capacity(aliases.len());
    for mut alias in aliases {
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
            let skip = alias.pages - rest / PAGE_BYTES;
            alias.virt += skip * PAGE_BYTES;
            alias.phys += skip * PAGE_BYTES;
            alias.pages -= skip;
            kept.push(alias);
        }
    }
    kept
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
            _ => {
                notes.push(oddity.message);
                continue;
            }
        };
        marks.push_worded(Phase::Input, rule, Some(oddity.index), oddity.message);
    }
    for region in map.regions().filter(|region| region.is_mapped()) {
        let end = u128::from(region.phys) + u128::from(region.pages) * u128::from(PAGE_BYTES);
        if !region.wraps() && end > 1 << told.maxphyaddr {
            let message = format!(
                "region {} ends at {end:#x}, past the {} bits of physical address that the CPU has",
                region.index, told.maxphyaddr
            );
            marks.push_worded(Phase::Input, Rule::PastMaxphyaddr, Some(region.index), message);
        }
    }
    notes
}
