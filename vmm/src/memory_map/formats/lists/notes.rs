//! Notes about a list.

use std::collections::BTreeMap;

use super::super::super::oddity::{Oddity, OddityKind};
use super::super::offset::Offset;
use super::{MAX_NOTES, Placed};

pub(super) fn missing_rows(expected: u64, row: &Placed, index: usize) -> Option<Oddity> {
    let last = row.number?.checked_sub(1).filter(|last| *last >= expected)?;
    let rows = if last == expected { format!("row {last} is") } else { format!("rows {expected} to {last} are") };
    let message = format!("{rows} missing before line {}: nothing is checked about their regions", row.line);
    Some(note(OddityKind::MissingRows, index, message))
}

pub(super) fn told((kind, message): &(OddityKind, String), row: &Placed, index: usize) -> Oddity {
    note(*kind, index, format!("line {} {message}", row.line))
}

pub(super) fn note(kind: OddityKind, index: usize, message: String) -> Oddity {
    Oddity { kind, index, other: None, message }
}

/// The first notes of each kind, and how many there would be.
pub(super) fn few_of_each(notes: Vec<Oddity>, more_skipped: usize, last: usize) -> Vec<Oddity> {
    let mut counts: BTreeMap<OddityKind, usize> = BTreeMap::new();
    let mut few = Vec::new();
    for note in notes {
        let count = counts.entry(note.kind).or_default();
        *count = count.plus(1);
        if *count <= MAX_NOTES {
            few.push(note);
        }
    }
    if more_skipped > 0 {
        let count = counts.entry(OddityKind::SkippedLine).or_default();
        *count = count.plus(more_skipped);
    }
    for (kind, count) in counts {
        if let Some(more) = count.checked_sub(MAX_NOTES).filter(|more| *more > 0) {
            few.push(note(kind, last, format!("{more} more notes of this kind ({})", kind.name())));
        }
    }
    few
}
