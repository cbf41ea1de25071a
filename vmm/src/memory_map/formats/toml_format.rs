//! TOML: the format of this project, in which maps are written by hand.
//!
//! ```toml
//! [[descriptor]]
//! type = "RuntimeServicesCode"         # UEFI's name, or a number
//! phys = 0x7dc5b000                    # from 2^63 on a string, for TOML's integers end there
//! pages = 0x4eb
//! attribute = "RUNTIME|UC|WC|WT|WB"    # names and numbers joined by |, or one number; required, "" for none
//! virt = "0xfffffffefdc5b000"          # optional: the virtual address that was given to the region
//! ```
//!
//! Entries of the Memory Attributes Table are tables `[[attributes]]` with the same keys. `list = "runtime"` at the top
//! says that the list is Linux's own of what it mapped, not firmware's; `partial = "why"`, that it is not the whole.
//!
//! A scenario is the same with more tables. They are not read here, and [`Descriptor`] and [`into_map`] are public so
//! that their reader need not parse twice.

use std::fmt::{self, Write as _};
use std::ops::Range;

use serde::de::{Error as _, IgnoredAny, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::super::error::{ParseError, line_number, printable, quoted};
use super::super::names::{ATTRIBUTES, TYPES, parse_number};
use super::super::{
    Format, ListKind, MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, attribute_names,
    parse_attribute, parse_type, type_name,
};
use super::offset::Offset;

/// A descriptor: of the memory map in `[[descriptor]]`, of the Memory Attributes Table in `[[attributes]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Type: UEFI's name for it, or a number.
    #[serde(rename = "type", deserialize_with = "memory_type")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "type_schema"))]
    pub ty: MemoryType,
    /// PhysicalStart.
    #[serde(deserialize_with = "number")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "number_schema"))]
    pub phys: u64,
    /// NumberOfPages.
    #[serde(deserialize_with = "number")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "number_schema"))]
    pub pages: u64,
    /// Attribute: names or numbers joined by |, or a number. Required, because one forgotten would be a region silently not
    /// mapped; "" for none.
    #[serde(deserialize_with = "attribute")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "attribute_schema"))]
    pub attribute: MemoryAttribute,
    /// VirtualStart, 0 if not given.
    #[serde(default, deserialize_with = "number")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "number_schema"))]
    pub virt: u64,
}

/// From 2^63 on in quotes, for TOML's integers end there.
#[cfg(feature = "cli")]
fn number_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": NUMBER }] })
}

#[cfg(feature = "cli")]
fn type_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let number = serde_json::json!({ "type": "string", "pattern": NUMBER });
    schemars::json_schema!({ "anyOf": [{ "enum": TYPES }, { "type": "integer", "minimum": 0, "maximum": u32::MAX }, number] })
}

#[cfg(feature = "cli")]
fn attribute_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = ATTRIBUTES.map(|(_, name)| name).join("|");
    let part = format!("\\s*({names}|0x[0-9a-fA-F_]+|[0-9_]+)\\s*");
    let pattern = format!("^({part}(\\|{part})*|\\s*)$");
    schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": pattern }] })
}

#[cfg(feature = "cli")]
const NUMBER: &str = "^(0x[0-9a-fA-F_]+|[0-9_]+)$";

impl From<Descriptor> for MemoryDescriptor {
    fn from(descriptor: Descriptor) -> Self {
        Self {
            ty: descriptor.ty,
            padding: 0,
            phys_start: descriptor.phys,
            virt_start: descriptor.virt,
            page_count: descriptor.pages,
            att: descriptor.attribute,
        }
    }
}

/// Makes a map of the descriptors of a document and of the entries of its Memory Attributes Table. `text` is the
/// document, for lines and errors.
pub fn into_map(
    name: &str,
    text: &str,
    descriptors: Vec<Spanned<Descriptor>>,
    attributes: Vec<Spanned<Descriptor>>,
    kind: Option<ListKind>,
) -> Result<MemoryMap, ParseError> {
    if let Some(extra) = descriptors.get(MAX_DESCRIPTORS).or(attributes.get(MAX_DESCRIPTORS)) {
        return Err(super::too_many(name, text, extra.span()));
    }
    if descriptors.is_empty() {
        return Err(no_descriptor(name, text));
    }
    let lines = lines(text, descriptors.iter().map(Spanned::span));
    let descriptors = descriptors.into_iter().map(|descriptor| descriptor.into_inner().into()).collect();
    let attributes_table = attributes.into_iter().map(|entry| entry.into_inner().into()).collect();
    let map = MemoryMap::from_descriptors(name, descriptors);
    let kind = kind.unwrap_or(ListKind::Firmware);
    Ok(MemoryMap { lines, kind, attributes_table, format: Some(Format::Toml), ..map })
}

/// Refuses a document before anything is made of it that would take much memory: the TOML reader keeps all of it in
/// pieces. Within these limits 640 MB were measured at the worst, for an array of four million numbers, and 380 MB for as
/// many descriptors and attributes as are read at most.
pub fn check_extent(name: &str, text: &str) -> Result<(), ParseError> {
    let (mut tokens, mut tables, mut headers) = (0_usize, 0_usize, [0_usize; 2]);
    let mut before = [TokenKind::Newline; 2];
    for token in Source::new(text).lex() {
        let (kind, span) = (token.kind(), token.span().start()..token.span().end());
        tokens = tokens.saturating_add(1);
        let makes_a_table = matches!(kind, TokenKind::LeftCurlyBracket | TokenKind::LeftSquareBracket | TokenKind::Dot);
        tables = tables.saturating_add(makes_a_table.into());
        if before == [TokenKind::LeftSquareBracket; 2]
            && let Some(at) = ARRAYS.iter().position(|array| text.get(span.clone()) == Some(array))
        {
            headers[at] = headers[at].saturating_add(1);
            if headers[at] > MAX_DESCRIPTORS {
                return Err(super::too_many(name, text, span.start.saturating_sub(2)..span.end));
            }
        }
        if tokens > MAX_TOKENS || tables > MAX_TABLES {
            return Err(ParseError::at(name, text, span, "more TOML than a map can have")
                .label("the limit is reached here")
                .help(format!("a map has at most {MAX_DESCRIPTORS} descriptors; is this one?")));
        }
        before = [before[1], kind];
    }
    Ok(())
}

/// The arrays of tables whose length has a limit.
const ARRAYS: [&str; 2] = ["descriptor", "attributes"];
/// Tables in both arrays take no more: five characters of header, and for each of five keys four pieces, spaces and a line
/// break, with as many again for comments.
const MAX_TOKENS: usize = 2 * MAX_DESCRIPTORS * 64;
/// What opens a table, an array or a header; of `[[descriptor]]` there are two.
const MAX_TABLES: usize = 2 * 2 * MAX_DESCRIPTORS + 4096;

/// Reads the map of a TOML document.
pub(super) fn parse(name: &str, text: &str) -> Result<MemoryMap, ParseError> {
    check_extent(name, text)?;
    let document: Document = toml::from_str(text)
        .map_err(|error| ParseError::from_toml(name, text, &error).help(WHAT_A_DESCRIPTOR_LOOKS_LIKE))?;
    let map = into_map(name, text, document.descriptor, document.attributes, document.list)?;
    Ok(map.marked_partial(document.partial))
}

/// Writes a map.
pub(in super::super) fn write(map: &MemoryMap) -> String {
    let source = printable(map.source());
    let mut toml = format!("# EFI memory map of {} descriptors, from {source}\n", map.descriptors().len());
    if map.kind() != ListKind::Firmware {
        // Writing to a string does not fail.
        let _ = writeln!(toml, "list = \"{}\"", map.kind().name());
    }
    if let Some(why) = map.partial() {
        let _ = writeln!(toml, "partial = {}", toml::Value::from(why));
    }
    map.descriptors().iter().for_each(|descriptor| write_table(&mut toml, "descriptor", descriptor));
    map.attributes_table().iter().for_each(|entry| write_table(&mut toml, "attributes", entry));
    toml
}

fn write_table(toml: &mut String, header: &str, descriptor: &MemoryDescriptor) {
    let attribute = attribute_names(descriptor.att).join("|");
    let _ = writeln!(toml, "\n[[{header}]]\ntype = \"{}\"", type_name(descriptor.ty));
    let _ = writeln!(toml, "phys = {}", integer(descriptor.phys_start));
    let _ = writeln!(toml, "pages = {}", integer(descriptor.page_count));
    let _ = writeln!(toml, "attribute = \"{attribute}\"");
    if descriptor.virt_start != 0 {
        let _ = writeln!(toml, "virt = {}", integer(descriptor.virt_start));
    }
}

/// Whether a line begins descriptors, which no other format has.
pub(super) fn is_descriptor_header(line: &str) -> bool {
    let line = line.trim_start();
    match line.strip_prefix("[[") {
        Some(rest) => {
            rest.trim_start().strip_prefix("descriptor").is_some_and(|rest| rest.trim_start().starts_with("]]"))
        }
        None => line.strip_prefix("descriptor").is_some_and(|rest| rest.trim_start().starts_with('=')),
    }
}

/// Whether the first line that says anything is a table header or `key = value`.
pub(super) fn looks_like_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.next().is_some_and(|line| is_table_header(line) || is_assignment(line))
}

fn is_table_header(line: &str) -> bool {
    let inside = line.strip_prefix('[').and_then(|rest| rest.split('#').next()?.trim_end().strip_suffix(']'));
    line.starts_with("[[") || inside.is_some_and(is_key)
}

fn is_assignment(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| is_key(key.trim_end()))
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"'".contains(c))
}

/// What a document may hold. Tables of a scenario are for its own reader; naming them lets it and us refuse the rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only there to be allowed")]
struct Document {
    #[serde(default)]
    descriptor: Vec<Spanned<Descriptor>>,
    #[serde(default)]
    attributes: Vec<Spanned<Descriptor>>,
    #[serde(default, deserialize_with = "list_kind")]
    list: Option<ListKind>,
    partial: Option<String>,
    name: Option<String>,
    about: Option<String>,
    mapper: Option<IgnoredAny>,
    cpu: Option<IgnoredAny>,
    firmware: Option<IgnoredAny>,
    kernel: Option<IgnoredAny>,
    expect: Option<IgnoredAny>,
}

const WHAT_A_DESCRIPTOR_LOOKS_LIKE: &str = "a descriptor is written\n[[descriptor]]\ntype = \"RuntimeServicesCode\"\n\
     phys = 0x7dc5b000\npages = 0x4eb\nattribute = \"RUNTIME|WB\"";

fn no_descriptor(name: &str, text: &str) -> ParseError {
    ParseError::at(name, text, 0..0, "no EFI memory map: there is no [[descriptor]]")
        .label("this is TOML, but without descriptors")
        .help(WHAT_A_DESCRIPTOR_LOOKS_LIKE)
}

/// The line of each span, in one pass over the text for spans in order.
fn lines(text: &str, spans: impl Iterator<Item = Range<usize>>) -> Vec<usize> {
    let (mut offset, mut line) = (0, 1);
    spans
        .map(|span| {
            let start = span.start.clamp(offset, text.len().max(offset));
            line = line.plus(line_number(text.get(offset..start).unwrap_or_default(), usize::MAX).minus(1));
            offset = start;
            line
        })
        .collect()
}

/// A number as TOML can hold it.
fn integer(number: u64) -> String {
    match i64::try_from(number) {
        Ok(_) => format!("{number:#x}"),
        Err(_) => format!("\"{number:#x}\""),
    }
}

/// The name of a kind of lists, for `list = "..."`.
pub fn list_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ListKind>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn memory_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemoryType, D::Error> {
    deserializer.deserialize_any(Scalar {
        expecting: "a UEFI memory type (its name, or a number of 32 bits)",
        from_number: |number| u32::try_from(number).ok().map(MemoryType),
        from_text: |text| {
            parse_type(text)
                .ok_or_else(|| format!("unknown memory type {}, expected {}", quoted(text), TYPES.join(", ")))
        },
    })
}

fn attribute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemoryAttribute, D::Error> {
    deserializer.deserialize_any(Scalar {
        expecting: "attributes (names joined by `|`, or a number)",
        from_number: |number| Some(MemoryAttribute::from_bits_retain(number)),
        from_text: |text| {
            parse_attribute(text).map_err(|part| {
                let known = ATTRIBUTES.map(|(_, name)| name).join(", ");
                format!("unknown attribute {}, expected {known}, or a number", quoted(part))
            })
        },
    })
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Scalar {
        expecting: "a number from 0 to 0xffffffffffffffff (from 2^63 on, in quotes)",
        from_number: Some,
        from_text: |text| {
            parse_number(text)
                .ok_or_else(|| format!("{} is no number of at most 64 bits, such as \"0x1000\"", quoted(text)))
        },
    })
}

/// A value that is either a number or a text that means one.
struct Scalar<T> {
    expecting: &'static str,
    from_number: fn(u64) -> Option<T>,
    from_text: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expecting)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        (self.from_number)(number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.from_text)(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "one of each"
about = "what it is for"

[[descriptor]]
type = "RuntimeServicesCode"
phys = 0x7dc5b000
pages = 0x4eb
attribute = "RUNTIME|UC|WC|WT|WB"
virt = "0xfffffffefdc5b000"

[[descriptor]]
type = 0x7000_0000
phys = "0xfffffffff000"
pages = 1
attribute = "0x8000000000000001"

[mapper]
layout = "window"

[[expect]]
rule = "reserved-bit"
"#;

    /// The error for a descriptor in which one line is replaced.
    fn error(line: &str, by: &str) -> String {
        let good = "[[descriptor]]\ntype = \"PalCode\"\nphys = 0\npages = 1\nattribute = 0\n";
        assert!(good.contains(line));
        MemoryMap::parse_named("x.toml", &good.replace(line, by)).unwrap_err().to_string()
    }

    #[test]
    fn names_numbers_and_strings_are_read() {
        let map = MemoryMap::parse(GOOD).unwrap();
        let [first, second] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!(first.ty, MemoryType::RUNTIME_SERVICES_CODE);
        assert_eq!((first.phys_start, first.page_count), (0x7dc5_b000, 0x4eb));
        assert_eq!((first.virt_start, first.att.bits()), (0xffff_fffe_fdc5_b000, 0x8000_0000_0000_000f));
        assert_eq!((second.ty, second.phys_start), (MemoryType(0x7000_0000), 0xffff_ffff_f000));
        assert_eq!((second.virt_start, second.att.bits()), (0, 0x8000_0000_0000_0001));
        assert_eq!((map.line(0), map.line(1)), (Some(5), Some(12)));
    }

    #[test]
    fn values_that_cannot_be_are_pointed_at() {
        assert_eq!(
            error("phys = 0", "phys = -4096"),
            "x.toml:3:8: invalid value: integer `-4096`, expected a number from 0 to 0xffffffffffffffff (from 2^63 on, in quotes)"
        );
        assert_eq!(
            error("pages = 1", "pages = 1.5"),
            "x.toml:4:9: invalid type: floating point `1.5`, expected a number from 0 to 0xffffffffffffffff (from 2^63 on, in quotes)"
        );
        assert_eq!(
            error("pages = 1", "pages = '0x1g'"),
            "x.toml:4:9: `0x1g` is no number of at most 64 bits, such as \"0x1000\""
        );
        assert!(error("\"PalCode\"", "\"RuntimeServiceCode\"").starts_with(
            "x.toml:2:8: unknown memory type `RuntimeServiceCode`, expected ReservedMemoryType, LoaderCode,"
        ));
        assert!(error("\"PalCode\"", "0x1_0000_0000").starts_with("x.toml:2:8: invalid value: integer `4294967296`"));
        assert!(
            error("attribute = 0", "attribute = 'RUNTIME|UCC'")
                .starts_with("x.toml:5:13: unknown attribute `UCC`, expected UC, WC,")
        );
    }

    #[test]
    fn keys_that_are_not_known_are_pointed_at() {
        assert_eq!(
            error("pages = 1", "page = 1"),
            "x.toml:4:1: unknown field `page`, expected one of `type`, `phys`, `pages`, `attribute`, `virt`"
        );
        assert_eq!(
            error("[[descriptor]]", "cpus = 1\n[[descriptor]]"),
            "x.toml:1:1: unknown field `cpus`, expected one of `descriptor`, `attributes`, `list`, `partial`, `name`, `about`, `mapper`, `cpu`, `firmware`, `kernel`, `expect`"
        );
    }

    #[test]
    fn keys_that_lack_are_named() {
        assert_eq!(error("attribute = 0\n", ""), "x.toml:1:1: missing field `attribute`");
    }

    #[test]
    fn the_attributes_table_and_the_kind_of_list_are_read() {
        let text = format!(
            "list = \"runtime\"\n{}",
            GOOD.replace(
                "[mapper]",
                "[[attributes]]\ntype = 5\nphys = 0x7dc5b000\npages = 1\nattribute = \"RUNTIME|RO\"\n[mapper]"
            )
        );
        let map = MemoryMap::parse(&text).unwrap();
        assert_eq!((map.kind(), map.attributes_table().len()), (ListKind::Runtime, 1));
        assert_eq!(map.attributes_table()[0].att.bits(), 0x8000_0000_0002_0000);
        let wrong = MemoryMap::parse(&text.replace("\"runtime\"", "\"kernel\"")).unwrap_err();
        assert_eq!(wrong.to_string(), "<text>:1:8: no kind of list `kernel`; there are firmware, runtime");
    }

    #[test]
    fn syntax_errors_are_pointed_at() {
        assert!(error("phys = 0", "phys = ").starts_with("x.toml:3:8: "), "{}", error("phys = 0", "phys = "));
        assert!(error("[[descriptor]]", "[[descriptor]").starts_with("x.toml:1:"));
    }

    #[test]
    fn a_document_without_descriptors_is_no_map() {
        for text in ["name = 'x'", "[mapper]\n", "descriptor = []"] {
            let error = MemoryMap::parse(text).unwrap_err();
            assert_eq!(error.message(), "no EFI memory map: there is no [[descriptor]]");
        }
    }

    #[test]
    fn nesting_without_end_is_refused_not_followed() {
        let deep = 100_000;
        for text in [
            format!("mapper = {}", "[".repeat(deep)),
            format!("mapper = {}", "{a=".repeat(deep)),
            format!("mapper{} = 1", ".a".repeat(deep)),
            format!("[mapper{}]", ".a".repeat(deep)),
        ] {
            assert!(MemoryMap::parse(&text).is_err());
        }
    }

    #[test]
    fn one_descriptor_too_many_is_refused() {
        let text = "[[descriptor]]\ntype=0\nphys=0\npages=0\nattribute=0\n".repeat(MAX_DESCRIPTORS + 1);
        let error = MemoryMap::parse(&text).unwrap_err();
        assert_eq!(error.to_string(), "<text>:327681:1: more than 65536 descriptors");
    }

    /// What would take gigabytes is refused where it passes a limit, however much comes after it.
    #[test]
    fn more_than_a_map_can_have_is_refused_before_it_is_read() {
        let refusal = |text: String| check_extent("x.toml", &text).unwrap_err().to_string();
        let array = refusal(format!("mapper = [{}]", "1,".repeat(MAX_TOKENS)));
        assert_eq!(array, format!("x.toml:1:{}: more TOML than a map can have", MAX_TOKENS + 6));
        for piece in ["a.b = 1\n", "[a]\n", "a = {}\n"] {
            assert!(refusal(piece.repeat(MAX_TABLES + 1)).ends_with("more TOML than a map can have"), "{piece}");
        }
        assert!(refusal("\n".repeat(MAX_TOKENS + 1)).ends_with("more TOML than a map can have"));
        for header in ["[[descriptor]]\n", "[[ attributes ]]\n", "[[attributes]]\n"] {
            let expected =
                if header.contains(' ') { "more TOML than a map can have" } else { "more than 65536 descriptors" };
            assert!(refusal(header.repeat(4 * MAX_DESCRIPTORS)).ends_with(expected), "{header}");
        }
    }

    #[test]
    fn as_much_as_a_map_can_have_is_within_the_limits() {
        let table = |array: &str| {
            format!("[[{array}]]\ntype = 'PalCode' # what\nphys = 0\npages = 1\nattribute = 0\nvirt = 0\n\n")
                .repeat(MAX_DESCRIPTORS)
        };
        assert!(check_extent("x.toml", &(table("descriptor") + &table("attributes"))).is_ok());
        // Brackets in strings and comments are none.
        assert!(check_extent("x.toml", &format!("about = '{0}' # {0}", "[".repeat(MAX_TABLES + 1))).is_ok());
    }
}
