//! Calls of runtime services, and what becomes of those that do not return.
//!
//! A fault in a service is recorded, the service is abandoned, and no other is called from then on, as in Linux
//! (arch/x86/platform/efi/quirks.c, efi_crash_gracefully_on_page_fault). The host does the same with a service that never
//! returns, through the same label.

use core::arch::global_asm;
use core::mem::offset_of;

use efibed_stub::rflags;

use crate::protocol::{Command, EFI_ABORTED, EFI_UNSUPPORTED, Mailbox, OddCall, Op};

global_asm!(
    ".section .text.efibed_calls, \"ax\"",
    // All calls in a row, odd or not, are carried out here: what comes after a service was abandoned has a loop of its own, and no other
    // call asks. What lies between two calls needs no register but RSP: a service that was abandoned has left others.
    ".globl efibed_call",
    "efibed_call:",
    // Room for the four arguments in registers, the fifth behind it, then the command, and RSP a multiple of 16 (UEFI 2.10,
    // 2.3.4.2).
    "sub rsp, 48",
    "mov [efibed_call_rsp], rsp",
    "cmp qword ptr [EFIBED_MAILBOX + {abandoned}], 0",
    "jne 7f",
    "cmp qword ptr [rbp + {op}], {call}",
    "jne 4f",
    "1: mov [rsp + 40], rbp",
    "2: mov rax, [rbp + {arguments}]",
    "mov rcx, [rbp + {arguments} + 8]",
    "mov rdx, [rbp + {arguments} + 16]",
    "mov r8, [rbp + {arguments} + 24]",
    "mov r9, [rbp + {arguments} + 32]",
    "mov rdi, [rbp + {arguments} + 40]",
    "mov [rsp + 32], rdi",
    "call rax",
    "mov rsp, [efibed_call_rsp]",
    "push {rflags}",
    "popfq",
    "mov rbp, [rsp + 40]",
    "mov [rbp + {result}], rax",
    "add qword ptr [EFIBED_MAILBOX + {command_at}], 1",
    "add rbp, {command_bytes}",
    "cmp rbp, [efibed_batch_end]",
    "je 5f",
    "cmp qword ptr [rbp + {op}], {call}",
    "je 1b",
    "cmp qword ptr [rbp + {op}], {odd_call}",
    "jne 5f",
    "4: mov [rsp + 40], rbp",
    "sub rsp, [EFIBED_MAILBOX + {odd_stack}]",
    "push [EFIBED_MAILBOX + {odd_rflags}]",
    "popfq",
    "jmp 2b",
    "5: mov qword ptr [efibed_call_rsp], 0",
    "add rsp, 48",
    "jmp efibed_command",
    "",
    // From the handler of a fault, or by the host's hand: on whatever stack, with whatever flags.
    ".globl efibed_call_abandon",
    "efibed_call_abandon:",
    "mov rsp, [efibed_call_rsp]",
    "push {rflags}",
    "popfq",
    "mov rax, [EFIBED_MAILBOX + {command_at}]",
    "add rax, 1",
    "mov [EFIBED_MAILBOX + {abandoned}], rax",
    "mov rbp, [rsp + 40]",
    "movabs rax, {aborted}",
    // The calls after it are not made.
    "6: mov [rbp + {result}], rax",
    "add qword ptr [EFIBED_MAILBOX + {command_at}], 1",
    "add rbp, {command_bytes}",
    "cmp rbp, [efibed_batch_end]",
    "je 5b",
    "cmp qword ptr [rbp + {op}], {call}",
    "je 7f",
    "cmp qword ptr [rbp + {op}], {odd_call}",
    "jne 5b",
    "7: movabs rax, {unsupported}",
    "jmp 6b",
    "",
    ".section .bss.efibed_calls, \"aw\", @nobits",
    ".balign 8",
    ".globl efibed_call_rsp",
    "efibed_call_rsp: .zero 8",
    ".text",
    rflags = const rflags::FIXED,
    command_at = const offset_of!(Mailbox, command_at),
    abandoned = const offset_of!(Mailbox, services_abandoned),
    odd_stack = const offset_of!(Mailbox, odd_call) + offset_of!(OddCall, stack_bytes),
    odd_rflags = const offset_of!(Mailbox, odd_call) + offset_of!(OddCall, rflags),
    arguments = const offset_of!(Command, args),
    result = const offset_of!(Command, result),
    op = const offset_of!(Command, op),
    call = const Op::Call as u64,
    odd_call = const Op::OddCall as u64,
    command_bytes = const size_of::<Command>(),
    aborted = const EFI_ABORTED,
    unsupported = const EFI_UNSUPPORTED,
);
