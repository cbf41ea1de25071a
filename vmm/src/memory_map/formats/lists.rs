//! What the rows of a text make up: lists, each a map of its own.
//!
//! A list ends where a row of another format stands, where the numbers of the rows fall, at a line that heads another
//! list, and where a hunk of a diff begins or ends. Rows without numbers may begin again without such a line: `restart`
//! knows by what.

mod heading;
mod kinds;
mod notes;
mod restart;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::super::error::ParseError;
use super::super::oddity::OddityKind;
use super::super::{Format, MAX_DESCRIPTORS, MemoryDescriptor, MemoryMap};
use super::cursor::Bad;
use super::offset::Offset;
use super::row::{Row, RowFormat, RowKind};
pub(super) use heading::{Heading, heading};
use kinds::kinds;
use notes::{few_of_each, missing_rows, note, told};
use restart::restart;
use table::{Table, table_of, take_tables};

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
    /// The format of the last heading, if no list came after it.
    headed_next: Option<Format>,
    /// Whether EDK II announced a Memory Attributes Table next, and of how many entries.
    table_next: Option<Option<u64>>,
    /// Whether rows like the shell's are none, but EDK II's of what exists at which addresses.
    is_elsewhere: bool,
    /// Lines with numbers that are no rows, since the last row or heading of a table.
    passed: Vec<usize>,
    /// Why the rows to come are not a whole map, if that is known.
    partial_next: Option<&'static str>,
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

/// The most lists, and the most rows in all of them, that are read from one text. The logs of a hundred boots have some
/// hundred lists.
const MAX_LISTS: usize = 1024;
const MAX_ROWS: usize = 4 * MAX_DESCRIPTORS;

/// The most lines between two rows of a table that are taken for what is left of rows.
const MAX_PASSED: usize = 3;

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
    /// Why it is not the whole map, if it is not.
    partial: Option<String>,
    /// Whether Linux announced it as its own.
    is_announced: bool,
    /// Whether EDK II announced it as the Memory Attributes Table, and of how many entries.
    announced_entries: Option<Option<u64>>,
    /// Whether a heading is above it.
    is_headed: bool,
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
#[derive(Clone, Default)]
struct Skips {
    shown: Vec<(usize, String)>,
    more: usize,
}

/// Whether there is a number in a line that may be an address.
fn has_number(line: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.starts_with("0x") || word.len() >= 8 && word.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

impl Skips {
    fn add(&mut self, after: usize, message: impl FnOnce() -> String) {
        if self.shown.len() == MAX_NOTES {
            self.more = self.more.plus(1);
        } else {
            self.shown.push((after, message()));
        }
    }

    /// Takes away what was skipped from a row on.
    fn split_off(&mut self, index: usize) -> Self {
        let at = self.shown.partition_point(|(after, _)| *after < index);
        let shown = self.shown.split_off(at).into_iter().map(|(after, message)| (after.minus(index), message));
        Self { shown: shown.collect(), more: 0 }
    }
}

impl Lists {
    /// Whether no map was read, nor what may make a part of one.
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.tables.is_empty()
    }

    /// Takes a line that announces something.
    pub(super) fn head(&mut self, heading: Heading) {
        match heading {
            Heading::Attributes => self.table_open = false,
            Heading::Firmware | Heading::Runtime => {
                self.open = false;
                self.runtime_next = heading == Heading::Runtime;
            }
            Heading::Of(format) | Heading::Totals(format) => {
                self.headed_next = Some(format).filter(|_| heading == Heading::Of(format));
                self.passed.clear();
                self.open &= self.lists.last().is_none_or(|list| list.format.format != format);
                self.is_elsewhere &= format != Format::UefiShell;
            }
            Heading::Edk2Attributes(count) => {
                self.open = false;
                self.table_open = false;
                self.is_elsewhere = false;
                self.table_next = Some(count);
            }
            Heading::Count(count) => self.table_next = self.table_next.map(|_| Some(count)),
            Heading::AddressSpace => {
                self.open = false;
                self.is_elsewhere = true;
            }
            Heading::Boot => {
                self.place_leftovers();
                self.open = false;
                self.table_open = false;
                self.runtime_next = false;
                self.table_next = None;
                self.is_elsewhere = false;
                self.boot = self.boot.plus(1);
            }
        }
    }

    /// Takes a line that is nothing that is known.
    pub(super) fn pass(&mut self, line: impl FnOnce() -> usize, content: &str) {
        if self.passed.len() <= MAX_PASSED && has_number(content) {
            self.passed.push(line());
        }
    }

    /// Begins another list with the next row, and takes note why it is not a whole map, if it is not.
    pub(super) fn begin_another(&mut self, partial: Option<&'static str>) {
        self.open = false;
        self.partial_next = partial;
    }

    /// Whether what looks like a row of a format is something else.
    pub(super) fn is_elsewhere(&self, format: Format) -> bool {
        self.is_elsewhere && format == Format::UefiShell
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
        self.rows = self.rows.plus(1);
        let Row { number, descriptor, kind, odd, .. } = row;
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
        skips.add(after, || skipped().message);
    }

    /// The maps, in the order of the text; an error if there are rows, but not of any map.
    pub(super) fn into_maps(mut self, name: &str, text: &str) -> Result<Vec<MemoryMap>, ParseError> {
        take_tables(&mut self.lists, &mut self.tables);
        if self.lists.is_empty() {
            self.lists = self.tables.iter().filter_map(Table::as_list).collect();
        }
        if self.lists.is_empty() {
            return self.without_lists(name, text).map_or_else(|| Ok(Vec::new()), Err);
        }
        self.place_leftovers();
        let whole: Vec<usize> = self.lists.iter().filter(|list| !list.is_excerpt).map(|list| list.boot).collect();
        let lists = self.lists.into_iter().filter(|list| !list.is_excerpt || whole.binary_search(&list.boot).is_err());
        let lists: Vec<List> = lists.flat_map(List::split_where_it_restarts).collect();
        if let Some(beyond) = lists.get(MAX_LISTS).and_then(|list| list.rows.first()) {
            let message = format!("more than {MAX_LISTS} lists");
            return Err(ParseError::at(name, text, beyond.span.clone(), message).help(TOO_MANY));
        }
        let kinds = kinds(&lists);
        let tables = self.tables;
        let entries: Vec<Arc<[MemoryDescriptor]>> =
            tables.iter().map(|table| table.entries.as_slice().into()).collect();
        let starts = lists.iter().map(List::start).chain(tables.iter().map(|table| table.span.start));
        let starts: BTreeSet<usize> = starts.collect();
        let maps = lists.into_iter().zip(kinds).map(|(list, kind)| {
            let table = table_of(&tables, &list);
            let attributes_table = table.map(|table| entries[table].clone()).unwrap_or_default();
            let start = text[..list.start()].rfind('\n').map_or(0, |newline| newline.plus(1));
            let end = starts.range(list.start().plus(1)..).next().map_or(text.len(), |next| *next);
            let check = list.format.check;
            let mut map = MemoryMap { kind, attributes_table, ..list.into_map(name) };
            if let Some(table) = table {
                let last = map.descriptors.len().saturating_sub(1);
                map.notes.extend(tables[table].notes(last));
            }
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
        let passed = std::mem::take(&mut self.passed);
        let Some(list) = self.lists.last_mut() else {
            return Ok(());
        };
        // Under no heading the first row says nothing of the lines before it, and much else may stand between rows.
        let is_within = !list.rows.is_empty() || list.is_headed;
        if list.format.is_table && is_within && passed.len() <= MAX_PASSED {
            let message = |line| format!("line {line} is skipped: it stands in the table, and is no row of it");
            passed.into_iter().for_each(|line| list.skipped.add(list.rows.len(), || message(line)));
        }
        if list.rows.len().plus(list.dropped.len()) == MAX_DESCRIPTORS {
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
        let is_shells = format.format == Format::UefiShell;
        self.lists.push(List {
            // Linux prints the excerpt between the rows that it dropped and the list.
            dropped: if is_excerpt { Vec::new() } else { std::mem::take(&mut self.dropped) },
            skipped: std::mem::take(&mut self.skipped),
            is_excerpt,
            partial: self.partial_next.map(String::from),
            is_announced: self.runtime_next && !is_excerpt,
            announced_entries: if is_shells { self.table_next.take() } else { None },
            is_headed: self.headed_next.take() == Some(format.format),
            ..List::new(format, self.boot)
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
                self.tables.push(Table {
                    format,
                    entries: vec![descriptor],
                    announced: self.table_next.take().flatten(),
                    line,
                    span,
                    has_list_before,
                    skipped: Skips::default(),
                    boot: self.boot,
                });
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
        list.skipped.more = list.skipped.more.plus(std::mem::take(&mut self.skipped.more));
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

impl List {
    /// Where its first row starts in the text.
    fn start(&self) -> usize {
        self.rows.first().map_or(0, |row| row.span.start)
    }

    fn descriptors(&self) -> impl Iterator<Item = &MemoryDescriptor> {
        self.rows.iter().map(|row| &row.descriptor)
    }

    fn new(format: &'static RowFormat, boot: usize) -> Self {
        Self {
            format,
            rows: Vec::new(),
            dropped: Vec::new(),
            skipped: Skips::default(),
            is_excerpt: false,
            partial: None,
            is_announced: false,
            announced_entries: None,
            is_headed: false,
            boot,
        }
    }

    /// The list, as several where it begins again.
    fn split_where_it_restarts(mut self) -> Vec<Self> {
        let mut parts = Vec::new();
        while let Some(index) =
            restart(&self.rows, self.is_headed).filter(|_| !self.is_excerpt && parts.len() < MAX_LISTS)
        {
            let rows = self.rows.split_off(index);
            let skipped = self.skipped.split_off(index);
            let partial = self.partial.clone();
            let rest = Self { rows, skipped, partial, is_headed: self.is_headed, ..Self::new(self.format, self.boot) };
            parts.push(std::mem::replace(&mut self, rest));
        }
        parts.push(self);
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
        map.marked_partial(self.partial)
    }
}

fn push(map: &mut MemoryMap, row: &Placed) {
    map.descriptors.push(row.descriptor);
    map.lines.push(row.line);
}
