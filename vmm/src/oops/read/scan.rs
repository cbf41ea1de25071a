//! Finding labels, numbers and symbols in a line, whatever stands around them.

/// What follows the first of some labels in a line.
pub fn after<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    line.split_once(label).map(|(_, rest)| rest)
}

/// The hexadecimal number behind a label, which what programs put between the two may precede: blanks, `:`, `=`, `-`, `(`.
pub fn number_after(line: &str, label: &str) -> Option<u64> {
    number(after(line, label)?)
}

/// The same of a label that is a word of its own: `CR2`, but not the `cr2` of `xcr2`. Letters of both sizes are alike.
pub fn register(line: &str, name: &str) -> Option<u64> {
    let (line, name) = (line.as_bytes(), name.as_bytes());
    let starts = line.windows(name.len()).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(name));
    starts
        .filter(|(at, _)| at.checked_sub(1).and_then(|before| line.get(before)).is_none_or(|c| !is_word(*c)))
        .find_map(|(at, window)| {
            let rest = str::from_utf8(line.get(at.saturating_add(window.len())..)?).ok()?;
            let is_label = rest.trim_start().starts_with([':', '=', '-']);
            // Linux has a selector before RSP: `RSP: 0018:ffffb7cd010bfb88`.
            let value = rest.trim_start_matches([' ', ':', '=', '-']);
            let value =
                value.split_once(':').filter(|(selector, _)| selector.len() == 4).map_or(value, |(_, value)| value);
            number(value).filter(|_| is_label)
        })
}

/// The hexadecimal number that a text begins with, behind blanks and signs.
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim_start_matches([' ', '\t', ':', '=', '-', '(']);
    let text = text.strip_prefix("0x").unwrap_or(text);
    let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len()));
    let is_whole = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    u64::from_str_radix(digits, 16).ok().filter(|_| is_whole)
}

/// A number in the brackets in which addresses of code are printed: `[<ffffffff81577d98>]`.
pub fn bracketed(text: &str) -> Option<u64> {
    let text = text.trim_start().strip_prefix("[<")?;
    number(text.split_once('>')?.0)
}

/// The name of a symbol: `virt_efi_get_time` of `virt_efi_get_time+0x76/0xc0`, and of `entry.S#virt_efi_get_time+0x76/0xc0`.
pub fn symbol(word: &str) -> Option<&str> {
    let (name, _) = word.split_once("+0x")?;
    let name = name.rsplit(['#', '(', '>', ']']).next().unwrap_or(name);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    (!name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_name)).then_some(name)
}

/// The longest symbol of a kernel: KSYM_NAME_LEN of Linux is 512.
const MAX_NAME_BYTES: usize = 512;

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_labels() {
        assert_eq!(number_after("Oops: 0011 [#1]", "Oops:"), Some(0x11));
        assert_eq!(number_after("#PF: error_code(0x0010) - x", "error_code"), Some(0x10));
        assert_eq!(number_after("[error_code=0003]", "error_code"), Some(3));
        assert_eq!(register("CS:  0010 DS: 0000 CR0: 0000000080050033", "CR0"), Some(0x8005_0033));
        assert_eq!(
            register("CR0  - 0000000080010033, CR2 - 00000000007185B0, CR3 - 000000007FC01000", "CR2"),
            Some(0x71_85b0)
        );
        assert_eq!(register("cr3: 00000004a23ff000   cr2: 00000000465fe004", "CR2"), Some(0x465f_e004));
        for none in ["xcr2: 1", "cr2", "cr2: xyz", "cr2 1", "cr22: 1", "cr2: 10000000000000000", "é cr2: 1g"] {
            assert_eq!(register(none, "cr2"), None, "{none}");
        }
    }

    #[test]
    fn symbols_are_told_from_words() {
        assert_eq!(symbol("virt_efi_set_variable+0x76/0xc0"), Some("virt_efi_set_variable"));
        assert_eq!(symbol("x86_64/entry.S#restore_all_xen+0xb/0xb0"), Some("restore_all_xen"));
        for none in ["efi_call", "+0x10/0x20", "a b+0x1", "http://x+0x1"] {
            assert_eq!(symbol(none), None, "{none}");
        }
    }
}
