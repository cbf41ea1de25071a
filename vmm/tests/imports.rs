//! Imports run down: between rooms by the list in CONTRIBUTING.md, and between the files of a room without a circle.

#[path = "imports/graph.rs"]
mod graph;
#[path = "imports/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graph::Graph;
use source::Crate;

#[test]
fn files_have_no_circles() {
    for (name, least) in [("vmm", 500), ("guest-kernel", 10), ("efi-stub", 4)] {
        let graph = read(name).imports();
        assert!(graph.edges() >= least, "{name}: only {} imports were found", graph.edges());
        let circles = graph.circles();
        assert!(circles.is_empty(), "in {name}, files import each other in a circle:\n{}", circles.join("\n"));
    }
}

#[test]
fn imports_between_rooms_run_down() {
    let floors = floors(&fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap());
    assert!(floors.len() > 10, "{floors:?}");
    let imports = read("vmm").imports();
    let up = running_up(&imports, &floors);
    assert!(up.is_empty(), "imports that run up, or of a room that is on no floor:\n{}", up.join("\n"));
    let circles = imports.between(room).circles();
    assert!(circles.is_empty(), "rooms of one floor import each other:\n{}", circles.join("\n"));
}

/// The negative controls.
#[test]
fn a_circle_is_found_through_what_others_re_export() {
    let sources = [
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod one; mod two; pub use two::Two;"),
        ("a/one.rs", "use super::Two;\nuse crate::b::{\n    B,\n};"),
        (
            "a/two.rs",
            "/// Not [`super::one`].\nfn two() { \"super::one\"; }\n#[cfg(test)] mod tests { use super::super::one; }",
        ),
        ("b.rs", "pub struct B;"),
    ];
    assert_eq!(made_of(&sources).imports().circles(), [""; 0]);
    let mut circular = sources;
    circular[3].1 = "fn two() { let one = crate::a::one::one('\"'); }";
    assert_eq!(made_of(&circular).imports().circles(), ["a/one.rs -> a/two.rs -> a/one.rs"]);
    circular[3].1 = "use crate::b::{self as other};";
    circular[4].1 = "use crate::a::{self, one::{One, First}};";
    let found = made_of(&circular).imports().circles();
    assert_eq!(found, ["a/one.rs -> b.rs -> a/one.rs", "a/two.rs -> b.rs -> a/one.rs -> a/two.rs"]);
}

#[test]
fn an_import_that_runs_up_is_found() {
    let floors = floors(
        "From the ground:\n\n1. `ground`, `other-crate`\n2. `check`; and `report`, which stands on `ground`\n\nMore.",
    );
    assert_eq!(
        floors,
        [("ground", 1), ("other-crate", 1), ("check", 2), ("report", 2)].map(|(a, b)| (a.into(), b)).into()
    );
    let up = |text| {
        let sources = [
            ("lib.rs", "mod attic; mod ground; mod check;"),
            ("attic.rs", "pub struct Attic;"),
            ("ground/mod.rs", "mod low;"),
            ("ground/low.rs", text),
            ("check.rs", "use crate::ground::Low;"),
        ];
        running_up(&made_of(&sources).imports(), &floors)
    };
    assert_eq!(up("fn low() {}"), [""; 0]);
    assert_eq!(up("fn low() { crate::check::check() }"), ["ground/low.rs imports check.rs"]);
    assert_eq!(up("use crate::attic::Attic;"), ["ground/low.rs imports attic.rs"]);
}

/// The floor of each room, from the list of a document. A room that another one's row mentions is where it came first.
fn floors(document: &str) -> BTreeMap<String, usize> {
    let list = document.split_once("From the ground:\n\n").map_or("", |(_, list)| list);
    let mut floors = BTreeMap::new();
    for (row, line) in list.lines().take_while(|line| !line.is_empty()).enumerate() {
        for room in line.split('`').skip(1).step_by(2) {
            floors.entry(room.to_owned()).or_insert(row + 1);
        }
    }
    floors
}

/// Imports of rooms from rooms above them, and those of rooms that are on no floor. The crate's root is above all.
fn running_up(imports: &Graph, floors: &BTreeMap<String, usize>) -> Vec<String> {
    let floor = |file: &str| floors.get(&room(file)).copied();
    let wrong = |(from, to): &(&str, &str)| match (floor(from), floor(to)) {
        (Some(from), Some(to)) => from < to,
        _ => true,
    };
    let between = imports.iter().filter(|(from, to)| !is_root(from) && !is_root(to) && room(from) != room(to));
    between.filter(wrong).map(|(from, to)| format!("{from} imports {to}")).collect()
}

fn is_root(file: &str) -> bool {
    ["lib.rs", "main.rs"].contains(&file)
}

/// The room of a file: `check` for `check/mod.rs` and for `check.rs`.
fn room(file: &str) -> String {
    file.split(['/', '.']).next().unwrap_or_default().to_owned()
}

fn made_of(files: &[(&str, &str)]) -> Crate {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// The sources of a crate of the workspace.
fn read(name: &str) -> Crate {
    let (sources, mut found) = (root().join(name).join("src"), Vec::new());
    collect(&sources, &mut found);
    let named = |path: &PathBuf| path.strip_prefix(&sources).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (named(path), fs::read_to_string(path).unwrap())).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
