//! What users build on: names are read as they are shown.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use efibed::check::{Phase, Rule, Severity, SkipKind, Witness};
use efibed::memory_map::{Format, ListKind, OddityKind, WriteFormat};
use efibed::report::{RunVerdict, Verdict};
use efibed::{EngineName, Layout, LeafRule, Misbehaviour, Miscall, Offence, UnknownName};

#[test]
fn names_are_read_as_they_are_shown() {
    list(Layout::ALL, Layout::NAMES);
    list(LeafRule::ALL, LeafRule::NAMES);
    list(EngineName::ALL, EngineName::NAMES);
    list(Misbehaviour::ALL, Misbehaviour::NAMES);
    list(Miscall::ALL, Miscall::NAMES);
    list(Rule::ALL, Rule::NAMES);
    list(Severity::ALL, Severity::NAMES);
    list(Witness::ALL, Witness::NAMES);
    list(Phase::ALL, Phase::NAMES);
    list(SkipKind::ALL, SkipKind::NAMES);
    list(Verdict::ALL, Verdict::NAMES);
    list(RunVerdict::ALL, RunVerdict::NAMES);
    list(ListKind::ALL, ListKind::NAMES);
    list(Format::ALL, Format::NAMES);
    list(WriteFormat::ALL, WriteFormat::NAMES);
    list(OddityKind::ALL, OddityKind::NAMES);
    list(efibed::matrix::Set::ALL, efibed::matrix::Set::NAMES);
}

fn list<T: Copy + Debug + Display + PartialEq + FromStr<Err = UnknownName>>(all: &[T], names: &[&str]) {
    assert_eq!(all.iter().map(T::to_string).collect::<Vec<_>>(), names);
    for (each, name) in all.iter().zip(names) {
        assert_eq!(name.parse(), Ok(*each));
        // A name is no prefix, and letters count.
        assert!(format!("{name}x").parse::<T>().is_err() && name.to_uppercase().parse::<T>().is_err());
    }
    let error = "".parse::<T>().unwrap_err();
    assert!(error.names() == names && error.to_string().ends_with(&names.join(", ")), "{error}");
}

#[test]
fn an_offence_that_its_service_cannot_be_guilty_of_is_not_made() {
    let offence: Offence = "seam@GetVariable".parse().unwrap();
    assert_eq!(Offence::new(offence.what(), offence.service()), Ok(offence));
    assert_eq!(offence.to_string(), "seam@GetVariable");
    let error = "past-argument@SetVirtualAddressMap".parse::<Offence>().unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "`past-argument@SetVirtualAddressMap`: the first argument of SetVirtualAddressMap is no pointer"
    );
}
