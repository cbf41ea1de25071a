//! Real maps in every format, by their counts and by what is known of them.

use efibed::MemoryMap;
use efibed::memory_map::{
    Format, ListKind, MemoryAttribute, MemoryDescriptor, MemoryType, OddityKind, ReadOptions, WriteFormat,
    WriteOptions, oddities, write,
};
use efibed_tests::*;

/// A map, its format and kind, and how many descriptors it has, and with RUNTIME.
type Counted = ((&'static str, &'static str), Format, ListKind, usize, usize);

/// Counted in the files with grep, not with this reader.
const MAPS: [Counted; 33] = [
    (APPLE_02_ARM64, Format::LinuxArm64, ListKind::Firmware, 25, 3),
    (ASUS_01, Format::LinuxX86, ListKind::Firmware, 88, 29),
    (ASUS_04, Format::LinuxX86, ListKind::Firmware, 49, 8),
    (ASUS_04_KERNEL, Format::LinuxX86, ListKind::Runtime, 30, 9),
    (HP_01, Format::LinuxX86, ListKind::Firmware, 70, 22),
    (LENOVO_01, Format::LinuxX86, ListKind::Firmware, 51, 4),
    (LENOVO_07, Format::LinuxX86, ListKind::Firmware, 163, 3),
    (LENOVO_07_KERNEL, Format::LinuxX86, ListKind::Runtime, 84, 14),
    (NUTANIX_01, Format::LinuxX86, ListKind::Firmware, 116, 3),
    (OVMF_01, Format::LinuxX86, ListKind::Firmware, 127, 2),
    (OVMF_03, Format::LinuxX86, ListKind::Firmware, 46, 11),
    // The lines do not tell attributes; MMIO is in a map because runtime services need it.
    (SUPERMICRO_01_PARTIAL, Format::LinuxE820, ListKind::Firmware, 21, 21),
    (ASROCK_02, Format::UefiShell, ListKind::Firmware, 65, 8),
    (HACKPC_01, Format::UefiShell, ListKind::Firmware, 31, 8),
    (HACKPC_03, Format::UefiShell, ListKind::Firmware, 46, 9),
    (XEN_AVOTON_01, Format::Xen, ListKind::Firmware, 35, 9),
    (FREEBSD_LX2160A_01, Format::FreeBsd, ListKind::Firmware, 19, 5),
    (UBOOT_01, Format::UBoot, ListKind::Firmware, 15, 4),
    (OVMF_02_MIKAN, Format::LoaderCsv, ListKind::Firmware, 49, 11),
    (PC_1G_2MFW, Format::LinuxX86, ListKind::Firmware, 119, 5),
    (PC_3G, Format::LinuxX86, ListKind::Firmware, 126, 5),
    (Q35_256M, Format::LinuxX86, ListKind::Firmware, 123, 5),
    (Q35_2G, Format::LinuxX86, ListKind::Firmware, 123, 5),
    (Q35_512M, Format::LinuxX86, ListKind::Firmware, 122, 5),
    (Q35_8G, Format::LinuxX86, ListKind::Firmware, 125, 5),
    (Q35_SMM_2G, Format::LinuxX86, ListKind::Firmware, 128, 2),
    (PC_1G_2MFW_MAPPED, Format::RuntimeMap, ListKind::Runtime, 99, 6),
    (PC_3G_MAPPED, Format::RuntimeMap, ListKind::Runtime, 107, 6),
    (Q35_256M_MAPPED, Format::RuntimeMap, ListKind::Runtime, 103, 6),
    (Q35_2G_MAPPED, Format::RuntimeMap, ListKind::Runtime, 103, 6),
    (Q35_512M_MAPPED, Format::RuntimeMap, ListKind::Runtime, 103, 6),
    (Q35_8G_MAPPED, Format::RuntimeMap, ListKind::Runtime, 105, 6),
    (Q35_SMM_2G_MAPPED, Format::RuntimeMap, ListKind::Runtime, 103, 3),
];

#[test]
fn every_map_reads_in_full() {
    for (file, format, kind, descriptors, runtime) in MAPS {
        let map = map(file);
        let with_runtime = map.regions().filter(|region| region.is_runtime()).count();
        let read = (map.format(), map.kind(), map.descriptors().len(), with_runtime);
        assert_eq!(read, (Some(format), kind, descriptors, runtime), "{}", file.0);
        let lost = [OddityKind::MissingRows, OddityKind::ExtraList, OddityKind::SizeMismatch, OddityKind::SkippedLine];
        let is_whole = !oddities(&map).iter().any(|oddity| lost.contains(&oddity.kind));
        assert!(is_whole, "{}: {:?}", file.0, oddities(&map));
    }
}

#[test]
fn regions_that_are_known_are_there() {
    let region = |file, index: usize| {
        let map = map(file);
        let region = map.regions().nth(index).unwrap();
        (region.ty, region.attribute.bits(), region.phys, region.pages)
    };
    assert_eq!(region(ASUS_01, 81), (MemoryType::RESERVED, 1 << 63, 0xcbc0_0000, 0x4200));
    assert_eq!(region(HP_01, 49).3, 0xb3ff_ffff);
    assert_eq!(region(OVMF_01, 111).3, 0x242);
    assert_eq!(region(ASROCK_02, 64), (MemoryType::MMIO, 0x8000_0000_0000_100d, 0x100_0000_0000, 514 << 8));
    assert_eq!(region(FREEBSD_LX2160A_01, 0), (MemoryType::MMIO, 1 << 63, 0x1e8_8180, 1));
    assert_eq!(region(UBOOT_01, 14), (MemoryType::BOOT_SERVICES_CODE, 8, 0x3ff1_0000, 0xf0));
    assert_eq!(region(XEN_AVOTON_01, 34), (MemoryType::MMIO, (1 << 63) | 1, 0xff80_0000, 0x800));
    assert_eq!(region(OVMF_02_MIKAN, 48), (MemoryType::RUNTIME_SERVICES_DATA, (1 << 63) | 1, 0xffc0_0000, 0x400));
    assert!(map(HACKPC_03).regions().any(|region| region.is_runtime() && region.pages == 1532 << 8));
    assert_eq!(region(SUPERMICRO_01_PARTIAL, 20), (MemoryType::MMIO, (1 << 63) | 1, 0x3ffc_0000_0000, 0x4000));
    let empty = map(LENOVO_01).regions().filter(|region| region.pages == 0).count();
    assert_eq!(empty, 7);
}

#[test]
fn a_part_of_a_map_says_so() {
    let partial = map(SUPERMICRO_01_PARTIAL);
    assert!(partial.partial().is_some_and(|why| why.contains("MMIO regions only")));
    let note = &oddities(&partial)[0];
    assert_eq!(note.kind, OddityKind::Partial);
    assert!(note.message.ends_with("those here are not that machine's own"), "{}", note.message);
    assert_eq!(map(LENOVO_07).partial(), None);
}

/// The totals are a checksum: one region less, and the total of its type tells.
#[test]
fn a_region_that_is_lost_shows_in_the_shells_totals() {
    let (name, text) = HACKPC_01;
    let lines: Vec<&str> = text.lines().collect();
    let rows = lines.iter().filter(|line| line.contains('-') && !line.starts_with(' '));
    assert_eq!(rows.clone().count(), 31);
    for row in rows {
        let rest: Vec<&str> = lines.iter().filter(|line| *line != row).copied().collect();
        let map = MemoryMap::parse_named(name, &rest.join("\n")).unwrap();
        let told = oddities(&map).iter().filter(|oddity| oddity.kind == OddityKind::SizeMismatch).count();
        assert_eq!((map.descriptors().len(), told), (30, 1), "{row}");
    }
}

/// What EDK II printed is what is written.
#[test]
fn the_shells_map_is_written_as_it_was_printed() {
    let written = write(&map(ASROCK_02), WriteFormat::Shell, &WriteOptions::default()).unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), ASROCK_02.1);
}

/// Real maps survive the way through every format that holds them; what is refused has a reason.
#[test]
fn every_map_is_written_and_read_back() {
    for (file, ..) in MAPS {
        let map = map(file);
        for format in WriteFormat::ALL.iter().copied() {
            let options = WriteOptions { drop_virtual: true, ..WriteOptions::default() };
            let written = write(&map, format, &options);
            assert_eq!(written.is_err(), is_refused(file, map.kind(), format), "{} as {}", file.0, format.name());
            let Ok(bytes) = written else { continue };
            let options = ReadOptions { stride: Some(48), ..ReadOptions::default() };
            let again = MemoryMap::parse_bytes("again", bytes, &options).unwrap().remove(0);
            let keeps_virt = matches!(format, WriteFormat::Toml | WriteFormat::Json | WriteFormat::Binary);
            let expected = map.descriptors().iter().map(|descriptor| {
                let virt_start = if keeps_virt { descriptor.virt_start } else { 0 };
                MemoryDescriptor { virt_start, ..*descriptor }
            });
            assert!(again.descriptors().iter().copied().eq(expected), "{} as {}", file.0, format.name());
            assert_eq!(again.kind(), map.kind(), "{} as {}", file.0, format.name());
        }
    }
}

/// Three formats cannot say that a list is Linux's own, and GRUB has no words for attributes of no specification.
fn is_refused(file: (&str, &str), kind: ListKind, format: WriteFormat) -> bool {
    let is_bare = matches!(format, WriteFormat::Shell | WriteFormat::Grub | WriteFormat::Binary);
    let has_unknown_attribute = file == ASUS_04;
    kind == ListKind::Runtime && is_bare || has_unknown_attribute && format == WriteFormat::Grub
}

/// A whole log as Linux 6.0 prints it: the excerpt before the map, its own list and the attributes after it.
fn log() -> String {
    let memattr = "\
[    0.070000] efi: memattr: Processing EFI Memory Attributes table:
[    0.070001] efi: memattr:  0x00008db6f000-0x00008db74fff [Runtime Code|RUN|  |  |  |  |  |  |  |RO|   |  |  |  |  ]
[    0.070002] efi: memattr: Entry attributes invalid: RO and XP bits both cleared
[    0.070003] efi: memattr: ! 0x00008db75000-0x00008dc3efff [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |  |  |  |  ]
";
    [
        "[    0.000000] Linux version 6.0.0\n[    0.000000] efi: EFI v2.70 by Lenovo\n",
        "[    0.000000] efi: Remove mem161: MMIO range=[0xc0000000-0xcfffffff] (256MB) from e820 map\n",
        LENOVO_07.1,
        "[    0.000000] SMBIOS 3.4.0 present.\n[    0.059308] efi: EFI runtime memory map:\n",
        LENOVO_07_KERNEL.1,
        memattr,
    ]
    .concat()
}

fn all(text: &str) -> Vec<MemoryMap> {
    MemoryMap::parse_all("boot.log", text, &ReadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn lists(text: &str) -> Vec<(ListKind, usize, usize)> {
    let list = |map: &MemoryMap| (map.kind(), map.descriptors().len(), map.attributes_table().len());
    all(text).iter().map(list).collect()
}

#[test]
fn the_lists_of_a_log_are_kept_apart() {
    let boot = [(ListKind::Firmware, 163, 2), (ListKind::Runtime, 84, 2)];
    assert_eq!(lists(&log()), boot);
    assert_eq!(lists(&(log() + &log())), [boot, boot].concat());
    let first = MemoryMap::parse(&log()).unwrap();
    assert_eq!((first.kind(), first.descriptors().len()), (ListKind::Firmware, 163));
    assert_eq!(first.attributes_table()[0].att, MemoryAttribute::RUNTIME | MemoryAttribute::READ_ONLY);
    assert_eq!((first.attributes_table()[1].phys_start, first.attributes_table()[1].page_count), (0x8db7_5000, 0xca));
    assert!(oddities(&first).iter().any(|oddity| oddity.kind == OddityKind::ExtraList));
}

#[test]
fn a_log_without_its_other_lines_is_told_apart_too() {
    let is_row = |line: &&str| line.contains("efi: mem") && !line.contains("memattr");
    let rows = log().lines().filter(is_row).collect::<Vec<_>>().join("\n");
    assert_eq!(lists(&rows), [(ListKind::Firmware, 163, 0), (ListKind::Runtime, 84, 0)]);
    // The same list twice is no list of Linux's own.
    let twice = [LENOVO_07.1, LENOVO_07.1].concat();
    assert_eq!(lists(&twice), [(ListKind::Firmware, 163, 0), (ListKind::Firmware, 163, 0)]);
    let arm = [APPLE_02_ARM64.1, APPLE_02_ARM64.1].concat();
    assert_eq!(lists(&arm), [(ListKind::Firmware, 25, 0), (ListKind::Firmware, 25, 0)]);
}

/// What Linux makes of firmware's list before it maps it, by its rules: entries without pages dropped, neighbours of
/// one type and attribute merged, what is not mapped left out, the order reversed.
fn mapped_by_linux(map: &MemoryMap) -> Vec<MemoryDescriptor> {
    let mut merged: Vec<MemoryDescriptor> = Vec::new();
    for descriptor in map.descriptors().iter().filter(|descriptor| descriptor.page_count > 0) {
        match merged.last_mut() {
            Some(last)
                if (last.ty, last.att) == (descriptor.ty, descriptor.att)
                    && last.phys_start + last.page_count * 4096 == descriptor.phys_start =>
            {
                last.page_count += descriptor.page_count;
            }
            _ => merged.push(*descriptor),
        }
    }
    merged.retain(|descriptor| descriptor.att.contains(MemoryAttribute::RUNTIME) || is_boot_services(descriptor));
    merged.reverse();
    merged
}

fn is_boot_services(descriptor: &MemoryDescriptor) -> bool {
    matches!(descriptor.ty, MemoryType::BOOT_SERVICES_CODE | MemoryType::BOOT_SERVICES_DATA)
}

/// Without what Linux adds by itself: RUNTIME on boot services that it found reserved, and virtual addresses.
fn untagged(descriptors: &[MemoryDescriptor]) -> Vec<MemoryDescriptor> {
    let untag = |descriptor: &MemoryDescriptor| {
        let tag = if is_boot_services(descriptor) { MemoryAttribute::RUNTIME } else { MemoryAttribute::empty() };
        MemoryDescriptor { att: descriptor.att - tag, virt_start: 0, ..*descriptor }
    };
    descriptors.iter().map(untag).collect()
}

#[test]
fn linuxs_own_lists_follow_from_firmwares() {
    for (firmware, linux, tagged) in [
        (LENOVO_07, LENOVO_07_KERNEL, 11),
        (PC_1G_2MFW, PC_1G_2MFW_MAPPED, 1),
        (PC_3G, PC_3G_MAPPED, 1),
        (Q35_256M, Q35_256M_MAPPED, 1),
        (Q35_2G, Q35_2G_MAPPED, 1),
        (Q35_512M, Q35_512M_MAPPED, 1),
        (Q35_8G, Q35_8G_MAPPED, 1),
        (Q35_SMM_2G, Q35_SMM_2G_MAPPED, 1),
    ] {
        let (computed, printed) = (mapped_by_linux(&map(firmware)), map(linux));
        assert_eq!(computed, untagged(printed.descriptors()), "{}", linux.0);
        let is_tagged = |descriptor: &&MemoryDescriptor| {
            is_boot_services(descriptor) && descriptor.att.contains(MemoryAttribute::RUNTIME)
        };
        assert_eq!(printed.descriptors().iter().filter(is_tagged).count(), tagged, "{}", linux.0);
    }
}

/// On this machine Linux also split a region, for one page of it that it reserved.
#[test]
fn a_region_that_linux_split_is_the_only_difference() {
    let (computed, printed) = (mapped_by_linux(&map(ASUS_04)), untagged(map(ASUS_04_KERNEL).descriptors()));
    let only_in = |one: &[MemoryDescriptor], other: &[MemoryDescriptor]| -> Vec<(u64, u64)> {
        let lone = one.iter().filter(|descriptor| !other.contains(descriptor));
        lone.map(|descriptor| (descriptor.phys_start, descriptor.page_count)).collect()
    };
    assert_eq!(only_in(&computed, &printed), [(0x6d63_a000, 0x85b8)]);
    let parts = [(0x74dd_7000, 0xe1b), (0x74dd_6000, 1), (0x6d63_a000, 0x779c)];
    assert_eq!(only_in(&printed, &computed), parts);
}
