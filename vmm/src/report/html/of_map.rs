//! The picture of a map by itself: where a layout puts its regions.

use super::markup::{Headline, Item, List};
use super::of_report::{self, planned_block};
use super::picture::{Block, Kind, Picture, Place, PlacedRegion, View};
use crate::memory_map::Region;
use crate::report::Report;
use crate::report::json::Hex;
use crate::report::map::{MapReport, Odd, Placed, is_memory, kernel_lines};
use crate::report::style::{Paint, counted, size};

/// The picture, and the list of what is odd. The tables are those of a run on the same map, where there are some.
pub fn picture(map: &MapReport<'_>, run: Option<&Report>) -> (Picture, Vec<Item>) {
    let (mut picture, _) = of_report::picture(run.filter(|run| !run.tables.is_empty()).map(|run| ("", run)).as_slice());
    picture.places.clear();
    let regions = map.regions.iter().map(|placed| placed_region(placed, &mut picture.kinds)).collect();
    picture.maps.push(regions);
    let index = picture.maps.len().saturating_sub(1);
    let named = map.regions.iter().enumerate();
    let left = named.clone().filter_map(|(index, placed)| planned_block(index, &placed.region, placed.fate.virt()));
    let right = named.filter(|(_, placed)| placed.region.pages > 0);
    let plan = View {
        name: format!("by the rule of layout {}", map.layout.name()),
        columns: ["virtual", "physical"],
        map: index,
        right_map: None,
        left: left.collect(),
        right: right.map(|(index, _)| Block { region: Some(index), ..Block::default() }).collect(),
        tables: None,
    };
    picture.views.insert(0, plan);
    let items = map.oddities.iter().map(|odd| item(odd, map, &mut picture.places)).collect();
    (picture, items)
}

fn placed_region(placed: &Placed, kinds: &mut Vec<Kind>) -> PlacedRegion {
    let Placed { region, fate, .. } = placed;
    let virt = fate.virt().map(Hex);
    PlacedRegion { virt, verdict: fate.name().into(), ..PlacedRegion::of(region, kinds) }
}

fn item(odd: &Odd, map: &MapReport<'_>, places: &mut Vec<Place>) -> Item {
    let region = map.regions.get(odd.index).map(|placed| placed.region).filter(|_| !odd.is_of_map);
    places.push(Place {
        column: 1,
        view: region.map(|_| 0),
        at: region.map(|region| Hex(region.phys)),
        pages: region.map(|region| Hex(region.pages.max(1))),
    });
    let wrong = if odd.is_finding { "`efibed check` finds it" } else { "odd, but not wrong" };
    Item { is_doubt: !odd.is_finding, ..Item::said(format!("{} ({wrong})", odd.kind), vec![odd.message.clone()]) }
}

/// What a kernel takes memory for, if that is known.
pub fn lists(map: &MapReport<'_>) -> Vec<List> {
    let mut lines = kernel_lines(map, Paint::PLAIN).into_iter();
    lines.next().map(|title| List { title, lines: lines.collect() }).into_iter().collect()
}

/// What there is, and how much of it is odd.
pub fn headline(map: &MapReport<'_>) -> Headline {
    let wrong = map.oddities.iter().filter(|odd| odd.is_finding).count() as u64;
    let odd = (map.oddities.len() as u64).saturating_sub(wrong);
    let runtime = map.sum(Region::is_runtime).descriptors;
    let descriptors = counted(map.regions.len() as u64, "descriptor");
    let line = format!("{descriptors}, {runtime} RUNTIME; {wrong} wrong and {odd} odd; nothing was checked");
    Headline { line, verdict: if wrong == 0 { "shown" } else { "wrong" }, is_good: wrong == 0 }
}

/// What the map is.
pub fn facts(map: &MapReport<'_>) -> Vec<(String, String)> {
    let amount = |is_meant: fn(&Region) -> bool| size(map.sum(is_meant).bytes());
    let rows = [
        ("map", map.map.source().to_owned()),
        ("layout", map.layout.name().to_owned()),
        ("MAXPHYADDR", format!("{} ({})", map.maxphyaddr.bits(), map.maxphyaddr.source())),
        ("memory", amount(|region| is_memory(region.ty))),
        ("RUNTIME", amount(Region::is_runtime)),
        ("boot", amount(Region::is_boot_services)),
    ];
    let partial = map.map.partial().map(|why| ("partial", why.to_owned()));
    rows.into_iter().chain(partial).map(|(name, value)| (name.to_owned(), value)).collect()
}
