//! The how-to pages under `docs/` are tests: a crate outside of the workspace, made from a page alone, passes `cargo test`.
//!
//! A page's files are the code blocks that stand below their names. The only change is that efibed comes from this
//! checkout, and not from a registry. Each page has a negative control: with the bug in place of the right mapper, the same
//! tests fail, and say why.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use efibed_tests::{Need, trial};
use libtest_mimic::Arguments;

/// A page, and the change of its test that has to make it fail.
struct Page {
    name: &'static str,
    tests: u32,
    right: &'static str,
    wrong: &'static str,
    /// Whether it shows what is printed then, up to the end of the first finding.
    shows_finding: bool,
}

const PAGES: &[Page] = &[
    Page {
        name: "c-mapper",
        tests: 3,
        right: "CMapper::new(efibed_map, None)",
        wrong: "CMapper::new(buggy_map, None)",
        shows_finding: false,
    },
    Page { name: "fuzz", tests: 4, right: "LeafRule::CoAligned }", wrong: "LeafRule::VaOnly }", shows_finding: false },
    Page {
        name: "rust-mapper",
        tests: 2,
        right: "scenario(map, co_aligned)",
        wrong: "scenario(map, by_virt_alone)",
        shows_finding: true,
    },
    Page {
        name: "x86_64-crate",
        tests: 3,
        right: "scenario(map, co_aligned)",
        wrong: "scenario(map, unchecked)",
        shows_finding: false,
    },
];

/// The efibed of a page, and the part of it for build scripts; where each lies here.
const PUBLISHED: &str = r#"efibed = { version = "0.1", "#;
const PUBLISHED_GUEST: &str = r#"efibed-guest = { version = "0.1" }"#;

fn main() {
    let trials = PAGES.iter().map(|page| trial(page.name, Need::Kvm, || works_as_it_says(page))).collect();
    every_page_is_tested();
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// One page after another: Cargo cleans the executables of tests by their names, and those are the same on each.
static TURN: Mutex<()> = Mutex::new(());

fn works_as_it_says(page: &Page) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut files = files_of(page.name, &read(page.name));
    let manifest = files.get_mut("Cargo.toml").expect("a page has a Cargo.toml");
    assert!(manifest.contains(PUBLISHED), "{}: Cargo.toml has no `{PUBLISHED}`", page.name);
    let [ours, guest] = ["vmm", "guest-kernel"].map(|name| workspace().join(name));
    *manifest = manifest
        .replace(PUBLISHED, &format!("efibed = {{ path = {ours:?}, "))
        .replace(PUBLISHED_GUEST, &format!("efibed-guest = {{ path = {guest:?} }}"));
    let folder = Outside::new(page.name);

    folder.write(&files);
    let output = folder.cargo_test();
    assert!(output.status.success(), "{}", text(&output));
    // A page without tests would pass, too.
    assert!(text(&output).contains(&format!("test result: ok. {} passed", page.tests)), "{}", text(&output));

    let test = files.get_mut("tests/mapping.rs").expect("a page has tests");
    assert_eq!(test.matches(page.right).count(), 1, "{}: {}", page.name, page.right);
    *test = test.replace(page.right, page.wrong);
    folder.write(&files);
    let output = folder.cargo_test();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("1. reserved-bit (error, phase map)"), "{}", text(&output));
    let text_of_page = read(page.name);
    let shown = text_of_page.split_once("```text\n1. ").map(|(_, shown)| shown.split("```").next().unwrap());
    assert_eq!(shown.is_some(), page.shows_finding, "{}", page.name);
    assert!(text(&output).contains(shown.unwrap_or_default()), "{}: it shows another:\n{}", page.name, text(&output));
}

/// A page with a crate that is not in the list would not be run.
fn every_page_is_tested() {
    for entry in fs::read_dir(workspace().join("docs")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let has_crate = files_of(&name, &read(&name)).contains_key("Cargo.toml");
        let is_listed = PAGES.iter().any(|page| page.name == name);
        assert_eq!(has_crate, is_listed, "docs/{name}.md");
    }
}

fn read(page: &str) -> String {
    fs::read_to_string(workspace().join(format!("docs/{page}.md"))).unwrap()
}

/// The files of a page. A file's name is the line above its block, as in "`src/lib.rs`:"; blocks of what a program prints
/// have none.
fn files_of(page: &str, text: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let (mut above, mut lines) = ("", text.lines());
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let contents = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            match above.strip_prefix('`').and_then(|line| line.strip_suffix("`:")) {
                Some(name) => assert!(files.insert(name.into(), contents).is_none(), "{page}: {name} is there twice"),
                None => assert_eq!(language, "text", "{page}: this block has no file name:\n{contents}"),
            }
        } else if !line.is_empty() {
            above = line;
        }
    }
    files
}

/// A folder that no workspace is around. It is removed in the end, with what was built of it.
struct Outside {
    folder: PathBuf,
}

impl Outside {
    fn new(page: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("efibed-docs-{page}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        // The dependencies of the page are those of the workspace, in the same versions: they are on this machine already.
        fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        Self { folder }
    }

    fn write(&self, files: &BTreeMap<String, String>) {
        for (name, contents) in files {
            let file = self.folder.join(name);
            assert!(file.starts_with(&self.folder) && !name.contains(".."), "{name}");
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            // Cargo builds again what is newer, and does not look at what has not changed.
            if fs::read_to_string(&file).ok().as_ref() != Some(contents) {
                fs::write(&file, contents).unwrap();
            }
        }
    }

    fn cargo_test(&self) -> Output {
        // A skipped test would pass for a test.
        self.cargo("test").env("EFIBED_REQUIRE_KVM", "1").env("RUST_BACKTRACE", "0").output().unwrap()
    }

    fn cargo(&self, command: &str) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        // What all pages depend on is built once.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs");
        cargo.current_dir(&self.folder).args([command, "--offline", "--target-dir"]).arg(target);
        cargo
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // What is left over is in the way of nothing.
        let manifest = fs::read_to_string(self.folder.join("Cargo.toml")).unwrap_or_default();
        if let Some(name) = manifest.lines().find_map(|line| line.strip_prefix("name = ")) {
            let _ = self.cargo("clean").args(["--package", name.trim_matches('"')]).output();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).join("\n")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}
