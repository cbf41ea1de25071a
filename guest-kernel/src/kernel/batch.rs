//! The loop that carries out the commands of a batch.
//!
//! Where ring 0 is emulated every instruction takes its time, and a command often makes one access or one call. So it takes
//! seven instructions to come to a command, and what carries it out finds all in its place: RBP is the command, a multiple of
//! 16 is in RSP, and every other register is free. It goes on by a jump to `efibed_next_command`. The host vouches for what
//! is in a command, and for a number of them that fits.

use core::arch::global_asm;
use core::mem::offset_of;

use super::are_in_order;
use crate::protocol::{Command, Mailbox, Op};

unsafe extern "C" {
    /// Carries out batches forever.
    pub(super) safe fn efibed_batches() -> !;
}

const _: () = assert!(are_in_order(&[
    Op::LoadRoot as u64,
    Op::Call as u64,
    Op::OddCall as u64,
    Op::Sweep as u64,
    Op::Probe as u64,
    Op::Try as u64,
]));

global_asm!(
    ".section .rodata.efibed_batch, \"a\"",
    ".balign 8",
    "efibed_ops: .quad efibed_load_root, efibed_call, efibed_call, efibed_sweep, efibed_probe, efibed_try",
    "",
    ".section .text.efibed_batch, \"ax\"",
    ".globl efibed_batches, efibed_next_command, efibed_command_done, efibed_batch_done",
    "efibed_batches:",
    "and rsp, -16",
    "1: mov ecx, [EFIBED_MAILBOX + {command_count}]",
    "imul rcx, rcx, {command_bytes}",
    "mov rbp, offset EFIBED_MAILBOX + {commands}",
    "add rcx, rbp",
    "mov [efibed_batch_end], rcx",
    "jmp efibed_command",
    "",
    // With a result, in RAX.
    "efibed_command_done:",
    "mov [rbp + {result}], rax",
    "efibed_next_command:",
    "add qword ptr [EFIBED_MAILBOX + {command_at}], 1",
    "add rbp, {command_bytes}",
    "efibed_command:",
    "cmp rbp, [efibed_batch_end]",
    "je 2f",
    "mov rax, [rbp + {op}]",
    "jmp [efibed_ops + 8 * rax]",
    "2: hlt",
    "efibed_batch_done:",
    "jmp 1b",
    "",
    // The host walked these tables and found all of the kernel's own ranges in them.
    "efibed_load_root:",
    "mov rax, [rbp + {arguments}]",
    "mov cr3, rax",
    "jmp efibed_next_command",
    "",
    ".section .bss.efibed_batch, \"aw\", @nobits",
    ".balign 8",
    ".globl efibed_batch_end",
    "efibed_batch_end: .zero 8",
    ".text",
    command_count = const offset_of!(Mailbox, command_count),
    command_at = const offset_of!(Mailbox, command_at),
    commands = const offset_of!(Mailbox, commands),
    command_bytes = const size_of::<Command>(),
    op = const offset_of!(Command, op),
    arguments = const offset_of!(Command, args),
    result = const offset_of!(Command, result),
);
