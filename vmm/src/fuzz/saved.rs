//! A finding as a file: a scenario that `efibed check` runs, with what it showed as a comment.

use std::path::{Path, PathBuf};

#[cfg(feature = "fuzz")]
use super::FindingKey;
use crate::Scenario;
#[cfg(feature = "fuzz")]
use crate::memory_map::MemoryMap;
#[cfg(feature = "fuzz")]
use crate::report::Report;

/// The text of such a file: in a line what it is, the report on it, the map, and how it is mapped. An ELF file is named by
/// this path, [`from_root`]. A function of a process has no name in a file: the report says which it was.
pub fn scenario_to_toml(what: &str, report: &str, map: &str, scenario: &Scenario, elf: Option<&Path>) -> String {
    let tables = scenario.tables_to_toml(elf);
    format!("{}#\n{}\n{}{tables}", comment(what), comment(report), map)
}

/// A path as such a file has it, which may lie in any folder.
pub fn from_root(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}

/// Writes what the maps of a campaign show. It is made before the process is confined, which then knows no paths.
#[cfg(feature = "fuzz")]
pub struct Writer<'s> {
    scenario: &'s Scenario,
    elf: Option<PathBuf>,
}

#[cfg(feature = "fuzz")]
impl<'s> Writer<'s> {
    /// Of all that is found with this scenario, on whatever map.
    pub fn new(scenario: &'s Scenario) -> Self {
        Self { scenario, elf: scenario.program().map(|path| from_root(Path::new(path))) }
    }

    /// The text of a file: as [`scenario_to_toml`].
    pub fn text(&self, what: &str, report: &str, map: &MemoryMap) -> String {
        scenario_to_toml(what, report, &map.to_toml(), self.scenario, self.elf.as_deref())
    }

    /// The same of a finding.
    pub fn finding(&self, key: &FindingKey, report: &Report, map: &MemoryMap) -> String {
        self.text(&format!("{key}, found by efibed fuzz"), &report.to_string(), map)
    }
}

/// A text as comments of TOML, which must not have control characters.
fn comment(text: &str) -> String {
    let line = |line: &str| format!("# {}", line.replace(char::is_control, " ")).trim_end().to_owned() + "\n";
    text.lines().map(line).collect()
}
