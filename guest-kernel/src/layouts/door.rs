//! The layouts behind the C ABI: the way into a second build of this crate, whose code counts what it runs.
//!
//! That build is a library by itself, as one in C is: of the program that it is linked to it knows two functions of C's, and
//! memcpy. A program that is optimized when it is linked has nothing else for it: what such a program takes of Rust's own libraries
//! is not there under its name. So a panic does not unwind. It is written to the log, and leaves by the stack pointer that was
//! kept when the library was entered. Nothing is dropped then, and the layouts have nothing that must be.

use core::arch::global_asm;
use core::fmt::Write as _;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{Layout, LayoutMapper};
use crate::mapper::{LeafRule, Log, MapRequest, MapResult, MapStatus, Step, carry_out};

unsafe extern "C" {
    fn efibed_counted_leave() -> !;
}

// `efibed_counted_layout`, whose arguments are those of `carry_out_layout`. A call keeps RBX, RBP and R12 to R15 (System V ABI
// for x86-64, 3.2.1).
global_asm!(
    ".pushsection .text.efibed_counted, \"ax\"",
    ".globl efibed_counted_layout",
    "efibed_counted_layout:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov [rip + efibed_counted_rsp], rsp",
    "call {carry_out}",
    "jmp 1f",
    "efibed_counted_leave:",
    "mov rsp, [rip + efibed_counted_rsp]",
    "1: add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    ".pushsection .bss.efibed_counted, \"aw\", @nobits",
    ".balign 8",
    "efibed_counted_rsp: .zero 8",
    ".popsection",
    carry_out = sym carry_out_layout,
);

/// What is being carried out, for a panic.
static REQUEST: AtomicPtr<MapRequest> = AtomicPtr::new(ptr::null_mut());
static RESULT: AtomicPtr<MapResult> = AtomicPtr::new(ptr::null_mut());

/// Carries out a step of the mapper with that layout and leaf rule, by their places in `Layout::ALL` and `LeafRule::ALL`. If it
/// panics, the status says so, and the log has the account.
///
/// # Safety
/// As [`carry_out`], for what `request` and `result` point to. One thread at a time.
unsafe extern "C" fn carry_out_layout(
    layout: usize,
    leaf_rule: usize,
    finishes: bool,
    request: *const MapRequest,
    result: *mut MapResult,
) {
    REQUEST.store(request.cast_mut(), Ordering::Relaxed);
    RESULT.store(result, Ordering::Relaxed);
    let mut mapper = LayoutMapper { layout: Layout::ALL[layout], leaf_rule: LeafRule::ALL[leaf_rule] };
    let step = if finishes { Step::Finish } else { Step::Map };
    // SAFETY: as the caller vouches.
    unsafe { carry_out(&mut mapper, step, &*request, &mut *result) };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (request, result) = (REQUEST.load(Ordering::Relaxed), RESULT.load(Ordering::Relaxed));
    // SAFETY: both live for the call that has panicked, and the mapper, which holds the log otherwise, has come to its end. The
    // code that is left holds nothing that must be dropped.
    unsafe {
        (*result).status = MapStatus::Panicked as u64;
        (*result).detail = (*result).log_used;
        let mut log = Log::of(&*request, &mut (*result).log_used);
        // The log takes what it can.
        let _ = match info.location() {
            Some(location) => writeln!(log, "panicked at {location}: {}", info.message()),
            None => writeln!(log, "panicked: {}", info.message()),
        };
        efibed_counted_leave()
    }
}
