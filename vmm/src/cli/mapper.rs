//! Mapping code of the user's, and what it is held to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::input::Options;
use crate::bed::{OwnMapper, read_elf};
use crate::check::ContractItem;
use crate::{EngineName, Scenario};

const MAPPER: &str = "Mapping code of your own";

/// Mapping code in place of a built-in layout.
#[derive(Args)]
pub struct Mapper {
    /// An ELF file with mapping code, as `efibed build` makes it; it runs in ring 3 of the guest, and takes the place of
    /// `elf` in a scenario
    #[arg(long = "mapper", value_name = "ELF", conflicts_with_all = ["layout", "leaf_rule"], help_heading = MAPPER)]
    file: Option<PathBuf>,

    /// What must hold of its result besides what holds of any: identity=allowed,arena=0xFIRST-0xLAST,...
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = ContractItem::parse,
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

impl Mapper {
    /// What these options leave of mapping code that a scenario names.
    pub fn own_mapper(&self, options: &Options) -> OwnMapper {
        if self.file.is_some() { OwnMapper::Replaced } else { options.own_mapper() }
    }

    /// The scenario with this mapping code, if there is any.
    pub fn apply(&self, mut scenario: Scenario, engine: EngineName) -> Result<Scenario, Failure> {
        let wrong = |problem: String| Err(Failure::Output(problem));
        if let Some(path) = &self.file {
            let elf = read_elf(path).map_err(|problem| Failure::Output(format!("{}: {problem}", path.display())))?;
            scenario = scenario.mapper_elf_named(path.display().to_string(), elf);
        }
        match scenario.program() {
            None if self.contract.is_empty() => Ok(scenario),
            None => wrong(CONTRACT_OF_NONE.into()),
            Some(_) if engine == EngineName::Walker => {
                let named_by = if self.file.is_some() { "--mapper" } else { "`elf` of the scenario" };
                wrong(format!("{named_by} needs the engine kvm: what is in a file runs in a guest, and nowhere else"))
            }
            Some(_) if self.contract.is_empty() => Ok(scenario),
            Some(_) => Ok(scenario.contract_of_items(self.contract.clone())),
        }
    }

    /// Whether any of these options was given.
    pub fn is_given(&self) -> bool {
        self.file.is_some() || !self.contract.is_empty()
    }

    /// The option's file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The file that is read: that of the option, or the scenario's.
    pub fn input<'a>(&'a self, scenario: &'a Scenario) -> Option<&'a Path> {
        self.file.as_deref().or(scenario.program().map(Path::new))
    }
}

const CONTRACT_OF_NONE: &str = "--contract is for mapping code of your own: name it with --mapper, or with `elf` in the \
                                scenario; a built-in layout has a contract of its own";

/// The same options where no guest runs: they have an error of their own, which says what to do instead.
#[derive(Args)]
pub struct NoMapper {
    #[arg(long = "mapper", value_name = "ELF", hide = true)]
    file: Option<OsString>,

    #[arg(long, value_name = "LIST", hide = true)]
    contract: Option<OsString>,
}

impl NoMapper {
    /// Refuses them: why, and what to do instead.
    pub fn refuse(&self, why: &str, instead: &'static str) -> Result<(), Failure> {
        let given = [("--mapper", &self.file), ("--contract", &self.contract)];
        match given.into_iter().find(|(_, value)| value.is_some()) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Failure::Input(miette::miette!(help = instead, "`{name}` is of no use here: {why}")))
            }
        }
    }
}

/// Refuses a scenario whose mapping code is an ELF file, for a command that starts no guest: why, and what to do instead.
pub fn refuse_program(scenario: &Scenario, why: &str, instead: &'static str) -> Result<(), Failure> {
    match scenario.program() {
        None => Ok(()),
        Some(name) => {
            Err(Failure::Input(miette::miette!(help = instead, "the mapping code is in the file {name}: {why}")))
        }
    }
}
