//! A report as one page for a browser: both address spaces side by side, what leads where, findings in place, and the walk of any
//! page. The page is one file that loads nothing, and works from a disk.
//!
//! | file | holds |
//! | --- | --- |
//! | `picture` | what the page's script draws, as it stands in the page |
//! | `of_report` | that of a run |
//! | `of_map` | that of a map by itself |
//! | `owners` | whose a physical page is |
//! | `markup` | the page around it |
//! | `page.js`, `page.css` | what the browser runs: it draws, and has no rules of its own |

mod markup;
mod of_map;
mod of_report;
mod owners;
mod picture;

use markup::{Item, Page};

use super::Report;
use super::map::MapReport;

/// The page of a run. Where the run has no tables ([`Scenario::dump_tables`](crate::Scenario::dump_tables)), it has no walks.
pub fn of_report(command: &str, report: &Report) -> String {
    of_reports(command, &[("", report)])
}

/// The page of runs that belong together, each with its title among them.
pub fn of_reports(command: &str, reports: &[(&str, &Report)]) -> String {
    let (picture, items) = of_report::picture(reports);
    let facts = reports.iter().flat_map(|(title, report)| of_report::facts(title, report)).collect();
    let sources: Vec<&str> = reports.iter().map(|(_, report)| report.source.as_str()).collect();
    let lists = reports.iter().flat_map(|(title, report)| of_report::lists(title, report)).collect();
    Page {
        title: format!("{command} {}", sources.join(" ")),
        headlines: reports.iter().map(|(title, report)| of_report::headline(title, report)).collect(),
        facts,
        items_title: "Findings",
        no_items: of_report::no_findings(reports),
        items,
        lists,
        picture,
    }
    .to_html()
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
        lists: Vec::new(),
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
