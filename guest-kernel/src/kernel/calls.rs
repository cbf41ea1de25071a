//! Calls of runtime services, and what becomes of those that do not return.
//!
//! A fault in a service is recorded, the service is abandoned, and no other is called from then on, as in Linux
//! (arch/x86/platform/efi/quirks.c, efi_crash_gracefully_on_page_fault). The host does the same with a service that never
//! returns, through the same label.

use core::arch::global_asm;
use core::mem::offset_of;

use efibed_stub::rflags;

use crate::protocol::{Command, EFI_ABORTED, EFI_UNSUPPORTED, Mailbox, OddCall, Op};

unsafe extern "C" {
    /// Carries out the calls from `first` on, until one is no call or `end` is reached, and returns where that is. The mailbox's
    /// `command_at` must be that of `first`, and goes on with each.
    ///
    /// Each service is called at its entry with the EFI calling convention, unless one has been abandoned. What firmware may
    /// not change is saved, and a fault comes back there.
    ///
    /// # Safety
    ///
    /// The commands must be in the mailbox, `first` before `end`, and `first` a call. The host vouches for the addresses in
    /// them: firmware's entry points on the tables that are loaded.
    pub(super) fn efibed_calls(first: *mut Command, end: *mut Command) -> *mut Command;
}

global_asm!(
    ".section .text.efibed_calls, \"ax\"",
    // (first, end) -> the first that was not made. Where ring 0 is emulated, all calls of a batch but one, the odd one, take
    // the shortest way. What lies between two calls needs no register but RSP: a service that was abandoned has left others.
    ".globl efibed_calls",
    "efibed_calls:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    // Room for the four arguments in registers, the fifth behind it, then our own two words, and RSP a multiple of 16 (UEFI
    // 2.10, 2.3.4.2).
    "sub rsp, 56",
    "mov [efibed_call_rsp], rsp",
    "mov [rsp + 48], rsi",
    "1: mov [rsp + 40], rdi",
    "cmp qword ptr [EFIBED_MAILBOX + {abandoned}], 0",
    "jne 6f",
    "mov rax, [EFIBED_MAILBOX + {command_at}]",
    "add rax, 1",
    "cmp rax, [EFIBED_MAILBOX + {odd_command}]",
    "je 7f",
    "2: mov rax, [rdi + {arguments}]",
    "mov rcx, [rdi + {arguments} + 8]",
    "mov rdx, [rdi + {arguments} + 16]",
    "mov r8, [rdi + {arguments} + 24]",
    "mov r9, [rdi + {arguments} + 32]",
    "mov rdi, [rdi + {arguments} + 40]",
    "mov [rsp + 32], rdi",
    "call rax",
    "3: mov rsp, [efibed_call_rsp]",
    "push {rflags}",
    "popfq",
    "4: mov rdi, [rsp + 40]",
    "mov [rdi + {result}], rax",
    "add qword ptr [EFIBED_MAILBOX + {command_at}], 1",
    "add rdi, {command_bytes}",
    "cmp rdi, [rsp + 48]",
    "je 5f",
    "cmp qword ptr [rdi + {op}], {call}",
    "je 1b",
    "5: mov rax, rdi",
    "mov qword ptr [efibed_call_rsp], 0",
    "add rsp, 56",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "6: movabs rax, {unsupported}",
    "jmp 4b",
    "7: sub rsp, [EFIBED_MAILBOX + {odd_stack}]",
    "push [EFIBED_MAILBOX + {odd_rflags}]",
    "popfq",
    "jmp 2b",
    "",
    // From the handler of a fault, or by the host's hand: on whatever stack, with whatever flags.
    ".globl efibed_call_abandon",
    "efibed_call_abandon:",
    "mov rax, [EFIBED_MAILBOX + {command_at}]",
    "add rax, 1",
    "mov [EFIBED_MAILBOX + {abandoned}], rax",
    "movabs rax, {aborted}",
    "jmp 3b",
    "",
    ".section .bss.efibed_calls, \"aw\", @nobits",
    ".balign 8",
    ".globl efibed_call_rsp",
    "efibed_call_rsp: .zero 8",
    ".text",
    rflags = const rflags::FIXED,
    command_at = const offset_of!(Mailbox, command_at),
    abandoned = const offset_of!(Mailbox, services_abandoned),
    odd_command = const offset_of!(Mailbox, odd_call) + offset_of!(OddCall, command),
    odd_stack = const offset_of!(Mailbox, odd_call) + offset_of!(OddCall, stack_bytes),
    odd_rflags = const offset_of!(Mailbox, odd_call) + offset_of!(OddCall, rflags),
    arguments = const offset_of!(Command, args),
    result = const offset_of!(Command, result),
    op = const offset_of!(Command, op),
    call = const Op::Call as u64,
    command_bytes = const size_of::<Command>(),
    aborted = const EFI_ABORTED,
    unsupported = const EFI_UNSUPPORTED,
);
