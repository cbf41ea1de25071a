//! The stubs' machine code, and the protocol between a stub and the host.
//!
//! # The image
//!
//! A flat image of [`IMAGE_BYTES`], position-independent, without relocations: it runs at whatever address the
//! page holding it has, physical or virtual. Each service has an entry of [`ENTRY_BYTES`], in the order of the table;
//! one more entry is where a stub traps again. Only instructions that every KVM executes in ring 0 are used: no SSE, no
//! string instructions, no `int`.
//!
//! Its last two words are its own: the constant [`MAGIC`], and, at [`POINTER_OFFSET`], a pointer to its data. The host
//! fills that in with a physical address, as a loader relocates an image; in SetVirtualAddressMap the stub itself converts
//! it, the last thing before it returns. So firmware's code must be writable by then, as EDK II's must, which relocates its
//! images in place (MdeModulePkg/Core/RuntimeDxe/Runtime.c).
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
//! | eax | the service's number | as it was |
//! | rcx, rdx, r8, r9 | arguments 1 to 4 | as they were |
//! | \[rsp\], \[rsp + 40\] on | return address; arguments 5 and on | as they were |
//! | rip | the `out`, or the instruction after it (see below) | as it was |
//! | all others | the caller's | as they were |
//!
//! On exit from an `out`, KVM leaves RIP at the instruction where the processor ran it, but behind it where KVM's
//! emulator did; it completes the instruction itself. So the host accepts both and never writes a register.
//!
//! What it answers is a script in firmware's data ([`crate::script`]). The stub finds it by its own pointer, counts it in
//! the state that lies before it, and does what it says. If that ends in [`Op::More`], it traps once more, from its resume
//! entry and with number [`RESUME`], for the next one. Of the registers it changes rax, rcx, r8, r9 and r11, which EFIAPI
//! lets it.
#![allow(unsafe_code)] // The one place: machine code, and a view of it.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::script::{MAGIC, NO_SCRIPT, Op, State, Step};
use crate::service::Service;
use crate::stamp::{PAGE_BYTES, STAMP_HEAD_BYTES, STAMP_TAIL_BYTES};

/// The stubs, to be put at [`IMAGE_PAGE_OFFSET`] of a page.
pub fn image() -> &'static [u8; IMAGE_BYTES] {
    // SAFETY: the assembly below defines the symbol in a read-only section of this very program, and pads it to
    // exactly IMAGE_BYTES (the assembler refuses a negative fill); bytes need no alignment and nobody writes them.
    unsafe { &efibed_stub_image_v6 }
}

/// Where in the image the code is that carries out an op.
pub fn code_offset(op: Op) -> usize {
    // SAFETY: the assembly below defines the symbol in a read-only section, aligned, with as many entries as there are ops.
    let offsets = unsafe { &efibed_stub_codes_v6 };
    offsets[op as usize].into()
}

/// The port a stub traps at. Eight bits, so that it fits into the instruction and no argument register is spent.
/// (`out imm8, eax`: Intel SDM vol. 2B, "OUT"). The machine has no devices that it could collide with.
pub const TRAP_PORT: u8 = 0xEF;

/// Where in its page the image begins: behind the stamp.
pub const IMAGE_PAGE_OFFSET: usize = STAMP_HEAD_BYTES;

/// Bytes of one service's entry.
pub const ENTRY_BYTES: usize = 16;

/// The number of the second trap; no service has it.
pub const RESUME: u32 = Service::COUNT as u32;

/// Bytes of the image.
pub const IMAGE_BYTES: usize = (Service::COUNT + 1) * ENTRY_BYTES + TAIL_BYTES;

/// Where in an entry the `out` is: behind `mov eax, imm32`.
pub const TRAP_OFFSET: usize = 5;

/// Bytes of the `out` itself.
pub const TRAP_BYTES: usize = 2;

/// Where in the image a service's entry is.
pub const fn entry_offset(service: Service) -> usize {
    service as usize * ENTRY_BYTES
}

/// Where in the image the resume entry is: behind the services.
pub const RESUME_OFFSET: usize = Service::COUNT * ENTRY_BYTES;

/// Where in the image the pointer to its data is: its last word.
pub const POINTER_OFFSET: usize = IMAGE_BYTES - 8;

/// What carries scripts out, and the image's own words; it follows the entries.
const TAIL_BYTES: usize = 288;

const _: () = assert!(IMAGE_PAGE_OFFSET + IMAGE_BYTES <= PAGE_BYTES - STAMP_TAIL_BYTES);

unsafe extern "C" {
    /// The version is in the name: two versions of this crate may meet in one program.
    static efibed_stub_image_v6: [u8; IMAGE_BYTES];
    static efibed_stub_codes_v6: [u16; Op::ALL.len()];
}

// Unused bytes are int3: falling off a stub is caught at once.
global_asm!(
    ".pushsection .rodata.efibed_stub_image_v6, \"a\", @progbits",
    ".p2align 4",
    ".globl efibed_stub_image_v6",
    ".hidden efibed_stub_image_v6",
    ".type efibed_stub_image_v6, @object",
    "efibed_stub_image_v6:",
    // The services in the order of the table, and the resume entry.
    ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14",
    ".if \\number == {resume}",
    ".Lefibed_resume:",
    ".endif",
    "mov eax, \\number",
    "out {port}, eax",
    "jmp .Lefibed_script",
    ".p2align 4, 0xcc",
    ".endr",
    ".Lefibed_script:",
    "mov r9, [rip + .Lefibed_pointer]",
    "mov rax, [rip + .Lefibed_magic]",
    "cmp rax, [r9]",
    "jne .Lefibed_no_script",
    "add qword ptr [r9 + {scripts}], 1",
    ".macro efibed_next_step",
    "add r9, {step}",
    "jmp [r9]",
    ".endm",
    "efibed_next_step",
    ".Lefibed_return:",
    "mov rax, [r9 + {first}]",
    "ret",
    ".Lefibed_jump:",
    "mov r11, [r9 + {first}]",
    "mov rax, [r9 + {second}]",
    "jmp r11",
    ".Lefibed_hang:",
    "jmp .Lefibed_hang",
    ".Lefibed_move:",
    "mov r8, [r9 + {first}]",
    "mov [rip + .Lefibed_pointer], r8",
    "efibed_next_step",
    ".Lefibed_read:",
    "mov r11, [r9 + {first}]",
    "mov rcx, [r9 + {second}]",
    "mov al, [r11]",
    "mov al, [rcx]",
    "efibed_next_step",
    ".macro efibed_write bytes, register",
    ".Lefibed_write_\\bytes:",
    "mov r11, [r9 + {first}]",
    "mov rax, [r9 + {second}]",
    "mov [r11], \\register",
    "efibed_next_step",
    ".endm",
    "efibed_write 1, al",
    "efibed_write 2, ax",
    "efibed_write 4, eax",
    "efibed_write 8, rax",
    ".Lefibed_write_16:",
    "mov r11, [r9 + {first}]",
    "mov rax, [r9 + {second}]",
    "mov [r11], rax",
    "mov rax, [r9 + {third}]",
    "mov [r11 + 8], rax",
    "efibed_next_step",
    // Eight bytes at a time, upwards. The last eight may overlap those before them, which are written twice then.
    ".Lefibed_copy:",
    "mov r11, [r9 + {first}]",
    "mov rcx, [r9 + {second}]",
    "mov r8, [r9 + {third}]",
    "sub rcx, 8",
    "je .Lefibed_last_8",
    "add r8, rcx",
    "add r11, rcx",
    "neg rcx",
    ".Lefibed_next_8:",
    "mov rax, [r8 + rcx]",
    "mov [r11 + rcx], rax",
    "add rcx, 8",
    "js .Lefibed_next_8",
    ".Lefibed_last_8:",
    "mov rax, [r8]",
    "mov [r11], rax",
    "efibed_next_step",
    ".Lefibed_no_script:",
    "movabs rax, {no_script}",
    "ret",
    ".skip {bytes} - 16 - (. - efibed_stub_image_v6), 0xcc",
    ".Lefibed_magic: .quad {magic}",
    ".Lefibed_pointer: .quad 0",
    ".size efibed_stub_image_v6, . - efibed_stub_image_v6",
    "",
    // Not part of the image: where in it the code of each op is.
    ".p2align 1",
    ".globl efibed_stub_codes_v6",
    ".hidden efibed_stub_codes_v6",
    "efibed_stub_codes_v6:",
    ".irp op, return, jump, hang, resume, move, read, write_1, write_2, write_4, write_8, write_16, copy",
    ".short .Lefibed_\\op - efibed_stub_image_v6",
    ".endr",
    ".popsection",
    port = const TRAP_PORT,
    bytes = const IMAGE_BYTES,
    resume = const RESUME,
    step = const size_of::<Step>(),
    scripts = const offset_of!(State, scripts),
    first = const offset_of!(Step, words),
    second = const offset_of!(Step, words) + 8,
    third = const offset_of!(Step, words) + 16,
    no_script = const NO_SCRIPT,
    magic = const MAGIC,
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
        let entry = &image()[RESUME_OFFSET..][..ENTRY_BYTES];
        assert_eq!(entry[..TRAP_OFFSET], [0xB8, 14, 0, 0, 0]);
        assert_eq!(entry[TRAP_OFFSET..][..TRAP_BYTES], [0xE7, TRAP_PORT]);
    }
}
