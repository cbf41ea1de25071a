//! What `efibed explain` says.
//!
//! | file | holds |
//! | --- | --- |
//! | this one | rules, and a page fault's error code |
//! | `printed` | error codes as programs print them |
//! | `address` | an address under a map |
//! | `entry` | a table entry, bit by bit |

mod address;
mod entry;
mod printed;

pub use address::{Ground, explain_address, explain_physical};
pub use entry::explain_entry;
pub use printed::{Printed, read_error_code};

use super::error_code;
use super::style::Paint;
use crate::check::{Rule, Severity, memory_type};
use crate::mmu::{ErrorCode, Fault, Outcome, Translation};

/// A rule: its name, how bad it is, what it says, what causes it and what to look at. `columns` are the terminal's; None:
/// the text is for a file or a pipe.
pub fn explain_rule(rule: Rule, columns: Option<usize>) -> String {
    let paint = Paint::PLAIN.on(columns);
    let severity = match rule.severity() {
        Severity::Error => "the mapping, or the memory map, is wrong",
        Severity::Doubt => "the witnesses do not agree, so the mapping may be right",
    };
    let mut lines = paint.wrapped(&format!("{rule} ({}: {severity})", rule.severity().name()), 2);
    lines.push(String::new());
    lines.extend(paint.wrapped(rule.summary(), 0));
    lines.push(String::new());
    lines.extend(paint.wrapped(rule.explanation(), 0));
    joined(&lines)
}

/// Every rule with its sentence, one below the other.
pub fn list_rules(columns: Option<usize>) -> String {
    let paint = Paint::PLAIN.on(columns);
    let width = Rule::ALL.iter().map(|rule| rule.name().len()).max().unwrap_or(0) + 2;
    let lines: Vec<_> = Rule::ALL.iter().flat_map(|rule| paint.labelled(rule.name(), rule.summary(), width)).collect();
    joined(&lines)
}

/// The error code of a page fault, bit by bit (SDM vol. 3A, 4.7), and what to look at.
pub fn explain_error_code(printed: &Printed, columns: Option<usize>) -> String {
    let paint = Paint::PLAIN.on(columns);
    let code = ErrorCode(printed.code);
    let mut lines = paint.wrapped(&format!("#PF error code {code}: {}", error_code::summary(code)), 2);
    lines.extend(printed.note.iter().flat_map(|note| paint.wrapped(note, 0)));
    lines.push(String::new());
    lines.extend(error_code::bit_lines(code, 2, paint));
    for odd in error_code::contradictions(code) {
        lines.push(String::new());
        lines.extend(paint.wrapped(odd, 0));
    }
    lines.push(String::new());
    lines.extend(paint.wrapped(what_to_look_at(code), 0));
    lines.extend(paint.wrapped("The bits are defined in SDM vol. 3A, 4.7, figure 4-12.", 0));
    joined(&lines)
}

fn joined(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// How an access ended, after `it`.
fn end(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Translated(to) => format!("reaches PA {:#x} by a {}", to.pa.0, to.leaf),
        Outcome::Fault(fault) if fault.vector == Fault::PAGE_FAULT => format!("faults with {fault}"),
        Outcome::Fault(fault) => format!("faults with {fault}, because the address is not canonical"),
        Outcome::Stranded { table } => format!("ends in the table at {table:#x}, where no memory is"),
    }
}

/// What all levels grant together, and the leaf's cache type.
fn granted(to: &Translation) -> String {
    let Translation { rights, pat_index, global, .. } = to;
    let mut words = vec![
        if rights.writable { "writable" } else { "read-only" }.to_string(),
        if rights.executable { "executable" } else { "not executable" }.into(),
        if rights.user { "open to user mode" } else { "supervisor only" }.into(),
        format!("PAT index {pat_index} ({})", memory_type(*pat_index)),
    ];
    if rights.pkey != 0 {
        words.push(format!("protection key {}", rights.pkey));
    }
    if *global {
        words.push("global".into());
    }
    words.join(", ")
}

fn what_to_look_at(code: ErrorCode) -> &'static str {
    let has = |flag| code.contains(flag);
    if has(ErrorCode::RSVD) {
        "Look at the walk of CR2 (`efibed explain MAP VA` marks the guilty bits). Reserved are bits 20:13 of a 2 MiB \
         leaf, 29:13 of a 1 GiB leaf, physical-address bits past MAXPHYADDR, bit 63 while EFER.NXE = 0, and bit 7 \
         (PS) where no page can be mapped. Rights do not matter: no access gets through."
    } else if has(ErrorCode::RMP) || has(ErrorCode::SGX) {
        "The page tables are not to blame: look at who owns the page, by SEV-SNP's reverse map or SGX's EPCM."
    } else if has(ErrorCode::PK) {
        "Look at the leaf's bits 62:59 and the two bits of that key in PKRU. Other rights may be missing, too."
    } else if has(ErrorCode::I) && has(ErrorCode::P) {
        "Look for NX (bit 63) at every level, since one is enough; and, with CR4.SMEP, for U at all levels: the \
         supervisor executes no user page."
    } else if has(ErrorCode::U) && has(ErrorCode::P) {
        "Look for a level without U, and, if it was a write, without R/W: both are the AND over all levels."
    } else if has(ErrorCode::W) && has(ErrorCode::P) {
        "Look for a level without R/W, the AND over all levels; CR0.WP holds the supervisor to it. With CR4.SMAP and \
         EFLAGS.AC = 0 a page with U at all levels is refused, too."
    } else if has(ErrorCode::P) {
        "A supervisor may read any page but a user's under CR4.SMAP with EFLAGS.AC = 0: look for U at all levels. \
         Else the TLB may still hold an older entry: was it flushed?"
    } else {
        "Look at the walk of CR2 (`efibed explain MAP VA`): it ends at the entry without P. Was the region mapped, and \
         in the tables that CR3 holds? If no region owns the address, the pointer is wrong, not the mapping."
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::{Level, Pa, Rights};

    #[test]
    fn every_end_of_an_access_has_words() {
        let rights = Rights { writable: true, user: false, executable: true, pkey: 3 };
        let to = Translation { pa: Pa(0x20_1234), leaf: Level::Pde, rights, pat_index: 2, global: true };
        assert_eq!(end(&Outcome::Translated(to)), "reaches PA 0x201234 by a PDE");
        assert_eq!(granted(&to), "writable, executable, supervisor only, PAT index 2 (UC-), protection key 3, global");
        let fault = |vector, code| Outcome::Fault(Fault { vector, error_code: ErrorCode(code) });
        assert_eq!(end(&fault(Fault::PAGE_FAULT, 0x9)), "faults with #PF 0x9 (P RSVD)");
        assert!(
            end(&fault(Fault::GENERAL_PROTECTION, 0)).starts_with("faults with #GP(0x0), because the address is not")
        );
        assert_eq!(end(&Outcome::Stranded { table: Pa(0x3000) }), "ends in the table at 0x3000, where no memory is");
    }

    fn code_explained(code: u32) -> String {
        explain_error_code(&Printed { code, note: None }, None)
    }

    #[test]
    fn an_error_code_bit_by_bit() {
        assert_eq!(
            code_explained(0x9),
            "\
#PF error code 0x9 (P RSVD): a supervisor read met a reserved bit in a table entry

  P     1  something is mapped: a right was missing, or a reserved bit set
  W     0  the access was no write
  U     0  it was made in supervisor mode, or by the CPU itself
  RSVD  1  a reserved bit is set in a table entry on the way
  I     0  no instruction fetch, or neither EFER.NXE nor CR4.SMEP is set

Look at the walk of CR2 (`efibed explain MAP VA` marks the guilty bits). Reserved are bits 20:13 of
a 2 MiB leaf, 29:13 of a 1 GiB leaf, physical-address bits past MAXPHYADDR, bit 63 while EFER.NXE =
0, and bit 7 (PS) where no page can be mapped. Rights do not matter: no access gets through.
The bits are defined in SDM vol. 3A, 4.7, figure 4-12.
"
        );
    }

    #[test]
    fn odd_error_codes_are_called_odd() {
        assert!(code_explained(0x8).contains("RSVD without P"));
        assert!(code_explained(0x12).contains("W and I together"));
        assert!(code_explained(0x4000_0000).contains("bit 30 has no meaning in the manuals"));
    }

    #[test]
    fn every_rule_is_listed_and_explained_within_the_width() {
        for (columns, width) in [(None, 100), (Some(80), 80)] {
            let list = list_rules(columns);
            for rule in Rule::ALL {
                let text = explain_rule(*rule, columns);
                assert!(text.starts_with(&format!("{rule} (")), "{text}");
                assert!(list.lines().any(|line| line.starts_with(&format!("{rule} "))), "{rule}");
                assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
            }
            assert!(list.lines().all(|line| line.chars().count() <= width), "{list}");
        }
    }
}
