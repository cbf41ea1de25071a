//! What users build on: names are read as they are shown, and errors say what to do.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use efibed::check::{Phase, Rule, Severity, SkipKind, Witness};
use efibed::memory_map::{Format, ListKind, MemoryMap, OddityKind, WriteFormat};
use efibed::report::{RunVerdict, Verdict};
use efibed::{
    DescriptorSize, EngineName, Error, Layout, LeafRule, Misbehaviour, Miscall, Scenario, ServiceMisbehaviour, TestBed,
    UnknownName,
};

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
    list(efibed::unstable::matrix::Set::ALL, efibed::unstable::matrix::Set::NAMES);
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
fn a_misbehaviour_that_its_service_cannot_be_guilty_of_is_not_made() {
    let misbehaviour: ServiceMisbehaviour = "seam@GetVariable".parse().unwrap();
    assert_eq!(ServiceMisbehaviour::new(misbehaviour.what(), misbehaviour.service()), Ok(misbehaviour));
    assert_eq!(misbehaviour.to_string(), "seam@GetVariable");
    let error = "past-argument@SetVirtualAddressMap".parse::<ServiceMisbehaviour>().unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        "`past-argument@SetVirtualAddressMap`: the first argument of SetVirtualAddressMap is no pointer"
    );
}

/// `{:?}` is what a test prints that returns the error.
#[test]
fn one_error_takes_all_others_and_says_what_to_do() {
    let says = |made: fn() -> Result<(), Error>| format!("{:?}", made().unwrap_err());
    let map = says(|| {
        MemoryMap::parse("[[descriptor]]\ntype = \"Nobody\"\n")?;
        Ok(())
    });
    assert!(
        map.starts_with("<text>:2:8: ") && map.contains("\n  2 | type = \"Nobody\"\n    |        ^^^^^^^^"),
        "{map}"
    );
    let file = says(|| {
        MemoryMap::read("/nowhere".as_ref())?;
        Ok(())
    });
    assert!(file.starts_with("/nowhere: ") && file.contains("\n  help: "), "{file}");
    let size = says(|| {
        DescriptorSize::try_from(44_u8)?;
        Ok(())
    });
    assert!(size.contains("expected a multiple of 8 from 40 to 4096"), "{size}");
    let name = says(|| {
        "windows".parse::<Layout>()?;
        Ok(())
    });
    assert!(name.contains("there are linux, linux-fixed, window, "), "{name}");
    let misbehaviour = says(|| {
        "seam@Nobody".parse::<ServiceMisbehaviour>()?;
        Ok(())
    });
    assert!(misbehaviour.contains("no runtime service `Nobody`; there are GetTime, "), "{misbehaviour}");
    let engine = says(|| {
        let map = MemoryMap::from_descriptors("none", Vec::new());
        let natively = Scenario::new(map).mapper_elf(b"").engine(EngineName::Walker);
        TestBed::without_kvm().run(&natively)?;
        Ok(())
    });
    assert!(engine.starts_with("this machine cannot do "), "{engine}");
}
