//! From an instruction's address to the function, file and line it was compiled from.
//!
//! The debug information comes first (DWARF, by the crate `addr2line`), then the symbol table. Not read are debug information
//! that is compressed or in a file of its own; then a place has a function and no line.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use addr2line::Context;
use gimli::{EndianArcSlice, LittleEndian, Reader as _};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{CompressionFormat, Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind, elf};

use super::unwind::{Frame, Tables};
use crate::check::Place;

/// Files that are larger are not read. The largest test programs with debug information have some 200 MiB.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// The most frames of one address: compilers inline a dozen deep.
const MAX_FRAMES: usize = 64;

/// The most levels of entries in the debug information of a file that is not this process's own. Compilers make some dozens.
const MAX_DEPTH: isize = 512;

/// Names that are longer, mangled or not, are clipped. Those of Rust's and C++'s templates have some hundreds of bytes.
const MAX_NAME_BYTES: usize = 4096;

/// The places of a program's instructions. Files are read when they are first asked about, and kept.
#[derive(Debug)]
pub struct Symbols(Source);

#[derive(Debug)]
enum Source {
    /// The files mapped into this process, by path; None: it cannot be read.
    Process(Mutex<HashMap<PathBuf, Option<Module>>>),
    /// One file; None: it is no ELF file.
    Elf { module: Mutex<Option<Module>>, bias: u64 },
}

impl Symbols {
    /// Those of this process and of its shared libraries.
    pub fn of_this_process() -> Self {
        Self(Source::Process(Mutex::default()))
    }

    /// Those of an ELF file that was loaded at its own addresses plus `bias`.
    pub fn of_elf(file: &[u8], bias: u64) -> Self {
        Self(Source::Elf { module: Mutex::new(Module::read(file.into(), Origin::Foreign)), bias })
    }

    /// The place of the instruction at an address; if its function was inlined, that function. Of a return address, ask for the
    /// byte before it: the call may be the last instruction of its line.
    pub fn place(&self, address: u64) -> Option<Place> {
        self.chain(address).into_iter().next()
    }

    /// The same, followed by the places that it was inlined into, innermost first. Empty: nothing is known.
    pub fn chain(&self, address: u64) -> Vec<Place> {
        self.look_up(address).unwrap_or_default()
    }

    /// The frame that called another one; `word` is what is in memory.
    pub fn caller(&self, frame: &Frame, word: &dyn Fn(u64) -> Option<u64>) -> Option<Frame> {
        self.with_module(frame.rip, |module, virt| module.caller(frame, frame.rip.wrapping_sub(virt), word))?
    }

    fn look_up(&self, address: u64) -> Option<Vec<Place>> {
        self.with_module(address, Module::known_chain)
    }

    /// What comes of the file that has an address, and the address that the file itself has for it.
    fn with_module<T>(&self, address: u64, look: impl FnOnce(&mut Module, u64) -> T) -> Option<T> {
        match &self.0 {
            Source::Elf { module, bias } => Some(look(locked(module).as_mut()?, address.checked_sub(*bias)?)),
            Source::Process(modules) => {
                let maps = fs::read("/proc/self/maps").ok()?;
                let (path, offset) = mapped_file(&String::from_utf8_lossy(&maps), address)?;
                let mut modules = locked(modules);
                let module = modules
                    .entry(path)
                    .or_insert_with_key(|path| Module::read(contents(path)?, Origin::Own))
                    .as_mut()?;
                let virt = module.virt_of(offset)?;
                Some(look(module, virt))
            }
        }
    }
}

/// A thread that panicked while it held the lock left nothing half done: what modules come to know is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file that is mapped at an address, and where in the file the address is. A line of /proc/self/maps (proc(5)):
/// `55d0c0a00000-55d0c0b00000 r-xp 00042000 fd:00 1234567     /path/of the/file`
fn mapped_file(maps: &str, address: u64) -> Option<(PathBuf, u64)> {
    let hex = |text| u64::from_str_radix(text, 16).ok();
    maps.lines().find_map(|line| {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        let offset = hex(fields.nth(1)?)?;
        let path = fields.nth(2)?.trim_start();
        let is_it = (start..end).contains(&address) && (path.starts_with('/') || path == VDSO);
        is_it.then(|| Some((path.into(), address.checked_sub(start)?.checked_add(offset)?)))?
    })
}

/// The library that the system itself has put there, whole and at once (vdso(7)).
const VDSO: &str = "[vdso]";

/// Its contents, which no file has.
fn vdso() -> Option<Arc<[u8]>> {
    const MOST_BYTES: usize = 64 << 10;
    // SAFETY: it reads what the system has told this process at its start.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let mut bytes = vec![0; MOST_BYTES];
    let read = File::open("/proc/self/mem").ok()?.read_at(&mut bytes, start).ok()?;
    Some(bytes[..read].into())
}

/// The contents of a mapped file. This process's own program is found even where it was replaced or removed.
fn contents(path: &Path) -> Option<Arc<[u8]>> {
    if path == Path::new(VDSO) {
        return vdso();
    }
    const OWN: &str = "/proc/self/exe";
    let is_own = fs::read_link(OWN).is_ok_and(|own| own == path);
    let path = if is_own { Path::new(OWN) } else { path };
    // Devices can be mapped, too. They are not even opened.
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    if meta.len() > MAX_FILE_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes.into())
}

type Reader = EndianArcSlice<LittleEndian>;

/// Whose a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This process runs it.
    Own,
    /// Anybody's.
    Foreign,
}

/// One ELF file. Its addresses are those in the file.
struct Module {
    bytes: Arc<[u8]>,
    lines: Option<Context<Reader>>,
    /// None: not looked for yet.
    tables: Option<Tables>,
    /// What was asked before: a run asks again and again about the few instructions that write entries.
    chains: HashMap<u64, Vec<Place>>,
}

/// Instructions whose places are kept.
const MAX_CHAINS: usize = 1 << 12;

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_lines = self.lines.is_some();
        f.debug_struct("Module").field("bytes", &self.bytes.len()).field("has_lines", &has_lines).finish()
    }
}

impl Module {
    fn read(bytes: Arc<[u8]>, origin: Origin) -> Option<Self> {
        let is_small = bytes.len() as u64 <= MAX_FILE_BYTES;
        let file = is_small.then(|| parse(&bytes))??;
        let section = |id: gimli::SectionId| Ok::<_, gimli::Error>(section(&file, &bytes, id.name()));
        let mut dwarf = gimli::Dwarf::load(section).ok()?;
        dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
        let is_sound = origin == Origin::Own || is_shallow(&dwarf).unwrap_or(false);
        let lines = is_sound.then(|| Context::from_dwarf(dwarf).ok()).flatten();
        Some(Self { bytes: Arc::clone(&bytes), lines, tables: None, chains: HashMap::new() })
    }

    /// The address of a byte of the file, if it is loaded. Two segments may map the same page of the file, but they load
    /// different parts of it.
    fn virt_of(&self, offset: u64) -> Option<u64> {
        let file = parse(&self.bytes)?;
        let loaded = file.elf_program_headers().iter().filter(|header| header.p_type(LE) == elf::PT_LOAD);
        let mut found = loaded.filter_map(|header| {
            let within = offset.checked_sub(header.p_offset(LE)).filter(|within| *within < header.p_filesz(LE))?;
            header.p_vaddr(LE).checked_add(within)
        });
        found.next()
    }

    fn caller(&mut self, frame: &Frame, bias: u64, word: &dyn Fn(u64) -> Option<u64>) -> Option<Frame> {
        let file = parse(&self.bytes)?;
        let tables = self.tables.get_or_insert_with(|| Tables::of(&file));
        frame.caller(&file, tables, bias, word)
    }

    fn known_chain(&mut self, virt: u64) -> Vec<Place> {
        if let Some(chain) = self.chains.get(&virt) {
            return chain.clone();
        }
        let chain = self.chain(virt);
        if self.chains.len() < MAX_CHAINS {
            self.chains.insert(virt, chain.clone());
        }
        chain
    }

    fn chain(&self, virt: u64) -> Vec<Place> {
        // `addr2line` adds one to an address.
        if virt == u64::MAX {
            return Vec::new();
        }
        let mut chain = self.lines.as_ref().and_then(|lines| frames(lines, virt)).unwrap_or_default();
        // Assembler sources have lines and no functions. The outermost function is the one that has a symbol.
        if chain.last().is_none_or(|place| place.function.is_none())
            && let Some(function) = self.symbol(virt)
        {
            let place = chain.pop().unwrap_or_default();
            chain.push(Place { function: Some(function), ..place });
        }
        chain.retain(|place| place.function.is_some() || place.file.is_some());
        chain
    }

    /// The function that has an address, by the symbol table: the symbol before it. One without a size reaches to the next one,
    /// and no further than its section.
    fn symbol(&self, virt: u64) -> Option<String> {
        let file = parse(&self.bytes)?;
        let has_it = |start: u64, bytes: u64| virt.checked_sub(start).is_some_and(|within| within < bytes);
        let is_in_code = |index| {
            let section = file.section_by_index(index).ok();
            section
                .is_some_and(|section| section.kind() == SectionKind::Text && has_it(section.address(), section.size()))
        };
        let symbols = file.symbols().chain(file.dynamic_symbols()).filter(|symbol| {
            matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown)
                && symbol.address() <= virt
                && (symbol.size() == 0 || has_it(symbol.address(), symbol.size()))
                && symbol.section_index().is_some_and(is_in_code)
        });
        let nearest = symbols.max_by_key(|symbol| (symbol.address(), symbol.size() != 0, symbol.is_global()))?;
        Some(demangled(&String::from_utf8_lossy(nearest.name_bytes().ok()?)))
    }
}

const LE: object::LittleEndian = object::LittleEndian;

fn parse(bytes: &[u8]) -> Option<ElfFile64<'_, object::LittleEndian>> {
    ElfFile64::parse(bytes).ok()
}

/// A section of the debug information; empty if the file does not have it as it is.
fn section(file: &ElfFile64<object::LittleEndian>, bytes: &Arc<[u8]>, name: &str) -> Reader {
    let range = || -> Option<Range<usize>> {
        let range = file.section_by_name(name)?.compressed_file_range().ok()?;
        let start = usize::try_from(range.offset).ok()?;
        let end = start.checked_add(usize::try_from(range.compressed_size).ok()?)?;
        (range.format == CompressionFormat::None && end <= bytes.len()).then_some(start..end)
    };
    Reader::new(Arc::clone(bytes), LittleEndian).range(range().unwrap_or(0..0))
}

/// Whether entries are nested no deeper than [`MAX_DEPTH`]. `addr2line` calls itself for each level of inlined functions, and a
/// stack that overflows ends the process.
fn is_shallow(dwarf: &gimli::Dwarf<Reader>) -> gimli::Result<bool> {
    let mut units = dwarf.units();
    while let Some(unit) = units.next()? {
        let unit = dwarf.unit(unit)?;
        let mut entries = unit.entries_raw(None)?;
        while !entries.is_empty() {
            if entries.next_depth() > MAX_DEPTH {
                return Ok(false);
            }
            if let Some(abbreviation) = entries.read_abbreviation()? {
                entries.skip_attributes(abbreviation.attributes())?;
            }
        }
    }
    Ok(true)
}

/// The frames of an address, innermost first, by the debug information.
fn frames(lines: &Context<Reader>, virt: u64) -> Option<Vec<Place>> {
    let unit = lines.find_dwarf_and_unit(virt).skip_all_loads()?;
    let folder = unit.comp_dir.as_ref().and_then(|folder| Some(folder.to_string_lossy().ok()?.into_owned()));
    let mut frames = lines.find_frames(virt).skip_all_loads().ok()?;
    let mut places = Vec::new();
    while let Ok(Some(frame)) = frames.next()
        && places.len() < MAX_FRAMES
    {
        places.push(place(&frame, folder.as_deref().unwrap_or_default()));
    }
    Some(places)
}

fn place(frame: &addr2line::Frame<Reader>, folder: &str) -> Place {
    let raw_name = frame.function.as_ref().and_then(|function| function.raw_name().ok());
    // What is of no line of a file (line 0; DWARF 5, 6.2.2) the compiler has added, in whatever file it was at.
    let location = frame.location.as_ref().filter(|location| location.line.is_some_and(|line| line != 0));
    let file = location.and_then(|location| location.file).map(|file| {
        // What others wrote was compiled elsewhere, and is to be known by that.
        let is_here = !Place::is_elsewhere(&format!("{folder}/"));
        let short = Path::new(file).strip_prefix(folder).ok().and_then(Path::to_str);
        let short = short.filter(|short| is_here && !short.is_empty());
        clipped(short.unwrap_or(file))
    });
    Place { function: raw_name.map(|name| demangled(&name)), file, line: location.and_then(|location| location.line) }
}

/// A function's name as its author wrote it; as it is, if it is no mangled name of Rust or C++.
fn demangled(name: &str) -> String {
    if name.len() > MAX_NAME_BYTES {
        return clipped(name);
    }
    let written = |write: &dyn Fn(&mut Clipped) -> fmt::Result| {
        let mut text = Clipped::default();
        write(&mut text).ok().map(|()| text.0)
    };
    let rust = rustc_demangle::try_demangle(name).ok().and_then(|name| written(&|text| write!(text, "{name:#}")));
    let cpp = || {
        let name = cpp_demangle::Symbol::new(name).ok()?;
        written(&|text| name.structured_demangle(text, &cpp_demangle::DemangleOptions::default()))
    };
    rust.or_else(cpp).unwrap_or_else(|| clipped(name))
}

fn clipped(name: &str) -> String {
    let mut text = Clipped::default();
    let _ = text.write_str(name);
    text.0
}

/// A text that takes so much and no more: a few bytes can stand for a name of gigabytes, for mangled names refer to parts of
/// themselves.
#[derive(Default)]
struct Clipped(String);

impl fmt::Write for Clipped {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MAX_NAME_BYTES.saturating_sub(self.0.len());
        self.0
            .extend(more.char_indices().take_while(|(at, c)| at.saturating_add(c.len_utf8()) <= room).map(|(_, c)| c));
        if more.len() <= room { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::PIE_BASE;
    use super::super::compiled::{C, compile};
    use super::super::{Program, Segment};
    use super::*;
    use crate::random::Random;

    /// Line 2 is inlined into line 3.
    const MAPPER: &str = "\
        long efibed_finish(void) { return 1; }\n\
        static inline long inner(volatile long *at) { while (*at) at++; return *at; }\n\
        long efibed_map(volatile long *at) { return inner(at); }\n";

    const FLAGS: [&str; 5] = ["-O2", "-static", "-nostdlib", "-e", "efibed_map"];

    fn mapper(flags: &[&str]) -> Vec<u8> {
        compile(C, MAPPER, &[&FLAGS, flags].concat())
    }

    fn shown(places: &[Place]) -> Vec<String> {
        places.iter().map(Place::to_string).collect()
    }

    #[inline(never)]
    fn a_known_function() -> u32 {
        line!()
    }

    #[test]
    fn functions_of_this_process_are_found_with_their_lines() {
        let symbols = Symbols::of_this_process();
        let place = symbols.place(a_known_function as fn() -> u32 as usize as u64).unwrap();
        let function = place.function.as_deref().unwrap();
        assert_eq!(function, "efibed::guest::process::symbols::tests::a_known_function");
        assert_eq!(place.file.as_deref(), Some(file!()));
        let line = place.line.unwrap();
        assert!(line.abs_diff(a_known_function()) <= 1, "{place}");
        assert_eq!(place.to_string(), format!("{function} at {}:{line}", file!()));
    }

    #[test]
    fn functions_of_shared_libraries_are_found_by_name() {
        let symbols = Symbols::of_this_process();
        let place = symbols.place(libc::getpid as unsafe extern "C" fn() -> i32 as usize as u64).unwrap();
        assert!(place.function.as_deref().unwrap().contains("getpid"), "{place}");
    }

    #[test]
    fn what_is_no_code_of_this_process_has_no_place() {
        let symbols = Symbols::of_this_process();
        let local = 0;
        for address in [0, 1, 0xffff_8000_0000_0000, u64::MAX, &raw const local as u64] {
            assert_eq!(symbols.place(address), None, "{address:#x}");
        }
    }

    #[test]
    fn a_program_has_lines_and_what_was_inlined() {
        for (flags, bias) in [(["-g", "-static"], 0), (["-g", "-static-pie"], PIE_BASE)] {
            let file = mapper(&flags);
            let program = Program::load(&file).unwrap();
            assert_eq!(program.bias, bias);
            let symbols = Symbols::of_elf(&file, program.bias);
            let mut addresses = program.map..program.map + 16;
            let inlined = addresses.find(|address| symbols.chain(*address).len() > 1).unwrap();
            assert_eq!(shown(&symbols.chain(inlined)), ["inner at mapper.c:2", "efibed_map at mapper.c:3"]);
            assert_eq!(symbols.place(inlined).unwrap().to_string(), "inner at mapper.c:2");
            assert_eq!(symbols.place(program.finish.unwrap()).unwrap().to_string(), "efibed_finish at mapper.c:1");
        }
    }

    #[test]
    fn without_debug_information_there_is_the_name() {
        let file = mapper(&["-g0"]);
        let program = Program::load(&file).unwrap();
        let symbols = Symbols::of_elf(&file, 0);
        assert_eq!(shown(&symbols.chain(program.map)), ["efibed_map"]);
        assert_eq!(shown(&symbols.chain(program.map + 1)), ["efibed_map"]);
        // The same code without its symbols.
        let stripped = Symbols::of_elf(&mapper(&["-g", "-s"]), 0);
        assert_eq!(stripped.place(program.map), None);
        for address in [0, program.map - 0x1000, u64::MAX] {
            assert_eq!(symbols.place(address), None, "{address:#x}");
        }
    }

    #[test]
    fn compressed_debug_information_is_as_none() {
        let file = mapper(&["-g", "-gz=zlib"]);
        let program = Program::load(&file).unwrap();
        assert_eq!(shown(&Symbols::of_elf(&file, 0).chain(program.map)), ["efibed_map"]);
    }

    #[test]
    fn assembler_has_lines_and_the_names_of_its_labels() {
        let source = ".globl efibed_map\n.text\nefibed_map:\n nop\n ret\n";
        let file = compile("mapper.s", source, &[&FLAGS, ["-g"].as_slice()].concat());
        let program = Program::load(&file).unwrap();
        let symbols = Symbols::of_elf(&file, 0);
        assert_eq!(symbols.place(program.map).unwrap().to_string(), "efibed_map at mapper.s:4");
        assert_eq!(symbols.place(program.map + 1).unwrap().to_string(), "efibed_map at mapper.s:5");
    }

    /// An entry of one byte for each level.
    #[test]
    fn debug_information_that_is_nested_too_deep_is_as_none() {
        let source = |levels: u32| {
            format!(
                "
                .globl efibed_map
                .text
                efibed_map: ret
                .section .debug_abbrev
                .byte 1, 0x11, 1, 0x11, 0x01, 0x12, 0x07, 0, 0 # a unit, with its first address and its length
                .byte 2, 0x2e, 1, 0x11, 0x01, 0x12, 0x07, 0x03, 0x08, 0, 0 # a function, with a name
                .byte 3, 0x1d, 1, 0, 0, 0 # an inlined function
                .section .debug_info
                .long end - start
                start:
                .short 4
                .long 0
                .byte 8, 1
                .quad efibed_map, 1
                .byte 2
                .quad efibed_map, 1
                .asciz \"the_name\"
                .fill {levels}, 1, 3
                .fill {levels} + 2, 1, 0
                end:
                "
            )
        };
        for (levels, name) in [(100, "the_name"), (3_000_000, "efibed_map")] {
            let file = compile("mapper.s", &source(levels), &FLAGS);
            let map = Program::load(&file).unwrap().map;
            assert_eq!(shown(&Symbols::of_elf(&file, 0).chain(map)), [name], "{levels}");
        }
    }

    #[test]
    fn garbage_has_no_places() {
        for file in [b"".as_slice(), b"\x7fELF", b"#!/bin/sh\n", &[0x7f; 4096]] {
            let symbols = Symbols::of_elf(file, 0);
            assert_eq!((symbols.place(0), symbols.chain(0x40_1000)), (None, vec![]));
        }
        assert_eq!(Symbols::of_elf(&mapper(&["-g"]), u64::MAX).place(0x40_1000), None);
    }

    #[test]
    fn names_are_demangled_and_bounded() {
        for (name, expected) in [
            ("build_tables", "build_tables"),
            ("_Z12build_tablesPm", "build_tables(unsigned long*)"),
            ("_ZN5paper3mapEv", "paper::map()"),
            ("_ZN5paper3map17h0123456789abcdefE", "paper::map"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_Zoh", "_Zoh"),
        ] {
            assert_eq!(demangled(name), expected);
        }
        // Each letter doubles what the one before stands for.
        let doubling: String = (0..30).map(|_| "S_S_").collect();
        for name in ["x".repeat(1 << 20), "é".repeat(1 << 20), format!("_Z1fI{doubling}EvT_")] {
            assert!(demangled(&name).len() <= MAX_NAME_BYTES);
        }
    }

    #[test]
    fn mappings_are_found_by_address() {
        let maps = "\
            55d0c0a00000-55d0c0b00000 r-xp 00042000 fd:00 1234567                    /path of/the file\n\
            7ffd1c000000-7ffd1c021000 rw-p 00000000 00:00 0                          [stack]\n\
            nonsense\n\
            7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n";
        let found = |address| mapped_file(maps, address);
        assert_eq!(found(0x55d0_c0a0_1234), Some(("/path of/the file".into(), 0x4_3234)));
        for other in [0x55d0_c0b0_0000, 0x7ffd_1c00_0000, 0x7f00_0000_0000, 0] {
            assert_eq!(found(other), None, "{other:#x}");
        }
    }

    /// Whatever a file holds, nothing panics.
    #[test]
    fn damaged_files_have_some_places_or_none() {
        const SEED: u64 = 2013;
        let whole = mapper(&["-g"]);
        let program = Program::load(&whole).unwrap();
        let code = program.segments.iter().find(|segment| segment.executable).map(Segment::end).unwrap();
        let addresses = [program.map, program.finish.unwrap(), program.map + 3, code, 0, u64::MAX];
        let (mut random, mut found) = (Random::new(SEED), 0);
        for run in 0..3000 {
            let mut file = whole.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(file.len() as u64) as usize;
                match random.below(16) {
                    0 => file.truncate(at.max(1)),
                    1..6 => file[at] = [0, 0x7f, 0x80, 0xff][random.below(4) as usize],
                    _ => file[at] ^= 1 << random.below(8),
                }
            }
            let asked = std::panic::catch_unwind(|| {
                let symbols = Symbols::of_elf(&file, 0);
                addresses.map(|address| symbols.chain(address).len())
            });
            let chains = asked.unwrap_or_else(|_| panic!("run {run} of seed {SEED}"));
            assert!(chains.iter().all(|frames| *frames <= MAX_FRAMES));
            found += usize::from(chains[0] > 0);
        }
        assert!((500..3000).contains(&found), "{found} of 3000");
    }
}
