//! An account as a person reads it.

use super::account::Account;
use super::fault::{Entry, Fault};
use super::instruction::{disassembled, operand};
use super::place::Place;
use super::replay::Outcome;
use crate::memory_map::{attribute_names, type_name};
use crate::mmu::{ErrorCode, Kind, Paging};
use crate::report::error_code::summary;
use crate::report::style::{Paint, printable};
use crate::report::walk::entry_lines;

/// The account, on lines of the terminal's width. `outcome` is what the replay came to.
pub fn text(account: &Account, outcome: &Outcome, columns: Option<usize>) -> String {
    let paint = Paint::PLAIN.on(columns);
    let fault = &account.fault;
    let mut lines = paint.wrapped(
        &format!("{}:{}: a page fault, printed by {}", printable(&account.source), fault.line, fault.printer.name()),
        2,
    );
    let row = |label: &str, text: &str| paint.labelled(&format!("  {label:<10} "), text, COLUMN);
    lines.extend(row("access", &access(fault)));
    lines.extend(row("by", &instruction(account)));
    lines.extend(row("moment", &moment(account)));
    lines.extend(row("address", &address(account)));
    lines.extend(fault.entries.iter().flat_map(|entry| rows_of(*entry, paint)));
    let mut say = |label: &str, text: &str| lines.extend(row(label, text));
    say("missing", &missing(fault));
    for contradiction in fault.contradictions() {
        say("odd", &contradiction);
    }
    say("blame", &blame(account));
    say("why", account.pattern.why);
    say("survives", account.pattern.survives);
    say("replay", &format!("{}: {}", outcome.name(), outcome.words()));
    let untold = account.untold();
    if !untold.is_empty() {
        say("not told", &untold.join("; "));
    }
    if account.others > 0 {
        say(
            "note",
            &format!(
                "the log has {} more page faults; this is the first that is about EFI, or else the first",
                account.others
            ),
        );
    }
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

const COLUMN: usize = 13;

/// What was done where, and the error code.
pub fn access(fault: &Fault) -> String {
    let address = fault.address.map_or("at an address that the log does not tell".into(), |at| format!("at {at:#x}"));
    match fault.code {
        Some(code) => format!("#PF {} {address}: {}", code_words(code), summary(code)),
        None => format!("{address}; the log does not tell what it was"),
    }
}

fn code_words(code: ErrorCode) -> String {
    let flags: Vec<_> = code.flags().collect();
    match flags.as_slice() {
        [] => format!("{:#x}", code.0),
        flags => format!("{:#x} ({})", code.0, flags.join(" ")),
    }
}

fn instruction(account: &Account) -> String {
    let fault = &account.fault;
    let symbol = fault.symbol.as_deref().map(|name| format!("{}, ", printable(name))).unwrap_or_default();
    let Some(by) = account.by else {
        return match fault.symbol {
            Some(_) => format!("{symbol}a function of the kernel's"),
            None => "an instruction that the log does not tell".into(),
        };
    };
    let decoded = disassembled(fault).map(|it| format!("; it is `{it}`{}", operand_words(fault))).unwrap_or_default();
    let place = match account.at {
        Some(at) if at.address == by.address => "which is the address itself".into(),
        _ => whose(&by, account, None),
    };
    format!("{symbol}RIP {:#x}, {place}{decoded}", by.address)
}

fn operand_words(fault: &Fault) -> String {
    let Some(operand) = operand(fault) else { return String::new() };
    let verb = if operand.is_write { "writes" } else { "reads" };
    let last = operand.address.wrapping_add(operand.bytes.saturating_sub(1));
    format!(", which {verb} {:#x} to {last:#x}", operand.address)
}

fn moment(account: &Account) -> String {
    let scene = &account.scene;
    let service = scene.service.map(|service| format!(", in {}", service.name())).unwrap_or_default();
    match scene.evidence {
        Some(evidence) => format!("{}{service} ({evidence})", scene.moment.words()),
        None => "not in firmware, as far as the log tells".into(),
    }
}

fn address(account: &Account) -> String {
    match account.at {
        Some(at) => whose(&at, account, account.by.filter(|by| by.address != at.address).as_ref()),
        None => "the log does not tell it".into(),
    }
}

/// Whose an address is. What is said of another place already is not said again.
fn whose(place: &Place, account: &Account, said: Option<&Place>) -> String {
    let is_said = said.is_some_and(|said| said.area == place.area);
    let words = place.area.words();
    let mut words = if is_said { words.split(',').next().unwrap_or(words).to_owned() } else { words.to_owned() };
    if let Some((phys, source)) = place.phys {
        words += &format!("; PA {phys:#x} {}", source.words());
    }
    match (place.region, &account.map) {
        (Some(region), _) if said.is_some_and(|said| said.region == Some(region)) => {
            words += &format!("; region {} of the map, too", region.index);
        }
        (Some(region), _) => {
            words += &format!(
                "; region {} of the map ({} at {:#x}, {:#x} pages, {})",
                region.index,
                type_name(region.ty),
                region.phys,
                region.pages,
                attribute_names(region.attribute).join("|")
            );
        }
        (None, Some((_, true))) => words += "; in no region of the map",
        (None, Some((_, false))) => words += "; in no region that the map has, which is not the whole one",
        (None, None) => {}
    }
    if let Some(said) = place.attributes {
        words += &format!("; the Memory Attributes Table says {}", attribute_names(said).join("|"));
    }
    words
}

/// An entry of the log, with its short names.
fn rows_of(entry: Entry, paint: Paint) -> Vec<String> {
    let paging = Paging { maxphyaddr: 52, ..Paging::default() };
    let lines = entry_lines(entry.level, entry.value, entry.reserved(), &paging, paint);
    lines.into_iter().map(|line| format!("{:COLUMN$}{line}", "")).collect()
}

fn missing(fault: &Fault) -> String {
    let Some(missing) = fault.missing() else { return "the log does not tell".into() };
    let denying = fault.denying().map(|entry| format!(", in the {}", entry.level)).unwrap_or_default();
    let kind = match fault.kind() {
        Some(Kind::Fetch) if fault.code.is_some_and(|code| !code.contains(ErrorCode::I)) => {
            "; CR2 is RIP, so it is taken for a fetch"
        }
        _ => "",
    };
    format!("{}{denying}{kind}", missing.words())
}

pub fn blame(account: &Account) -> String {
    let museum = account.pattern.museum.map(|number| format!(", museum {number}")).unwrap_or_default();
    format!("{} ({}{museum})", account.pattern.blame.words(), account.pattern.name)
}
