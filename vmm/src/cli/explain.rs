//! `efibed explain`: what a rule or an error code means; where an address leads, and whose it is.

use clap::Args;

use super::input::Input;
use super::{Failure, Status, output};
use crate::check::Rule;
use crate::memory_map::type_name;
use crate::mmu::Va;
use crate::report::explain::{explain_error_code, explain_rule, explain_walk, list_rules};

/// The arguments of `explain`.
#[derive(Args)]
#[command(
    override_usage = "efibed explain RULE | ERROR_CODE\n       efibed explain MAP VA [OPTIONS]\n       efibed explain rules"
)]
pub struct Arguments {
    #[command(flatten)]
    input: Input,

    /// A virtual address, such as 0xfffffffefdc5b000: the walk to it under the map, and whose it is
    #[arg(value_name = "VA", value_parser = address)]
    va: Option<u64>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let Some(virt) = arguments.va else {
        let word = arguments.input.map.to_string_lossy();
        return match word_explained(&word) {
            Some(text) => output::print(&text).map(|()| Status::Clean),
            None => Err(Failure::Input(miette::miette!(
                help = "a rule (`efibed explain rules` lists them), a page-fault error code such as 0x19, or a map and an address",
                "`{word}` is neither a rule nor an error code"
            ))),
        };
    };
    let scenario = arguments.input.scenario()?;
    let (report, walk) = scenario.walk(virt)?;
    let Some(walk) = walk else {
        let why = report.findings.first().map_or("the mapping code gave up", |finding| finding.message.as_str());
        return Err(Failure::Input(miette::miette!("there are no tables to walk: {why}")));
    };
    let mut text = explain_walk(&walk, &report.cpu.told);
    text += &match report.owner(Va(virt)) {
        Some((owner, distance)) => {
            format!(
                "\nThe address is region {}'s ({}), {distance:#x} bytes from its start; it must reach PA {:#x}.\n",
                owner.region.index,
                type_name(owner.region.ty),
                (owner.region.phys & !0xfff).saturating_add(distance)
            )
        }
        None => "\nThe address belongs to no region of the map.\n".to_owned(),
    };
    output::print(&text)?;
    Ok(Status::Clean)
}

fn word_explained(word: &str) -> Option<String> {
    if word == "rules" {
        return Some(list_rules());
    }
    if let Some(rule) = Rule::from_name(word) {
        return Some(explain_rule(rule));
    }
    let code = match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    };
    code.map(explain_error_code)
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).replace('_', "");
    u64::from_str_radix(&digits, 16)
        .map_err(|_| "expected an address in hexadecimal, such as 0xfffffffefdc5b000".into())
}
