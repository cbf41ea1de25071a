//! What makes two findings the same, in one run or in two.

use std::fmt;
use std::str::FromStr;

use crate::check::{Finding, Phase, Place, Rule};
use crate::memory_map::{MemoryType, parse_type, type_name};
use crate::mmu::Level;
use crate::report::Report;
#[cfg(any(feature = "cli", feature = "fuzz"))]
use crate::{Layout, LeafRule, Scenario};

/// What a finding is known by, whatever the addresses of a map are.
///
/// Its text stays the same, and can be a file's name.
///
/// ```
/// use efibed::fuzz::FindingKey;
///
/// let key: FindingKey = "reserved-bit.RuntimeServicesData.map.PDE".parse()?;
/// assert_eq!(key.rule.name(), "reserved-bit");
/// assert_eq!(key.to_string(), "reserved-bit.RuntimeServicesData.map.PDE");
///
/// // Of mapping code whose lines are known it tells the one that set the guilty entry, too.
/// let key: FindingKey = "reserved-bit.RuntimeServicesData.map.PDE.map_region-41".parse()?;
/// assert_eq!(key.set_by.unwrap().to_string(), "map_region-41");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FindingKey {
    /// The rule that is broken.
    pub rule: Rule,
    /// The type of the region, where one is concerned.
    pub region_type: Option<MemoryType>,
    /// Where it shows.
    pub site: Site,
    /// The line of the mapping code that set the entry, where that is known: see [`Finding::set_by`].
    pub set_by: Option<SetBy>,
}

/// Where a finding shows: the phase, and the entry at which the walk to its address ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The phase.
    pub phase: Phase,
    /// The entry's level, where there was a walk.
    pub level: Option<Level>,
}

/// A line of mapping code in a word: function and line, or what is known of them. It has no addresses, which are others on
/// another machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetBy(String);

/// Of a function's name. Names of files are longer by twice that, at most.
const MOST_NAME_BYTES: usize = 96;

impl SetBy {
    fn of(place: &Place) -> Self {
        let name = place.function.as_ref().or(place.file.as_ref()).map_or("", String::as_str);
        let words: Vec<&str> = name.split(|c| !is_of_a_word(c)).filter(|word| !word.is_empty()).collect();
        let name = words.join("-");
        // All of it is ASCII. Its end tells more than the modules that it begins with.
        let end = &name[name.len().saturating_sub(MOST_NAME_BYTES)..];
        Self(place.line.map_or_else(|| end.into(), |line| format!("{end}-{line}")))
    }
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error is a sentence.
impl FromStr for SetBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_word = !text.is_empty() && text.chars().all(|c| is_of_a_word(c) || c == '-');
        is_word.then(|| Self(text.into())).ok_or_else(|| format!("`{text}` is no FUNCTION-LINE"))
    }
}

/// The keys of what a report found, in its order, each once.
pub fn keys(report: &Report) -> Vec<FindingKey> {
    let mut keys = Vec::new();
    for key in report.findings.iter().map(|finding| FindingKey::of(finding, report)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// Those of them that another report on the same map has nothing like: no finding of the rule, for a region of the type.
pub fn keys_beyond(report: &Report, other: &Report) -> Vec<FindingKey> {
    let others = keys(other);
    let is_like = |key: &FindingKey, other: &FindingKey| (key.rule, key.region_type) == (other.rule, other.region_type);
    let mut keys = keys(report);
    keys.retain(|key| !others.iter().any(|other| is_like(key, other)));
    keys
}

/// A scenario with a built-in layout in place of its mapping code, under the same contract.
#[cfg(any(feature = "cli", feature = "fuzz"))]
pub fn as_built_in(scenario: &Scenario, layout: Layout) -> Scenario {
    let contract = scenario.contract_in_force().clone();
    scenario.clone().contract(contract).layout(layout).leaf_rule(LeafRule::CoAligned)
}

impl FindingKey {
    /// The key of a finding of a report.
    pub fn of(finding: &Finding, report: &Report) -> Self {
        let region = finding.region.and_then(|index| report.regions.get(index));
        let level = finding.walk.last().map(|step| step.level);
        Self {
            rule: finding.rule,
            region_type: region.map(|region| region.region.ty),
            site: Site { phase: finding.phase, level },
            set_by: finding.set_by.as_ref().map(SetBy::of),
        }
    }

    /// The same, of any line.
    #[cfg(feature = "fuzz")]
    pub(super) fn of_any_line(&self) -> Self {
        Self { set_by: None, ..self.clone() }
    }
}

const NONE: &str = "none";

impl fmt::Display for FindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, region_type, site, set_by } = self;
        let region_type = region_type.map_or(NONE.into(), type_name);
        let level = site.level.map_or(NONE.into(), |level| level.to_string());
        write!(f, "{rule}.{region_type}.{}.{level}", site.phase)?;
        set_by.as_ref().map_or(Ok(()), |set_by| write!(f, ".{set_by}"))
    }
}

/// The error is a sentence.
impl FromStr for FindingKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('.').collect();
        let ([rule, region_type, phase, level], set_by) = match parts[..] {
            [rule, region_type, phase, level] => ([rule, region_type, phase, level], None),
            [rule, region_type, phase, level, set_by] => ([rule, region_type, phase, level], Some(set_by.parse()?)),
            _ => {
                let expected = "RULE.TYPE.PHASE.LEVEL, and .FUNCTION-LINE if it is known";
                return Err(format!("`{text}` is no key of a finding: expected {expected}"));
            }
        };
        let region_type =
            or_none(region_type, parse_type).ok_or_else(|| format!("`{region_type}` is no memory type"))?;
        let level = or_none(level, |name| Level::ALL.into_iter().find(|level| level.to_string() == name))
            .ok_or_else(|| format!("`{level}` is no level of table entries"))?;
        let phase = phase.parse().map_err(|error: crate::UnknownName| error.to_string())?;
        let rule = rule.parse().map_err(|error: crate::UnknownName| error.to_string())?;
        Ok(Self { rule, region_type, site: Site { phase, level }, set_by })
    }
}

/// A value, or the word for none; None: it is neither.
fn or_none<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == NONE { Some(None) } else { parse(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for text in [
            "reserved-bit.RuntimeServicesData.map.PDE",
            "not-present.0x70000001.finish.PML4E",
            "no-room.none.input.none",
            "wrong-frame.RuntimeServicesData.map.PTE.my_crate-Kernel-map-41",
        ] {
            assert_eq!(text.parse::<FindingKey>().unwrap().to_string(), text);
        }
        for (text, says) in [
            ("reserved-bit", "expected RULE.TYPE.PHASE.LEVEL"),
            ("wrong.none.map.none", "no rule `wrong`"),
            ("no-room.Nothing.map.none", "`Nothing` is no memory type"),
            ("no-room.none.never.none", "no phase `never`"),
            ("no-room.none.map.PTEs", "`PTEs` is no level"),
            ("no-room.none.map.PTE.", "`` is no FUNCTION-LINE"),
            ("no-room.none.map.PTE.a/b", "`a/b` is no FUNCTION-LINE"),
            ("no-room.none.map.PTE.a-1.b-2", "expected RULE.TYPE.PHASE.LEVEL"),
        ] {
            let error = text.parse::<FindingKey>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn every_key_can_be_the_name_of_a_file() {
        for rule in Rule::ALL {
            let site = Site { phase: Phase::Finish, level: Some(Level::Pml5e) };
            for region_type in [None, Some(MemoryType::ACPI_NON_VOLATILE), Some(MemoryType(u32::MAX))] {
                for set_by in [None, Some(place(&"long::".repeat(1000), 41))] {
                    let name = FindingKey { rule: *rule, region_type, site, set_by }.to_string();
                    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)), "{name}");
                    assert!(name.len() < 250, "{name}");
                }
            }
        }
    }

    fn place(function: &str, line: u32) -> SetBy {
        SetBy::of(&Place { function: Some(function.into()), file: Some("a.c".into()), line: Some(line) })
    }

    #[test]
    fn a_line_is_a_word() {
        for (function, word) in [
            ("map_region", "map_region-41"),
            ("<packed_efi::Kernel as efibed::Mapper>::map", "packed_efi-Kernel-as-efibed-Mapper-map-41"),
            ("paper::map(unsigned long*)", "paper-map-unsigned-long-41"),
            ("../../etc/passwd", "etc-passwd-41"),
        ] {
            assert_eq!(place(function, 41).to_string(), word);
            assert_eq!(word.parse(), Ok(place(function, 41)));
        }
        let known = |function: Option<&str>, file: Option<&str>, line| {
            SetBy::of(&Place { function: function.map(Into::into), file: file.map(Into::into), line }).to_string()
        };
        assert_eq!(known(Some("map_region"), None, None), "map_region");
        assert_eq!(known(None, Some("mapper.s"), Some(4)), "mapper-s-4");
    }
}
