//! Why mapping code gives up, and how that is said in the C ABI.

use core::fmt;

/// Why mapping code gave up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// The pages given for tables are used up.
    OutOfTablePages,
    /// An entry names a table that does not lie in the memory given for tables.
    TableOutOfReach {
        /// Physical address in the entry.
        table: u64,
    },
    /// The 64 GiB window cannot hold the list; `index` is the descriptor with the highest end.
    WindowOverflow {
        /// Index of the descriptor.
        index: usize,
    },
    /// No virtual addresses are left at descriptor `index`.
    AddressSpaceFull {
        /// Index of the descriptor.
        index: usize,
    },
    /// The list of mapped regions has no room for descriptor `index`.
    TooManyRegions {
        /// Index of the descriptor.
        index: usize,
    },
    /// Something else, which the mapper's log says: see [`MapContext::fail`](super::MapContext::fail).
    Failed,
    /// It panicked where it was carried out, and nothing unwinds from there: see [`Elsewhere`](super::Elsewhere).
    #[doc(hidden)]
    Panicked {
        /// Where in the log its account begins.
        account: u64,
    },
}

/// How a mapper's phase ended. What is not `Done` is a [`MapError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum MapStatus {
    /// It did not come to an end.
    NotRun = 0,
    /// It ran, and the tables are as it wants them.
    Done = 1,
    /// The request cannot be read.
    BadRequest = 2,
    /// [`MapError::OutOfTablePages`]
    OutOfTablePages = 3,
    /// [`MapError::WindowOverflow`]
    WindowOverflow = 4,
    /// [`MapError::AddressSpaceFull`]
    AddressSpaceFull = 5,
    /// [`MapError::TooManyRegions`]
    TooManyRegions = 6,
    /// [`MapError::TableOutOfReach`]
    TableOutOfReach = 7,
    /// [`MapError::Failed`]
    Failed = 8,
    /// It panicked; the log says where.
    Panicked = 9,
}

impl MapError {
    /// How it is said.
    pub fn to_status(self) -> (MapStatus, u64) {
        match self {
            Self::OutOfTablePages => (MapStatus::OutOfTablePages, 0),
            Self::TableOutOfReach { table } => (MapStatus::TableOutOfReach, table),
            Self::WindowOverflow { index } => (MapStatus::WindowOverflow, index as u64),
            Self::AddressSpaceFull { index } => (MapStatus::AddressSpaceFull, index as u64),
            Self::TooManyRegions { index } => (MapStatus::TooManyRegions, index as u64),
            Self::Failed => (MapStatus::Failed, 0),
            Self::Panicked { account } => (MapStatus::Panicked, account),
        }
    }

    /// What was said; None for a status that is not an error of the mapper.
    pub fn from_status(status: u64, detail: u64) -> Option<Self> {
        let index = detail as usize;
        [
            Self::OutOfTablePages,
            Self::TableOutOfReach { table: detail },
            Self::WindowOverflow { index },
            Self::AddressSpaceFull { index },
            Self::TooManyRegions { index },
            Self::Failed,
            Self::Panicked { account: detail },
        ]
        .into_iter()
        .find(|error| error.to_status().0 as u64 == status)
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTablePages => f.write_str("the pages given for tables are used up"),
            Self::TableOutOfReach { table } => write!(f, "no table can be reached at PA {table:#x}"),
            Self::WindowOverflow { index } => write!(f, "the window has no room for descriptor {index}"),
            Self::AddressSpaceFull { index } => write!(f, "no virtual addresses are left for descriptor {index}"),
            Self::TooManyRegions { index } => write!(f, "the virtual map has no room for descriptor {index}"),
            Self::Failed => f.write_str("the mapper gave up; its log says why"),
            Self::Panicked { .. } => f.write_str("the mapper panicked; its log says where"),
        }
    }
}

impl core::error::Error for MapError {}
