//! What `efibed explain` says: of a rule, of a page fault's error code, of a walk.

use super::style::{Paint, WIDTH, labelled, wrapped};
use super::{error_code, walk};
use crate::check::{Rule, Severity, WalkStep};
use crate::mmu::{ErrorCode, Fault, Outcome, Paging, Translation, Walk};

/// A rule: its name, how bad it is, what it says, what causes it and what to look at.
pub fn explain_rule(rule: Rule) -> String {
    let severity = match rule.severity() {
        Severity::Error => "the mapping, or the memory map, is wrong",
        Severity::Doubt => "the witnesses do not agree, so the mapping may be right",
    };
    let mut lines = vec![format!("{rule} ({}: {severity})", rule.severity().name()), String::new()];
    lines.extend(wrapped(rule.summary(), WIDTH, 0));
    lines.push(String::new());
    lines.extend(wrapped(rule.explanation(), WIDTH, 0));
    joined(&lines)
}

/// Every rule with its sentence, one below the other.
pub fn list_rules() -> String {
    let width = Rule::ALL.iter().map(|rule| rule.name().len()).max().unwrap_or(0) + 2;
    let lines: Vec<_> = Rule::ALL.iter().flat_map(|rule| labelled(rule.name(), rule.summary(), width)).collect();
    joined(&lines)
}

/// The error code of a page fault, bit by bit (SDM vol. 3A, 4.7), and what to look at.
pub fn explain_error_code(code: u32) -> String {
    let code = ErrorCode(code);
    let mut lines = vec![format!("#PF error code {code}: {}", error_code::summary(code)), String::new()];
    lines.extend(error_code::bit_lines(code).iter().map(|line| format!("  {line}")));
    for odd in error_code::contradictions(code) {
        lines.push(String::new());
        lines.extend(wrapped(odd, WIDTH, 0));
    }
    lines.push(String::new());
    lines.extend(wrapped(what_to_look_at(code), WIDTH, 0));
    lines.extend(wrapped("The bits are defined in SDM vol. 3A, 4.7, figure 4-12.", WIDTH, 0));
    joined(&lines)
}

/// A walk, one line a level, and how it ended. `paging` is what it was made with.
pub fn explain_walk(walk: &Walk, paging: &Paging) -> String {
    let mut lines = vec![format!("{} of VA {:#x}", walk.access, walk.va)];
    let steps: Vec<_> = walk.steps().iter().map(WalkStep::from).collect();
    lines.extend(walk::lines(&steps, paging, Paint::Plain).iter().map(|line| format!("  {line}")));
    lines.extend(wrapped(&end(&walk.outcome), WIDTH, 2));
    joined(&lines)
}

fn joined(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn end(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Translated(translation) => arrival(translation),
        Outcome::Fault(fault) if fault.vector == Fault::PAGE_FAULT => {
            format!("faults with {fault}: {}", error_code::summary(fault.error_code))
        }
        Outcome::Fault(fault) => {
            format!("faults with {fault}: the address is not canonical, so no table is read (SDM vol. 1, 3.3.7.1)")
        }
        Outcome::Stranded { table } => format!("ends in the table at {table:#x}, where no memory is"),
    }
}

fn arrival(translation: &Translation) -> String {
    let Translation { pa, leaf, rights, pat_index, global } = translation;
    let mut words = vec![
        if rights.writable { "writable" } else { "read-only" }.to_string(),
        if rights.executable { "executable" } else { "not executable" }.into(),
        if rights.user { "open to user mode" } else { "supervisor only" }.into(),
        format!("PAT index {pat_index}"),
    ];
    if rights.pkey != 0 {
        words.push(format!("protection key {}", rights.pkey));
    }
    if *global {
        words.push("global".into());
    }
    format!("reaches PA {pa:#x} by a {leaf}: {}", words.join(", "))
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::mmu::{Access, Pa, TableMemory, Va, walk};

    struct Tables(BTreeMap<u64, u64>);

    impl TableMemory for Tables {
        fn entry(&self, at: Pa) -> Option<u64> {
            (at.0 < 0x10_0000).then(|| self.0.get(&at.0).copied().unwrap_or(0))
        }
    }

    fn explained(pde: u64, va: u64) -> String {
        let tables = Tables(BTreeMap::from([(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, pde)]));
        let paging = Paging::default();
        explain_walk(&walk(&tables, Pa(0x1000), Va(va), Access::read(), &paging), &paging)
    }

    #[test]
    fn a_walk_that_faults() {
        assert_eq!(
            explained(0x10_0083, 0x1234),
            "\
supervisor read of VA 0x1234
  PML4E  0x0000000000001000  0x0000000000002003  P W              table at 0x2000
  PDPTE  0x0000000000002000  0x0000000000003003  P W              table at 0x3000
  PDE    0x0000000000003000  0x0000000000100083  P W PS           reserved bits are set
         31:0  0000 0000 0001 0000 0000 0000 1000 0011
                            ^
         bit 20 is set: bits 20:13 of a PDE that maps a 2 MiB page must be 0 (SDM 3A
           4.5.4, table 4-18)
faults with #PF 0x9 (P RSVD): a supervisor read met a reserved bit in a table entry
"
        );
    }

    #[test]
    fn a_walk_that_arrives() {
        let text = explained(0x20_0083, 0x1234);
        assert!(text.contains("PDE    0x0000000000003000  0x0000000000200083  P W PS           2 MiB at 0x200000\n"));
        assert!(text.ends_with("reaches PA 0x201234 by a PDE: writable, executable, supervisor only, PAT index 0\n"));
    }

    #[test]
    fn walks_that_end_nowhere() {
        assert!(explained(0x20_0003, 0x1234).ends_with("ends in the table at 0x200000, where no memory is\n"));
        let odd = explained(0, 1 << 60);
        assert_eq!(odd.lines().count(), 2, "{odd}");
        assert!(odd.contains("faults with #GP(0x0): the address is not canonical"));
    }

    #[test]
    fn an_error_code_bit_by_bit() {
        assert_eq!(
            explain_error_code(0x9),
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
        assert!(explain_error_code(0x8).contains("RSVD without P"));
        assert!(explain_error_code(0x12).contains("W and I together"));
        assert!(explain_error_code(0x4000_0000).contains("bit 30 has no meaning in the manuals"));
    }

    #[test]
    fn every_rule_is_listed_and_explained_within_the_width() {
        let list = list_rules();
        for rule in Rule::ALL {
            let text = explain_rule(*rule);
            assert!(text.starts_with(&format!("{rule} (")), "{text}");
            assert!(list.lines().any(|line| line.starts_with(&format!("{rule} "))), "{rule}");
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        }
        assert!(list.lines().all(|line| line.chars().count() <= WIDTH), "{list}");
    }
}
