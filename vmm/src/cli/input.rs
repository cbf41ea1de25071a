//! What commands take: a map or scenario, and the options that override it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use miette::IntoDiagnostic as _;

use super::Failure;
use crate::memory_map::{MAX_INPUT_BYTES, read_text};
use crate::{CpuidRequest, EngineName, Layout, LeafRule, Scenario};

/// A map, and how it is to be mapped.
#[derive(Args)]
pub struct Input {
    /// Memory map or scenario: a Linux boot log (`efi: memNN:` lines), or TOML; `-` is standard input
    #[arg(value_name = "MAP")]
    pub map: PathBuf,

    /// How regions get their virtual addresses [default: window]
    #[arg(long, value_name = "NAME", value_parser = layouts(), long_help = LAYOUT_HELP)]
    pub layout: Option<Layout>,

    /// How the size of a leaf is chosen [default: co-aligned]
    #[arg(long, value_name = "NAME", value_parser = leaf_rules(), long_help = LEAF_RULE_HELP)]
    pub leaf_rule: Option<LeafRule>,

    /// What the CPU is to be: maxphyaddr=N,1g=on|off,nx=on|off,la57=on|off,smep=..,smap=..,pku=..
    #[arg(long, value_name = "LIST", value_parser = cpu, long_help = CPU_HELP)]
    pub cpu: Option<CpuidRequest>,
}

const LAYOUT_HELP: &str = "\
How regions get their virtual addresses [default: window]
  window       efi_va = -4G - highest end of the mapped regions; VA = efi_va + PA
  packed-down  in list order, one right below another from -4G, no regard to PA
  packed-up    in list order, one right above another from -4G
Mapped are RUNTIME and boot-services regions.";

const LEAF_RULE_HELP: &str = "\
How the size of a leaf is chosen [default: co-aligned]
  co-aligned      a large leaf only where VA and PA are both aligned to it: the right one
  va-only         from VA and length alone: PA bits 20:13 end up reserved (the bug of 2013)
  va-only-masked  the same with the low PA bits dropped: no fault, another frame
  4k              4 KiB leaves only";

const CPU_HELP: &str = "\
What the CPU is to be, as a list of NAME=VALUE
  maxphyaddr=N        bits of physical address, 32 to 52
  1g=on|off           1 GiB pages
  nx, smep, smap      execute-disable, supervisor-mode execution and access prevention; on where there are any
  la57, pku           five-level paging, protection keys; off unless asked for
What is asked for by name and not there ends with status 3. The mapper is offered only what CPUID says and what this
machine was found to do (`efibed doctor`).";

impl Input {
    /// Reads the map, and applies the options.
    pub fn scenario(&self) -> Result<Scenario, Failure> {
        let (name, text) = self.text()?;
        let mut scenario = Scenario::parse(&name, &text).map_err(|error| Failure::Input(miette::Report::new(error)))?;
        if let Some(layout) = self.layout {
            scenario = scenario.layout(layout);
        }
        if let Some(leaf_rule) = self.leaf_rule {
            scenario = scenario.leaf_rule(leaf_rule);
        }
        if let Some(cpu) = self.cpu {
            scenario = scenario.cpu(cpu);
        }
        Ok(scenario)
    }

    fn text(&self) -> Result<(String, String), Failure> {
        if self.map == Path::new("-") {
            let mut text = String::new();
            // One byte more than is allowed tells that there is more.
            let input = std::io::stdin().lock().take(MAX_INPUT_BYTES as u64 + 1);
            std::io::BufReader::new(input)
                .read_to_string(&mut text)
                .into_diagnostic()
                .map_err(|error| Failure::Input(error.wrap_err("standard input cannot be read as text")))?;
            return Ok(("<stdin>".into(), text));
        }
        let text = read_text(&self.map).map_err(|error| Failure::Input(miette::Report::new(error)))?;
        Ok((self.map.display().to_string(), text))
    }
}

fn layouts() -> impl TypedValueParser<Value = Layout> {
    PossibleValuesParser::new(Layout::ALL.map(Layout::name)).map(|name| Layout::from_name(&name).unwrap_or_default())
}

fn leaf_rules() -> impl TypedValueParser<Value = LeafRule> {
    PossibleValuesParser::new(LeafRule::ALL.map(LeafRule::name))
        .map(|name| LeafRule::from_name(&name).unwrap_or_default())
}

/// The values of `--engine`.
pub fn engines() -> impl TypedValueParser<Value = EngineName> {
    PossibleValuesParser::new([EngineName::Kvm.name(), EngineName::Walker.name()]).map(|name| match name.as_str() {
        "walker" => EngineName::Walker,
        _ => EngineName::Kvm,
    })
}

fn cpu(list: &str) -> Result<CpuidRequest, String> {
    let mut cpu = CpuidRequest::default();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').ok_or_else(|| format!("`{item}`: expected NAME=VALUE"))?;
        let switch = match name {
            "maxphyaddr" => {
                let bits = value.parse().ok().filter(|bits| (32..=52).contains(bits));
                cpu.maxphyaddr = Some(bits.ok_or_else(|| format!("`{item}`: expected 32 to 52 bits"))?);
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
        *switch = Some(match value {
            "on" => true,
            "off" => false,
            _ => return Err(format!("`{item}`: expected {name}=on or {name}=off")),
        });
    }
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_a_list_of_names_and_values() {
        let expected =
            CpuidRequest { maxphyaddr: Some(40), gbpages: Some(false), la57: Some(true), ..CpuidRequest::default() };
        assert_eq!(cpu("maxphyaddr=40,1g=off, la57=on"), Ok(expected));
        assert_eq!(cpu(""), Ok(CpuidRequest::default()));
        for bad in ["maxphyaddr=31", "maxphyaddr=x", "maxphyaddr=53", "1g", "1g=yes", "avx=on"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
    }
}
