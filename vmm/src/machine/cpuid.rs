//! What the vCPU's CPUID is asked to say, and what it then says.
//!
//! Leaves, registers and bits are those of Intel SDM vol. 2A, CPUID (Tables 3-8 to 3-11), and AMD
//! APM vol. 3, Appendix E.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;

use super::{CreateError, failed};
use crate::bounded::bounded;

bounded! {
    /// A width of physical addresses that may be asked for, MAXPHYADDR, in bits: 32 to 52. The upper bound is that of SDM
    /// vol. 3A, 4.1.4; the lower one is the width of a processor without PAE.
    MaxPhyAddr(u8): 32 to 52 by 1, "bits", "MAXPHYADDR", Some("SDM vol. 3A, 4.1.4")
}

/// What a machine's CPUID is to say about paging. `None`: what KVM supports.
///
/// The request is for life: KVM refuses another once the vCPU has run.
///
/// ```
/// use efibed::{CpuidRequest, MaxPhyAddr};
///
/// let cpu = CpuidRequest::default().maxphyaddr(MaxPhyAddr::try_from(40)?).gbpages(false);
/// assert_eq!(cpu.nx, None);
/// # Ok::<(), efibed::OutOfRange>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CpuidRequest {
    /// Width of physical addresses, in bits.
    pub maxphyaddr: Option<MaxPhyAddr>,
    /// 1-GiB pages.
    pub gbpages: Option<bool>,
    /// Execute-disable.
    pub nx: Option<bool>,
    /// 57-bit linear addresses (5-level paging).
    pub la57: Option<bool>,
    /// Supervisor-mode execution prevention.
    pub smep: Option<bool>,
    /// Supervisor-mode access prevention.
    pub smap: Option<bool>,
    /// Protection keys for user pages.
    pub pku: Option<bool>,
}

/// What a CPUID says about paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuidSeen {
    /// Width of physical addresses, in bits.
    pub maxphyaddr: u8,
    /// 1-GiB pages.
    pub gbpages: bool,
    /// Execute-disable.
    pub nx: bool,
    /// 57-bit linear addresses (5-level paging).
    pub la57: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// Protection keys for user pages.
    pub pku: bool,
    /// XSAVE, and with it AVX and what followed.
    pub xsave: bool,
    /// Instructions that read and write the bases of FS and GS.
    pub fsgsbase: bool,
    /// Who made the processor.
    pub vendor: CpuVendor,
}

/// Who made a processor, by CPUID leaf 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuVendor {
    /// `GenuineIntel`
    Intel,
    /// `AuthenticAMD`, and `HygonGenuine`, which is built alike.
    Amd,
    /// Anyone else, by the twelve letters.
    Other([u8; 12]),
}

impl CpuidRequest {
    /// Asks for a width of physical addresses.
    #[must_use]
    pub fn maxphyaddr(self, bits: MaxPhyAddr) -> Self {
        Self { maxphyaddr: Some(bits), ..self }
    }

    /// Asks for 1-GiB pages, or for none.
    #[must_use]
    pub fn gbpages(self, on: bool) -> Self {
        Self { gbpages: Some(on), ..self }
    }

    /// Asks for execute-disable, or for none.
    #[must_use]
    pub fn nx(self, on: bool) -> Self {
        Self { nx: Some(on), ..self }
    }

    /// Asks for 57-bit linear addresses (5-level paging), or for none.
    #[must_use]
    pub fn la57(self, on: bool) -> Self {
        Self { la57: Some(on), ..self }
    }

    /// Asks for supervisor-mode execution prevention, or for none.
    #[must_use]
    pub fn smep(self, on: bool) -> Self {
        Self { smep: Some(on), ..self }
    }

    /// Asks for supervisor-mode access prevention, or for none.
    #[must_use]
    pub fn smap(self, on: bool) -> Self {
        Self { smap: Some(on), ..self }
    }

    /// Asks for protection keys for user pages, or for none.
    #[must_use]
    pub fn pku(self, on: bool) -> Self {
        Self { pku: Some(on), ..self }
    }

    fn apply(&self, entries: &mut [kvm_cpuid_entry2]) {
        if let Some(bits) = self.maxphyaddr {
            set_maxphyaddr(entries, bits.get());
        }
        let told = [
            (GBPAGES, self.gbpages),
            (NX, self.nx),
            (LA57, self.la57),
            (SMEP, self.smep),
            (SMAP, self.smap),
            (PKU, self.pku),
            // A guest inside the guest would have state of its own that a reset does not reach.
            (VMX, Some(false)),
            (SVM, Some(false)),
        ];
        for (feature, wanted) in told {
            if let Some(on) = wanted {
                feature.set(entries, on);
            }
        }
    }
}

impl CpuidSeen {
    pub(super) fn read(entries: &[kvm_cpuid_entry2]) -> Self {
        Self {
            maxphyaddr: maxphyaddr(entries),
            gbpages: GBPAGES.get(entries),
            nx: NX.get(entries),
            la57: LA57.get(entries),
            smep: SMEP.get(entries),
            smap: SMAP.get(entries),
            pku: PKU.get(entries),
            xsave: XSAVE.get(entries),
            fsgsbase: FSGSBASE.get(entries),
            vendor: vendor(entries),
        }
    }
}

/// Sets the vCPU's CPUID and reads back what it came to.
pub(super) fn set(vcpu: &VcpuFd, supported: &CpuId, request: &CpuidRequest) -> Result<CpuidSeen, CreateError> {
    let mut cpuid = supported.clone();
    request.apply(cpuid.as_mut_slice());
    vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
    let seen = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_CPUID2"))?;
    Ok(CpuidSeen::read(seen.as_slice()))
}

/// One bit of one register of one leaf (subleaf 0).
struct Feature {
    leaf: u32,
    register: Register,
    bit: u32,
}

#[derive(Clone, Copy)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

const VMX: Feature = feature(1, Register::Ecx, 5);
const XSAVE: Feature = feature(1, Register::Ecx, 26);
const FSGSBASE: Feature = feature(7, Register::Ebx, 0);
const SMEP: Feature = feature(7, Register::Ebx, 7);
const SMAP: Feature = feature(7, Register::Ebx, 20);
const PKU: Feature = feature(7, Register::Ecx, 3);
const LA57: Feature = feature(7, Register::Ecx, 16);
const SVM: Feature = feature(0x8000_0001, Register::Ecx, 2);
const NX: Feature = feature(0x8000_0001, Register::Edx, 20);
const GBPAGES: Feature = feature(0x8000_0001, Register::Edx, 26);

/// EAX bits 7:0 of this leaf are MAXPHYADDR.
const ADDRESS_SIZES: u32 = 0x8000_0008;
/// SDM vol. 3A, 4.1.4: the width where that leaf does not exist, with PAE.
const MAXPHYADDR_WITHOUT_LEAF: u8 = 36;

const fn feature(leaf: u32, register: Register, bit: u32) -> Feature {
    Feature { leaf, register, bit }
}

impl Feature {
    fn get(&self, entries: &[kvm_cpuid_entry2]) -> bool {
        let Some(entry) = find(entries, self.leaf) else {
            return false;
        };
        let register = match self.register {
            Register::Ebx => entry.ebx,
            Register::Ecx => entry.ecx,
            Register::Edx => entry.edx,
        };
        register & (1 << self.bit) != 0
    }

    /// Without the leaf nothing is set, and what is then seen says so.
    fn set(&self, entries: &mut [kvm_cpuid_entry2], on: bool) {
        let Some(entry) = find_mut(entries, self.leaf) else {
            return;
        };
        let register = match self.register {
            Register::Ebx => &mut entry.ebx,
            Register::Ecx => &mut entry.ecx,
            Register::Edx => &mut entry.edx,
        };
        *register = (*register & !(1 << self.bit)) | u32::from(on) << self.bit;
    }
}

fn maxphyaddr(entries: &[kvm_cpuid_entry2]) -> u8 {
    match find(entries, ADDRESS_SIZES) {
        Some(entry) => entry.eax as u8,
        None => MAXPHYADDR_WITHOUT_LEAF,
    }
}

fn set_maxphyaddr(entries: &mut [kvm_cpuid_entry2], bits: u8) {
    if let Some(entry) = find_mut(entries, ADDRESS_SIZES) {
        entry.eax = (entry.eax & !0xff) | u32::from(bits);
    }
}

fn vendor(entries: &[kvm_cpuid_entry2]) -> CpuVendor {
    let mut letters = [0; 12];
    if let Some(entry) = find(entries, 0) {
        for (four, register) in letters.chunks_exact_mut(4).zip([entry.ebx, entry.edx, entry.ecx]) {
            four.copy_from_slice(&register.to_le_bytes());
        }
    }
    match &letters {
        b"GenuineIntel" => CpuVendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => CpuVendor::Amd,
        _ => CpuVendor::Other(letters),
    }
}

fn find(entries: &[kvm_cpuid_entry2], leaf: u32) -> Option<&kvm_cpuid_entry2> {
    entries.iter().find(|entry| entry.function == leaf && entry.index == 0)
}

fn find_mut(entries: &mut [kvm_cpuid_entry2], leaf: u32) -> Option<&mut kvm_cpuid_entry2> {
    entries.iter_mut().find(|entry| entry.function == leaf && entry.index == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(leaves: &[u32]) -> Vec<kvm_cpuid_entry2> {
        leaves.iter().map(|&function| kvm_cpuid_entry2 { function, ..Default::default() }).collect()
    }

    #[test]
    fn a_request_touches_the_bits_it_names_and_no_others() {
        let mut entries = leaves(&[0, 1, 7, 0x8000_0001, 0x8000_0008]);
        entries[2].ebx = 1 << 7 | 1;
        entries[4].eax = 0x3027;
        let request = CpuidRequest::default().maxphyaddr(MaxPhyAddr::MAX).gbpages(true).smep(false);
        request.apply(&mut entries);
        assert_eq!(entries[2].ebx, 1);
        assert_eq!(entries[3].edx, 1 << 26);
        assert_eq!(entries[4].eax, 0x3034);
    }

    #[test]
    fn what_is_seen_is_what_was_set() {
        let mut entries = leaves(&[0, 1, 7, 0x8000_0001, 0x8000_0008]);
        let on = CpuidRequest::default().gbpages(true).nx(true).la57(true).smep(true).smap(true).pku(true);
        let request = on.maxphyaddr(MaxPhyAddr::new(40).unwrap());
        request.apply(&mut entries);
        let seen = CpuidSeen::read(&entries);
        assert_eq!(seen.maxphyaddr, 40);
        assert!(seen.gbpages && seen.nx && seen.la57 && seen.smep && seen.smap && seen.pku);
    }

    #[test]
    fn a_leaf_that_is_not_there_says_no() {
        let mut entries = leaves(&[0]);
        CpuidRequest::default().la57(true).apply(&mut entries);
        let seen = CpuidSeen::read(&entries);
        assert!(!seen.la57);
        assert_eq!(seen.maxphyaddr, MAXPHYADDR_WITHOUT_LEAF);
        assert_eq!(seen.vendor, CpuVendor::Other([0; 12]));
    }
}
