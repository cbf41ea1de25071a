//! Linux on x86-64: `show_fault_oops()` and `dump_pagetable()` of arch/x86/mm/fault.c, `__show_regs()`, and for faults that the
//! kernel itself blames on firmware `efi_crash_gracefully_on_page_fault()` of arch/x86/platform/efi/quirks.c.
//!
//! ```text
//! BUG: unable to handle page fault for address: fffffffef694b1b9
//! #PF: supervisor instruction fetch in kernel mode
//! #PF: error_code(0x0011) - permissions violation
//! PGD 85b157067 P4D 85b157067 PUD 85b15a063 PMD 85b163063 PTE 800000007954b063
//! Oops: 0011 [#1] SMP NOPTI
//! RIP: 0010:0xfffffffef694b1b9
//! CR2: fffffffef694b1b9 CR3: 000000085b156000 CR4: 00000000003606f0
//! ```
//!
//! Older ones say `BUG: unable to handle kernel paging request at ADDRESS`, `IP: [<ADDRESS>] SYMBOL`, and print each level of
//! the tables on a line of its own. Before there are handlers it is `PANIC: early exception 0x0e IP 10:... error 2 cr2 ...`.

use super::super::fault::{Entry, Fault, Printer};
use super::form::{Form, keep, keep_entry, keep_instruction, keep_names, keep_registers};
use super::scan::{after, bracketed, number, number_after, register, symbol};
use crate::mmu::{ErrorCode, Level};

pub const FORM: Form =
    Form { printer: Printer::Linux, begins, resumes, continues: |_, _| false, take, is_page_fault, ends };

const HEADS: [&str; 4] =
    ["BUG: unable to handle ", "BUG: kernel NULL pointer dereference", "Unable to handle kernel ", FIRMWARE_BUG];
const FIRMWARE_BUG: &str = "Page fault caused by firmware at PA";
/// The function that says so. It is not at fault.
const MESSENGER: &str = "efi_crash_gracefully_on_page_fault";
const EARLY: &str = "PANIC: early exception";

fn begins(line: &str) -> bool {
    // ARM, RISC-V and others say `at virtual address`.
    let is_other = line.contains("at virtual address");
    let is_head = HEADS.iter().any(|head| line.contains(head)) && !is_other;
    is_head || is_lost_head(line) || is_early(line) || is_efis_own(line)
}

/// An error code without a head: the log begins after it.
fn resumes(line: &str) -> bool {
    code(line).is_some()
}

/// `BUG: fffffffef694b1b9`: what is left of a head whose words were lost.
fn is_lost_head(line: &str) -> bool {
    after(line, "BUG: ").is_some_and(|rest| {
        let word = rest.trim_end();
        word.len() == 16 && number(word).is_some()
    })
}

fn is_early(line: &str) -> bool {
    let vector = after(line, EARLY).map(|rest| rest.trim_start());
    vector.and_then(|rest| number(rest.split(' ').next()?)) == Some(PAGE_FAULT)
}

/// The vector of #PF (SDM vol. 3A, 6.15).
const PAGE_FAULT: u64 = 14;

/// `efi: ... PAGE FAULT ...`, of the handlers that kernels have had for services that fault.
fn is_efis_own(line: &str) -> bool {
    line.contains("efi: ") && line.contains("PAGE FAULT")
}

fn ends(line: &str) -> bool {
    line.contains("---[ end trace") || line.contains("---[ end Kernel panic")
}

fn is_page_fault(fault: &Fault) -> bool {
    fault.address.is_some() || fault.code.is_some()
}

fn take(fault: &mut Fault, line: &str) {
    if line.contains(FIRMWARE_BUG) {
        fault.is_firmwares_by_kernel = true;
    }
    keep(&mut fault.address, address(line));
    keep(&mut fault.code, code(line));
    instruction_pointer(fault, line);
    keep(&mut fault.pid, after(line, "PID: ").and_then(|rest| rest.split(' ').next()?.parse().ok()));
    keep(&mut fault.cr3, register(line, "CR3"));
    keep(&mut fault.cr4, register(line, "CR4"));
    tables(fault, line);
    // The kernel's own message about firmware has registers and code of two places: first its own.
    if !fault.is_firmwares_by_kernel || fault.rip.is_some() {
        keep_registers(fault, line);
        // `show_opcodes()` of arch/x86/kernel/dumpstack.c.
        after(line, "Code: ").into_iter().for_each(|bytes| keep_instruction(fault, bytes));
    }
    keep_names(fault, line);
    // The queue of Linux's calls, which is no symbol: `Workqueue: efi_rts_wq efi_call_rts`.
    if let Some(queue) = after(line, "Workqueue: ") {
        fault.names.extend(queue.split_whitespace().take(2).map(|name| name.chars().take(64).collect()));
    }
}

/// The address of a head, or CR2.
fn address(line: &str) -> Option<u64> {
    if line.contains("NULL pointer dereference") && line.contains("(null)") {
        return Some(0);
    }
    let is_head = begins(line);
    let labels = ["address: ", "request at ", "dereference at ", "firmware at PA: ", "BUG: ", "PAGE FAULT at ", "cr2 "];
    let of_head = labels.into_iter().filter(|_| is_head).find_map(|label| number_after(line, label));
    of_head.or_else(|| register(line, "CR2"))
}

/// `#PF: error_code(0x0011)`, `Oops: 0011 [#1]`, `Oops: Oops: 0011 [#1]`, and `error 2 cr2` of an early exception.
fn code(line: &str) -> Option<ErrorCode> {
    let printed = number_after(line, "#PF: error_code");
    let oops = || number(after(line, "Oops: ").map(|rest| rest.trim_start_matches("Oops: "))?);
    let early = || is_early(line).then(|| number_after(line, " error "))?;
    let code = printed.or_else(oops).or_else(early)?;
    u32::try_from(code).ok().map(ErrorCode)
}

/// `RIP: 0010:SYMBOL+0x76/0xc0 [module]`, `RIP: 0010:[<ADDRESS>]  [<ADDRESS>] SYMBOL+...`, `RIP: 0010:0xADDRESS`, `IP: ...`.
fn instruction_pointer(fault: &mut Fault, line: &str) {
    let labels = ["RIP: ", "IP: ", "RIP ", "rip ", " IP "];
    let Some(rest) = labels.into_iter().find_map(|label| after(line, label)) else { return };
    let rest = rest.trim_start();
    let (selector, place) = match rest.split_once(':') {
        Some((selector, place)) if selector.len() <= 4 && number(selector).is_some() => (number(selector), place),
        _ => (None, rest),
    };
    let word = place.split_whitespace().next().unwrap_or_default();
    let is_early = is_early(line);
    let plain = || (word.starts_with("0x") || is_early).then(|| number(word))?;
    let (found, name) = (bracketed(place).or_else(plain), place.split_whitespace().take(3).find_map(symbol));
    if found.is_none() && name.is_none() || name == Some(MESSENGER) {
        return;
    }
    keep(&mut fault.cs, selector);
    keep(&mut fault.rip, found);
    keep(&mut fault.symbol, name.map(str::to_owned));
}

/// `PGD 3400067 P4D 3400067 PUD 35a7067 PMD 35a8067 PTE 800000fffffee163`, on one line or on several.
///
/// Without five-level paging Linux prints P4D as a copy of PGD (4.12 and later), or not at all.
fn tables(fault: &mut Fault, line: &str) {
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        let level = match word {
            "PGD" => Level::Pml5e,
            "P4D" => Level::Pml4e,
            "PUD" => Level::Pdpte,
            "PMD" => Level::Pde,
            "PTE" => Level::Pte,
            _ => continue,
        };
        let Some(value) = words.clone().next().and_then(number) else { continue };
        keep_entry(&mut fault.entries, Entry { level, value });
    }
}

/// PGD is the top entry: of five levels with CR4.LA57 (bit 12; SDM vol. 3A, 2.5), or where P4D is another value.
pub fn settle_levels(fault: &mut Fault) {
    const LA57: u64 = 1 << 12;
    let value = |level| fault.entries.iter().find(|entry| entry.level == level).map(|entry| entry.value);
    let (pgd, p4d) = (value(Level::Pml5e), value(Level::Pml4e));
    let is_told = fault.cr4.map(|cr4| cr4 & LA57 != 0);
    let has_five = is_told.unwrap_or(p4d.is_some() && pgd != p4d && pgd != Some(0));
    if has_five || pgd.is_none() {
        return;
    }
    fault.entries.retain(|entry| entry.level != Level::Pml4e);
    for entry in &mut fault.entries {
        if entry.level == Level::Pml5e {
            entry.level = Level::Pml4e;
        }
    }
}
