//! The guest image's initialised data is there at each boot.

use std::time::Duration;

use efibed::MemoryMap;
use efibed::mmu::Paging;
use efibed::unstable::guest::{Case, End, Guest, Image, Kernel, NoEvents, PAGE_BYTES, Placement, Strides, command};
use efibed::unstable::machine::{Backing, CpuidRequest, Machine};
use efibed_guest::protocol::{DIRECT_MAP, MAGIC, Op, ProbeKind};
use efibed_tests::{Need, hypervisor, trial};
use libtest_mimic::Trial;
use object::{Object, ObjectSymbol};

/// All tests of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("image::initialised_data_is_restored_at_each_boot", Need::Kvm, initialised_data_is_restored_at_each_boot),
        trial("image::no_case_changes_the_kernel_of_the_next", Need::Kvm, no_case_changes_the_kernel_of_the_next),
        trial("image::data_that_did_not_arrive_stops_the_kernel", Need::Kvm, data_that_did_not_arrive_stops_the_kernel),
    ]
}

/// The kernel changes the word, so that the second boot needs it restored.
fn initialised_data_is_restored_at_each_boot() {
    let case = case();
    let mut machine = machine();
    for _ in 0..2 {
        let mut guest = boot(&mut machine, &case);
        assert_eq!(unstarted(&case), MAGIC);
        guest.batch(&[], &mut NoEvents).unwrap();
        assert_eq!(unstarted(&case), 0);
        machine.reset().unwrap();
    }
}

/// The guest writes to every page of its kernel, in ring 0 and by the direct map, which has all of them writable. The negative
/// control is the page behind: there it does change what the next guest has, until that has a case of its own.
fn no_case_changes_the_kernel_of_the_next() {
    let (image, map) = (Image::built_in().unwrap(), MemoryMap::from_descriptors("test", Vec::new()));
    let sizes = Case::sizes(image, &map, Strides::default(), 0, 0, 0);
    let placement = Placement::find(&map, sizes, 1 << 32, &Placement::usual_internals().ranges()).unwrap();
    let mut machine = machine();
    let mut kernel = Kernel::new(image, Backing::that_tells_touched(sizes.total()).unwrap(), placement);
    for _ in 0..2 {
        let case = Case::beside(&kernel, &map, Strides::default(), &[], &Paging::default()).unwrap();
        let mut guest = boot(&mut machine, &case);
        let behind = case.placement.desk().start;
        let pages = (placement.base..placement.base + image.read_only().len() as u64).step_by(PAGE_BYTES as usize);
        let addresses: Vec<u64> = pages.chain([behind]).map(|phys| DIRECT_MAP + phys).collect();
        guest.mail().put_probes(addresses.iter().copied()).unwrap();
        let write = command(Op::Probe, [0, addresses.len() as u64, ProbeKind::Write as u64, 0, 0, 0]);
        guest.batch(&[write], &mut NoEvents).unwrap();
        let probes = guest.mail().probes(addresses.len()).unwrap();
        assert!(probes.iter().all(|probe| probe.fault.vector == 0), "{probes:?}");
        let word = |phys| kernel.memory().read_u64(phys).unwrap();
        assert_ne!(word(behind), 0);
        let mut read_only = vec![0; image.read_only().len()];
        assert!(kernel.memory().read(placement.base, &mut read_only));
        assert!(read_only == image.read_only());
        machine.reset().unwrap();
        kernel = kernel.again(placement).unwrap();
        assert_eq!(kernel.memory().read_u64(behind), Some(0));
    }
}

/// The negative control: zeros, as where the image's data is not loaded.
fn data_that_did_not_arrive_stops_the_kernel() {
    let case = case();
    let mut machine = machine();
    let mut guest = boot(&mut machine, &case);
    assert!(case.memory.write(case.physical(unstarted_at()), &[0; 8]));
    match guest.batch(&[], &mut NoEvents) {
        Err(End::Panic { location }) => assert!(location.contains("kernel/mod.rs:"), "{location}"),
        other => panic!("{other:?}"),
    }
}

fn case() -> Case {
    let (image, map) = (Image::built_in().unwrap(), MemoryMap::from_descriptors("test", Vec::new()));
    let sizes = Case::sizes(image, &map, Strides::default(), 0, 0, 0);
    let placement = Placement::find(&map, sizes, 1 << 32, &Placement::usual_internals().ranges()).unwrap();
    Case::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap()
}

fn machine() -> Machine {
    Machine::new(hypervisor(), &CpuidRequest::default(), Placement::usual_internals()).unwrap()
}

fn boot<'m>(machine: &'m mut Machine, case: &'m Case) -> Guest<'m> {
    Guest::boot(machine, case, &[], &Paging::default(), Duration::from_secs(10)).unwrap()
}

fn unstarted(case: &Case) -> u64 {
    case.memory.read_u64(case.physical(unstarted_at())).unwrap()
}

/// The address of the kernel's word that says so.
fn unstarted_at() -> u64 {
    let elf = object::File::parse(Image::built_in_elf()).unwrap();
    elf.symbol_by_name("EFIBED_UNSTARTED").unwrap().address()
}
