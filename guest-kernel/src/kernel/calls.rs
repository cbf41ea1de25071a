//! Calls of runtime services, and what becomes of those that do not return.
//!
//! A fault in a service is recorded, the service is abandoned, and no other is called from then on, as in Linux
//! (arch/x86/platform/efi/quirks.c, efi_crash_gracefully_on_page_fault). The host does the same with a service that never
//! returns, through the same label.

use core::arch::global_asm;
use core::mem::offset_of;

use efibed_stub::rflags;

use super::mailbox;
use crate::protocol::{EFI_ABORTED, EFI_UNSUPPORTED, Mailbox};

unsafe extern "C" {
    fn efibed_call(entry: u64, arguments: *const [u64; 5], stack_bytes: u64, rflags: u64) -> u64;
}

/// Calls the service at `entry` with the EFI calling convention, unless one has been abandoned; `command` is the call's
/// place in its batch.
pub(super) fn call(command: usize, entry: u64, arguments: &[u64; 5]) -> u64 {
    // SAFETY: the mailbox is ours while the guest runs.
    let (abandoned, odd) = unsafe {
        let mail = mailbox();
        ((&raw const (*mail).services_abandoned).read_volatile(), &(*mail).odd_call)
    };
    if abandoned != 0 {
        return EFI_UNSUPPORTED;
    }
    let is_odd = odd.command == command as u64 + 1;
    let (stack_bytes, rflags) = if is_odd { (odd.stack_bytes, odd.rflags) } else { (0, rflags::FIXED) };
    // SAFETY: the host vouches for the address: firmware's entry point on the tables that are loaded. What firmware may
    // not change is saved, and a fault comes back here.
    unsafe { efibed_call(entry, arguments, stack_bytes, rflags) }
}

global_asm!(
    ".section .text.efibed_calls, \"ax\"",
    // (entry, arguments, stack_bytes, rflags) -> status
    ".globl efibed_call",
    "efibed_call:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    // Room for the four arguments in registers, the fifth behind it, and RSP a multiple of 16 (UEFI 2.10, 2.3.4.2).
    "sub rsp, 56",
    "mov [efibed_call_rsp], rsp",
    "sub rsp, rdx",
    "push rcx",
    "popfq",
    "mov rax, rdi",
    "mov r10, rsi",
    "mov r11, [r10 + 32]",
    "mov [rsp + 32], r11",
    "mov rcx, [r10]",
    "mov rdx, [r10 + 8]",
    "mov r8, [r10 + 16]",
    "mov r9, [r10 + 24]",
    "call rax",
    "1: mov rsp, [efibed_call_rsp]",
    "push {rflags}",
    "popfq",
    "mov qword ptr [efibed_call_rsp], 0",
    "add rsp, 56",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "",
    // From the handler of a fault, or by the host's hand: on whatever stack, with whatever flags.
    ".globl efibed_call_abandon",
    "efibed_call_abandon:",
    "mov rax, [EFIBED_MAILBOX + {command_at}]",
    "add rax, 1",
    "mov [EFIBED_MAILBOX + {abandoned}], rax",
    "movabs rax, {aborted}",
    "jmp 1b",
    "",
    ".section .bss.efibed_calls, \"aw\", @nobits",
    ".balign 8",
    ".globl efibed_call_rsp",
    "efibed_call_rsp: .zero 8",
    ".text",
    rflags = const rflags::FIXED,
    command_at = const offset_of!(Mailbox, command_at),
    abandoned = const offset_of!(Mailbox, services_abandoned),
    aborted = const EFI_ABORTED,
);
