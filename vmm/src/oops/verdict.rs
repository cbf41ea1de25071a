//! Who is to blame, by the contract between firmware and a kernel: a table of patterns, each with its reason.
//!
//! The first row that holds decides. A row asks only for what the log tells; what it does not tell, no row assumes.

use super::fault::{Fault, Missing, Printer};
use super::place::{Area, Place, Source};
use super::scene::{Moment, Scene};
use crate::memory_map::{MemoryAttribute, MemoryType};
use crate::mmu::{Kind, Level, bits};

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The kernel: it mapped wrongly, or called wrongly.
    Kernel,
    /// Firmware: it did what the contract forbids.
    Firmware,
    /// Firmware's Memory Attributes Table: it denies what firmware needs.
    AttributesTable,
    /// The log leaves it open.
    Open,
    /// It is no fault of EFI's, as far as the log tells.
    NotEfi,
}

impl Blame {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Kernel => "the kernel",
            Self::Firmware => "firmware",
            Self::AttributesTable => "firmware's Memory Attributes Table",
            Self::Open => "open: the log does not decide it",
            Self::NotEfi => "not an EFI fault",
        }
    }

    /// A name that stays the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Firmware => "firmware",
            Self::AttributesTable => "attributes-table",
            Self::Open => "open",
            Self::NotEfi => "not-efi",
        }
    }
}

/// All that a row may ask about.
pub struct Case<'a> {
    /// The fault.
    pub fault: &'a Fault,
    /// Where its address is.
    pub at: Option<Place>,
    /// What was going on.
    pub scene: &'a Scene,
    /// There is a map, and it is the whole of firmware's: what no region of it holds is in none.
    pub has_whole_map: bool,
}

/// A pattern of faults, and what is known of it.
pub struct Pattern {
    /// A name that stays the same.
    pub name: &'static str,
    holds: fn(&Case<'_>) -> bool,
    /// Who is to blame.
    pub blame: Blame,
    /// Why.
    pub why: &'static str,
    /// The number of this pattern among the known bugs, if it is one of them.
    pub museum: Option<u8>,
    /// What would survive it.
    pub survives: &'static str,
    /// Why no mapping code of this bed brings it about, where none does: the layouts map what is owed.
    pub no_replay: Option<&'static str>,
}

/// The pattern of a case.
pub fn pattern(case: &Case<'_>) -> &'static Pattern {
    PATTERNS.iter().find(|pattern| (pattern.holds)(case)).unwrap_or(&UNDECIDED)
}

const UNDECIDED: Pattern = Pattern {
    name: "undecided",
    holds: |_| true,
    blame: Blame::Open,
    why: "nothing that the log tells fits a known pattern",
    museum: None,
    survives: "unknown",
    no_replay: None,
};

const NO_LAYOUT: &str =
    "no mapping code of this bed makes that mistake, so the access would go through: the layouts map what is owed";

/// The rows, in the order in which they are tried.
pub const PATTERNS: &[Pattern] = &[
    // Nothing of EFI in it: no row below has anything to say.
    Pattern {
        name: "not-efi",
        holds: |case| case.scene.evidence.is_none(),
        blame: Blame::NotEfi,
        why: "neither the address nor the instruction nor the call trace has to do with firmware",
        museum: None,
        survives: "nothing that maps firmware's memory: the cause is elsewhere",
        no_replay: None,
    },
    // Mapping code chooses the size of a leaf; bits 20:13 of one of 2 MiB come of a frame that is not aligned to it.
    Pattern {
        name: "misaligned-large-leaf",
        holds: |case| {
            let large = |entry: super::fault::Entry| entry.level == Level::Pde && entry.value & bits::RESERVED_2M != 0;
            case.lacks(Missing::SoundEntry) && case.fault.leaf().is_some_and(large)
        },
        blame: Blame::Kernel,
        why: "a 2 MiB leaf has address bits 20:13 set, which are reserved: its size was chosen by the virtual address alone",
        museum: Some(1),
        survives: "a large leaf only where virtual and physical address are both aligned to it (`--leaf-rule co-aligned`)",
        no_replay: None,
    },
    Pattern {
        name: "misaligned-huge-leaf",
        holds: |case| {
            let huge = |entry: super::fault::Entry| entry.level == Level::Pdpte && entry.value & bits::RESERVED_1G != 0;
            case.lacks(Missing::SoundEntry) && case.fault.leaf().is_some_and(huge)
        },
        blame: Blame::Kernel,
        why: "a 1 GiB leaf has address bits 29:13 set, which are reserved",
        museum: Some(4),
        survives: "a large leaf only where virtual and physical address are both aligned to it (`--leaf-rule co-aligned`)",
        no_replay: None,
    },
    // No bit is reserved on the widest CPU: it is the width of this one, or NXE, or no 1 GiB pages.
    Pattern {
        name: "reserved-bit",
        holds: |case| case.lacks(Missing::SoundEntry),
        blame: Blame::Kernel,
        why: "an entry has a bit set that this CPU reserves: an address past its MAXPHYADDR, PS of a 1 GiB page that it does \
              not have, or XD without EFER.NXE",
        museum: None,
        survives: "tables without such bits; a region past MAXPHYADDR cannot be mapped at all",
        no_replay: None,
    },
    // Firmware's own handler: no kernel's tables are loaded yet, so nothing that a kernel maps is at fault.
    Pattern {
        name: "boot-time-execute",
        holds: |case| case.scene.moment == Moment::BootServices && case.lacks(Missing::Execute),
        blame: Blame::Open,
        why: "before ExitBootServices memory was executed that is protected against it: by a program that is not NX-compatible, \
              or by firmware that protects too much",
        museum: None,
        survives: "the Memory Attribute Protocol, by which a loader makes its code executable (UEFI 2.10, 37.7)",
        no_replay: None,
    },
    Pattern {
        name: "boot-time-write",
        holds: |case| case.scene.moment == Moment::BootServices && case.lacks(Missing::Write),
        blame: Blame::Open,
        why: "before ExitBootServices read-only memory was written to, by firmware or by a program that it started",
        museum: None,
        survives: "no kernel's mapping: firmware's own tables are loaded",
        no_replay: None,
    },
    Pattern {
        name: "boot-time",
        holds: |case| case.scene.moment == Moment::BootServices,
        blame: Blame::Open,
        why: "before ExitBootServices an address was accessed that firmware's own tables do not map, by firmware or by a program \
              that it started",
        museum: None,
        survives: "no kernel's mapping: firmware's own tables are loaded",
        no_replay: None,
    },
    // XD in an upper level denies all below it: no table of attributes does that, only code that copies an upper entry.
    Pattern {
        name: "upper-level-nx",
        holds: |case| {
            let is_upper = |entry: super::fault::Entry| entry.level >= Level::Pml4e;
            case.lacks(Missing::Execute) && case.fault.denying().is_some_and(is_upper)
        },
        blame: Blame::Kernel,
        why: "XD is set in an entry of the top level, which denies execution to everything below it",
        museum: Some(24),
        survives: "XD in leaves alone",
        no_replay: Some(NO_LAYOUT),
    },
    // The table says XP of what is executed: the kernel did as it was told.
    Pattern {
        name: "attributes-table-denies-execution",
        holds: |case| {
            case.lacks(Missing::Execute) && case.table_says(MemoryAttribute::EXECUTE_PROTECT) && !case.is_data()
        },
        blame: Blame::AttributesTable,
        why: "the Memory Attributes Table says XP of code that firmware executes, and the kernel set it so",
        museum: Some(41),
        survives: "a kernel that ignores the table, as Linux did with efi=old_map (up to 5.7)",
        no_replay: None,
    },
    Pattern {
        name: "attributes-table-denies-writing",
        holds: |case| case.lacks(Missing::Write) && case.table_says(MemoryAttribute::READ_ONLY),
        blame: Blame::AttributesTable,
        why: "the Memory Attributes Table says RO of memory that firmware writes to, and the kernel set it so",
        museum: Some(41),
        survives: "a kernel that ignores the table",
        no_replay: None,
    },
    Pattern {
        name: "executes-data",
        holds: |case| case.lacks(Missing::Execute) && case.is_data(),
        blame: Blame::Firmware,
        why: "code is executed in a region that firmware calls RuntimeServicesData, which kernels map without execution",
        museum: None,
        survives: "runtime data mapped executable; or code in a region of RuntimeServicesCode",
        no_replay: None,
    },
    Pattern {
        name: "code-not-executable",
        holds: |case| case.lacks(Missing::Execute) && case.is_code(),
        blame: Blame::Open,
        why: "a region of runtime code was mapped without execution: by the kernel's own mistake, or because the Memory \
              Attributes Table, which the log does not have, says so",
        museum: None,
        survives: "runtime code mapped executable",
        no_replay: Some(NO_LAYOUT),
    },
    Pattern {
        name: "not-executable",
        holds: |case| case.lacks(Missing::Execute) && case.scene.is_in_call(),
        blame: Blame::Open,
        why: "what firmware executes was mapped without execution, and the log does not tell whose region it is in",
        museum: None,
        survives: "runtime code mapped executable, if it is that: a map would show it",
        no_replay: None,
    },
    // The right is missing to a translation that somebody made: firmware's memory, or what it was handed.
    Pattern {
        name: "read-only-argument",
        holds: |case| {
            let is_kernels = match case.region() {
                Some(region) => !region.is_runtime(),
                None => case.fault.is_mixed_mode() || case.is_in(Area::Kernel),
            };
            case.lacks(Missing::Write) && case.scene.is_in_call() && is_kernels
        },
        blame: Blame::Kernel,
        why: "firmware writes its result to memory that the kernel handed it, through a mapping that is read-only",
        museum: Some(22),
        survives: "arguments in memory that is mapped writable on the tables of the call",
        no_replay: Some(NO_LAYOUT),
    },
    Pattern {
        name: "not-writable",
        holds: |case| case.lacks(Missing::Write) && case.scene.is_in_call(),
        blame: Blame::Open,
        why: "what firmware writes to was mapped read-only: a RUNTIME region of which its Memory Attributes Table says RO, or memory \
              of the kernel's; the log has neither the table nor the map",
        museum: None,
        survives: "what firmware writes to mapped writable; a map with the table would show whose it is",
        no_replay: None,
    },
    // Not present, from here on.
    Pattern {
        name: "kernel-map-code",
        holds: |case| case.scene.moment == Moment::Kernel,
        blame: Blame::Kernel,
        why: "the kernel's own code for EFI's memory map went astray: firmware was not running",
        museum: Some(12),
        survives: "no mapping: the kernel has to be mended",
        no_replay: None,
    },
    // `virt_efi_*` reads the runtime-services table, and the pointer to it was left physical.
    Pattern {
        name: "table-not-converted",
        holds: |case| case.is_pointer_of_table(),
        blame: Blame::Firmware,
        why: "the kernel's wrapper of a runtime service reads a low address: firmware did not convert the pointers in its tables, \
              as SetVirtualAddressMap has to (UEFI 2.10, 8.4.2)",
        museum: None,
        survives: "the 1:1 aliases of RUNTIME regions kept after the switch, on the tables that the kernel itself runs on",
        no_replay: None,
    },
    // 32-bit firmware gets every argument by its physical address, wherever in the kernel's memory that is.
    Pattern {
        name: "mixed-mode-argument",
        holds: |case| {
            let is_kernels = case.region().is_none_or(|region| !region.is_runtime() && !region.is_boot_services());
            case.lacks(Missing::Translation) && case.fault.is_mixed_mode() && case.is_in(Area::Low) && is_kernels
        },
        blame: Blame::Kernel,
        why: "32-bit firmware accesses the kernel's own memory at its physical address, as it is handed arguments there, and the \
              kernel's 1:1 map leaves it out: the rest of a range past a 1 GiB boundary, without 1 GiB pages",
        museum: Some(3),
        survives: "all memory that arguments may lie in mapped 1:1, to its last page",
        no_replay: Some(
            "the firmware of a replay has 64 bits, and no layout here maps the kernel's memory 1:1 for 32-bit firmware",
        ),
    },
    // Before boot services: in many maps page 0 is some of theirs.
    Pattern {
        name: "page-zero-in-switch",
        holds: |case| {
            case.lacks(Missing::Translation) && case.is_in(Area::PageZero) && case.scene.moment == Moment::InSwitch
        },
        blame: Blame::Firmware,
        why: "page 0 was accessed in SetVirtualAddressMap, as old firmware does to the BIOS data area",
        museum: Some(17),
        survives: "page 0 mapped 1:1 until SetVirtualAddressMap has returned, as in Linux",
        no_replay: None,
    },
    Pattern {
        name: "null-pointer",
        holds: |case| case.lacks(Missing::Translation) && case.is_in(Area::PageZero) && case.scene.is_in_firmware,
        blame: Blame::Firmware,
        why: "a runtime service accessed page 0: through a null pointer, or for the BIOS data area",
        museum: None,
        survives: "page 0 mapped 1:1 for good, which hides it; Linux abandons a service that faults, but not for page 0",
        no_replay: None,
    },
    Pattern {
        name: "boot-services-gone",
        holds: |case| case.lacks(Missing::Translation) && case.region().is_some_and(|region| region.is_boot_services()),
        blame: Blame::Firmware,
        why: "boot-services memory was accessed after ExitBootServices, when it is the kernel's (UEFI 2.10, 7.4.6)",
        museum: Some(15),
        survives: "boot-services regions kept, mapped 1:1 and virtually, for as long as firmware may run (Linux: efi=debug keeps \
                   them)",
        no_replay: None,
    },
    // Xen leaves out what it cannot give a cache type.
    Pattern {
        name: "no-cacheability",
        holds: |case| {
            let is_bare =
                |region: crate::memory_map::Region| region.is_runtime() && !region.attribute.intersects(CACHE_TYPES);
            case.fault.printer == Printer::Xen && case.lacks(Missing::Translation) && case.region().is_some_and(is_bare)
        },
        blame: Blame::Kernel,
        why: "Xen does not map a RUNTIME region whose descriptor has no cache type, though it owes it to firmware",
        museum: Some(33),
        survives: "such a region mapped uncached (Xen: efi=attr=uc)",
        no_replay: Some(NO_LAYOUT),
    },
    // A pointer that SetVirtualAddressMap has not converted: from then on RUNTIME memory is at its virtual address only.
    Pattern {
        name: "physical-after-switch",
        holds: |case| {
            let is_after = case.scene.moment == Moment::AfterSwitch;
            case.lacks(Missing::Translation)
                && is_after
                && !case.is_virtual()
                && case.region().is_some_and(|it| it.is_runtime())
        },
        blame: Blame::Firmware,
        why: "a physical address of a RUNTIME region was used after SetVirtualAddressMap: a pointer that was not converted \
              (UEFI 2.10, 8.4.2)",
        museum: Some(18),
        survives: "the 1:1 aliases of RUNTIME regions kept after the switch, as in Linux since 3.14",
        no_replay: None,
    },
    Pattern {
        name: "early-pointer",
        holds: |case| {
            let is_in_switch = case.scene.moment == Moment::InSwitch;
            case.lacks(Missing::Translation) && is_in_switch && case.is_virtual() && case.region().is_some()
        },
        blame: Blame::Firmware,
        why: "a new virtual address was used before SetVirtualAddressMap had returned",
        museum: Some(19),
        survives: "the new addresses mapped beside the 1:1 aliases, on the tables that SetVirtualAddressMap runs on",
        no_replay: None,
    },
    Pattern {
        name: "owed-and-not-mapped",
        holds: |case| {
            let is_owed = case.is_virtual() || case.scene.moment == Moment::Physical;
            case.lacks(Missing::Translation) && is_owed && case.region().is_some_and(|it| it.is_runtime())
        },
        blame: Blame::Kernel,
        why: "the address is that of a RUNTIME region, which the kernel owes to firmware, and nothing is mapped there",
        museum: None,
        survives: "every page of every RUNTIME region mapped at the address that SetVirtualAddressMap was told",
        no_replay: Some(NO_LAYOUT),
    },
    Pattern {
        name: "undescribed-memory",
        holds: |case| {
            let is_known = case.at.is_some_and(|at| matches!(at.phys, Some((_, Source::Identity))));
            let is_other = case.region().is_some_and(|it| !it.is_runtime());
            case.lacks(Missing::Translation) && case.scene.is_in_call() && is_known && is_other
        },
        blame: Blame::Firmware,
        why: "a runtime service accessed memory that the map does not mark RUNTIME: it is the kernel's, or a device's that the \
              map does not mark",
        museum: None,
        survives: "a descriptor with RUNTIME for it in firmware's map; no kernel need map it as it is",
        no_replay: None,
    },
    // Between two regions, or off one: code and data that lie together in physical memory were mapped apart.
    Pattern {
        name: "off-the-regions",
        holds: |case| case.lacks(Missing::Translation) && case.is_in(Area::Window) && case.is_in_no_region(),
        blame: Blame::Open,
        why: "the address is in the window for EFI, and in no region: a reference from one region to another, which were mapped \
              in another order or at another distance, or a wild pointer",
        museum: Some(13),
        survives: "regions mapped in the order of the map, and neighbours at their distance (UEFI 2.10, 7.2.3)",
        no_replay: None,
    },
    // The page behind an argument: a buffer at the end of a page, read in larger pieces than it has.
    Pattern {
        name: "past-argument",
        holds: |case| {
            let is_page_start = case.fault.address.is_some_and(|address| address % crate::memory_map::PAGE_BYTES == 0);
            let is_kernels = case.is_in(Area::Kernel) && case.fault.kind().is_none_or(|kind| kind == Kind::Read);
            case.lacks_or_unknown(Missing::Translation) && is_kernels && is_page_start && case.scene.is_in_firmware
        },
        blame: Blame::Firmware,
        why: "firmware reads kernel memory from the first byte of a page that is not mapped: past the end of an argument that \
              ends there",
        museum: Some(27),
        survives: "arguments that do not end at a page's end, or a mapped page behind them",
        no_replay: None,
    },
    Pattern {
        name: "kernel-code-in-call",
        holds: |case| case.scene.moment == Moment::AfterSwitch && case.fault.symbol.is_some(),
        blame: Blame::Kernel,
        why: "the instruction is the kernel's own, and not firmware's: the call of a service is only where it happened",
        museum: Some(28),
        survives: "no mapping: the kernel has to be mended",
        no_replay: None,
    },
    // A kernel that calls firmware at physical addresses owes it its RUNTIME regions there, and nothing else.
    Pattern {
        name: "unmapped-physical",
        holds: |case| case.scene.moment == Moment::Physical && case.lacks_or_unknown(Missing::Translation),
        blame: Blame::Open,
        why: "a runtime service, called at its physical address, accessed one that is not mapped; only a map shows whether that is \
              a RUNTIME region, which the kernel owes, or none",
        museum: None,
        survives: "unknown without the map: RUNTIME regions mapped 1:1, those without a cache type too",
        no_replay: None,
    },
    Pattern {
        name: "low-address",
        holds: |case| case.scene.is_in_call() && case.is_in(Area::Low) && case.lacks_or_unknown(Missing::Translation),
        blame: Blame::Firmware,
        why: "a runtime service used a low address, which is physical, after the switch; Linux keeps RUNTIME regions mapped there, so \
              it is likely in none",
        museum: None,
        survives: "what it lies in, mapped 1:1 after the switch: `efi=debug` on the kernel's command line shows the map",
        no_replay: None,
    },
];

/// The cache types that a descriptor may have (UEFI 2.10, 7.2.3).
const CACHE_TYPES: MemoryAttribute = MemoryAttribute::UNCACHEABLE
    .union(MemoryAttribute::WRITE_COMBINE)
    .union(MemoryAttribute::WRITE_THROUGH)
    .union(MemoryAttribute::WRITE_BACK)
    .union(MemoryAttribute::UNCACHABLE_EXPORTED);

impl Case<'_> {
    fn lacks(&self, missing: Missing) -> bool {
        self.fault.missing() == Some(missing)
    }

    /// The kernel's own message about firmware has no error code.
    fn lacks_or_unknown(&self, missing: Missing) -> bool {
        self.fault.missing().is_none_or(|lacking| lacking == missing)
    }

    fn is_in(&self, area: Area) -> bool {
        self.at.is_some_and(|at| at.area == area)
    }

    fn region(&self) -> Option<crate::memory_map::Region> {
        self.at?.region
    }

    fn is_data(&self) -> bool {
        self.region().is_some_and(|region| region.ty == MemoryType::RUNTIME_SERVICES_DATA)
    }

    fn is_code(&self) -> bool {
        self.region().is_some_and(|region| region.ty == MemoryType::RUNTIME_SERVICES_CODE)
    }

    /// Whether the Memory Attributes Table says so of the address that was accessed.
    pub fn table_says(&self, attribute: MemoryAttribute) -> bool {
        self.at.and_then(|at| at.attributes).is_some_and(|said| said.contains(attribute))
    }

    fn is_in_no_region(&self) -> bool {
        self.has_whole_map && self.at.is_some_and(|at| at.region.is_none())
    }

    fn is_virtual(&self) -> bool {
        self.at.is_some_and(|at| at.is_virtual())
    }

    fn is_pointer_of_table(&self) -> bool {
        let is_wrapper = self.fault.symbol.as_deref().is_some_and(|name| name.starts_with("virt_efi_"));
        is_wrapper && self.is_in(Area::Low)
    }
}

impl Scene {
    /// Whether a service was running, or being called.
    pub fn is_in_call(&self) -> bool {
        self.is_in_firmware
            || self.service.is_some()
            || matches!(self.moment, Moment::AfterSwitch | Moment::InSwitch | Moment::Physical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_row_says_something() {
        let mut names: Vec<_> = PATTERNS.iter().map(|pattern| pattern.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PATTERNS.len());
        for pattern in PATTERNS {
            assert!(
                pattern.why.len() > 20 && !pattern.why.ends_with('.') && !pattern.survives.is_empty(),
                "{}",
                pattern.name
            );
            assert!(pattern.museum.is_none_or(|number| (1..=43).contains(&number)), "{}", pattern.name);
        }
    }
}
