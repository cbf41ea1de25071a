//! The page of `--html` in a real browser: it loads, it draws what the map has, and a click shows the walk.
//!
//! What is expected is worked out from the maps and from the layouts' definitions; a walk is compared with that of
//! `efibed explain`, which is another program's in another language. Pixels are compared with nothing: with
//! `EFIBED_SCREENSHOTS=FOLDER` each scenario leaves its pictures, light and dark, for people to look at.

#[path = "page/chromium.rs"]
mod chromium;
mod said;

use std::fmt::Write as _;
use std::fs;

use base64::Engine as _;
use chromium::Chromium;
use libtest_mimic::{Arguments, Trial};
use said::{Directory, any, efibed, kvm, repository};
use serde_json::Value;

fn main() {
    let mut trials: Vec<Trial> = SCENARIOS.iter().map(|one| browser(one.name, || one.is_drawn())).collect();
    trials.extend([
        any("a_page_is_small", a_page_is_small),
        browser("five_thousand_regions_are_not_too_much_work", five_thousand_regions_are_not_too_much_work),
        browser("a_click_shows_the_walk_of_the_page", a_click_shows_the_walk_of_the_page),
        browser("keys_go_everywhere", keys_go_everywhere),
        browser("both_kernels_have_their_views", both_kernels_have_their_views),
        browser("an_access_is_marked_on_the_map", an_access_is_marked_on_the_map),
        browser("two_runs_are_drawn_beside_each_other", two_runs_are_drawn_beside_each_other),
        new_findings(),
        browser("an_address_is_found", an_address_is_found),
        browser("a_script_that_is_not_the_pages_own_does_not_run", a_script_that_is_not_the_pages_own_does_not_run),
        browser("text_of_strangers_is_text", text_of_strangers_is_text),
        any("a_page_is_of_one_map", a_page_is_of_one_map),
    ]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A test that is ignored, by name, without Chromium; with `EFIBED_REQUIRE_CHROMIUM=1` it fails.
fn browser(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    let required = std::env::var_os("EFIBED_REQUIRE_CHROMIUM").is_some_and(|value| value == "1");
    any(name, run).with_kind("chromium").with_ignored_flag(!required && chromium::installed().is_none())
}

/// What is run, and what its page must have.
struct Scenario {
    name: &'static str,
    /// The command and its options; a file is one below `tests/`.
    command: &'static [&'static str],
    file: &'static str,
    /// The verdict of the headline.
    verdict: &'static str,
    /// Descriptors of the map, and those of them that have pages.
    regions: u64,
    physical: u64,
    /// What can be chosen to look at.
    views: u64,
    /// The rules in the list of findings, each once.
    rules: &'static [&'static str],
    /// Words that the drawing has.
    words: &'static [&'static str],
}

#[rustfmt::skip]
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "clean: window", command: &["check", "--layout", "window"], file: "maps/ovmf-2013.toml", verdict: "clean",
        regions: 5, physical: 5, views: 1, rules: &[], words: &["#2 RuntimeServicesCode", "gap of 1968 MiB"] },
    Scenario { name: "clean: linux", command: &["check"], file: "maps/off-by-page.toml", verdict: "clean",
        regions: 4, physical: 4, views: 1, rules: &[], words: &["#3 RuntimeServicesData", "0xfffffffeff600000"] },
    Scenario { name: "broken: leaves by virtual address", command: &["check", "--layout", "packed-down", "--leaf-rule", "va-only"],
        file: "maps/ovmf-2013.toml", verdict: "findings", regions: 5, physical: 5, views: 1, rules: &["reserved-bit"],
        words: &["nothing translates"] },
    Scenario { name: "broken: the same, masked", command: &["check", "--layout", "packed-down", "--leaf-rule", "va-only-masked"],
        file: "maps/ovmf-2013.toml", verdict: "findings", regions: 5, physical: 5, views: 1, rules: &["wrong-frame"],
        words: &["#0 BootServicesData"] },
    Scenario { name: "4 KiB leaves", command: &["check", "--layout", "window", "--leaf-rule", "4k"], file: "maps/ovmf-2013.toml",
        verdict: "clean", regions: 5, physical: 5, views: 1, rules: &[], words: &["#4 BootServicesData"] },
    Scenario { name: "no room", command: &["check", "--layout", "window"], file: "maps/over-64g.toml", verdict: "findings",
        regions: 5, physical: 5, views: 1, rules: &["window-overflow"], words: &["#4 MemoryMappedIO"] },
    Scenario { name: "overlap", command: &["check", "--layout", "window"], file: "maps/bad/overlap.toml", verdict: "findings",
        regions: 4, physical: 4, views: 1, rules: &["map-overlap"], words: &["#2 RuntimeServicesData", "#3 BootServicesData"] },
    Scenario { name: "a region that wraps", command: &["check", "--layout", "window"], file: "maps/bad/wrap.toml",
        verdict: "findings", regions: 4, physical: 4, views: 1, rules: &["map-wrap"], words: &["#3 MemoryMappedIO"] },
    Scenario { name: "shown only", command: &["show"], file: "maps/ovmf-2013.toml", verdict: "shown",
        regions: 5, physical: 5, views: 3, rules: &[], words: &["#2 RuntimeServicesCode"] },
    Scenario { name: "a real map", command: &["check"], file: "truth/q35-2g.memmap.txt", verdict: "clean",
        regions: 123, physical: 123, views: 2, rules: &[], words: &["ConventionalMemory"] },
];

impl Scenario {
    fn is_drawn(&self) {
        let folder = Directory::new();
        let mut arguments = self.command.to_vec();
        if self.command[0] == "check" {
            arguments.extend(["--engine", "walker"]);
        }
        let page = page(&folder, &arguments, self.file);
        let mut browser = Chromium::start();
        browser.open(&page);
        assert_eq!(browser.value("document.querySelector('.headline').dataset.verdict"), self.verdict);
        assert_eq!(browser.count("#regions tbody tr"), self.regions, "rows of regions");
        assert_eq!(browser.value("state.view.blocks[1].length"), self.physical, "physical blocks");
        assert_eq!(browser.count("#views input"), self.views, "views");
        let mut rules: Vec<String> = titles(&mut browser);
        rules.dedup();
        assert_eq!(rules, self.rules);
        assert_eq!(browser.value("places.length"), browser.count("#items li"));
        let drawn = browser.value("document.querySelector('#stage svg').textContent");
        for word in self.words {
            assert!(drawn.as_str().unwrap().contains(word), "{word} is not drawn: {drawn}");
        }
        self.every_item_can_be_chosen(&mut browser);
        keep_pictures(&mut browser, self.name);
        assert_eq!(browser.complaints, [""; 0]);
    }

    fn every_item_can_be_chosen(&self, browser: &mut Chromium) {
        for item in 0..browser.count("#items li") {
            browser.click(&format!("#items li:nth-child({}) button", item + 1));
            assert_eq!(browser.value("state.item"), item);
            let is_placed = browser.value("places[state.item].first !== undefined");
            let marks = browser.count(".mark.chosen");
            assert_eq!(marks == 1, is_placed == true, "the mark of item {item}");
        }
    }
}

/// The rules of the list.
fn titles(browser: &mut Chromium) -> Vec<String> {
    let titles =
        browser.value("[...document.querySelectorAll('#items li button')].map(one => one.textContent.split(' ')[0])");
    serde_json::from_value(titles).unwrap()
}

/// Writes a page, and says where.
fn page(folder: &Directory, arguments: &[&str], file: &str) -> String {
    let page = folder.file("page.html");
    let file = if file.starts_with('/') { file.to_owned() } else { repository(file) };
    let said = efibed(arguments.iter().copied().chain([file.as_str(), "--html", &page]));
    assert!(said.status <= 1, "{said}");
    page
}

/// Where somebody wants to look at them.
fn keep_pictures(browser: &mut Chromium, name: &str) {
    let Some(folder) = std::env::var_os("EFIBED_SCREENSHOTS") else { return };
    for scheme in ["light", "dark"] {
        browser.colour_scheme(scheme);
        let picture = base64::engine::general_purpose::STANDARD.decode(browser.screenshot()).unwrap();
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        fs::write(std::path::Path::new(&folder).join(format!("{name}-{scheme}.png")), picture).unwrap();
    }
    browser.colour_scheme("light");
}

/// More than is promised for a page.
fn a_page_is_small() {
    for file in ["truth/q35-2g.memmap.txt", "maps/hp-01.txt"] {
        let folder = Directory::new();
        let page = page(&folder, &["check", "--engine", "walker"], file);
        let bytes = fs::metadata(&page).unwrap().len();
        assert!(bytes < 2_000_000, "{file}: {bytes} bytes");
    }
}

/// A map of so many regions, every second one of them firmware's, each a page and after a hole.
fn many_regions(regions: u64) -> String {
    let mut map = String::new();
    for index in 0..regions {
        let (ty, attribute) = [("RT_Data", 0x8000_0000_0000_000f_u64), ("Available", 0xf)][(index % 2) as usize];
        let first = 0x10_0000 + index * 0x4000;
        writeln!(map, "{ty:<10} {first:016X}-{:016X} 0000000000000002 {attribute:016X}", first + 0x1fff).unwrap();
    }
    map
}

/// What the page's script does to load and to zoom grows with the map, and not with its square: that would take minutes. Work is
/// counted, since times are those of the machine and of what else it does.
fn five_thousand_regions_are_not_too_much_work() {
    const REGIONS: u64 = 5000;
    /// Twice the regions are twice the work, and a little more where something is sorted; four times it, where each region is
    /// compared with each.
    const MOST_GROWTH: f64 = 2.5;
    let folder = Directory::new();
    let mut browser = Chromium::start();
    browser.count_work();
    let works = [REGIONS / 2, REGIONS].map(|regions| {
        let file = folder.file("map.txt");
        fs::write(&file, many_regions(regions)).unwrap();
        let page = page(&folder, &["check", "--engine", "walker", "--layout", "window"], &file);
        let load = browser.work(|browser| browser.open(&page));
        assert_eq!(browser.count("#regions tbody tr"), regions);
        let zoom = browser.work(|browser| _ = browser.value("zoom(0, 300, 1.3)"));
        [load, zoom]
    });
    println!(
        "{REGIONS} regions: blocks of script that ran to load and to zoom, for half of them and for all: {works:?}"
    );
    let [half, all] = works;
    for (what, (half, all)) in ["load", "zoom"].into_iter().zip(half.into_iter().zip(all)) {
        assert!(half > 100, "{what}: next to no work was counted: {works:?}");
        assert!(all as f64 <= half as f64 * MOST_GROWTH, "to {what}: {works:?}");
    }
    // What is too small to be seen is not drawn: the drawing is as large as the window.
    let drawn = browser.count("#stage svg *");
    assert!(drawn < 20_000, "{drawn} elements are drawn");
    keep_pictures(&mut browser, "five thousand regions");
    assert_eq!(browser.complaints, [""; 0]);
}

/// Of several pages of a real map, every entry that the page shows is the one that `explain` shows.
fn a_click_shows_the_walk_of_the_page() {
    let folder = Directory::new();
    let file = repository("maps/hp-01.txt");
    let mut browser = Chromium::start();
    browser.open(&page(&folder, &["check", "--engine", "walker"], &file));
    browser.click("#regions tr[data-region='40'] button");
    // The page's own choice: where a click of the mouse on the region's block comes to.
    browser.click("#stage g.block.chosen rect");
    let mut pages = vec![browser.value("hex(state.chosen.address)")];
    for expression in ["turnPage(1n)", "find('0x6d0fe000')", "find('0xfffffffcc6c00000')", "find('#39')"] {
        browser.value(&format!("{expression}, 0"));
        pages.push(browser.value("hex(state.chosen.address)"));
        is_as_explained(&mut browser, &file);
    }
    pages.dedup();
    assert_eq!(pages.len(), 5, "{pages:?}");
    assert_eq!(browser.complaints, [""; 0]);
}

/// The walk in the page has the entries of `efibed explain`: level, address, value.
fn is_as_explained(browser: &mut Chromium, file: &str) {
    let address = browser.value("hex(state.chosen.address)");
    let explained = efibed(["explain", file, address.as_str().unwrap()]).ends(0);
    let first_phase = explained.out.split("Phase `finish`").next().unwrap();
    let rows = first_phase.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let level = words.next().filter(|level| ["PML4E", "PDPTE", "PDE", "PTE"].contains(level))?;
        let at = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        Some(format!("{level} {at:#x} {}", words.next()?))
    });
    let shown = browser.value(
        "[...document.querySelectorAll('.walk tbody tr:not(.bits)')].map(row => [0, 1, 2].map(nth => row.cells[nth].textContent))",
    );
    let shown = shown.as_array().unwrap().iter().map(|row| {
        let words: Vec<&str> = row.as_array().unwrap().iter().map(|cell| cell.as_str().unwrap()).collect();
        format!("{} {} {}", words[0].split(' ').next().unwrap(), words[1], words[2])
    });
    let (shown, explained): (Vec<_>, Vec<_>) = (shown.collect(), rows.collect());
    assert!(explained.len() >= 3, "{first_phase}");
    assert_eq!(shown, explained, "of {address}");
}

fn keys_go_everywhere() {
    let folder = Directory::new();
    let mut browser = Chromium::start();
    let command = ["check", "--engine", "walker", "--layout", "packed-down", "--leaf-rule", "va-only"];
    browser.open(&page(&folder, &command, "maps/ovmf-2013.toml"));
    let chosen =
        |browser: &mut Chromium| browser.value("state.chosen && [state.chosen.column, state.chosen.block.index]");
    browser.value("stage.focus(), 0");
    for (key, expected) in [
        ("ArrowDown", Some((0, 0))),
        ("ArrowDown", Some((0, 1))),
        ("ArrowUp", Some((0, 0))),
        ("End", None),
        ("Home", Some((0, 0))),
    ] {
        browser.press(key);
        let now = chosen(&mut browser);
        assert!(expected.is_none_or(|(column, index)| now == serde_json::json!([column, index])), "{key}: {now}");
    }
    // In the list, the next one: it is chosen and zoomed to.
    browser.press("n");
    assert_eq!(browser.value("state.item"), 0);
    assert_eq!(browser.value("isAllShown()"), false);
    assert!(browser.text("#walk").contains("Reserved bits are set: bits 20, 18:17, 14:13 are set"));
    browser.press("Escape");
    assert_eq!(browser.value("isAllShown()"), true);
    browser.press("Escape");
    assert_eq!(chosen(&mut browser), Value::Null);
    browser.press("/");
    assert_eq!(browser.value("document.activeElement.id"), "search");
    assert!(browser.text("#status").is_empty());
    // What is chosen is said to who cannot see it.
    browser.press("Escape");
    browser.press("ArrowDown");
    assert!(browser.text("#status").starts_with("virtual 0x"), "{}", browser.text("#status"));
    assert_eq!(browser.complaints, [""; 0]);
}

/// The first kernel has boot services until the switch, and the second one takes over the addresses of the first.
fn both_kernels_have_their_views() {
    let folder = Directory::new();
    let page = folder.file("page.html");
    let maps = ["maps/lenovo-07.txt", "maps/lenovo-07-kernel.txt"].map(repository);
    efibed(["kexec", &maps[0], &maps[1], "--engine", "walker", "--layout", "linux-fixed", "--html", &page]);
    let mut browser = Chromium::start();
    browser.open(&page);
    let names = browser.value("[...document.querySelectorAll('#views label')].map(label => label.textContent)");
    let expected = ["the first kernel: phase map", "the first kernel: phase finish", "the second kernel: phase map"];
    assert_eq!(names, serde_json::json!(expected));
    assert_eq!(browser.count(".headline"), 2);
    // Descriptors of each map, by its own lines.
    assert_eq!(browser.count("#regions tbody tr"), 163);
    browser.click("#views label:nth-of-type(3)");
    assert_eq!(browser.count("#regions tbody tr"), 84);
    keep_pictures(&mut browser, "kexec");
    assert_eq!(browser.complaints, [""; 0]);
}

/// A fault of 2013 with its map in the log: the address is where Linux had mapped the region, and both are marked.
fn an_access_is_marked_on_the_map() {
    let folder = Directory::new();
    let page = folder.file("page.html");
    let log = repository("oopses/linux-2013-misaligned-leaf.txt");
    efibed(["oops", &log, "--no-replay", "--html", &page]).ends(0);
    let told = efibed(["oops", &log, "--no-replay", "--json", "-"]).json();
    let mut browser = Chromium::start();
    browser.open(&page);
    let address = told["at"]["address"].as_str().unwrap();
    assert_eq!(browser.text("#items li button"), format!("the access: {address}"));
    browser.click("#items li button");
    assert_eq!(browser.value("hex(places[0].first)"), address);
    assert_eq!(browser.count(".mark.chosen"), 1);
    assert!(browser.text("#items li pre").contains("blame"));
    // The walk of the log: PGD to PMD, the last with the five bits that must be 0 (SDM vol. 3A, table 4-18).
    assert_eq!(browser.text(".ladder h2"), format!("The walk in the log, of {address}"));
    assert_eq!(browser.count(".ladder tr:not(.bits) td:first-child"), 3);
    assert_eq!(browser.count(".ladder tr.denies.reserved"), 1);
    assert_eq!(browser.count(".ladder mark"), 5);
    keep_pictures(&mut browser, "oops");
    assert_eq!(browser.complaints, [""; 0]);
}

/// Under `packed-down` regions follow each other from -4 GiB, in list order; under `linux` they keep their alignment to 2 MiB. All
/// five move, and none is gone.
fn two_runs_are_drawn_beside_each_other() {
    let folder = Directory::new();
    let [page, first, second] = ["page.html", "first.json", "second.json"].map(|name| folder.file(name));
    let map = repository("maps/ovmf-2013.toml");
    for (layout, file) in [("packed-down", &first), ("linux", &second)] {
        efibed(["check", &map, "--engine", "walker", "--layout", layout, "--tables", "--json", file]).ends(0);
    }
    efibed(["diff", &first, &first]).ends(0).says(&["the same: "]);
    efibed(["diff", &first, &second, "--html", &page]).ends(1).says(&[
        "5 regions differ",
        "moved RuntimeServicesCode at 0x7dc5b000",
        "0xfffffffeff2f5000 -> 0xfffffffeff45b000",
    ]);
    efibed(["diff", &first, &map]).ends(2).complains(&["is the report of a run", "compare two maps, or two runs"]);
    efibed(["diff", &map, &map, "--html", &page]).ends(2).complains(&["--html is for two runs"]);
    let mut browser = Chromium::start();
    browser.open(&page);
    assert_eq!(titles(&mut browser), ["moved"; 5]);
    assert_eq!(browser.count("g.block.change-moved"), 10, "five before, five after");
    assert_eq!(browser.count(".ribbon.change-moved"), 5);
    browser.click("#items li:nth-child(3) button");
    assert!(browser.text("#selected").contains("#2 RuntimeServicesCode · moved"));
    keep_pictures(&mut browser, "diff");
    physical_addresses_are_beside_virtual_ones(&mut browser);
    assert_eq!(browser.complaints, [""; 0]);
}

/// Each run has a view of its own for each phase, with what the tables translate; `packed-down` has no second one. Region 2 is 0x7dc5b000, 0x4eb pages, RuntimeServicesCode: under `packed-down` it is at -4 GiB less
/// the pages of regions 0 to 2, 0xfffffffeff2f5000. It begins with leaves of 4 KiB, as it does
/// under `linux`.
fn physical_addresses_are_beside_virtual_ones(browser: &mut Chromium) {
    let names = browser.value("[...document.querySelectorAll('#views label')].map(label => label.textContent)");
    let expected = ["virtual addresses", "first run: phase map", "second run: phase map", "second run: phase finish"];
    assert_eq!(names, serde_json::json!(expected));
    for (view, virt) in [(2, "0xfffffffeff2f5000"), (3, "0xfffffffeff45b000")] {
        browser.click(&format!("#views label:nth-of-type({view})"));
        assert_eq!(browser.value("state.view.blocks[1].length"), 5);
        let block = format!("state.view.blocks[0].find(block => hex(block.first) === '{virt}')");
        assert_eq!(
            browser.value(&format!("(block => [block.region, hex(block.to), block.leaf, block.change])({block})")),
            serde_json::json!([2, "0x7dc5b000", "4K", "moved"])
        );
        assert!(browser.count(".ribbon") >= 5, "a ribbon from each region's address to its memory");
    }
    keep_pictures(browser, "diff, one run");
}

/// A campaign of which the bug of 2013 is known: each new finding has a view, and a finding in the list at least.
fn new_findings() -> Trial {
    let is_able = kvm("", || ()).has_ignored_flag();
    let trial = browser("new_findings_of_a_campaign_are_drawn", || {
        let folder = Directory::new();
        let [page, out] = ["page.html", "out"].map(|name| folder.file(name));
        let bug = ["--layout", "packed-down", "--leaf-rule", "va-only", "--runs", "60", "--cores", "1"];
        let said = efibed(["fuzz", "--html", &page, "--out", &out].into_iter().chain(bug)).ends(1);
        let saved = fs::read_dir(std::path::Path::new(&out).join("findings")).unwrap().count() as u64;
        let mut browser = Chromium::start();
        browser.open(&page);
        assert!(saved > 0, "{said}");
        let views = browser.value("views.length").as_u64().unwrap();
        assert!(views >= saved.min(16), "{views} views of {saved} findings");
        assert!(titles(&mut browser).len() as u64 >= saved.min(16));
        keep_pictures(&mut browser, "fuzz");
        assert_eq!(browser.complaints, [""; 0]);
    });
    if is_able { trial.with_ignored_flag(true) } else { trial }
}

fn an_address_is_found() {
    let folder = Directory::new();
    let mut browser = Chromium::start();
    browser.open(&page(&folder, &["check", "--engine", "walker", "--layout", "window"], "maps/ovmf-2013.toml"));
    browser.press("/");
    // By the definition of the layout, which the map's head works out: -4 GiB - 0x80000000 and the physical address.
    "fffffffefdc5c123".chars().for_each(|c| browser.press(&c.to_string()));
    browser.value("find(search.value), 0");
    assert_eq!(browser.text("#selected h3"), "#2 RuntimeServicesCode");
    assert!(browser.text("#walk").contains("It reaches 0x7dc5c000"), "{}", browser.text("#walk"));
    browser.value("find('0x123'), 0");
    assert!(browser.text("#status").contains("nothing is at 0x123"));
    browser.value("find('#77'), 0");
    assert_eq!(browser.text("#status"), "there is no region 77");
    assert_eq!(browser.complaints, [""; 0]);
}

/// The negative control of the policy: a script that somebody adds is refused, and the refusal is a complaint.
fn a_script_that_is_not_the_pages_own_does_not_run() {
    let folder = Directory::new();
    let page = page(&folder, &["check", "--engine", "walker"], "maps/ovmf-2013.toml");
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains("</body>"));
    fs::write(&page, text.replace("</body>", "<script>document.title = 'run'</script></body>")).unwrap();
    let mut browser = Chromium::start();
    browser.open(&page);
    assert_ne!(browser.value("document.title"), "run");
    assert!(browser.complaints.iter().any(|text| text.contains("Content Security Policy")), "{:?}", browser.complaints);
}

/// A file's name and a log's text end no element and run nothing.
fn text_of_strangers_is_text() {
    let folder = Directory::new();
    let name = "<script>document.title='run'<\u{2215}script><!--\"'&.toml";
    let (file, page) = (folder.file(name), folder.file("page.html"));
    fs::copy(repository("maps/ovmf-2013.toml"), &file).unwrap();
    efibed(["check", &file, "--engine", "walker", "--html", &page]).ends(0);
    let mut browser = Chromium::start();
    browser.open(&page);
    assert!(browser.text("h1").contains("<script>document.title='run'<\u{2215}script><!--\"'&.toml"));
    assert!(browser.value("document.title").as_str().unwrap().starts_with("efibed check"));
    assert_eq!(browser.count("script"), 2);
    assert_eq!(browser.count("#regions tbody tr"), 5);
    assert_eq!(browser.complaints, [""; 0]);
}

fn a_page_is_of_one_map() {
    let folder = Directory::new();
    let (page, maps) = (folder.file("page.html"), ["maps/ovmf-2013.toml", "maps/off-by-page.toml"].map(repository));
    efibed(["check", &maps[0], &maps[1], "--html", &page]).ends(2).complains(&["--html is for one map"]);
    assert_eq!(folder.names(), [""; 0]);
}
