//! The page-fault error code in words (SDM 4.7, figure 4-12).

use super::style::Paint;
use crate::mmu::ErrorCode;

/// What the CPU says happened, in one clause: `a supervisor read met a reserved bit`.
pub(crate) fn summary(code: ErrorCode) -> String {
    let has = |flag| code.contains(flag);
    let privilege = if has(ErrorCode::U) { "user-mode" } else { "supervisor" };
    let access = match (has(ErrorCode::I), has(ErrorCode::W)) {
        (true, _) => "fetch",
        (false, true) => "write",
        (false, false) => "read",
    };
    let end = if has(ErrorCode::RSVD) {
        "met a reserved bit in a table entry"
    } else if has(ErrorCode::RMP) {
        "was refused by the reverse map (RMP)"
    } else if has(ErrorCode::SGX) {
        "was refused by SGX"
    } else if has(ErrorCode::PK) {
        "was refused by a protection key"
    } else if has(ErrorCode::P) {
        "lacked a right that the page does not grant"
    } else {
        "found nothing mapped"
    };
    format!("a {privilege} {access} {end}")
}

/// An entry for each bit that matters: `P     1  something was mapped: ...`. The first five always, the others if set.
pub(super) fn bit_lines(code: ErrorCode, indent: usize, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |name: &str, set: bool, meaning: &str| {
        let label = format!("{:indent$}{name:<4}  {}  ", "", u8::from(set));
        lines.extend(paint.labelled(&label, meaning, label.len()));
    };
    for bit in &BITS {
        let set = code.contains(bit.flag);
        let meaning = if set { bit.set } else { bit.clear };
        if !meaning.is_empty() {
            say(bit.name, set, meaning);
        }
    }
    for bit in unknown_bits(code) {
        say("?", true, &format!("bit {bit} has no meaning in the manuals"));
    }
    lines
}

/// The code says something that no CPU should.
pub(super) fn contradictions(code: ErrorCode) -> Vec<&'static str> {
    let has = |flag| code.contains(flag);
    let mut odd = Vec::new();
    if has(ErrorCode::RSVD) && !has(ErrorCode::P) {
        odd.push(
            "RSVD without P: a reserved bit counts only in an entry that is present, so 0x9 is due here. Some virtual \
             machines answer 0x8 anyway.",
        );
    }
    if has(ErrorCode::PK) && !has(ErrorCode::P) {
        odd.push("PK without P: protection keys are looked at only where a page is mapped.");
    }
    if has(ErrorCode::W) && has(ErrorCode::I) {
        odd.push("W and I together: no access is a write and a fetch.");
    }
    if unknown_bits(code).next().is_some() {
        odd.push(
            "No CPU sets bits without a meaning. If the number is an address, `efibed explain MAP VA` explains it under \
             a memory map.",
        );
    }
    odd
}

/// Bits that the manuals give no name.
pub(super) fn unknown_bits(code: ErrorCode) -> impl Iterator<Item = u32> {
    let known = BITS.iter().fold(0, |known, bit| known | bit.flag.0);
    (0..u32::BITS).filter(move |bit| code.0 & !known & 1 << bit != 0)
}

struct Bit {
    flag: ErrorCode,
    name: &'static str,
    set: &'static str,
    /// Empty: not worth a line.
    clear: &'static str,
}

const BITS: [Bit; 10] = [
    Bit {
        flag: ErrorCode::P,
        name: "P",
        set: "something is mapped: a right was missing, or a reserved bit set",
        clear: "nothing is mapped: an entry on the way is not present",
    },
    Bit { flag: ErrorCode::W, name: "W", set: "the access was a write", clear: "the access was no write" },
    Bit {
        flag: ErrorCode::U,
        name: "U",
        set: "it was made in user mode (CPL 3)",
        clear: "it was made in supervisor mode, or by the CPU itself",
    },
    Bit {
        flag: ErrorCode::RSVD,
        name: "RSVD",
        set: "a reserved bit is set in a table entry on the way",
        clear: "no reserved bit was met",
    },
    Bit {
        flag: ErrorCode::I,
        name: "I",
        set: "the access was an instruction fetch",
        clear: "no instruction fetch, or neither EFER.NXE nor CR4.SMEP is set",
    },
    Bit {
        flag: ErrorCode::PK,
        name: "PK",
        set: "the page's protection key forbids it, by PKRU (CR4.PKE) or IA32_PKRS",
        clear: "",
    },
    Bit { flag: ErrorCode::SS, name: "SS", set: "it was a shadow-stack access (CET)", clear: "" },
    Bit { flag: ErrorCode::HLAT, name: "HLAT", set: "it arose in HLAT paging", clear: "" },
    Bit { flag: ErrorCode::SGX, name: "SGX", set: "SGX forbids it; the tables do not say why", clear: "" },
    Bit {
        flag: ErrorCode::RMP,
        name: "RMP",
        set: "the reverse map of SEV-SNP forbids it (AMD; APM vol. 2, 8.4.2)",
        clear: "",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_cause_is_named() {
        assert_eq!(summary(ErrorCode(0)), "a supervisor read found nothing mapped");
        assert_eq!(summary(ErrorCode(0x9)), "a supervisor read met a reserved bit in a table entry");
        assert_eq!(summary(ErrorCode(0x15)), "a user-mode fetch lacked a right that the page does not grant");
        assert_eq!(summary(ErrorCode(0x23)), "a supervisor write was refused by a protection key");
    }

    #[test]
    fn every_flag_of_the_mmu_has_words_and_no_other() {
        let known = BITS.iter().fold(0, |known, bit| known | bit.flag.0);
        assert_eq!(ErrorCode(u32::MAX).flags().count(), BITS.len());
        for bit in &BITS {
            assert_eq!(ErrorCode(bit.flag.0).flags().collect::<Vec<_>>(), [bit.name]);
        }
        assert_eq!(unknown_bits(ErrorCode(u32::MAX)).count() as u32, u32::BITS - known.count_ones());
    }

    #[test]
    fn any_code_has_lines() {
        for code in [0, 0x1f, u32::MAX, 0x8000_0000, 0x100] {
            assert!(bit_lines(ErrorCode(code), 0, Paint::PLAIN).len() >= 5);
        }
        assert!(bit_lines(ErrorCode(0x100), 0, Paint::PLAIN).iter().any(|line| line.contains("bit 8 has no meaning")));
    }
}
