//! The kernel's registers as they were set, and whether they still are so when the guest hands over.

use efibed_stub::rflags;

use crate::machine::{Machine, kvm_sregs, msr};

/// A register that is not as it was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Altered {
    /// Its name.
    pub register: &'static str,
    /// What it was set to.
    pub set: u64,
    /// What it is.
    pub found: u64,
}

/// What was set, and must stay so.
#[derive(Clone, Copy, Debug)]
pub struct State {
    sregs: kvm_sregs,
    /// IA32_PAT; None: KVM does not show it.
    pat: Option<u64>,
}

/// RFLAGS without what instructions leave there on their way.
const RFLAGS_KEPT: u64 = !(rflags::STATUS | rflags::RESUME);

/// A register's name, and where it is.
type Register = (&'static str, fn(&kvm_sregs) -> u64);

/// Everything that a kernel relies on, by name. CR3 is not here: it changes with each switch.
const REGISTERS: [Register; 10] = [
    ("CR0", |sregs| sregs.cr0),
    ("CR4", |sregs| sregs.cr4),
    ("EFER", |sregs| sregs.efer),
    ("the IDTR's base", |sregs| sregs.idt.base),
    ("the IDTR's limit", |sregs| sregs.idt.limit.into()),
    ("the GDTR's base", |sregs| sregs.gdt.base),
    ("the GDTR's limit", |sregs| sregs.gdt.limit.into()),
    ("TR", |sregs| sregs.tr.selector.into()),
    ("the TSS's base", |sregs| sregs.tr.base),
    ("the TSS's limit", |sregs| sregs.tr.limit.into()),
];

impl State {
    /// What a machine that was reset is to start with.
    pub fn of(machine: &Machine) -> Self {
        let pat = machine.kept_msr(msr::IA32_PAT).or_else(|| machine.get_msr(msr::IA32_PAT).ok());
        Self { sregs: machine.sregs(), pat }
    }

    /// What has changed since, with this CR3 loaded. It is set again. IA32_PAT is looked at only if asked for.
    pub fn restore(&self, machine: &mut Machine, cr3: u64, with_pat: bool) -> Vec<Altered> {
        let (now, flags) = (machine.sregs(), machine.regs().rflags);
        let rows = REGISTERS.iter().map(|(register, value)| (*register, value(&self.sregs), value(&now)));
        let others = [("CR3", cr3, now.cr3), ("RFLAGS", rflags::FIXED, flags & RFLAGS_KEPT)];
        let pat = self.pat.filter(|_| with_pat).zip(machine.get_msr(msr::IA32_PAT).ok());
        let pat = pat.map(|(set, found)| ("IA32_PAT", set, found));
        let altered: Vec<_> = rows
            .chain(others)
            .chain(pat)
            .filter(|(_, set, found)| set != found)
            .map(|(register, set, found)| Altered { register, set, found })
            .collect();
        if !altered.is_empty() {
            *machine.sregs_mut() = kvm_sregs { cr3, ..self.sregs };
            machine.regs_mut().rflags = rflags::FIXED;
            // KVM took this value before.
            let _ = self.pat.map(|pat| machine.set_msr(msr::IA32_PAT, pat));
        }
        altered
    }
}
