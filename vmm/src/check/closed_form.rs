//! The layouts' closed forms: where each region must be, from the memory map alone.
//!
//! Nothing is shared with the mapping code, and nothing is done its way: where it counts downwards and rounds, here
//! stands what the result must be. Which layout has which is in the contracts' table alone.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Rule;
use super::merged::{Merged, fits_an_entry, in_mapping_order};
use crate::memory_map::{MemoryMap, PAGE_BYTES, Region, end_of_pages, page_of};
use crate::mmu::Va;

const GIB: u64 = 1 << 30;
/// -4 GiB, -68 GiB, -2 GiB: the EFI window and the kernel's text of Linux's memory layout.
pub const BELOW_4G: u64 = (4 * GIB).wrapping_neg();
pub const BELOW_68G: u64 = (68 * GIB).wrapping_neg();
/// Where the kernel's own text begins.
pub const BELOW_2G: u64 = (2 * GIB).wrapping_neg();
/// Linux keeps virtual and physical addresses equal modulo 2 MiB.
const CONGRUENCE: u64 = 2 << 20;

/// The virtual address of each region that a layout maps, by index; None: the layout has no room for it.
pub type Addresses = BTreeMap<usize, Option<Va>>;

/// What a layout makes of a memory map.
pub struct ClosedForm {
    /// Where it puts each region.
    pub addresses: fn(&MemoryMap) -> Addresses,
    /// The descriptor at which it gives up, and then maps nothing at all; None: it goes on to the end.
    pub gives_up_at: fn(&MemoryMap) -> Option<usize>,
    /// Why it gives up there, as a sentence.
    pub no_room: fn(&MemoryMap, usize) -> String,
    /// What a region breaks that gets no address.
    pub without_address: Rule,
    /// Descriptors that it makes one of, and those that it leaves single.
    pub merged: fn(&MemoryMap) -> Vec<Merged>,
}

/// `efi_va = -4G - highest end of the mapped regions`; `VA = efi_va + PA`. The window has 64 GiB, and no more.
pub static WINDOW: ClosedForm = ClosedForm {
    addresses: |map| {
        let ends = mapped(map).map(|region| page_of(region.phys).saturating_add(bytes(&region)));
        let efi_va = BELOW_4G.wrapping_sub(ends.max().unwrap_or(0));
        mapped(map).map(|region| (region.index, Some(Va(efi_va.wrapping_add(region.phys))))).collect()
    },
    gives_up_at: |map| {
        let end = |region: Region| (end_of_pages(page_of(region.phys), region.pages), Reverse(region.index));
        let (end, Reverse(index)) = mapped(map).map(end).max()?;
        (end > u128::from(BELOW_4G - BELOW_68G)).then_some(index)
    },
    no_room: |map, index| {
        let end = map.regions().nth(index).map_or(0, |region| region.end());
        format!(
            "region {index} ends at {end:#x}: {:.1} GiB, and all mapped regions with their distances must fit the 64 GiB \
             from -68 GiB to -4 GiB",
            end as f64 / GIB as f64
        )
    },
    ..NONE
};

/// One right below another from -4 GiB down to 0, in list order. The window is not looked at.
pub static PACKED_DOWN: ClosedForm = ClosedForm {
    addresses: |map| {
        let below = mapped(map).scan(BELOW_4G, |below, region| {
            *below = below.wrapping_sub(bytes(&region));
            Some(at(*below, &region))
        });
        below.collect()
    },
    gives_up_at: |map| first_past(map, BELOW_4G),
    ..NONE
};

/// One right above another from -4 GiB up to 2^64, in list order. The window is not looked at.
pub static PACKED_UP: ClosedForm = ClosedForm {
    addresses: |map| {
        let above = mapped(map).scan(BELOW_4G, |next, region| {
            let virt = *next;
            *next = next.wrapping_add(bytes(&region));
            Some(at(virt, &region))
        });
        above.collect()
    },
    gives_up_at: |map| first_past(map, BELOW_4G.wrapping_neg()),
    ..NONE
};

/// What Linux does. What finds no room keeps the VirtualStart that it came with.
pub static LINUX: ClosedForm = ClosedForm { addresses: linux_addresses, merged: in_mapping_order, ..NONE };

/// What Linux does after kexec: each RUNTIME region where the map says that it is. 0 says nothing but of address 0.
pub static LINUX_FIXED: ClosedForm = ClosedForm {
    addresses: |map| {
        let given = |region: &Region| (region.virt != 0 || region.phys == 0).then_some(Va(region.virt));
        mapped(map).filter(Region::is_runtime).map(|region| (region.index, given(&region))).collect()
    },
    without_address: Rule::NoVirtualStart,
    ..NONE
};

/// That of a mapper whose layout is not known, and what most have in common.
pub const NONE: ClosedForm = ClosedForm {
    addresses: |_| Addresses::new(),
    gives_up_at: |_| None,
    no_room: |_, index| format!("no virtual addresses are left for region {index}"),
    without_address: Rule::WindowOverflow,
    merged: |_| Vec::new(),
};

/// RUNTIME and boot-services regions that an entry can hold, in list order.
fn mapped(map: &MemoryMap) -> impl Iterator<Item = Region> {
    map.regions().filter(|region| region.is_mapped() && fits_an_entry(region))
}

/// How long a mapped region is: it ends at 2^52 or below.
fn bytes(region: &Region) -> u64 {
    region.pages.saturating_mul(PAGE_BYTES)
}

/// A region whose first page is at `virt`.
fn at(virt: u64, region: &Region) -> (usize, Option<Va>) {
    (region.index, Some(Va(virt.wrapping_add(region.phys % PAGE_BYTES))))
}

/// The first of the mapped regions, one after another, that ends past so much room.
fn first_past(map: &MemoryMap, room: u64) -> Option<usize> {
    let mut used = 0_u128;
    let mut is_past = |region: &Region| {
        used = used.saturating_add(end_of_pages(0, region.pages));
        used > u128::from(room)
    };
    mapped(map).find(|region| is_past(region)).map(|region| region.index)
}

/// Each merged region lies at the highest address that equals its physical one modulo 2 MiB and leaves it below the
/// region after it in the list; those before one that finds no room find none either.
fn linux_addresses(map: &MemoryMap) -> Addresses {
    let mut ceiling = BELOW_4G;
    let mut addresses = Addresses::new();
    for merged in in_mapping_order(map) {
        let highest = ceiling.saturating_sub(merged.pages.saturating_mul(PAGE_BYTES));
        let virt = highest.saturating_sub(highest.wrapping_sub(merged.phys) % CONGRUENCE);
        ceiling = virt;
        for part in merged.parts {
            addresses.insert(
                part.index,
                (virt >= BELOW_68G).then(|| Va(virt.wrapping_add(part.phys.wrapping_sub(merged.phys)))),
            );
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::super::merged::tests::map;
    use super::*;
    use crate::memory_map::{MemoryAttribute, MemoryType};

    const RUNTIME: MemoryAttribute = MemoryAttribute::RUNTIME;

    fn linux(map: &MemoryMap) -> Vec<(usize, Option<u64>)> {
        let addresses = (LINUX.addresses)(map).into_iter();
        let mut all: Vec<_> = addresses.map(|(index, virt)| (index, virt.map(|virt| virt.0))).collect();
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
