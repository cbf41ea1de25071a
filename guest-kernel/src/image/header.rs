//! The header at the start of the image, the entry point, and the stacks.

use core::arch::global_asm;

use crate::protocol::{IST_BYTES, MAGIC, USER_BASE, VERSION};

/// Of the main stack. The deepest path, a mapper's recursion over five levels, takes a small part of it.
const STACK_BYTES: u64 = 32 * 1024;

// An `ImageHeader`, field by field: a Rust static could not hold labels that only the linker knows.
global_asm!(
    ".section .efibed.header, \"a\"",
    ".quad {magic}, {version}",
    ".quad efibed_entry",
    ".quad efibed_stack_top",
    ".quad EFIBED_MAILBOX",
    ".quad efibed_descriptor_tables",
    ".quad efibed_vectors",
    ".quad efibed_trial_vectors",
    ".quad efibed_ist + {ist_bytes}",
    ".quad efibed_user_text",
    ".quad efibed_user_stack",
    ".quad efibed_fetch_return",
    ".globl efibed_user_done_at",
    "efibed_user_done_at: .quad {user_base} + (efibed_user_done - efibed_user_text)",
    ".quad efibed_call_abandon",
    ".quad efibed_call_rsp",
    ".quad efibed_edge",
    ".quad efibed_read_only_end",
    ".quad efibed_end",
    "",
    ".section .efibed.tables, \"a\"",
    "efibed_descriptor_tables: .zero 4096",
    "",
    ".section .efibed.stacks, \"aw\", @nobits",
    ".balign 4096",
    "efibed_stack: .zero {stack_bytes}",
    "efibed_stack_top:",
    "efibed_ist: .zero 7 * {ist_bytes}",
    "efibed_user_stack: .zero 4096",
    ".section .efibed.edge, \"aw\", @nobits",
    ".balign 4096",
    "efibed_edge: .zero 4096",
    "",
    ".section .text.efibed_entry, \"ax\"",
    ".globl efibed_entry",
    "efibed_entry:",
    "xor ebp, ebp",
    "call efibed_main",
    "ud2",
    ".text",
    magic = const MAGIC,
    version = const VERSION,
    user_base = const USER_BASE,
    ist_bytes = const IST_BYTES,
    stack_bytes = const STACK_BYTES,
);
