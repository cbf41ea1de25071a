//! The scenario TOML: a memory map, and what to do with it.

use efibed_guest::{Layout, LeafRule};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Scenario;
use crate::check::Rule;
use crate::machine::CpuidRequest;
use crate::memory_map::{Format, ListKind, MemoryMap, ParseError, check_size, detect, toml_format};

/// A scenario from text in any known format.
pub fn parse(name: &str, text: &str) -> Result<Scenario, ParseError> {
    check_size(name, text)?;
    if detect(text) != Some(Format::Toml) {
        return MemoryMap::parse_named(name, text).map(Scenario::new);
    }
    let file: File = toml::from_str(text).map_err(|error| ParseError::from_toml(name, text, &error))?;
    let map =
        toml_format::into_map(name, text, file.descriptor, file.attributes, file.list)?.marked_partial(file.partial);
    let mapper = file.mapper.unwrap_or_default();
    let cpu = file.cpu.unwrap_or_default();
    let cpu = CpuidRequest {
        maxphyaddr: cpu.maxphyaddr,
        gbpages: cpu.gbpages,
        nx: cpu.nx,
        la57: cpu.la57,
        smep: cpu.smep,
        smap: cpu.smap,
        pku: cpu.pku,
    };
    let mut scenario = Scenario::new(map).layout(mapper.layout).leaf_rule(mapper.leaf_rule).cpu(cpu);
    if let Some(firmware) = file.firmware {
        scenario = scenario.firmware_calls(firmware.calls);
    }
    if let Some(expect) = file.expect {
        scenario = scenario.expect(expect.findings);
    }
    Ok(scenario)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "`name` and `about` are for people")]
struct File {
    #[serde(default)]
    descriptor: Vec<Spanned<toml_format::Descriptor>>,
    #[serde(default)]
    attributes: Vec<Spanned<toml_format::Descriptor>>,
    #[serde(default, deserialize_with = "toml_format::list_kind")]
    list: Option<ListKind>,
    partial: Option<String>,
    name: Option<String>,
    about: Option<String>,
    mapper: Option<Mapper>,
    cpu: Option<Cpu>,
    firmware: Option<Firmware>,
    expect: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Firmware {
    /// Whether runtime services are called.
    calls: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(deserialize_with = "rules")]
    findings: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapper {
    #[serde(default, deserialize_with = "layout")]
    layout: Layout,
    #[serde(default, deserialize_with = "leaf_rule")]
    leaf_rule: LeafRule,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cpu {
    #[serde(default, deserialize_with = "maxphyaddr")]
    maxphyaddr: Option<u8>,
    gbpages: Option<bool>,
    nx: Option<bool>,
    la57: Option<bool>,
    smep: Option<bool>,
    smap: Option<bool>,
    pku: Option<bool>,
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let rule = |name: &String| {
        Rule::from_name(name)
            .ok_or_else(|| D::Error::custom(format!("no rule `{name}`; `efibed explain rules` lists them")))
    };
    names.iter().map(rule).collect()
}

fn layout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Layout, D::Error> {
    let name = String::deserialize(deserializer)?;
    let names = Layout::ALL.map(Layout::name).join(", ");
    Layout::from_name(&name).ok_or_else(|| D::Error::custom(format!("no layout `{name}`; there are {names}")))
}

fn leaf_rule<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LeafRule, D::Error> {
    let name = String::deserialize(deserializer)?;
    let names = LeafRule::ALL.map(LeafRule::name).join(", ");
    LeafRule::from_name(&name).ok_or_else(|| D::Error::custom(format!("no leaf rule `{name}`; there are {names}")))
}

fn maxphyaddr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let bits = u8::deserialize(deserializer)?;
    match bits {
        32..=52 => Ok(Some(bits)),
        _ => Err(D::Error::custom(format!("{bits} bits of physical address; there are 32 to 52 (SDM vol. 3A, 4.1.4)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineName, TestBed};

    const MAP: &str = "[[descriptor]]\ntype = \"RuntimeServicesData\"\nphys = 0x7e729000\npages = 0x242\nattribute = \"RUNTIME|WB\"\n";

    #[test]
    fn every_table_is_read() {
        let text = format!(
            "[mapper]\nlayout = \"packed-down\"\nleaf_rule = \"va-only\"\n[cpu]\nmaxphyaddr = 40\nla57 = false\n\
             [firmware]\ncalls = false\n[expect]\nfindings = [\"reserved-bit\"]\n{MAP}"
        );
        let scenario = parse("all", &text).unwrap().engine(EngineName::Walker);
        let report = TestBed::without_kvm().run(&scenario).unwrap();
        assert_eq!((report.mapper.layout, report.mapper.leaf_rule), ("packed-down", "va-only"));
        assert_eq!(report.cpu.told.maxphyaddr, 40);
        assert_eq!(scenario.is_as_expected(&report), Some(true));
        assert_eq!(scenario.leaf_rule(LeafRule::FourK).expect(vec![]).is_as_expected(&report), Some(false));
    }

    #[test]
    fn errors_say_where_and_what_there_is() {
        for (wrong, place, says) in [
            (
                "[mapper]\nlayout = \"windows\"\n",
                "x:2:",
                "there are linux, linux-fixed, window, packed-down, packed-up",
            ),
            ("[cpu]\nmaxphyaddr = 64\n", "x:2:", "there are 32 to 52"),
            ("[expect]\nfindings = [\"wrong\"]\n", "x:2:", "`efibed explain rules` lists them"),
            ("[cpu]\navx = true\n", "x:2:", "avx"),
        ] {
            let error = parse("x", &format!("{wrong}{MAP}")).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(says), "{error}");
        }
    }
}
