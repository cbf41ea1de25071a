//! The scenario TOML: a memory map, and what to do with it.
//!
//! The types also describe the format: [`schema`] makes a JSON schema from them and their documentation. `mapper` is the
//! table of that name, and `reading` finds out what a file holds.

mod mapper;
mod reading;
#[cfg(feature = "cli")]
mod schema;
#[cfg(any(feature = "cli", feature = "fuzz"))]
mod writing;

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Scenario;
use crate::check::Rule;
use crate::engine::{DescriptorSize, FirmwareOptions, KernelOptions, Miscall, VariableBytes};
use crate::firmware::ServiceMisbehaviour;
use crate::machine::{CpuidRequest, MaxPhyAddr};
use crate::memory_map::{Format, ListKind, MemoryMap, ParseError, check_size, detect, toml_format};

pub use mapper::OwnMapper;
#[cfg(feature = "cli")]
pub use mapper::read_elf;
pub use reading::Found;
#[cfg(feature = "cli")]
pub use schema::schema;
#[cfg(any(feature = "cli", feature = "fuzz"))]
pub use writing::tables;

/// A text, and where it is from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// Its name in errors.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
    /// The folder at which its relative paths start; None: it is in no file.
    pub folder: Option<&'a Path>,
}

/// A scenario from text in any known format.
pub fn parse(origin: Origin<'_>, own: OwnMapper) -> Result<Scenario, ParseError> {
    let Origin { name, text, .. } = origin;
    check_size(name, text)?;
    if detect(text) != Some(Format::Toml) {
        return MemoryMap::parse_named(name, text).map(Scenario::new);
    }
    toml_format::check_extent(name, text)?;
    let file: File = toml::from_str(text).map_err(|error| ParseError::from_toml(name, text, &error))?;
    let map =
        toml_format::into_map(name, text, file.descriptor, file.attributes, file.list)?.marked_partial(file.partial);
    let scenario = Scenario::new(map).cpu(file.cpu.into()).firmware(file.firmware.into()).kernel(file.kernel.into());
    let scenario = file.mapper.apply(scenario, origin, own)?;
    Ok(match file.expect {
        Some(expect) => scenario.expect(expect.findings),
        None => scenario,
    })
}

/// A memory map for efibed, and what to do with it. A file with descriptors only is a memory map.
#[derive(Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema), schemars(title = "efibed scenario", extend("required" = ["descriptor"])))]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "`name` and `about` are for people")]
struct File {
    /// The memory map's descriptors, in firmware's order.
    #[serde(default)]
    #[cfg_attr(feature = "cli", schemars(with = "Vec<toml_format::Descriptor>", length(min = 1)))]
    descriptor: Vec<Spanned<toml_format::Descriptor>>,
    /// The entries of the Memory Attributes Table, if firmware has one.
    #[serde(default)]
    #[cfg_attr(feature = "cli", schemars(with = "Vec<toml_format::Descriptor>"))]
    attributes: Vec<Spanned<toml_format::Descriptor>>,
    /// Whose list the descriptors are: firmware's, or Linux's own of what it mapped.
    #[serde(default, deserialize_with = "toml_format::list_kind")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::list_kind"))]
    list: Option<ListKind>,
    /// Why the list is not the whole map, if it is not.
    partial: Option<String>,
    /// What the scenario is called. For people.
    name: Option<String>,
    /// What it shows. For people.
    about: Option<String>,
    #[serde(default)]
    mapper: mapper::Mapper,
    #[serde(default)]
    cpu: Cpu,
    #[serde(default)]
    firmware: Firmware,
    #[serde(default)]
    kernel: Kernel,
    expect: Option<Expect>,
}

/// The guest's CPU. What is not named is as on the machine, but `la57` and `pku` are then off.
#[derive(Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Cpu {
    /// Bits of physical address.
    maxphyaddr: Option<MaxPhyAddr>,
    /// 1 GiB pages.
    gbpages: Option<bool>,
    /// Execute-disable.
    nx: Option<bool>,
    /// Five-level paging.
    la57: Option<bool>,
    /// Supervisor-mode execution prevention.
    smep: Option<bool>,
    /// Supervisor-mode access prevention.
    smap: Option<bool>,
    /// Protection keys.
    pku: Option<bool>,
}

impl From<Cpu> for CpuidRequest {
    fn from(cpu: Cpu) -> Self {
        let Cpu { maxphyaddr, gbpages, nx, la57, smep, smap, pku } = cpu;
        Self { maxphyaddr, gbpages, nx, la57, smep, smap, pku }
    }
}

/// How firmware behaves.
#[derive(Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Firmware {
    /// Whether runtime services are called at all; the default is true.
    calls: Option<bool>,
    /// What firmware does that it must not: MISBEHAVIOUR, or MISBEHAVIOUR@SERVICE.
    #[serde(default, deserialize_with = "each_named")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::misbehaviours"))]
    misbehaves: Vec<ServiceMisbehaviour>,
    /// The DescriptorSize that firmware reports with its map; the default is 48.
    descriptor_size: Option<DescriptorSize>,
    /// The DescriptorVersion that firmware reports; the default is 1. SetVirtualAddressMap accepts no other.
    descriptor_version: Option<u32>,
}

impl From<Firmware> for FirmwareOptions {
    fn from(firmware: Firmware) -> Self {
        let usual = Self::default();
        Self {
            calls: firmware.calls.unwrap_or(usual.calls),
            descriptor_size: firmware.descriptor_size.unwrap_or(usual.descriptor_size),
            descriptor_version: firmware.descriptor_version.unwrap_or(usual.descriptor_version),
            misbehaves: firmware.misbehaves,
        }
    }
}

/// What the kernel around the mapping code does.
#[derive(Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Kernel {
    /// Whether phase `finish` is run, which drops boot services and tightens permissions; the default is true. Linux skips
    /// it with efi=debug.
    finish: Option<bool>,
    /// Whether GetTime's first argument ends at a page with nothing mapped after it.
    #[serde(default)]
    guard_page: bool,
    /// The DescriptorSize that the kernel uses, whatever firmware reports.
    descriptor_size: Option<DescriptorSize>,
    /// The DescriptorVersion that the kernel uses, whatever firmware reports.
    descriptor_version: Option<u32>,
    /// Bytes of the variable that it writes before the switch and reads after it; the default is a line of text.
    variable_bytes: Option<VariableBytes>,
    /// The mistakes that it makes in calling services.
    #[serde(default, deserialize_with = "each_named")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::miscalls"))]
    miscalls: Vec<Miscall>,
}

impl From<Kernel> for KernelOptions {
    fn from(kernel: Kernel) -> Self {
        let Kernel { finish, guard_page, descriptor_size, descriptor_version, variable_bytes, miscalls } = kernel;
        let finish = finish.unwrap_or(Self::default().finish);
        Self { finish, guard_page, descriptor_size, descriptor_version, variable_bytes, miscalls }
    }
}

/// What must be found: the exit status is 0 if exactly that is.
#[derive(Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Expect {
    /// The rules that must be found, each at least once, and no others. `efibed explain rules` lists them.
    #[serde(deserialize_with = "rules")]
    #[cfg_attr(feature = "cli", schemars(schema_with = "schema::rules"))]
    findings: Vec<Rule>,
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let rule = |name: &String| {
        let unknown = |_| D::Error::custom(format!("no rule `{name}`; `efibed explain rules` lists them"));
        name.parse().map_err(unknown)
    };
    names.iter().map(rule).collect()
}

/// A value of a list, by its name.
fn named<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Several of them.
fn each_named<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| name.parse().map_err(D::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineName, TestBed};

    fn parse(name: &str, text: &str) -> Result<Scenario, ParseError> {
        Scenario::parse(name, text)
    }

    const MAP: &str = "[[descriptor]]\ntype = \"RuntimeServicesData\"\nphys = 0x7e729000\npages = 0x242\nattribute = \"RUNTIME|WB\"\n";

    #[test]
    fn every_table_is_read() {
        let text = format!(
            "[mapper]\nlayout = \"packed-down\"\nleaf_rule = \"va-only\"\n[cpu]\nmaxphyaddr = 40\nla57 = false\n\
             [firmware]\ncalls = false\nmisbehaves = [\"seam@GetVariable\"]\ndescriptor_size = 40\n\
             [kernel]\nfinish = false\ndescriptor_version = 1\nmiscalls = [\"interrupts\"]\n[expect]\nfindings = [\"reserved-bit\"]\n{MAP}"
        );
        let scenario = parse("all", &text).unwrap().engine(EngineName::Walker);
        let report = TestBed::without_kvm().run(&scenario).unwrap();
        assert_eq!(report.mapper.to_string(), "layout packed-down, leaf rule va-only");
        assert_eq!(report.cpu.told.maxphyaddr, 40);
        let (firmware, kernel) = (scenario.firmware_options(), scenario.kernel_options());
        assert_eq!(
            (firmware.calls, firmware.descriptor_size, firmware.descriptor_version),
            (false, DescriptorSize::U_BOOT, 1)
        );
        assert_eq!(
            firmware.misbehaves.iter().map(ServiceMisbehaviour::to_string).collect::<Vec<_>>(),
            ["seam@GetVariable"]
        );
        let expected = KernelOptions {
            finish: false,
            descriptor_version: Some(1),
            miscalls: vec![Miscall::Interrupts],
            ..KernelOptions::default()
        };
        assert_eq!(*kernel, expected);
        assert_eq!(report.expected().map(|expected| expected.rules), Some(vec![Rule::ReservedBit]));
    }

    #[test]
    fn errors_say_where_and_what_there_is() {
        for (wrong, place, says) in [
            (
                "[mapper]\nlayout = \"windows\"\n",
                "x:2:",
                "there are linux, linux-fixed, window, packed-down, packed-up",
            ),
            ("[cpu]\nmaxphyaddr = 64\n", "x:2:", "64 is no MAXPHYADDR: expected 32 to 52 bits (SDM vol. 3A, 4.1.4)"),
            ("[expect]\nfindings = [\"wrong\"]\n", "x:2:", "`efibed explain rules` lists them"),
            ("[cpu]\navx = true\n", "x:2:", "avx"),
            (
                "[firmware]\nmisbehaves = [\"sulks\"]\n",
                "x:2:",
                "no misbehaviour `sulks`; there are reads-boot-services, ",
            ),
            ("[firmware]\nmisbehaves = [\"seam@Nobody\"]\n", "x:2:", "there are GetTime, "),
            (
                "[firmware]\ndescriptor_size = 44\n",
                "x:2:",
                "44 is no DescriptorSize: expected a multiple of 8 from 40 to 4096",
            ),
            (
                "[kernel]\nmiscalls = [\"late\"]\n",
                "x:2:",
                "no mistake of a kernel `late`; there are physical-address, ",
            ),
            ("[kernel]\nfinishes = true\n", "x:2:", "expected one of `finish`"),
        ] {
            let error = parse("x", &format!("{wrong}{MAP}")).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(says), "{error}");
        }
    }
}
