//! Miscellaneous Runtime Services (UEFI 2.10, 8.5).

use uefi_raw::capsule::CapsuleFlags;
use uefi_raw::table::runtime::ResetType;

use super::super::configuration::CAPSULE_CLASS;
use super::{Caller, Refusal, not_null};
use crate::mmu::Va;

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Counters {
    /// The upper half of the monotonic counter: one more with each start of the machine, and this is its first.
    high_monotonic: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { high_monotonic: 1 }
    }
}

/// GetNextHighMonotonicCount(*HighCount) (8.5.2).
pub(super) fn next_high_monotonic_count(counters: &mut Counters, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [high_count, ..] = caller.args();
    let high_count = not_null("HighCount", high_count)?;
    let next = counters.high_monotonic.wrapping_add(1);
    caller.write("HighCount", high_count, &next.to_le_bytes())?;
    counters.high_monotonic = next;
    Ok(())
}

/// ResetSystem(ResetType, ResetStatus, DataSize, *ResetData OPTIONAL) (8.5.1). It does not return; but from a type that
/// does not exist EDK II's does (MdeModulePkg/Universal/ResetSystemRuntimeDxe), and so does this.
pub(super) fn reset_system(caller: &mut Caller<'_>) -> Result<ResetType, Refusal> {
    let ty = caller.args()[0] as u32;
    match ResetType(ty) {
        known @ (ResetType::COLD | ResetType::WARM | ResetType::SHUTDOWN | ResetType::PLATFORM_SPECIFIC) => Ok(known),
        _ => Err(Refusal::ResetType { ty }),
    }
}

/// UpdateCapsule(**CapsuleHeaderArray, CapsuleCount, ScatterGatherList OPTIONAL) (8.5.3).
///
/// A capsule is accepted, and nothing is made of it.
pub(super) fn update_capsule(caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [array, count, scatter_gather, _] = caller.args();
    for (index, capsule) in (0..).zip(Capsule::read_all(caller, array, count)?) {
        capsule.check(index)?;
        if capsule.flags.contains(CapsuleFlags::PERSIST_ACROSS_RESET) && scatter_gather == 0 {
            let why = "PERSIST_ACROSS_RESET needs a ScatterGatherList";
            return Err(Refusal::CapsuleHeader { index, why });
        }
        if u64::from(capsule.image_bytes) > MAX_CAPSULE_BYTES {
            let bytes = capsule.image_bytes.into();
            return Err(Refusal::CapsuleTooLarge { index, bytes, limit: MAX_CAPSULE_BYTES });
        }
    }
    Ok(())
}

/// QueryCapsuleCapabilities(**CapsuleHeaderArray, CapsuleCount, *MaximumCapsuleSize, *ResetType) (8.5.4).
pub(super) fn query_capsule_capabilities(caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [array, count, maximum, reset_type] = caller.args();
    let maximum = not_null("MaximumCapsuleSize", maximum)?;
    let reset_type = not_null("ResetType", reset_type)?;
    for (index, capsule) in (0..).zip(Capsule::read_all(caller, array, count)?) {
        capsule.check(index)?;
    }
    caller.write("MaximumCapsuleSize", maximum, &MAX_CAPSULE_BYTES.to_le_bytes())?;
    caller.write("ResetType", reset_type, &ResetType::WARM.0.to_le_bytes())
}

/// MaximumCapsuleSize: as much as a flash chip holds.
const MAX_CAPSULE_BYTES: u64 = 32 << 20;

/// Capsules that one call takes: more than a machine has parts to update.
const MAX_CAPSULES: u64 = 64;

/// EFI_CAPSULE_HEADER (8.5.3).
struct Capsule {
    class: [u8; 16],
    header_bytes: u32,
    flags: CapsuleFlags,
    image_bytes: u32,
}

impl Capsule {
    const HEADER_BYTES: u32 = 28;

    fn read_all(caller: &mut Caller<'_>, array: u64, count: u64) -> Result<Vec<Self>, Refusal> {
        if !(1..=MAX_CAPSULES).contains(&count) {
            return Err(Refusal::CapsuleCount { count, limit: MAX_CAPSULES });
        }
        let array = not_null("CapsuleHeaderArray", array)?;
        (0..count).map(|index| Self::read(caller, array.wrapping_add(index.wrapping_mul(8)))).collect()
    }

    fn read(caller: &mut Caller<'_>, pointer: Va) -> Result<Self, Refusal> {
        const NAME: &str = "an entry of CapsuleHeaderArray";
        let at = not_null(NAME, caller.u64("CapsuleHeaderArray", pointer)?)?;
        let class = caller.array(NAME, at)?;
        let mut field = |offset| caller.array(NAME, at.wrapping_add(offset)).map(u32::from_le_bytes);
        let (header_bytes, flags, image_bytes) = (field(16)?, field(20)?, field(24)?);
        Ok(Self { class, header_bytes, flags: CapsuleFlags::from_bits_retain(flags), image_bytes })
    }

    /// Flags that go together, sizes that can be, a class that is known.
    fn check(&self, index: u64) -> Result<(), Refusal> {
        let needs_reset = CapsuleFlags::POPULATE_SYSTEM_TABLE | CapsuleFlags::INITIATE_RESET;
        if self.flags.intersects(needs_reset) && !self.flags.contains(CapsuleFlags::PERSIST_ACROSS_RESET) {
            let why = "POPULATE_SYSTEM_TABLE and INITIATE_RESET need PERSIST_ACROSS_RESET";
            return Err(Refusal::CapsuleHeader { index, why });
        }
        if self.header_bytes < Self::HEADER_BYTES || self.image_bytes < self.header_bytes {
            let why = "HeaderSize is less than 28, or more than CapsuleImageSize";
            return Err(Refusal::CapsuleHeader { index, why });
        }
        if self.class != CAPSULE_CLASS.to_bytes() {
            return Err(Refusal::UnknownCapsule { index });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use efibed_stub::Service;
    use uefi_raw::{Guid, Status, guid};

    use super::super::super::test_memory::Bed;
    use super::*;

    const ARRAY: u64 = 0x5FFC;
    const HEADER: u64 = 0x6FF3;
    const OUT: u64 = 0x8000;

    fn header(class: Guid, header_bytes: u32, flags: u32, image_bytes: u32) -> Vec<u8> {
        let fields = [header_bytes, flags, image_bytes];
        class.to_bytes().into_iter().chain(fields.into_iter().flat_map(u32::to_le_bytes)).collect()
    }

    fn bed(capsule: &[u8]) -> Bed {
        let mut bed = Bed::new();
        bed.memory.put(ARRAY, &HEADER.to_le_bytes());
        bed.memory.put(HEADER, capsule);
        bed.memory.put(OUT, &[0; 16]);
        bed
    }

    #[test]
    fn the_count_rises_by_one_each_time() {
        let mut bed = Bed::new();
        bed.memory.put(0x5FFE, &[0; 4]);
        for expected in [2u32, 3, 4] {
            assert_eq!(bed.call(Service::GetNextHighMonotonicCount, &[0x5FFE]), Status::SUCCESS);
            assert_eq!(bed.array(0x5FFE), expected.to_le_bytes());
        }
        assert_eq!(bed.call(Service::GetNextHighMonotonicCount, &[0]), Status::INVALID_PARAMETER);
        assert_eq!(bed.call(Service::GetNextHighMonotonicCount, &[0x9000_0000]), Status::ABORTED);
        assert_eq!(bed.call(Service::GetNextHighMonotonicCount, &[0x5FFE]), Status::SUCCESS);
        assert_eq!(bed.array(0x5FFE), 5u32.to_le_bytes());
    }

    #[test]
    fn a_reset_ends_the_run_and_an_unknown_one_does_not() {
        for (ty, expected) in [
            (0, ResetType::COLD),
            (1, ResetType::WARM),
            (2, ResetType::SHUTDOWN),
            (0xDEAD_0000_0003, ResetType::PLATFORM_SPECIFIC),
        ] {
            let mut bed = Bed::new();
            assert_eq!(bed.reset(&[ty, 0, 0, 0]), Some(expected));
        }
        let mut bed = Bed::new();
        assert_eq!(bed.reset(&[4, 0, 0, 0]), None);
        assert_eq!(bed.refusal(), Some(Refusal::ResetType { ty: 4 }));
    }

    #[test]
    fn a_capsule_of_the_right_class_is_taken() {
        for (flags, list) in [(0, 0), (1 << 16, 0x1000), (7 << 16, 0x1000), (0xFFFF, 0)] {
            let mut bed = bed(&header(CAPSULE_CLASS, 28, flags, 28));
            assert_eq!(bed.call(Service::UpdateCapsule, &[ARRAY, 1, list]), Status::SUCCESS, "{flags:#x}");
        }
        let mut bed = bed(&header(CAPSULE_CLASS, 28, 0, 28));
        let args = [ARRAY, 1, OUT, OUT + 8];
        assert_eq!(bed.call(Service::QueryCapsuleCapabilities, &args), Status::SUCCESS);
        assert_eq!(bed.array(OUT), (32u64 << 20).to_le_bytes());
        assert_eq!(bed.array(OUT + 8), 1u32.to_le_bytes());
    }

    #[test]
    fn capsules_that_cannot_be_taken_are_refused_with_the_specifications_status() {
        let other = guid!("11111111-2222-3333-4444-555555555555");
        for (capsule, list, expected) in [
            (header(CAPSULE_CLASS, 28, 1 << 17, 28), 0, Status::INVALID_PARAMETER),
            (header(CAPSULE_CLASS, 28, 1 << 18, 28), 0x1000, Status::INVALID_PARAMETER),
            (header(CAPSULE_CLASS, 28, 1 << 16, 28), 0, Status::INVALID_PARAMETER),
            (header(CAPSULE_CLASS, 27, 0, 28), 0, Status::INVALID_PARAMETER),
            (header(CAPSULE_CLASS, 28, 0, 27), 0, Status::INVALID_PARAMETER),
            (header(other, 28, 0, 28), 0, Status::UNSUPPORTED),
            (header(CAPSULE_CLASS, 28, 0, (32 << 20) + 1), 0, Status::OUT_OF_RESOURCES),
        ] {
            let mut bed = bed(&capsule);
            assert_eq!(bed.call(Service::UpdateCapsule, &[ARRAY, 1, list]), expected);
        }
    }

    #[test]
    fn null_pointers_and_counts_are_checked() {
        let mut bed = bed(&header(CAPSULE_CLASS, 28, 0, 28));
        for args in [[0, 1, OUT, OUT], [ARRAY, 0, OUT, OUT], [ARRAY, 65, OUT, OUT], [ARRAY, u64::MAX, OUT, OUT]] {
            assert_eq!(bed.call(Service::UpdateCapsule, &args[..3]), Status::INVALID_PARAMETER);
            assert_eq!(bed.call(Service::QueryCapsuleCapabilities, &args), Status::INVALID_PARAMETER);
        }
        for args in [[ARRAY, 1, 0, OUT], [ARRAY, 1, OUT, 0]] {
            assert_eq!(bed.call(Service::QueryCapsuleCapabilities, &args), Status::INVALID_PARAMETER);
        }
        bed.memory.put(ARRAY, &0u64.to_le_bytes());
        assert_eq!(bed.call(Service::UpdateCapsule, &[ARRAY, 1, 0]), Status::INVALID_PARAMETER);
        assert_eq!(bed.call(Service::UpdateCapsule, &[0x9000_0000, 1, 0]), Status::ABORTED);
    }
}
