//! The terms of a contract in words, as a command line and a scenario have them.

use std::fmt;

use super::contract::{Arena, Contract, Term};
use crate::mmu::Va;

/// One term, such as `identity=allowed`.
#[derive(Clone, Debug)]
pub(crate) struct ContractItem {
    /// As it was read.
    words: String,
    meaning: Meaning,
}

#[derive(Clone, Debug)]
enum Meaning {
    /// Addresses that are the mapper's to use.
    Arena(Arena),
    /// What must, may or must not be so.
    Term(SetTerm, Term),
    /// What is asked, or not.
    Switch(Switch, bool),
}

type SetTerm = fn(Contract, Term) -> Contract;
type Switch = fn(Contract, bool) -> Contract;

const TERMS: [(&str, SetTerm); 6] = [
    ("identity", Contract::identity),
    ("page-zero", Contract::page_zero),
    ("virtual-map", Contract::virtual_map),
    ("boot-services", Contract::boot_services),
    ("executable-data", Contract::executable_data),
    ("attributes-table", Contract::attributes_table),
];

const SWITCHES: [(&str, Switch); 2] =
    [("rising", Contract::rising), ("contiguous-images", Contract::contiguous_images)];

impl ContractItem {
    /// Reads one. The error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        Meaning::parse(text).map(|meaning| Self { words: text.into(), meaning })
    }

    /// What [`Self::parse`] reads, as a regular expression of a JSON schema.
    #[cfg(feature = "cli")]
    pub fn pattern() -> String {
        let terms = TERMS.map(|(name, _)| name).join("|");
        let switches = SWITCHES.map(|(name, _)| name).join("|");
        let number = "0x[0-9a-fA-F]{1,16}";
        format!("^(arena=(low|high|{number}-{number})|({terms})=(owed|allowed|forbidden)|({switches})=(on|off))$")
    }
}

/// As it was read.
impl fmt::Display for ContractItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Meaning {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as identity=allowed")?;
        if name == "arena" {
            return arena(value).map(Self::Arena);
        }
        if let Some((_, set)) = TERMS.iter().find(|(term, _)| *term == name) {
            return term(value).map(|term| Self::Term(*set, term));
        }
        if let Some((_, switch)) = SWITCHES.iter().find(|(term, _)| *term == name) {
            return on_or_off(value).map(|on| Self::Switch(*switch, on));
        }
        let names = TERMS.map(|(name, _)| name).into_iter().chain(SWITCHES.map(|(name, _)| name));
        let names = names.collect::<Vec<_>>().join(", ");
        Err(format!("a contract has no term `{name}`; there are arena, {names}"))
    }
}

/// What any mapper owes, and these terms on top. Several arenas add up.
pub(crate) fn contract_of(items: &[ContractItem]) -> Contract {
    let arenas = items.iter().filter_map(|item| match &item.meaning {
        Meaning::Arena(arena) => Some(arena.clone()),
        _ => None,
    });
    let arenas: Vec<Arena> = arenas.collect();
    let contract = if arenas.is_empty() { Contract::default() } else { Contract::default().arenas(arenas) };
    with_terms(contract, items)
}

/// A contract with other terms, besides arenas, in place of its own.
pub(crate) fn with_terms(contract: Contract, items: &[ContractItem]) -> Contract {
    items.iter().fold(contract, |contract, item| match &item.meaning {
        Meaning::Arena(_) => contract,
        Meaning::Term(set, term) => set(contract, *term),
        Meaning::Switch(set, on) => set(contract, *on),
    })
}

fn term(value: &str) -> Result<Term, String> {
    match value {
        "owed" => Ok(Term::Owed),
        "allowed" => Ok(Term::Allowed),
        "forbidden" => Ok(Term::Forbidden),
        _ => Err(format!("`{value}` is none of owed, allowed and forbidden")),
    }
}

fn on_or_off(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("`{value}` is neither on nor off")),
    }
}

fn arena(text: &str) -> Result<Arena, String> {
    match text {
        "low" => Ok(Arena::LowHalf),
        "high" => Ok(Arena::HighHalf),
        _ => {
            let (first, last) = text.split_once('-').ok_or("an arena is low, high or 0xFIRST-0xLAST")?;
            Ok(Arena::Range(address(first)?..=address(last)?))
        }
    }
}

fn address(text: &str) -> Result<Va, String> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() <= 16 && !digits.starts_with('+'));
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.map(Va).ok_or_else(|| format!("`{text}` is no address: write it as 0x and up to 16 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read() {
        let items = ["identity=owed", "rising=on", "arena=0x1000-0x1fff", "arena=high"].map(ContractItem::parse);
        let contract = contract_of(&items.map(Result::unwrap));
        let expected = Contract::default()
            .identity(Term::Owed)
            .rising(true)
            .arenas([Arena::Range(Va(0x1000)..=Va(0x1fff)), Arena::HighHalf]);
        assert_eq!(format!("{contract:?}"), format!("{expected:?}"));
        // The negative control: each of these terms changes the contract.
        assert_ne!(format!("{contract:?}"), format!("{:?}", expected.rising(false)));
    }

    #[test]
    fn what_is_no_term_is_told_with_what_there_is() {
        for (text, says) in [
            ("identity", "expected NAME=VALUE"),
            ("identity=perhaps", "none of owed, allowed and forbidden"),
            ("rising=1", "neither on nor off"),
            ("arenas=low", "no term `arenas`; there are arena, identity, page-zero, "),
            ("arena=here", "low, high or 0xFIRST-0xLAST"),
            ("arena=0x1000-", "`` is no address"),
            ("arena=0x1000-0x+1", "`0x+1` is no address"),
            ("arena=0x1000-0x10000000000000000", "is no address"),
        ] {
            let error = ContractItem::parse(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
