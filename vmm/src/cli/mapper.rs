//! Mapping code of the user's, and what it is held to.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::check::{Arena, Term};
use crate::guest::process::program::MAX_BYTES;
use crate::{Contract, EngineName, Scenario};

const MAPPER: &str = "Mapping code of your own";

/// Mapping code in place of a built-in layout.
#[derive(Args)]
pub struct Mapper {
    /// An ELF file with mapping code, as `efibed build` makes it; it runs in ring 3 of the guest
    #[arg(long = "mapper", value_name = "ELF", conflicts_with_all = ["layout", "leaf_rule"], help_heading = MAPPER)]
    file: Option<PathBuf>,

    /// What must hold of its result besides what holds of any: identity=allowed,arena=0xFIRST-0xLAST,...
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = term,
        requires = "file",
        long_help = CONTRACT_HELP,
        help_heading = MAPPER
    )]
    contract: Vec<ContractItem>,
}

const CONTRACT_HELP: &str = "\
What must hold of its result, as a list of NAME=VALUE. Every RUNTIME region must translate to its own pages at the virtual
address that SetVirtualAddressMap is told. Other regions in that map may. Nothing else may translate. On top of that:
  arena=low|high|FIRST-LAST  where regions may lie, and nothing else may translate [default: both halves]; may be repeated
  identity=TERM              everything 1:1 too [default: forbidden]
  page-zero=TERM             page 0 at its own address [default: forbidden]
  virtual-map=TERM           the map for SetVirtualAddressMap at its own address [default: forbidden]
  boot-services=TERM         boot services still mapped after phase `finish` [default: allowed]
  executable-data=TERM       data may be executed [default: allowed]
  attributes-table=TERM      the Memory Attributes Table applied in phase `finish` [default: allowed]
  rising=on|off              addresses rise with the list [default: off]
  contiguous-images=on|off   code and data of one image stay together [default: off]
TERM is owed, allowed or forbidden.";

/// One term of a contract.
#[derive(Clone, Debug)]
enum ContractItem {
    Arena(Arena),
    Term(fn(Contract, Term) -> Contract, Term),
    Switch(fn(Contract, bool) -> Contract, bool),
}

impl Mapper {
    /// The scenario with this mapping code, if there is any.
    pub fn apply(&self, scenario: Scenario, engine: EngineName) -> Result<Scenario, Failure> {
        let Some(path) = &self.file else { return Ok(scenario) };
        if engine == EngineName::Walker {
            let problem = "--mapper needs the engine kvm: what is in a file runs in a guest, and nowhere else";
            return Err(Failure::Output(problem.into()));
        }
        let elf = read(path).map_err(|problem| Failure::Output(format!("{}: {problem}", path.display())))?;
        let scenario = scenario.mapper_elf_named(path.display().to_string(), elf);
        Ok(if self.contract.is_empty() { scenario } else { scenario.contract(self.terms()) })
    }

    /// The file, if there is one.
    pub fn input(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn terms(&self) -> Contract {
        let arenas = self.contract.iter().filter_map(|item| match item {
            ContractItem::Arena(arena) => Some(arena.clone()),
            _ => None,
        });
        let arenas: Vec<Arena> = arenas.collect();
        let contract = if arenas.is_empty() { Contract::default() } else { Contract::default().arenas(arenas) };
        self.contract.iter().fold(contract, |contract, item| match item {
            ContractItem::Arena(_) => contract,
            ContractItem::Term(set, term) => set(contract, *term),
            ContractItem::Switch(set, on) => set(contract, *on),
        })
    }
}

/// A file that is no larger than an ELF file with as much in it can be.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    /// Debug information takes more than code.
    const MOST: u64 = 16 * MAX_BYTES;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    match bytes.len() as u64 > MOST {
        true => Err(format!("it has more than {} MiB, which is no mapping code", MOST >> 20)),
        false => Ok(bytes),
    }
}

fn term(text: &str) -> Result<ContractItem, String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as identity=allowed")?;
    let term = || match value {
        "owed" => Ok(Term::Owed),
        "allowed" => Ok(Term::Allowed),
        "forbidden" => Ok(Term::Forbidden),
        _ => Err(format!("`{value}` is none of owed, allowed and forbidden")),
    };
    let switch = || match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("`{value}` is neither on nor off")),
    };
    Ok(match name {
        "arena" => ContractItem::Arena(arena(value)?),
        "identity" => ContractItem::Term(Contract::identity, term()?),
        "page-zero" => ContractItem::Term(Contract::page_zero, term()?),
        "virtual-map" => ContractItem::Term(Contract::virtual_map, term()?),
        "boot-services" => ContractItem::Term(Contract::boot_services, term()?),
        "executable-data" => ContractItem::Term(Contract::executable_data, term()?),
        "attributes-table" => ContractItem::Term(Contract::attributes_table, term()?),
        "rising" => ContractItem::Switch(Contract::rising, switch()?),
        "contiguous-images" => ContractItem::Switch(Contract::contiguous_images, switch()?),
        _ => return Err(format!("a contract has no term `{name}`; --help lists them")),
    })
}

fn arena(text: &str) -> Result<Arena, String> {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").ok_or_else(|| format!("`{text}` is no address: write it as 0x..."))?;
        u64::from_str_radix(digits, 16).map_err(|error| format!("`{text}` is no address: {error}"))
    };
    match text {
        "low" => Ok(Arena::LowHalf),
        "high" => Ok(Arena::HighHalf),
        _ => {
            let (first, last) = text.split_once('-').ok_or("an arena is low, high or 0xFIRST-0xLAST")?;
            Ok(Arena::Range(number(first)?..=number(last)?))
        }
    }
}
