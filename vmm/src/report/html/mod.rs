//! A report as one page for a browser: both address spaces side by side, what leads where, findings in place, and the walk of any
//! page. The page is one file that loads nothing, and works from a disk.
//!
//! | file | holds |
//! | --- | --- |
//! | `picture` | what the page's script draws, as it stands in the page |
//! | `of_report` | that of a run |
//! | `of_map` | that of a map by itself |
//! | `of_access` | that of one access on a map |
//! | `of_diff` | that of two runs |
//! | `ladder` | a walk entry by entry, for those that no table of the picture has |
//! | `owners` | whose a physical page is |
//! | `markup` | the page around it |
//! | `page.js`, `page.css` | what the browser runs: it draws, and has no rules of its own |

mod ladder;
mod markup;
mod of_access;
mod of_diff;
mod of_map;
mod of_report;
mod owners;
mod picture;

pub use ladder::{Rung, Walk};
use markup::{Item, List, Page};
pub use of_access::{Access, Mark};

use super::Report;
use super::map::MapReport;
use super::run_diff::RunDiff;

/// The page of a run. Where the run has no tables ([`Scenario::dump_tables`](crate::Scenario::dump_tables)), it has no walks.
pub fn of_report(command: &str, report: &Report) -> String {
    of_reports(command, &[("", report)])
}

/// The page of runs that belong together, each with its title among them.
pub fn of_reports(command: &str, reports: &[(&str, &Report)]) -> String {
    page_of_reports(command, reports).to_html()
}

/// The page of runs some of which could not be made, and of what there is besides.
pub fn of_runs(command: &str, runs: &[(String, Result<Report, String>)], omitted: Option<String>) -> String {
    let reports: Vec<(&str, &Report)> =
        runs.iter().filter_map(|(title, run)| Some((title.as_str(), run.as_ref().ok()?))).collect();
    let mut page = page_of_reports(command, &reports);
    let failed = runs.iter().filter_map(|(title, run)| Some(format!("{title}: {}", run.as_ref().err()?)));
    let lines: Vec<String> = failed.chain(omitted).collect();
    page.title = command.into();
    page.headlines = vec![of_report::new_findings(runs.len())];
    page.lists.extend(Some(List { title: "Not drawn".into(), lines }).filter(|list| !list.lines.is_empty()));
    page.to_html()
}

fn page_of_reports(command: &str, reports: &[(&str, &Report)]) -> Page {
    let (picture, items) = of_report::picture(reports);
    let sources: Vec<&str> = reports.iter().map(|(_, report)| report.source.as_str()).collect();
    let lists = reports.iter().flat_map(|(title, report)| of_report::lists(title, report)).collect();
    Page {
        title: format!("{command} {}", sources.join(" ")),
        headlines: reports.iter().map(|(title, report)| of_report::headline(title, report)).collect(),
        facts: of_report::facts(reports),
        items_title: "Findings",
        no_items: of_report::no_findings(reports),
        items,
        walks: Vec::new(),
        lists,
        picture,
    }
}

/// The page of a map that was only looked at, with the tables that its layout's mapping code makes of it, if a run made them.
pub fn of_map(map: &MapReport<'_>, run: Option<&Report>) -> String {
    let (picture, items) = of_map::picture(map, run);
    Page {
        title: format!("show {}", map.map.source()),
        headlines: vec![of_map::headline(map)],
        facts: of_map::facts(map),
        items_title: "Odd",
        no_items: "Nothing is odd about this map.".into(),
        items,
        walks: Vec::new(),
        lists: of_map::lists(map),
        picture,
    }
    .to_html()
}

/// The page of an access on a map.
pub fn of_access(command: &str, access: Access<'_>) -> String {
    let (picture, items) = of_access::picture(&access);
    Page {
        title: format!("{command} {}", access.title),
        headlines: vec![of_access::headline(&access)],
        facts: Vec::new(),
        items_title: "The access",
        no_items: "The log tells no address.".into(),
        // Without an address there is no place, and the text is all there is.
        lists: match items.is_empty() {
            true => vec![List { title: "What is known".into(), lines: access.lines.clone() }],
            false => Vec::new(),
        },
        items,
        walks: access.walks,
        picture,
    }
    .to_html()
}

/// The page of what changed from one run to another.
pub fn of_diff(diff: &RunDiff<'_>) -> String {
    let (picture, items) = of_diff::picture(diff);
    let not_compared = List { title: "Not compared".into(), lines: diff.not_compared.clone() };
    Page {
        title: format!("diff {}", diff.sides().map(|(file, _)| file).join(" ")),
        headlines: vec![of_diff::headline(diff)],
        facts: of_diff::facts(diff),
        items_title: "Changes",
        no_items: "None, as far as both files tell.".into(),
        items,
        walks: Vec::new(),
        lists: Some(not_compared).into_iter().filter(|list| !list.lines.is_empty()).collect(),
        picture,
    }
    .to_html()
}

/// An item of a page's list, of which only text is known.
impl Item {
    fn said(title: String, lines: Vec<String>) -> Self {
        Self { title, lines, is_doubt: false }
    }
}
