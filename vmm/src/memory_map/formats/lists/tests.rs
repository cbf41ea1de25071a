use super::super::super::{ReadOptions, oddities};
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
