//! What a campaign leaves: `findings`, a scenario each, and `corpus`, the maps that showed something new.
//!
//! A file is there whole or not at all. A campaign that is started again in the folder goes on from both.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::FuzzError;
use super::input::MapInput;
use crate::fuzz::FindingKey;
use crate::memory_map::MemoryMap;

/// Such a folder.
#[derive(Clone, Debug)]
pub struct Folder {
    findings: PathBuf,
    corpus: PathBuf,
}

const TOML: &str = "toml";

impl Folder {
    /// Makes it, if it is not there.
    pub fn open(path: &Path) -> Result<Self, FuzzError> {
        let folder = Self { findings: path.join("findings"), corpus: path.join("corpus") };
        for path in [&folder.findings, &folder.corpus] {
            fs::create_dir_all(path).map_err(|error| FuzzError::file("make the folder", path, error))?;
        }
        Ok(folder)
    }

    /// The findings that it has.
    pub fn known(&self) -> Result<HashSet<FindingKey>, FuzzError> {
        let names = files(&self.findings)?.into_iter();
        Ok(names.filter_map(|path| path.file_stem()?.to_str()?.parse().ok()).collect())
    }

    /// The maps of its corpus, sorted by name. One that cannot be read is an error, with its place.
    pub fn corpus(&self) -> Result<Vec<MapInput>, FuzzError> {
        let mut paths = files(&self.corpus)?;
        paths.sort();
        let read = |path: PathBuf| MemoryMap::read(&path).map(|map| MapInput::from(&map)).map_err(FuzzError::Corpus);
        paths.into_iter().map(read).collect()
    }

    /// Writes a finding under its key, or its other name. None: it was there.
    pub fn save_finding(&self, name: &str, toml: &str) -> Result<Option<PathBuf>, FuzzError> {
        save(&self.findings, name, toml)
    }

    /// Writes a map under a name that is made of it.
    pub fn save_map(&self, input: &MapInput) -> Result<Option<PathBuf>, FuzzError> {
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        save(&self.corpus, &format!("{:016x}", hasher.finish()), &input.to_map().to_toml())
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, FuzzError> {
    let failed = |error| FuzzError::file("read the folder", folder, error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed));
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == TOML);
    paths.filter(|path| path.as_ref().map_or(true, is_toml)).collect()
}

/// Writes to a temporary file beside it, and gives it its name when it is whole.
fn save(folder: &Path, name: &str, text: &str) -> Result<Option<PathBuf>, FuzzError> {
    let path = folder.join(format!("{name}.{TOML}"));
    if path.exists() {
        return Ok(None);
    }
    let write = || -> Result<(), std::io::Error> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|error| FuzzError::file("write", &path, error))?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::synthesize::{Class, synthesize};

    #[test]
    fn what_is_saved_is_found_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&place.path().join("a/b")).unwrap();
        let input = MapInput::from(&synthesize(2013, Class::Odd));
        assert!(folder.save_map(&input).unwrap().is_some());
        assert_eq!(folder.save_map(&input).unwrap(), None);
        assert_eq!(folder.corpus().unwrap(), [input]);
        let key = "reserved-bit.RuntimeServicesData.map.PDE";
        let path = folder.save_finding(key, "").unwrap().unwrap();
        assert!(path.ends_with("findings/reserved-bit.RuntimeServicesData.map.PDE.toml"));
        folder.save_finding("ended-by-SIGSEGV", "").unwrap();
        assert_eq!(folder.known().unwrap(), HashSet::from([key.parse().unwrap()]));
    }

    #[test]
    fn a_corrupt_map_is_an_error_with_its_place() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        fs::write(place.path().join("corpus/bad.toml"), "[[descriptor]]\ntype = 7-\n").unwrap();
        let error = format!("{:?}", folder.corpus().unwrap_err());
        assert!(error.contains("bad.toml") && error.contains("2:"), "{error}");
    }
}
