//! What came of a mapper's call, wherever it ran.

use efibed_guest::MapError;
use efibed_guest::mapper::{MapResult, MapStatus};

use crate::guest::{Case, MappedTables, PAGE_BYTES, Placement};

/// What a mapper's result says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has tables.
    Tables(MappedTables),
    /// It gave up.
    GaveUp(MapError),
    /// It panicked, with this account.
    Panicked(String),
    /// Numbers that cannot be, each in a sentence.
    Absurd(Vec<String>),
}

impl Outcome {
    /// Reads the result, none of which is believed unchecked.
    pub fn read(case: &Case) -> Self {
        let MapResult { status, detail, root, mapped, table_pages, log_used, .. } = case.result();
        if status == MapStatus::Panicked as u64 {
            return Self::Panicked(case.logged_from(detail));
        }
        if let Some(error) = MapError::from_status(status, detail) {
            return Self::GaveUp(error);
        }
        if status != MapStatus::Done as u64 {
            return Self::Absurd(vec![format!("the mapping code returned with status {status}, which does not exist")]);
        }
        let Placement { sizes, .. } = case.placement;
        let reach = case.placement.tables(table_pages);
        if !root.is_multiple_of(PAGE_BYTES) || !reach.contains(&root) {
            return Self::Absurd(vec![format!(
                "the mapping code returned root {root:#x}, which is no physical address of a table: tables lie from {:#x} to \
                 {:#x}, where the last page taken from the pool ends",
                reach.start, reach.end
            )]);
        }
        let log = case.room_for_log();
        let counts = [
            ("bytes of its log", log_used, log),
            ("pages of tables", table_pages, sizes.pool / PAGE_BYTES),
            ("descriptors in the virtual map", mapped, sizes.memory_map / case.strides.kernel as u64),
        ];
        let absurd = counts.into_iter().filter(|(_, used, room)| used > room).map(|(what, used, room)| {
            format!("the mapping code says to have used {used} {what}, and has room for {room}")
        });
        let absurd: Vec<_> = absurd.collect();
        match absurd.is_empty() {
            true => Self::Tables(MappedTables { root, mapped, table_pages }),
            false => Self::Absurd(absurd),
        }
    }

    /// The tables, if there are any.
    pub fn tables(&self) -> Option<&MappedTables> {
        match self {
            Self::Tables(tables) => Some(tables),
            _ => None,
        }
    }
}
