//! What the page's script draws, as it stands in the page: one JSON object. Addresses and bit patterns are strings in hexadecimal,
//! since a number of JavaScript has 53 bits. What is absent is left out.

use serde::Serialize;

use crate::memory_map::{MemoryType, Region, attribute_names, type_name};
use crate::report::json::Hex;

/// All of it.
#[derive(Default, Serialize)]
pub struct Picture {
    /// What blocks are drawn as, by number.
    pub kinds: Vec<Kind>,
    /// The maps, each with its regions in list order.
    pub maps: Vec<Vec<PlacedRegion>>,
    /// What can be looked at, one at a time.
    pub views: Vec<View>,
    /// For each item of the page's list, where it is.
    pub places: Vec<Place>,
    /// The bits of an entry that have a name, by its level's number, a leaf's and a table's: bit and name.
    pub bits: Vec<[Vec<(u32, &'static str)>; 2]>,
    /// The names of levels, by number.
    pub levels: Vec<String>,
}

/// What a block is drawn as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// What people read.
    pub name: String,
    /// The class in the style sheet.
    pub class: String,
}

impl Kind {
    /// The guest kernel's own mapping.
    pub fn kernel() -> Self {
        Self { name: "the kernel's own".into(), class: "kernel".into() }
    }

    /// Memory that no descriptor has.
    pub fn ownerless() -> Self {
        Self { name: "no region".into(), class: "ownerless".into() }
    }

    /// A descriptor's type. The style sheet has those that UEFI names.
    pub fn of(ty: MemoryType) -> Self {
        let class = if ty.0 < 16 { format!("type-{}", ty.0) } else { "type-other".into() };
        Self { name: type_name(ty).into_owned(), class }
    }
}

/// A descriptor.
#[derive(Serialize)]
pub struct PlacedRegion {
    /// Its kind's number.
    pub kind: usize,
    pub attribute: String,
    pub phys: Hex,
    pub pages: Hex,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virt: Option<Hex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Hex>,
    /// What became of it, in a word.
    pub verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl PlacedRegion {
    /// A descriptor of which nothing else is known.
    pub fn of(region: &Region, kinds: &mut Vec<Kind>) -> Self {
        Self {
            kind: number_of(kinds, Kind::of(region.ty)),
            attribute: attribute_names(region.attribute).join("|"),
            phys: Hex(region.phys),
            pages: Hex(region.pages),
            virt: None,
            aliases: Vec::new(),
            verdict: String::new(),
            line: None,
        }
    }
}

/// Two address spaces beside each other.
#[derive(Serialize)]
pub struct View {
    pub name: String,
    /// What the left one is, and the right one.
    pub columns: [&'static str; 2],
    /// The number of its map.
    pub map: usize,
    /// That of the right one's, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right_map: Option<usize>,
    pub left: Vec<Block>,
    pub right: Vec<Block>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Tables>,
}

/// A range of one address space, and where it leads in the other one.
#[derive(Default, Serialize)]
pub struct Block {
    /// Absent: its region's physical address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Hex>,
    /// Absent: its region's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<usize>,
    /// Absent: its region's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Hex>,
    /// The size of its leaves, the rights that all levels grant, the cache type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rights: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// Why nothing translates though entries are present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defect: Option<String>,
    /// Between two runs: what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<&'static str>,
    /// Whether nothing is here, and only should be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub planned: bool,
}

/// Where an item of the page's list is.
#[derive(Default, Serialize)]
pub struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<usize>,
    /// 0 is the left one.
    pub column: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<Hex>,
}

/// Page tables entry by entry.
#[derive(Serialize)]
pub struct Tables {
    pub root: Hex,
    /// The level of the root's entries.
    pub top: u8,
    pub cut: bool,
    pub list: Vec<Table>,
    /// Why bits are reserved, by number.
    pub reasons: Vec<String>,
}

/// One table.
#[derive(Serialize)]
pub struct Table {
    pub at: Hex,
    pub level: u8,
    /// Absent: nothing is there to be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<EntryRun>>,
}

/// Entries in a row: the first one's index, how many they are, the first one, and where bits are reserved, those bits and the
/// number of the reason.
#[derive(Serialize)]
#[serde(untagged)]
pub enum EntryRun {
    Right(u16, u16, Hex),
    Reserved(u16, u16, Hex, Hex, usize),
}

/// The number of a kind, which is new or not.
pub fn number_of<T: PartialEq>(all: &mut Vec<T>, one: T) -> usize {
    all.iter().position(|known| *known == one).unwrap_or_else(|| {
        all.push(one);
        all.len().saturating_sub(1)
    })
}
