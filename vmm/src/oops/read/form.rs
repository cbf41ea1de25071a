//! How a printer's faults are read: where one begins, what a line of it adds, and whether it was a page fault at all.

use super::super::fault::{Entry, Fault, Printer};
use super::scan::symbol;

/// The way of one printer.
pub struct Form {
    /// Who prints it.
    pub printer: Printer,
    /// Whether a fault begins in this line.
    pub begins: fn(line: &str) -> bool,
    /// Whether this line is from the middle of a fault, which may have lost its beginning.
    pub resumes: fn(line: &str) -> bool,
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
