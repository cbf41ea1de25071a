//! How a printer's faults are read: where one begins, what a line of it adds, and whether it was a page fault at all.

use super::super::fault::{Entry, Fault, Printer};
use super::super::instruction::NAMES;
use super::scan::{register, symbol};

/// The way of one printer.
pub struct Form {
    /// Who prints it.
    pub printer: Printer,
    /// Whether a fault begins in this line.
    pub begins: fn(line: &str) -> bool,
    /// Whether this line is from the middle of a fault, which may have lost its beginning.
    pub resumes: fn(line: &str) -> bool,
    /// Whether this line, which would begin a fault, is of the one that is being read.
    pub continues: fn(fault: &Fault, line: &str) -> bool,
    /// Takes what a line tells, from that in which it begins. The first line to tell something decides.
    pub take: fn(fault: &mut Fault, line: &str),
    /// Whether what was taken is a page fault. Other exceptions begin alike.
    pub is_page_fault: fn(fault: &Fault) -> bool,
    /// Whether nothing of the fault follows this line.
    pub ends: fn(line: &str) -> bool,
}

/// Keeps the first of what several lines tell.
pub fn keep<T>(slot: &mut Option<T>, found: Option<T>) {
    if slot.is_none() {
        *slot = found;
    }
}

/// Keeps the first entry of each level.
pub fn keep_entry(entries: &mut Vec<Entry>, entry: Entry) {
    if entries.iter().all(|kept| kept.level != entry.level) {
        entries.push(entry);
    }
}

/// The most symbols that are kept of a fault. Linux prints some dozens.
const MAX_NAMES: usize = 256;

/// Keeps the symbols of a line. One behind a `?` is what was left on the stack by an earlier call, and tells nothing.
pub fn keep_names(fault: &mut Fault, line: &str) {
    let room = MAX_NAMES.saturating_sub(fault.names.len());
    let mut is_left_over = false;
    let words = line.split_whitespace().filter(|word| {
        let is_sound = !is_left_over;
        is_left_over = *word == "?";
        is_sound
    });
    fault.names.extend(words.filter_map(symbol).take(room).map(str::to_owned));
}

/// Keeps the general-purpose registers of a line. Linux writes R8 as `R08`.
pub fn keep_registers(fault: &mut Fault, line: &str) {
    for (slot, name) in fault.registers.iter_mut().zip(NAMES) {
        let padded = || name.strip_prefix('r').map(|number| register(line, &format!("r0{number}")))?;
        keep(slot, register(line, name).or_else(padded));
    }
}

/// Keeps the bytes of an instruction: those from the one in `<>` on, to which RIP points, in a line of bytes.
pub fn keep_instruction(fault: &mut Fault, bytes: &str) {
    if !fault.instruction.is_empty() {
        return;
    }
    let Some((_, rest)) = bytes.split_once('<') else { return };
    let bytes = rest.split_whitespace().map(|byte| byte.trim_end_matches('>'));
    let bytes = bytes.map_while(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2));
    fault.instruction = bytes.take(LONGEST_INSTRUCTION).collect();
}

/// SDM vol. 2A, 2.3.11.
const LONGEST_INSTRUCTION: usize = 15;
