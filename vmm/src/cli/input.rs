//! What commands take: a map or scenario, and the options that override it.

use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use miette::IntoDiagnostic as _;

use super::Failure;
use crate::bed::{Found, OwnMapper};
use crate::memory_map::{Format, MAX_INPUT_BYTES, MemoryMap, ReadOptions, choose};
use crate::{
    CpuidRequest, DescriptorSize, FirmwareOptions, KernelOptions, Layout, LeafRule, Misbehaviour, Miscall, OutOfRange,
    Scenario, ServiceMisbehaviour, ServiceMisbehaviourError, UnknownName, VariableBytes,
};

/// A map, and how it is to be mapped.
#[derive(Args)]
pub struct Input {
    /// Memory map or scenario, in any known format; Linux's runtime-map folder; `-` is standard input
    #[arg(value_name = "MAP", long_help = MAP_HELP)]
    pub map: PathBuf,

    #[command(flatten)]
    read: ReadArguments,

    #[command(flatten)]
    pub options: Options,
}

/// What may be given as a map.
pub const MAP_HELP: &str = "\
Memory map in any known format, detected by content: a whole boot log (Linux with `efi=debug`, \
Xen, FreeBSD's verbose boot, Haiku's loader, EDK II's debug log), the tables of the UEFI shell's `memmap`, GRUB's \
`lsefimmap` and U-Boot's `efidebug memmap`, what other loaders print, a listing of \
/sys/firmware/efi/runtime-map, an array of EFI_MEMORY_DESCRIPTOR, JSON or TOML. TOML may be a scenario, \
which also says how to map it. A folder is read as /sys/firmware/efi/runtime-map, and `-` is standard \
input.";

const READING: &str = "Reading the map";

/// How a map is read if its content does not show it, or is damaged.
#[derive(Args, Default)]
pub struct ReadArguments {
    /// Which list to use, from 1, if the text has several [default: the first complete one from firmware]
    #[arg(long, value_name = "N", help_heading = READING)]
    list: Option<NonZeroUsize>,

    /// Read only this format [default: detected by content; possible values: see --help]
    #[arg(long, value_name = "NAME", value_parser = named::<Format>(Format::NAMES), hide_possible_values = true, help_heading = READING, long_help = format_help())]
    format: Option<Format>,

    /// Skip damaged rows, with a note for each
    #[arg(long, help_heading = READING)]
    lenient: bool,

    /// The size of a binary descriptor in bytes, firmware's DescriptorSize
    #[arg(long, value_name = "BYTES", value_parser = stride, help_heading = READING)]
    stride: Option<usize>,
}

/// How to map a map, in place of what its scenario says.
#[derive(Args)]
pub struct Options {
    /// How regions get their virtual addresses [default: linux]
    #[arg(long, value_name = "NAME", value_parser = named::<Layout>(Layout::NAMES), long_help = LAYOUT_HELP)]
    pub layout: Option<Layout>,

    /// How the size of a leaf is chosen [default: co-aligned]
    #[arg(long, value_name = "NAME", value_parser = named::<LeafRule>(LeafRule::NAMES), long_help = LEAF_RULE_HELP)]
    pub leaf_rule: Option<LeafRule>,

    /// The guest's CPU: maxphyaddr=N,1g=on|off,nx=on|off,la57=on|off,smep=..,smap=..,pku=..
    #[arg(long, value_name = "LIST", value_parser = cpu, long_help = CPU_HELP)]
    pub cpu: Option<CpuidRequest>,

    /// What firmware does that it must not, and how it reports its map: MISBEHAVIOUR[@SERVICE],descriptor-size=N,...
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = firmware_item, long_help = firmware_help())]
    pub firmware: Vec<FirmwareItem>,

    /// What the kernel around the mapping code does: finish=on|off,guard-page=on|off,MISTAKE,...
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = kernel_item, long_help = kernel_help())]
    pub kernel: Vec<KernelItem>,
}

const LAYOUT_HELP: &str = "\
How regions get their virtual addresses [default: linux]
  linux        as x86-64 Linux: merged, from the last region to the first, down from -4G, VA = PA modulo 2M; and 1:1
  linux-fixed  as Linux after kexec: RUNTIME regions at the VirtualStart of their descriptors, and 1:1
  window       efi_va = -4G - highest end of the mapped regions; VA = efi_va + PA
  packed-down  in list order, one right below another from -4G, regardless of PA
  packed-up    in list order, one right above another from -4G, regardless of PA
RUNTIME and boot-services regions are mapped.";

const LEAF_RULE_HELP: &str = "\
How the size of a leaf is chosen [default: co-aligned]
  co-aligned      a large leaf only where VA and PA are both aligned to it: the right one
  va-only         from VA and length alone: PA bits 20:13 end up reserved (the bug of 2013)
  va-only-masked  the same with the low PA bits dropped: no fault, another frame
  4k              4 KiB leaves only";

const CPU_HELP: &str = "\
The guest's CPU, as a list of NAME=VALUE
  maxphyaddr=N        bits of physical address, 32 to 52
  1g=on|off           1 GiB pages
  nx, smep, smap      execute-disable, supervisor-mode execution and access prevention; on if the machine has them
  la57, pku           five-level paging, protection keys; off unless asked for
If the machine lacks something that is asked for by name, the status is 3. The mapper is offered only what CPUID
reports and this machine was found to do (`efibed doctor`).";

fn firmware_help() -> String {
    let width = Misbehaviour::ALL.iter().map(|each| each.name().len()).max().unwrap_or(0);
    let misbehaviours: String = Misbehaviour::ALL
        .iter()
        .map(|each| format!("  {:width$}  {} [{}]\n", each.name(), each.summary(), each.usual_service()))
        .collect();
    format!(
        "How firmware behaves, as a list. It can misbehave, in the service named with @SERVICE or else the usual one:\n\
         {misbehaviours}SetVirtualAddressMap does it when it is called, any other service after the switch. `faults` may be told \
         its access, as in faults=write:0x386aae88@GetTime; it is read, write or fetch. And:\n  \
         calls=on|off          whether runtime services are called at all\n  \
         descriptor-size=N     the DescriptorSize that it reports (default 48; U-Boot has 40)\n  \
         descriptor-version=N  the DescriptorVersion that it reports (default 1; it accepts no other)"
    )
}

fn kernel_help() -> String {
    let width = Miscall::ALL.iter().map(|each| each.name().len()).max().unwrap_or(0);
    let mistakes: Vec<_> =
        Miscall::ALL.iter().map(|each| format!("  {:width$}  {}", each.name(), each.summary())).collect();
    format!(
        "What the kernel around the mapping code does, as a list:\n  \
         finish=on|off         whether phase `finish` is run; with off boot services stay mapped, as with Linux's \
         efi=debug\n  \
         guard-page=on|off     whether GetTime's first argument ends at a page with nothing mapped after it\n  \
         descriptor-size=N     the DescriptorSize that it uses, whatever firmware reports\n  \
         descriptor-version=N  the DescriptorVersion that it uses, whatever firmware reports\n  \
         variable-bytes=N      the size of the variable that it writes before the switch and reads after it\n\
         And its mistakes in calling firmware. Each must be found:\n{}",
        mistakes.join("\n")
    )
}

/// An item of `--firmware`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareItem {
    /// `calls`.
    Calls(bool),
    /// `descriptor-size`.
    DescriptorSize(DescriptorSize),
    /// `descriptor-version`.
    DescriptorVersion(u32),
    /// A misbehaviour.
    Misbehaves(ServiceMisbehaviour),
}

impl FirmwareItem {
    fn apply(self, firmware: &mut FirmwareOptions) {
        match self {
            Self::Calls(calls) => firmware.calls = calls,
            Self::DescriptorSize(bytes) => firmware.descriptor_size = bytes,
            Self::DescriptorVersion(version) => firmware.descriptor_version = version,
            Self::Misbehaves(misbehaviour) => firmware.misbehaves.push(misbehaviour),
        }
    }
}

/// An item of `--kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelItem {
    /// `finish`.
    Finish(bool),
    /// `guard-page`.
    GuardPage(bool),
    /// `descriptor-size`.
    DescriptorSize(DescriptorSize),
    /// `descriptor-version`.
    DescriptorVersion(u32),
    /// `variable-bytes`.
    VariableBytes(VariableBytes),
    /// A mistake.
    Miscalls(Miscall),
}

impl KernelItem {
    fn apply(self, kernel: &mut KernelOptions) {
        match self {
            Self::Finish(finish) => kernel.finish = finish,
            Self::GuardPage(guard_page) => kernel.guard_page = guard_page,
            Self::DescriptorSize(bytes) => kernel.descriptor_size = Some(bytes),
            Self::DescriptorVersion(version) => kernel.descriptor_version = Some(version),
            Self::VariableBytes(bytes) => kernel.variable_bytes = Some(bytes),
            Self::Miscalls(miscall) => kernel.miscalls.push(miscall),
        }
    }
}

impl Input {
    /// Reads the map, and applies the options.
    pub fn scenario(&self, own: OwnMapper) -> Result<Scenario, Failure> {
        Ok(self.options.apply(self.read.scenario(&self.map, own)?))
    }
}

impl ReadArguments {
    /// Reads a scenario, or a map; `-` is standard input.
    pub fn scenario(&self, path: &Path, own: OwnMapper) -> Result<Scenario, Failure> {
        let found = match path == Path::new("-") {
            true => Found::in_bytes(STDIN, stdin()?, None, &self.options(), own),
            false => Found::at(path, &self.options(), own),
        };
        match found.map_err(Failure::input)? {
            Found::Scenario(scenario) => {
                self.chosen(path, vec![scenario.map().clone()])?;
                Ok(*scenario)
            }
            Found::Lists(lists) => self.chosen(path, lists).map(Scenario::new),
        }
    }

    /// The names of the options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("--list", self.list.is_some()),
            ("--format", self.format.is_some()),
            ("--lenient", self.lenient),
            ("--stride", self.stride.is_some()),
        ];
        all.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// The option that could change nothing about a map that was read from this format, and why.
    pub fn useless_for(&self, format: Option<Format>) -> Option<(&'static str, &'static str)> {
        if self.stride.is_some() && format != Some(Format::Binary) {
            return Some(("--stride", "the map is text, and only binary descriptors have a size"));
        }
        let is_strict = self.lenient && format == Some(Format::Toml);
        is_strict.then_some(("--lenient", "no row of TOML is skipped: it is read whole or not at all"))
    }

    fn options(&self) -> ReadOptions {
        ReadOptions { lenient: self.lenient, format: self.format, stride: self.stride }
    }

    /// The list that the options ask for, or else the best one.
    fn chosen(&self, path: &Path, mut lists: Vec<MemoryMap>) -> Result<MemoryMap, Failure> {
        let Some(number) = self.list.map(NonZeroUsize::get) else {
            return Ok(choose(lists));
        };
        if number > lists.len() {
            let count = match lists.len() {
                1 => "one list".into(),
                count => format!("{count} lists"),
            };
            let problem = miette::miette!(
                help = "lists are counted from 1, in the order of the text",
                "{} has {count} of descriptors; there is no list {number}",
                path.display()
            );
            return Err(Failure::Input(problem));
        }
        Ok(lists.swap_remove(number - 1))
    }
}

impl Options {
    /// The names of the options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("--layout", self.layout.is_some()),
            ("--leaf-rule", self.leaf_rule.is_some()),
            ("--cpu", self.cpu.is_some()),
            ("--firmware", !self.firmware.is_empty()),
            ("--kernel", !self.kernel.is_empty()),
        ];
        all.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    /// What these options leave of mapping code that a scenario names: a built-in layout takes its place.
    pub fn own_mapper(&self) -> OwnMapper {
        match self.layout.is_some() || self.leaf_rule.is_some() {
            true => OwnMapper::LeftOut,
            false => OwnMapper::Read,
        }
    }

    /// The scenario with these options in place of its own.
    pub fn apply(&self, mut scenario: Scenario) -> Scenario {
        if let Some(layout) = self.layout {
            scenario = scenario.layout(layout);
        }
        if let Some(leaf_rule) = self.leaf_rule {
            scenario = scenario.leaf_rule(leaf_rule);
        }
        if let Some(cpu) = self.cpu {
            scenario = scenario.cpu(cpu);
        }
        let (mut firmware, mut kernel) = (scenario.firmware_options().clone(), scenario.kernel_options().clone());
        self.firmware.iter().for_each(|item| item.apply(&mut firmware));
        self.kernel.iter().for_each(|item| item.apply(&mut kernel));
        scenario.firmware(firmware).kernel(kernel)
    }
}

/// The name of standard input in errors.
pub const STDIN: &str = "<stdin>";

/// All of standard input. Reads at most one byte more than is allowed, to see that there is more.
pub fn stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .into_diagnostic()
        .map_err(|error| Failure::Input(error.wrap_err("standard input cannot be read")))?;
    Ok(bytes)
}

/// A name of a list. Help shows them all, and an error the nearest one.
pub fn named<T: FromStr<Err = UnknownName> + Clone + Send + Sync + 'static>(
    names: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

fn format_help() -> String {
    let names = Format::NAMES.join(", ");
    format!(
        "Read only this format, if the content does not show it or is mistaken for another: {names}. Rows of \
         linux-memattr, linux-e820, edk2-memattr and edk2-hob are read with any format."
    )
}

fn stride(text: &str) -> Result<usize, String> {
    let stride = text.parse().ok().filter(|bytes: &usize| *bytes >= 40 && bytes.is_multiple_of(8));
    stride.ok_or_else(|| "expected a multiple of 8 from 40 on; most firmware has 48".into())
}

fn firmware_item(item: &str) -> Result<FirmwareItem, String> {
    match item.split_once('=') {
        Some(("calls", value)) => switch(item, value).map(FirmwareItem::Calls),
        Some(("descriptor-size", value)) => bounded(item, value).map(FirmwareItem::DescriptorSize),
        Some(("descriptor-version", value)) => number(item, value).map(FirmwareItem::DescriptorVersion),
        Some((name, _)) if name != Misbehaviour::Faults.name() => Err(format!(
            "`{name}`: expected calls, descriptor-size, descriptor-version, faults, or a misbehaviour without `=`"
        )),
        _ => item.parse().map(FirmwareItem::Misbehaves).map_err(|error: ServiceMisbehaviourError| error.to_string()),
    }
}

fn kernel_item(item: &str) -> Result<KernelItem, String> {
    let Some((name, value)) = item.split_once('=') else {
        return item.parse().map(KernelItem::Miscalls).map_err(|error: UnknownName| error.to_string());
    };
    match name {
        "finish" => switch(item, value).map(KernelItem::Finish),
        "guard-page" => switch(item, value).map(KernelItem::GuardPage),
        "descriptor-size" => bounded(item, value).map(KernelItem::DescriptorSize),
        "descriptor-version" => number(item, value).map(KernelItem::DescriptorVersion),
        "variable-bytes" => bounded(item, value).map(KernelItem::VariableBytes),
        _ => Err(format!(
            "`{name}`: expected one of finish, guard-page, descriptor-size, descriptor-version, variable-bytes"
        )),
    }
}

fn switch(item: &str, value: &str) -> Result<bool, String> {
    let name = item.trim_end_matches(value);
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("`{item}`: expected {name}on or {name}off")),
    }
}

fn number(item: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("`{item}`: expected a number"))
}

/// A number that has a range.
fn bounded<T: FromStr<Err = OutOfRange>>(item: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error: OutOfRange| format!("`{item}`: expected {}", error.expected()))
}

/// A CPU by a list of NAME=VALUE.
pub fn cpu(list: &str) -> Result<CpuidRequest, String> {
    let mut cpu = CpuidRequest::default();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').ok_or_else(|| format!("`{item}`: expected NAME=VALUE"))?;
        let asked = match name {
            "maxphyaddr" => {
                cpu.maxphyaddr = Some(bounded(item, value)?);
                continue;
            }
            "1g" | "gbpages" => &mut cpu.gbpages,
            "nx" => &mut cpu.nx,
            "la57" => &mut cpu.la57,
            "smep" => &mut cpu.smep,
            "smap" => &mut cpu.smap,
            "pku" => &mut cpu.pku,
            _ => return Err(format!("`{name}`: expected one of maxphyaddr, 1g, nx, la57, smep, smap, pku")),
        };
        *asked = Some(switch(item, value)?);
    }
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MaxPhyAddr;

    #[test]
    fn firmware_and_the_kernel_are_lists_too() {
        let seam: ServiceMisbehaviour = "seam@GetVariable".parse().unwrap();
        for (item, expected) in [
            ("calls=off", FirmwareItem::Calls(false)),
            ("descriptor-size=40", FirmwareItem::DescriptorSize(DescriptorSize::U_BOOT)),
            ("descriptor-version=0", FirmwareItem::DescriptorVersion(0)),
            ("seam@GetVariable", FirmwareItem::Misbehaves(seam)),
            ("errors", FirmwareItem::Misbehaves(Misbehaviour::Errors.into())),
        ] {
            assert_eq!(firmware_item(item), Ok(expected));
        }
        assert_eq!(kernel_item("finish=off"), Ok(KernelItem::Finish(false)));
        assert_eq!(kernel_item("interrupts"), Ok(KernelItem::Miscalls(Miscall::Interrupts)));
        assert_eq!(kernel_item("descriptor-size=48"), Ok(KernelItem::DescriptorSize(DescriptorSize::EDK2)));
        assert_eq!(kernel_item("variable-bytes=65536"), Ok(KernelItem::VariableBytes(VariableBytes::MAX)));
        for bad in [
            "variable-bytes=0",
            "variable-bytes=65537",
            "descriptor-size=44",
            "descriptor-size=32",
            "descriptor-size=8192",
            "finish=yes",
            "finish",
            "x=1",
        ] {
            assert!(kernel_item(bad).is_err(), "{bad}");
        }
        for bad in ["descriptor-size=44", "calls=1", "x=1", "seam@Nobody", "past-argument@SetVirtualAddressMap"] {
            assert!(firmware_item(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cpu_is_a_list_of_names_and_values() {
        let expected = CpuidRequest::default().maxphyaddr(MaxPhyAddr::new(40).unwrap()).gbpages(false).la57(true);
        assert_eq!(cpu("maxphyaddr=40,1g=off, la57=on"), Ok(expected));
        assert_eq!(cpu(""), Ok(CpuidRequest::default()));
        for bad in ["maxphyaddr=31", "maxphyaddr=x", "maxphyaddr=53", "1g", "1g=yes", "avx=on"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
    }
}
