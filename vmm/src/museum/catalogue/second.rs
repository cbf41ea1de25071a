//! Bugs 15 to 28.

use super::{CALLS, FIRMWARES, scenario};
use crate::check::{Phase, Rule};
use crate::mmu::Level;
use crate::museum::bug::{Bug, Exhibit, Found, Shown, Twin};
use crate::museum::mappers;
use crate::{KernelOptions, Layout};

/// By number.
pub const BUGS: &[Bug] = &[
    Bug {
        number: 15,
        name: "boot-services-used",
        title: "boot-services memory used after it was given away",
        code: "firmware of many machines",
        source: "commit 916f676f8dc0",
        wrong: "After ExitBootServices, memory of boot services belongs to the kernel. Firmware reads, writes or executes it all the while, in SetVirtualAddressMap and sometimes later.",
        looks: "#PF 0x0, 0x2 or 0x10 in a region of boot services",
        mends: "keeping boot services, mapped 1:1 and at their virtual addresses, until SetVirtualAddressMap has returned; for good with efi=debug",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("15-boot-services-in-the-switch"),
                Found::of(Rule::FirmwareFault).at(0x40_0000).faults(0x0),
                Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
            )
            .guest_only(CALLS)
            .not_about_mapping_code(FIRMWARES),
            Exhibit::of(
                scenario!("15-boot-services-after-the-switch"),
                Found::of(Rule::FirmwareFault).in_phase(Phase::Finish).at(0x40_0000).faults(0x0),
                Twin::new("phase finish left out, as with efi=debug", |scenario| {
                    scenario.kernel(KernelOptions::default().finish(false))
                }),
            )
            .guest_only(CALLS)
            .not_about_mapping_code(FIRMWARES),
        ]),
    },
    Bug {
        number: 16,
        name: "late-free",
        title: "memory of boot services lost, or its list too short",
        code: "Linux",
        source: "commits a4b0bf6a40f3 and 217c0a5c177a, March 2026",
        wrong: "Memory of boot services was freed before the page allocator could take all of it, and 140 MB were lost. The list of ranges that was kept for later then had one entry too few.",
        looks: "no fault: memory is missing; or an overrun",
        mends: "freeing late, from a list that is long enough",
        shown: Shown::ToldOnly("it is about the kernel's page allocator, which this bed does not have"),
    },
    Bug {
        number: 17,
        name: "page-zero",
        title: "page 0 written in SetVirtualAddressMap",
        code: "firmware with code of a BIOS",
        source: "efi_setup_page_tables in Linux and efirt_machdep.c in FreeBSD say so; commit bf29bddf0417",
        wrong: "Some firmware writes to the BIOS data area, in page 0, when it is switched to virtual addresses.",
        looks: "#PF 0x2 below 0x1000",
        mends: "page 0 mapped 1:1",
        shown: Shown::By(&[Exhibit::of(
            scenario!("17-page-zero"),
            Found::of(Rule::FirmwareFault).at(0x400).faults(0x2),
            Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
        )
        .guest_only(CALLS)
        .not_about_mapping_code(FIRMWARES)]),
    },
    Bug {
        number: 18,
        name: "physical-after-switch",
        title: "physical addresses used after the switch",
        code: "firmware of many machines",
        source: "commit 0021e71cfb96 and A. Biesheuvel's list, November 2025",
        wrong: "Firmware keeps pointers that it does not convert, and uses them later. With LASS the CPU turns any access to the lower half in ring 0 into #GP.",
        looks: "#PF 0x0 or 0x10 at a physical address; #GP with LASS",
        mends: "the 1:1 aliases kept after the switch, and LASS off during the call",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("18-physical-pointer"),
                Found::of(Rule::FirmwareFault).in_phase(Phase::Finish).at(0x7e40_0000).faults(0x0),
                Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
            )
            .guest_only(CALLS)
            .not_about_mapping_code(FIRMWARES),
            Exhibit::of(
                scenario!("18-physical-jump"),
                Found::of(Rule::FirmwareFault).in_phase(Phase::Finish).at(0x7e00_000a).faults(0x10),
                Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
            )
            .guest_only(CALLS)
            .not_about_mapping_code(FIRMWARES),
        ]),
    },
    Bug {
        number: 19,
        name: "early-pointer",
        title: "new addresses used before the switch is over",
        code: "firmware of a Surface (arm64)",
        source: "20230117142718",
        wrong: "In SetVirtualAddressMap firmware converts a pointer and follows it at once. The kernel has not loaded the new addresses yet.",
        looks: "#PF 0x0 at a virtual address, in SetVirtualAddressMap",
        mends: "both kinds of addresses mapped on the tables that the call runs on",
        shown: Shown::By(&[Exhibit::of(
            scenario!("19-early-pointer"),
            Found::of(Rule::FirmwareFault).at(0xffff_fffe_fffe_0000).faults(0x0),
            Twin::new("layout linux", |scenario| scenario.layout(Layout::Linux)),
        )
        .guest_only(CALLS)
        .not_about_mapping_code(FIRMWARES)]),
    },
    Bug {
        number: 20,
        name: "kexec",
        title: "a second kernel with addresses of its own",
        code: "Linux",
        source: "the thread on a T480, October and November 2022; commits af1648984828 and 753b11ef8e92",
        wrong: "SetVirtualAddressMap works once, and firmware keeps the first kernel's addresses. A second kernel that is not told them computes its own, from another map.",
        looks: "EFI is disabled, or #PF at the first kernel's addresses",
        mends: "handing the addresses over (/sys/firmware/efi/runtime-map), or a formula that gives the same ones",
        shown: Shown::By(&[Exhibit::of(
            scenario!("20-kexec"),
            Found::of(Rule::KexecMoved).region(0).at(0xffff_fffe_fffa_0000),
            Twin::new("layout linux-fixed, to which the first kernel's addresses are handed over", |scenario| {
                scenario.layout(Layout::LinuxFixed)
            }),
        )
        .second(scenario!("20-kexec-second").1)]),
    },
    Bug {
        number: 21,
        name: "garbage-table",
        title: "a Memory Attributes Table that is garbage",
        code: "Linux",
        source: "20241031175822 (SUSE bug 1231465); 64b45dd46e15 for a stale one after kexec",
        wrong: "The size of the table was taken from its header and believed. One that was garbage had gigabytes reserved for it. After kexec it may describe what is no longer so.",
        looks: "no fault: memory is missing; or #PF 0x3 and 0x11 where firmware is denied what it needs",
        mends: "ignoring a table of more than three entries for each descriptor; ignoring it after kexec",
        shown: Shown::By(&[Exhibit::of(
            scenario!("21-garbage-table"),
            Found::of(Rule::NotWritable)
                .in_phase(Phase::Finish)
                .region(1)
                .at(0xffff_fffe_ffe0_0000)
                .faults(0x3)
                .level(Level::Pte),
            Twin::LAYOUT,
        )
        .code(&mappers::GARBAGE_BELIEVED)
        .besides(&[Rule::CallFault])]),
    },
    Bug {
        number: 22,
        name: "read-only-argument",
        title: "output arguments in memory that is read-only to firmware",
        code: "Linux, mixed mode",
        source: "commit f6103162008d",
        wrong: "The kernel made its read-only data read-only in firmware's tables, with leaves of 2 MiB. A stack that firmware was to write its results to lay in one of them.",
        looks: "#PF 0x3 (at 0x386aae88, through PDE 0x386000e1)",
        mends: "arguments in memory that is mapped writable on the tables of the call",
        shown: Shown::By(&[Exhibit::of(
            scenario!("22-read-only-argument"),
            Found::of(Rule::KernelOverlap),
            Twin::LAYOUT,
        )
        .code(&mappers::ARGUMENTS_READ_ONLY)]),
    },
    Bug {
        number: 23,
        name: "executable-data",
        title: "data left executable, or code left writable",
        code: "Linux",
        source: "commit c8502eb2d43b; September 2022 for 32 bits",
        wrong: "The kernel's read-only data stayed executable in firmware's tables. Elsewhere pages were both writable and executable, which later kernels refuse.",
        looks: "no fault: only a fetch that must fault, and does not, shows it",
        mends: "NX on all that is no code, and the Memory Attributes Table applied",
        shown: Shown::By(&[
            Exhibit::of(
                scenario!("23-executable-data"),
                Found::of(Rule::ExecutableData).region(1).at(0xffff_fffe_ffe0_0000),
                Twin::LAYOUT,
            )
            .code(&mappers::NO_EXECUTE_FORGOTTEN)
            .terms(&["executable-data=forbidden"]),
            Exhibit::of(
                scenario!("23-table-not-applied"),
                Found::of(Rule::NotReadOnly).in_phase(Phase::Finish).region(0).at(0xffff_fffe_ffc0_0000),
                Twin::LAYOUT,
            )
            .code(&mappers::ATTRIBUTES_FORGOTTEN),
        ]),
    },
    Bug {
        number: 24,
        name: "nx-above",
        title: "NX in an entry above the leaves",
        code: "Linux",
        source: "commit de53c3786a3c",
        wrong: "Page-table isolation set NX in the top entries of the lower half, so that the kernel could not run user code by mistake. Firmware is called there, 1:1.",
        looks: "#PF 0x11 at firmware's physical address",
        mends: "no NX in entries that firmware's code is below",
        shown: Shown::By(&[Exhibit::of(
            scenario!("24-nx-above"),
            Found::of(Rule::NotExecutable).region(0).at(0x7e00_0000).faults(0x11),
            Twin::LAYOUT,
        )
        .code(&mappers::NO_EXECUTE_ABOVE)
        .besides(&[Rule::CallFault])]),
    },
    Bug {
        number: 25,
        name: "five-levels",
        title: "a level forgotten where there are five",
        code: "Linux",
        source: "commits e981316f5604 and 816ef8d7a2c4",
        wrong: "Firmware's tables share the kernel's entries at the top. With five levels there is one more to share, in part.",
        looks: "#PF 0x0 at the kernel's stack, which is most often a double fault",
        mends: "the entries of the level below the top copied, too",
        shown: Shown::By(&[Exhibit::of(scenario!("25-five-levels"), Found::of(Rule::KernelOverlap), Twin::LAYOUT)
            .code(&mappers::FIFTH_LEVEL_FORGOTTEN)
            .besides(&[Rule::NotPresent])]),
    },
    Bug {
        number: 26,
        name: "encryption-bit",
        title: "the encryption bit where it does not belong",
        code: "Linux with SEV",
        source: "commits 39336f4ffb24 and a7549636f67f",
        wrong: "In an encrypted guest most pages are mapped with the C-bit, and some must not be: those shared with the host, and MMIO. Several of the 1:1 aliases had it wrong.",
        looks: "no fault: what is read is ciphertext",
        mends: "the C-bit by the kind of page",
        shown: Shown::ToldOnly(
            "it needs SEV: without it the C-bit is an address bit or a reserved one, and nothing is encrypted",
        ),
    },
    Bug {
        number: 27,
        name: "past-argument",
        title: "firmware reads past the buffer it was given",
        code: "firmware of Macs with a T2",
        source: "8 February 2022",
        wrong: "Firmware copies an argument in pieces of 16 bytes, and the last one reaches past its end. Where it ended with a page, and nothing was mapped behind it, that was a fault.",
        looks: "#PF 0x0 at the start of the page behind the argument (0xffffa79840068000, by SSE code at 0xfffffffeefc440c5)",
        mends: "a mapped page behind each argument",
        shown: Shown::By(&[Exhibit::of(
            scenario!("27-past-argument"),
            Found::of(Rule::FirmwareFault).in_phase(Phase::Finish).faults(0x0),
            Twin::new("something mapped behind the argument", |scenario| {
                scenario.kernel(KernelOptions::default().guard_page(false))
            }),
        )
        .guest_only(CALLS)
        .not_about_mapping_code(FIRMWARES)]),
    },
    Bug {
        number: 28,
        name: "wrong-thread",
        title: "a fault of another thread blamed on firmware",
        code: "Linux",
        source: "commits c46f52231e79 and 3425d934fc03",
        wrong: "Page faults during a runtime call were taken for firmware's, no matter who met them. An interrupt or another thread that faulted meanwhile was ended in firmware's place.",
        looks: "any fault, and \"EFI runtime services disabled\"",
        mends: "asking which thread faulted, and whether it was in an interrupt",
        shown: Shown::ToldOnly(
            "it is in the kernel's own fault handler, with several threads; this bed's guest has one CPU and a handler of its own",
        ),
    },
];
