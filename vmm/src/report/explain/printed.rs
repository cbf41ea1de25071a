//! A page fault's error code as kernels, hypervisors and firmware print it.

/// An error code that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// The code.
    pub code: u32,
    /// What a reader must know of how it was read.
    pub note: Option<String>,
}

/// Reads an error code: a bare number, or whatever a program prints around one.
///
/// | text | printed by |
/// | --- | --- |
/// | `Oops: 0011 [#1] PREEMPT SMP`, `#PF: error_code(0x0011) - permissions violation`, `error 4 in` | Linux |
/// | `[error_code=0011]`, `[#14, ec=0011]` | Xen |
/// | `ExceptionData - 0000000000000011` | EDK II |
/// | `fault code = supervisor read data, page not present` | FreeBSD |
/// | `trap type 6 code 0x11`, `code 11` | NetBSD, OpenBSD |
/// | `v=0e e=0011` | QEMU, `-d int` |
/// | `Error code: 0x0000000000000011` | XNU |
/// | `#PF 0x11`, `#PF (0x11)` | efibed, KVM's trace |
pub fn read_error_code(text: &str) -> Option<Printed> {
    let text = text.trim();
    bare(text).or_else(|| in_words(text)).or_else(|| labelled(text))
}

/// What stands before the number, in small letters. All of these programs print it in hexadecimal.
const LABELS: [&str; 13] = [
    "error_code",
    "error code",
    "error-code",
    "errorcode",
    "exceptiondata",
    "exception data",
    "oops",
    "#pf",
    "ec",
    "code",
    "error",
    "err",
    "e=",
];

/// A number and nothing else.
fn bare(text: &str) -> Option<Printed> {
    let digits = hex_digits(text);
    let code = number(digits).filter(|_| without_prefix(text) == digits)?;
    // Who writes 17 may mean 0x11, and gets 0x17.
    let is_ambiguous = digits == text && text.len() > 1 && !text.starts_with('0') && is_decimal(text);
    let note = is_ambiguous.then(|| {
        let decimal: u64 = text.parse().unwrap_or_default();
        format!("`{text}` is taken as hexadecimal, as kernels print error codes. Decimal {text} would be {decimal:#x}.")
    });
    Some(Printed { code, note })
}

/// FreeBSD's words, which are all of the code (`trap_fatal` of sys/amd64/amd64/trap.c).
fn in_words(text: &str) -> Option<Printed> {
    let text = text.to_ascii_lowercase();
    let has = |words: &str| text.contains(words);
    let (is_user, is_write) = (has("user "), has("write "));
    let is_data = has("read data") || has("write data");
    let is_access = (is_user || has("supervisor ")) && (is_data || has("read instruction") || has("write instruction"));
    let ending = [("page not present", 0x0), ("protection violation", 0x1), ("reserved bits in pte", 0x9)];
    let (_, end) = ending.into_iter().find(|(words, _)| is_access && has(words))?;
    let flags = [(is_write, 0x2), (is_user, 0x4), (!is_data, 0x10), (has(" prot key"), 0x20), (has(" sgx"), 0x8000)];
    let code = flags.into_iter().filter(|(is_set, _)| *is_set).fold(end, |code, (_, flag)| code | flag);
    Some(Printed { code, note: None })
}

/// The first number after a label.
fn labelled(text: &str) -> Option<Printed> {
    let small = text.to_ascii_lowercase();
    let starts = small.char_indices().filter(|(at, _)| !ends_in_word(&small[..*at]));
    starts.map(|(at, _)| &small[at..]).find_map(|rest| {
        let after = LABELS.iter().find_map(|label| rest.strip_prefix(label))?;
        let value = after.trim_start_matches([' ', '\t', ':', '=', '(', '-']);
        // A label is a word of its own, and so is the number.
        let is_apart = value.len() < after.len() || rest.starts_with("e=");
        let digits = hex_digits(value);
        let behind = &without_prefix(value)[digits.len()..];
        let code = number(digits).filter(|_| is_apart && !behind.starts_with(is_word))?;
        Some(Printed { code, note: None })
    })
}

fn without_prefix(text: &str) -> &str {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text)
}

/// The hexadecimal digits that a text begins with, after `0x` if it has that.
fn hex_digits(text: &str) -> &str {
    let digits = without_prefix(text);
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    &digits[..end]
}

/// An error code has 32 bits, with as many zeros before them as somebody prints.
fn number(digits: &str) -> Option<u32> {
    u32::from_str_radix(digits, 16).ok()
}

fn is_decimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ends_in_word(text: &str) -> bool {
    text.ends_with(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<u32> {
        read_error_code(text).map(|printed| printed.code)
    }

    #[test]
    fn numbers_are_hexadecimal_and_it_is_said_where_they_look_decimal() {
        for text in ["0011", "0x11", "0X11", "11", " 0x0011 ", "0000000000000011"] {
            assert_eq!(code(text), Some(0x11), "{text}");
        }
        let note = |text| read_error_code(text).unwrap().note;
        assert_eq!(
            note("25").as_deref(),
            Some("`25` is taken as hexadecimal, as kernels print error codes. Decimal 25 would be 0x19.")
        );
        for plain in ["0x25", "0025", "1a", "4", "0"] {
            assert_eq!(note(plain), None, "{plain}");
        }
        assert_eq!(code("80000000"), Some(0x8000_0000));
        for wrong in ["", "0x", "nonsense", "0x1ffffffff", "-1", "+1", "1 2", "0x0x1"] {
            assert_eq!(code(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_programs_print_around_it_is_skipped() {
        for text in [
            "Oops: 0011 [#1] PREEMPT SMP",
            "[    0.512345] Oops: 0011 [#1] PREEMPT SMP NOPTI",
            "Oops: Oops: 0011 [#1] SMP",
            "Oops: 0011",
            "#PF: error_code(0x0011) - permissions violation",
            "error_code(0x0011)",
            "error_code=0011",
            "error_code: 0x11",
            "[error_code=0011]",
            "d0v0 Unhandled page fault fault/trap [#14, ec=0011]",
            "ec=0x0011",
            "ExceptionData - 0000000000000011",
            "ExceptionData - 0000000000000011  I:1 R:0 U:0 W:0 P:1 PK:0 SS:0 SGX:0",
            "fatal page fault in supervisor mode: trap type 6 code 0x11 rip 0xffffffff80000000",
            "1: v=0e e=0011 i=0 cpl=0 IP=0010:ffffffff80000000",
            "Error code: 0x0000000000000011, Fault CPU: 0x0",
            "#PF 0x11 (P I)",
            "kvm_inj_exception: #PF (0x11)",
            "bash[12]: segfault at 0 ip 0000000000000000 sp 00007fff00000000 error 11 in bash",
        ] {
            assert_eq!(read_error_code(text), Some(Printed { code: 0x11, note: None }), "{text}");
        }
        for none in [
            "Oops: general protection fault, probably for non-canonical address 0xdead000000000000: 0000 [#1] SMP",
            "double fault: 0000",
            "decode 11",
            "recode=11",
            "error_code(0x100000000)",
            "error_code=0011x",
            "Oops",
            "code",
        ] {
            assert_eq!(code(none), None, "{none}");
        }
    }

    #[test]
    fn the_words_of_freebsd_are_a_code() {
        for (words, expected) in [
            ("supervisor read data, page not present", 0x0),
            ("supervisor write data, protection violation", 0x3),
            ("supervisor read instruction, protection violation", 0x11),
            ("user read data, reserved bits in PTE", 0xd),
            ("user write data prot key, protection violation", 0x27),
        ] {
            assert_eq!(code(words), Some(expected), "{words}");
            assert_eq!(code(&format!("fault code\t\t= {words}")), Some(expected), "{words}");
        }
    }
}
