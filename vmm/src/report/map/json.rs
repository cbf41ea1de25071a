//! A memory map as one JSON object, for programs. Nothing is left out.
//!
//! Keys are stable, new ones may be added. Counts and indices are numbers; addresses and bit patterns are strings in
//! hexadecimal. A range has its first and last byte.

use serde::{Serialize, Serializer};

use super::{Fate, MapReport, Placed, Range, Sum};
use crate::check;
use crate::memory_map::{Agreement, Disagreement, KernelUse, MapSays, MemoryDescriptor, Region, type_name};
use crate::report::json::{Hex, LeavesObject, SCHEMA, pretty};

/// The report as JSON, over many lines, with a newline at the end.
pub fn to_json(report: &MapReport<'_>) -> String {
    pretty(&document(report))
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    source: &'a str,
    format: Option<&'static str>,
    list: &'static str,
    partial: Option<&'a str>,
    layout: &'static str,
    maxphyaddr: u8,
    maxphyaddr_from: &'static str,
    totals: TotalsObject,
    descriptors: Vec<DescriptorObject>,
    holes: Vec<RangeObject>,
    overlaps: Vec<OverlapObject>,
    oddities: Vec<OddityObject<'a>>,
    attributes_table: Vec<EntryObject>,
    mapped: MappedObject,
    /// Only with a kernel's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_memory: Option<KernelObject<'a>>,
}

#[derive(Serialize)]
struct KernelObject<'a> {
    source: &'a str,
    list: &'static str,
    line: usize,
    rows: usize,
    /// Whether the line that heads the list is there.
    has_beginning: bool,
    not_read: Vec<OtherListObject>,
    dangerous: bool,
    disagreements: Vec<DisagreementObject>,
    /// What every kernel keeps to itself.
    own_cuts: Vec<WideRangeObject>,
}

#[derive(Serialize)]
struct OtherListObject {
    list: &'static str,
    line: usize,
    rows: usize,
}

#[derive(Serialize)]
struct DisagreementObject {
    #[serde(flatten)]
    range: WideRangeObject,
    /// `usable`, or the name of a type; None: nothing.
    map: Option<String>,
    /// None: the memory is usable, or the map says nothing of it.
    attribute: Option<Hex>,
    /// The type of e820, or `device`; None: the kernel does not know of it.
    kernel: Option<String>,
    weight: &'static str,
    breaks: &'static str,
}

#[derive(Serialize)]
struct WideRangeObject {
    first: WideHex,
    last: WideHex,
    bytes: u128,
}

#[derive(Serialize)]
struct TotalsObject {
    memory: SumObject,
    runtime: SumObject,
    boot_services: SumObject,
    highest_mapped: Option<Hex>,
}

#[derive(Serialize)]
struct SumObject {
    descriptors: usize,
    pages: u128,
}

#[derive(Serialize)]
struct DescriptorObject {
    index: usize,
    r#type: String,
    attribute: Hex,
    phys: Hex,
    pages: u64,
    /// As in the map.
    virt: Hex,
    /// By the layout.
    mapped: Option<Hex>,
    fate: &'static str,
    merged_from: Option<usize>,
}

#[derive(Serialize)]
struct RangeObject {
    first: Hex,
    last: WideHex,
    bytes: u128,
}

#[derive(Serialize)]
struct OverlapObject {
    index: usize,
    other: usize,
    #[serde(flatten)]
    range: RangeObject,
}

#[derive(Serialize)]
struct OddityObject<'a> {
    kind: &'static str,
    index: usize,
    other: Option<usize>,
    /// Whether `efibed check` would find it.
    finding: bool,
    message: &'a str,
}

#[derive(Serialize)]
struct EntryObject {
    index: usize,
    r#type: String,
    attribute: Hex,
    phys: Hex,
    pages: u64,
    /// Why Linux does not take it.
    refused: Option<&'static str>,
}

#[derive(Serialize)]
struct MappedObject {
    descriptors: usize,
    pages: u128,
    identity: bool,
    first: Option<Hex>,
    last: Option<Hex>,
    window: WindowObject,
    leaves: LeavesObject,
    without: Vec<usize>,
}

#[derive(Serialize)]
struct WindowObject {
    first: Hex,
    last: Hex,
}

/// A physical address of a range that may reach past 2^64.
struct WideHex(u128);

impl Serialize for WideHex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

fn document<'a>(report: &'a MapReport<'a>) -> Document<'a> {
    let map = report.map;
    Document {
        schema: SCHEMA,
        source: map.source(),
        format: map.format().map(|format| format.name()),
        list: map.kind().name(),
        partial: map.partial(),
        layout: report.layout.name(),
        maxphyaddr: report.maxphyaddr.bits(),
        maxphyaddr_from: report.maxphyaddr.source(),
        totals: TotalsObject {
            memory: report.sum(|region| super::is_memory(region.ty)).into(),
            runtime: report.sum(Region::is_runtime).into(),
            boot_services: report.sum(Region::is_boot_services).into(),
            highest_mapped: report.highest_mapped().map(Hex),
        },
        descriptors: report.regions.iter().map(DescriptorObject::from).collect(),
        holes: report.holes.iter().map(RangeObject::from).collect(),
        overlaps: overlaps(report),
        oddities: oddities(report),
        attributes_table: attributes_table(report),
        mapped: mapped(report),
        kernel_memory: report.kernel.as_ref().map(KernelObject::from),
    }
}

impl From<Sum> for SumObject {
    fn from(sum: Sum) -> Self {
        Self { descriptors: sum.descriptors, pages: sum.pages }
    }
}

impl From<&Placed> for DescriptorObject {
    fn from(placed: &Placed) -> Self {
        let Placed { region, fate, merged_from } = placed;
        Self {
            index: region.index,
            r#type: type_name(region.ty).into_owned(),
            attribute: Hex(region.attribute.bits()),
            phys: Hex(region.phys),
            pages: region.pages,
            virt: Hex(region.virt),
            mapped: fate.virt().map(Hex),
            fate: fate.name(),
            merged_from: *merged_from,
        }
    }
}

impl From<&Range> for RangeObject {
    fn from(range: &Range) -> Self {
        Self { first: Hex(range.first), last: WideHex(range.last), bytes: range.bytes() }
    }
}

fn overlaps(report: &MapReport<'_>) -> Vec<OverlapObject> {
    let overlaps = report.oddities.iter().filter_map(|odd| Some((odd.index, odd.overlap?)));
    overlaps.map(|(index, (other, range))| OverlapObject { index, other, range: (&range).into() }).collect()
}

fn oddities<'a>(report: &'a MapReport<'_>) -> Vec<OddityObject<'a>> {
    let object = |odd: &'a super::Odd| OddityObject {
        kind: odd.kind,
        index: odd.index,
        other: odd.overlap.map(|(other, _)| other),
        finding: odd.is_finding,
        message: &odd.message,
    };
    report.oddities.iter().map(object).collect()
}

fn attributes_table(report: &MapReport<'_>) -> Vec<EntryObject> {
    let entries = report.map.attributes_table().iter().zip(&report.refusals).enumerate();
    let object = |(index, (entry, refusal)): (usize, (&MemoryDescriptor, &Option<check::EntryRefusal>))| EntryObject {
        index,
        r#type: type_name(entry.ty).into_owned(),
        attribute: Hex(entry.att.bits()),
        phys: Hex(entry.phys_start),
        pages: entry.page_count,
        refused: refusal.map(check::EntryRefusal::name),
    };
    entries.map(object).collect()
}

impl<'a> From<&'a Agreement> for KernelObject<'a> {
    fn from(agreement: &'a Agreement) -> Self {
        let list = &agreement.list;
        let others = list.others.iter();
        let others =
            others.map(|other| OtherListObject { list: other.kind.name(), line: other.line, rows: other.rows });
        Self {
            source: &list.source,
            list: list.kind.name(),
            line: list.line,
            rows: list.rows.len(),
            has_beginning: list.has_beginning,
            not_read: others.collect(),
            dangerous: agreement.is_dangerous(),
            disagreements: agreement.disagreements.iter().map(DisagreementObject::from).collect(),
            own_cuts: agreement.own_cuts.iter().map(|&(start, end)| WideRangeObject::new(start, end)).collect(),
        }
    }
}

impl From<&Disagreement> for DisagreementObject {
    fn from(range: &Disagreement) -> Self {
        let (map, attribute) = match range.map {
            None => (None, None),
            Some(MapSays::Usable) => (Some("usable".into()), None),
            Some(MapSays::Other(said)) => (Some(type_name(said.ty).into_owned()), Some(Hex(said.attribute.bits()))),
        };
        let kernel = range.kernel.map(|takes| match takes {
            KernelUse::E820(ty) => ty.to_string(),
            KernelUse::Device => "device".into(),
        });
        let (weight, breaks) = (range.weight.name(), range.breaks);
        Self { range: WideRangeObject::new(range.start, range.end), map, attribute, kernel, weight, breaks }
    }
}

impl WideRangeObject {
    fn new(start: u128, end: u128) -> Self {
        Self { first: WideHex(start), last: WideHex(end.saturating_sub(1)), bytes: end.saturating_sub(start) }
    }
}

fn mapped(report: &MapReport<'_>) -> MappedObject {
    let totals = report.totals();
    let window = report.contract.window();
    let is_without = |placed: &&Placed| !matches!(placed.fate, Fate::LeftOut | Fate::At(_));
    MappedObject {
        descriptors: totals.mapped.descriptors,
        pages: totals.mapped.pages,
        identity: report.contract.has_identity(),
        first: totals.virt.map(|(first, _)| Hex(first)),
        last: totals.virt.map(|(_, last)| Hex(last)),
        window: WindowObject { first: Hex(window.start().0), last: Hex(window.end().0) },
        leaves: (&totals.leaves).into(),
        without: report.regions.iter().filter(is_without).map(|placed| placed.region.index).collect(),
    }
}
