//! Several maps in one go: which are meant, a line for each, and what they come to.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::message::tell_styled;
use super::results::{Results, Wanted};
use super::{Failure, Status, output};
use crate::report::json::pretty;
use crate::report::junit::{Case, Outcome, Suite};
use crate::report::sarif::{Notice, Part};
use crate::report::style::{Paint, counted};
use crate::report::{Report, RunVerdict};

/// The files that are meant, each once, in the order in which they were named, and in folders by name. None: it is one map,
/// and not a folder of them.
pub fn files(paths: &[PathBuf]) -> Result<Option<Vec<PathBuf>>, Failure> {
    if let [path] = paths
        && !is_folder_of_maps(path)
    {
        return Ok(None);
    }
    let mut files = Vec::new();
    for path in paths {
        if is_folder_of_maps(path) {
            let before = files.len();
            in_folder(path, &mut files)?;
            if files.len() == before {
                return Err(Failure::Output(format!("{}: no file is in this folder", path.display())));
            }
        } else {
            files.push(path.clone());
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    Ok(Some(files))
}

/// More than anybody has, and few enough to hold in memory what is said of each.
const MAX_FILES: usize = 1 << 16;

/// Any but Linux's runtime-map, which has a folder for each descriptor, numbered from 0.
fn is_folder_of_maps(path: &Path) -> bool {
    path.is_dir() && !path.join("0").is_dir()
}

/// Adds the files in a folder, and those in its folders. Symbolic links to folders are not followed: they may lead back.
fn in_folder(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Output(format!("{}: {error}", folder.display()));
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
    entries.retain(|entry| !is_left_out(entry.file_name().as_encoded_bytes()));
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            if is_folder_of_maps(&path) { in_folder(&path, files)? } else { files.push(path) }
        } else if path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            let problem = format!("{}: more than {MAX_FILES} files; name fewer", folder.display());
            return Err(Failure::Output(problem));
        }
    }
    Ok(())
}

/// Hidden, or what is written about maps.
fn is_left_out(name: &[u8]) -> bool {
    name.starts_with(b".") || name.ends_with(b".md")
}

/// What a file is called.
pub fn name(file: &Path) -> String {
    file.display().to_string()
}

/// How many are checked at a time, unless somebody says.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// What came of one map.
#[derive(Clone, Serialize, Deserialize)]
pub struct Row {
    status: Status,
    /// The file.
    name: String,
    verdict: String,
    /// The verdict and how much it stands for, on one line; or why there is none.
    line: String,
    /// Why there is no report, at length.
    words: String,
    /// The report as JSON, where it is wanted and there is one.
    json: Option<String>,
    suites: Vec<Suite>,
    parts: Vec<Part>,
}

impl Row {
    /// One of a run.
    pub fn of(name: &str, report: &Report, wanted: Wanted) -> Self {
        let json = || crate::report::json::to_json(report);
        let Results { status, json, suites, parts, .. } =
            Results::of(Status::of(report), String::new(), wanted, json, &[(name, report)]);
        Self {
            status,
            name: name.into(),
            verdict: report.verdict().to_string(),
            line: report.headline(),
            words: String::new(),
            json: Some(json).filter(|json| !json.is_empty()),
            suites,
            parts,
        }
    }

    /// One of a map of which there is no report.
    pub fn of_failure(name: &str, failure: Failure) -> Self {
        let message = failure.in_short();
        let (status, words) = failure.in_words();
        let case = Case::new("run", "the whole run");
        let case = case.with(Outcome::Error { kind: "not-done".into(), message: message.clone() });
        Self {
            status,
            name: name.into(),
            verdict: RunVerdict::Incomplete.to_string(),
            line: match message.strip_prefix(&format!("{name}:")) {
                // The name stands before it.
                Some(place) if place.starts_with(|c: char| c.is_ascii_digit()) => format!("not checked: at {place}"),
                Some(problem) => format!("not checked:{problem}"),
                None => format!("not checked: {message}"),
            },
            words,
            json: None,
            suites: vec![Suite { name: name.into(), time: Duration::ZERO, cases: vec![case] }],
            parts: vec![Part { results: Vec::new(), notices: vec![Notice { message, file: Some(name.into()) }] }],
        }
    }
}

/// Runs something that tells the row of each file by its index as it ends, in any order; the rows in the files' order. A
/// file of which nothing was told was not checked.
pub fn in_order(
    files: &[PathBuf],
    progress: &(dyn Fn(u64, u64) + Sync),
    run: impl FnOnce(&(dyn Fn(usize, Result<Row, Failure>) + Sync)) -> Result<(), Failure>,
) -> Result<Vec<Row>, Failure> {
    let rows = Mutex::new((0, vec![None; files.len()]));
    progress(0, files.len() as u64);
    run(&|index, row| {
        let row = row.unwrap_or_else(|failure| Row::of_failure(&name(&files[index]), failure));
        let mut rows = rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        rows.0 += 1;
        rows.1[index] = Some(row);
        progress(rows.0, files.len() as u64);
    })?;
    let (_, rows) = rows.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let untold = |file: &PathBuf| Row::of_failure(&name(file), Failure::Output("nothing came of it".into()));
    Ok(rows.into_iter().zip(files).map(|(row, file)| row.unwrap_or_else(|| untold(file))).collect())
}

/// What all of them come to. Why something was not checked is told on standard error, too.
pub fn results(rows: &[Row], paint: Paint, wanted: Wanted) -> Results {
    for row in rows.iter().filter(|row| !row.words.is_empty()) {
        tell_styled(&row.words, output::colours_of_errors());
    }
    let statuses: Vec<Status> = rows.iter().map(|row| row.status).collect();
    let json = || to_json(rows);
    let suites = || rows.iter().flat_map(|row| row.suites.clone()).collect();
    let parts = || rows.iter().flat_map(|row| row.parts.clone()).collect();
    Results::new(Status::of_all(&statuses), text(rows, paint), wanted, json, suites, parts)
}

/// A line for each, and the sum.
fn text(rows: &[Row], paint: Paint) -> String {
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let column = longest.min(paint.table_width() / 2) + 2;
    let mut lines: Vec<String> = rows.iter().flat_map(|row| row.lines(column, paint)).collect();
    lines.push(String::new());
    lines.push(sum(rows));
    if let Some(row) = rows.iter().find(|row| row.status == Status::Findings) {
        lines.push(format!("The whole report:  efibed check {}  (and the same options)", row.name));
    }
    lines.join("\n") + "\n"
}

impl Row {
    /// The name, and beside it or below it the rest.
    fn lines(&self, column: usize, paint: Paint) -> Vec<String> {
        let (title, rest) = self.line.split_at(self.line.find(':').unwrap_or(self.line.len()));
        let title = if self.status == Status::Clean { paint.right(title) } else { paint.wrong(title) };
        let line = format!("{title}{rest}");
        if self.name.chars().count() + 2 > column {
            return [self.name.clone()].into_iter().chain(paint.row("", &line, column)).collect();
        }
        paint.row(&self.name, &line, column)
    }

    fn is_as_expected(&self) -> bool {
        self.status == Status::Clean && self.verdict != RunVerdict::Clean.name()
    }
}

fn sum(rows: &[Row]) -> String {
    let count = |status: Status| rows.iter().filter(|row| row.status == status).count();
    let as_expected = rows.iter().filter(|row| row.is_as_expected()).count();
    let counts = [
        (count(Status::Clean) - as_expected, "clean"),
        (as_expected, "with the findings that their scenarios expect"),
        (count(Status::Findings), "with findings"),
        (count(Status::Unable), "incomplete"),
        (count(Status::BadInput), "not read"),
        (count(Status::Internal), "failed"),
    ];
    let counts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    format!("{}: {}", counted(rows.len() as u64, "map"), counts.join(", "))
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    verdict: String,
    maps: Vec<MapDocument<'a>>,
}

#[derive(Serialize)]
struct MapDocument<'a> {
    source: &'a str,
    verdict: &'a str,
    /// As `efibed check` of this map alone writes it.
    report: Option<&'a RawValue>,
    /// Why there is none.
    error: Option<&'a str>,
}

fn to_json(rows: &[Row]) -> String {
    let maps = rows.iter().map(|row| MapDocument {
        source: &row.name,
        verdict: &row.verdict,
        report: row.json.as_deref().and_then(|json| serde_json::from_str(json.trim_end()).ok()),
        error: (!row.words.is_empty()).then_some(&row.line),
    });
    // As `efibed check` of one: findings that are expected are no reason to fail, but findings.
    let verdicts: Vec<RunVerdict> = rows.iter().filter_map(|row| row.verdict.parse().ok()).collect();
    pretty(&Document { schema: 1, verdict: RunVerdict::of_all(&verdicts).to_string(), maps: maps.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestBed;
    use crate::{EngineName, Layout, LeafRule, MemoryMap, Scenario};

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_folder_stands_for_its_files_and_one_map_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.txt", "a.txt", ".hidden", "README.md", "deep/c.txt", "runtime-map/0/type", ".git/config"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), at("loop")).unwrap();
        let whole = ["a.txt", "b.txt", "deep/c.txt", "runtime-map"].map(at).to_vec();
        assert_eq!(files(&[folder.path().into()]).ok().unwrap(), Some(whole.clone()));
        // What was named before is not checked twice.
        let twice = files(&[at("b.txt"), folder.path().into()]).ok().unwrap().unwrap();
        assert_eq!(twice, ["b.txt", "a.txt", "deep/c.txt", "runtime-map"].map(at));
        assert_eq!(files(&[at("a.txt")]).ok().unwrap(), None);
        assert_eq!(files(&[at("runtime-map")]).ok().unwrap(), None);
        assert_eq!(files(&paths(&["absent", "too"])).ok().unwrap(), Some(paths(&["absent", "too"])));
        fs::create_dir(at("empty")).unwrap();
        assert!(files(&[at("empty")]).is_err());
    }

    fn row(leaf_rule: LeafRule) -> Row {
        let map = MemoryMap::parse(
            "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = 0x7e107000\npages = 0x400\nattribute = 'RUNTIME|WB'\n",
        );
        let scenario = Scenario::new(map.unwrap()).layout(Layout::PackedDown).leaf_rule(leaf_rule);
        let report = TestBed::without_kvm().run(&scenario.engine(EngineName::Walker)).unwrap();
        Row::of("a.toml", &report, Wanted::ALL)
    }

    #[test]
    fn nothing_that_was_not_checked_stands_under_a_good_verdict() {
        let clean = || row(LeafRule::CoAligned);
        let unread = Row::of_failure("b.toml", Failure::Output("no such file".into()));
        let verdict = |rows: &[Row]| {
            let results = results(rows, Paint::PLAIN, Wanted::ALL);
            let json: serde_json::Value = serde_json::from_str(&results.json).unwrap();
            (results.status, json["verdict"].as_str().unwrap().to_owned(), json["maps"].as_array().unwrap().len())
        };
        assert_eq!(verdict(&[clean(), clean()]), (Status::Clean, "clean".into(), 2));
        assert_eq!(verdict(&[clean(), unread.clone()]), (Status::BadInput, "incomplete".into(), 2));
        assert_eq!(verdict(&[unread, row(LeafRule::VaOnly), clean()]), (Status::Findings, "findings".into(), 3));
        let silent = in_order(&paths(&["a"]), &|_, _| {}, |_| Ok(())).ok().unwrap();
        assert_eq!(verdict(&silent), (Status::BadInput, "incomplete".into(), 1));
    }

    #[test]
    fn each_map_has_a_line_and_its_results() {
        let rows = [row(LeafRule::CoAligned), row(LeafRule::VaOnly)];
        let results = results(&rows, Paint::PLAIN, Wanted::ALL);
        let lines: Vec<_> = results.text.lines().collect();
        assert!(lines[0].starts_with("a.toml  clean: 1 region, 1024 pages"), "{lines:#?}");
        assert!(lines[1].contains("reserved-bit"), "{lines:#?}");
        assert_eq!(lines[3], "2 maps: 1 clean, 1 with findings");
        assert_eq!((results.suites.len(), results.parts.len()), (2, 2));
        let json: serde_json::Value = serde_json::from_str(&results.json).unwrap();
        assert_eq!(json["maps"][1]["report"]["findings"][0]["rule"], "reserved-bit");
    }
}
