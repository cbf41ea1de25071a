//! Maps as they are shown. Addresses and sums are worked out by hand.

use super::*;
use crate::machine::MaxPhyAddr;
use crate::memory_map::{MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor};

const RUNTIME_WB: MemoryAttribute = MemoryAttribute::RUNTIME.union(MemoryAttribute::WRITE_BACK);

fn descriptor(ty: MemoryType, phys_start: u64, page_count: u64, att: MemoryAttribute) -> MemoryDescriptor {
    MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() }
}

fn odd_map() -> MemoryMap {
    let wb = MemoryAttribute::WRITE_BACK;
    let unknown = MemoryAttribute::from_bits_retain(0x0700_0000_0000_0008);
    let descriptors = vec![
        descriptor(MemoryType::CONVENTIONAL, 0x10_0000, 0x700, wb),
        descriptor(MemoryType::RUNTIME_SERVICES_CODE, 0x7e00_0000, 0x10, RUNTIME_WB),
        descriptor(MemoryType::RUNTIME_SERVICES_DATA, 0x7e00_8000, 0x20, RUNTIME_WB),
        descriptor(MemoryType::MMIO, 0xf_ffff_ffff_f000, 1, MemoryAttribute::RUNTIME),
        descriptor(MemoryType::BOOT_SERVICES_DATA, 0x300, 0, unknown),
    ];
    MemoryMap::from_descriptors("odd.toml", descriptors)
}

#[test]
fn a_map_with_all_that_is_odd() {
    let shown = Text::plain(&MapReport::new(&odd_map(), Layout::Linux, None)).to_string();
    let table = "
  #  physical                             size          pages  type                 attributes            virtual
! 4  0x0000000000300                   0 bytes              0  BootServicesData     WB 0x700000000000000
  0  0x0000000100000-0x00000007fffff     7 MiB           1792  ConventionalMemory   WB
     0x0000000800000-0x000007dffffff  2008 MiB         514048  - hole
! 1  0x000007e000000-0x000007e00ffff    64 KiB             16  RuntimeServicesCode  RUNTIME WB            0xfffffffeffc00000
! 2  0x000007e008000-0x000007e027fff   128 KiB             32  RuntimeServicesData  RUNTIME WB            0xfffffffeffe08000
     0x000007e028000-0xfffffffffefff   3.9 PiB  1099511111639  - hole
! 3  0xffffffffff000-0xfffffffffffff     4 KiB              1  MemoryMappedIO       RUNTIME               0xfffffffefffff000
  ! wrong
";
    assert!(shown.contains(table), "{shown}");
    for line in [
        "5 descriptors, 3 RUNTIME: wrong is overlap (1), past-maxphyaddr (1), unaligned (1); odd is above-64g",
        "  memory   4 descriptors, 7360 KiB (1840 pages); reserved, persistent and I/O are not counted",
        "  RUNTIME  3 descriptors, 196 KiB (49 pages)",
        "    - descriptors 1 (RuntimeServicesCode) and 2 (RuntimeServicesData) share 0x7e008000-0x7e00ffff",
        "    - descriptor 3 (MemoryMappedIO) ends at 0xfffffffffffff, above 64 GiB",
        "    - descriptor 4 (BootServicesData) has no pages, at 0x300",
        "  mapped   3 descriptors, 196 KiB (49 pages); and 1:1, as far as the lower half reaches",
        "  leaves   49x4K, if large wherever both addresses are aligned",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "no line {line}:\n{shown}");
    }
}

#[test]
fn a_cpu_that_is_wide_enough_is_not_reported() {
    let map = odd_map();
    let is_past = |maxphyaddr| {
        let report = MapReport::new(&map, Layout::Linux, MaxPhyAddr::new(maxphyaddr));
        report.oddities.iter().any(|odd| odd.kind == PAST_MAXPHYADDR)
    };
    assert!(is_past(51) && !is_past(52));
}

#[test]
fn json_has_the_holes_the_overlap_and_where_each_region_goes() {
    let document: serde_json::Value =
        serde_json::from_str(&MapReport::new(&odd_map(), Layout::Linux, None).to_json()).unwrap();
    let mapped: Vec<_> = document["descriptors"].as_array().unwrap().iter().map(|d| &d["mapped"]).collect();
    let at = |virt: &str| serde_json::json!(virt);
    let expected = [
        serde_json::Value::Null,
        at("0xfffffffeffc00000"),
        at("0xfffffffeffe08000"),
        at("0xfffffffefffff000"),
        serde_json::Value::Null,
    ];
    assert_eq!(mapped, expected.iter().collect::<Vec<_>>());
    assert_eq!(document["holes"].as_array().unwrap().len(), 2);
    let kinds: Vec<_> = document["oddities"].as_array().unwrap().iter().map(|odd| odd["kind"].as_str()).collect();
    assert!(kinds.contains(&Some("overlap")) && kinds.contains(&Some("unknown-attribute")), "{kinds:?}");
}

#[test]
fn a_hostile_map_is_shown_within_limits() {
    let everywhere = |index: usize| match index % 3 {
        0 => descriptor(MemoryType(0x7000_0000 + index as u32), index as u64, u64::MAX, RUNTIME_WB),
        1 => descriptor(MemoryType::MMIO, u64::MAX, 1, MemoryAttribute::from_bits_retain(u64::MAX)),
        _ => descriptor(MemoryType::BOOT_SERVICES_CODE, (index as u64) << 12, 3, MemoryAttribute::empty()),
    };
    let map = MemoryMap::from_descriptors("hostile", (0..MAX_DESCRIPTORS).map(everywhere).collect());
    for layout in Layout::ALL.iter().copied() {
        let shown = Text::plain(&MapReport::new(&map, layout, None)).to_string();
        assert!(shown.lines().count() < 2000, "{}", shown.lines().count());
    }
}
