//! Answers to gdb's `monitor`: what gdb itself cannot know of tables, regions and findings.

use std::fmt::Write as _;

use crate::check::{Finding, WalkStep};
use crate::guest::process::{FaultOfRing0, Halted};
use crate::memory_map::{MemoryMap, type_name};
use crate::mmu::{Access, Outcome, Pa};
use crate::report::style::counted;
use crate::report::walk::plain_lines as walk_lines;

/// What is known of the run.
pub struct Known {
    /// The memory map.
    pub map: MemoryMap,
    /// What the host has found so far.
    pub findings: Vec<Finding>,
    /// Faults of firmware's services.
    pub faults: Vec<FaultOfRing0>,
}

const HELP: &str = "\
monitor walk VA [ROOT]     the walk of an address: through the tables that the mapping code makes, whose root
                           is result->root, or through those at ROOT
monitor own VA             the same through the tables on which the mapping code itself runs
monitor regions            the memory map, and where the mapping code has put each region so far
monitor findings           what the host has found so far, where the guilty table entries are, and faults
                           of firmware's services
monitor phys PA [COUNT]    quadwords at a physical address: 1, or COUNT up to 512
Addresses are hexadecimal. gdb sees memory as the mapping code does; what it was given is at its
physical address plus request->direct_map. At a finding gdb's registers are those with which the
mapping code was left; a service of firmware's runs in ring 0, and has others. Watchpoints are made of
single steps.
";

/// The answer to a command.
pub fn answer(command: &str, known: &Known, process: &Halted<'_>) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let answer = match words[..] {
        ["walk", virt] => address(virt).and_then(|virt| Ok(walked(virt, made(process)?, process))),
        ["walk", virt, root] => address(virt).and_then(|virt| {
            let root = address(root)?;
            Ok(walked(virt, (root, format!("the tables at PA {root:#x}")), process))
        }),
        ["own", virt] => address(virt).map(|virt| {
            walked(virt, (process.own_root(), "the tables on which the mapping code runs".into()), process)
        }),
        ["regions"] => Ok(regions(known, process)),
        ["findings"] => Ok(findings(known, process)),
        ["phys", at] => address(at).map(|at| physical(at, 1, process)),
        ["phys", at, count] => address(at).and_then(|at| Ok(physical(at, number(count)?, process))),
        ["help"] | [] => Ok(HELP.into()),
        _ => Err(format!("`{command}` is no command of efibed's")),
    };
    answer.unwrap_or_else(|problem| format!("{problem}\n{HELP}"))
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).replace('_', "");
    u64::from_str_radix(&digits, 16).map_err(|_| format!("`{text}` is no address in hexadecimal"))
}

/// The most quadwords that are shown: a table has as many.
const MOST_WORDS: usize = 512;

fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_WORDS).contains(number));
    number.ok_or_else(|| format!("`{text}` is no number from 1 to {MOST_WORDS}"))
}

/// The root of the tables that the mapping code makes, and what they are.
fn made(process: &Halted<'_>) -> Result<(u64, String), String> {
    let root = process.made_root().ok_or("result->root is 0: name a root")?;
    Ok((root, format!("the mapping code's tables, at PA {root:#x}")))
}

fn walked(virt: u64, (root, tables): (u64, String), process: &Halted<'_>) -> String {
    let walk = process.walk(root, virt, Access::read());
    let steps: Vec<WalkStep> = walk.steps().iter().map(WalkStep::from).collect();
    let mut text = format!("{virt:#x} through {tables}:\n");
    for line in walk_lines(&steps, process.paging()) {
        let _ = writeln!(text, "  {line}");
    }
    let _ = match walk.outcome {
        Outcome::Fault(fault) => writeln!(text, "A read by the supervisor faults: {fault}"),
        _ => match walk.translation() {
            Some(translation) => writeln!(text, "A read by the supervisor reaches PA {:#x}", translation.pa.0),
            None => writeln!(text, "The walk ends at a table where there is no memory"),
        },
    };
    if let Some(last) = steps.last() {
        let _ = writeln!(text, "{}", where_gdb_reads(last.entry_addr, process));
    }
    text
}

/// Tables are in memory that the mapping code was given, except its own.
fn where_gdb_reads(at: Pa, process: &Halted<'_>) -> String {
    let virt = at.0.wrapping_add(process.direct_map());
    match process.what_lies_at(virt) {
        Some(_) => format!("The last entry is at PA {at:#x}: x/gx {virt:#x}"),
        None => format!("The last entry is at PA {at:#x}: monitor phys {at:#x}"),
    }
}

fn regions(known: &Known, process: &Halted<'_>) -> String {
    let virtual_map = process.virtual_map();
    let mut text = String::from("  #  type                       physical             pages       virtual\n");
    for region in known.map.regions() {
        let is_it = |descriptor: &&crate::memory_map::MemoryDescriptor| descriptor.phys_start == region.phys;
        let virt = match virtual_map.iter().find(is_it) {
            Some(descriptor) => format!("{:#018x}", descriptor.virt_start),
            None => "-".into(),
        };
        let (index, name) = (region.index, type_name(region.ty));
        let _ = writeln!(text, "{index:>3}  {name:<25}  {:#018x}  {:>#10x}  {virt}", region.phys, region.pages);
    }
    let _ = writeln!(text, "{} in the virtual map so far", virtual_map.len());
    text
}

fn findings(known: &Known, process: &Halted<'_>) -> String {
    let mut text = String::new();
    for finding in &known.findings {
        let _ = writeln!(text, "{}: {}", finding.rule, finding.message);
        if let Some(virt) = finding.virt {
            let _ = writeln!(text, "  from {virt:#x} on, {}", counted(finding.pages, "page"));
        }
        for line in walk_lines(&finding.walk, process.paging()) {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(last) = finding.walk.last() {
            let _ = writeln!(text, "  {}", where_gdb_reads(last.entry_addr, process));
        }
    }
    for FaultOfRing0 { service, fault, rip, cr2 } in &known.faults {
        let _ = writeln!(text, "{service} of firmware met {fault} at {cr2:#x} in ring 0, at RIP {rip:#x}");
    }
    if !known.faults.is_empty() {
        text.push_str("gdb's registers are not of ring 0: with them the mapping code was left\n");
    }
    if text.is_empty() { "nothing so far\n".into() } else { text }
}

fn physical(at: u64, count: usize, process: &Halted<'_>) -> String {
    let mut bytes = vec![0; count.saturating_mul(8)];
    let read = process.read_physical(Pa(at), &mut bytes);
    bytes.truncate(read);
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))).collect();
    let mut text = String::new();
    for (line, pair) in words.chunks(2).enumerate() {
        let _ = write!(text, "{:#x}:", at.wrapping_add(16u64.wrapping_mul(line as u64)));
        pair.iter().for_each(|word| _ = write!(text, "\t{word:#018x}"));
        text.push('\n');
    }
    if words.len() < count {
        let end = at.wrapping_add(8u64.wrapping_mul(words.len() as u64));
        let _ = writeln!(text, "there is no memory at {end:#x}");
    }
    text
}
