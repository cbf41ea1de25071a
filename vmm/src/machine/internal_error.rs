//! KVM_EXIT_INTERNAL_ERROR: what KVM could not do, named.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_sregs,
};

use super::{Machine, PAGE_BYTES};
use crate::mmu::{Pa, Va};

/// The longest instruction (SDM vol. 2A, 2.3.11).
const LONGEST_INSTRUCTION: usize = 15;

/// EFER.LMA: long mode is active (SDM vol. 3A, 2.2.1).
const EFER_LMA: u64 = 1 << 10;

/// KVM could not go on with the guest. The registers are those before the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalError {
    /// KVM_INTERNAL_ERROR_*: 1 is an instruction it could not emulate.
    pub suberror: u32,
    /// Address of the instruction.
    pub rip: u64,
    /// The ring it is in.
    pub cpl: u8,
    /// Where KVM says the instruction lies, if anywhere.
    pub pa: Option<Pa>,
    /// Whether there is memory at `pa`. If not, there was nothing to fetch: that is the reason, then.
    pub backed: bool,
    /// The instruction's bytes, as far as they are known.
    pub bytes: Vec<u8>,
    /// The instruction, in AT&T syntax.
    pub instruction: Option<String>,
    /// What else KVM told; its meaning depends on `suberror`.
    pub data: Vec<u64>,
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rip, cpl, .. } = self;
        match (&self.instruction, self.pa) {
            _ if self.suberror != KVM_INTERNAL_ERROR_EMULATION => {
                let what = suberror_name(self.suberror);
                write!(f, "KVM failed ({what}) at {rip:#x} in ring {cpl}")?;
                write!(f, ", data {:x?}", self.data)
            }
            (Some(instruction), _) => {
                let bytes: Vec<String> = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let bytes = bytes.join(" ");
                write!(f, "KVM cannot emulate `{instruction}` ({bytes}) at {rip:#x} in ring {cpl}")
            }
            (None, Some(pa)) if !self.backed => {
                write!(f, "KVM cannot fetch the instruction at {rip:#x} in ring {cpl}: no memory at physical {pa}")
            }
            _ => write!(f, "KVM cannot emulate the instruction at {rip:#x} in ring {cpl}"),
        }
    }
}

impl Machine {
    /// To be called when KVM_RUN has just ended so.
    pub(super) fn internal_error(&mut self) -> InternalError {
        let told = self.told();
        let (rip, sregs) = (self.regs().rip, self.sregs());
        let linear = linear(rip, &sregs);
        let pa = self.translate(Va(linear)).ok().flatten();
        let mut bytes = told.bytes;
        if bytes.is_empty() {
            bytes = self.fetch(linear);
        }
        let instruction = decode(&mut bytes, rip, bitness(&sregs));
        InternalError {
            suberror: told.suberror,
            rip,
            cpl: self.cpl(),
            pa,
            backed: pa.is_some_and(|pa| self.is_backed(pa)),
            bytes,
            instruction,
            data: told.data,
        }
    }

    fn told(&mut self) -> Told {
        let run = self.vcpu.get_kvm_run();
        // SAFETY: the run ended with KVM_EXIT_INTERNAL_ERROR, so this is the member KVM filled in; it is
        // numbers only, for which any bytes are valid.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let known = internal.data.len().min(internal.ndata as usize);
        let data = internal.data[..known].to_vec();
        Told { suberror: internal.suberror, bytes: told_bytes(internal.suberror, &data), data }
    }

    /// What lies at a linear address, up to a page without memory.
    fn fetch(&mut self, linear: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LONGEST_INSTRUCTION);
        while bytes.len() < LONGEST_INSTRUCTION {
            let at = linear.wrapping_add(bytes.len() as u64);
            let Ok(Some(pa)) = self.translate(Va(at)) else {
                break;
            };
            let in_page = (PAGE_BYTES - at % PAGE_BYTES) as usize;
            let mut part = vec![0; in_page.min(LONGEST_INSTRUCTION - bytes.len())];
            if self.read(pa, &mut part).is_err() {
                break;
            }
            bytes.append(&mut part);
        }
        bytes
    }
}

/// What KVM said in so many words.
struct Told {
    suberror: u32,
    bytes: Vec<u8>,
    data: Vec<u64>,
}

/// Data 0 is flags, and if they say so, data 1 and 2 are the number of bytes and the bytes
/// (`struct kvm_run`, `emulation_failure`, in `linux/kvm.h`).
fn told_bytes(suberror: u32, data: &[u64]) -> Vec<u8> {
    let has_bytes = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    match *data {
        [flags, low, high, ..] if suberror == KVM_INTERNAL_ERROR_EMULATION && flags & has_bytes != 0 => {
            let [size, first @ ..] = low.to_le_bytes();
            let mut bytes = first.to_vec();
            bytes.extend(high.to_le_bytes());
            bytes.truncate(usize::from(size));
            bytes
        }
        _ => Vec::new(),
    }
}

/// Decodes the first instruction and cuts `bytes` down to it.
fn decode(bytes: &mut Vec<u8>, rip: u64, bitness: u32) -> Option<String> {
    let mut decoder = Decoder::with_ip(bitness, bytes, rip, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut text = String::new();
    GasFormatter::new().format(&instruction, &mut text);
    bytes.truncate(instruction.len());
    Some(text)
}

/// 64-bit mode has no base of CS (SDM vol. 3A, 3.2.4).
fn linear(rip: u64, sregs: &kvm_sregs) -> u64 {
    match bitness(sregs) {
        64 => rip,
        _ => rip.wrapping_add(sregs.cs.base) & 0xffff_ffff,
    }
}

/// SDM vol. 3A, 5.2.1 (CS.L) and 3.4.5 (CS.D).
fn bitness(sregs: &kvm_sregs) -> u32 {
    match (sregs.efer & EFER_LMA != 0, sregs.cs.l, sregs.cs.db) {
        (true, 1, _) => 64,
        (_, _, 1) => 32,
        _ => 16,
    }
}

fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "emulation",
        KVM_INTERNAL_ERROR_SIMUL_EX => "an exception during an exception it delivered",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit during the delivery of an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an unexpected exit of the hardware",
        _ => "an unknown suberror",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_kvm_tells_are_found_in_its_data() {
        let data = [1, 0x0ab8_0f48_f304 | 0xcc << 48, 0x1122, 0];
        assert_eq!(told_bytes(1, &data), [0xf3, 0x48, 0x0f, 0xb8]);
        assert!(told_bytes(1, &[0, data[1], data[2]]).is_empty());
        assert!(told_bytes(2, &data).is_empty());
        assert!(told_bytes(1, &data[..2]).is_empty());
        let longest = told_bytes(1, &[1, u64::MAX, u64::MAX]);
        assert_eq!(longest.len(), LONGEST_INSTRUCTION);
    }

    #[test]
    fn an_instruction_is_named_and_its_bytes_are_cut() {
        let mut bytes = vec![0xf3, 0x48, 0x0f, 0xb8, 0xc0, 0x90, 0x90];
        let text = decode(&mut bytes, 0x1000, 64).unwrap();
        assert_eq!(text.split_whitespace().next(), Some("popcnt"));
        assert_eq!(bytes.len(), 5);
    }

    #[test]
    fn what_is_no_instruction_has_no_name() {
        assert_eq!(decode(&mut vec![], 0, 64), None);
        assert_eq!(decode(&mut vec![0x0f], 0, 64), None);
    }

    #[test]
    fn the_message_names_instruction_bytes_and_place() {
        let mut error = InternalError {
            suberror: 1,
            rip: 0x1000,
            cpl: 0,
            pa: Some(Pa(0x5000)),
            backed: true,
            bytes: vec![0x0f, 0x01, 0xcb],
            instruction: Some("stac".into()),
            data: vec![],
        };
        assert_eq!(error.to_string(), "KVM cannot emulate `stac` (0f 01 cb) at 0x1000 in ring 0");
        (error.instruction, error.backed) = (None, false);
        assert_eq!(
            error.to_string(),
            "KVM cannot fetch the instruction at 0x1000 in ring 0: no memory at physical 0x5000"
        );
    }
}
