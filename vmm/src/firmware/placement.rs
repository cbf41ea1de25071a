//! Which regions firmware lives in, and why it cannot live in others.

use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};

use super::PAGE_SIZE;
use super::ranges::Range;
use crate::mmu::Pa;

/// Why a map gets no firmware, and so no calls.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFirmware {
    /// No descriptor is of the type.
    #[error("the map has no {} region, so there is no firmware to call", type_name(*.ty))]
    NoRegion {
        /// RUNTIME_SERVICES_CODE or RUNTIME_SERVICES_DATA.
        ty: MemoryType,
    },
    /// There are descriptors of the type, but none that firmware can live in.
    #[error(
        "none of the map's {count} {} regions can hold firmware; descriptor {region}, at {phys:#x}, {defect}",
        type_name(*.ty)
    )]
    NoUsableRegion {
        /// RUNTIME_SERVICES_CODE or RUNTIME_SERVICES_DATA.
        ty: MemoryType,
        /// How many descriptors are of the type.
        count: usize,
        /// The first of them.
        region: usize,
        /// Its physical address.
        phys: Pa,
        /// What is wrong with it.
        defect: RegionDefect,
    },
}

/// What keeps firmware out of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionDefect {
    /// Without the attribute the region is not firmware's at runtime.
    #[error("lacks the RUNTIME attribute")]
    NotRuntime,
    /// NumberOfPages is zero.
    #[error("has no pages")]
    NoPages,
    /// PhysicalStart is not a multiple of 4 KiB.
    #[error("is not aligned to 4 KiB")]
    Unaligned,
    /// The region runs past the top of the 64-bit address space.
    #[error("wraps around the top of the address space")]
    Wraps,
    /// Another descriptor claims some of the same addresses.
    #[error("overlaps descriptor {other}")]
    Overlaps {
        /// Its index in the map.
        other: usize,
    },
    /// The machine cannot have memory there.
    #[error("begins where this machine can have no memory")]
    OutOfReach,
}

/// A page that firmware takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its physical address; page-aligned.
    pub phys: Pa,
    /// Index of the region's descriptor.
    pub region: usize,
}

impl Place {
    /// The physical address of a byte of the page.
    pub fn at(self, offset: usize) -> Pa {
        self.phys.wrapping_add(offset as u64)
    }
}

/// Finds places in one map.
pub(super) struct Finder<'a> {
    map: &'a [MemoryDescriptor],
    /// The entries of the Memory Attributes Table that are in force.
    attributes: &'a [MemoryDescriptor],
    usable: &'a dyn Fn(Pa) -> bool,
    /// For each descriptor, another one it overlaps.
    overlaps: Vec<Option<usize>>,
}

impl<'a> Finder<'a> {
    pub fn new(
        map: &'a [MemoryDescriptor],
        attributes: &'a [MemoryDescriptor],
        usable: &'a dyn Fn(Pa) -> bool,
    ) -> Self {
        Self { map, attributes, usable, overlaps: overlaps(map) }
    }

    /// The first page of the type that firmware can live in: of those that the attributes permit, if there are any.
    pub fn find(&self, ty: MemoryType) -> Result<Place, NoFirmware> {
        let candidates: Vec<usize> = (0..self.map.len()).filter(|&region| self.map[region].ty == ty).collect();
        let first = *candidates.first().ok_or(NoFirmware::NoRegion { ty })?;
        let forbidden = self.forbidden(ty);
        let usable = || candidates.iter().copied().filter(|&region| self.examine(region).is_ok());
        let permitted = usable().find_map(|region| self.permitted_page(region, &forbidden));
        let any = || usable().find_map(|region| self.permitted_page(region, &[]));
        if let Some(place) = permitted.or_else(any) {
            return Ok(place);
        }
        let phys = Pa(self.map[first].phys_start);
        let defect = self.examine(first).err().unwrap_or(RegionDefect::OutOfReach);
        Err(NoFirmware::NoUsableRegion { ty, count: candidates.len(), region: first, phys, defect })
    }

    /// Where the attributes forbid what firmware does there: executing its code, writing to its data.
    fn forbidden(&self, ty: MemoryType) -> Vec<Range> {
        let forbids = match ty {
            MemoryType::RUNTIME_SERVICES_CODE => MemoryAttribute::EXECUTE_PROTECT,
            _ => MemoryAttribute::READ_ONLY,
        };
        let entries = self.attributes.iter().filter(|entry| entry.att.contains(forbids));
        let mut ranges: Vec<Range> =
            entries.filter_map(|entry| Range::of_pages_clamped(Pa(entry.phys_start), entry.page_count)).collect();
        ranges.sort_unstable();
        ranges
    }

    /// The first page of a region that is in none of these ranges, which are in order, and that the machine can use. Where
    /// the machine cannot use one page, that is its own business there; what follows is tried once.
    fn permitted_page(&self, region: usize, forbidden: &[Range]) -> Option<Place> {
        let descriptor = &self.map[region];
        let range = Range::of_pages(Pa(descriptor.phys_start), descriptor.page_count)?;
        let first = first_outside(range.first, forbidden)?;
        let second = || first_outside(first.checked_add(PAGE_SIZE)?, forbidden);
        let is_fit = |phys: &Pa| range.contains(*phys) && (self.usable)(*phys);
        let phys = Some(first).filter(is_fit).or_else(|| second().filter(is_fit))?;
        Some(Place { phys, region })
    }

    fn examine(&self, region: usize) -> Result<(), RegionDefect> {
        let descriptor = &self.map[region];
        if !descriptor.att.contains(MemoryAttribute::RUNTIME) {
            return Err(RegionDefect::NotRuntime);
        }
        if descriptor.page_count == 0 {
            return Err(RegionDefect::NoPages);
        }
        if !descriptor.phys_start.is_multiple_of(PAGE_SIZE) {
            return Err(RegionDefect::Unaligned);
        }
        if Range::of_pages(Pa(descriptor.phys_start), descriptor.page_count).is_none() {
            return Err(RegionDefect::Wraps);
        }
        if let Some(other) = self.overlaps[region] {
            return Err(RegionDefect::Overlaps { other });
        }
        if self.permitted_page(region, &[]).is_none() {
            return Err(RegionDefect::OutOfReach);
        }
        Ok(())
    }
}

/// The first page, from this one on, that is in none of these ranges, which are in order.
fn first_outside(from: Pa, ranges: &[Range]) -> Option<Pa> {
    ranges
        .iter()
        .try_fold(from, |phys, range| if range.contains(phys) { range.last.checked_add(1) } else { Some(phys) })
}

/// For each descriptor, another one it overlaps, if any. Sorted first: a hostile map may have very many descriptors.
fn overlaps(map: &[MemoryDescriptor]) -> Vec<Option<usize>> {
    let mut sorted: Vec<(Range, usize)> = map
        .iter()
        .zip(0..)
        .filter_map(|(descriptor, region)| {
            let range = Range::of_pages_clamped(Pa(descriptor.phys_start), descriptor.page_count)?;
            Some((range, region))
        })
        .collect();
    sorted.sort_unstable();

    let mut overlaps = vec![None; map.len()];
    let mut reaching: Option<(Range, usize)> = None; // of those so far, the one that ends last
    for (range, region) in sorted {
        if let Some((before, other)) = reaching
            && range.first <= before.last
        {
            overlaps[region] = Some(other);
            overlaps[other].get_or_insert(region);
        }
        if reaching.is_none_or(|(before, _)| before.last < range.last) {
            reaching = Some((range, region));
        }
    }
    overlaps
}

/// The specification's name, without the prefix.
fn type_name(ty: MemoryType) -> &'static str {
    match ty {
        MemoryType::RUNTIME_SERVICES_CODE => "RuntimeServicesCode",
        MemoryType::RUNTIME_SERVICES_DATA => "RuntimeServicesData",
        _ => "firmware",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Firmware;
    use super::super::test_memory::{code_and_data, descriptor};
    use super::*;

    const CODE: MemoryType = MemoryType::RUNTIME_SERVICES_CODE;
    const DATA: MemoryType = MemoryType::RUNTIME_SERVICES_DATA;

    /// The defect of a map whose one RuntimeServicesCode descriptor is this one.
    fn defect(code: MemoryDescriptor, others: &[MemoryDescriptor]) -> RegionDefect {
        let map = [&[code], others].concat();
        match Firmware::lay_out(&map, &[], |phys| phys < Pa(1 << 39)) {
            Err(NoFirmware::NoUsableRegion { defect, region: 0, .. }) => defect,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_map_without_runtime_code_or_data_gets_no_firmware_and_a_reason() {
        for (ty, name) in [(CODE, "RuntimeServicesCode"), (DATA, "RuntimeServicesData")] {
            let mut map = code_and_data();
            map.retain(|descriptor| descriptor.ty != ty);
            let reason = Firmware::lay_out(&map, &[], |_| true).unwrap_err();
            assert_eq!(reason, NoFirmware::NoRegion { ty });
            assert!(reason.to_string().contains(name), "{reason}");
        }
        assert!(Firmware::lay_out(&[], &[], |_| true).is_err());
    }

    #[test]
    fn each_defect_keeps_firmware_out() {
        let good = descriptor(CODE, 0x10_0000, 4);
        let top = 0u64.wrapping_sub(PAGE_SIZE);
        let cases = [
            (MemoryDescriptor { att: MemoryAttribute::WRITE_BACK, ..good }, RegionDefect::NotRuntime),
            (MemoryDescriptor { page_count: 0, ..good }, RegionDefect::NoPages),
            (MemoryDescriptor { phys_start: 0x10_0800, ..good }, RegionDefect::Unaligned),
            (MemoryDescriptor { phys_start: top, ..good }, RegionDefect::Wraps),
            (MemoryDescriptor { page_count: u64::MAX, ..good }, RegionDefect::Wraps),
            (MemoryDescriptor { phys_start: 1 << 39, ..good }, RegionDefect::OutOfReach),
        ];
        for (code, expected) in cases {
            assert_eq!(defect(code, &[descriptor(DATA, 0x20_0000, 1)]), expected);
        }
    }

    #[test]
    fn a_page_of_the_machines_own_is_left_out() {
        let place = |code: MemoryDescriptor, attributes: &[MemoryDescriptor]| {
            let usable = |phys: Pa| phys != Pa(0x10_0000);
            Finder::new(&[code], attributes, &usable).find(CODE).map(|place| place.phys).ok()
        };
        assert_eq!(place(descriptor(CODE, 0x10_0000, 1), &[]), None);
        assert_eq!(place(descriptor(CODE, 0x10_0000, 2), &[]), Some(Pa(0x10_1000)));
        // One that follows what the attributes forbid.
        let forbidden = MemoryDescriptor { att: MemoryAttribute::EXECUTE_PROTECT, ..descriptor(CODE, 0xf_f000, 1) };
        assert_eq!(place(descriptor(CODE, 0xf_f000, 3), &[forbidden]), Some(Pa(0x10_1000)));
    }

    #[test]
    fn an_overlap_keeps_firmware_out_from_either_side() {
        let code = descriptor(CODE, 0x10_0000, 4);
        for (first, pages) in [(0xF_F000, 2), (0x10_3000, 9), (0x10_1000, 1), (0, 0x1000)] {
            let other = descriptor(MemoryType::CONVENTIONAL, first, pages);
            assert_eq!(defect(code, &[other]), RegionDefect::Overlaps { other: 1 });
        }
        // One that is hidden behind a longer one, and one that wraps.
        let long = descriptor(MemoryType::CONVENTIONAL, 0, 0x1000);
        let short = descriptor(MemoryType::CONVENTIONAL, 0x1000, 1);
        assert!(matches!(defect(code, &[long, short]), RegionDefect::Overlaps { .. }));
        let wraps = descriptor(MemoryType::CONVENTIONAL, 0x10_3000, u64::MAX);
        assert_eq!(defect(code, &[wraps]), RegionDefect::Overlaps { other: 1 });
    }

    #[test]
    fn neighbours_and_empty_descriptors_do_not_overlap() {
        let mut map = code_and_data();
        let code = map[1];
        map.push(descriptor(MemoryType::CONVENTIONAL, code.phys_start, 0));
        map.push(descriptor(MemoryType::CONVENTIONAL, code.phys_start - PAGE_SIZE, 1));
        assert!(Firmware::lay_out(&map, &[], |_| true).is_ok());
    }

    #[test]
    fn the_next_region_of_the_type_is_taken_where_the_first_cannot_be() {
        let mut map = code_and_data();
        map.insert(0, descriptor(CODE, 0x10_0800, 1));
        let firmware = Firmware::lay_out(&map, &[], |_| true).unwrap();
        assert_eq!(firmware.pages().next().unwrap().2, 2);
    }
}
