//! The stubs' machine code, and the protocol between a stub and the host.
//!
//! # The image
//!
//! A flat image of [`IMAGE_BYTES`], position-independent, without relocations: it runs at whatever address the
//! page holding it has, physical or virtual. Each service has an entry of [`ENTRY_BYTES`], in the order of the table.
//! Only instructions that every KVM executes in ring 0 are used: no SSE, no string instructions, no `int`.
//!
//! # The protocol
//!
//! A stub is called as EFIAPI says (UEFI 2.10, 2.3.4.2: arguments in rcx, rdx, r8, r9, then the stack; status in
//! rax; rbx, rbp, rdi, rsi and r12 to r15 belong to the caller). It traps with
//!
//! ```text
//!     mov eax, SERVICE        ; Service::number
//!     out TRAP_PORT, eax      ; at entry_offset + TRAP_OFFSET; the port is in the instruction, so rdx is kept
//! ```
//!
//! at which
//!
//! | register | from stub to host | from host to stub |
//! | --- | --- | --- |
//! | eax | the service's number | rax: EFI_STATUS |
//! | rcx, rdx, r8, r9 | arguments 1 to 4 | GetTime, on success only: r8, r9 as below; else as they were |
//! | \[rsp\], \[rsp + 40\] on | return address; arguments 5 and on | as they were |
//! | r10, r11 | nothing | GetTime, on success only: as below; else as they were |
//! | rip | the `out`, or the instruction after it (see below) | as it was |
//! | all others | the caller's | as they were |
//!
//! On exit from an `out`, KVM leaves RIP at the instruction where the processor ran it, but behind it where KVM's
//! emulator did; it completes the instruction itself. So the host accepts both and never writes RIP.
//!
//! The stubs then return, with rax. None but GetTime's touches anything else.
//!
//! ## GetTime
//!
//! With rax = EFI_SUCCESS the host leaves r10, r11 = the 16 bytes of EFI_TIME; r8 = Resolution, and Accuracy in its
//! upper half (SetsToZero is FALSE); r9 = the address of 16 bytes of firmware's own data. The stub stores the time in
//! firmware's data, reads it back, and stores that at \[rcx\] and, unless rdx is null, the capabilities at \[rdx\]:
//! so a service that runs at its virtual address depends on the mapping of its code, of firmware's data and of the
//! caller's memory, as real ones do. It clobbers nothing else (and no memory when rax is an error).
#![allow(unsafe_code)] // The one place: machine code, and a view of it.

use core::arch::global_asm;

use crate::service::Service;
use crate::stamp::{PAGE_BYTES, STAMP_HEAD_BYTES, STAMP_TAIL_BYTES};

/// The stubs, to be put at [`IMAGE_PAGE_OFFSET`] of a page.
pub fn image() -> &'static [u8; IMAGE_BYTES] {
    // SAFETY: the assembly below defines the symbol in a read-only section of this very program, and pads it to
    // exactly IMAGE_BYTES (the assembler refuses a negative fill); bytes need no alignment and nobody writes them.
    unsafe { &efibed_stub_image_v1 }
}

/// The port a stub traps at. Eight bits, so that it fits into the instruction and no argument register is spent.
/// (`out imm8, eax`: Intel SDM vol. 2B, "OUT"). The machine has no devices that it could collide with.
pub const TRAP_PORT: u8 = 0xEF;

/// Where in its page the image begins: behind the stamp.
pub const IMAGE_PAGE_OFFSET: usize = STAMP_HEAD_BYTES;

/// Bytes of one service's entry.
pub const ENTRY_BYTES: usize = 16;

/// Bytes of the image.
pub const IMAGE_BYTES: usize = Service::COUNT * ENTRY_BYTES + GET_TIME_TAIL_BYTES;

/// Where in an entry the `out` is: behind `mov eax, imm32`.
pub const TRAP_OFFSET: usize = 5;

/// Bytes of the `out` itself.
pub const TRAP_BYTES: usize = 2;

/// Where in the image a service's entry is.
pub const fn entry_offset(service: Service) -> usize {
    service as usize * ENTRY_BYTES
}

/// What GetTime does after the trap does not fit into an entry; it follows the last one.
const GET_TIME_TAIL_BYTES: usize = 48;

const _: () = assert!(IMAGE_PAGE_OFFSET + IMAGE_BYTES <= PAGE_BYTES - STAMP_TAIL_BYTES);

unsafe extern "C" {
    /// The version is in the name: two versions of this crate may meet in one program.
    static efibed_stub_image_v1: [u8; IMAGE_BYTES];
}

// Unused bytes are int3: who falls off a stub is caught there and then.
global_asm!(
    ".pushsection .rodata.efibed_stub_image_v1, \"a\", @progbits",
    ".p2align 4",
    ".globl efibed_stub_image_v1",
    ".hidden efibed_stub_image_v1",
    ".type efibed_stub_image_v1, @object",
    "efibed_stub_image_v1:",
    // GetTime
    "mov eax, 0",
    "out {port}, eax",
    "jmp .Lefibed_get_time_tail",
    ".p2align 4, 0xcc",
    // The others, in the order of the table.
    ".irp number, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13",
    "mov eax, \\number",
    "out {port}, eax",
    "ret",
    ".p2align 4, 0xcc",
    ".endr",
    ".Lefibed_get_time_tail:",
    "test rax, rax",
    "jnz .Lefibed_get_time_return",
    // Firmware's own data: written, and read back.
    "mov [r9], r10",
    "mov [r9 + 8], r11",
    "mov r10, [r9]",
    "mov r11, [r9 + 8]",
    // EFI_TIME *Time
    "mov [rcx], r10",
    "mov [rcx + 8], r11",
    // EFI_TIME_CAPABILITIES *Capabilities OPTIONAL: two UINT32 and a BOOLEAN
    "test rdx, rdx",
    "jz .Lefibed_get_time_return",
    "mov [rdx], r8",
    "mov byte ptr [rdx + 8], 0",
    ".Lefibed_get_time_return:",
    "ret",
    ".skip {bytes} - (. - efibed_stub_image_v1), 0xcc",
    ".size efibed_stub_image_v1, . - efibed_stub_image_v1",
    ".popsection",
    port = const TRAP_PORT,
    bytes = const IMAGE_BYTES,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_loads_its_number_and_traps_where_the_protocol_says() {
        for service in Service::ALL {
            let entry = &image()[entry_offset(service)..][..ENTRY_BYTES];
            let [n0, n1, n2, n3] = service.number().to_le_bytes();
            // mov eax, imm32; out imm8, eax (Intel SDM vol. 2B)
            assert_eq!(entry[..TRAP_OFFSET], [0xB8, n0, n1, n2, n3], "{service}");
            assert_eq!(entry[TRAP_OFFSET..][..TRAP_BYTES], [0xE7, TRAP_PORT], "{service}");
        }
    }
}
