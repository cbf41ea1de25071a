//! A finding as a file: a scenario that `efibed check` runs, with what it showed as a comment.

use std::path::Path;

use crate::Scenario;

/// The text of such a file: in a line what it is, the report on it, the map, and how it is mapped. An ELF file is named by
/// this path. A function of a process has no name in a file: the report says which it was.
pub fn scenario_to_toml(what: &str, report: &str, map: &str, scenario: &Scenario, elf: Option<&Path>) -> String {
    // From the root, since the scenario may lie in any folder.
    let elf = elf.map(|path| path.canonicalize().unwrap_or_else(|_| path.into()));
    let tables = scenario.tables_to_toml(elf.as_deref());
    format!("{}#\n{}\n{}{tables}", comment(what), comment(report), map)
}

/// A text as comments of TOML, which must not have control characters.
fn comment(text: &str) -> String {
    let line = |line: &str| format!("# {}", line.replace(char::is_control, " ")).trim_end().to_owned() + "\n";
    text.lines().map(line).collect()
}
