//! What UEFI calls memory types and attributes (UEFI 2.10, sections 7.2.1 and 7.2.3), without the `Efi` and
//! `EFI_MEMORY_` before the names.

use std::borrow::Cow;

use super::{MemoryAttribute, MemoryType};

/// The name of a type, `RuntimeServicesCode`; types that UEFI does not name (OEM's and operating systems' among them)
/// in hexadecimal.
pub fn type_name(ty: MemoryType) -> Cow<'static, str> {
    let name = usize::try_from(ty.0).ok().and_then(|index| TYPES.get(index));
    name.map_or_else(|| format!("{:#x}", ty.0).into(), |name| Cow::Borrowed(*name))
}

/// Reads a type: its UEFI name, with or without `Efi`, in any case, or a number.
pub fn parse_type(text: &str) -> Option<MemoryType> {
    if let Some(number) = parse_number(text) {
        return u32::try_from(number).ok().map(MemoryType);
    }
    let name = strip_prefix_ignoring_case(text, "Efi");
    let index = TYPES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    u32::try_from(index).ok().map(MemoryType)
}

/// The names of the bits that are set, lowest first; then all the bits that have no name as one hexadecimal number.
pub fn attribute_names(attribute: MemoryAttribute) -> Vec<Cow<'static, str>> {
    let mut names = Vec::new();
    let mut rest = attribute;
    for (bit, name) in ATTRIBUTES {
        if attribute.contains(bit) {
            names.push(Cow::Borrowed(name));
            rest.remove(bit);
        }
    }
    if !rest.is_empty() {
        names.push(format!("{:#x}", rest.bits()).into());
    }
    names
}

/// Reads attributes: names and numbers joined by `|`. The error is the first part that is neither.
pub fn parse_attribute(text: &str) -> Result<MemoryAttribute, &str> {
    if text.trim().is_empty() {
        return Ok(MemoryAttribute::empty());
    }
    text.split('|')
        .map(str::trim)
        .try_fold(MemoryAttribute::empty(), |all, part| parse_attribute_part(part).map(|bits| all | bits).ok_or(part))
}

/// Reads a number as TOML writes one: decimal, or hexadecimal after `0x`, `_` between digits. No sign.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    let starts_with_digit = digits.starts_with(|first: char| first.is_digit(radix));
    if !starts_with_digit || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    // 64 bits take 20 decimal digits; the rest of a longer text can only be zeros and separators.
    digits.chars().filter(|digit| *digit != '_').try_fold(0_u64, |number, digit| {
        let digit = digit.to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// The types by number (UEFI 2.10, section 7.2.1, "EFI_MEMORY_TYPE").
pub(super) const TYPES: [&str; 16] = [
    "ReservedMemoryType",
    "LoaderCode",
    "LoaderData",
    "BootServicesCode",
    "BootServicesData",
    "RuntimeServicesCode",
    "RuntimeServicesData",
    "ConventionalMemory",
    "UnusableMemory",
    "ACPIReclaimMemory",
    "ACPIMemoryNVS",
    "MemoryMappedIO",
    "MemoryMappedIOPortSpace",
    "PalCode",
    "PersistentMemory",
    "UnacceptedMemoryType",
];

/// The attributes (UEFI 2.10, section 7.2.3, "Memory Attribute Definitions"; HOT_PLUGGABLE is UEFI 2.11's). The bits
/// under ISA_MASK have no names of their own.
pub(super) const ATTRIBUTES: [(MemoryAttribute, &str); 16] = [
    (MemoryAttribute::UNCACHEABLE, "UC"),
    (MemoryAttribute::WRITE_COMBINE, "WC"),
    (MemoryAttribute::WRITE_THROUGH, "WT"),
    (MemoryAttribute::WRITE_BACK, "WB"),
    (MemoryAttribute::UNCACHABLE_EXPORTED, "UCE"),
    (MemoryAttribute::WRITE_PROTECT, "WP"),
    (MemoryAttribute::READ_PROTECT, "RP"),
    (MemoryAttribute::EXECUTE_PROTECT, "XP"),
    (MemoryAttribute::NON_VOLATILE, "NV"),
    (MemoryAttribute::MORE_RELIABLE, "MORE_RELIABLE"),
    (MemoryAttribute::READ_ONLY, "RO"),
    (MemoryAttribute::SPECIAL_PURPOSE, "SP"),
    (MemoryAttribute::CPU_CRYPTO, "CPU_CRYPTO"),
    (MemoryAttribute::HOT_PLUGGABLE, "HOT_PLUGGABLE"),
    (MemoryAttribute::ISA_VALID, "ISA_VALID"),
    (MemoryAttribute::RUNTIME, "RUNTIME"),
];

fn parse_attribute_part(part: &str) -> Option<MemoryAttribute> {
    if let Some(bits) = parse_number(part) {
        return Some(MemoryAttribute::from_bits_retain(bits));
    }
    let part = strip_prefix_ignoring_case(part, "EFI_MEMORY_");
    let (bit, _) = ATTRIBUTES.iter().find(|(_, name)| name.eq_ignore_ascii_case(part))?;
    Some(*bit)
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> &'a str {
    match text.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_as_in_the_specification() {
        assert_eq!(type_name(MemoryType::RUNTIME_SERVICES_CODE), "RuntimeServicesCode");
        assert_eq!(type_name(MemoryType::UNACCEPTED), "UnacceptedMemoryType");
        assert_eq!(type_name(MemoryType(0x7000_0000)), "0x70000000");
    }

    #[test]
    fn every_type_name_reads_back() {
        for ty in (0..20).chain([0x7000_0000, u32::MAX]).map(MemoryType) {
            assert_eq!(parse_type(&type_name(ty)), Some(ty));
        }
        assert_eq!(parse_type("EfiRuntimeServicesData"), Some(MemoryType::RUNTIME_SERVICES_DATA));
        assert_eq!(parse_type("0x7000_0000"), Some(MemoryType(0x7000_0000)));
        assert_eq!(parse_type("RuntimeServiceData"), None);
        assert_eq!(parse_type("0x100000000"), None);
    }

    #[test]
    fn bits_without_a_name_are_one_number() {
        let odd = MemoryAttribute::from_bits_retain(0x8700_0000_0000_0009);
        assert_eq!(attribute_names(odd), ["UC", "WB", "RUNTIME", "0x700000000000000"]);
        assert_eq!(parse_attribute(&attribute_names(odd).join("|")), Ok(odd));
    }

    #[test]
    fn the_part_that_is_no_attribute_is_told() {
        assert_eq!(parse_attribute("RUNTIME | UCC|WB"), Err("UCC"));
        assert_eq!(parse_attribute("WB|"), Err(""));
        assert_eq!(parse_attribute(""), Ok(MemoryAttribute::empty()));
    }

    #[test]
    fn numbers_have_64_bits() {
        assert_eq!(parse_number("0xffff_ffff_ffff_ffff"), Some(u64::MAX));
        assert_eq!(parse_number("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "0x", "-1", "+1", "18446744073709551616", "0x1g", "_1", "1_", "1__0", "1 "] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }
}
