//! The configuration tables, field by field. Numbers and GUIDs are written here once more, by the specifications: what
//! `firmware/configuration.rs` got wrong must not be right here.

use uefi_raw::{Guid, guid};

use super::{GuestMemory, Table, TableDefect, read_physical, u32_at, u64_at};
use crate::mmu::Pa;

/// Verifies the tables that an operating system looks for (UEFI 2.10, 4.6); those of other GUIDs are ignored.
pub(super) fn verify(memory: &dyn GuestMemory, entries: &[([u8; 16], Pa)]) -> Result<(), TableDefect> {
    let reader = Reader { memory };
    for (guid, table, is_owed) in KNOWN {
        let mut of_it = entries.iter().filter(|entry| entry.0 == guid.to_bytes());
        match (of_it.next(), of_it.next()) {
            (Some((_, phys)), None) => reader.table(table, *phys)?,
            (Some(_), Some(_)) => return Err(TableDefect::Twice { table }),
            (None, _) if is_owed => return Err(TableDefect::Missing { table }),
            (None, _) => {}
        }
    }
    Ok(())
}

/// GUIDs of UEFI 2.10: 4.6.1.1 (ACPI 2.0, SMBIOS 3), 4.6.2 (RT properties), 23.4 (ESRT), 4.6.4 (Memory Attributes). Each
/// but the last is always there.
const KNOWN: [(Guid, Table, bool); 5] = [
    (guid!("8868e871-e4f1-11d3-bc22-0080c73c8881"), Table::Rsdp, true),
    (guid!("f2fd1544-9794-4a2c-992e-e5bbcf20e394"), Table::Smbios, true),
    (guid!("eb66918a-7eef-402a-842e-931d21c38ae9"), Table::RtProperties, true),
    (guid!("b122a263-3661-4f68-9929-78f8b0d62180"), Table::Esrt, true),
    (guid!("dcfa911d-26eb-469f-a220-38b7dc461220"), Table::MemoryAttributes, false),
];

/// Structures, resources, attributes read at most: limits, since counts are only as right as memory is.
const MAX_SMBIOS_BYTES: u64 = 64 << 10;
const MAX_RESOURCES: u64 = 64;
const MAX_ATTRIBUTES_BYTES: u64 = 16 << 20;

struct Reader<'m> {
    memory: &'m dyn GuestMemory,
}

impl Reader<'_> {
    fn table(&self, table: Table, phys: Pa) -> Result<(), TableDefect> {
        match table {
            Table::Rsdp => self.rsdp(phys),
            Table::Smbios => self.smbios(phys),
            Table::RtProperties => self.rt_properties(phys),
            Table::Esrt => self.esrt(phys),
            Table::MemoryAttributes => self.memory_attributes(phys),
            _ => Ok(()), // not one that a GUID names
        }
    }

    /// ACPI 6.5, 5.2.5.3: "RSD PTR ", a checksum of 20 bytes and one of all, revision 2.
    fn rsdp(&self, phys: Pa) -> Result<(), TableDefect> {
        let table = Table::Rsdp;
        let bytes: [u8; 36] = self.bytes(table, phys)?;
        field(table, "Signature", u64_at(&bytes, 0), "\"RSD PTR \"", |it| it.to_le_bytes() == *b"RSD PTR ")?;
        checksum(table, &bytes[..20])?;
        field(table, "Revision", bytes[15].into(), "2", |it| it == 2)?;
        field(table, "Length", u32_at(&bytes, 20).into(), "36", |it| it == 36)?;
        checksum(table, &bytes)?;
        self.xsdt(Pa(u64_at(&bytes, 24)))
    }

    /// ACPI 6.5, 5.2.8, the header (5.2.6) and eight bytes for each entry.
    fn xsdt(&self, phys: Pa) -> Result<(), TableDefect> {
        let table = Table::Xsdt;
        let bytes: [u8; 36] = self.bytes(table, phys)?;
        field(table, "Signature", u32_at(&bytes, 0).into(), "\"XSDT\"", |it| {
            it as u32 == u32::from_le_bytes(*b"XSDT")
        })?;
        // This firmware names no other tables.
        field(table, "Length", u32_at(&bytes, 4).into(), "36", |it| it == 36)?;
        field(table, "Revision", bytes[8].into(), "1", |it| it == 1)?;
        checksum(table, &bytes)
    }

    /// DSP0134 3.6, 5.2.2.
    fn smbios(&self, phys: Pa) -> Result<(), TableDefect> {
        let table = Table::Smbios;
        let bytes: [u8; 24] = self.bytes(table, phys)?;
        let anchor = u64_at(&bytes, 0) & 0xff_ffff_ffff;
        field(table, "Anchor String", anchor, "\"_SM3_\"", |it| it.to_le_bytes()[..5] == *b"_SM3_")?;
        field(table, "Length", bytes[6].into(), "24", |it| it == 24)?;
        checksum(table, &bytes)?;
        field(table, "Major Version", bytes[7].into(), "3", |it| it == 3)?;
        let size = u32_at(&bytes, 12).into();
        field(table, "Structure table maximum size", size, "4 bytes to 64 KiB", |it| {
            (4..=MAX_SMBIOS_BYTES).contains(&it)
        })?;
        self.smbios_structures(Pa(u64_at(&bytes, 16)), size)
    }

    /// DSP0134 3.6, 6.1: each structure's formatted part is followed by strings up to two nulls; type 127 is the last.
    fn smbios_structures(&self, phys: Pa, size: u64) -> Result<(), TableDefect> {
        let table = Table::SmbiosStructures;
        let mut at = 0_u64;
        while at.saturating_add(4) <= size {
            let [ty, length, ..]: [u8; 4] = self.bytes(table, phys.wrapping_add(at))?;
            field(table, "a structure's Length", length.into(), "4 or more", |it| it >= 4)?;
            if ty == 127 {
                return Ok(());
            }
            at = at.saturating_add(length.into());
            while at.saturating_add(2) <= size && self.bytes::<2>(table, phys.wrapping_add(at))? != [0, 0] {
                at = at.saturating_add(1);
            }
            at = at.saturating_add(2);
        }
        Err(TableDefect::Missing { table })
    }

    /// UEFI 2.10, 4.6.2.
    fn rt_properties(&self, phys: Pa) -> Result<(), TableDefect> {
        let table = Table::RtProperties;
        let bytes: [u8; 8] = self.bytes(table, phys)?;
        let [v0, v1, l0, l1, ..] = bytes;
        field(table, "Version", u16::from_le_bytes([v0, v1]).into(), "1", |it| it == 1)?;
        field(table, "Length", u16::from_le_bytes([l0, l1]).into(), "8", |it| it == 8)?;
        let supported = u32_at(&bytes, 4).into();
        // All fourteen services but ConvertPointer, 0x100.
        field(table, "RuntimeServicesSupported", supported, "0x3eff", |it| it == 0x3eff)
    }

    /// UEFI 2.10, 23.4: 16 bytes, and 40 for each resource.
    fn esrt(&self, phys: Pa) -> Result<(), TableDefect> {
        let table = Table::Esrt;
        let bytes: [u8; 16] = self.bytes(table, phys)?;
        field(table, "FwResourceVersion", u64_at(&bytes, 8), "1", |it| it == 1)?;
        let (count, maximum) = (u64::from(u32_at(&bytes, 0)), u32_at(&bytes, 4).into());
        field(table, "FwResourceCount", count, "1 to 64", |it| (1..=MAX_RESOURCES).contains(&it))?;
        field(table, "FwResourceCountMax", maximum, "FwResourceCount or more", |it| it >= count)?;
        for index in 0..count {
            let entry: [u8; 40] = self.bytes(table, element(phys, index, 40))?;
            field(table, "FwType", u32_at(&entry, 16).into(), "0 to 3", |it| it <= 3)?;
            let (version, lowest) = (u32_at(&entry, 20), u32_at(&entry, 24).into());
            field(table, "LowestSupportedFwVersion", lowest, "FwVersion or less", |it| it <= version.into())?;
        }
        Ok(())
    }

    /// UEFI 2.10, 4.6.4: 16 bytes, and DescriptorSize for each entry. What the entries say matters to the mapping code.
    fn memory_attributes(&self, phys: Pa) -> Result<(), TableDefect> {
        let table = Table::MemoryAttributes;
        let bytes: [u8; 16] = self.bytes(table, phys)?;
        field(table, "Version", u32_at(&bytes, 0).into(), "1 or 2", |it| matches!(it, 1 | 2))?;
        let (count, stride) = (u64::from(u32_at(&bytes, 4)), u64::from(u32_at(&bytes, 8)));
        field(table, "DescriptorSize", stride, "40 or more", |it| it >= 40)?;
        let size = count.saturating_mul(stride);
        field(table, "NumberOfEntries", count, "16 MiB of entries at most", |_| size <= MAX_ATTRIBUTES_BYTES)?;
        for index in 0..count {
            let _: [u8; 40] = self.bytes(table, element(phys, index, stride))?;
        }
        Ok(())
    }

    fn bytes<const BYTES: usize>(&self, table: Table, phys: Pa) -> Result<[u8; BYTES], TableDefect> {
        read_physical(self.memory, table, phys)
    }
}

/// Where an element is of an array behind a head of 16 bytes.
fn element(table: Pa, index: u64, stride: u64) -> Pa {
    table.wrapping_add(16).wrapping_add(index.wrapping_mul(stride))
}

fn field(
    table: Table,
    field: &'static str,
    found: u64,
    expected: &'static str,
    is_right: impl Fn(u64) -> bool,
) -> Result<(), TableDefect> {
    if is_right(found) { Ok(()) } else { Err(TableDefect::Field { table, field, expected, found }) }
}

fn checksum(table: Table, bytes: &[u8]) -> Result<(), TableDefect> {
    match bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(()),
        sum => Err(TableDefect::Checksum { table, sum }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Firmware;
    use super::super::super::test_memory::{Bed, TestMemory, by_window, code_and_data, one_to_one};
    use super::super::verify_tables;
    use super::*;
    use crate::mmu::Va;

    const ATTRIBUTES: u64 = 0x9_0000;

    fn laid_out() -> (Firmware, TestMemory) {
        let mut firmware = Firmware::lay_out(&code_and_data(), &[], |_| true).unwrap();
        firmware.name_attributes_table(Pa(ATTRIBUTES));
        let mut memory = TestMemory::with_firmware(&firmware);
        let words = [1u32, 2, 48, 0].into_iter().flat_map(u32::to_le_bytes);
        memory.put(ATTRIBUTES, &words.chain([0; 96]).collect::<Vec<_>>());
        (firmware, memory)
    }

    /// Where each table is, by the configuration tables in memory.
    fn tables(firmware: &Firmware, memory: &TestMemory) -> Vec<(Table, u64)> {
        let array = memory.u64(firmware.system_table().0 + 112);
        let count = memory.u64(firmware.system_table().0 + 104);
        let guid = |index: u64| [0, 8].map(|at| memory.u64(array + 24 * index + at).to_le_bytes()).concat();
        let table = |index| KNOWN.iter().find(|known| known.0.to_bytes()[..] == guid(index)).unwrap().1;
        (0..count).map(|index| (table(index), memory.u64(array + 24 * index + 16))).collect()
    }

    #[test]
    fn all_five_are_there_and_right() {
        let (firmware, memory) = laid_out();
        let known: Vec<_> = tables(&firmware, &memory).into_iter().map(|it| it.0).collect();
        assert_eq!(known, KNOWN.map(|known| known.1));
        assert_eq!(verify_tables(&memory, firmware.system_table(), one_to_one), Ok(()));
    }

    #[test]
    fn they_are_found_after_the_switch_and_stay_physical() {
        let mut bed = Bed::new();
        let before = tables(&bed.firmware, &bed.memory);
        bed.switch();
        let system_table = bed.firmware.system_table();
        assert_eq!(verify_tables(&bed.memory, system_table, by_window), Ok(()));
        let array = by_window(Va(bed.memory.u64(system_table.0 + 112))).unwrap().0;
        for (index, (_, phys)) in (0..).zip(before) {
            assert_eq!(bed.memory.u64(array + 24 * index + 16), phys);
        }
    }

    /// Every bit of what has a checksum, and fields of what has none.
    #[test]
    fn what_is_damaged_is_named() {
        let (firmware, memory) = laid_out();
        for (table, phys) in tables(&firmware, &memory) {
            let bits: Vec<u64> = match table {
                Table::Rsdp => (0..36 * 8).collect(),
                Table::Smbios => (0..24 * 8).collect(),
                Table::RtProperties => (0..8 * 8).collect(),
                Table::Esrt => [0, 32, 64 + 1, (32 + 2) * 8, (40 + 1) * 8].to_vec(),
                _ => [1, 32 + 29, 64 + 4].to_vec(),
            };
            for bit in bits {
                let mut memory = memory.clone();
                memory.flip(phys + bit / 8, 1 << (bit % 8));
                let defect = verify_tables(&memory, firmware.system_table(), one_to_one).unwrap_err();
                assert!(defect.to_string().starts_with(&table.to_string()), "bit {bit}: {defect}");
            }
        }
    }

    #[test]
    fn what_is_missing_or_doubled_is_named() {
        let (firmware, memory) = laid_out();
        let entries: Vec<_> = tables(&firmware, &memory)
            .into_iter()
            .zip(KNOWN)
            .map(|((_, phys), known)| (known.0.to_bytes(), Pa(phys)))
            .collect();
        assert_eq!(verify(&memory, &entries), Ok(()));
        for (index, (_, table, is_owed)) in KNOWN.into_iter().enumerate() {
            let mut without = entries.clone();
            without.remove(index);
            let expected = if is_owed { Err(TableDefect::Missing { table }) } else { Ok(()) };
            assert_eq!(verify(&memory, &without), expected);
            let twice = [&entries[..], &entries[index..=index]].concat();
            assert_eq!(verify(&memory, &twice), Err(TableDefect::Twice { table }));
            without.push((entries[index].0, Pa(0xFFFF_FFFF_FFFF_F000)));
            let defect = verify(&memory, &without).unwrap_err();
            assert_eq!(defect, TableDefect::Unreadable { table, phys: Pa(0xFFFF_FFFF_FFFF_F000) });
        }
        assert_eq!(verify(&memory, &[([7; 16], Pa(0))]), Err(TableDefect::Missing { table: Table::Rsdp }));
    }

    #[test]
    fn no_structures_of_smbios_lead_the_reader_astray() {
        let mut memory = TestMemory::default();
        let reader = |memory: &TestMemory, size| Reader { memory }.smbios_structures(Pa(0x1000), size);
        memory.put(0x1000, &[1, 6, 0, 0, 9, 9, b'a', 0, b'b', 0, 0, 127, 4, 1, 0, 0, 0]);
        assert_eq!(reader(&memory, 17), Ok(()));
        let table = Table::SmbiosStructures;
        assert_eq!(reader(&memory, 11), Err(TableDefect::Missing { table }));
        memory.put(0x1000, &[1, 0]);
        assert!(reader(&memory, 17).is_err());
        memory.put(0x1000, &[1, 4, 0, 0]);
        memory.put(0x1004, &[1; 0xFFC]);
        assert_eq!(reader(&memory, 0x1_0000), Err(TableDefect::Unreadable { table, phys: Pa(0x2000) }));
    }
}
