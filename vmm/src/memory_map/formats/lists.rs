//! What the rows of a text make up: lists, each a map of its own.
//!
//! A list ends where a row of another format stands, where the numbers of the rows fall, and at a line by which Linux
//! announces another list. Rows without numbers have one more sign: a text that holds a list several times over, and
//! nothing between, repeats its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::super::error::ParseError;
use super::super::oddity::{Oddity, OddityKind};
use super::super::{
    Format, ListKind, MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, Region,
};
use super::cursor::Bad;
use super::log_prefix::find_message;
use super::rows::{Row, RowFormat, RowKind};

/// The lists of a text, as far as it was read.
#[derive(Default)]
pub(super) struct Lists {
    lists: Vec<List>,
    tables: Vec<Table>,
    /// Whether the last list, and the last table, may still get rows.
    open: bool,
    table_open: bool,
    /// Whether Linux announced the next list as its own.
    runtime_next: bool,
    /// How many logs began so far: a file may hold several.
    boot: usize,
    /// The rows that Linux dropped from the list to come.
    dropped: Vec<Placed>,
    /// The rows that Linux dropped from a list that is not in its log.
    lost: Vec<Placed>,
    /// What was skipped before the list to come.
    skipped: Skips,
    rows: usize,
}

/// Lines by which a log tells what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heading {
    /// The log of another boot.
    Boot,
    /// Firmware's map (Linux on ARM and RISC-V).
    Firmware,
    /// Linux's own list.
    Runtime,
    /// The Memory Attributes Table.
    Attributes,
}

/// A row that is in no list.
pub(super) struct Skipped {
    pub message: String,
}

/// Why a row was not taken.
pub(super) enum Refused {
    /// The row is wrong.
    Row(Bad),
    /// The whole text is.
    Text(Bad),
}

/// The heading that a line is, if any (`reserve_regions()` in drivers/firmware/efi/efi-init.c,
/// `__efi_enter_virtual_mode()` in arch/x86/platform/efi/efi.c, `efi_memattr_apply_permissions()` in
/// drivers/firmware/efi/memattr.c).
pub(super) fn heading(line: &str) -> Option<Heading> {
    let is = |message| find_message(line, message).is_some();
    if !line.trim_end().ends_with(':') {
        is("Linux version ").then_some(Heading::Boot)
    } else if is("efi: EFI runtime memory map:") {
        Some(Heading::Runtime)
    } else if is("efi: Processing EFI memory map:") {
        Some(Heading::Firmware)
    } else if is("efi: memattr: Processing EFI Memory Attributes table:") {
        Some(Heading::Attributes)
    } else {
        None
    }
}

/// The most lists, and the most rows in all of them, that are read from one text. The logs of a hundred boots have some
/// hundred lists.
const MAX_LISTS: usize = 1024;
const MAX_ROWS: usize = 4 * MAX_DESCRIPTORS;

/// The most notes of one kind that a map gets; a line says how many more there would be.
const MAX_NOTES: usize = 32;

/// One list.
struct List {
    format: &'static RowFormat,
    rows: Vec<Placed>,
    dropped: Vec<Placed>,
    skipped: Skips,
    /// Whether it is an excerpt.
    is_excerpt: bool,
    /// Whether it is made of a Memory Attributes Table, for there is nothing else.
    is_table: bool,
    /// Whether Linux announced it as its own.
    is_announced: bool,
    boot: usize,
}

/// One Memory Attributes Table.
struct Table {
    format: &'static RowFormat,
    entries: Vec<MemoryDescriptor>,
    /// The line of its first entry, and the place of that entry.
    line: usize,
    span: Range<usize>,
    /// Whether a list of the same log comes before it.
    has_list_before: bool,
    boot: usize,
}

/// A row and its place.
#[derive(Clone)]
struct Placed {
    number: Option<u64>,
    descriptor: MemoryDescriptor,
    odd: Option<(OddityKind, String)>,
    line: usize,
    span: Range<usize>,
}

/// What was skipped in a list, after which row.
#[derive(Default)]
struct Skips {
    shown: Vec<(usize, String)>,
    more: usize,
}

impl Lists {
    /// Whether no map was read.
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Takes a line that announces something.
    pub(super) fn head(&mut self, heading: Heading) {
        match heading {
            Heading::Attributes => self.table_open = false,
            Heading::Firmware | Heading::Runtime => {
                self.open = false;
                self.runtime_next = heading == Heading::Runtime;
            }
            Heading::Boot => {
                self.place_leftovers();
                self.open = false;
                self.table_open = false;
                self.runtime_next = false;
                self.boot += 1;
            }
        }
    }

    /// Takes the next row.
    pub(super) fn take(
        &mut self,
        format: &'static RowFormat,
        row: Row,
        line: usize,
        span: Range<usize>,
    ) -> Result<(), Refused> {
        if self.rows == MAX_ROWS {
            return Err(Refused::Text(Bad::new(span, format!("more than {MAX_ROWS} rows in all")).help(TOO_MANY)));
        }
        self.rows += 1;
        let Row { number, descriptor, kind, odd } = row;
        let row = Placed { number, descriptor, odd, line, span };
        match kind {
            RowKind::Attributes => self.take_attributes(format, row),
            RowKind::Dropped => {
                // Linux prints these before the list.
                self.open = false;
                self.dropped.push(row);
                Ok(())
            }
            RowKind::Region | RowKind::Excerpt => self.take_region(format, row, kind == RowKind::Excerpt),
        }
    }

    /// Takes note of a row that cannot be taken.
    pub(super) fn skip(&mut self, skipped: impl FnOnce() -> Skipped) {
        let (skips, after) = match self.lists.last_mut() {
            Some(list) if self.open => (&mut list.skipped, list.rows.len()),
            _ => (&mut self.skipped, 0),
        };
        if skips.shown.len() == MAX_NOTES {
            skips.more += 1;
        } else {
            skips.shown.push((after, skipped().message));
        }
    }

    /// The maps, in the order of the text; an error if there are rows, but not of any map.
    pub(super) fn into_maps(mut self, name: &str, text: &str) -> Result<Vec<MemoryMap>, ParseError> {
        if self.lists.is_empty() {
            self.lists = self.tables.iter().filter_map(Table::as_list).collect();
        }
        if self.lists.is_empty() {
            return self.without_lists(name, text).map_or_else(|| Ok(Vec::new()), Err);
        }
        self.place_leftovers();
        let whole: Vec<usize> = self.lists.iter().filter(|list| !list.is_excerpt).map(|list| list.boot).collect();
        let lists = self.lists.into_iter().filter(|list| !list.is_excerpt || whole.binary_search(&list.boot).is_err());
        let lists: Vec<List> = lists.flat_map(List::split_repeated).collect();
        let kinds = kinds(&lists);
        let tables = self.tables;
        let entries: Vec<Arc<[MemoryDescriptor]>> =
            tables.iter().map(|table| table.entries.as_slice().into()).collect();
        let ends: Vec<usize> = lists.iter().skip(1).map(List::start).chain([text.len()]).collect();
        let maps = lists.into_iter().zip(kinds).zip(ends).map(|((list, kind), end)| {
            let attributes_table = table_of(&tables, &list).map(|table| entries[table].clone()).unwrap_or_default();
            let start = text[..list.start()].rfind('\n').map_or(0, |newline| newline + 1);
            let check = list.format.check;
            let mut map = MemoryMap { kind, attributes_table, ..list.into_map(name) };
            if let Some(check) = check {
                check(&text[start..end.max(start)], &mut map);
            }
            map
        });
        Ok(maps.collect())
    }

    fn take_region(&mut self, format: &'static RowFormat, row: Placed, is_excerpt: bool) -> Result<(), Refused> {
        if !self.goes_on(format, &row, is_excerpt)? {
            self.begin(format, &row, is_excerpt)?;
        }
        let Some(list) = self.lists.last_mut() else {
            return Ok(());
        };
        if list.rows.len() + list.dropped.len() == MAX_DESCRIPTORS {
            let bad = Bad::new(row.span, format!("more than {MAX_DESCRIPTORS} descriptors")).help(TOO_MANY);
            return Err(Refused::Text(bad));
        }
        list.rows.push(row);
        Ok(())
    }

    /// Whether a row belongs to the open list.
    fn goes_on(&self, format: &'static RowFormat, row: &Placed, is_excerpt: bool) -> Result<bool, Refused> {
        let Some(list) = self
            .lists
            .last()
            .filter(|list| self.open && list.format.format == format.format && list.is_excerpt == is_excerpt)
        else {
            return Ok(false);
        };
        let last = list.rows.last().and_then(|last| last.number);
        match (last, row.number) {
            (Some(last), Some(number)) if number == last && !is_excerpt => {
                let message = format!("row {number} is there twice in a row");
                let help = "number the rows, or remove the one that is doubled";
                Err(Refused::Row(Bad::new(row.span.clone(), message).help(help)))
            }
            (Some(last), Some(number)) => Ok(number > last),
            _ => Ok(true),
        }
    }

    fn begin(&mut self, format: &'static RowFormat, row: &Placed, is_excerpt: bool) -> Result<(), Refused> {
        if self.lists.len() == MAX_LISTS {
            let bad = Bad::new(row.span.clone(), format!("more than {MAX_LISTS} lists")).help(TOO_MANY);
            return Err(Refused::Text(bad));
        }
        self.lists.push(List {
            format,
            rows: Vec::new(),
            // Linux prints the excerpt between the rows that it dropped and the list.
            dropped: if is_excerpt { Vec::new() } else { std::mem::take(&mut self.dropped) },
            skipped: std::mem::take(&mut self.skipped),
            is_excerpt,
            is_table: false,
            is_announced: self.runtime_next && !is_excerpt,
            boot: self.boot,
        });
        self.open = true;
        self.runtime_next = false;
        Ok(())
    }

    fn take_attributes(&mut self, format: &'static RowFormat, row: Placed) -> Result<(), Refused> {
        // Linux prints the table after the map, so the next row without a number is another map's.
        if self.lists.last().and_then(|list| list.rows.last()).is_some_and(|row| row.number.is_none()) {
            self.open = false;
        }
        match self.tables.last_mut() {
            Some(table) if self.table_open => table.entries.push(row.descriptor),
            _ => {
                let has_list_before = self.lists.last().is_some_and(|list| list.boot == self.boot);
                let Placed { descriptor, line, span, .. } = row;
                let entries = vec![descriptor];
                self.tables.push(Table { format, entries, line, span, has_list_before, boot: self.boot });
                self.table_open = true;
            }
        }
        Ok(())
    }

    /// Rows that were dropped, or skipped, after the last list: the text is no log of Linux as it is printed, but what
    /// it tells is told of the list before.
    fn place_leftovers(&mut self) {
        let Some(list) = self.lists.last_mut().filter(|list| list.boot == self.boot) else {
            self.lost.append(&mut self.dropped);
            return;
        };
        list.dropped.append(&mut self.dropped);
        let after = list.rows.len();
        list.skipped.shown.extend(self.skipped.shown.drain(..).map(|(_, message)| (after, message)));
        list.skipped.more += std::mem::take(&mut self.skipped.more);
    }

    /// Without `efi=debug` Linux prints no rows but those it dropped, and the entries of the Memory Attributes Table
    /// that it refuses: garbage, of which no list can be made.
    fn without_lists(&self, name: &str, text: &str) -> Option<ParseError> {
        let (span, message, label) = match (self.lost.first().or(self.dropped.first()), self.tables.first()) {
            (Some(row), _) => {
                (row.span.clone(), "no EFI memory map: only the rows that Linux dropped from it", "dropped")
            }
            (None, Some(table)) => {
                (table.span.clone(), "no EFI memory map: only a Memory Attributes Table", "its first entry")
            }
            (None, None) => return None,
        };
        Some(ParseError::at(name, text, span, message).label(label).help(super::HOW_TO_GET_A_MAP))
    }
}

const TOO_MANY: &str = "no firmware hands out so many: check that this is one map";

impl Table {
    /// The runtime regions that the table tells of, if it does: each entry is one, or a part of one, of its own type (UEFI
    /// 2.10, section 4.6.4). An entry that is there several times, as in the wild, is one region.
    fn as_list(&self) -> Option<List> {
        let is_runtime = |entry: &MemoryDescriptor| {
            matches!(entry.ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA)
                && entry.att.contains(MemoryAttribute::RUNTIME)
        };
        let mut seen = BTreeSet::new();
        let entries = self.entries.iter().filter(|entry| is_runtime(entry));
        let rows = entries.filter(|entry| seen.insert((entry.phys_start, entry.page_count, entry.ty.0)));
        let rows: Vec<Placed> = rows
            .map(|entry| Placed {
                number: None,
                descriptor: MemoryDescriptor { att: MemoryAttribute::RUNTIME | MemoryAttribute::WRITE_BACK, ..*entry },
                odd: None,
                line: self.line,
                span: self.span.clone(),
            })
            .collect();
        (1..=MAX_DESCRIPTORS).contains(&rows.len()).then(|| List {
            format: self.format,
            rows,
            dropped: Vec::new(),
            skipped: Skips::default(),
            is_excerpt: false,
            is_table: true,
            is_announced: false,
            boot: self.boot,
        })
    }
}

impl List {
    /// Where its first row starts in the text.
    fn start(&self) -> usize {
        self.rows.first().map_or(0, |row| row.span.start)
    }

    fn descriptors(&self) -> impl Iterator<Item = &MemoryDescriptor> {
        self.rows.iter().map(|row| &row.descriptor)
    }

    /// Rows without numbers that are the same list several times over, as so many lists. (Two rows at least: one row
    /// that is there twice is firmware's own doing.)
    fn split_repeated(self) -> Vec<Self> {
        let rows = &self.rows;
        let same = |one: &Placed, other: &Placed| one.number.is_none() && one.descriptor == other.descriptor;
        let period = rows.iter().skip(1).position(|row| same(row, &rows[0])).map_or(rows.len(), |index| index + 1);
        let is_repeated = period >= 2
            && period < rows.len()
            && rows.len().is_multiple_of(period)
            && rows.iter().zip(&rows[period..]).all(|(one, other)| same(one, other));
        if !is_repeated || rows.len() / period > MAX_LISTS {
            return vec![self];
        }
        let part =
            |rows: &[Placed]| Self { rows: rows.to_vec(), dropped: Vec::new(), skipped: Skips::default(), ..self };
        let mut parts: Vec<Self> = self.rows.chunks(period).map(part).collect();
        if let Some(first) = parts.first_mut() {
            (first.dropped, first.skipped) = (self.dropped, self.skipped);
        }
        parts
    }

    fn into_map(self, name: &str) -> MemoryMap {
        let mut map = MemoryMap::from_descriptors(name, Vec::new());
        map.format = Some(self.format.format);
        let mut dropped = self.dropped;
        dropped.sort_by_key(|row| row.number);
        let mut dropped = dropped.into_iter().peekable();
        let mut skipped = self.skipped.shown.into_iter().peekable();
        let mut notes = Vec::new();
        let mut next_number = 0;
        for (index, row) in self.rows.into_iter().enumerate() {
            while let Some((_, message)) = skipped.next_if(|(after, _)| *after <= index) {
                notes.push(note(OddityKind::SkippedLine, map.descriptors.len(), message));
            }
            while let Some(row) = dropped.next_if(|row| row.number.is_none_or(|n| n <= map.descriptors.len() as u64)) {
                push(&mut map, &row);
            }
            if !self.is_excerpt {
                notes.extend(missing_rows(next_number, &row, map.descriptors.len()));
            }
            notes.extend(row.odd.as_ref().map(|odd| told(odd, &row, map.descriptors.len())));
            next_number = row.number.map_or(0, |number| number.saturating_add(1));
            push(&mut map, &row);
        }
        dropped.for_each(|row| push(&mut map, &row));
        let last = map.descriptors.len().saturating_sub(1);
        notes.extend(skipped.map(|(_, message)| note(OddityKind::SkippedLine, last, message)));
        map.notes = few_of_each(notes, self.skipped.more, last);
        if self.is_table {
            let why = "these are the entries of the Memory Attributes Table only; how they may be cached is not told, and \
                       taken to be WB";
            map = map.marked_partial(Some(why.into()));
        }
        map
    }
}

fn push(map: &mut MemoryMap, row: &Placed) {
    map.descriptors.push(row.descriptor);
    map.lines.push(row.line);
}

fn missing_rows(expected: u64, row: &Placed, index: usize) -> Option<Oddity> {
    let last = row.number?.checked_sub(1).filter(|last| *last >= expected)?;
    let rows = if last == expected { format!("row {last} is") } else { format!("rows {expected} to {last} are") };
    let message = format!("{rows} missing before line {}: nothing is checked about their regions", row.line);
    Some(note(OddityKind::MissingRows, index, message))
}

fn told((kind, message): &(OddityKind, String), row: &Placed, index: usize) -> Oddity {
    note(*kind, index, format!("line {} {message}", row.line))
}

fn note(kind: OddityKind, index: usize, message: String) -> Oddity {
    Oddity { kind, index, other: None, message }
}

/// The first notes of each kind, and how many there would be.
fn few_of_each(notes: Vec<Oddity>, more_skipped: usize, last: usize) -> Vec<Oddity> {
    let mut counts: BTreeMap<OddityKind, usize> = BTreeMap::new();
    let mut few = Vec::new();
    for note in notes {
        let count = counts.entry(note.kind).or_default();
        *count += 1;
        if *count <= MAX_NOTES {
            few.push(note);
        }
    }
    if more_skipped > 0 {
        *counts.entry(OddityKind::SkippedLine).or_default() += more_skipped;
    }
    for (kind, count) in counts {
        if let Some(more) = count.checked_sub(MAX_NOTES).filter(|more| *more > 0) {
            few.push(note(kind, last, format!("{more} more notes of this kind ({})", kind.name())));
        }
    }
    few
}

/// What each list is: firmware's or Linux's own.
fn kinds(lists: &[List]) -> Vec<ListKind> {
    let mut firmware: Option<&List> = None;
    let mut kinds = Vec::new();
    for list in lists {
        let is_runtime = list.is_announced
            || list.format.format == Format::RuntimeMap
            || list.format.format == Format::LinuxX86
                && (descends(list) || firmware.is_some_and(|firmware| is_what_linux_mapped(list, firmware)));
        if !is_runtime && !list.is_excerpt {
            firmware = Some(list);
        }
        kinds.push(if is_runtime { ListKind::Runtime } else { ListKind::Firmware });
    }
    kinds
}

/// Whether the addresses fall over nothing but regions that Linux maps. No firmware's map looks so, but a lone list of
/// Linux's own does.
fn descends(list: &List) -> bool {
    let falls = list.rows.windows(2).all(|pair| pair[0].descriptor.phys_start > pair[1].descriptor.phys_start);
    let is_mapped = |descriptor: &MemoryDescriptor| {
        let region = Region::new(0, descriptor);
        region.is_runtime() || region.is_boot_services()
    };
    list.rows.len() >= 2 && falls && list.descriptors().all(is_mapped)
}

/// Whether a list without an announcement (`grep 'efi: mem'` loses it) is Linux's own of the same log: another one than
/// firmware's, and without the regions that Linux never maps, of which every firmware's map has some. (It maps free
/// memory and the loader's only under a firmware of 32 bits.)
fn is_what_linux_mapped(list: &List, firmware: &List) -> bool {
    let is_mappable = |descriptor: &MemoryDescriptor| {
        let region = Region::new(0, descriptor);
        let is_mixed_mode =
            matches!(region.ty, MemoryType::CONVENTIONAL | MemoryType::LOADER_CODE | MemoryType::LOADER_DATA);
        region.is_runtime() || region.is_boot_services() || is_mixed_mode
    };
    firmware.boot == list.boot
        && firmware.format.format == list.format.format
        && !firmware.descriptors().eq(list.descriptors())
        && list.descriptors().all(is_mappable)
}

/// The table that goes with a list: the first of the same log after it, or one that comes before every list.
fn table_of(tables: &[Table], list: &List) -> Option<usize> {
    let line = list.rows.first().map_or(0, |row| row.line);
    let of_boot = |table: &Table| table.boot == list.boot;
    let after = tables.iter().position(|table| of_boot(table) && table.line >= line);
    after.or_else(|| tables.iter().position(|table| of_boot(table) && !table.has_list_before))
}

#[cfg(test)]
mod tests {
    use super::super::super::{ReadOptions, oddities};
    use super::*;

    fn row(number: usize, ty: &str, flags: &str, page: usize) -> String {
        format!("efi: mem{number:02}: [{ty}|{flags}] range=[{:#x}-{:#x}] (0MB)\n", page << 12, (page << 12) + 0xfff)
    }

    /// A map as firmware hands it out, with regions that nobody maps.
    fn firmware() -> String {
        row(0, "Conventional", "   |WB", 0)
            + &row(1, "ACPI Mem NVS", "   |WB", 1)
            + &row(2, "Runtime Data", "RUN|WB", 2)
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
        assert_eq!(
            lists(&(list.clone() + "efi: Processing EFI memory map:\n" + ARM[0])),
            [(false, 2, 0), (false, 1, 0)]
        );
        // Not the same list again, and one row twice: firmware's own doing.
        assert_eq!(lists(&(list.clone() + ARM[0])), [(false, 3, 0)]);
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
            let row =
                Row { number: None, descriptor: MemoryDescriptor::default(), kind: RowKind::Attributes, odd: None };
            lists.take(&super::super::linux_memattr::FORMAT, row, 1, 0..1)
        };
        assert!((0..MAX_ROWS).all(|_| take().is_ok()));
        assert!(matches!(take(), Err(Refused::Text(bad)) if bad.message() == "more than 262144 rows in all"));
    }
}
