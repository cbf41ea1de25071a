//! Findings: one disagreement each, under a rule with a stable name.

use super::place::Place;
use super::statement::Statement;
use crate::mmu::{ErrorCode, Level, Pa, Step, Va};

/// One disagreement, over a run of pages.
///
/// What was expected and what was observed are values: a test matches them, and does not read text.
///
/// ```
/// use efibed::check::{Rule, Statement};
/// use efibed::mmu::{ErrorCode, Va};
/// use efibed::{EngineName, Layout, LeafRule, MemoryMap, Scenario, TestBed};
///
/// // The bug of 2013: a 2 MiB leaf chosen by the virtual address alone.
/// let map = MemoryMap::parse(
///     "[[descriptor]]
///      type = 'RuntimeServicesData'
///      phys = 0x7e107000
///      pages = 0x400
///      attribute = 'RUNTIME|WB'",
/// )?;
/// let scenario = Scenario::new(map).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
/// let report = TestBed::without_kvm().run(&scenario.engine(EngineName::Walker))?;
///
/// let finding = &report.findings[0];
/// assert_eq!(finding.rule, Rule::ReservedBit);
/// let Some(Statement::Faulted { fault, cr2, .. }) = &finding.observed else { panic!("{finding:?}") };
/// assert_eq!(fault.vector, 14);
/// assert!(fault.error_code.contains(ErrorCode::RSVD));
/// assert_eq!((*cr2, finding.virt), (Some(Va(0xffff_fffe_ffc0_0000)), *cr2));
/// # Ok::<(), efibed::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Which rule was broken.
    pub rule: Rule,
    /// The phase in which it was noticed.
    pub phase: Phase,
    /// The descriptor's index in the memory map, where one is concerned.
    pub region: Option<usize>,
    /// The first address, where one is concerned.
    pub virt: Option<Va>,
    /// Pages of the run; 0 where the finding is not about pages.
    pub pages: u64,
    /// What should have been observed, where one thing can be named.
    pub expected: Option<Statement>,
    /// What was observed, where the message does not say it all.
    pub observed: Option<Statement>,
    /// What would help, where that is known and is not what should have been observed.
    pub remedy: Option<String>,
    /// The walk to `virt`, entry by entry.
    pub walk: Vec<WalkStep>,
    /// The line of the mapping code that set the last entry of the walk to what it is; if the code never wrote that one, the
    /// entry above it. None: that is not known.
    pub set_by: Option<Place>,
    /// Who says so.
    pub witnesses: Vec<Witness>,
    /// One sentence.
    pub message: String,
}

impl Finding {
    /// One that is not about pages, in its own words.
    pub fn worded(phase: Phase, rule: Rule, region: Option<usize>, message: String) -> Self {
        Self {
            rule,
            phase,
            region,
            virt: None,
            pages: 0,
            expected: None,
            observed: None,
            remedy: None,
            walk: Vec::new(),
            set_by: None,
            witnesses: vec![if rule.is_of_the_map() { Witness::Expectation } else { Witness::Run }],
            message,
        }
    }

    /// The error code, if a page fault is what was observed.
    pub fn error_code(&self) -> Option<ErrorCode> {
        self.observed.as_ref()?.error_code()
    }
}

/// An entry that the walk to a finding's address saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkStep {
    /// Its level.
    pub level: Level,
    /// Its physical address.
    pub entry_addr: Pa,
    /// The entry.
    pub entry: u64,
    /// Its guilty bits.
    pub reserved: u64,
}

impl From<&Step> for WalkStep {
    fn from(step: &Step) -> Self {
        Self { level: step.level, entry_addr: step.entry_addr, entry: step.entry, reserved: step.reserved }
    }
}

/// A part of the run. Permissions and cache types are judged by phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Phase {
    /// The memory map itself, before anything runs.
    Input,
    /// Before and in SetVirtualAddressMap.
    #[default]
    Map,
    /// After it.
    Finish,
}

efibed_stub::names! {
    Phase, "phase":
    Input "input",
    Map "map",
    Finish "finish",
}

/// How bad a finding is. Each makes the run fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// The mapping, or the memory map, is wrong.
    Error,
    /// The witnesses do not agree: the machine, the walker or this test bed is wrong.
    Doubt,
}

efibed_stub::names! {
    Severity, "severity":
    Error "error",
    Doubt "doubt",
}

/// Who says that something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Witness {
    /// The contract: what must be, by the memory map and the map handed to SetVirtualAddressMap.
    Expectation,
    /// The guest's MMU: a real access.
    Mmu,
    /// The software walk over the same tables.
    Walk,
    /// KVM_TRANSLATE.
    KvmTranslate,
    /// What happened in the run: an answer, a write, an exit, or that the guest did not come to an end.
    Run,
}

efibed_stub::names! {
    Witness, "witness":
    Expectation "expectation",
    Mmu "mmu",
    Walk "walk",
    KvmTranslate "kvm-translate",
    Run "run",
}

macro_rules! rules {
    ($($variant:ident, $name:literal, $severity:ident, $summary:literal, $more:literal;)*) => {
        /// What can be found. The names are stable. Causes stand before their effects, and findings come in this order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $summary] $variant,)*
        }

        efibed_stub::names! { Rule, "rule": $($variant $name),* }

        impl Rule {
            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// One sentence.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }

            /// What causes it, and what to look at.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $more,)* }
            }
        }
    };
}

rules! {
    MapOverlap, "map-overlap", Error, "Two descriptors of the memory map share pages.",
        "This is firmware's mistake. What is mapped there depends on the order of the list.";
    MapWrap, "map-wrap", Error, "A descriptor reaches past the end of the 64-bit address space.",
        "This is firmware's mistake. Linux drops such descriptors (efi_clean_memmap).";
    MapUnaligned, "map-unaligned", Error, "A descriptor's physical start is not a multiple of 4 KiB.",
        "UEFI 2.10, 7.2.3 requires it to be. x86 Linux maps from the page below, and tells firmware the unaligned start. \
         The region's last bytes then lie past the pages mapped, and are `not-present`.";
    PastMaxphyaddr, "past-maxphyaddr", Error, "A region that is to be mapped lies past the CPU's physical-address width.",
        "Entries for it have reserved bits set: #PF with RSVD. (SDM vol. 3A, 4.1.4)";
    NoRoom, "no-room", Error, "The memory map leaves no place for the guest.",
        "The guest needs some Conventional or LoaderData memory, or addresses that no descriptor names.";
    DescriptorSize, "descriptor-size", Error, "The kernel steps through the memory map with another DescriptorSize than firmware's.",
        "Usual cause: sizeof(EFI_MEMORY_DESCRIPTOR), which is 40, where firmware reports 48. The kernel then takes the middle of \
         one descriptor for the start of another: addresses become page counts, and attributes become addresses. Use the size \
         that GetMemoryMap returns. (UEFI 2.10, 7.2.3)";
    WindowOverflow, "window-overflow", Error, "The regions do not fit the layout's virtual addresses.",
        "`window` has 64 GiB below -4 GiB, for everything up to the highest end of a mapped region. A map with MMIO at a \
         tebibyte cannot be mapped so. `linux` has the same 64 GiB for the sum of the regions. Past it Linux warns, maps \
         no more, and hands firmware the VirtualStart that was there before.";
    NoVirtualStart, "no-virtual-start", Error, "A descriptor has no VirtualStart, and the layout takes addresses from there.",
        "`linux-fixed` is what a kexec'ed kernel does: it maps regions where the first kernel put them. Firmware's own map has \
         no virtual addresses. Give it the first kernel's map (/sys/firmware/efi/runtime-map), or check a map twice with \
         `efibed kexec`.";
    MapperError, "mapper-error", Error, "The mapping code gave up.",
        "The message says why.";
    StrayAccess, "stray-access", Error, "The mapping code accessed memory that it was not given.",
        "It runs in ring 3, and what it may not touch it cannot touch: the access is a page fault. It has its own text, data and \
         stack, the memory map, the pool of table pages, the room for the virtual map, its log, and, to read, the kernel's tables. \
         The message names the instruction and what lies at the address.";
    StackOverflow, "stack-overflow", Error, "The mapping code used up its stack.",
        "It has 1 MiB. Usual cause: a recursion without end, or a large array on the stack.";
    PrivilegedInstruction, "privileged-instruction", Error, "The mapping code executed an instruction that it has no business with.",
        "Mapping code of a kernel needs invlpg and wbinvd, and reads of CR0, CR3, CR4, EFER and IA32_PAT: those are carried out. \
         Everything else that ring 0 alone may do, and system calls, end it.";
    MapperFault, "mapper-fault", Error, "The mapping code raised an exception.",
        "Such as a division by zero, ud2, an SSE operand that is not aligned, or an address that is not canonical. The message \
         names the instruction.";
    StrayWrite, "stray-write", Error, "The mapping code wrote to memory that it was not given.",
        "It may write to the pages that it took from the pool for tables, to VirtualStart of the descriptors, and to the map \
         for SetVirtualAddressMap, as far as that is used. It may not write to the kernel's tables, stacks or mailbox, the rest \
         of the memory map, pages of the pool that it did not take, firmware's pages, or where no memory is.";
    KernelState, "kernel-state", Error, "The kernel's own state is not as the kernel had set it.",
        "Mapping code and firmware must leave CR0, CR3, CR4, EFER, IA32_PAT, the descriptor-table registers, TR and RFLAGS as \
         they find them. They are compared each time the guest hands over to the host, and set again; IA32_PAT where firmware \
         is called, for mapping code cannot write to it. The same goes for what the kernel says of itself: that it has \
         abandoned a runtime service needs a fault, or a service that did not return.";
    TablesChanged, "tables-changed", Error, "A page table changed after it had been walked.",
        "What the guest's MMU was asked holds for the tables as they were walked. Only the mapping code may change them, in its \
         two phases; the CPU itself sets A and D. Then the host walks them again.";
    NotMapped, "not-mapped", Error, "The map handed to SetVirtualAddressMap lacks a region that firmware is owed.",
        "Every descriptor with RUNTIME must be there (UEFI 2.10, 8.4.1).";
    VirtualMap, "virtual-map", Error, "The map handed to SetVirtualAddressMap has a descriptor that is not in the memory map.",
        "Type, physical start and page count must be those of a descriptor of the memory map.";
    OutsideArena, "outside-arena", Error, "A region was placed outside the range that the layout may use.",
        "`linux`, `linux-fixed`, `window`, `packed-down`: [-68 GiB, -4 GiB). `packed-up`: [-4 GiB, -2 GiB). A contract of your \
         own says where its mapper puts regions.";
    KernelOverlap, "kernel-overlap", Error, "A region lies on the kernel's own addresses, or the kernel's mapping has changed.",
        "The walk finds it before CR3 is loaded. Allocating upwards from -4 GiB, for instance, leaves 2 GiB below the kernel's \
         text.";
    RegionOverlap, "region-overlap", Error, "Two regions were given overlapping virtual addresses.",
        "One of them is hidden by the other.";
    NotCanonical, "not-canonical", Error, "A region was given virtual addresses that are not canonical, or that wrap around.",
        "Accesses there raise #GP, not #PF. (SDM vol. 1, 3.3.7.1)";
    WrongAddress, "wrong-address", Error, "A region's virtual address is not the one that the layout's formula gives.",
        "A second kernel computes the same addresses from the same map. One that is off breaks kexec.";
    WindowOrder, "window-order", Error, "Virtual addresses do not rise with firmware's list, as Linux's do.",
        "Since UEFI 2.5 code and data of one image are descriptors of their own, one after another. Firmware's relative \
         references cross from one to the other. Addresses given in the reverse order send them astray.";
    NotContiguous, "not-contiguous", Error, "Code and data of one image, contiguous in physical memory, are torn apart.",
        "Runtime code and data that follow one another in the list and in memory may be one image. Firmware assumes that \
         what is contiguous at physical addresses is contiguous at virtual ones.";
    KexecMoved, "kexec-moved", Error, "A second kernel does not find a runtime region where the first one put it.",
        "SetVirtualAddressMap works once: firmware's pointers hold the first kernel's addresses for good. The second kernel must \
         be given them (`linux-fixed`), or compute the same. `window` computes the same only if it sees the same highest end, \
         and its map lacks the boot services, which the first kernel freed.";
    TableUnreachable, "table-unreachable", Error, "An entry points to a table where no memory is.",
        "Hardware reads ones from there, some virtual machines zeros. What is mapped below depends on the machine.";
    TableOutsidePool, "table-outside-pool", Error, "An entry points to a table that was not taken from the pool.",
        "Mapping code takes its tables from the pool that it is given, and finds the kernel's already there. All other memory \
         has another use: text of the log, or an entry of the map for SetVirtualAddressMap, would become a table entry, and the \
         pool's next page will be another table. Usual cause: an address that is none of the pool's, or a virtual one.";
    TableLimit, "table-limit", Error, "The tables have more entries than can be listed.",
        "One run reads 2^28 entries and keeps 2^20 runs of leaves, which is more than right tables have. What a finding of this \
         rule is about was not looked at. Usual cause: a few tables that many entries refer to, so that they map far more than \
         there is.";
    SelfMapping, "self-mapping", Error, "The page tables are mapped through themselves.",
        "An entry refers to a table of its own level or above (a recursive entry, PML4[510] for instance, which makes every table \
         a page at a fixed address), or a leaf outside the arena maps a table. A write by firmware to a wrong address can then \
         map anything. The kernel reaches its tables through its direct map, and that alone is allowed.";
    ReservedBit, "reserved-bit", Error, "A table entry has a reserved bit set, so every access through it faults with RSVD.",
        "Usual causes: a 2 MiB or 1 GiB leaf chosen by the alignment of the virtual address alone, which leaves address bits \
         20:13 or 29:13 of the physical address in the entry; a 1 GiB leaf on a CPU without them; a physical address past \
         MAXPHYADDR; bit 63 with EFER.NXE clear. The walk marks the guilty bits. (SDM vol. 3A, 4.5 and 4.7)";
    NotPresent, "not-present", Error, "A page that is owed to firmware is not mapped: accesses fault with P=0.",
        "Firmware will fault there with error code 0x0, 0x2 or 0x10. The walk ends at the entry without P.";
    WrongFrame, "wrong-frame", Error, "A virtual address reaches another physical page than it should.",
        "No fault warns of it: firmware reads and writes somebody else's memory. Usual causes: the low bits of the physical \
         address dropped from a large leaf, or an address taken for a page number. The distance between the two pages tells \
         which.";
    CacheType, "cache-type", Error, "A leaf's PAT index is not the one asked for.",
        "The index is PAT<<2 | PCD<<1 | PWT of the leaf. PAT is bit 7 of a PTE and bit 12 of a large leaf, so a physical \
         address that is 4 KiB off puts its bit 12 there. At reset the indices 0 to 3 are WB, WT, UC- and UC, and 4 to 7 the \
         same again, so the memory type may still be right. Only the walk can see this. (SDM vol. 3A, 4.9.2 and 11.12)";
    TableCache, "table-cache", Error, "An entry that refers to a table has PWT or PCD set.",
        "The two bits choose the memory type with which the CPU reads the next table. The kernel's own mapping of the table is \
         write-back, and two types for one page are undefined. They are meant for leaves. Only the walk can see this. (SDM vol. \
         3A, 4.9.2 and 11.12.4)";
    GlobalLeaf, "global-leaf", Error, "A leaf of the mapping code's is global.",
        "With CR4.PGE a load of CR3 does not drop its translation from the TLB, so firmware's page stays reachable after the \
         kernel has gone back to its own tables. Usual cause: the kernel's flags for its own pages, which are in all of its \
         tables. Only the walk can see this. (SDM vol. 3A, 4.10.2.4)";
    ProtectionKey, "protection-key", Error, "A leaf has a protection key.",
        "Bits 62:59 put the page under rights that nobody set for firmware: PKRU's for user pages, IA32_PKRS's for supervisor \
         pages on a kernel with CR4.PKS. Without those they are ignored, so only the walk can see this. (SDM vol. 3A, 4.6.2)";
    NotWritable, "not-writable", Error, "Writes to a page that firmware may write fault.",
        "R/W is clear at some level. It must be set at all of them. (SDM vol. 3A, 4.6)";
    NotReadOnly, "not-read-only", Error, "A page that the Memory Attributes Table makes read-only can be written to.",
        "R/W is set at every level. The table is in force after phase `finish`. (UEFI 2.10, 4.6)";
    NotExecutable, "not-executable", Error, "Instructions cannot be fetched from a page of code.",
        "XD is set at some level. It must be clear at all of them. (SDM vol. 3A, 4.6)";
    ExecutableData, "executable-data", Error, "Data is executable where the layout declares that it is not.",
        "XD is clear at every level: of data, or of what the Memory Attributes Table says is not to be executed. (SDM vol. \
         3A, 4.6)";
    UserAccessible, "user-accessible", Error, "Ring 3 can reach firmware's page.",
        "U/S is set at every level. It must be clear at one of them. (SDM vol. 3A, 4.6)";
    StrayMapping, "stray-mapping", Error, "Something translates in the mapper's range that belongs to no region.",
        "Nothing but the regions and the aliases that a layout declares may be mapped there. A page too many hides the fault \
         that would have shown a wild pointer.";
    AttributesTable, "attributes-table", Error, "Firmware's Memory Attributes Table denies what firmware needs.",
        "It leaves no page of runtime code executable, or no page of runtime data writable. A kernel that believes it, as Linux \
         does in phase `finish`, meets #PF 0x11 (0x3 for data) in the first call. Real machines died of it. The mapping code is \
         not to blame. (UEFI 2.10, 4.6.4)";
    FirmwareTables, "firmware-tables", Error, "Firmware's tables are damaged.",
        "Signature, size and CRC of the system table and the runtime-services table, and the configuration tables, are \
         checked before and after SetVirtualAddressMap. The pages they lie in are mapped rightly: where those are wrong, the \
         finding of that says so. (UEFI 2.10, 4.2 and 4.6)";
    CallAddress, "call-address", Error, "A runtime service was called at another address than firmware's table gives.",
        "Usual cause: a pointer kept from before SetVirtualAddressMap. All pointers but its own and ConvertPointer's are \
         virtual afterwards. (UEFI 2.10, 8.4)";
    CallTables, "call-tables", Error, "A runtime service was called with a wrong CR3.",
        "Firmware's regions are mapped on the tables made for it, and nowhere else.";
    CallStack, "call-stack", Error, "A runtime service was called with a misaligned stack, or with RFLAGS.DF set.",
        "RSP is a multiple of 16 before the call, and the direction flag is clear. Firmware may save SSE registers there. \
         (UEFI 2.10, 2.3.4)";
    CallBuffer, "call-buffer", Error, "A runtime service was given a buffer that is not mapped for it.",
        "It would have faulted in the middle of its work. Buffers must be mapped on the tables that are loaded during the \
         call, writable where firmware writes, and with both pages where one crosses a border.";
    SwitchCall, "switch-call", Error, "SetVirtualAddressMap was not called as the specification requires.",
        "Interrupts must be off, the VirtualMap aligned for descriptors, and DescriptorSize that of firmware's own map. (UEFI \
         2.10, 7.2.3 and 8.4.1)";
    CallStatus, "call-status", Error, "A runtime service did not answer as it should.",
        "All are called with good arguments and must answer EFI_SUCCESS. ConvertPointer and a second SetVirtualAddressMap must \
         answer EFI_UNSUPPORTED. A ResetType that does not exist must be EFI_INVALID_PARAMETER. (UEFI 2.10, chapter 8)";
    CallResult, "call-result", Error, "A runtime service did not leave its results where it was asked to.",
        "It answered EFI_SUCCESS, but the caller finds something else in its buffers: firmware wrote elsewhere. A \
         variable that was written before SetVirtualAddressMap must be read after it.";
    CallFault, "call-fault", Error, "A runtime service faulted at what firmware is owed.",
        "It did nothing wrong: its own code or data, or its caller's buffer, is not mapped, or not as needed. The guest \
         abandons the service, as Linux does (efi_crash_gracefully_on_page_fault), and calls no other after it.";
    FirmwareFault, "firmware-fault", Error, "A runtime service faulted at something that firmware must not do.",
        "The mapping code is not to blame: the scenario has firmware misbehave, as real firmware has been caught doing. The \
         remedy says what a kernel would have to map to survive it.";
    FirmwareAstray, "firmware-astray", Error, "Firmware did what it must not, and reached another page than it meant.",
        "No fault warns of it. What firmware assumes to be mapped is not, but something else is mapped there.";
    FirmwareHang, "firmware-hang", Error, "A runtime service did not return.",
        "The scenario has firmware misbehave. The guest abandons the service when its time is up, and calls no other after it.";
    FirmwareError, "firmware-error", Error, "SetVirtualAddressMap failed by firmware's own fault.",
        "The scenario has firmware answer with an error, or report a DescriptorVersion that it refuses itself. No service can \
         be called at a virtual address then.";
    GuestFault, "guest-fault", Error, "The guest faulted outside a probe.",
        "Something that the kernel, the mapper or firmware needs was not mapped, or not as needed.";
    GuestPanic, "guest-panic", Error, "The mapping code panicked.",
        "The message says where.";
    TripleFault, "triple-fault", Error, "The guest's CPU shut down: a fault could not even be delivered.",
        "The handlers, their stacks or the descriptor tables were not reachable on the tables just loaded.";
    Watchdog, "watchdog", Error, "The guest ran past its time limit.",
        "The limit ends anything a guest does. Where it ended the mapping code, the message says which region was being mapped.";
    EmulationFailure, "emulation-failure", Error, "KVM could not execute an instruction of the guest.",
        "KVM_EXIT_INTERNAL_ERROR: the message names the instruction, its bytes and where it was.";
    MachineStopped, "machine-stopped", Error, "The virtual machine stopped in a way nobody asked for.",
        "The message says how.";
    WitnessDisagreement, "witness-disagreement", Doubt, "The guest's MMU and the software walk do not agree about an access.",
        "One of them is wrong: the walker, or this KVM (`efibed doctor` lists what it does not do). Or the tables were changed \
         after the walk.";
    WrongErrorCode, "wrong-error-code", Doubt, "A fault came, but with another error code, CR2 or RIP than the manual's rules give.",
        "Operating systems decide by these bits. (SDM vol. 3A, 4.7)";
}

impl Rule {
    /// Whether the memory map and the layout say so by themselves, before anything runs.
    pub(crate) const fn is_of_the_map(self) -> bool {
        matches!(
            self,
            Self::MapOverlap
                | Self::MapWrap
                | Self::MapUnaligned
                | Self::PastMaxphyaddr
                | Self::NoRoom
                | Self::DescriptorSize
                | Self::WindowOverflow
                | Self::NoVirtualStart
        )
    }

    /// Whether it is firmware's fault, and says nothing against the mapping.
    pub const fn is_firmwares(self) -> bool {
        matches!(
            self,
            Self::FirmwareFault
                | Self::FirmwareAstray
                | Self::FirmwareHang
                | Self::FirmwareError
                | Self::AttributesTable
        )
    }
}
