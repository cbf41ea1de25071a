//! GDT, IDT and TSS (SDM vol. 3A, 3.4.5, 6.14 and 7.7), all in one read-only page: the accessed and busy bits are set
//! beforehand, so that the CPU has nothing to write.

use efibed_guest::protocol::selector;

use super::layout::{
    BARE_IDT, GDT_AT, GDT_BYTES, IDT_AT, IDT_BYTES, IST_BYTES, PROCESS_IDT, TRIAL_IDT, TSS_AT, TSS_BYTES, VECTORS,
};
use crate::machine::{kvm_segment, kvm_sregs};

const BREAKPOINT: usize = 3;
const PAGE_FAULT: usize = 14;

/// Descriptor types (SDM vol. 3A, tables 3-1 and 3-2), accessed or busy.
const CODE: u8 = 0b1011;
const DATA: u8 = 0b0011;
const TSS_BUSY: u8 = 0b1011;
const INTERRUPT_GATE: u64 = 0b1110;

/// The handlers of the image, by vector.
pub struct Handlers {
    /// Those of the usual IDT.
    pub usual: [u64; VECTORS as usize],
    /// Those that record the faults of trials.
    pub trials: [u64; VECTORS as usize],
    /// #PF of the bare loops; all else is as for trials.
    pub bare_page_fault: u64,
    /// Those that hand the exceptions of mapping code over.
    pub process: [u64; VECTORS as usize],
}

/// The page at virtual address `at`, with interrupt stacks from `ist_top` on.
pub fn page(at: u64, handlers: &Handlers, ist_top: u64) -> Vec<u8> {
    let mut page = idt(&handlers.usual);
    let kernel = |kind| code_or_data(kind, 0);
    let user = |kind| code_or_data(kind, 3);
    for descriptor in [0, kernel(CODE), kernel(DATA), user(DATA), user(CODE)] {
        page.extend(descriptor.to_le_bytes());
    }
    page.extend(tss_descriptor(at.wrapping_add(TSS_AT)));
    page.resize(TSS_AT as usize, 0);
    page.extend(tss(ist_top));
    page.resize(TRIAL_IDT as usize, 0);
    page.extend(idt(&handlers.trials));
    page.resize(BARE_IDT as usize, 0);
    let mut bare = handlers.trials;
    bare[PAGE_FAULT] = handlers.bare_page_fault;
    page.extend(idt(&bare));
    page.resize(PROCESS_IDT as usize, 0);
    page.extend(idt(&handlers.process));
    page
}

fn idt(handlers: &[u64; VECTORS as usize]) -> Vec<u8> {
    let gates = handlers.iter().enumerate().flat_map(|(vector, handler)| gate(vector, *handler));
    gates.collect()
}

/// Points the system registers at the page.
pub fn load(sregs: &mut kvm_sregs, at: u64) {
    sregs.gdt.base = at.wrapping_add(GDT_AT);
    sregs.gdt.limit = (GDT_BYTES - 1) as u16;
    sregs.idt.base = at.wrapping_add(IDT_AT);
    sregs.idt.limit = (IDT_BYTES - 1) as u16;
    sregs.cs = segment(selector::KERNEL_CODE, CODE, true);
    let data = segment(selector::KERNEL_DATA, DATA, false);
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: at.wrapping_add(TSS_AT),
        limit: (TSS_BYTES - 1) as u32,
        selector: selector::TSS,
        type_: TSS_BUSY,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
}

/// Enters ring 3 on the IDT for mapping code, with these bases of FS and GS.
pub fn enter_ring_3(sregs: &mut kvm_sregs, at: u64, [fs, gs]: [u64; 2]) {
    let user = |selector, kind, code| kvm_segment { dpl: 3, ..segment(selector, kind, code) };
    let data = user(selector::USER_DATA, DATA, false);
    sregs.cs = user(selector::USER_CODE, CODE, true);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (kvm_segment { base: fs, ..data }, kvm_segment { base: gs, ..data });
    sregs.idt.base = at.wrapping_add(PROCESS_IDT);
}

/// #DF, NMI, #MC, #PF, #GP and #SS each have a stack of their own, the rest share the seventh.
fn interrupt_stack(vector: usize) -> u64 {
    match vector {
        8 => 1,
        2 => 2,
        18 => 3,
        14 => 4,
        13 => 5,
        12 => 6,
        _ => 7,
    }
}

fn gate(vector: usize, handler: u64) -> [u8; 16] {
    // An INT n or INTO of ring 3 is #GP. INT3 is #BP, as under any kernel that has debuggers; some KVMs take it for that whatever
    // the gate says (SDM vol. 3A, 6.12.1.2).
    let ring = if vector == BREAKPOINT { 3 } else { 0 };
    let low = (handler & 0xffff)
        | u64::from(selector::KERNEL_CODE) << 16
        | interrupt_stack(vector) << 32
        | INTERRUPT_GATE << 40
        | ring << 45
        | 1 << 47
        | (handler >> 16 & 0xffff) << 48;
    let mut gate = [0; 16];
    gate[..8].copy_from_slice(&low.to_le_bytes());
    gate[8..].copy_from_slice(&(handler >> 32).to_le_bytes());
    gate
}

/// Flat, present; code is 64-bit.
fn code_or_data(kind: u8, ring: u64) -> u64 {
    let size = if kind == CODE { 1 << 53 } else { 1 << 54 };
    0x000f_0000_0000_ffff | u64::from(kind) << 40 | 1 << 44 | ring << 45 | 1 << 47 | size | 1 << 55
}

fn tss_descriptor(base: u64) -> [u8; 16] {
    let low =
        (TSS_BYTES - 1) | (base & 0xff_ffff) << 16 | u64::from(TSS_BUSY) << 40 | 1 << 47 | (base >> 24 & 0xff) << 56;
    let mut descriptor = [0; 16];
    descriptor[..8].copy_from_slice(&low.to_le_bytes());
    descriptor[8..].copy_from_slice(&(base >> 32).to_le_bytes());
    descriptor
}

/// The interrupt stacks, and an I/O map that begins past the limit: ring 3 has no ports.
fn tss(ist_top: u64) -> [u8; TSS_BYTES as usize] {
    let mut tss = [0; TSS_BYTES as usize];
    for (slot, top) in tss[36..].chunks_exact_mut(8).zip((ist_top..).step_by(IST_BYTES as usize)).take(7) {
        slot.copy_from_slice(&top.to_le_bytes());
    }
    tss[102..].copy_from_slice(&(TSS_BYTES as u16).to_le_bytes());
    tss
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}
