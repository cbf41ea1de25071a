//! Every fixed address and size of the guest's own, each with its reason. Nothing of it is defined elsewhere, except for what
//! the kernel itself must know: that is in `efibed_guest::protocol`, and cited here.
//!
//! # Virtual addresses
//!
//! | from | bytes | what lies there | in the tables of |
//! | --- | --- | --- | --- |
//! | 0 | [`FIRMWARE_BYTES`] | firmware and the virtual map, 1:1, before the switch | the kernel (boot root) |
//! | [`USER_BASE`] | [`USER_BYTES`] | ring 3's text and stack for probes | the kernel |
//! | [`DIRECT_MAP`] | [`DIRECT_MAP_BYTES`] | the guest's memory | the kernel |
//! | [`TRIAL_ARENA`] | [`TRIAL_ARENA_BYTES`] | pages of the engine's trials | the kernel, in trials |
//! | [`IMAGE_BASE`] | [`IMAGE_BYTES`] | the kernel's image | both |
//! | [`PAGE_BYTES`] | up to [`PROGRAM_END`] | a program, where it is linked; a static PIE from [`PIE_BASE`] on | ring 3 |
//! | [`PROGRAM_DIRECT_MAP`] | [`DIRECT_MAP_BYTES`] | what a program is given, its stack and its heap | ring 3 |
//! | [`SYSTEM_CALL_AT`] | a page | nothing: where a system call leads | ring 3 |
//!
//! Code of this process is in ring 3 where this process has it, and so is what it is given.
//!
//! Within the image the linker decides: the [`ImageHeader`](efibed_guest::protocol::ImageHeader) has the addresses of the entry,
//! the kernel's stack, the interrupt stacks ([`IST_BYTES`] each), the mailbox, the page of descriptor tables, and the pages of
//! ring 3 for probes. Firmware's stubs lie in regions of the memory map, where `firmware` puts them.
//!
//! # Physical addresses
//!
//! They depend on the memory map: [`Placement`](super::Placement) finds room from [`LOWEST`] on, for the guest's memory
//! (image, memory map, virtual map, Memory Attributes Table, desk, boot tables, pool) and for that of its process.
//!
//! | of a process's memory, from | bytes | what lies there |
//! | --- | --- | --- |
//! | 0 | [`TABLE_BYTES`] | the tables of ring 3 |
//! | [`GUARD_AT`] | [`GUARD_BYTES`] | nothing |
//! | [`STACK_AT`] | [`STACK_BYTES`] | the stack |
//! | [`HEAP_AT`] | [`HEAP_BYTES`] | the heap |
//! | [`COPIES_AT`] | [`COPY_BYTES`] | copies of this process's pages, or a program |
//! | [`AT_HAND_AT`] | [`AT_HAND_BYTES`] | copies of the pages that the mapper itself lies in |

use efibed_guest::mapper::{MapRequest, MapResult};
pub use efibed_guest::protocol::{BARE_IDT, DIRECT_MAP, IMAGE_BASE, IST_BYTES, PROCESS_IDT, TRIAL_IDT, USER_BASE};

use super::PAGE_BYTES;
use crate::machine::Internals;
use crate::mmu::Pa;

/// Firmware runs at its physical addresses before the switch: in the low half, and off the guest's own part of it.
pub const FIRMWARE_BYTES: u64 = 1 << 46;

/// The page of ring-3 code, and that of its stack above it.
pub const USER_BYTES: u64 = 2 * PAGE_BYTES;

/// Room of the direct map, and so the end of the physical addresses that the guest can use: as Linux's with four levels
/// (Documentation/arch/x86/x86_64/mm.rst).
pub const DIRECT_MAP_BYTES: u64 = 1 << 46;

/// Where pages of trials are mapped: a PML4 slot that nothing else uses. A guest for trials lies below
/// [`TRIAL_PHYS_BYTES`], and its direct map is so much shorter.
pub const TRIAL_ARENA: u64 = 0xffff_a000_0000_0000;
/// That slot.
pub const TRIAL_ARENA_BYTES: u64 = 1 << 39;
/// Physical addresses below this are every CPU's: the narrowest MAXPHYADDR of a 64-bit CPU is 36.
pub const TRIAL_PHYS_BYTES: u64 = 1 << 36;

/// The largest image there may be.
pub const IMAGE_BYTES: u64 = 16 << 20;

/// Where a static PIE is loaded: 256 MiB. That is far from page 0, so that an address that lacks its base is seen to lack it,
/// and below 2 GiB, where programs for fixed addresses are linked too (4 MiB), so that both kinds look alike in a report.
pub const PIE_BASE: u64 = 0x1000_0000;

/// The end of what a program may be linked to. Above it is what a program is given.
pub const PROGRAM_END: u64 = 0x3000_0000_0000;

/// Virtual minus physical address of all memory that a program is given: above everything that programs may be linked to.
pub const PROGRAM_DIRECT_MAP: u64 = PROGRAM_END;

/// What IA32_LSTAR is set to: nothing of ring 3's is there.
pub const SYSTEM_CALL_AT: u64 = IMAGE_BASE - PAGE_BYTES;

/// The lowest physical address of the guest's. The first 64 KiB hold what real machines keep there, and address 0 is best
/// left to null pointers.
pub const LOWEST: u64 = 0x1_0000;

/// Where KVM's own pages go if nothing is in the way: out of the way of most maps, and always the same. The pages of the TSS
/// are three, and the identity map's page follows them.
pub const USUAL_INTERNALS: Internals =
    Internals { tss_pages_at: Pa(0xf000_0000), identity_map_page_at: Pa(0xf000_0000 + 3 * PAGE_BYTES) };

/// Pages of the desk: one for the request and the result, the others for the log.
pub const DESK_PAGES: u64 = 5;
/// Where on the desk the result is.
pub const RESULT_AT: u64 = 2048;
/// Where on the desk the log begins.
pub const LOG_AT: u64 = PAGE_BYTES;

/// Tables of ring 3: 512 of them map a gigabyte in 4 KiB leaves.
pub const TABLE_BYTES: u64 = 2 << 20;
/// Below the stack nothing is mapped. Only a frame that is larger steps over it.
pub const GUARD_BYTES: u64 = 64 << 10;
/// Linux gives a thread in the kernel 16 KiB: mapping code that needs more than this recurses without end.
pub const STACK_BYTES: u64 = 1 << 20;
/// For code of this process: what its allocator gives it.
pub const HEAP_BYTES: u64 = 16 << 20;
/// Copies of this process's pages.
pub const COPY_BYTES: u64 = 44 << 20;
/// Those of a mapper's own pages, which change from run to run: 16 for its value, and as many for what holds that.
pub const AT_HAND_BYTES: u64 = 2 * 16 * PAGE_BYTES;

/// Where they are in the memory of a process.
pub const GUARD_AT: u64 = TABLE_BYTES;
/// Behind the guard.
pub const STACK_AT: u64 = GUARD_AT + GUARD_BYTES;
/// Where the stack ends.
pub const HEAP_AT: u64 = STACK_AT + STACK_BYTES;
/// Behind the heap.
pub const COPIES_AT: u64 = HEAP_AT + HEAP_BYTES;
/// Behind the copies.
pub const AT_HAND_AT: u64 = COPIES_AT + COPY_BYTES;
/// Bytes of memory that a process has besides what it is given.
pub const PROCESS_BYTES: u64 = AT_HAND_AT + AT_HAND_BYTES;

/// Vectors that the IDTs have gates for: those of exceptions (SDM vol. 3A, 6.2).
pub const VECTORS: u64 = 32;
/// In the page of descriptor tables: the usual IDT, at 16 bytes a gate.
pub const IDT_AT: u64 = 0;
/// Of each IDT.
pub const IDT_BYTES: u64 = VECTORS * 16;
/// Right behind it.
pub const GDT_AT: u64 = IDT_AT + IDT_BYTES;
/// Null, four segments, and the two slots of the TSS's descriptor.
pub const GDT_BYTES: u64 = 7 * 8;
/// Behind the GDT. No border of pages is within it, as SDM vol. 3A, 7.2.1 advises.
pub const TSS_AT: u64 = 0x280;
/// Of a 64-bit TSS without a map of I/O permissions (SDM vol. 3A, 7.7).
pub const TSS_BYTES: u64 = 104;

/// In the kernel's tables.
const _: () = assert!(are_apart(&[
    (0, FIRMWARE_BYTES),
    (USER_BASE, USER_BYTES),
    (DIRECT_MAP, DIRECT_MAP_BYTES),
    (IMAGE_BASE, IMAGE_BYTES),
]));

/// In the kernel's tables, in trials.
const _: () = assert!(are_apart(&[
    (USER_BASE, USER_BYTES),
    (DIRECT_MAP, TRIAL_PHYS_BYTES),
    (TRIAL_ARENA, TRIAL_ARENA_BYTES),
    (IMAGE_BASE, IMAGE_BYTES),
]));

/// In the tables of ring 3, for a program.
const _: () = assert!(are_apart(&[
    (PAGE_BYTES, PROGRAM_END - PAGE_BYTES),
    (PROGRAM_DIRECT_MAP, DIRECT_MAP_BYTES),
    (SYSTEM_CALL_AT, PAGE_BYTES),
    (IMAGE_BASE, IMAGE_BYTES),
]));
const _: () = assert!(PAGE_BYTES <= PIE_BASE && PIE_BASE < PROGRAM_END);

/// On the desk.
const _: () = assert!(are_apart(&[
    (0, size_of::<MapRequest>() as u64),
    (RESULT_AT, size_of::<MapResult>() as u64),
    (LOG_AT, DESK_PAGES * PAGE_BYTES - LOG_AT),
]));

/// In the memory of a process.
const _: () = assert!(are_apart(&[
    (0, TABLE_BYTES),
    (GUARD_AT, GUARD_BYTES),
    (STACK_AT, STACK_BYTES),
    (HEAP_AT, HEAP_BYTES),
    (COPIES_AT, COPY_BYTES),
    (AT_HAND_AT, AT_HAND_BYTES),
    (PROCESS_BYTES, 0),
]));

/// In the page of descriptor tables.
const _: () = assert!(are_apart(&[
    (IDT_AT, IDT_BYTES),
    (GDT_AT, GDT_BYTES),
    (TSS_AT, TSS_BYTES),
    (TRIAL_IDT, IDT_BYTES),
    (BARE_IDT, IDT_BYTES),
    (PROCESS_IDT, IDT_BYTES),
    (PAGE_BYTES, 0),
]));

/// Whether these parts, each a start and a size, follow one another with nothing in common.
const fn are_apart(parts: &[(u64, u64)]) -> bool {
    let [(start, bytes), rest @ ..] = parts else { return true };
    let ends_before_next = match (start.checked_add(*bytes), rest) {
        (Some(end), [(next, _), ..]) => end <= *next,
        (end, []) => end.is_some(),
        (None, _) => false,
    };
    ends_before_next && are_apart(rest)
}

#[cfg(test)]
mod tests {
    use super::are_apart;

    #[test]
    fn parts_that_meet_are_not_apart() {
        assert!(are_apart(&[]));
        assert!(are_apart(&[(0, 0x1000), (0x1000, 0x1000), (0x2000, 0)]));
        assert!(!are_apart(&[(0, 0x1001), (0x1000, 0x1000)]));
        assert!(!are_apart(&[(0x1000, 1), (0, 1)]), "one is out of order");
        assert!(!are_apart(&[(0, 1), (u64::MAX, 2)]), "it wraps");
        assert!(!are_apart(&[(u64::MAX, 2), (0, 1)]));
    }
}
