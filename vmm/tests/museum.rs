//! `efibed museum` as its users run it.

mod said;

use std::fs;

use libtest_mimic::{Arguments, Trial};
use said::{Directory, Said, any, efibed, efibed_in, kvm, repository};
use serde_json::Value;

fn main() {
    let trials: Vec<Trial> = vec![
        any("every_bug_is_listed_by_its_number", every_bug_is_listed_by_its_number),
        any(
            "a_bug_is_told_with_its_scenario_or_why_there_is_none",
            a_bug_is_told_with_its_scenario_or_why_there_is_none,
        ),
        any("what_cannot_be_asked_for_is_a_usage_error", what_cannot_be_asked_for_is_a_usage_error),
        any("the_numbers_of_oops_are_here", the_numbers_of_oops_are_here),
        any("what_the_walker_cannot_show_is_skipped_by_name", what_the_walker_cannot_show_is_skipped_by_name),
        any("a_layout_is_told_which_bugs_it_has", a_layout_is_told_which_bugs_it_has),
        kvm("everything_is_shown_in_a_guest", everything_is_shown_in_a_guest),
        kvm("inside_and_outside_of_the_sandbox_are_the_same", inside_and_outside_of_the_sandbox_are_the_same),
        kvm("a_program_is_told_which_bugs_it_has", a_program_is_told_which_bugs_it_has),
        kvm("the_readme_shows_what_is_printed", the_readme_shows_what_is_printed),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const BAD_INPUT: i32 = 2;
const UNABLE: i32 = 3;

fn museum(arguments: &[&str]) -> Said {
    efibed([&["museum"], arguments].concat())
}

/// The rows of a document.
fn rows(document: &Value, key: &str) -> Vec<Value> {
    document[key].as_array().unwrap().clone()
}

fn every_bug_is_listed_by_its_number() {
    let said = museum(&[]).ends(CLEAN).without_errors();
    said.has(
        &said.out,
        &["1 a 2 MiB leaf chosen by the virtual address alone Linux 3 exhibits", "told only", "43 bugs"],
    );
    let bugs = rows(&museum(&["list", "--json", "-"]).ends(CLEAN).json(), "bugs");
    let numbers: Vec<u64> = bugs.iter().map(|bug| bug["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=43).collect::<Vec<_>>());
    for bug in &bugs {
        let is_shown = !rows(bug, "exhibits").is_empty();
        assert_eq!(bug["not_shown"].is_null(), is_shown, "{bug}");
    }
    let of_some = rows(&museum(&["list", "24", "7", "24", "--json", "-"]).ends(CLEAN).json(), "bugs");
    assert_eq!(of_some.iter().map(|bug| bug["number"].as_u64().unwrap()).collect::<Vec<_>>(), [7, 24]);
}

fn a_bug_is_told_with_its_scenario_or_why_there_is_none() {
    let said = museum(&["show", "1"]).ends(CLEAN).without_errors();
    said.says(&[
        "2 October 2013",
        "must find reserved-bit in region 0 at 0xfffffffeffe00000, error code 0x9, by a PDE, in phase map",
        "PA 0x7e600000 in place of 0x7e76b000",
        "leaf rule co-aligned: clean",
        "phys = 0x7e729000",
    ]);
    museum(&["show", "29"]).ends(CLEAN).says(&["not shown", "firmware of 32 bits"]);
    // The scenario is one that `check` takes.
    let folder = Directory::new();
    let bugs = rows(&museum(&["show", "24", "39", "--json", "-"]).ends(CLEAN).json(), "bugs");
    for (bug, status) in bugs.iter().zip([CLEAN, FINDINGS]) {
        let scenario = rows(bug, "exhibits")[0]["scenario"].as_str().unwrap().to_owned();
        fs::write(folder.0.join("scenario.toml"), scenario).unwrap();
        let check = ["check", &folder.file("scenario.toml"), "--engine", "walker", "--quiet"];
        efibed(check).ends(status);
    }
}

fn what_cannot_be_asked_for_is_a_usage_error() {
    for action in ["list", "show", "run"] {
        let said = museum(&[action, "44"]).ends(BAD_INPUT);
        said.complains(&["there is no bug 44: bugs have the numbers 1 to 43; `efibed museum list` has them all"]);
    }
    museum(&["show"]).ends(BAD_INPUT).complains(&["`show` needs a number"]);
    museum(&["shut"]).ends(BAD_INPUT).complains(&["possible values: list, show, run"]);
    museum(&["list", "--layout", "window"]).ends(BAD_INPUT).complains(&["for `efibed museum run`"]);
    museum(&["run", "--leaf-rule", "4k"]).ends(BAD_INPUT).complains(&["--layout"]);
    museum(&["run", "--contract", "identity=allowed"])
        .ends(BAD_INPUT)
        .complains(&["--contract is for mapping code of your own"]);
    museum(&["run", "29"]).ends(BAD_INPUT).complains(&["nothing here shows 29: `efibed museum show 29` says why"]);
    museum(&["run", "1", "--mapper", "/no/such"]).ends(BAD_INPUT).complains(&["/no/such: No such file"]);
}

/// Of the logs that have a number, each is told here.
fn the_numbers_of_oops_are_here() {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(repository("oopses")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let said = efibed(["oops", path.to_str().unwrap(), "--no-replay", "--json", "-"]);
            let document: Value = serde_json::from_str(&said.out).unwrap_or_default();
            numbers.extend(find_museum(&document));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() >= 5, "{numbers:?}");
    for number in numbers {
        museum(&["show", &number.to_string()]).ends(CLEAN).says(&[&format!("{number}. ")]);
    }
}

/// The number, wherever in a document it is.
fn find_museum(value: &Value) -> Option<u64> {
    match value {
        Value::Object(map) => map.get("museum").and_then(Value::as_u64).or_else(|| map.values().find_map(find_museum)),
        _ => None,
    }
}

fn what_the_walker_cannot_show_is_skipped_by_name() {
    let said = museum(&["run", "1", "6", "--engine", "walker", "--quiet"]).ends(CLEAN).without_errors();
    let said = said.says(&[
        "01-misaligned-leaf shown: reserved-bit in region 0 at 0xfffffffeffe00000, error code 0x9",
        "06-never-done skipped: only a guest shows it: it never ends",
        "5 exhibits: 4 shown as worked out, and their twins without the bug, 1 skipped",
    ]);
    assert!(!said.out.contains("06-never-done                 shown"), "{said}");
    // Where all is skipped nothing is right.
    let said = museum(&["run", "14", "15", "--engine", "walker", "--quiet"]).ends(UNABLE);
    said.says(&["3 exhibits: 3 skipped"]);
    let document = museum(&["run", "14", "--engine", "walker", "--quiet", "--json", "-"]).json();
    assert_eq!(document["verdict"], "incomplete");
    let said = museum(&["run", "14", "15", "--layout", "window", "--engine", "walker", "--quiet"]).ends(UNABLE);
    said.says(&["no bug could be looked for to the end; 1 skipped; 2 not about mapping code"]);
}

fn a_layout_is_told_which_bugs_it_has() {
    let run = |leaf_rule: &str, more: &[&str]| {
        let visitor = ["run", "--layout", "window", "--leaf-rule", leaf_rule, "--engine", "walker", "--quiet"];
        museum(&[&visitor, more].concat())
    };
    run("va-only", &[]).ends(FINDINGS).without_errors().says(&[
        "layout window, leaf rule va-only",
        "has bug 1: reserved-bit in region 0 at 0xfffffffeffe00000, error code 0x9",
        // It chooses leaves of 1 GiB so, too.
        "it has the bugs 1, 4;",
        "not about mapping code",
    ]);
    let exhibits = rows(&run("co-aligned", &["--json", "-"]).json(), "exhibits");
    assert!(exhibits.len() > 40);
    assert!(exhibits.iter().all(|row| row["has"] != "yes"), "{exhibits:#?}");
    let no = exhibits.iter().filter(|row| row["has"] == "no").count();
    assert!(no >= 15, "{no}");
}

/// The test of the museum: each exhibit is as it was worked out, on this machine. Results for programs have all of it.
fn everything_is_shown_in_a_guest() {
    let folder = Directory::new();
    let [json, junit, sarif] = ["a.json", "a.xml", "a.sarif"].map(|name| folder.file(name));
    let said = museum(&["run", "--quiet", "--json", &json, "--junit", &junit, "--sarif", &sarif]).ends(CLEAN);
    let said = said.without_errors();
    let document: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(document["verdict"], "clean");
    let exhibits = rows(&document, "exhibits");
    for row in &exhibits {
        let reason = row["exhibit"]["reason"].as_str().unwrap_or_default();
        let is_limit = reason.contains("this machine");
        assert!(row["verdict"] == "as-worked-out" || (row["verdict"] == "skipped" && is_limit), "{row}");
    }
    let shown = exhibits.iter().filter(|row| row["verdict"] == "as-worked-out").count();
    assert!(shown >= 30, "{said}");
    let skipped = exhibits.len() - shown;
    let xml = fs::read_to_string(junit).unwrap();
    let suite = format!(
        r#"<testsuite name="museum" tests="{}" skipped="{}" errors="0" failures="0""#,
        2 * exhibits.len(),
        2 * skipped
    );
    assert!(xml.contains(&suite), "{xml}");
    assert!(xml.contains(r#"classname="bug 24: twin""#) && xml.contains(r#"classname="bug 24: exhibit""#), "{xml}");
    let sarif: Value = serde_json::from_str(&fs::read_to_string(sarif).unwrap()).unwrap();
    assert_eq!(sarif["runs"][0]["results"], serde_json::json!([]));
}

fn inside_and_outside_of_the_sandbox_are_the_same() {
    for arguments in
        [&["run", "1", "5", "9", "20", "24", "--quiet"][..], &["run", "1", "--layout", "packed-up", "--quiet"]]
    {
        let [inside, outside] = [&[][..], &["--no-sandbox"]].map(|more| museum(&[arguments, more].concat()));
        assert_eq!((inside.status, &inside.out, &inside.err), (outside.status, &outside.out, &outside.err));
    }
}

fn a_program_is_told_which_bugs_it_has() {
    let folder = Directory::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/hostile.c");
    let built = |attack: &str, elf: &str| {
        let compiler = format!("cc -DATTACK={attack}");
        let variables = [("CC", compiler.as_str()), ("LC_ALL", "C")];
        efibed_in(&folder, &variables, &["build", source, "-o", elf]).ends(CLEAN);
        folder.file(elf)
    };
    let wrong = built("1 -DBY_VIRTUAL_ALIGNMENT=1", "wrong.elf");
    let said = museum(&["run", "1", "15", "--mapper", &wrong, "--quiet"]).ends(FINDINGS).without_errors();
    said.says(&["wrong.elf", "has bug 1: reserved-bit in region 0 at ", "not about mapping code", "it has bug 1;"]);
    let right = built("-1", "right.elf");
    let said = museum(&["run", "1", "3", "24", "--mapper", &right, "--quiet"]).ends(CLEAN).without_errors();
    said.says(&["right.elf", "none of the known bugs was found", "5 without the bug"]);
    let walker = museum(&["run", "1", "--mapper", &right, "--engine", "walker"]);
    walker.ends(BAD_INPUT).complains(&["--mapper needs the engine kvm"]);
}

fn the_readme_shows_what_is_printed() {
    let readme = fs::read_to_string(repository("../README.md")).unwrap();
    let (_, example) = readme.split_once("$ efibed museum ").expect("README has an example");
    let (command, shown) = example.split_once('\n').unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let words: Vec<&str> = command.split(' ').chain(["--quiet"]).collect();
    let said = museum(&words);
    assert_eq!(said.out, shown, "{said}");
}
