//! Two memory maps of one machine, and what their differences break: a kernel that was started by kexec, and one that comes
//! back from hibernation, call firmware that was told its virtual addresses under the first map.

use std::collections::BTreeMap;
use std::fmt;

use efibed_guest::Layout;
use serde::Serialize;

use super::json::{SCHEMA, pretty};
use super::map::MapReport;
use super::style::{Paint, counted, printable, size};
use super::table::Columns;
use crate::memory_map::{
    Change, E820Change, ListKind, MemoryMap, MemoryType, Said, attribute_names, compare, compare_e820, type_name,
};

/// What changed from one map to another.
#[derive(Clone, Debug)]
pub struct Diff<'a> {
    /// The first map.
    pub before: &'a MemoryMap,
    /// The second one.
    pub after: &'a MemoryMap,
    /// Every range of which they say different things, by address. Where one of them is not firmware's whole map, only what is
    /// RUNTIME in one; where one is a part of a map, only what it has.
    pub changes: Vec<Change>,
    /// For each layout that computes addresses, how many of firmware's regions both maps have, and how many of those would be
    /// given another address. Empty where one is a part of a map: addresses depend on the whole.
    pub addresses: Vec<Moves>,
    /// Where Linux's e820 tables differ; None: one of the maps is not firmware's whole map.
    pub e820: Option<Vec<E820Change>>,
}

/// What becomes of addresses under a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moves {
    /// The layout.
    pub layout: Layout,
    /// RUNTIME regions that both maps have.
    pub regions: usize,
    /// Of those, the ones that get another address.
    pub moved: usize,
}

/// Those that compute addresses from the map. `linux-fixed` takes over what the first kernel had.
const COMPUTING: [Layout; 4] = [Layout::Linux, Layout::Window, Layout::PackedDown, Layout::PackedUp];

impl<'a> Diff<'a> {
    /// Compares them.
    pub fn new(before: &'a MemoryMap, after: &'a MemoryMap) -> Self {
        let is_whole = is_whole(before) && is_whole(after);
        let is_partial = [before, after].map(|map| map.partial().is_some());
        let addresses = if is_partial.contains(&true) { &[][..] } else { &COMPUTING };
        let addresses = addresses.iter().map(|layout| moves(*layout, before, after)).collect();
        let mut changes = compare(before, after);
        changes.retain(|change| is_whole || is_runtime(change.before) || is_runtime(change.after));
        // That a part of a map says nothing means nothing.
        let is_told = |said: Option<Said>, is_partial: bool| said.is_some() || !is_partial;
        changes.retain(|change| is_told(change.before, is_partial[0]) && is_told(change.after, is_partial[1]));
        let e820 = is_whole.then(|| compare_e820(before, after));
        Self { before, after, changes, addresses, e820 }
    }

    /// What concerns firmware's runtime services: it was RUNTIME, or is.
    pub fn of_runtime(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| is_runtime(change.before) || is_runtime(change.after))
    }

    /// What firmware had under the first map, and has not, or not so, under the second.
    pub fn broken(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| is_runtime(change.before))
    }

    /// Whether a second kernel under `linux-fixed`, which takes over the first one's addresses, would find firmware as it was.
    pub fn keeps_firmware(&self) -> bool {
        self.broken().next().is_none()
    }

    /// Whether anything breaks, under kexec or hibernation.
    pub fn breaks(&self) -> bool {
        !self.keeps_firmware() || self.e820.as_ref().is_some_and(|e820| !e820.is_empty())
    }

    /// As one JSON object, over many lines, with a newline at the end.
    pub fn to_json(&self) -> String {
        pretty(&document(self))
    }

    /// As a person reads it, on so many columns if it is a terminal; with a newline at the end.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let sections = [self.title(paint), self.changes_in_lines(paint), self.kexec(paint), self.hibernation(paint)];
        let sections: Vec<String> =
            sections.into_iter().filter(|lines| !lines.is_empty()).map(|lines| lines.join("\n")).collect();
        sections.join("\n\n") + "\n"
    }

    fn title(&self, paint: Paint) -> Vec<String> {
        let names = [self.before, self.after].map(|map| printable(map.source()).into_owned());
        let partial = if self.addresses.is_empty() { ", as far as both go: one is a part of a map" } else { "" };
        if self.changes.is_empty() {
            return vec![format!("{}{partial}: {} and {}", paint.right("the same"), names[0], names[1])];
        }
        let of_runtime = self.of_runtime().count();
        let count = counted(self.changes.len() as u64, "range");
        let text =
            format!("{count} changed{partial}, {of_runtime} of them with RUNTIME, from {} to {}", names[0], names[1]);
        paint.wrapped(&text, 0)
    }

    /// All but what a kernel has for itself before and after: that changes with every boot, and is one sum.
    fn changes_in_lines(&self, paint: Paint) -> Vec<String> {
        let (own, others): (Vec<&Change>, Vec<&Change>) =
            self.changes.iter().partition(|change| is_usable(change.before) && is_usable(change.after));
        let others = joined(&others);
        let rows: Vec<[String; 5]> = others.iter().map(row).collect();
        let titles = ["physical", "size", "what", "before", "after"];
        let columns =
            Columns::of(titles, [false, true, false, false, false], &rows).within(paint.table_width(), &[4, 3]);
        let mut lines = if rows.is_empty() { Vec::new() } else { columns.titles() };
        for (row, change) in rows.iter().zip(&others) {
            let is_broken = is_runtime(change.before);
            let of_row = columns.lines(row);
            lines.extend(of_row.into_iter().map(|line| if is_broken { paint.wrong(line) } else { line }));
        }
        if !own.is_empty() {
            let bytes = own.iter().fold(0_u128, |sum, change| sum.saturating_add(change.bytes()));
            lines.push(format!(
                "  {} of usable memory changed in type or attributes: {}",
                counted(own.len() as u64, "range"),
                size(bytes)
            ));
        }
        lines
    }

    fn kexec(&self, paint: Paint) -> Vec<String> {
        let title = |is_fine: bool, words: &str| {
            let title = if is_fine { paint.right("kexec") } else { paint.wrong("kexec") };
            format!("{title}: {words}")
        };
        let broken = self.broken().count() as u64;
        let mut lines = vec![match broken {
            0 => title(true, "every RUNTIME region is where it was, and as it was"),
            _ => title(false, &format!("{} that firmware was given addresses for changed", counted(broken, "range"))),
        }];
        let mut say = |label: &str, words: &str| lines.extend(paint.labelled(&format!("  {label}"), words, 15));
        let takes_over =
            if broken == 0 { "finds firmware where the first kernel put it" } else { "finds other memory there" };
        say("linux-fixed", takes_over);
        for Moves { layout, regions, moved } in &self.addresses {
            let words = match (regions, moved) {
                (0, _) => "no RUNTIME region is in both maps".into(),
                (_, 0) => format!("computes the same address for each of {}", counted(*regions as u64, "region")),
                _ => format!("computes another address for {moved} of {}", counted(*regions as u64, "region")),
            };
            say(layout.name(), &words);
        }
        lines
    }

    fn hibernation(&self, paint: Paint) -> Vec<String> {
        let Some(e820) = &self.e820 else {
            return vec![format!(
                "{}: not compared: one of the lists is not firmware's whole map",
                paint.dim("hibernation")
            )];
        };
        let Some(first) = e820.first() else {
            let same = "Linux's e820 table is the same";
            return vec![match self.keeps_firmware() {
                true => format!("{}: {same}", paint.right("hibernation")),
                false => format!(
                    "{}: {same}, so Linux resumes; but firmware's own regions changed, see above",
                    paint.wrong("hibernation")
                ),
            }];
        };
        let name =
            |ty: Option<_>| ty.map_or_else(|| "nothing".into(), |ty: crate::memory_map::E820Type| ty.to_string());
        let text = format!(
            "{}: Linux does not resume (\"Hibernate inconsistent memory map detected\"): its e820 table differs in {}, first at \
             {:#x}-{:#x}, {} before and {} after",
            paint.wrong("hibernation"),
            counted(e820.len() as u64, "range"),
            first.start,
            first.end.saturating_sub(1),
            name(first.before),
            name(first.after),
        );
        paint.wrapped(&text, 2)
    }
}

/// As a person reads it, without colour. No newline at the end.
impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text(Paint::PLAIN).trim_end())
    }
}

fn is_runtime(said: Option<Said>) -> bool {
    said.is_some_and(Said::is_runtime)
}

/// Firmware's own list, and all of it. What a kernel lists is RUNTIME and little else.
fn is_whole(map: &MemoryMap) -> bool {
    map.kind() == ListKind::Firmware && map.partial().is_none()
}

/// A kernel's to use, once it has left boot services.
fn is_usable(said: Option<Said>) -> bool {
    said.is_some_and(|said| {
        let is_free = matches!(
            said.ty,
            MemoryType::CONVENTIONAL
                | MemoryType::LOADER_CODE
                | MemoryType::LOADER_DATA
                | MemoryType::BOOT_SERVICES_CODE
                | MemoryType::BOOT_SERVICES_DATA
        );
        is_free && !said.is_runtime()
    })
}

/// Changes as one where they follow one another and differ in nothing but what usable memory was used for.
fn joined(changes: &[&Change]) -> Vec<Change> {
    let alike = |one: Option<Said>, other: Option<Said>| one == other || (is_usable(one) && is_usable(other));
    let mut all: Vec<Change> = Vec::new();
    for change in changes {
        match all.last_mut() {
            Some(last)
                if last.end == change.start && alike(last.before, change.before) && alike(last.after, change.after) =>
            {
                last.end = change.end;
            }
            _ => all.push(**change),
        }
    }
    all
}

fn row(change: &Change) -> [String; 5] {
    let what = match (change.before, change.after) {
        (None, _) => "new",
        (_, None) => "gone",
        (Some(before), Some(after)) if before.ty == after.ty => "attributes",
        _ => "type",
    };
    let said = |said: Option<Said>| match said {
        None => "-".into(),
        usable if is_usable(usable) => "usable memory".into(),
        Some(Said { ty, attribute }) => format!("{} {}", type_name(ty), attribute_names(attribute).join("|")),
    };
    let range = format!("{:#x}-{:#x}", change.start, change.end.saturating_sub(1));
    [range, size(change.bytes()), what.into(), said(change.before), said(change.after)]
}

fn moves(layout: Layout, before: &MemoryMap, after: &MemoryMap) -> Moves {
    let virts = |map: &MemoryMap| -> BTreeMap<u64, Option<u64>> {
        let report = MapReport::new(map, layout, None);
        let runtime = report.regions.iter().filter(|placed| placed.region.is_runtime() && placed.region.pages > 0);
        runtime.map(|placed| (placed.region.phys, placed.fate.virt())).collect()
    };
    let (before, after) = (virts(before), virts(after));
    let both: Vec<_> = before.iter().filter_map(|(phys, virt)| Some((virt, after.get(phys)?))).collect();
    Moves { layout, regions: both.len(), moved: both.iter().filter(|(before, after)| before != after).count() }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    before: &'a str,
    after: &'a str,
    breaks: bool,
    changes: Vec<ChangeObject>,
    addresses: Vec<MovesObject>,
    /// None: not compared.
    e820: Option<Vec<E820Object>>,
}

#[derive(Serialize)]
struct ChangeObject {
    first: String,
    last: String,
    bytes: String,
    before: Option<SaidObject>,
    after: Option<SaidObject>,
}

#[derive(Serialize)]
struct SaidObject {
    r#type: String,
    attribute: String,
}

#[derive(Serialize)]
struct MovesObject {
    layout: &'static str,
    regions: usize,
    moved: usize,
}

#[derive(Serialize)]
struct E820Object {
    first: String,
    last: String,
    before: Option<String>,
    after: Option<String>,
}

fn document<'a>(diff: &'a Diff<'_>) -> Document<'a> {
    let hex = |number: u128| format!("{number:#x}");
    let said = |said: Option<Said>| {
        said.map(|said| SaidObject {
            r#type: type_name(said.ty).into_owned(),
            attribute: format!("{:#x}", said.attribute.bits()),
        })
    };
    let changes = diff.changes.iter().map(|change| ChangeObject {
        first: hex(change.start),
        last: hex(change.end.saturating_sub(1)),
        bytes: hex(change.bytes()),
        before: said(change.before),
        after: said(change.after),
    });
    let moves = diff.addresses.iter();
    let moves = moves.map(|&Moves { layout, regions, moved }| MovesObject { layout: layout.name(), regions, moved });
    let e820 = |change: &E820Change| E820Object {
        first: hex(change.start),
        last: hex(change.end.saturating_sub(1)),
        before: change.before.map(|ty| ty.to_string()),
        after: change.after.map(|ty| ty.to_string()),
    };
    Document {
        schema: SCHEMA,
        before: diff.before.source(),
        after: diff.after.source(),
        breaks: diff.breaks(),
        changes: changes.collect(),
        addresses: moves.collect(),
        e820: diff.e820.as_ref().map(|changes| changes.iter().map(e820).collect()),
    }
}
