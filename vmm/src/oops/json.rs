//! An account as one JSON object, for programs. Keys are stable, new ones may be added; what the log does not tell is null.

use serde::Serialize;

use super::account::Account;
use super::instruction;
use super::place::Place;
use super::replay::Outcome;
use crate::memory_map::{attribute_names, type_name};
use crate::mmu::{ErrorCode, Kind};
use crate::report::json::{Hex, SCHEMA, pretty};

/// The account as JSON, over many lines, with a newline at the end.
pub fn to_json(account: &Account, outcome: &Outcome) -> String {
    let fault = &account.fault;
    pretty(&Document {
        schema: SCHEMA,
        source: &account.source,
        line: fault.line,
        printer: fault.printer.name(),
        access: AccessObject {
            kind: fault.kind().map(kind),
            user: fault.is_user(),
            address: fault.address.map(Hex),
            error_code: fault.code.map(|code| Hex(code.0.into())),
            flags: fault.code.map(|code| ErrorCode::flags(code).collect()),
        },
        rip: fault.rip.map(Hex),
        symbol: fault.symbol.as_deref(),
        instruction: instruction::disassembled(fault),
        efi: account.scene.evidence.is_some(),
        evidence: account.scene.evidence,
        moment: account.scene.moment.name(),
        service: account.scene.service.map(|service| service.name()),
        at: account.at.as_ref().map(PlaceObject::from),
        by: account.by.as_ref().map(PlaceObject::from),
        entries: fault
            .entries
            .iter()
            .map(|entry| EntryObject {
                level: entry.level.to_string(),
                entry: Hex(entry.value),
                reserved: Hex(entry.reserved()),
            })
            .collect(),
        missing: fault.missing().map(|missing| missing.name()),
        missing_in: fault.denying().map(|entry| entry.level.to_string()),
        contradictions: fault.contradictions(),
        blame: account.pattern.blame.name(),
        pattern: account.pattern.name,
        museum: account.pattern.museum,
        why: account.pattern.why,
        survives: account.pattern.survives,
        map: account.map.as_ref().map(|(source, is_whole)| MapObject { source, whole: *is_whole }),
        not_told: account.untold(),
        other_faults: account.others,
        replay: ReplayObject { outcome: outcome.name(), detail: outcome.words() },
    })
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    source: &'a str,
    line: usize,
    printer: &'static str,
    access: AccessObject,
    rip: Option<Hex>,
    symbol: Option<&'a str>,
    instruction: Option<String>,
    efi: bool,
    evidence: Option<&'static str>,
    moment: &'static str,
    service: Option<&'static str>,
    at: Option<PlaceObject>,
    by: Option<PlaceObject>,
    entries: Vec<EntryObject>,
    missing: Option<&'static str>,
    missing_in: Option<String>,
    contradictions: Vec<String>,
    blame: &'static str,
    pattern: &'static str,
    museum: Option<u8>,
    why: &'static str,
    survives: &'static str,
    map: Option<MapObject<'a>>,
    not_told: Vec<&'static str>,
    other_faults: usize,
    replay: ReplayObject<'a>,
}

#[derive(Serialize)]
struct AccessObject {
    kind: Option<&'static str>,
    user: Option<bool>,
    address: Option<Hex>,
    error_code: Option<Hex>,
    flags: Option<Vec<&'static str>>,
}

#[derive(Serialize)]
struct PlaceObject {
    address: Hex,
    area: &'static str,
    phys: Option<Hex>,
    phys_from: Option<&'static str>,
    region: Option<RegionObject>,
    attributes_table: Option<String>,
}

#[derive(Serialize)]
struct RegionObject {
    index: usize,
    r#type: String,
    phys: Hex,
    pages: u64,
    attribute: Hex,
}

#[derive(Serialize)]
struct EntryObject {
    level: String,
    entry: Hex,
    reserved: Hex,
}

#[derive(Serialize)]
struct MapObject<'a> {
    source: &'a str,
    whole: bool,
}

#[derive(Serialize)]
struct ReplayObject<'a> {
    outcome: &'static str,
    detail: &'a str,
}

impl From<&Place> for PlaceObject {
    fn from(place: &Place) -> Self {
        Self {
            address: Hex(place.address),
            area: place.area.name(),
            phys: place.phys.map(|(phys, _)| Hex(phys.0)),
            phys_from: place.phys.map(|(_, source)| source.words()),
            region: place.region.map(|region| RegionObject {
                index: region.index,
                r#type: type_name(region.ty).to_string(),
                phys: Hex(region.phys),
                pages: region.pages,
                attribute: Hex(region.attribute.bits()),
            }),
            attributes_table: place.attributes.map(|said| attribute_names(said).join("|")),
        }
    }
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Fetch => "fetch",
    }
}
