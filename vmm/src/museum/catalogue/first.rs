//! Bugs 1 to 14.

use super::{CALLS, scenario};
use crate::check::{Phase, Rule};
use crate::mmu::Level;
use crate::museum::bug::{Bug, Checked, Exhibit, Found, Shown, Twin};
use crate::museum::mappers;
use crate::{Layout, LeafRule};

/// By number.
pub const BUGS: &[Bug] = &[
    Bug {
        number: 1,
        name: "misaligned-leaf",
        title: "a 2 MiB leaf chosen by the virtual address alone",
        code: "Linux",
        source: "\"EFI: Runtime services virtual mapping\", 2 October 2013; in its final form commit d2f7cbe7b26a",
        wrong: "Regions were put one below another from -4 GiB, so that virtual and physical addresses differed modulo 2 MiB. The size of a leaf was chosen by the virtual address and the length alone. The low bits of the physical address then fell on reserved bits of the entry, and later they were dropped.",
        looks: "#PF 0x9 (0xb for a write, 0x19 for a fetch); with the low bits dropped no fault, and another frame",
        mends: "addresses that are equal modulo the size of the leaf, or leaves that look at both",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("01-misaligned-leaf"),
                Found::of(Rule::ReservedBit).region(0).at(0xffff_fffe_ffe0_0000).faults(0x9).level(Level::Pde),
                Twin::new("leaf rule co-aligned", |scenario| scenario.leaf_rule(LeafRule::CoAligned)),
            ),
            Exhibit::of(
                scenario!("01-misaligned-leaf-masked"),
                Found::of(Rule::WrongFrame)
                    .region(0)
                    .at(0xffff_fffe_ffe0_0000)
                    .frames(0x7e76_b000, 0x7e60_0000)
                    .level(Level::Pde),
                Twin::new("leaf rule co-aligned", |scenario| scenario.leaf_rule(LeafRule::CoAligned)),
            ),
            Exhibit::of(
                scenario!("01-misaligned-leaf-by-a-page"),
                Found::of(Rule::WrongFrame)
                    .region(2)
                    .at(0xffff_fffe_ff80_0000)
                    .frames(0x7d00_1000, 0x7d00_0000)
                    .level(Level::Pde),
                Twin::new("leaf rule co-aligned", |scenario| scenario.leaf_rule(LeafRule::CoAligned)),
            )
            .besides(&[Rule::CacheType]),
        ]),
    },
    Bug {
        number: 2,
        name: "no-1g-leaves",
        title: "a 1 GiB leaf on a CPU that has none",
        code: "Linux",
        source: "commit d367cef0a7f0",
        wrong: "The code that writes leaves took 1 GiB for a size that every CPU knows. A CPU without pdpe1gb has PS of a PDPTE as a reserved bit.",
        looks: "#PF 0x9 at any address of the leaf",
        mends: "asking CPUID for 1 GiB pages, and leaves of 2 MiB without them",
        shown: Shown::By(&[Exhibit::of(
            scenario!("02-no-1g-leaves"),
            Found::of(Rule::ReservedBit).region(2).at(0xffff_fffe_c000_0000).faults(0x9).level(Level::Pdpte),
            Twin::LAYOUT,
        )
        .code(&mappers::LARGE_LEAVES_UNASKED)
        .where_checked(Checked { what: "1 GiB leaves against what CPUID says", is_by: |paging| !paging.gbpages })]),
    },
    Bug {
        number: 3,
        name: "one-page-directory",
        title: "past a 1 GiB boundary, without 1 GiB leaves, all goes into one page directory",
        code: "Linux",
        source: "A. Sankar, 3 March 2020, 20200303205445.3965393-2; not merged in the revision that was read",
        wrong: "What follows a 1 GiB boundary was handed to a function that fills one page directory. Where there are no 1 GiB leaves that is all the rest of the range. Its index wraps, so the last write wins, and what is beyond the first GiB is not mapped.",
        looks: "no fault in the first GiB: wrong frame; #PF 0x0 behind it (at 0xa6403e90 in the report); success is returned",
        mends: "a loop over page directories, a GiB each",
        shown: Shown::By(&[Exhibit::of(
            scenario!("03-one-page-directory"),
            Found::of(Rule::WrongFrame)
                .region(2)
                .at(0xffff_fffe_8000_0000)
                .frames(0x8000_0000, 0xc000_0000)
                .level(Level::Pde),
            Twin::LAYOUT,
        )
        .code(&mappers::ONE_PMD_TABLE)
        .besides(&[Rule::NotPresent])]),
    },
    Bug {
        number: 4,
        name: "misaligned-1g-leaf",
        title: "a 1 GiB leaf where addresses agree modulo 2 MiB only",
        code: "Linux",
        source: "found by reading set_memory.c (02eac06b820c) and confirmed with a model; not reported as far as known",
        wrong: "Linux keeps virtual and physical addresses equal modulo 2 MiB, and uses a 1 GiB leaf wherever the virtual address and the length allow one. The low 30 bits of the physical address are dropped. Before 2018 they fell on reserved bits.",
        looks: "no fault: wrong frame, by PA modulo 1 GiB; #PF 0x9 in older kernels",
        mends: "addresses that are equal modulo 1 GiB, or a leaf that looks at both",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("04-1g-leaf-masked"),
                Found::of(Rule::WrongFrame)
                    .region(2)
                    .at(0xffff_fffe_c000_0000)
                    .frames(0x8020_0000, 0x8000_0000)
                    .level(Level::Pdpte),
                Twin::new("leaf rule co-aligned", |scenario| scenario.leaf_rule(LeafRule::CoAligned)),
            ),
            Exhibit::of(
                scenario!("04-1g-leaf-reserved"),
                Found::of(Rule::ReservedBit).region(2).at(0xffff_fffe_c000_0000).faults(0x9).level(Level::Pdpte),
                Twin::new("leaf rule co-aligned", |scenario| scenario.leaf_rule(LeafRule::CoAligned)),
            ),
        ]),
    },
    Bug {
        number: 5,
        name: "past-the-table",
        title: "PDPTEs written past the end of their table",
        code: "Linux",
        source: "A. Sankar, 3 March 2020, patch 2 of 20200303205445.3965393; not merged in the revision that was read",
        wrong: "A range that crosses a multiple of 512 GiB needs a second table of PDPTEs. The loop counted on in the first one, and wrote to the page behind it. Only the 1:1 map can meet such a range.",
        looks: "no fault at first: memory is corrupted, and stray pages are mapped; #PF 0x0 behind the boundary",
        mends: "a loop over tables of PDPTEs, 512 GiB each",
        shown: Shown::By(&[Exhibit::of(
            scenario!("05-past-the-table"),
            Found::of(Rule::NotPresent).region(2).at(0x80_0000_0000).faults(0x0).level(Level::Pml4e),
            Twin::LAYOUT,
        )
        .code(&mappers::PAST_THE_PUD_TABLE)
        .besides(&[Rule::StrayMapping, Rule::StrayWrite])]),
    },
    Bug {
        number: 6,
        name: "truncated-length",
        title: "the length of a range in 32 bits",
        code: "Linux",
        source: "commit 742563777e8d, met on a Dell with a region of 1,236,992 pages; the count is 32 bits still (patch 4 of the series of bug 3, not merged)",
        wrong: "The number of pages was shifted left by 12 as a 32-bit value, so of 4832 MiB only 736 MiB were mapped. The caller asked again for the rest, which came out as 0 bytes, and so for ever.",
        looks: "an endless loop in boot; #PF 0x0 in the part that is missing, where the caller does not repeat",
        mends: "shifting in 64 bits",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("06-length-in-32-bits"),
                Found::of(Rule::NotPresent).region(2).at(0xffff_fffe_0000_0000).faults(0x0).level(Level::Pdpte),
                Twin::LAYOUT,
            )
            .code(&mappers::LENGTH_IN_32_BITS),
            Exhibit::of(scenario!("06-never-done"), Found::of(Rule::Watchdog), Twin::LAYOUT)
                .code(&mappers::PAGES_SHIFTED_IN_32_BITS)
                .patience_ms(2000)
                .guest_only("it never ends, and the walker runs it in its own process"),
        ]),
    },
    Bug {
        number: 7,
        name: "address-for-page-number",
        title: "an address where a page number belongs",
        code: "Linux",
        source: "commit edc3b9129cec",
        wrong: "One field was taken for a page frame number in some functions and for an address in others. It went unnoticed as long as firmware was mapped before, in the tables that were then shared.",
        looks: "no fault: wrong frame",
        mends: "one meaning for the field",
        shown: Shown::By(&[Exhibit::of(
            scenario!("07-address-for-page-number"),
            Found::of(Rule::WrongFrame)
                .region(0)
                .at(0xffff_fffe_fffe_b000)
                .frames(0x8_b000, 0x8b00_0000)
                .level(Level::Pte),
            Twin::LAYOUT,
        )
        .code(&mappers::ADDRESS_FOR_PAGE_NUMBER)]),
    },
    Bug {
        number: 8,
        name: "stale-page-number",
        title: "after a page that was mapped already, the page before it again",
        code: "Linux",
        source: "found by reading set_memory.c (02eac06b820c) and confirmed with a model; not reported as far as known",
        wrong: "Where a page is mapped already, its page number is read from the tables and kept. The next page, which is not mapped yet, gets that number, and each one after it is off by one too.",
        looks: "no fault: wrong frame, a page below the right one (with large leaves: the same leaf twice)",
        mends: "the page number computed from the start of the range",
        shown: Shown::By(&[Exhibit::of(
            scenario!("08-stale-page-number"),
            Found::of(Rule::WrongFrame).region(1).at(0xffff_fffe_fff6_7000).frames(0x7000, 0x6000).level(Level::Pte),
            Twin::LAYOUT.leaves(&[Rule::MapOverlap]),
        )
        .code(&mappers::STALE_PAGE_NUMBER)
        .besides(&[Rule::MapOverlap])]),
    },
    Bug {
        number: 9,
        name: "data-for-a-table",
        title: "the page of a large leaf taken for a page table",
        code: "Linux",
        source: "found by reading set_memory.c (02eac06b820c) and confirmed with a model; not reported as far as known",
        wrong: "Where a range begins or ends within 2 MiB, its PTEs go into the page table of those. That the entry there may be a leaf is not asked. Then the PTEs are stored in the memory that the leaf maps: firmware's.",
        looks: "no fault in Linux: firmware's data is overwritten",
        mends: "splitting the leaf first",
        shown: Shown::By(&[Exhibit::of(
            scenario!("09-data-for-a-table"),
            Found::of(Rule::StrayAccess),
            Twin::LAYOUT.leaves(&[Rule::MapOverlap]),
        )
        .code(&mappers::DATA_FOR_A_TABLE)
        .besides(&[Rule::MapOverlap])
        .guest_only("it writes to memory that is not its own, and the walker runs it in its own process")]),
    },
    Bug {
        number: 10,
        name: "no-pages",
        title: "a descriptor without pages, or one that wraps",
        code: "Linux",
        source: "commit 0100a3e67a9c, met on a ThinkPad W541",
        wrong: "Descriptors with no pages, or with so many that the end wraps around, were taken as they are. The last byte of none, at address 0, is the last one of all. The machine did not boot.",
        looks: "no fault: a range 0x0-0xffffffffffffffff in the log, and no boot",
        mends: "dropping such descriptors before the map is used",
        shown: Shown::By(&[Exhibit::of(scenario!("10-no-pages"), Found::of(Rule::MapperError), Twin::LAYOUT)
            .code(&mappers::LAST_BYTE_WRAPS)]),
    },
    Bug {
        number: 11,
        name: "size-before-set",
        title: "a cleaned map of size 0",
        code: "Linux",
        source: "commit 59365cadfbcd",
        wrong: "The size of the map without invalid descriptors was computed from a descriptor size that was not set yet. So a map of size 0 was installed as soon as there was something to clean.",
        looks: "no fault: nothing is mapped",
        mends: "setting the size before it is used",
        shown: Shown::By(&[Exhibit::of(
            scenario!("11-size-before-set"),
            Found::of(Rule::NotMapped).region(1),
            Twin::LAYOUT,
        )
        .code(&mappers::SIZE_BEFORE_SET)
        .besides(&[Rule::CallStatus])]),
    },
    Bug {
        number: 12,
        name: "map-insert",
        title: "entries of less than a page inserted into the map",
        code: "Linux",
        source: "\"efi_fake_mem\" fix, 157835764298; commit 92dc33501bfb",
        wrong: "Splitting the memory map at a range of less than a page, or of none, wrote past the array that had been allocated for it. A table of 56 bytes was rounded to 0 pages.",
        looks: "#PF in efi_memmap_insert",
        mends: "rounding outwards, and counting the entries that are needed",
        shown: Shown::ToldOnly(
            "it happens while Linux rewrites its copy of the map, before anything is mapped; mapping code here is given a finished map",
        ),
    },
    Bug {
        number: 13,
        name: "list-forwards",
        title: "code and data of one image in the inverse order",
        code: "Linux",
        source: "commit a5caa209ba9c; on arm64 20191203120917",
        wrong: "Since UEFI 2.5 an image may be several descriptors, one after another. Addresses that go down were given to the list from its start. Relative references from code to data then led to other places.",
        looks: "#PF 0x0 or 0x10 between regions (at 0xfffffffefe6086dd in a report)",
        mends: "the list walked backwards, so that addresses rise with it",
        shown: Shown::By(&[Exhibit::of(scenario!("13-list-forwards"), Found::of(Rule::WindowOrder), Twin::LAYOUT)
            .code(&mappers::LIST_FORWARDS)
            .besides(&[Rule::WrongAddress, Rule::NotContiguous])
            .terms(&["rising=on"])]),
    },
    Bug {
        number: 14,
        name: "seam",
        title: "neighbours in physical memory mapped apart",
        code: "Linux on Apple machines, 2011",
        source: "efi_merge_regions; commit 202f9d0a41",
        wrong: "Firmware keeps an object across two adjacent regions. It is in one piece in physical memory, and was in two at virtual addresses.",
        looks: "#PF 0x0 right behind a region, or no fault and another region's data",
        mends: "merging adjacent regions that are alike, or the same distances at virtual addresses",
        shown: Shown::By(&[Exhibit::of(
            scenario!("14-seam"),
            Found::of(Rule::FirmwareFault).in_phase(Phase::Finish).at(0xffff_ffff_0000_0000).faults(0x0),
            Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
        )
        .guest_only(CALLS)]),
    },
];
