//! Memory Attributes Tables (UEFI 2.10, section 4.6.4), and which list each goes with.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::super::oddity::{Oddity, OddityKind};
use super::super::super::{Format, MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryType};
use super::super::fields::is_entry;
use super::super::offset::Offset;
use super::super::row::RowFormat;
use super::notes::note;
use super::{List, Placed, Skips};

/// One Memory Attributes Table.
pub(super) struct Table {
    pub format: &'static RowFormat,
    pub entries: Vec<MemoryDescriptor>,
    /// How many entries it has by its heading.
    pub announced: Option<u64>,
    /// The line of its first entry, and the place of that entry.
    pub line: usize,
    pub span: Range<usize>,
    /// Whether a list of the same log comes before it.
    pub has_list_before: bool,
    pub skipped: Skips,
    pub boot: usize,
}

/// Takes the tables out of the lists: EDK II prints its table in the rows of the shell's `memmap`.
pub(super) fn take_tables(lists: &mut Vec<List>, tables: &mut Vec<Table>) {
    let all = std::mem::take(lists);
    for list in all {
        if !is_table(&list) {
            lists.push(list);
            continue;
        }
        let has_list_before = lists.last().is_some_and(|before| before.boot == list.boot);
        let Some(first) = list.rows.first() else { continue };
        tables.push(Table {
            format: list.format,
            announced: list.announced_entries.flatten(),
            line: first.line,
            span: first.span.clone(),
            has_list_before,
            boot: list.boot,
            entries: list.descriptors().copied().collect(),
            skipped: list.skipped,
        });
    }
    tables.sort_by_key(|table| table.line);
}

/// Whether the rows of the shell's that were announced as a table are one: a table that is empty, or lost, announces
/// the map that comes next. Or whether all of them look so, because the heading may be lost: firmware's map says of runtime
/// services' memory how it may be cached, and the table has nothing but permissions of it.
fn is_table(list: &List) -> bool {
    const PERMISSIONS: MemoryAttribute = MemoryAttribute::READ_ONLY.union(MemoryAttribute::EXECUTE_PROTECT);
    let entries = |is_entry: fn(MemoryAttribute) -> bool| {
        list.descriptors().filter(|row| is_runtime_services(row.ty) && is_entry(row.att)).count()
    };
    let has_nothing_else = |att| is_entry(att) && PERMISSIONS.union(MemoryAttribute::RUNTIME).contains(att);
    list.format.format == Format::UefiShell
        && match list.announced_entries {
            Some(_) => entries(is_entry) > list.rows.len() / 2,
            None => {
                entries(has_nothing_else) == list.rows.len()
                    && list.descriptors().any(|row| row.att.intersects(PERMISSIONS))
            }
        }
}

fn is_runtime_services(ty: MemoryType) -> bool {
    matches!(ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA)
}

impl Table {
    /// The runtime regions that the table tells of, if it does: each entry is one, or a part of one, of its own type. An
    /// entry that is there several times, as in the wild, is one region.
    pub(super) fn as_list(&self) -> Option<List> {
        let is_runtime =
            |entry: &MemoryDescriptor| is_runtime_services(entry.ty) && entry.att.contains(MemoryAttribute::RUNTIME);
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
        let why = "these are the entries of the Memory Attributes Table only; how they may be cached is not told, and \
                   taken to be WB";
        (1..=MAX_DESCRIPTORS).contains(&rows.len()).then(|| List {
            rows,
            partial: Some(why.into()),
            ..List::new(self.format, self.boot)
        })
    }

    /// What there is to note about it.
    pub(super) fn notes(&self, index: usize) -> impl Iterator<Item = Oddity> {
        let skipped =
            self.skipped.shown.iter().map(move |(_, message)| note(OddityKind::SkippedLine, index, message.clone()));
        self.miscount(index).into_iter().chain(skipped)
    }

    /// What is odd about the number of entries.
    fn miscount(&self, index: usize) -> Option<Oddity> {
        let Self { line, entries, .. } = self;
        let (announced, read) = (self.announced?, entries.len());
        let table = format!("the Memory Attributes Table from line {line} on has {announced} entries by its heading");
        match announced.cmp(&(read as u64)) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => {
                let message = format!("{table}, and {read} are here: the permissions of the others are not known");
                Some(note(OddityKind::MissingRows, index, message))
            }
            std::cmp::Ordering::Less => {
                Some(note(OddityKind::SizeMismatch, index, format!("{table}, and {read} rows: was it edited?")))
            }
        }
    }

    fn is_edk2s(&self) -> bool {
        matches!(self.format.format, Format::UefiShell | Format::Edk2Memattr)
    }

    /// The table of another address space, SMM's, which EDK II prints in the same words, has no RUNTIME.
    fn has_runtime(&self) -> bool {
        self.entries.iter().any(|entry| entry.att.contains(MemoryAttribute::RUNTIME))
    }
}

/// The table that goes with a list: the first of the same log after it, or one that comes before every list.
///
/// EDK II prints its table again and again, before it starts the operating system: the last one is what Linux gets. What
/// EDK II prints below Linux's log is of the next boot.
pub(super) fn table_of(tables: &[Table], list: &List) -> Option<usize> {
    let line = list.rows.first().map_or(0, |row| row.line);
    let is_linuxs = matches!(list.format.format, Format::LinuxX86 | Format::LinuxArm64 | Format::LinuxE820);
    let is_after = |table: &Table| table.boot == list.boot && table.line >= line && !(is_linuxs && table.is_edk2s());
    let is_before = |table: &Table| match table.is_edk2s() {
        true => table.line < line && table.boot.plus(usize::from(is_linuxs)) >= list.boot && table.has_runtime(),
        false => table.boot == list.boot && !table.has_list_before,
    };
    let after = tables.iter().position(is_after);
    after.or_else(|| tables.iter().rposition(is_before))
}
