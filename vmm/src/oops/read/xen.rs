//! Xen: `do_page_fault()` of xen/arch/x86/traps.c, `show_registers()`, and `show_page_walk()`. Registers come first, and why
//! they are printed last.
//!
//! ```text
//! (XEN) ----[ Xen-4.19-unstable  x86_64  debug=y  Not tainted ]----
//! (XEN) RIP:    e008:[<0000000062ccfa70>] 0000000062ccfa70
//! (XEN) cr3: 000000006e0a2000   cr2: 0000000062ccfa70
//! (XEN) Pagetable walk from 0000000062ccfa70:
//! (XEN)  L4[0x000] = 000000103b8ed063 ffffffffffffffff
//! (XEN)  L2[0x116] = 8000000062c001e3 ffffffffffffffff
//! (XEN) FATAL PAGE FAULT
//! (XEN) [error_code=0011]
//! (XEN) Faulting linear address: 0000000062ccfa70
//! ```
//!
//! Of a guest, and of itself before it has handlers, it prints the walk or the code first, and then the registers; a release
//! build prints no code of a guest (`pv_inject_event()`, `early_page_fault()`):
//!
//! ```text
//! (XEN) d0:v0: unhandled page fault (ec=0000)
//! (XEN) Early fatal page fault at e008:ffff82d0403b38e0 (cr2=0000000001100202, ec=0009)
//! (XEN) Pagetable walk from ffffea000005b2d0:
//! (XEN) ----[ Xen-4.1.5-pre  x86_64  debug=y  Tainted:    C ]----
//! ```

use super::super::fault::{Entry, Fault, Printer};
use super::form::{Form, keep, keep_entry, keep_instruction, keep_names, keep_registers};
use super::scan::{after, bracketed, number, number_after, register};
use crate::mmu::{ErrorCode, Level};

pub const FORM: Form = Form { printer: Printer::Xen, begins, resumes, continues, take, is_page_fault, ends };

fn begins(line: &str) -> bool {
    is_head(line) || CODES.iter().any(|label| line.contains("page fault") && line.contains(label))
}

fn is_head(line: &str) -> bool {
    line.contains("----[ Xen-")
}

fn resumes(line: &str) -> bool {
    line.contains("Pagetable walk from ")
}

/// The registers come after the walk or the code.
fn continues(fault: &Fault, line: &str) -> bool {
    is_head(line) && fault.rip.is_none() && is_page_fault(fault)
}

/// What stands before the code in the first line.
const CODES: [&str; 2] = ["(ec=", ", ec="];

/// What an address is printed after that was not there to be reached.
fn ends(line: &str) -> bool {
    line.contains("Faulting linear address") || line.contains("Reboot in ") || line.contains("Manual reset required")
}

/// Every crash has registers; only a page fault has a code, or a walk.
fn is_page_fault(fault: &Fault) -> bool {
    fault.code.is_some() || !fault.entries.is_empty()
}

fn take(fault: &mut Fault, line: &str) {
    let walked = ["Faulting linear address: ", "Pagetable walk from "];
    keep(&mut fault.address, walked.into_iter().find_map(|label| number_after(line, label)));
    keep(&mut fault.address, register(line, "cr2"));
    let codes = ["error_code", "#PF["].into_iter().chain(CODES);
    let code = codes.into_iter().find_map(|label| number_after(line, label)).and_then(|code| u32::try_from(code).ok());
    keep(&mut fault.code, code.map(ErrorCode));
    keep(&mut fault.cr3, register(line, "cr3"));
    keep(&mut fault.cr4, register(line, "cr4"));
    if let Some((selector, place)) = after(line, "RIP:").and_then(|rest| rest.trim_start().split_once(':')) {
        keep(&mut fault.cs, number(selector));
        keep(&mut fault.rip, bracketed(place));
        keep(&mut fault.symbol, place.split_whitespace().find_map(super::scan::symbol).map(str::to_owned));
    }
    keep_registers(fault, line);
    if is_code(line) {
        keep_instruction(fault, line);
    }
    tables(fault, line);
    keep_names(fault, line);
}

/// The line below `Xen code around`: bytes, that at RIP in `<>`.
fn is_code(line: &str) -> bool {
    let is_byte = |word: &&str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    line.split_whitespace().filter(is_byte).count() >= MIN_CODE_BYTES && line.contains(" <")
}

/// Of the thirty-two that Xen prints, some may be unreadable.
const MIN_CODE_BYTES: usize = 8;

/// ` L4[0x000] = 000000103b8ed063 ffffffffffffffff`: the entry, and the guest's frame number.
fn tables(fault: &mut Fault, line: &str) {
    let levels =
        [("L5[", Level::Pml5e), ("L4[", Level::Pml4e), ("L3[", Level::Pdpte), ("L2[", Level::Pde), ("L1[", Level::Pte)];
    for (label, level) in levels {
        let value = after(line, label).and_then(|rest| number_after(rest, "] = "));
        if let Some(value) = value {
            keep_entry(&mut fault.entries, Entry { level, value });
        }
    }
}
