//! What a file holds: a scenario, or lists of descriptors.

use std::path::Path;

use super::{Origin, OwnMapper, parse};
use crate::Scenario;
use crate::memory_map::{Contents, Format, MemoryMap, ReadError, ReadOptions, choose, decode, detect, read_bytes};

/// What was read.
pub enum Found {
    /// A TOML: one map, and what to do with it.
    Scenario(Box<Scenario>),
    /// Every list of any other format, in the order of the text. There is at least one.
    Lists(Vec<MemoryMap>),
}

impl Found {
    /// Of a file, or of a folder like `/sys/firmware/efi/runtime-map`.
    pub fn at(path: &Path, options: &ReadOptions, own: OwnMapper) -> Result<Self, ReadError> {
        if path.is_dir() {
            return MemoryMap::read_all(path, options).map(Self::Lists);
        }
        Self::in_bytes(&path.display().to_string(), read_bytes(path)?, path.parent(), options, own)
    }

    /// Of bytes; relative paths in them start at the folder.
    pub fn in_bytes(
        name: &str,
        bytes: Vec<u8>,
        folder: Option<&Path>,
        options: &ReadOptions,
        own: OwnMapper,
    ) -> Result<Self, ReadError> {
        let may_be_scenario = options.format.is_none_or(|format| format == Format::Toml);
        match decode(name, bytes, options)? {
            Contents::Text(text) if may_be_scenario && detect(&text) == Some(Format::Toml) => {
                let scenario = parse(Origin { name, text: &text, folder }, own)?;
                Ok(Self::Scenario(Box::new(scenario)))
            }
            Contents::Text(text) => Ok(Self::Lists(MemoryMap::parse_all(name, &text, options)?)),
            Contents::Binary(bytes) => Ok(Self::Lists(vec![MemoryMap::parse_binary(name, &bytes, options.stride)?])),
        }
    }

    /// The scenario, or one on the list that is meant by someone who wants one.
    pub fn into_scenario(self) -> Scenario {
        match self {
            Self::Scenario(scenario) => *scenario,
            Self::Lists(lists) => Scenario::new(choose(lists)),
        }
    }
}
