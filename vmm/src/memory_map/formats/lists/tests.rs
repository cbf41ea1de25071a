use super::super::super::{ListKind, MemoryAttribute, ReadOptions, oddities};
use super::*;

fn row(number: usize, ty: &str, flags: &str, page: usize) -> String {
    format!("efi: mem{number:02}: [{ty}|{flags}] range=[{:#x}-{:#x}] (0MB)\n", page << 12, (page << 12) + 0xfff)
}

/// A map as firmware hands it out, with regions that nobody maps.
fn firmware() -> String {
    row(0, "Conventional", "   |WB", 0) + &row(1, "ACPI Mem NVS", "   |WB", 1) + &row(2, "Runtime Data", "RUN|WB", 2)
}

/// Two pages that runtime services need, in the order of the map or reversed.
fn mapped(pages: [usize; 2]) -> String {
    row(0, "Runtime Data", "RUN|WB", pages[0]) + &row(1, "Boot Data", "   |WB", pages[1])
}

const MEMATTR: &str = "efi: memattr:  0x000000002000-0x000000002fff [Runtime Data|RUN|XP|  ]\n";
const EXCERPT: &str = "efi: Not removing mem07: MMIO range=[0xfedc2000-0xfedc8fff] (28KB) from e820 map\n";
const ARM: [&str; 2] = [
    "efi:   0x000000000000-0x000000000fff [Reserved|   |WB]\n",
    "efi:   0x000000001000-0x000000001fff [Reserved|   |WB]\n",
];

fn read(text: &str) -> Vec<MemoryMap> {
    MemoryMap::parse_all("log", text, &ReadOptions::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Of each list: whether it is Linux's own, its descriptors and those of its Memory Attributes Table.
fn lists(text: &str) -> Vec<(bool, usize, usize)> {
    let list =
        |map: &MemoryMap| (map.kind() == ListKind::Runtime, map.descriptors().len(), map.attributes_table().len());
    read(text).iter().map(list).collect()
}

#[test]
fn linuxs_own_list_is_known_by_its_announcement() {
    let ascending = mapped([4, 5]);
    assert_eq!(lists(&ascending), [(false, 2, 0)]);
    assert_eq!(lists(&format!("[    0.05] efi: EFI runtime memory map:\n{ascending}")), [(true, 2, 0)]);
    assert_eq!(lists(&format!("the text efi: EFI runtime memory map:\n{ascending}")), [(false, 2, 0)]);
}

#[test]
fn linuxs_own_list_is_known_by_its_order() {
    assert_eq!(lists(&mapped([5, 4])), [(true, 2, 0)]);
    let with_free_memory = mapped([5, 4]) + &row(2, "Conventional", "   |WB", 3);
    assert_eq!(lists(&with_free_memory), [(false, 3, 0)]);
    assert_eq!(lists(&row(0, "Runtime Data", "RUN|WB", 1)), [(false, 1, 0)]);
}

#[test]
fn linuxs_own_list_is_known_by_its_place() {
    assert_eq!(lists(&(firmware() + &mapped([2, 3]))), [(false, 3, 0), (true, 2, 0)]);
    assert_eq!(lists(&(firmware() + &firmware())), [(false, 3, 0), (false, 3, 0)]);
    let hunk =
        "@@ -3 +3 @@\n-".to_owned() + &row(2, "Runtime Data", "RUN|WB", 2) + "+" + &row(2, "Runtime Data", "RUN|WB", 3);
    assert_eq!(lists(&(firmware() + &hunk)), [(false, 3, 0), (false, 1, 0)]);
    assert_eq!(lists(&(hunk + &firmware() + &mapped([2, 3]))), [(false, 1, 0), (false, 3, 0), (true, 2, 0)]);
    let other = firmware().replace("0x2fff", "0x3fff");
    assert_eq!(lists(&(firmware() + &other)), [(false, 3, 0), (false, 3, 0)]);
    let another_boot = firmware() + "[    0.000000] Linux version 6.1\n" + &mapped([2, 3]);
    assert_eq!(lists(&another_boot), [(false, 3, 0), (false, 2, 0)]);
}

#[test]
fn the_attributes_table_goes_with_the_lists_of_its_boot() {
    let boot = firmware() + &mapped([3, 2]) + MEMATTR;
    assert_eq!(lists(&boot), [(false, 3, 1), (true, 2, 1)]);
    let maps = read(&boot);
    assert_eq!(maps[0].attributes_table().as_ptr(), maps[1].attributes_table().as_ptr());
    assert_eq!(lists(&(MEMATTR.to_owned() + &firmware())), [(false, 3, 1)]);
    let version = "Linux version 6.1\n";
    let two = [version, &firmware(), version, &firmware(), MEMATTR, MEMATTR].concat();
    assert_eq!(lists(&two), [(false, 3, 0), (false, 3, 2)]);
    let header = "efi: memattr: Processing EFI Memory Attributes table:\n";
    let twice = [&firmware(), header, MEMATTR, header, MEMATTR].concat();
    assert_eq!(lists(&twice), [(false, 3, 1)]);
}

#[test]
fn an_excerpt_is_nothing_beside_the_map() {
    assert_eq!(lists(&(EXCERPT.to_owned() + &firmware())), [(false, 3, 0)]);
    assert_eq!(lists(EXCERPT), [(false, 1, 0)]);
    assert_eq!(lists(&EXCERPT.repeat(2)), [(false, 1, 0), (false, 1, 0)]);
    let other_boot = [EXCERPT, "Linux version 6.1\n", &firmware()].concat();
    assert_eq!(lists(&other_boot), [(false, 1, 0), (false, 3, 0)]);
}

#[test]
fn what_linux_dropped_is_put_back_in_its_own_boot() {
    let dropped = "efi: mem01: [Reserved|   ] range=[0x5000-0x0] (invalid)\n";
    let starts = |text: &str| -> Vec<Vec<u64>> {
        let of = |map: &MemoryMap| map.regions().map(|region| region.phys).collect();
        read(text).iter().map(of).collect()
    };
    let boot = dropped.to_owned() + &firmware() + &mapped([3, 2]);
    let (whole, own) = (vec![0, 0x5000, 0x1000, 0x2000], vec![0x3000, 0x2000]);
    assert_eq!(starts(&boot), [whole.clone(), own.clone()]);
    assert_eq!(starts(&(boot.clone() + &boot)), [whole.clone(), own.clone(), whole, own]);
    // A kernel without efi=debug dropped it; the map is another boot's.
    let version = "Linux version 6.1\n";
    assert_eq!(starts(&[dropped, version, &firmware()].concat()), [vec![0, 0x1000, 0x2000]]);
    let error = MemoryMap::parse_named("log", &[dropped, version].concat()).unwrap_err();
    assert_eq!(error.to_string(), "log:1:1: no EFI memory map: only the rows that Linux dropped from it");
}

#[test]
fn rows_without_numbers_are_split_where_they_repeat() {
    let list = ARM.concat();
    assert_eq!(lists(&list.repeat(3)), [(false, 2, 0); 3]);
    assert_eq!(lists(&(list.clone() + MEMATTR + &list)), [(false, 2, 1), (false, 2, 0)]);
    assert_eq!(lists(&(list.clone() + "efi: Processing EFI memory map:\n" + ARM[0])), [(false, 2, 0), (false, 1, 0)]);
    // The list begins again. One row twice: firmware's own doing.
    assert_eq!(lists(&(list.clone() + ARM[0])), [(false, 2, 0), (false, 1, 0)]);
    assert_eq!(lists(&ARM[0].repeat(2)), [(false, 2, 0)]);
}

#[test]
fn the_first_of_firmwares_lists_is_read_and_the_others_told() {
    let map = MemoryMap::parse(&(mapped([5, 4]) + &firmware())).unwrap();
    assert_eq!((map.kind(), map.line(0)), (ListKind::Firmware, Some(3)));
    assert_eq!(
        oddities(&map)[0].message,
        "only one list is read here: line 1 starts a list of 2 descriptors (Linux's own, of what it mapped); \
         `--list N` on the command line takes the Nth, and `MemoryMap::parse_all` gives all"
    );
    assert_eq!(MemoryMap::parse(&mapped([5, 4])).unwrap().kind(), ListKind::Runtime);
}

#[test]
fn what_only_looks_like_a_row_of_another_format_is_noted() {
    let cut = &EXCERPT[..40];
    let map = MemoryMap::parse(&(firmware() + cut)).unwrap();
    assert_eq!(
        oddities(&map)[0].message,
        "line 4, column 40 is skipped: the line ends in the middle of the start address"
    );
    let error = |text: &str| MemoryMap::parse_named("log", text).unwrap_err().to_string();
    assert_eq!(error(cut), "log:1:40: the line ends in the middle of the start address");
    // With a sound row of its own format, before or after, it is damage.
    for text in [[EXCERPT, &firmware(), cut].concat(), [cut, "\n", &firmware(), EXCERPT].concat()] {
        assert!(error(&text).ends_with("the line ends in the middle of the start address"));
    }
}

/// What EDK II's MinPlatformPkg and MemoryAttributesDump print, with rows as the shell's `memmap` has them.
const EDK2_HEADINGS: [&str; 2] = [
    "MemoryAttributesTable: Version=0x1 Count=0x3 DescriptorSize=0x30\n",
    "MemoryAttributesTable:\n  Version         - 0x00000001\n  NumberOfEntries - 0x00000003\n  DescriptorSize  - \
     0x00000030\n\n",
];
const SHELL_HEADING: &str = "Type       Start            End              # Pages          Attributes\n";
const EDK2_ENTRIES: &str = "\
RT_Code    000000007951C000-000000007951CFFF 0000000000000001 8000000000004000
RT_Code    000000007951D000-000000007951EFFF 0000000000000002 8000000000020000
RT_Code    000000007951F000-0000000079520FFF 0000000000000002 8000000000004000
";
const EDK2_TOTALS: &str = "\n  RT_Code   :              5 Pages (20480 Bytes)\n              -------------- \n";
const SHELL_MAP: &str = "\
Available  0000000000001000-000000007951BFFF 000000000007951B 000000000000000F
RT_Code    000000007951C000-0000000079520FFF 0000000000000005 800000000000000F
";

#[test]
fn edk2s_table_in_the_shells_rows_is_no_map() {
    let kinds = |map: &MemoryMap| -> Vec<_> { oddities(map).iter().map(|odd| odd.kind).collect() };
    for heading in EDK2_HEADINGS {
        let table = [heading, SHELL_HEADING, EDK2_ENTRIES, EDK2_TOTALS].concat();
        for text in [
            table.clone() + SHELL_HEADING + SHELL_MAP,
            table.clone() + "MemoryMap:\n" + SHELL_HEADING + SHELL_MAP,
            // The totals end the table, too.
            table.clone() + SHELL_MAP,
            [SHELL_HEADING, SHELL_MAP, &table].concat(),
        ] {
            let [map] = read(&text).try_into().unwrap_or_else(|maps| panic!("{maps:?}"));
            assert_eq!((map.descriptors().len(), map.attributes_table().len(), map.partial()), (2, 3, None), "{text}");
            assert_eq!(map.attributes_table()[1].att, MemoryAttribute::RUNTIME | MemoryAttribute::READ_ONLY);
            assert_eq!(kinds(&map), [], "{text}");
        }
        let [alone] = read(&table).try_into().unwrap();
        assert_eq!((alone.descriptors().len(), alone.attributes_table().len()), (3, 3));
        assert_eq!(alone.descriptors()[1].att, MemoryAttribute::RUNTIME | MemoryAttribute::WRITE_BACK);
        assert!(alone.partial().is_some_and(|why| why.contains("Memory Attributes Table only")));
        assert_eq!(kinds(&alone), [OddityKind::Partial]);
    }
}

#[test]
fn edk2s_table_is_known_without_its_heading_and_a_map_below_one() {
    let table = EDK2_ENTRIES.to_owned();
    assert_eq!(lists(&(table.clone() + SHELL_HEADING + SHELL_MAP)), [(false, 2, 3)]);
    assert!(read(&table)[0].partial().is_some());
    // One row that may be cached: a map, however it looks. Without permissions it is no table either.
    let map = table.replacen("8000000000004000", "800000000000400F", 1);
    assert_eq!(read(&map)[0].partial(), None);
    assert_eq!(
        read("RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 8000000000000000\n")[0].partial(),
        None
    );
    // A table without entries announces nothing.
    let empty = "MemoryAttributesTable: Version=0x1 Count=0x0 DescriptorSize=0x30\n";
    assert_eq!(lists(&[empty, SHELL_HEADING, SHELL_MAP].concat()), [(false, 2, 0)]);
}

#[test]
fn edk2s_table_with_other_than_its_entries_is_noted() {
    let message = |entries: &str| {
        let map = read(&[EDK2_HEADINGS[0], SHELL_HEADING, entries, EDK2_TOTALS, SHELL_MAP].concat()).remove(0);
        oddities(&map).iter().map(|odd| odd.message.clone()).collect::<Vec<_>>()
    };
    let table = "the Memory Attributes Table from line 3 on has 3 entries by its heading";
    let first = EDK2_ENTRIES.lines().next().unwrap();
    assert_eq!(message(first), [format!("{table}, and 1 are here: the permissions of the others are not known")]);
    assert_eq!(message(&[first, "\n", EDK2_ENTRIES].concat()), [format!("{table}, and 4 rows: was it edited?")]);
    let alone = read(&[EDK2_HEADINGS[0], SHELL_HEADING, first].concat()).remove(0);
    assert_eq!(alone.descriptors().len(), 1);
    assert!(oddities(&alone).iter().any(|odd| odd.kind == OddityKind::MissingRows));
}

#[test]
fn a_heading_begins_another_list() {
    let shell = [
        SHELL_HEADING,
        "BS_Code    0000000000000000-0000000000000FFF 0000000000000001 000000000000000F\n\
         Available  0000000000001000-0000000000002FFF 0000000000000002 000000000000000F\n",
    ];
    let grub = [
        "Type      Physical start  - end             #Pages        Size Attributes\n",
        "BS-code   0000000000000000-0000000000000fff 00000001      4KiB WB\n\
         conv-mem  0000000000001000-0000000000002fff 00000002      8KiB WB\n",
    ];
    let uboot = [
        "Type             Start            End              Attributes\n",
        "BOOT CODE        0000000000000000-0000000000001000 WB\nCONVENTIONAL     0000000000001000-0000000000003000 WB\n",
    ];
    let freebsd = [
        "                   Type     Physical      Virtual   #Pages Attr\n",
        "       BootServicesCode 000000000000 000000000000 00000001 WB \n\
         \x20    ConventionalMemory 000000001000 000000001000 00000002 WB \n",
    ];
    let xen = [
        "(XEN) EFI memory map:\n",
        "(XEN)  0000000000000-0000000000fff type=3 attr=000000000000000f\n\
         (XEN)  0000000001000-0000000002fff type=7 attr=000000000000000f\n",
    ];
    let haiku = ["System provided memory map:\n", "  0x0-0x1000  0x0 0x3 0xf\n  0x1000-0x3000  0x0 0x7 0xf\n"];
    for [heading, rows] in [shell, grub, uboot, freebsd, xen, haiku] {
        // The second has no row that the first has.
        let last = rows.lines().nth(1).unwrap();
        for other in [rows.to_owned(), last.to_owned(), rows.replacen(rows.lines().next().unwrap(), last, 1)] {
            let text = [heading, rows, heading, &other].concat();
            let count = other.lines().count();
            assert_eq!(lists(&text), [(false, 2, 0), (false, count, 0)], "{text}");
        }
        // And without headings, where the list begins again.
        assert_eq!(lists(&rows.repeat(2)), [(false, 2, 0); 2], "{rows}");
    }
}

#[test]
fn a_whole_list_is_rather_meant_than_a_part() {
    let hobs = "Memory Allocation 0x00000004 0x7F56000 - 0x7F75FFF\n";
    let map = MemoryMap::parse(&[hobs, "Linux version 6.1\n", &firmware()].concat()).unwrap();
    assert_eq!((map.descriptors().len(), map.partial()), (3, None));
    let told = "line 1 starts a list of 1 descriptors (a part of what firmware handed out)";
    assert!(oddities(&map)[0].message.contains(told), "{}", oddities(&map)[0].message);
    let dxe = [hobs, "HOBLIST address in DXE = 0x7EEA018\n", hobs, hobs].concat();
    assert_eq!(MemoryMap::parse(&dxe).unwrap().descriptors().len(), 2);
}

#[test]
fn lists_and_rows_without_end_are_refused() {
    let error = |text: &str| MemoryMap::parse_named("log", text).unwrap_err().to_string();
    assert_eq!(error(&mapped([5, 4]).repeat(MAX_LISTS + 1)), "log:2049:1: more than 1024 lists");
    let mut lists = Lists::default();
    let mut take = || {
        let row = Row { kind: RowKind::Attributes, ..Row::region(MemoryDescriptor::default()) };
        lists.take(&super::super::linux_memattr::FORMAT, row, 1, 0..1)
    };
    assert!((0..MAX_ROWS).all(|_| take().is_ok()));
    assert!(matches!(take(), Err(Refused::Text(bad)) if bad.message() == "more than 262144 rows in all"));
}
