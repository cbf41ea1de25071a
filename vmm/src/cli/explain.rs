//! `efibed explain`: what a rule, an error code or a table entry means; where an address leads, and whose it is.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Args;

use super::input::{FirmwareItem, KernelItem, Options, ReadArguments};
use super::mapper::{NoMapper, refuse_program};
use super::{Failure, Status, output};
use crate::check::{Address, Contract, Rule};
use crate::engine::walker;
use crate::mmu::{Level, Pa};
use crate::report::explain::{
    Ground, explain_address, explain_entry, explain_error_code, explain_physical, explain_rule, list_rules,
    read_error_code,
};
use crate::report::map::MapReport;
use crate::{MaxPhyAddr, Misbehaviour, Report, Scenario};

/// The arguments of `explain`.
#[derive(Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub struct Arguments {
    /// A rule, an error code as some program printed it, or a map and a virtual address
    #[arg(value_name = "WHAT", required_unless_present = "entry")]
    words: Vec<OsString>,

    /// All virtual addresses of a physical one under MAP
    #[arg(long, value_name = "PA", value_parser = address)]
    phys: Option<u64>,

    /// A table entry, bit by bit: its level (pte, pde, pdpte, pml4e, pml5e, or Linux's pmd, pud, p4d) and its value
    #[arg(long, num_args = 2, value_names = ["LEVEL", "VALUE"], conflicts_with_all = ["words", "phys"])]
    entry: Option<Vec<String>>,

    #[command(flatten)]
    read: ReadArguments,

    #[command(flatten)]
    options: Options,

    /// No use here: it has its own error message.
    #[arg(long, value_name = "NAME", hide = true)]
    engine: Option<String>,

    #[command(flatten)]
    no_mapper: NoMapper,
}

const USAGE: &str = "\
efibed explain RULE | rules
       efibed explain ERROR_CODE
       efibed explain MAP VA [OPTIONS]
       efibed explain MAP --phys PA [OPTIONS]
       efibed explain --entry LEVEL VALUE [--cpu LIST]";

const EXAMPLES: &str = "\
Examples:
  efibed explain rules                    every rule that a run can find broken
  efibed explain reserved-bit             what the rule says, and where to look
  efibed explain 0x11                     a page fault's error code; always hexadecimal
  efibed explain Oops: 0011 [#1] SMP      the same, as Linux prints it; so do Xen,
  efibed explain 'error_code(0x0010)'       FreeBSD, EDK II and others. Quote what
                                            your shell would take for its own.
  efibed explain map.txt 0xfffffffefdc5b000
                                          whose address it is, the walk to it, every
                                          access in both phases, and whether all is
                                          right
  efibed explain map.txt --phys 0x7dc5b000 --layout window
                                          every virtual address that leads there
  efibed explain --entry pde 0x386000e1   the bits of a table entry
  efibed explain --entry pte 8000000000001163 --cpu maxphyaddr=39
Numbers are hexadecimal, with 0x or without. MAP is what `efibed check` takes; `-` is
standard input. The mapping code runs natively: no KVM is needed, and no service is
called. An option that would change nothing is an error: --firmware takes only
descriptor-size and attributes-table here, and --kernel only finish and
descriptor-size.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    output::print(&explained(arguments)?)?;
    Ok(Status::Clean)
}

fn explained(arguments: &Arguments) -> Result<String, Failure> {
    let Arguments { words, phys, entry, .. } = arguments;
    arguments.no_mapper.refuse(WHY_NO_PROGRAM, WHAT_INSTEAD)?;
    if let Some(entry) = entry {
        return entry_explained(entry, arguments);
    }
    if let Some(phys) = phys {
        let [map] = words.as_slice() else {
            return Err(wrong("`--phys` goes with a map and no virtual address", "say `efibed explain MAP --phys PA`"));
        };
        return on_tables(map, arguments, |scenario| physical_explained(*phys, scenario));
    }
    if let Some(text) = words_explained(words) {
        return arguments.has_no_option_but(&[]).map(|()| text);
    }
    let [map, virt] = words.as_slice() else { return Err(no_sense(words)) };
    let virt = virt.to_string_lossy();
    let virt = address(&virt).map_err(|problem| wrong(&format!("`{virt}` is no address: {problem}"), HELP))?;
    on_tables(map, arguments, |scenario| virtual_explained(virt, scenario))
}

const HELP: &str = "a rule (`efibed explain rules` lists them), a page-fault error code such as 0x19 or as it was printed, \
                    or a map and an address";

impl Arguments {
    /// What was asked for needs no map: options about one are mistakes.
    fn has_no_option_but(&self, useful: &[&str]) -> Result<(), Failure> {
        let given = self.engine.iter().map(|_| "--engine").chain(self.read.given()).chain(self.options.given());
        match given.into_iter().find(|name| !useful.contains(name)) {
            Some(name) => Err(useless(name, "it is about a map, and no map is read here")),
            None => Ok(()),
        }
    }

    /// Options that change nothing for this scenario.
    fn has_no_useless_option(&self, scenario: &Scenario) -> Result<(), Failure> {
        if self.engine.is_some() {
            return Err(useless(
                "--engine",
                "the mapping code always runs natively, and the software walk looks at its tables",
            ));
        }
        if let Some((name, why)) = self.read.useless_for(scenario.map().format()) {
            return Err(useless(name, why));
        }
        let firmware =
            self.options.firmware.iter().filter_map(of_no_use_to_walks).map(|name| format!("--firmware {name}"));
        let contract = scenario.contract_in_force();
        let kernel = self.options.kernel.iter().filter_map(|item| kernel_item_of_no_use(item, contract));
        match firmware.chain(kernel).next() {
            Some(name) => Err(useless(&name, "no service is called, and the tables do not depend on it")),
            None => Ok(()),
        }
    }
}

/// An item of `--firmware` that no table depends on. DescriptorSize decides how the map is read, and a lying Memory
/// Attributes Table what phase `finish` makes of it.
fn of_no_use_to_walks(item: &FirmwareItem) -> Option<String> {
    match item {
        FirmwareItem::DescriptorSize(_) => None,
        FirmwareItem::Misbehaves(misbehaviour) if misbehaviour.what == Misbehaviour::AttributesTable => None,
        FirmwareItem::Misbehaves(misbehaviour) => Some(misbehaviour.what.name().into()),
        FirmwareItem::Calls(_) => Some("calls".into()),
        FirmwareItem::DescriptorVersion(_) => Some("descriptor-version".into()),
    }
}

/// The same of `--kernel`: most mappers do nothing in phase `finish`.
fn kernel_item_of_no_use(item: &KernelItem, contract: &Contract) -> Option<String> {
    let name = match item {
        KernelItem::DescriptorSize(_) => return None,
        KernelItem::Finish(_) if contract.finishes() => return None,
        KernelItem::Finish(_) => "finish",
        KernelItem::GuardPage(_) => "guard-page",
        KernelItem::DescriptorVersion(_) => "descriptor-version",
        KernelItem::VariableBytes(_) => "variable-bytes",
        KernelItem::Miscalls(miscall) => miscall.name(),
    };
    Some(format!("--kernel {name}"))
}

/// A rule, or an error code: in one word or in several.
fn words_explained(words: &[OsString]) -> Option<String> {
    let text = joined(words);
    if let [_] = words {
        if text == "rules" {
            return Some(list_rules(output::columns()));
        }
        if let Ok(rule) = text.parse::<Rule>() {
            return Some(explain_rule(rule, output::columns()));
        }
    }
    // A file of that name is a map, whatever its name reads like.
    let is_map = words.len() == 2 && Path::new(&words[0]).exists();
    let printed = read_error_code(&text).filter(|_| !is_map)?;
    Some(explain_error_code(&printed, output::columns()))
}

fn entry_explained(entry: &[String], arguments: &Arguments) -> Result<String, Failure> {
    arguments.has_no_option_but(&["--cpu"])?;
    let paging = walker::model(&arguments.options.cpu.unwrap_or_default());
    let [level, value] = entry else { return Err(wrong("`--entry` takes a level and a value", ENTRY_HELP)) };
    let level = level_named(level, paging.la57)
        .ok_or_else(|| wrong(&format!("`{level}` is no level of page tables"), ENTRY_HELP))?;
    let value =
        address(value).map_err(|_| wrong(&format!("`{value}` is no 64-bit number in hexadecimal"), ENTRY_HELP))?;
    Ok(explain_entry(level, value, &paging, output::columns()))
}

const ENTRY_HELP: &str = "say `efibed explain --entry LEVEL VALUE`, with level pte, pde, pdpte, pml4e or pml5e, such as \
                          `--entry pde 0x386000e1`";

/// The SDM's names, and Linux's.
fn level_named(name: &str, la57: bool) -> Option<Level> {
    Some(match name.to_ascii_lowercase().as_str() {
        "pte" => Level::Pte,
        "pde" | "pmd" => Level::Pde,
        "pdpte" | "pud" => Level::Pdpte,
        "pml4e" | "p4d" => Level::Pml4e,
        "pml5e" => Level::Pml5e,
        "pgd" if la57 => Level::Pml5e,
        "pgd" => Level::Pml4e,
        _ => return None,
    })
}

/// Reads the map, refuses what would change nothing, and explains.
fn on_tables(
    map: &OsStr,
    arguments: &Arguments,
    explain: impl FnOnce(&Scenario) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let scenario = arguments.read.scenario(Path::new(map), arguments.options.own_mapper())?;
    refuse_program(&scenario, WHY_NO_PROGRAM, WHAT_INSTEAD)?;
    let scenario = arguments.options.apply(scenario);
    arguments.has_no_useless_option(&scenario)?;
    explain(&scenario)
}

const WHY_NO_PROGRAM: &str = "`explain` walks tables that mapping code builds natively, and a program in a file runs in a \
                              guest, and nowhere else";
const WHAT_INSTEAD: &str = "`efibed check MAP --mapper ELF` runs it in a guest, and shows the walk of each finding; \
                            `--layout NAME` explains the address under a built-in layout";

fn virtual_explained(virt: u64, scenario: &Scenario) -> Result<String, Failure> {
    let (report, addresses) = looked_up(&[virt], scenario)?;
    let map = map_report(scenario, &report);
    let phases: Vec<&Address> = addresses.iter().collect();
    Ok(explain_address(&phases, ground(&map, &report, scenario)))
}

fn physical_explained(phys: u64, scenario: &Scenario) -> Result<String, Failure> {
    let (report, addresses) = looked_up(&scenario.virtual_addresses(phys)?, scenario)?;
    let map = map_report(scenario, &report);
    Ok(explain_physical(Pa(phys), &addresses, ground(&map, &report, scenario)))
}

fn ground<'a>(map: &'a MapReport<'a>, report: &'a Report, scenario: &Scenario) -> Ground<'a> {
    Ground { map, report, finishes: scenario.kernel_options().finish, columns: output::columns() }
}

fn map_report<'a>(scenario: &'a Scenario, report: &Report) -> MapReport<'a> {
    MapReport::new(scenario.map(), scenario.built_in().layout, MaxPhyAddr::new(report.cpu.told.maxphyaddr))
}

/// Where some addresses lead in each phase; without tables there is nothing to explain.
fn looked_up(virt: &[u64], scenario: &Scenario) -> Result<(Report, Vec<Address>), Failure> {
    let (report, addresses) = scenario.explain(virt)?;
    if report.virtual_map.is_empty() && addresses.is_empty() {
        let why = report.findings.first().map_or("the mapping code gave up", |finding| finding.message.as_str());
        return Err(wrong(&format!("there are no tables to walk: {why}"), "another layout (`--layout`) may map it"));
    }
    Ok((report, addresses))
}

fn joined(words: &[OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn no_sense(words: &[OsString]) -> Failure {
    let text = joined(words);
    match words {
        [map] if Path::new(map).exists() => wrong(
            &format!("`{text}` is a file, and nothing is asked about it"),
            "say `efibed explain MAP VA` or `efibed explain MAP --phys PA`; `efibed show MAP` shows the whole map",
        ),
        _ => wrong(&format!("`{text}` is neither a rule nor an error code"), HELP),
    }
}

fn useless(option: &str, why: &str) -> Failure {
    wrong(&format!("`{option}` changes nothing: {why}"), "leave it out")
}

fn wrong(problem: &str, help: &str) -> Failure {
    Failure::Input(miette::miette!(help = help.to_owned(), "{problem}"))
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text).replace(['_', '`'], "");
    let number = u64::from_str_radix(&digits, 16).ok().filter(|_| !digits.starts_with('+'));
    number.ok_or_else(|| "expected an address in hexadecimal, such as 0xfffffffefdc5b000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_of_the_sdm_and_of_linux() {
        for (name, la57, level) in [
            ("pte", false, Some(Level::Pte)),
            ("PDE", false, Some(Level::Pde)),
            ("pmd", false, Some(Level::Pde)),
            ("pud", false, Some(Level::Pdpte)),
            ("p4d", false, Some(Level::Pml4e)),
            ("pgd", false, Some(Level::Pml4e)),
            ("pgd", true, Some(Level::Pml5e)),
            ("pml5e", false, Some(Level::Pml5e)),
            ("page", false, None),
        ] {
            assert_eq!(level_named(name, la57), level, "{name}");
        }
    }

    #[test]
    fn addresses_are_hexadecimal_however_they_are_grouped() {
        for text in ["0xffff_fffe_fdc5_b000", "fffffffefdc5b000", "0XFFFFFFFEFDC5B000", "ffffFffe`fdc5b000"] {
            assert_eq!(address(text), Ok(0xffff_fffe_fdc5_b000), "{text}");
        }
        for wrong in ["", "0x", "zz", "+1", "-1", "0x1ffffffffffffffff"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
