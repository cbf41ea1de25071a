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
//! entry and with number [`RESUME`], for the next one. Of the registers it changes rax, rcx, r8, r9, r10 and r11, which
//! EFIAPI lets it.
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
    unsafe { &efibed_stub_image_v5 }
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

// What the order of the comparisons relies on.
const _: () = {
    assert!((Op::Return as u64) < Op::Read as u64 && (Op::Write as u64) == Op::Read as u64 + 1);
    assert!((Op::More as u64) == Op::Write as u64 + 1);
    assert!((Op::Jump as u64) == Op::More as u64 + 1 && (Op::Hang as u64) == Op::Jump as u64 + 1);
};

unsafe extern "C" {
    /// The version is in the name: two versions of this crate may meet in one program.
    static efibed_stub_image_v5: [u8; IMAGE_BYTES];
}

// Unused bytes are int3: falling off a stub is caught at once.
global_asm!(
    ".pushsection .rodata.efibed_stub_image_v5, \"a\", @progbits",
    ".p2align 4",
    ".globl efibed_stub_image_v5",
    ".hidden efibed_stub_image_v5",
    ".type efibed_stub_image_v5, @object",
    "efibed_stub_image_v5:",
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
    // An emulator takes its time for every instruction: one comparison serves two ops, and each loads only what it needs.
    ".Lefibed_step:",
    "add r9, {step}",
    "mov r10, [r9]",
    "cmp r10, {read}",
    "jb .Lefibed_leave",
    "je .Lefibed_read",
    "cmp r10, {more}",
    "jb .Lefibed_write",
    "je .Lefibed_resume",
    "cmp r10, {hang}",
    ".Lefibed_hang: je .Lefibed_hang",
    "ja .Lefibed_leave",
    "mov r11, [r9 + {at}]",
    "mov rax, [r9 + {count}]",
    "mov r8, [r9 + {from}]",
    "test r8, r8",
    "je .Lefibed_go",
    "mov [rip + .Lefibed_pointer], r8",
    ".Lefibed_go: jmp r11",
    ".Lefibed_leave:",
    "mov rax, [r9 + {at}]",
    "mov r8, [r9 + {from}]",
    "test r8, r8",
    "je .Lefibed_return",
    "mov [rip + .Lefibed_pointer], r8",
    ".Lefibed_return: ret",
    ".Lefibed_read:",
    "mov r11, [r9 + {at}]",
    "mov rcx, [r9 + {count}]",
    "mov al, [r11]",
    "mov al, [r11 + rcx - 1]",
    "jmp .Lefibed_step",
    // Eight bytes at a time, upwards. The last eight may overlap those before them, which are written twice then.
    ".Lefibed_write:",
    "mov r11, [r9 + {at}]",
    "mov rcx, [r9 + {count}]",
    "mov r8, [r9 + {from}]",
    "sub rcx, 8",
    "jb .Lefibed_below_8",
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
    "jmp .Lefibed_step",
    ".Lefibed_below_8:",
    "add rcx, 4",
    "js .Lefibed_below_4",
    "mov eax, [r8]",
    "mov [r11], eax",
    "mov eax, [r8 + rcx]",
    "mov [r11 + rcx], eax",
    "jmp .Lefibed_step",
    ".Lefibed_below_4:",
    "add rcx, 2",
    "js .Lefibed_below_2",
    "mov ax, [r8]",
    "mov [r11], ax",
    "mov ax, [r8 + rcx]",
    "mov [r11 + rcx], ax",
    "jmp .Lefibed_step",
    ".Lefibed_below_2:",
    "cmp rcx, -1",
    "jne .Lefibed_step",
    "mov al, [r8]",
    "mov [r11], al",
    "jmp .Lefibed_step",
    ".Lefibed_no_script:",
    "movabs rax, {no_script}",
    "ret",
    ".skip {bytes} - 16 - (. - efibed_stub_image_v5), 0xcc",
    ".Lefibed_magic: .quad {magic}",
    ".Lefibed_pointer: .quad 0",
    ".size efibed_stub_image_v5, . - efibed_stub_image_v5",
    ".popsection",
    port = const TRAP_PORT,
    bytes = const IMAGE_BYTES,
    resume = const RESUME,
    step = const size_of::<Step>(),
    scripts = const offset_of!(State, scripts),
    at = const offset_of!(Step, at),
    count = const offset_of!(Step, bytes),
    from = const offset_of!(Step, from),
    read = const Op::Read as u64,
    more = const Op::More as u64,
    hang = const Op::Hang as u64,
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
