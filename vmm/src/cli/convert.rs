//! `efibed convert`: a map in another format.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::message::tell;
use super::output::{self, OutputFile};
use super::{Failure, Status, input};
use crate::memory_map::{
    Format, ListKind, MemoryMap, OddityKind, ReadOptions, WriteFormat, WriteOptions, oddities, write,
};

/// The arguments of `convert`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Memory map in any known format; a folder like /sys/firmware/efi/runtime-map; `-` is standard input
    #[arg(value_name = "MAP", long_help = MAP_HELP)]
    map: PathBuf,

    /// What to write
    #[arg(long, value_name = "FORMAT", value_parser = input::named::<WriteFormat>(WriteFormat::NAMES), long_help = TO_HELP)]
    to: WriteFormat,

    /// Write to a file in place of standard output: whole or not at all, unless it is a device, a pipe or a hard link
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The format of MAP, if its content does not show it
    #[arg(long, value_name = "NAME", value_parser = input::named::<Format>(Format::NAMES))]
    format: Option<Format>,

    /// Bytes of one binary descriptor (DescriptorSize), in MAP and in what is written [written: 48]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,

    /// Skip rows that cannot be read, and report them
    #[arg(long)]
    lenient: bool,

    /// Which list of MAP, from 1 [default: the first that firmware handed out]
    #[arg(long, value_name = "N")]
    list: Option<usize>,

    /// Leave virtual addresses out where the format has no place for them
    #[arg(long)]
    drop_virtual: bool,

    /// Leave the Memory Attributes Table out where the format has no place for it
    #[arg(long)]
    drop_table: bool,
}

const MAP_HELP: &str = "\
Memory map in any known format, detected by content: a boot log of Linux or Xen,
the UEFI shell's `memmap`, GRUB's `lsefimmap`, U-Boot's `efidebug memmap`, FreeBSD's
`sysctl machdep.efi_map`, TOML, JSON, binary descriptors, ...; UTF-16 works too.
From a scenario, only its map is read. `-` is standard input, and a folder is read
as /sys/firmware/efi/runtime-map.";

const TO_HELP: &str = "\
What to write. Reading it back gives the same map. What a format cannot hold is an error.
  toml    the format of this project: everything
  json    for programs: everything
  linux   the boot log of Linux on x86; no virtual addresses
  shell   the UEFI shell's `memmap`, with its totals; no virtual addresses, no Memory Attributes Table
  grub    GRUB's `lsefimmap`; the same limits, and no SP, CPU_CRYPTO, ...: GRUB has no words for them
  binary  an array of EFI_MEMORY_DESCRIPTOR; no Memory Attributes Table";

const EXAMPLES: &str = "\
Examples:
  dmesg | efibed convert - --to toml              this machine's map (booted with efi=debug)
  efibed convert memmap.txt --to linux            what the UEFI shell printed, as Linux would
  efibed convert map.bin --stride 48 --to json    what firmware left in memory
  efibed convert boot.log --list 2 --to toml      Linux's own list of what it mapped
  efibed convert /sys/firmware/efi/runtime-map --to json -o own.json";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let map = map(arguments)?;
    let file = arguments.output.as_deref().map(|path| OutputFile::open(path, &[&arguments.map])).transpose()?;
    for note in oddities(&map).into_iter().filter(|note| note.kind.is_of_text() && note.kind != OddityKind::ExtraList) {
        tell(&format!("efibed: {}", note.message));
    }
    let options = WriteOptions {
        stride: arguments.stride,
        drop_virtual: arguments.drop_virtual,
        drop_attributes_table: arguments.drop_table,
    };
    let bytes = write(&map, arguments.to, &options).map_err(Failure::input)?;
    match file {
        Some(file) => file.write(&bytes).map_err(Failure::Output)?,
        None if arguments.to == WriteFormat::Binary && io::stdout().is_terminal() => {
            let problem = "binary descriptors are not for a terminal: redirect standard output, or use `--output FILE`";
            return Err(Failure::Output(problem.into()));
        }
        None => output::print_bytes(&bytes)?,
    }
    Ok(Status::Clean)
}

/// The list that the arguments ask for.
fn map(arguments: &Arguments) -> Result<MemoryMap, Failure> {
    let Arguments { lenient, format, stride, .. } = *arguments;
    let options = ReadOptions { lenient, format, stride };
    let mut maps = read_all(&arguments.map, &options)?;
    let firmware = maps.iter().position(|map| map.kind() == ListKind::Firmware).unwrap_or(0);
    let index = match arguments.list {
        Some(list) => list.checked_sub(1).filter(|index| *index < maps.len()).ok_or_else(|| no_list(list, &maps))?,
        None => firmware,
    };
    if arguments.list.is_none() && maps.len() > 1 {
        tell(&format!("efibed: using list {}; {}", index + 1, lists(&maps)));
    }
    Ok(maps.swap_remove(index))
}

fn read_all(map: &Path, options: &ReadOptions) -> Result<Vec<MemoryMap>, Failure> {
    if map != Path::new("-") {
        return MemoryMap::read_all(map, options).map_err(Failure::input);
    }
    MemoryMap::parse_bytes(input::STDIN, input::stdin()?, options).map_err(Failure::input)
}

fn no_list(list: usize, maps: &[MemoryMap]) -> Failure {
    Failure::Input(miette::miette!(help = lists(maps), "there is no list {list}"))
}

/// `there are 2: 1 firmware's (130 descriptors), 2 Linux's own (40 descriptors)`
fn lists(maps: &[MemoryMap]) -> String {
    let told = maps.iter().enumerate().take(MAX_LISTS_TOLD).map(|(index, map)| {
        let whose = match map.kind() {
            ListKind::Runtime => "Linux's own",
            _ => "firmware's",
        };
        format!("{} {whose} ({} descriptors)", index + 1, map.descriptors().len())
    });
    let more = if maps.len() > MAX_LISTS_TOLD { ", ..." } else { "" };
    format!("there are {}: {}{more}", maps.len(), told.collect::<Vec<_>>().join(", "))
}

const MAX_LISTS_TOLD: usize = 8;
