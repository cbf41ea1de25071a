//! The scenario TOML: a memory map, and what to do with it.

use efibed_guest::{Layout, LeafRule};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Scenario;
use crate::machine::CpuidRequest;
use crate::memory_map::{Format, MemoryMap, ParseError, check_size, detect, toml_format};

/// A scenario from text in any known format.
pub fn parse(name: &str, text: &str) -> Result<Scenario, ParseError> {
    check_size(name, text)?;
    if detect(text) != Some(Format::Toml) {
        return MemoryMap::parse_named(name, text).map(Scenario::new);
    }
    let file: File = toml::from_str(text).map_err(|error| ParseError::from_toml(name, text, &error))?;
    let map = toml_format::into_map(name, text, file.descriptor)?;
    let mapper = file.mapper.unwrap_or_default();
    let cpu = file.cpu.unwrap_or_default();
    Ok(Scenario::new(map).layout(mapper.layout).leaf_rule(mapper.leaf_rule).cpu(CpuidRequest {
        maxphyaddr: cpu.maxphyaddr,
        gbpages: cpu.gbpages,
        nx: cpu.nx,
        la57: cpu.la57,
        smep: cpu.smep,
        smap: cpu.smap,
        pku: cpu.pku,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "`name` and `about` are for people")]
struct File {
    #[serde(default)]
    descriptor: Vec<Spanned<toml_format::Descriptor>>,
    name: Option<String>,
    about: Option<String>,
    mapper: Option<Mapper>,
    cpu: Option<Cpu>,
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
