//! FreeBSD: `trap_fatal()` of sys/amd64/amd64/trap.c. The error code is in words.
//!
//! ```text
//! Fatal trap 12: page fault while in kernel mode
//! fault virtual address   = 0x18
//! fault code              = supervisor read data, page not present
//! instruction pointer     = 0x20:0xffffffff806ca653
//! ```

use super::super::fault::{Fault, Printer};
use super::form::{Form, keep, keep_names, keep_registers};
use super::scan::{after, number, number_after};
use crate::mmu::ErrorCode;
use crate::report::explain::read_error_code;

pub const FORM: Form =
    Form { printer: Printer::FreeBsd, begins, resumes: |_| false, continues: |_, _| false, take, is_page_fault, ends };

fn begins(line: &str) -> bool {
    line.contains("Fatal trap 12: page fault")
}

fn ends(line: &str) -> bool {
    line.contains("Uptime: ")
}

fn is_page_fault(fault: &Fault) -> bool {
    fault.address.is_some() || fault.code.is_some()
}

fn take(fault: &mut Fault, line: &str) {
    keep(&mut fault.address, number_after(line, "fault virtual address"));
    if line.contains("fault code") {
        keep(&mut fault.code, read_error_code(line).map(|printed| ErrorCode(printed.code)));
    }
    if let Some((selector, rip)) = after(line, "instruction pointer").and_then(|rest| rest.split_once(':')) {
        keep(&mut fault.cs, number(selector));
        keep(&mut fault.rip, number(rip));
    }
    keep_registers(fault, line);
    keep_names(fault, line);
}
