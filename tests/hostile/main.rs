//! A guest image whose mapping code does what it must not. It maps as the built-in layouts do, and then does the one
//! attack whose number the memory map has: the page count, less one, of the descriptor of type [`ATTACK_TYPE`].
#![no_std]
#![no_main]

mod attacks;

use core::arch::asm;
use core::mem::{offset_of, size_of};

use attacks::Attack;
use efibed_guest::page_table::AddressSpace;
use efibed_guest::protocol::{
    DIRECT_MAP, HANDOVER_CRASH, HANDOVER_DONE, HANDOVER_FAULTS_FULL, HANDOVER_PANIC, IMAGE_BASE, ImageHeader, Mailbox,
    MapRequest, MapResult, MapStatus, PORT,
};
use efibed_guest::{Layout, LayoutMapper, LeafRule, MapContext, MapError, Mapper};

efibed_guest::image!(|request: &MapRequest| {
    let layout = Layout::from_number(request.layout)?;
    let leaf_rule = LeafRule::from_number(request.leaf_rule)?;
    Some(Hostile { usual: LayoutMapper { layout, leaf_rule }, request: *request })
});

/// Of the descriptor that says which attack: the first type that is an OEM's (UEFI 2.10, 7.2.1).
const ATTACK_TYPE: u32 = 0x7000_0000;

struct Hostile {
    usual: LayoutMapper,
    request: MapRequest,
}

impl Mapper for Hostile {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let space = self.usual.map(context)?;
        let Some(attack) = attack(context) else { return Ok(space) };
        match attack {
            Attack::NoTables => Ok(context.kernel),
            _ => {
                // SAFETY: none: this is an attack. The host must see to it that nothing comes of it but a finding.
                unsafe { self.attack_in_map(attack, space) };
                Ok(space)
            }
        }
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        let space = self.usual.finish(context, space)?;
        match attack(context) {
            Some(Attack::OtherRootInFinish) => Ok(context.kernel),
            Some(attack) => {
                // SAFETY: as above.
                unsafe { self.attack_in_finish(attack, space) };
                Ok(space)
            }
            None => Ok(space),
        }
    }
}

fn attack(context: &MapContext<'_>) -> Option<Attack> {
    let number = context.memory_map.iter().find(|descriptor| descriptor.ty == ATTACK_TYPE)?.page_count;
    Attack::ALL.get(number as usize - 1).copied()
}

impl Hostile {
    unsafe fn attack_in_map(&self, attack: Attack, space: AddressSpace) {
        let (request, header) = (&self.request, header());
        let probes = offset_of!(Mailbox, probes) + 64;
        // SAFETY: as the caller says.
        unsafe {
            match attack {
                Attack::WriteProbes => write(mailbox(probes), 1),
                Attack::WriteFaults => write(mailbox(offset_of!(Mailbox, fault_count)), 1),
                Attack::WriteCrash => write(mailbox(offset_of!(Mailbox, crash) + size_of::<[u64; 20]>()), 1),
                Attack::WriteAbandoned => write(mailbox(offset_of!(Mailbox, services_abandoned)), 3),
                Attack::WriteRequest => write(mailbox(offset_of!(Mailbox, map_request)), 1),
                Attack::WriteInterruptStack => write(header.ist_top - 64, 1),
                Attack::WriteUserStack => write(header.user_stack, 1),
                Attack::WriteBehindVirtualMap => write(direct(request.virtual_map + request.memory_map_bytes), 1),
                Attack::WriteUnusedPool => write(direct(request.table_pool[1] - 64), 1),
                Attack::WriteMemoryMap => write(direct(request.memory_map + 8), 0x1000),
                Attack::WriteKernelTables => write(direct(request.kernel_root + 8 * 300), 1 << 40),
                Attack::WriteKernelText => write(header.entry & !7, 0),
                Attack::WriteKernelTextDirectly => {
                    let image = request.memory_map - (header.end - IMAGE_BASE);
                    write(direct(image + ((header.entry & !7) - IMAGE_BASE)), 0);
                }
                Attack::SetCr0 => asm!("mov rax, cr0", "btr rax, 16", "mov cr0, rax", out("rax") _),
                Attack::SetCr3 => asm!("mov cr3, {}", in(reg) space.root()),
                Attack::SetCr4 => asm!("mov rax, cr4", "bts rax, 7", "mov cr4, rax", out("rax") _),
                Attack::SetEfer => set_msr(0xc000_0080, |value| value | 1),
                Attack::SetPat => set_msr(0x277, |value| value & !0xff00),
                Attack::SetIdtr => load("lidt"),
                Attack::SetGdtr => load("lgdt"),
                Attack::SetInterruptFlag => asm!("sti"),
                Attack::SetDirectionFlag => asm!("std"),
                Attack::SetAlignmentCheck => asm!("pushfq", "bts qword ptr [rsp], 18", "popfq"),
                Attack::HandOverEarly => hand_over(HANDOVER_DONE),
                Attack::ForgeRoot => forge(0x12_3456_7000, 1, 1),
                Attack::ForgeCount => forge(space.root(), 1 << 63, 1),
                Attack::ForgePages => forge(space.root(), 1, 1 << 60),
                Attack::ForgeCrash => hand_over(HANDOVER_CRASH),
                Attack::ForgePanic => {
                    write(mailbox(offset_of!(Mailbox, panic)), u64::MAX);
                    write(mailbox(offset_of!(Mailbox, panic) + 8), u64::MAX);
                    hand_over(HANDOVER_PANIC);
                }
                Attack::ForgeFullRecords => loop {
                    hand_over(HANDOVER_FAULTS_FULL);
                },
                Attack::MapItself => write(direct(space.root() + 8 * 400), space.root() | 3),
                Attack::Globalize => change_leaves(space.root(), |entry| entry | 1 << 8),
                Attack::UnknownPort => asm!("out 0x80, eax", in("eax") 1),
                Attack::Halt => asm!("hlt"),
                Attack::Undefined => asm!("ud2"),
                Attack::Divide => asm!("div {0:e}", in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _),
                Attack::CallNull => asm!("call {}", in(reg) 0_u64, clobber_abi("C")),
                Attack::OverflowStack => drop_deeper(&mut [0; 64]),
                Attack::Panic => panic!("an attack"),
                Attack::Shutdown => {
                    load("lidt");
                    asm!("ud2");
                }
                #[expect(clippy::empty_loop, reason = "that is the attack")]
                Attack::Loop => loop {},
                _ => {}
            }
        }
    }

    unsafe fn attack_in_finish(&self, attack: Attack, space: AddressSpace) {
        // SAFETY: as the caller says.
        unsafe {
            match attack {
                Attack::UnmapInFinish => change_leaves(space.root(), |_| 0),
                Attack::OpenInFinish => change_leaves(space.root(), |entry| (entry | 6) & !(1 << 63)),
                Attack::WriteVirtualMapInFinish => write(direct(self.request.virtual_map + 16), 0x1000),
                Attack::WriteUnusedPoolInFinish => write(direct(self.request.table_pool[1] - 64), 1),
                _ => {}
            }
        }
    }
}

/// Changes all leaves of the root's lower half and of the window below -4 GiB, where no kernel lies; of the kernel's own
/// tables none is reached.
unsafe fn change_leaves(root: u64, change: fn(u64) -> u64) {
    let window = |virt: u64| (0xffff_ffef_0000_0000..0xffff_ffff_0000_0000).contains(&virt);
    // SAFETY: as the caller says.
    unsafe { change_below(root, 0, 39, &|virt| window(virt), change) };
}

unsafe fn change_below(table: u64, base: u64, shift: u32, wanted: &dyn Fn(u64) -> bool, change: fn(u64) -> u64) {
    for index in 0..512 {
        let virt = base | index << shift;
        let virt = if virt >> 47 & 1 == 1 { virt | 0xffff << 48 } else { virt };
        let at = direct(table + 8 * index);
        // SAFETY: as the caller says; the table is the mapper's, or the kernel's on the way to one.
        unsafe {
            let entry = (at as *const u64).read_volatile();
            let is_leaf = shift == 12 || entry & 1 << 7 != 0;
            match (entry & 1, is_leaf) {
                (0, _) => {}
                (_, true) if wanted(virt) => write(at, change(entry)),
                (_, true) => {}
                _ => change_below(entry & 0xf_ffff_ffff_f000, virt & 0xffff_ffff_ffff, shift - 9, wanted, change),
            }
        }
    }
}

fn header() -> &'static ImageHeader {
    // SAFETY: the header lies at the image's start, and is never written to.
    unsafe { &*(IMAGE_BASE as *const ImageHeader) }
}

fn mailbox(offset: usize) -> u64 {
    header().mailbox + offset as u64
}

fn direct(phys: u64) -> u64 {
    phys.wrapping_add(DIRECT_MAP)
}

unsafe fn write(virt: u64, value: u64) {
    // SAFETY: as the caller says.
    unsafe { (virt as *mut u64).write_volatile(value) };
}

/// Hands over as the kernel does once its only command is done.
unsafe fn forge(root: u64, mapped: u64, table_pages: u64) {
    let result = MapResult { status: MapStatus::Done as u64, detail: 0, root, mapped, table_pages };
    // SAFETY: as the caller says.
    unsafe {
        (mailbox(offset_of!(Mailbox, map_result)) as *mut MapResult).write_volatile(result);
        write(mailbox(offset_of!(Mailbox, command_at)), 1);
        hand_over(HANDOVER_DONE);
    }
}

unsafe fn hand_over(code: u32) {
    // SAFETY: as the caller says.
    unsafe { asm!("out dx, eax", in("dx") PORT, in("eax") code) };
}

unsafe fn set_msr(index: u32, change: fn(u64) -> u64) {
    // SAFETY: as the caller says.
    unsafe {
        let (low, high): (u32, u32);
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high);
        let value = change(u64::from(high) << 32 | u64::from(low));
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

/// A descriptor-table register with nothing in its table.
unsafe fn load(instruction: &str) {
    let nothing = [0_u64; 2];
    // SAFETY: as the caller says.
    unsafe {
        match instruction {
            "lidt" => asm!("lidt [{}]", in(reg) &nothing),
            _ => asm!("lgdt [{}]", in(reg) &nothing),
        }
    }
}

#[expect(unconditional_recursion, reason = "that is the attack")]
#[inline(never)]
fn drop_deeper(words: &mut [u64; 64]) {
    let mut next = [words[0] + 1; 64];
    drop_deeper(&mut next);
    words[1] = next[1];
}
