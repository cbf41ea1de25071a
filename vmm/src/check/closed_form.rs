//! The layouts' closed forms: where each region must be, from the memory map alone.
//!
//! Nothing is shared with the mapping code, and nothing is done its way: where it counts downwards and rounds, here
//! stands what the result must be.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::RangeInclusive;

use efibed_guest::Layout;

use crate::memory_map::{ListKind, MemoryAttribute, MemoryMap, MemoryType, PAGE_BYTES, Region, end_of_pages, page_of};

const GIB: u64 = 1 << 30;
/// -4 GiB, -68 GiB, -2 GiB: the EFI window and the kernel's text of Linux's memory layout.
const BELOW_4G: u64 = (4 * GIB).wrapping_neg();
const BELOW_68G: u64 = (68 * GIB).wrapping_neg();
/// Where the kernel's own text begins.
pub const BELOW_2G: u64 = (2 * GIB).wrapping_neg();
/// Linux keeps virtual and physical addresses equal modulo 2 MiB.
const CONGRUENCE: u64 = 2 << 20;

/// Where a layout puts its regions.
pub fn window(layout: Layout) -> RangeInclusive<u64> {
    match layout {
        Layout::Linux | Layout::LinuxFixed | Layout::Window | Layout::PackedDown => BELOW_68G..=BELOW_4G - 1,
        Layout::PackedUp => BELOW_4G..=BELOW_2G - 1,
    }
}

/// Whether a layout maps regions at their physical addresses too.
pub fn has_identity(layout: Layout) -> bool {
    matches!(layout, Layout::Linux | Layout::LinuxFixed)
}

/// Whether a layout maps a region at all.
pub fn maps(layout: Layout, region: &Region) -> bool {
    let wanted =
        if layout == Layout::LinuxFixed { region.is_runtime() && region.pages > 0 } else { region.is_mapped() };
    wanted && fits_an_entry(region)
}

/// 52 bits of physical address are the most a page-table entry can hold (SDM vol. 3A, 4.1.4).
pub fn fits_an_entry(region: &Region) -> bool {
    (region.phys / PAGE_BYTES).checked_add(region.pages).is_some_and(|end| end <= 1 << 40)
}

/// The virtual address of each region that the layout maps, by index; None: the layout has no room for it.
pub fn addresses(map: &MemoryMap, layout: Layout) -> HashMap<usize, Option<u64>> {
    let mapped = || map.regions().filter(|region| maps(layout, region));
    // What is mapped ends at 2^52 or below.
    let bytes = |region: &Region| region.pages.saturating_mul(PAGE_BYTES);
    let at = |virt: u64, region: &Region| Some((region.index, Some(virt.wrapping_add(region.phys % PAGE_BYTES))));
    match layout {
        Layout::Window => {
            let highest = mapped().map(|region| page_of(region.phys).saturating_add(bytes(&region))).max().unwrap_or(0);
            let efi_va = BELOW_4G.wrapping_sub(highest);
            mapped().map(|region| (region.index, Some(efi_va.wrapping_add(region.phys)))).collect()
        }
        Layout::PackedDown => mapped()
            .scan(BELOW_4G, |below, region| {
                *below = below.wrapping_sub(bytes(&region));
                at(*below, &region)
            })
            .collect(),
        Layout::PackedUp => mapped()
            .scan(BELOW_4G, |next, region| {
                let virt = *next;
                *next = next.wrapping_add(bytes(&region));
                at(virt, &region)
            })
            .collect(),
        Layout::Linux => linux_addresses(map),
        Layout::LinuxFixed => mapped()
            .map(|region| {
                let given = map.descriptors()[region.index].virt_start;
                (region.index, (given != 0 || region.phys == 0).then_some(given))
            })
            .collect(),
    }
}

/// The descriptor at which a layout gives up, and then maps nothing at all; None: it goes on to the end.
pub fn gives_up_at(map: &MemoryMap, layout: Layout) -> Option<usize> {
    let mapped = || map.regions().filter(|region| maps(layout, region));
    let past = |room: u64| {
        let mut used = 0_u128;
        let mut is_past = move |region: &Region| {
            used = used.saturating_add(end_of_pages(0, region.pages));
            used > u128::from(room)
        };
        mapped().find(|region| is_past(region)).map(|region| region.index)
    };
    match layout {
        // The window starts at the highest end, and has no more than 64 GiB.
        Layout::Window => {
            let ends = mapped().map(|region| (end_of_pages(page_of(region.phys), region.pages), Reverse(region.index)));
            let (end, Reverse(index)) = ends.max()?;
            (end > u128::from(BELOW_4G - BELOW_68G)).then_some(index)
        }
        // One below another from -4 GiB down to 0, or one above another up to 2^64; the window is not looked at.
        Layout::PackedDown => past(BELOW_4G),
        Layout::PackedUp => past(BELOW_4G.wrapping_neg()),
        Layout::Linux | Layout::LinuxFixed => None,
    }
}

/// Why a layout gives up at a descriptor, as a sentence.
pub fn no_room(map: &MemoryMap, layout: Layout, index: usize) -> String {
    let end = map.regions().nth(index).map_or(0, |region| region.end());
    match layout {
        Layout::Window => format!(
            "region {index} ends at {end:#x}: {:.1} GiB, and all mapped regions with their distances must fit the 64 GiB \
             from -68 GiB to -4 GiB",
            end as f64 / GIB as f64
        ),
        _ => format!("no virtual addresses are left for region {index}"),
    }
}

/// Each merged region lies at the highest address that equals its physical one modulo 2 MiB and leaves it below the
/// region after it in the list; those before one that finds no room find none either.
fn linux_addresses(map: &MemoryMap) -> HashMap<usize, Option<u64>> {
    let mut ceiling = BELOW_4G;
    let mut addresses = HashMap::new();
    for merged in in_mapping_order(map) {
        let highest = ceiling.saturating_sub(merged.pages.saturating_mul(PAGE_BYTES));
        let virt = highest.saturating_sub(highest.wrapping_sub(merged.phys) % CONGRUENCE);
        ceiling = virt;
        for part in merged.parts {
            addresses.insert(
                part.index,
                (virt >= BELOW_68G).then(|| virt.wrapping_add(part.phys.wrapping_sub(merged.phys))),
            );
        }
    }
    addresses
}

/// Descriptors that Linux makes one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Their common type.
    pub ty: MemoryType,
    /// Their common attributes.
    pub attribute: MemoryAttribute,
    /// Where they start.
    pub phys: u64,
    /// Pages of all.
    pub pages: u64,
    /// The descriptors.
    pub parts: Vec<Region>,
}

impl Merged {
    fn of(region: Region) -> Self {
        let Region { ty, attribute, phys, pages, .. } = region;
        Self { ty, attribute, phys, pages, parts: vec![region] }
    }

    fn is_continued_by(&self, next: &Region) -> bool {
        (self.ty, self.attribute) == (next.ty, next.attribute)
            && u128::from(next.phys) == end_of_pages(self.phys, self.pages)
    }
}

/// What Linux maps, in the order in which it does: the last region of firmware's list first.
pub fn in_mapping_order(map: &MemoryMap) -> Vec<Merged> {
    let mut all: Vec<Merged> = Vec::new();
    for region in map.regions().filter(is_valid) {
        match all.last_mut().filter(|before| before.is_continued_by(&region) && fits_an_entry(&region)) {
            Some(before) => {
                before.pages = before.pages.saturating_add(region.pages);
                before.parts.push(region);
            }
            None => all.push(Merged::of(region)),
        }
    }
    all.retain(|merged| merged.parts.iter().all(|part| maps(Layout::Linux, part)));
    if map.kind() == ListKind::Firmware {
        all.reverse();
    }
    all
}

/// Whether Linux leaves a descriptor in the list (`efi_memmap_entry_valid`): it has pages, and ends below 2^64, not there.
fn is_valid(region: &Region) -> bool {
    region.pages > 0 && region.end() < 1 << 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::MemoryDescriptor;

    const RUNTIME: MemoryAttribute = MemoryAttribute::RUNTIME;

    fn map(regions: &[(MemoryType, MemoryAttribute, u64, u64)]) -> MemoryMap {
        let descriptor = |&(ty, att, phys_start, page_count): &(_, _, _, _)| MemoryDescriptor {
            ty,
            att,
            phys_start,
            page_count,
            ..Default::default()
        };
        MemoryMap::from_descriptors("test", regions.iter().map(descriptor).collect())
    }

    fn linux(map: &MemoryMap) -> Vec<(usize, Option<u64>)> {
        let mut all: Vec<_> = addresses(map, Layout::Linux).into_iter().collect();
        all.sort_unstable();
        all
    }

    /// The first entries of a runtime map as Debian's 6.1 made it on q35 with 2 GiB.
    #[test]
    fn linux_places_the_last_region_highest_and_keeps_pa_modulo_2m() {
        let map = map(&[
            (MemoryType::BOOT_SERVICES_DATA, MemoryAttribute::empty(), 0x7fea_1000, 0x2e),
            (MemoryType::BOOT_SERVICES_DATA, MemoryAttribute::empty(), 0x7fec_f000, 0x11),
            (MemoryType::BOOT_SERVICES_CODE, MemoryAttribute::empty(), 0x7fee_0000, 0x14),
            (MemoryType::RUNTIME_SERVICES_DATA, RUNTIME, 0x7fef_4000, 0x84),
            (MemoryType::CONVENTIONAL, MemoryAttribute::empty(), 0x7ff7_8000, 0x88),
            (MemoryType::MMIO, RUNTIME, 0xffc0_0000, 0x400),
        ]);
        assert_eq!(
            linux(&map),
            [
                (0, Some(0xffff_fffe_ffaa_1000)),
                (1, Some(0xffff_fffe_ffac_f000)),
                (2, Some(0xffff_fffe_ffae_0000)),
                (3, Some(0xffff_fffe_ffaf_4000)),
                (5, Some(0xffff_fffe_ffc0_0000)),
            ]
        );
    }

    #[test]
    fn linux_merges_what_is_adjacent_in_the_list_and_in_memory_and_alike() {
        let data = MemoryType::RUNTIME_SERVICES_DATA;
        let none = MemoryAttribute::empty();
        let merged = |regions: &[_]| in_mapping_order(&map(regions)).iter().map(|m| m.parts.len()).collect::<Vec<_>>();
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), (data, RUNTIME, 0x2000, 1)]), [2]);
        assert_eq!(merged(&[(data, RUNTIME, 0x2000, 1), (data, RUNTIME, 0x1000, 1)]), [1, 1]);
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), (data, RUNTIME, 0x3000, 1)]), [1, 1]);
        let other = RUNTIME | MemoryAttribute::WRITE_BACK;
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), (data, other, 0x2000, 1)]), [1, 1]);
        // A descriptor without pages, or one that reaches 2^64, is dropped first; any other stands between.
        let conventional = |phys, pages| (MemoryType::CONVENTIONAL, none, phys, pages);
        for dropped in [conventional(0, 0), conventional(!0xfff, 1), conventional(!0xfff, 2)] {
            assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), dropped, (data, RUNTIME, 0x2000, 1)]), [2]);
        }
        let last = conventional(!0x1fff, 1);
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), last, (data, RUNTIME, 0x2000, 1)]), [1, 1]);
        let between = (MemoryType::CONVENTIONAL, none, 0x8000, 1);
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), between, (data, RUNTIME, 0x2000, 1)]), [1, 1]);
    }

    #[test]
    fn what_no_entry_can_hold_is_not_merged_with_what_it_can() {
        let data = MemoryType::RUNTIME_SERVICES_DATA;
        let end = 1 << 52;
        let map = map(&[(data, RUNTIME, end - 0x2000, 1), (data, RUNTIME, end - 0x1000, 2)]);
        assert_eq!(linux(&map), [(0, Some(BELOW_4G - 0x2000))]);
    }

    #[test]
    fn in_linux_nothing_before_a_region_that_does_not_fit_gets_an_address() {
        let gib = |pages: u64| pages << 18;
        let data = MemoryType::RUNTIME_SERVICES_DATA;
        let map =
            map(&[(data, RUNTIME, 0x1000, 1), (data, RUNTIME, 64 << 30, gib(63)), (data, RUNTIME, 1 << 40, gib(2))]);
        assert_eq!(linux(&map), [(0, None), (1, None), (2, Some(BELOW_4G - (2 << 30)))]);
    }
}
