//! A page fault as a log tells it: what was printed, and nothing that was not.

use crate::mmu::{ErrorCode, Kind, Level, Pa, Paging, Va, bits, reserved_reasons};

/// A page fault of a log. What is `None` was not printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Who printed it.
    pub printer: Printer,
    /// The line of the log that begins it, from 1.
    pub line: usize,
    /// The address that was accessed: CR2.
    pub address: Option<u64>,
    /// The error code.
    pub code: Option<ErrorCode>,
    /// The instruction that made the access.
    pub rip: Option<u64>,
    /// The function that it is in, as a symbol of the kernel's.
    pub symbol: Option<String>,
    /// The selector in CS. Its two low bits are the privilege level.
    pub cs: Option<u64>,
    /// The process that was running, as Linux numbers them.
    pub pid: Option<u64>,
    /// CR3.
    pub cr3: Option<u64>,
    /// CR4.
    pub cr4: Option<u64>,
    /// The table entries on the way to the address, from the top down.
    pub entries: Vec<Entry>,
    /// The symbols of the call trace, and what else has the form of one, in the order of the log.
    pub names: Vec<String>,
    /// The general-purpose registers: RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15.
    pub registers: [Option<u64>; 16],
    /// The bytes of the instruction, and of those after it.
    pub instruction: Vec<u8>,
    /// The kernel itself says that firmware caused it (`efi_crash_gracefully_on_page_fault()` of Linux).
    pub is_firmwares_by_kernel: bool,
}

/// Who printed a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Printer {
    /// Linux on x86-64.
    #[default]
    Linux,
    /// The hypervisor Xen.
    Xen,
    /// EDK II's exception handler: firmware's own, before ExitBootServices.
    Edk2,
    /// FreeBSD.
    FreeBsd,
}

impl Printer {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "Linux",
            Self::Xen => "Xen",
            Self::Edk2 => "EDK II",
            Self::FreeBsd => "FreeBSD",
        }
    }
}

/// An entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its level.
    pub level: Level,
    /// Its value.
    pub value: u64,
}

/// What an access lacked (SDM vol. 3A, 4.6 and 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A translation: an entry on the way is not present.
    Translation,
    /// An entry without reserved bits.
    SoundEntry,
    /// The right to write.
    Write,
    /// The right to execute.
    Execute,
    /// The right of user mode.
    User,
    /// What a protection key, shadow stacks, SGX or the RMP ask.
    Other,
    /// A supervisor read of what is present lacks nothing in the tables themselves: SMAP forbids it, or the tables have
    /// changed since.
    Nothing,
}

impl Missing {
    /// What lacks, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Translation => "a translation: nothing is mapped there",
            Self::SoundEntry => "an entry without reserved bits",
            Self::Write => "the right to write",
            Self::Execute => "the right to execute",
            Self::User => "the right of user mode",
            Self::Other => "what a protection key, shadow stacks, SGX or the reverse map ask for",
            Self::Nothing => {
                "no right that tables grant: a supervisor may read whatever is present, unless SMAP forbids it (SDM vol. 3A, \
                 4.6.1)"
            }
        }
    }

    /// A name that stays the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translation => "present",
            Self::SoundEntry => "reserved-bits",
            Self::Write => "write",
            Self::Execute => "execute",
            Self::User => "user",
            Self::Other => "other",
            Self::Nothing => "none",
        }
    }
}

impl Fault {
    /// What the access did, by the error code. A fetch shows only with EFER.NXE or CR4.SMEP; without them it is taken for one
    /// where CR2 is RIP.
    pub fn kind(&self) -> Option<Kind> {
        let code = self.code?;
        let is_at_rip = self.rip.is_some() && self.rip == self.address;
        Some(match code {
            code if code.contains(ErrorCode::I) => Kind::Fetch,
            code if code.contains(ErrorCode::W) => Kind::Write,
            _ if is_at_rip => Kind::Fetch,
            _ => Kind::Read,
        })
    }

    /// Whether 32-bit firmware was running under a 64-bit Linux (mixed mode): in `__KERNEL32_CS`, selector 8
    /// (arch/x86/include/asm/segment.h).
    pub fn is_mixed_mode(&self) -> bool {
        self.printer == Printer::Linux && self.cs == Some(8)
    }

    /// What it lacked, by the error code.
    pub fn missing(&self) -> Option<Missing> {
        let code = self.code?;
        let has = |flag| code.contains(flag);
        let others = [ErrorCode::PK, ErrorCode::SS, ErrorCode::SGX, ErrorCode::RMP];
        // Some virtual machines leave P out of a reserved bit's code.
        Some(match () {
            () if has(ErrorCode::RSVD) => Missing::SoundEntry,
            () if others.into_iter().any(has) => Missing::Other,
            () if !has(ErrorCode::P) => Missing::Translation,
            () if has(ErrorCode::I) => Missing::Execute,
            () if has(ErrorCode::W) => Missing::Write,
            () if has(ErrorCode::U) => Missing::User,
            () => Missing::Nothing,
        })
    }

    /// Whether it was made in user mode, by the error code.
    pub fn is_user(&self) -> Option<bool> {
        self.code.map(|code| code.contains(ErrorCode::U))
    }

    /// The entry that maps the page, if the log has it and it is present.
    pub fn leaf(&self) -> Option<Entry> {
        let last = *self.entries.last()?;
        let are_present = self.entries.iter().all(|entry| entry.value & bits::P != 0);
        (are_present && last.level.maps_page(last.value)).then_some(last)
    }

    /// The physical address that the tables of the log give the address; None where they have reserved bits.
    pub fn translated(&self) -> Option<Pa> {
        let leaf = self.leaf().filter(|leaf| leaf.reserved() == 0)?;
        let offset = leaf.level.span_bytes().saturating_sub(1);
        Some(Pa(leaf.value & bits::ADDRESS & !offset | self.address? & offset))
    }

    /// The first entry that denies what was missing: from the top down, the level that is not present, not writable, not
    /// executable, or has a reserved bit.
    pub fn denying(&self) -> Option<Entry> {
        let denies = |entry: &&Entry| match self.missing() {
            Some(Missing::Translation) => entry.value & bits::P == 0,
            Some(Missing::SoundEntry) => entry.reserved() != 0,
            Some(Missing::Write) => entry.value & bits::W == 0,
            Some(Missing::Execute) => entry.value & bits::NX != 0,
            Some(Missing::User) => entry.value & bits::U == 0,
            _ => false,
        };
        self.entries.iter().find(denies).copied()
    }

    /// What the log says twice, and not alike.
    pub fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        let is_mapped = self.leaf().is_some();
        match self.missing() {
            Some(Missing::Translation) if is_mapped => found.push(
                "the error code says that nothing was mapped, and the printed entries map the page: they were changed in \
                 between, or are those of other tables"
                    .into(),
            ),
            Some(missing @ (Missing::Write | Missing::Execute | Missing::User))
                if is_mapped && self.denying().is_none() =>
            {
                found.push(format!(
                    "the error code says that {} was missing, and the printed entries grant it: a TLB had an older entry, \
                     or they are those of other tables",
                    missing.words()
                ));
            }
            _ => {}
        }
        let widest = Paging { la57: true, ..Paging::default() };
        if self.address.is_some_and(|address| !widest.is_canonical(Va(address))) {
            found.push("CR2 is not canonical: no page fault has such an address (SDM vol. 1, 3.3.7.1)".into());
        }
        found
    }
}

impl Entry {
    /// Its reserved bits, on a CPU of the widest physical addresses that has 1 GiB pages. A narrower one has more.
    pub fn reserved(self) -> u64 {
        let paging = Paging { maxphyaddr: 52, gbpages: true, nxe: true, ..Paging::default() };
        reserved_reasons(self.level, self.value, &paging).fold(0, |all, (guilty, _)| all | guilty)
    }
}
