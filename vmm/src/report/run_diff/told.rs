//! A report as its JSON tells it. Keys that are not needed here are passed over, since new ones may be added.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::report::json::{LeavesObject, SCHEMA};

/// A run of `efibed check`, as a file has it.
#[derive(Clone, Debug, Deserialize)]
pub struct ToldReport {
    schema: u32,
    pub(in crate::report) verdict: String,
    pub(in crate::report) map: ToldMap,
    mapper: Value,
    pub(in crate::report) regions: Vec<ToldRegion>,
    pub(super) findings: Vec<ToldFinding>,
    #[serde(default)]
    pub(super) findings_omitted: u64,
    #[serde(default)]
    pub(in crate::report) tables: Vec<ToldTables>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldMap {
    pub source: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldRegion {
    pub r#type: String,
    pub attribute: Address,
    pub phys: Address,
    pub pages: u64,
    pub virt: Option<Address>,
    #[serde(default)]
    pub aliases: Vec<Address>,
    pub leaves: LeavesObject,
    pub verdict: String,
}

impl fmt::Display for LeavesObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x1G {}x2M {}x4K", self.of_1g, self.of_2m, self.of_4k)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldFinding {
    pub rule: String,
    pub phase: String,
    pub region: Option<usize>,
    pub virt: Option<Address>,
    pub message: String,
}

/// The page tables of a phase.
#[derive(Clone, Debug, Deserialize)]
pub struct ToldTables {
    pub phase: String,
    pub runs: Vec<ToldRun>,
    /// Where the kernel's own mapping is, first and last address of each range.
    #[serde(default)]
    pub kernel: Vec<[Address; 2]>,
    pub cut: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldRun {
    pub virt: Address,
    pub bytes: u64,
    /// The level of its leaves.
    #[serde(default)]
    pub leaf: String,
    pub writable: bool,
    pub executable: bool,
    pub user: bool,
    pub pat_index: u8,
    /// None: nothing translates.
    pub phys: Option<Address>,
}

/// An address or a bit pattern, a string in hexadecimal in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let wrong =
            || de::Error::invalid_value(de::Unexpected::Str(&text), &"an address of 64 bits, such as \"0x7e000000\"");
        number.map(Self).ok_or_else(wrong)
    }
}

/// A file that is a report, and cannot be read as one.
#[derive(Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("{name}:{line}:{column}: {problem}")]
#[diagnostic(help("a report is what `efibed check MAP --json FILE` writes, of one map"))]
pub struct NoReport {
    name: String,
    line: usize,
    column: usize,
    problem: String,
}

/// What every report has, and no memory map.
#[derive(Deserialize)]
struct Looks {
    verdict: Option<de::IgnoredAny>,
    descriptors: Option<de::IgnoredAny>,
}

impl ToldReport {
    /// Reads one. None: the text is something else.
    pub fn read(name: &str, text: &str) -> Option<Result<Self, NoReport>> {
        let looks: Looks = serde_json::from_str(text).ok()?;
        if looks.verdict.is_none() || looks.descriptors.is_some() {
            return None;
        }
        let wrong = |line, column, problem| NoReport { name: name.into(), line, column, problem };
        let read: Result<Self, _> = serde_json::from_str(text);
        Some(match read {
            Ok(report) if report.schema != SCHEMA => {
                Err(wrong(1, 1, format!("the schema is {}, and this efibed knows {SCHEMA}", report.schema)))
            }
            Ok(report) => Ok(report),
            Err(error) => Err(wrong(error.line(), error.column(), format!("no report of one run: {error}"))),
        })
    }

    /// The mapping code, in words.
    pub(in crate::report) fn mapper_name(&self) -> String {
        let of = |key: &str| self.mapper.get(key).and_then(Value::as_str);
        match (of("layout"), of("leaf_rule"), of("elf").or(of("name"))) {
            (Some(layout), Some(leaf_rule), _) => format!("layout {layout}, leaf rule {leaf_rule}"),
            (_, _, Some(name)) => name.into(),
            _ => "not told".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn a_report_is_told_from_a_map_and_from_what_is_neither() {
        let report = samples::clean().to_json();
        assert_eq!(ToldReport::read("a", &report).unwrap().unwrap().regions.len(), 4);
        for other in [r#"{"schema": 1, "descriptors": []}"#, "efi: mem00: [Conventional", "[1]", ""] {
            assert!(ToldReport::read("a", other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_report_that_is_damaged_is_named_with_the_place() {
        let report = samples::clean().to_json();
        let wrong = |from: &str, to: &str| {
            assert!(report.contains(from), "{from}");
            ToldReport::read("a", &report.replace(from, to)).unwrap().unwrap_err().to_string()
        };
        assert!(wrong("\"schema\": 1", "\"schema\": 2").starts_with("a:1:1: the schema is 2"));
        let address = wrong("\"0x7e000000\"", "\"7e000000\"");
        assert!(address.contains("an address of 64 bits") && !address.starts_with("a:1:1"), "{address}");
        assert!(wrong("\"regions\"", "\"areas\"").contains("missing field `regions`"));
    }
}
