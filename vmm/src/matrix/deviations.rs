//! Where a KVM is known not to do as the SDM says.
//!
//! A deviation is another model of the CPU: what was observed is attributed to it if the software MMU with that
//! change predicts exactly the same. The matrix is not told of any beforehand.

use crate::engine::Abilities;
use crate::mmu::{Paging, PagingRule, Vendor};

/// A CPU, as the software MMU is to follow it, and what KVM makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Model {
    /// What it checks.
    pub paging: Paging,
    /// What it is told to be, which is what KVM's instruction emulator goes by.
    pub told: Paging,
    /// What leads to where no memory is, KVM's emulator looks at again, and refuses.
    pub emulator_refuses: bool,
    /// A walk that ends at a table entry without memory, KVM takes for the access, if both lie at the same place of a page.
    pub takes_walk_for_access: bool,
    /// A write that crosses into a page that faults reaches the page before.
    pub torn_writes: bool,
    /// User accesses find nothing in the first slot of the high half.
    pub blind_to_high_half_start: bool,
    /// An implicit access in ring 3 that SMAP forbids has no end if EFLAGS.AC is set.
    pub implicit_access_hangs: bool,
    /// A fault at a 1 GiB leaf may set its A.
    pub marks_1g_leaf: bool,
}

impl Model {
    /// As the SDM says.
    pub const fn of_the_sdm(paging: Paging) -> Self {
        Self {
            paging,
            told: paging,
            emulator_refuses: false,
            takes_walk_for_access: false,
            torn_writes: false,
            blind_to_high_half_start: false,
            implicit_access_hangs: false,
            marks_1g_leaf: false,
        }
    }
}

/// One way in which a KVM deviates.
pub struct Deviation {
    /// Its name in reports.
    pub name: &'static str,
    /// The rule that is not kept, with the manual's section.
    pub rule: &'static str,
    /// Why some KVMs do not.
    pub reason: &'static str,
    /// Changes a model that keeps the rule into one that does not; None where there is nothing to change.
    pub model: fn(&Model, &KnownMachine) -> Option<Model>,
    /// Whether trials of single accesses show it: then, and only then, it must be met. None: they cannot.
    pub precondition: Option<fn(&KnownMachine) -> bool>,
}

/// What is known of a machine by other means than the matrix.
pub struct KnownMachine {
    /// What its CPU is told, what KVM supports, and what trials of single accesses found.
    pub abilities: Abilities,
    /// Which deviations may have to do with a combination, likelier ones first; indices into [`DEVIATIONS`].
    suspects: Vec<Vec<usize>>,
}

/// Deviations that one combination may meet at once.
const MAX_TOGETHER: u32 = 4;

impl KnownMachine {
    /// One of these abilities.
    pub fn new(abilities: Abilities) -> Self {
        let mut machine = Self { abilities, suspects: Vec::new() };
        let sets = (1u32..1 << DEVIATIONS.len()).filter(|set| set.count_ones() <= MAX_TOGETHER);
        let members = |set: u32| (0..DEVIATIONS.len()).filter(move |index| set >> index & 1 != 0).collect();
        let mut suspects: Vec<Vec<usize>> = sets.map(members).collect();
        // What single accesses would show, and do not, comes last; then the fewest come first.
        let unseen = |&&index: &&usize| DEVIATIONS[index].precondition.is_some_and(|holds| !holds(&machine));
        suspects.sort_by_key(|set| (set.iter().filter(unseen).count(), set.len()));
        machine.suspects = suspects;
        machine
    }

    /// The models of a CPU that deviates from `model`, likelier ones first, each with its deviations.
    pub fn deviating(&self, model: Model) -> impl Iterator<Item = (&[usize], Model)> {
        self.suspects.iter().filter_map(move |set| {
            let changed = set.iter().try_fold(model, |model, &index| (DEVIATIONS[index].model)(&model, self));
            Some((set.as_slice(), changed?))
        })
    }
}

/// All that are known.
pub const DEVIATIONS: [Deviation; 15] = [
    Deviation {
        name: "1g-reserved",
        rule: "PS in a PDPTE maps a 1 GiB page where CPUID says that there are such (SDM 3A 4.5.4, table 4-16)",
        reason: "a shadow MMU without 1 GiB pages treats PS there as reserved, whatever the guest's CPUID says",
        model: |model, _| {
            model.paging.gbpages.then_some(Model { paging: Paging { gbpages: false, ..model.paging }, ..*model })
        },
        precondition: Some(|machine| machine.abilities.told.gbpages && !machine.abilities.checks.gbpages),
    },
    Deviation {
        name: "1g-not-hidden",
        rule: "PS in a PDPTE is reserved where CPUID says that there are no 1 GiB pages (SDM 3A 4.5.4, table 4-17)",
        reason: "under two-dimensional paging the processor walks the guest's tables, and does not know the guest's CPUID",
        model: |model, _| {
            (!model.paging.gbpages).then_some(Model { paging: Paging { gbpages: true, ..model.paging }, ..*model })
        },
        precondition: Some(|machine| !machine.abilities.told.gbpages && machine.abilities.checks.gbpages),
    },
    Deviation {
        name: "maxphyaddr-of-host",
        rule: "bits 51:MAXPHYADDR of an entry are reserved, and no others of an address are (SDM 3A 4.5.4)",
        reason: "under two-dimensional paging the processor walks the guest's tables, and has a MAXPHYADDR of its own",
        model: |model, machine| {
            let maxphyaddr = machine.abilities.supported.maxphyaddr;
            (maxphyaddr != model.paging.maxphyaddr)
                .then_some(Model { paging: Paging { maxphyaddr, ..model.paging }, ..*model })
        },
        precondition: Some(|machine| machine.abilities.told.maxphyaddr != machine.abilities.checks.maxphyaddr),
    },
    Deviation {
        name: "refused-by-emulator",
        rule: "an access that faults at a reserved bit marks no leaf (SDM 3A 4.8)",
        reason: "the processor, whose MAXPHYADDR is larger, finds the page and marks it; that no memory is there makes \
                 KVM's emulator do the access, and refuse it by the guest's MAXPHYADDR",
        model: |model, _| (!model.emulator_refuses).then_some(Model { emulator_refuses: true, ..*model }),
        precondition: None,
    },
    Deviation {
        name: "walk-taken-for-access",
        rule: "an access is to the page that its address translates to (SDM 3A 4.5.4)",
        reason: "where the processor's own walk comes to a table without memory, KVM's emulator does the access at the \
                 table entry's address, if that lies at the same place of its page as the access",
        model: |model, _| (!model.takes_walk_for_access).then_some(Model { takes_walk_for_access: true, ..*model }),
        precondition: None,
    },
    Deviation {
        name: "reserved-without-p",
        rule: "the fault of a reserved bit sets P in the error code (SDM 3A 4.7)",
        reason: "an emulated processor, with nested paging, may report 0x8 for 0x9",
        model: |model, _| {
            model
                .paging
                .reserved_fault_sets_p
                .then_some(Model { paging: Paging { reserved_fault_sets_p: false, ..model.paging }, ..*model })
        },
        precondition: Some(|machine| !machine.abilities.checks.reserved_fault_sets_p),
    },
    Deviation {
        name: "pke-ignored",
        rule: "CR4.PKE makes PKRU guard user pages, or cannot be set (SDM 3A 2.5 and 4.6.2)",
        reason: "some KVMs let CR4.PKE be set where the processor has no protection keys",
        model: |model, _| model.paging.pke.then_some(Model { paging: Paging { pke: false, ..model.paging }, ..*model }),
        precondition: Some(|machine| machine.abilities.taken.pke && !machine.abilities.checks.pke),
    },
    Deviation {
        name: "pml4-256-unusable",
        rule: "ring 3 may use every canonical address (SDM vol. 1, 3.3.7.1)",
        reason: "a hypervisor that runs the guest's ring 3 in its own address space keeps PML4[256] to itself",
        model: |model, _| {
            (!model.blind_to_high_half_start).then_some(Model { blind_to_high_half_start: true, ..*model })
        },
        precondition: Some(|machine| !machine.abilities.high_half_start),
    },
    Deviation {
        name: "torn-write",
        rule: "an instruction that faults has changed no memory (SDM 3A 6.5, faults)",
        reason: "KVM's instruction emulator writes the two parts of a write that crosses a page one after the other",
        model: |model, _| (!model.torn_writes).then_some(Model { torn_writes: true, ..*model }),
        precondition: None,
    },
    Deviation {
        name: "implicit-access-hangs",
        rule: "EFLAGS.AC lifts SMAP for no access of the processor's own (SDM 3A 4.6.1)",
        reason: "KVM's shadow MMU treats the fault as one that AC lifts, and repeats the access without end",
        model: |model, _| (!model.implicit_access_hangs).then_some(Model { implicit_access_hangs: true, ..*model }),
        precondition: None,
    },
    Deviation {
        name: "g-in-pml4e-ignored",
        rule: "bit 8 of a PML4E or PML5E is reserved on AMD (APM vol. 2, 5.3)",
        reason: "an emulated processor may not look at it",
        model: |model, _| without(model, PagingRule::GInUpperAmd).filter(|_| model.paging.vendor == Vendor::Amd),
        precondition: None,
    },
    Deviation {
        name: "1g-leaf-marked",
        rule: "a fault leaves the leaf's A alone (SDM 3A 4.8)",
        reason: "an emulated processor may set A of a 1 GiB leaf before it looks at the leaf's other bits",
        model: |model, _| (!model.marks_1g_leaf).then_some(Model { marks_1g_leaf: true, ..*model }),
        precondition: None,
    },
    Deviation {
        name: "ac-lifts-implicit",
        rule: "EFLAGS.AC lifts SMAP for no access of the processor's own (SDM 3A 4.6.1)",
        reason: "an emulated processor may treat its own accesses in ring 0 as the guest's",
        model: |model, _| without(model, PagingRule::AcNeverForImplicit),
        precondition: None,
    },
    Deviation {
        name: "stack-gp",
        rule: "a stack access to an address that is not canonical is #SS (SDM vol. 1, 3.3.7.1)",
        reason: "an emulated processor may raise #GP for all accesses",
        model: |model, _| without(model, PagingRule::CanonicalStack),
        precondition: None,
    },
    // The matrix finds this one before it begins, and lays out its batches so that no combination meets it.
    Deviation {
        name: "stale-after-host-write",
        rule: "loading CR3 makes the processor forget what it knew of table entries (SDM 3A 4.10.4.1)",
        reason: "a shadow MMU follows the guest's writes to its tables and not the host's: KVM is told of each batch",
        model: |_, _| None,
        precondition: None,
    },
];

/// The last of them.
pub const STALE: usize = DEVIATIONS.len() - 1;

fn without(model: &Model, rule: PagingRule) -> Option<Model> {
    let rules = model.paging.rules;
    rules.has(rule).then_some(Model { paging: Paging { rules: rules.without(rule), ..model.paging }, ..*model })
}
