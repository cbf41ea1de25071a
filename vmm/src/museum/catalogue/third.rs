//! Bugs 29 to 43.

use super::{CALLS, FIRMWARES, scenario};
use crate::check::{Phase, Rule};
use crate::memory_map::{MemoryDescriptor, MemoryMap, PAGE_BYTES};
use crate::mmu::Level;
use crate::museum::bug::{Bug, Checked, Exhibit, Found, Shown, Twin};
use crate::museum::mappers;
use crate::{CpuidRequest, FirmwareOptions, KernelOptions, Layout, Scenario};

/// By number.
pub const BUGS: &[Bug] = &[
    Bug {
        number: 29,
        name: "torn-argument",
        title: "an argument across two pages that are not neighbours",
        code: "Linux, mixed mode",
        source: "commit 8319e9d5ad98",
        wrong: "Firmware of 32 bits gets the physical address of each argument. An argument on a stack that is contiguous at virtual addresses alone may be in two pieces there.",
        looks: "no fault: what is behind the first page is corrupted",
        mends: "arguments that do not cross a page, or copies of them",
        shown: Shown::ToldOnly(
            "it needs firmware of 32 bits, which this bed does not have; its guest hands out virtual addresses",
        ),
    },
    Bug {
        number: 30,
        name: "indirect-branches",
        title: "SetVirtualAddressMap called with IBT on",
        code: "Linux",
        source: "commit 0303c9729afc",
        wrong: "Firmware has no ENDBR at its entries, so calls are made with indirect-branch tracking off. The one call of SetVirtualAddressMap went past the wrapper that does that.",
        looks: "#CP, and no boot",
        mends: "the same wrapper around every call",
        shown: Shown::ToldOnly("it needs control-flow enforcement (CET), which this bed's guest does not switch on"),
    },
    Bug {
        number: 31,
        name: "zero-is-unmapped",
        title: "virtual address 0 taken for `not mapped`",
        code: "Linux on arm64",
        source: "commit 37926f96302d",
        wrong: "A region whose virtual address is 0 was skipped, as one that has none. With a flat map a region at physical address 0 has it.",
        looks: "#PF 0x0 in the first pages",
        mends: "asking for the attribute, not for the address",
        shown: Shown::By(&[Exhibit::of(
            scenario!("31-zero-is-unmapped"),
            Found::of(Rule::NotPresent).region(0).at(0x0).faults(0x0).level(Level::Pte),
            Twin::LAYOUT,
        )
        .code(&mappers::ZERO_IS_UNMAPPED)]),
    },
    Bug {
        number: 32,
        name: "larger-pages",
        title: "regions that are not aligned to the kernel's page",
        code: "Linux on arm64",
        source: "20221106145354",
        wrong: "With pages of 16 or 64 KiB, two regions can share one page and want different rights. Regions were rounded apart.",
        looks: "an abort, or rights that are too wide",
        mends: "rounding both ends, and refusing to share where rights differ",
        shown: Shown::ToldOnly("x86-64 has no pages of 16 or 64 KiB, and neither has this bed"),
    },
    Bug {
        number: 33,
        name: "no-cache-type",
        title: "a RUNTIME region without a cache type left unmapped",
        code: "Xen",
        source: "threads on a Dell IoT Gateway 3001, 2019 and 2020",
        wrong: "A descriptor need not name any cache type, and firmware of several makers names none for its flash. Xen printed a warning and did not map it. Older versions also cleared all flags but R/W where R/W alone was meant.",
        looks: "#PF 0x0 (at 0xff920020)",
        mends: "such a region mapped uncached",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("33-no-cache-type"),
                Found::of(Rule::NotPresent).region(2).at(0xffff_fffe_ff90_0000).faults(0x0).level(Level::Pte),
                Twin::LAYOUT,
            )
            .code(&mappers::NO_CACHEABILITY_LEFT_OUT),
            Exhibit::of(
                scenario!("33-all-but-writable"),
                Found::of(Rule::NotPresent).region(2).at(0xffff_fffe_ffff_0000).faults(0x0).level(Level::Pte),
                Twin::LAYOUT,
            )
            .code(&mappers::ALL_BUT_WRITABLE_CLEARED),
        ]),
    },
    Bug {
        number: 34,
        name: "compressed-holes",
        title: "MMIO in holes of compressed page numbers left unmapped",
        code: "Xen",
        source: "commit a350f3f43bcf",
        wrong: "Xen leaves bits out of page numbers that no memory has. A device may have them. Its pages were taken for pages that do not exist.",
        looks: "#PF 0x0 in the device's region",
        mends: "mapping by address, and not by compressed number",
        shown: Shown::By(&[Exhibit::of(
            scenario!("34-compressed-holes"),
            Found::of(Rule::NotPresent).region(3).at(0xffff_fffe_ff90_0000).faults(0x0).level(Level::Pte),
            Twin::LAYOUT,
        )
        .code(&mappers::HOLES_LEFT_OUT)]),
    },
    Bug {
        number: 35,
        name: "jump-in-the-switch",
        title: "firmware jumps to where it will be",
        code: "firmware of ThinkPad X220 and Yoga 11e, under FreeBSD's loader",
        source: "D14677",
        wrong: "Called to switch to virtual addresses, firmware goes on at the new ones at once. The loader had not mapped them. FreeBSD has kept to 1:1 since.",
        looks: "#PF 0x10 at the new address, in SetVirtualAddressMap",
        mends: "1:1 addresses, or both kinds mapped during the call",
        shown: Shown::By(&[Exhibit::of(
            scenario!("35-jump-in-the-switch"),
            Found::of(Rule::FirmwareFault).at(0xffff_fffe_ffbe_000a).faults(0x10),
            Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
        )
        .guest_only(CALLS)
        .not_about_mapping_code(FIRMWARES)]),
    },
    Bug {
        number: 36,
        name: "unaligned-start",
        title: "a region that begins within a page",
        code: "firmware: U-Boot on arm64",
        source: "the map of an NXP LX2160A, 0x1e88180",
        wrong: "UEFI has regions begin at a page. A kernel that maps from the page below, and tells firmware the unaligned start, maps the last bytes nowhere.",
        looks: "#PF 0x0 in the last bytes of the region",
        mends: "a start that is a multiple of 4 KiB",
        shown: Shown::By(&[Exhibit::of(
            scenario!("36-unaligned"),
            Found::of(Rule::NotPresent).region(0).at(0xffff_fffe_ffe8_9000).faults(0x0).level(Level::Pte),
            Twin::new("the region begins at its page, as UEFI has it", aligned),
        )
        .besides(&[Rule::MapUnaligned])
        .not_about_mapping_code("firmware's map is wrong: UEFI has regions begin at a page")]),
    },
    Bug {
        number: 37,
        name: "descriptor-size",
        title: "sizeof for DescriptorSize",
        code: "Limine, rust-hypervisor-firmware",
        source: "Limine issue 356; rust-hypervisor-firmware issue 108",
        wrong: "Descriptors are further apart than the structure is long: 48 bytes with EDK II, not 40. A loop with sizeof reads the middle of one for the start of another. Firmware that did not fill the size in made a kernel divide by 0.",
        looks: "addresses such as 0x06a9f00000000000, and any fault after that",
        mends: "the DescriptorSize that GetMemoryMap returns",
        shown: Shown::By(&[Exhibit::of(
            scenario!("37-descriptor-size"),
            Found::of(Rule::DescriptorSize),
            Twin::new("the kernel uses firmware's DescriptorSize", |scenario| {
                scenario.kernel(KernelOptions::default())
            }),
        )
        .not_about_mapping_code("the kernel around the mapping code reads the map")]),
    },
    Bug {
        number: 38,
        name: "descriptor-version",
        title: "DescriptorVersion 0",
        code: "firmware: U-Boot",
        source: "commit 4c02c11de893",
        wrong: "Firmware reported version 0 with its map. Handed back to firmware that asks for 1, it is refused.",
        looks: "no fault: SetVirtualAddressMap answers EFI_INVALID_PARAMETER",
        mends: "reporting 1",
        shown: Shown::By(&[Exhibit::of(
            scenario!("38-descriptor-version"),
            Found::of(Rule::FirmwareError),
            Twin::new("firmware reports 1", |scenario| scenario.firmware(FirmwareOptions::default())),
        )
        .guest_only(CALLS)
        .not_about_mapping_code(FIRMWARES)]),
    },
    Bug {
        number: 39,
        name: "window-overflow",
        title: "the window is full, and nobody stops",
        code: "Linux",
        source: "June 2025, 20250608171220.4528; not in the revision that was read",
        wrong: "EFI has a window of 64 GiB. When it is full Linux prints a warning and goes on, without addresses for the regions that are left. What was in VirtualStart before is handed to firmware.",
        looks: "a warning, and then any fault",
        mends: "giving up, or more room",
        shown: Shown::By(&[Exhibit::of(
            scenario!("39-window-overflow"),
            Found::of(Rule::WindowOverflow).region(0),
            Twin::new("a linear mapping with more room", |scenario| mappers::WITH_ROOM.put_into(scenario)),
        )
        .besides(&[Rule::CallStatus])]),
    },
    Bug {
        number: 40,
        name: "past-maxphyaddr",
        title: "RUNTIME MMIO past the CPU's physical addresses",
        code: "firmware of many boards",
        source: "maps with regions at 1 TiB, 16 TiB and 64 TiB",
        wrong: "Firmware reports MMIO at an address that the CPU, or the virtual CPU, does not have. An entry for it has reserved bits.",
        looks: "#PF 0x9 or 0xb; under EPT only with allow_smaller_maxphyaddr",
        mends: "a CPU with enough bits; or leaving the region out",
        shown: Shown::By(&[Exhibit::of(
            scenario!("40-past-maxphyaddr"),
            Found::of(Rule::ReservedBit).region(2).at(0xffff_fffe_ffe0_0000).faults(0x9).level(Level::Pde),
            Twin::new("a CPU with the bits that this machine has", |scenario| scenario.cpu(CpuidRequest::default())),
        )
        .besides(&[Rule::PastMaxphyaddr])
        .where_checked(Checked {
            what: "the width of a physical address that CPUID gives",
            is_by: |paging| paging.maxphyaddr <= 40,
        })
        .not_about_mapping_code("no mapping can reach what the CPU cannot address")]),
    },
    Bug {
        number: 41,
        name: "table-denies-code",
        title: "a Memory Attributes Table that denies firmware's code",
        code: "firmware: EDK II, mu_basecore, OpenCore",
        source: "EDK II issue 9906 (BZ 2643), mu_basecore issue 822, OpenCore issue 491",
        wrong: "The table had entries for code with XP, or late images that were in no entry and stayed writable and executable. A kernel that believes it takes away what firmware needs.",
        looks: "#PF 0x11 in the first call after the switch",
        mends: "a right table; or a kernel that does not apply it",
        shown: Shown::By(&[Exhibit::of(
            scenario!("41-code-not-executable"),
            Found::of(Rule::AttributesTable).in_phase(Phase::Finish).at(0xffff_fffe_ffc0_0000).faults(0x11),
            Twin::new("layout window, which does not apply the table", |scenario| scenario.layout(Layout::Window)),
        )
        .not_about_mapping_code(FIRMWARES)]),
    },
    Bug {
        number: 42,
        name: "shared-pud",
        title: "the 1:1 map meets another owner of its tables",
        code: "Linux on SGI UV",
        source: "commit a5d90c923bcf",
        wrong: "Firmware's 1:1 map was made in tables that the kernel shared. When the kernel later filled the same entries for its own direct map, it found them taken, and stopped.",
        looks: "BUG in init_64.c",
        mends: "tables of its own for firmware",
        shown: Shown::ToldOnly(
            "it is the kernel's own later mapping that fails; mapping code here has a root of its own, and the kernel maps nothing after it",
        ),
    },
    Bug {
        number: 43,
        name: "overlap",
        title: "runtime regions on top of the descriptor they were cut from",
        code: "CrabEFI",
        source: "pull request 67",
        wrong: "The loader made descriptors for its runtime regions and left the one that they were cut out of whole. A kernel that maps both has two mappings of the same pages.",
        looks: "no fault: what is mapped there depends on the order of the list",
        mends: "splitting the descriptor",
        shown: Shown::By(&[Exhibit::of(
            scenario!("43-overlap"),
            Found::of(Rule::MapOverlap).in_phase(Phase::Input).region(1),
            Twin::new("the descriptor is split", split),
        )
        .not_about_mapping_code(FIRMWARES)]),
    },
];

/// The same map with each region from its page on.
fn aligned(scenario: Scenario) -> Scenario {
    let page = |it: &MemoryDescriptor| MemoryDescriptor { phys_start: it.phys_start & !(PAGE_BYTES - 1), ..*it };
    with_descriptors(scenario, page)
}

/// The same map, with the first descriptor ending where the second one begins.
fn split(scenario: Scenario) -> Scenario {
    let second = scenario.map().descriptors().get(1).map_or(0, |it| it.phys_start);
    with_descriptors(scenario, |it| {
        let pages = second.saturating_sub(it.phys_start) / PAGE_BYTES;
        let is_first = (1..it.page_count).contains(&pages);
        MemoryDescriptor { page_count: if is_first { pages } else { it.page_count }, ..*it }
    })
}

fn with_descriptors(scenario: Scenario, change: impl Fn(&MemoryDescriptor) -> MemoryDescriptor) -> Scenario {
    let descriptors = scenario.map().descriptors().iter().map(change).collect();
    let map = MemoryMap::from_descriptors("mended", descriptors);
    scenario.with_map(map)
}
