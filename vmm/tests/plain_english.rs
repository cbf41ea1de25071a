//! What the command prints, the documents and the comments keep to plain, modern English.

mod said;

use std::fs;
use std::path::{Path, PathBuf};

use said::efibed;

/// Phrases that were once here. Each has a plainer one, and no other use worth keeping.
const ARCHAIC: &[&str] = &[
    "has them not",
    "have them not",
    "has it not",
    "has not got",
    "knows not",
    "is it to be",
    "whoever",
    "to which end",
    "were it ever",
    "got away with",
    "takes it that",
    "shall",
    "nobody owes",
    "all the same",
    "the very same",
    "save for",
    "but for",
    "for it is",
    "for there is",
    "for there are",
    "for there were",
    "nothing is said",
    "nobody objects",
    "no other back",
    "no regard",
    "at the most",
    "be had",
    "put down to",
    "held against",
    "otherwise than",
    "came to nothing",
    "comes to nothing",
];

#[test]
fn every_help_text_is_plain() {
    let commands = [
        "show",
        "check",
        "kexec",
        "build",
        "fuzz",
        "shrink",
        "convert",
        "demo",
        "explain",
        "diff",
        "oops",
        "museum",
        "matrix",
        "schema",
        "doctor",
        "completions",
        "man",
    ];
    let listed = efibed(["--help"]).out;
    for command in commands {
        assert!(listed.contains(&format!("\n  {command} ")), "{command}");
        assert_plain(command, &efibed([command, "--help"]).out);
    }
    assert_plain("efibed", &listed);
}

#[test]
fn every_rule_is_explained_plainly() {
    let list = efibed(["explain", "rules"]).out;
    let rules: Vec<_> =
        list.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next()).collect();
    assert!(rules.len() > 50 && rules.contains(&"reserved-bit"), "{list}");
    for rule in rules {
        assert_plain(rule, &efibed(["explain", rule]).out);
    }
    assert_plain("explain rules", &list);
    assert_plain("schema", &efibed(["schema"]).out);
}

/// Strings are in the sources too, whether or not a test makes the command print them.
#[test]
fn sources_and_documents_are_plain() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for room in
        ["vmm/src", "vmm/build", "vmm/tests", "vmm/benches", "guest-kernel/src", "efi-stub/src", "tests", "docs"]
    {
        collect(&root.join(room), &mut files);
    }
    assert!(files.len() > 200, "{} files", files.len());
    let own = Path::new(file!()).file_name().unwrap();
    let found: Vec<_> = files
        .iter()
        .filter(|file| !file.ends_with(own))
        .filter_map(|file| Some((file.display(), archaic(&fs::read_to_string(file).unwrap())?)))
        .map(|(file, phrase)| format!("{file} says \"{phrase}\""))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// The negative control.
#[test]
fn archaic_phrases_are_found_wherever_lines_break() {
    for (text, phrase) in [
        ("this machine has them not", "has them not"),
        ("Takes it that something is mapped", "takes it that"),
        ("firmware got away\n    with it", "got away with"),
        ("/// All is right, but\n    /// for one page.", "but for"),
        ("\"a machine answers 0x8 all \\\n    the same.\"", "all the same"),
        ("| asked | Whoever\n//! waits |", "whoever"),
    ] {
        assert_eq!(archaic(text), Some(phrase), "{text}");
    }
    for text in
        ["shallow tables", "must be items", "nothing but\n\nforms", "one was for it. Is it", "the same", "has them"]
    {
        assert_eq!(archaic(text), None, "{text}");
    }
}

#[track_caller]
fn assert_plain(name: &str, text: &str) {
    assert!(!text.is_empty(), "{name} says nothing");
    if let Some(phrase) = archaic(text) {
        panic!("{name} says \"{phrase}\"");
    }
}

/// The first archaic phrase of a text. Its words may be on two lines, of a comment or of a string.
fn archaic(text: &str) -> Option<&'static str> {
    let words = text.lines().flat_map(words_of).collect::<Vec<_>>().join(" ");
    let text = format!(" {words} ");
    ARCHAIC.iter().copied().find(|phrase| text.contains(&format!(" {phrase} ")))
}

/// The words of a line; `.` stands where punctuation ends a phrase.
fn words_of(line: &str) -> impl Iterator<Item = String> {
    let line = line.trim_start().trim_start_matches(['/', '!']).trim_end_matches('\\');
    let is_punctuation = |c: char| !c.is_alphanumeric() && c != '\'';
    line.split_whitespace().flat_map(move |word| {
        let end = word.ends_with(is_punctuation).then(|| ".".to_owned());
        std::iter::once(word.trim_matches(is_punctuation).to_lowercase()).filter(|word| !word.is_empty()).chain(end)
    })
}

/// Sources and documents under a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            files.push(path);
        }
    }
}
