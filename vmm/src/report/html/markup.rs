//! The page around the drawing. All text is escaped where it is put in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::ladder::{self, Walk};
use super::picture::Picture;
use crate::report::style::printable;

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// All that a page has.
pub struct Page {
    pub title: String,
    pub headlines: Vec<Headline>,
    /// What was run, by name.
    pub facts: Vec<(String, String)>,
    /// What the list of items is called, and what stands there if it is empty.
    pub items_title: &'static str,
    pub no_items: String,
    /// Each at its place of [`Picture::places`].
    pub items: Vec<Item>,
    pub walks: Vec<Walk>,
    pub lists: Vec<List>,
    pub picture: Picture,
}

/// A verdict, and a line on it.
pub struct Headline {
    pub line: String,
    pub verdict: &'static str,
    pub is_good: bool,
}

/// Something to be shown in the drawing: a finding, or the like.
pub struct Item {
    pub title: String,
    /// As the text report has them.
    pub lines: Vec<String>,
    /// Whether it may be right.
    pub is_doubt: bool,
}

/// Text that has no place in the drawing.
pub struct List {
    pub title: String,
    pub lines: Vec<String>,
}

impl Page {
    /// The page, as one file.
    pub fn to_html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy());
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="generator" content={ "efibed " (env!("CARGO_PKG_VERSION")) };
                    title { "efibed " (printable(&self.title)) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    (self.header())
                    main {
                        (drawing())
                        (self.panel())
                    }
                    script type="application/json" id="picture" { (PreEscaped(embedded(&self.picture))) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }

    fn header(&self) -> Markup {
        html! {
            header {
                h1 { span.brand { "efibed" } " " (printable(&self.title)) }
                @for headline in &self.headlines {
                    p.headline.good[headline.is_good].bad[!headline.is_good] data-verdict=(headline.verdict) { (printable(&headline.line)) }
                }
                dl.facts {
                    @for (name, value) in &self.facts {
                        div { dt { (printable(name)) } dd { (printable(value)) } }
                    }
                }
            }
        }
    }

    fn panel(&self) -> Markup {
        html! {
            div.panel {
                section #selection aria-labelledby="selection-title" {
                    h2 #selection-title { "Selected" }
                    div #selected aria-live="polite" {
                        p.hint { "Select a block of the drawing, or press " kbd { "/" } " and type an address." }
                    }
                    div #walk {}
                }
                section #items aria-labelledby="items-title" {
                    h2 #items-title { (self.items_title) " " span.count { (self.items.len()) } }
                    @if self.items.is_empty() { p.none { (printable(&self.no_items)) } }
                    ol {
                        @for (index, item) in self.items.iter().enumerate() { (one(index, item)) }
                    }
                }
                @for walk in &self.walks { (ladder::section(walk)) }
                @for list in &self.lists {
                    section.said {
                        h2 { (printable(&list.title)) }
                        pre { (printable_lines(&list.lines)) }
                    }
                }
                section #regions aria-labelledby="regions-title" {
                    h2 #regions-title { "Regions" }
                    div.scrolled tabindex="0" aria-labelledby="regions-title" { table {
                        thead { tr {
                            th scope="col" { "#" } th scope="col" { "type" } th scope="col" { "virtual" }
                            th scope="col" { "physical" } th scope="col" { "pages" } th scope="col" { "verdict" }
                        } }
                        tbody {}
                    } }
                }
            }
        }
    }
}

fn one(index: usize, item: &Item) -> Markup {
    html! {
        li.doubt[item.is_doubt] data-item=(index) {
            button type="button" { (printable(&item.title)) }
            @if !item.lines.is_empty() { pre { (printable_lines(&item.lines)) } }
        }
    }
}

/// Lines are printable one by one: a newline in one of them is no newline of the page.
fn printable_lines(lines: &[String]) -> String {
    lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
}

/// What the script fills.
fn drawing() -> Markup {
    html! {
        section.drawing aria-labelledby="drawing-title" {
            h2.unseen #drawing-title { "Address spaces" }
            div.tools {
                fieldset #views { legend.unseen { "View" } }
                fieldset #scales {
                    legend.unseen { "Scale" }
                    label title="The height of a block is the logarithm of its size" { input type="radio" name="scale" value="even" checked; "even" }
                    label title="The height of a mapped block is its size; holes and what is not mapped are cut" { input type="radio" name="scale" value="true"; "to scale" }
                }
                div.zoom role="group" aria-label="Zoom" {
                    button type="button" #zoom-out title="Zoom out (-)" aria-label="Zoom out" { "−" }
                    button type="button" #zoom-in title="Zoom in (+)" aria-label="Zoom in" { "+" }
                    button type="button" #zoom-all title="Show all (0, Escape)" { "all" }
                }
                input #search type="search" placeholder="address, #region or type  ( / )" aria-label="Find an address, a region's number or a type" spellcheck="false" autocomplete="off";
            }
            div #stage tabindex="0" role="application" aria-roledescription="drawing of address spaces" aria-label="Virtual addresses on the left, physical ones on the right" aria-describedby="keys" {}
            p #status role="status" {}
            div #legend aria-label="Legend" {}
            p #keys {
                kbd { "↑" } kbd { "↓" } " block, " kbd { "←" } kbd { "→" } " column, " kbd { "Enter" } " zoom to it, "
                kbd { "Page Up" } kbd { "Page Down" } " page, " kbd { "+" } kbd { "−" } " zoom, " kbd { "Escape" } " all, " kbd { "/" } " find, "
                kbd { "n" } " next in the list. The wheel zooms, dragging moves."
            }
            noscript { p { "The drawing needs JavaScript. The lists do not." } }
        }
    }
}

/// The picture as JSON that no text in it can end: `<` stands in strings only, and is written as an escape.
fn embedded(picture: &Picture) -> String {
    // Every key is a string and no value can refuse: this does not fail. If it ever does, the script says that it has no picture.
    serde_json::to_string(picture).unwrap_or_else(|_| "null".into()).replace('<', "\\u003c")
}

/// The page's own script and style, by their hashes, and nothing else: nothing is loaded, sent or run that is not in this file.
fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    let (script, style) = (hash(SCRIPT), hash(STYLE));
    format!("default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; form-action 'none'")
}

#[cfg(test)]
mod tests {
    use super::super::{of_report, of_reports};
    use crate::report::samples;

    #[test]
    fn text_from_input_is_text_in_the_page() {
        let hostile = "</script><script>alert(1)</script><!-- \"'&\u{1b}[2J";
        let mut report = samples::reserved_bit();
        report.source = hostile.into();
        report.findings[0].message = hostile.into();
        report.notes = vec![hostile.into()];
        let page = of_reports(hostile, &[(hostile, &report)]);
        assert!(!page.contains("<script>alert") && !page.contains("<!--") && !page.contains('\u{1b}'), "{page}");
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
        let json = page.split("id=\"picture\">").nth(1).unwrap().split("</script>").next().unwrap();
        let picture: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(picture["views"][0]["name"], format!("{hostile}: where regions are to go"));
    }

    #[test]
    fn a_page_loads_nothing() {
        let page = of_report("check", &samples::reserved_bit());
        // The namespace of SVG is a name and no address, and a pattern of the page's own is in the page.
        let page = page.replace("http://www.w3.org/2000/svg", "").replace("url(#", "");
        for loading in
            ["http:", "https:", " src=", " href=", "@import", "url(", "onclick=", "onload=", "fetch(", "import("]
        {
            assert!(!page.contains(loading), "{loading}");
        }
    }

    #[test]
    fn a_finding_stands_in_the_list_with_the_text_of_the_report() {
        let report = samples::reserved_bit();
        let page = of_report("check", &report);
        assert!(page.contains("<button type=\"button\">reserved-bit (error, phase map)</button>"), "{page}");
        assert!(page.contains("bits 20, 14:13 are set"));
        assert!(page.contains("data-verdict=\"findings\""));
        assert!(of_report("check", &samples::clean()).contains("None: the verdict is clean."));
    }
}
