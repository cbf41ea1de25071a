//! JSON, for programs: the same fields as in TOML, numbers as strings.
//!
//! ```json
//! {
//!   "schema": 1,
//!   "list": "firmware",
//!   "descriptors": [
//!     { "type": "RuntimeServicesCode", "phys": "0x7dc5b000", "pages": "0x4eb", "attribute": "UC|WB|RUNTIME" }
//!   ],
//!   "attributes_table": []
//! }
//! ```
//!
//! Types and attributes are names or numbers, `virt` is 0 where it is missing, and so are `list` and
//! `attributes_table` as above; `partial` says why the map is not whole. Keys that are not known are refused.

use serde::{Deserialize, Serialize};

use super::super::error::ParseError;
use super::super::{Format, ListKind, MAX_DESCRIPTORS, MemoryDescriptor, MemoryMap, attribute_names, type_name};
use super::offset::Offset;
use super::toml_format::{Descriptor, list_kind};

/// The version of the format.
const SCHEMA: u32 = 1;

/// Whether a text is JSON, if it is anything: it starts with an object.
pub(super) fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Reads the map of a document.
pub(super) fn parse(name: &str, text: &str) -> Result<MemoryMap, ParseError> {
    let document: Document = serde_json::from_str(text).map_err(|error| syntax_error(name, text, &error))?;
    let Document { schema, descriptors, attributes_table, list, partial } = document;
    let wrong = |message: String| ParseError::at(name, text, 0..0, message).label("this document").help(SAMPLE);
    if schema != SCHEMA {
        return Err(wrong(format!("the schema is {schema}; there is {SCHEMA}")));
    }
    if descriptors.len().max(attributes_table.len()) > MAX_DESCRIPTORS {
        return Err(wrong(format!("more than {MAX_DESCRIPTORS} descriptors")));
    }
    if descriptors.is_empty() {
        return Err(wrong("no EFI memory map: there is no descriptor".into()));
    }
    let attributes_table = attributes_table.into_iter().map(MemoryDescriptor::from).collect();
    let map = MemoryMap::from_descriptors(name, descriptors.into_iter().map(MemoryDescriptor::from).collect());
    let kind = list.unwrap_or(ListKind::Firmware);
    Ok(MemoryMap { kind, attributes_table, format: Some(Format::Json), ..map }.marked_partial(partial))
}

/// Writes a map.
pub(in super::super) fn write(map: &MemoryMap) -> String {
    let all = |list: &[MemoryDescriptor]| list.iter().map(Written::from).collect();
    let document = WrittenDocument {
        schema: SCHEMA,
        list: map.kind().name(),
        partial: map.partial(),
        descriptors: all(map.descriptors()),
        attributes_table: all(map.attributes_table()),
    };
    // Strings and numbers in structures: nothing that JSON cannot hold.
    let mut json = serde_json::to_string_pretty(&document).unwrap_or_default();
    json.push('\n');
    json
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    descriptors: Vec<Descriptor>,
    #[serde(default)]
    attributes_table: Vec<Descriptor>,
    #[serde(default, deserialize_with = "list_kind")]
    list: Option<ListKind>,
    partial: Option<String>,
}

#[derive(Serialize)]
struct WrittenDocument<'a> {
    schema: u32,
    list: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<&'a str>,
    descriptors: Vec<Written>,
    attributes_table: Vec<Written>,
}

#[derive(Serialize)]
struct Written {
    #[serde(rename = "type")]
    ty: String,
    phys: String,
    pages: String,
    attribute: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    virt: Option<String>,
}

impl From<&MemoryDescriptor> for Written {
    fn from(descriptor: &MemoryDescriptor) -> Self {
        let hex = |number: u64| format!("{number:#x}");
        Self {
            ty: type_name(descriptor.ty).into_owned(),
            phys: hex(descriptor.phys_start),
            pages: hex(descriptor.page_count),
            attribute: attribute_names(descriptor.att).join("|"),
            virt: (descriptor.virt_start != 0).then(|| hex(descriptor.virt_start)),
        }
    }
}

const SAMPLE: &str = "a map is {\"schema\": 1, \"descriptors\": [{\"type\": \"RuntimeServicesCode\", \
     \"phys\": \"0x7dc5b000\", \"pages\": \"0x4eb\", \"attribute\": \"RUNTIME|WB\"}]}";

/// The reader's error, at the place it tells: a line from 1 (0 where there is none), and so many bytes of it.
fn syntax_error(name: &str, text: &str, error: &serde_json::Error) -> ParseError {
    let line_start: usize = text.split_inclusive('\n').take(error.line().minus(1)).map(str::len).sum();
    let at = line_start.plus(error.column().minus(1)).min(text.len());
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&place).unwrap_or(&message);
    ParseError::at(name, text, at..at, message).help(SAMPLE)
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryType, parse_attribute};
    use super::*;

    const GOOD: &str = r#"{
  "schema": 1,
  "list": "runtime",
  "descriptors": [
    { "type": "RuntimeServicesCode", "phys": "0x7dc5b000", "pages": "0x4eb", "attribute": "WB|RUNTIME" },
    { "type": "0x70000000", "phys": "4096", "pages": 1, "virt": "0xfffffffefdc5b000", "attribute": "0x8000000000000001" }
  ],
  "attributes_table": [
    { "type": "RuntimeServicesCode", "phys": "0x7dc5b000", "pages": "0x1", "attribute": "RO|RUNTIME" }
  ]
}
"#;

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        MemoryMap::parse_named("map", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn names_and_numbers_are_read() {
        let map = MemoryMap::parse(GOOD).unwrap();
        let [code, oem] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!(
            (code.ty, code.phys_start, code.page_count),
            (MemoryType::RUNTIME_SERVICES_CODE, 0x7dc5_b000, 0x4eb)
        );
        assert_eq!((oem.ty, oem.phys_start, oem.page_count), (MemoryType(0x7000_0000), 4096, 1));
        assert_eq!((oem.virt_start, oem.att.bits()), (0xffff_fffe_fdc5_b000, 0x8000_0000_0000_0001));
        assert_eq!((map.kind(), map.format()), (ListKind::Runtime, Some(Format::Json)));
        assert_eq!(map.attributes_table()[0].att, parse_attribute("RUNTIME|RO").unwrap());
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        assert!(error("\"pages\": \"0x4eb\"", "\"page\": 1").starts_with("map:5:"));
        assert!(error("\"pages\": \"0x4eb\"", "\"page\": 1").contains("unknown field `page`"));
        assert!(
            error("RuntimeServicesCode", "RuntimeServiceCode").contains("unknown memory type `RuntimeServiceCode`")
        );
        assert!(error("WB|RUNTIME", "WB|RUNTIM").contains("unknown attribute `RUNTIM`"));
        assert!(error("\"attribute\": \"WB|RUNTIME\"", "\"virt\": 0").contains("missing field `attribute`"));
        assert_eq!(
            error("\"runtime\"", "\"kernel\""),
            "map:3:18: no kind of list `kernel`; there are firmware, runtime"
        );
        assert_eq!(error("\"schema\": 1", "\"schema\": 2"), "map:1:1: the schema is 2; there is 1");
        assert_eq!(error("\n}\n", "\n"), "map:11:1: EOF while parsing an object");
        let empty = MemoryMap::parse("{\"schema\": 1, \"descriptors\": []}").unwrap_err();
        assert_eq!(empty.message(), "no EFI memory map: there is no descriptor");
    }

    #[test]
    fn nesting_without_end_is_refused_not_followed() {
        assert!(MemoryMap::parse(&format!("{{\"descriptors\": {}", "[".repeat(100_000))).is_err());
        assert!(MemoryMap::parse(&"{\"a\":".repeat(100_000)).is_err());
    }

    #[test]
    fn one_descriptor_too_many_is_refused() {
        let one = "{\"type\":0,\"phys\":0,\"pages\":0,\"attribute\":0}";
        let all = vec![one; MAX_DESCRIPTORS + 1].join(",");
        let error = MemoryMap::parse(&format!("{{\"schema\":1,\"descriptors\":[{all}]}}")).unwrap_err();
        assert_eq!(error.message(), "more than 65536 descriptors");
    }
}
