//! The loops that access memory, in as few instructions for each access as possible.
//!
//! Registers while a probe loop runs, which the fault handlers rely on: RSI the record, RDI the address, RBX where to
//! resume, R12 the stack pointer there, R15 the one instruction that accesses. For ring 3, which could clobber them, the
//! same is kept in memory, and R15 is no instruction's address.
//!
//! In a sweep: RDI the page, RAX what a pair is written; R8 the next fault record, R9 the end of the records, R10 their
//! start.

use core::arch::global_asm;

use super::mailbox;
use crate::protocol::{
    Fault, MAX_FAULTS, MAX_PROBES, MAX_SWEEPS, PROBE_DONE, Probe, ProbeKind, SWEEP_BLOCK, SWEEP_GROUP, Sweep,
    USER_BASE, selector,
};

unsafe extern "C" {
    fn efibed_probe_read(records: *mut Probe, count: usize);
    fn efibed_probe_write(records: *mut Probe, count: usize);
    fn efibed_probe_fetch(records: *mut Probe, count: usize);
    fn efibed_probe_user(records: *mut Probe, count: usize, code: u64);
    fn efibed_sweep(ranges: *const Sweep, count: usize, faults: *mut Fault, faults_end: *mut Fault) -> *mut Fault;
    static efibed_user_text: u8;
    static efibed_user_read: u8;
    static efibed_user_write: u8;
    static efibed_user_fetch: u8;
}

/// Makes `count` accesses of one kind, from record `first` on.
pub(super) fn probe(first: usize, count: usize, kind: u64) {
    const READ: u64 = ProbeKind::Read as u64;
    const WRITE: u64 = ProbeKind::Write as u64;
    const FETCH: u64 = ProbeKind::Fetch as u64;
    const USER_READ: u64 = ProbeKind::UserRead as u64;
    const USER_WRITE: u64 = ProbeKind::UserWrite as u64;
    const USER_FETCH: u64 = ProbeKind::UserFetch as u64;
    if count == 0 || first >= MAX_PROBES || count > MAX_PROBES - first {
        return;
    }
    // SAFETY: the records lie in the mailbox, checked above; the loops save what the C calling convention preserves, and
    // every fault of theirs comes back to them.
    unsafe {
        let records = (&raw mut (*mailbox()).probes).cast::<Probe>().add(first);
        let user = |code: *const u8| {
            let offset = code.addr() - (&raw const efibed_user_text).addr();
            efibed_probe_user(records, count, USER_BASE + offset as u64);
        };
        match kind {
            READ => efibed_probe_read(records, count),
            WRITE => efibed_probe_write(records, count),
            FETCH => efibed_probe_fetch(records, count),
            USER_READ => user(&raw const efibed_user_read),
            USER_WRITE => user(&raw const efibed_user_write),
            USER_FETCH => user(&raw const efibed_user_fetch),
            _ => {}
        }
    }
}

/// Writes to every page of the first `count` ranges.
pub(super) fn sweep(count: usize) {
    if count == 0 || count > MAX_SWEEPS {
        return;
    }
    // SAFETY: the ranges and the fault records lie in the mailbox; otherwise as in `probe`.
    unsafe {
        let mail = mailbox();
        let faults = (&raw mut (*mail).faults).cast::<Fault>();
        let ranges = (&raw const (*mail).sweeps).cast::<Sweep>();
        let end = efibed_sweep(ranges, count, faults, faults.add(MAX_FAULTS));
        (*mail).fault_count = end.offset_from_unsigned(faults) as u64;
    }
}

/// The assembler's loops name pairs and groups one by one.
const _: () = assert!(SWEEP_GROUP == 5 && SWEEP_BLOCK == 8);

global_asm!(
    // (records, count)
    ".macro efibed_probe_loop name, access:vararg",
    ".globl \\name",
    "\\name:",
    "push rbx",
    "push r12",
    "push r13",
    "push r15",
    "mov rcx, rsi",
    "mov rsi, rdi",
    "lea rbx, [rip + 2f]",
    "lea r15, [rip + \\name\\()_access]",
    "mov r12, rsp",
    "1: mov rdi, [rsi]",
    "\\name\\()_access:",
    "\\access",
    "\\name\\()_done:",
    "mov [rsi + {value}], rax",
    "mov qword ptr [rsi + {status}], {done}",
    "2: add rsi, {probe_bytes}",
    "loop 1b",
    "pop r15",
    "pop r13",
    "pop r12",
    "pop rbx",
    "ret",
    ".endm",
    "",
    ".section .text.efibed_probes, \"ax\"",
    "efibed_probe_loop efibed_probe_read, mov rax, [rdi]",
    "efibed_probe_loop efibed_probe_write, mov [rdi], rdi",
    "efibed_probe_loop efibed_probe_fetch, call rdi",
    ".globl efibed_fetch_return",
    ".set efibed_fetch_return, efibed_probe_fetch_done",
    "",
    // (records, count, code): ring 3 is entered by IRETQ and left by a fault or, all being well, by UD2. The handler of both
    // goes on with the next record, and comes back here at the end.
    ".globl efibed_probe_user",
    "efibed_probe_user:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [efibed_user_record], rdi",
    "mov [efibed_user_count], rsi",
    "mov [efibed_user_code], rdx",
    "mov [efibed_user_resume_rsp], rsp",
    "mov rdi, [rdi]",
    "mov r15, -1",
    "mov rax, {user_stack_top}",
    "push {user_data}",
    "push rax",
    "push 2",
    "push {user_code}",
    "push rdx",
    "iretq",
    // On whatever stack, and without a stack segment.
    ".globl efibed_user_resume",
    "efibed_user_resume:",
    "mov eax, {kernel_data}",
    "mov ss, eax",
    "mov rsp, [efibed_user_resume_rsp]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "",
    // (ranges, count, faults, faults_end) -> the next free fault record. The handler of faults relies on the seven bytes of a
    // store to a pair, of which the last four are how far from RDI it is, and on the three bytes of a store to one page.
    ".macro efibed_sweep_pair group, pair",
    "mov [rdi + 8192 * (\\group * {group} + \\pair) + 4094 - \\pair], rax",
    ".endm",
    // The number goes on behind each group.
    ".macro efibed_sweep_group group",
    ".irp pair, 0, 1, 2, 3, 4",
    "efibed_sweep_pair \\group, \\pair",
    ".endr",
    "add rax, rdx",
    ".endm",
    ".globl efibed_sweep",
    "efibed_sweep:",
    "push rbx",
    "push r13",
    "push r14",
    "mov r8, rdx",
    "mov r9, rcx",
    "mov r10, rdx",
    "mov r11, rsi",
    "mov rsi, rdi",
    "movabs rdx, 0x1000000000001",
    "mov eax, 0",
    "1: mov rdi, [rsi]",
    "mov rcx, [rsi + {blocks}]",
    "test rcx, rcx",
    "jz 3f",
    ".globl efibed_sweep_pairs",
    "efibed_sweep_pairs:",
    "2:",
    ".irp group, 0, 1, 2, 3, 4, 5, 6, 7",
    "efibed_sweep_group \\group",
    ".endr",
    "add rdi, 8192 * {group} * {block}",
    // It is too far for LOOP.
    "dec rcx",
    "jnz 2b",
    "3: mov rcx, [rsi + {groups}]",
    "test rcx, rcx",
    "jz 5f",
    "4: efibed_sweep_group 0",
    "add rdi, 8192 * {group}",
    "loop 4b",
    "5: mov rcx, [rsi + {pairs}]",
    "test rcx, rcx",
    "jz 7f",
    "6: efibed_sweep_pair 0, 0",
    "add rdi, 8192",
    "add rax, rdx",
    "loop 6b",
    "7: mov rcx, [rsi + {singles}]",
    "test rcx, rcx",
    "jz 9f",
    ".globl efibed_sweep_singles",
    "efibed_sweep_singles:",
    "8: mov [rdi], rdi",
    "add rdi, 4096",
    "loop 8b",
    "jmp 9f",
    // A store to a pair has faulted: which of its pages, and whether the other one is reached, is seen one by one. R14 is the
    // first of them, R13 is behind the store.
    ".globl efibed_sweep_apart",
    "efibed_sweep_apart:",
    "mov rbx, rdi",
    "mov rdi, r14",
    "mov [rdi], rdi",
    "add rdi, 4096",
    "mov [rdi], rdi",
    "mov rdi, rbx",
    "jmp r13",
    ".globl efibed_sweep_end",
    "efibed_sweep_end:",
    "9: add rsi, {sweep_bytes}",
    "dec r11",
    "jnz 1b",
    "mov rax, r8",
    "pop r14",
    "pop r13",
    "pop rbx",
    "ret",
    "",
    // Ring 3's own page, mapped at USER_BASE.
    ".section .efibed.user, \"ax\"",
    ".globl efibed_user_text, efibed_user_read, efibed_user_write, efibed_user_fetch, efibed_user_done",
    "efibed_user_text:",
    "efibed_user_read: mov rax, [rdi]",
    "jmp efibed_user_done",
    "efibed_user_write: mov [rdi], rdi",
    "jmp efibed_user_done",
    "efibed_user_fetch: call rdi",
    "efibed_user_done: ud2",
    "",
    ".section .bss.efibed_user, \"aw\", @nobits",
    ".balign 8",
    ".globl efibed_user_record, efibed_user_count, efibed_user_code",
    "efibed_user_record: .zero 8",
    "efibed_user_count: .zero 8",
    "efibed_user_code: .zero 8",
    "efibed_user_resume_rsp: .zero 8",
    ".text",
    value = const core::mem::offset_of!(Probe, value),
    status = const core::mem::offset_of!(Probe, status),
    done = const PROBE_DONE,
    probe_bytes = const size_of::<Probe>(),
    sweep_bytes = const size_of::<Sweep>(),
    blocks = const core::mem::offset_of!(Sweep, blocks),
    groups = const core::mem::offset_of!(Sweep, groups),
    pairs = const core::mem::offset_of!(Sweep, pairs),
    singles = const core::mem::offset_of!(Sweep, singles),
    group = const SWEEP_GROUP,
    block = const SWEEP_BLOCK,
    user_stack_top = const USER_BASE + 2 * 4096,
    kernel_data = const selector::KERNEL_DATA,
    user_data = const selector::USER_DATA,
    user_code = const selector::USER_CODE,
);
