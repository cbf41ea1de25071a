//! The guest image's initialised data is there at each boot.

use std::time::Duration;

use efibed::MemoryMap;
use efibed::mmu::Paging;
use efibed::unstable::guest::{End, Guest, Image, Loaded, NoEvents, Placement, Strides};
use efibed::unstable::machine::{CpuidRequest, Machine};
use efibed_guest::protocol::MAGIC;
use efibed_tests::{Need, hypervisor, trial};
use libtest_mimic::Trial;
use object::{Object, ObjectSymbol};

/// All tests of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("image::initialised_data_is_restored_at_each_boot", Need::Kvm, initialised_data_is_restored_at_each_boot),
        trial("image::data_that_did_not_arrive_stops_the_kernel", Need::Kvm, data_that_did_not_arrive_stops_the_kernel),
    ]
}

/// The kernel changes the word, so that the second boot needs it restored.
fn initialised_data_is_restored_at_each_boot() {
    let loaded = loaded();
    let mut machine = machine();
    for _ in 0..2 {
        let mut guest = boot(&mut machine, &loaded);
        assert_eq!(unstarted(&loaded), MAGIC);
        guest.batch(&[], &mut NoEvents).unwrap();
        assert_eq!(unstarted(&loaded), 0);
        machine.reset().unwrap();
    }
}

/// The negative control: zeros, as where the image's data is not loaded.
fn data_that_did_not_arrive_stops_the_kernel() {
    let loaded = loaded();
    let mut machine = machine();
    let mut guest = boot(&mut machine, &loaded);
    assert!(loaded.memory.write(loaded.physical(unstarted_at()), &[0; 8]));
    match guest.batch(&[], &mut NoEvents) {
        Err(End::Panic { location }) => assert!(location.contains("kernel/mod.rs:"), "{location}"),
        other => panic!("{other:?}"),
    }
}

fn loaded() -> Loaded {
    let (image, map) = (Image::built_in().unwrap(), MemoryMap::from_descriptors("test", Vec::new()));
    let sizes = Loaded::sizes(image, &map, Strides::default(), 0, 0, 0);
    let placement = Placement::find(&map, sizes, 1 << 32, &Placement::usual_internals().ranges()).unwrap();
    Loaded::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap()
}

fn machine() -> Machine {
    Machine::new(hypervisor(), &CpuidRequest::default(), Placement::usual_internals()).unwrap()
}

fn boot<'m>(machine: &'m mut Machine, loaded: &'m Loaded) -> Guest<'m> {
    Guest::boot(machine, loaded, &[], &Paging::default(), Duration::from_secs(10)).unwrap()
}

fn unstarted(loaded: &Loaded) -> u64 {
    loaded.memory.read_u64(loaded.physical(unstarted_at())).unwrap()
}

/// The address of the kernel's word that says so.
fn unstarted_at() -> u64 {
    let elf = object::File::parse(Image::built_in_elf()).unwrap();
    elf.symbol_by_name("EFIBED_UNSTARTED").unwrap().address()
}
