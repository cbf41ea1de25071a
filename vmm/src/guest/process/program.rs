//! A program with mapping code: an ELF file as it lies in memory.
//!
//! What is taken is what needs no runtime library and no dynamic linker: a static executable, at the addresses it was linked
//! for, or a static PIE, at [`PIE_BASE`] with its relative relocations applied here.
//!
//! The crate `object` reads the file, and not linux-loader, which loads kernels: it puts segments where their *physical*
//! addresses say and reports neither their permissions nor symbols nor relocations. Those would have to be read beside
//! it, by another reader of the same headers.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, Rela64, Sym64};
use object::read::elf::{
    Dyn as _, FileHeader as _, ProgramHeader as _, Rela as _, SectionHeader as _, SectionTable, Sym as _,
};
use object::{SectionIndex, SymbolIndex};

use super::super::PAGE_BYTES;
use super::super::layout::{PIE_BASE, PROGRAM_END};

/// The function that maps.
pub const MAP: &str = "efibed_map";

/// The function that is called after SetVirtualAddressMap, if there is one.
pub const FINISH: &str = "efibed_finish";

/// The most memory that a program may take. Mapping code takes some KiB; tables come from the pool, not from here.
pub const MAX_BYTES: u64 = 32 << 20;

/// The largest tables of relocations: 700,000 pointers, or some millions where the tables are packed.
const MAX_RELOCATION_BYTES: u64 = 16 << 20;

/// As much of a symbol's name as a message has.
const MAX_NAME_CHARS: usize = 200;

/// The section of counters of coverage, as LLVM names it.
pub const COUNTERS: &str = "__sancov_cntrs";

/// The most of them: mapping code has hundreds.
const MAX_COUNTERS: u64 = 1 << 20;

type Header = FileHeader64<LE>;

/// A program, ready to be put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// By address, without a page in common.
    pub segments: Vec<Segment>,
    /// The address of [`MAP`].
    pub map: u64,
    /// The address of [`FINISH`].
    pub finish: Option<u64>,
    /// What was added to the addresses in the file: what [`Symbols::of_elf`](super::Symbols::of_elf) needs to know.
    pub bias: u64,
    /// Where its counters of coverage are, a byte each; empty: it has none.
    pub counters: Range<u64>,
    /// What is odd about it, each a sentence for its owner.
    pub notes: Vec<String>,
}

/// Whole pages of one set of permissions. All can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub virt: u64,
    /// All of it: zeros where the file has nothing.
    pub bytes: Vec<u8>,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

/// Why a file is no program. The text continues the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Not an ELF file at all.
    #[error("is no ELF file: it does not start with 7f 45 4c 46; `efibed build mapper.c` makes one")]
    NotElf,
    /// For another machine.
    #[error("is an ELF file for {0}, not for 64-bit x86: compile it for x86-64 (`-m64`)")]
    Machine(String),
    /// Another kind of ELF file.
    #[error("is {what}: {help}")]
    Kind {
        /// What it is.
        what: &'static str,
        /// What to do about it.
        help: &'static str,
    },
    /// It ends too early, or says of itself what cannot be.
    #[error("is damaged: {0} is not in the file, or makes no sense; link it again")]
    Damaged(&'static str),
    /// A segment that cannot be loaded.
    #[error("has a segment at {virt:#x}, {bytes:#x} bytes, that {problem}")]
    Segment {
        /// Its address.
        virt: u64,
        /// Its size in memory.
        bytes: u64,
        /// What is wrong with it and what to do, after "that".
        problem: String,
    },
    /// It takes too much memory.
    #[error("takes more than {} MiB of memory; make its arrays smaller: tables come from the page allocator", MAX_BYTES >> 20)]
    TooLarge,
    /// A relocation that only a dynamic linker or a C library applies.
    #[error(
        "needs a dynamic linker: it has a relocation of type {kind} at {virt:#x}{}; {}",
        against(symbol),
        LINK_STATIC
    )]
    Relocation {
        /// Its number in the ABI of x86-64.
        kind: u32,
        /// What it changes.
        virt: u64,
        /// The symbol it is about.
        symbol: Option<String>,
    },
    /// A relocation for what is not loaded.
    #[error("has a relocation at {virt:#x}, where nothing is loaded; link it again")]
    StrayRelocation {
        /// What it would change.
        virt: u64,
    },
    /// Without [`MAP`] nothing says where to start. The entry point may be anything.
    #[error(
        "has no symbol `{MAP}`: name the mapping function so (`extern \"C\"` in C++), link with `-e {MAP}`, and keep the \
         symbols (no `-s`, no `strip`)"
    )]
    NoMap,
    /// A symbol that is no function.
    #[error("has `{name}` at {virt:#x}, where no code is: it must be a function")]
    NoCode {
        /// [`MAP`] or [`FINISH`].
        name: &'static str,
        /// Its address.
        virt: u64,
    },
}

/// How programs are linked.
const LINK_STATIC: &str = "link it with `-static -nostdlib` (or `-static-pie -nostdlib`), and with all that it calls";

fn against(symbol: &Option<String>) -> String {
    symbol.as_ref().map(|name| format!(" for `{name}`")).unwrap_or_default()
}

impl Program {
    /// Loads an ELF file.
    pub fn load(bytes: &[u8]) -> Result<Self, ProgramError> {
        let file = File::read(bytes)?;
        let mut memory = Memory::lay_out(file.extents()?)?;
        memory.relocate(&file)?;
        let map = memory.function(MAP, &file)?.ok_or(ProgramError::NoMap)?;
        let finish = memory.function(FINISH, &file)?;
        let counters = memory.counters(&file);
        Ok(Self { map, finish, bias: file.bias, notes: notes(&memory, &file), counters, segments: memory.0 })
    }
}

impl Segment {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.virt.saturating_add(self.bytes.len() as u64)
    }
}

/// An executable for this machine that needs no dynamic linker.
struct File<'a> {
    bytes: &'a [u8],
    segments: &'a [ProgramHeader64<LE>],
    sections: SectionTable<'a, Header>,
    bias: u64,
}

impl<'a> File<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProgramError> {
        let header = header(bytes)?;
        let segments = header.program_headers(LE, bytes).map_err(|_| ProgramError::Damaged("its table of segments"))?;
        let sections = header.sections(LE, bytes).map_err(|_| ProgramError::Damaged("its table of sections"))?;
        let bias = if header.e_type(LE) == elf::ET_DYN { PIE_BASE } else { 0 };
        let file = Self { bytes, segments, sections, bias };
        if file.needs_linker()? {
            return Err(ProgramError::Kind {
                what: "a shared library, or a program that is linked with one",
                help: LINK_STATIC,
            });
        }
        Ok(file)
    }

    fn needs_linker(&self) -> Result<bool, ProgramError> {
        let segment = |kind| self.segments.iter().find(|header| header.p_type(LE) == kind);
        let entries = segment(elf::PT_DYNAMIC).map(|header| header.dynamic(LE, self.bytes));
        let entries = entries.transpose().map_err(|_| ProgramError::Damaged("its dynamic table"))?;
        let mut tags = entries.flatten().unwrap_or_default().iter().map(|entry| entry.d_tag(LE));
        let needs_library = tags.by_ref().take_while(|tag| *tag != elf::DT_NULL).any(|tag| tag == elf::DT_NEEDED);
        Ok(needs_library || segment(elf::PT_INTERP).is_some())
    }

    /// What is loaded, by address.
    fn extents(&self) -> Result<Vec<Extent<'a>>, ProgramError> {
        let loaded = self.segments.iter().filter(|header| header.p_type(LE) == elf::PT_LOAD && header.p_memsz(LE) != 0);
        let mut extents = loaded.map(|header| Extent::of(header, self)).collect::<Result<Vec<_>, _>>()?;
        if extents.is_empty() {
            return Err(ProgramError::Kind { what: "an ELF file with nothing to load", help: "link it as a program" });
        }
        extents.sort_by_key(|extent| extent.virt);
        Ok(extents)
    }

    /// The name of a symbol of a relocation.
    fn symbol_name(&self, table: SectionIndex, index: SymbolIndex) -> Option<String> {
        let symbols = self.sections.symbol_table_by_index(LE, self.bytes, table).ok()?;
        let name = symbols.symbol_name(LE, symbols.symbol(index).ok()?).ok()?;
        Some(String::from_utf8_lossy(name).chars().take(MAX_NAME_CHARS).collect())
    }

    /// Where a symbol is, relative to the bias. One that other files can see comes before one of the same name that they
    /// cannot.
    fn symbol(&self, name: &str) -> Option<u64> {
        let wanted = format!("{name}\0");
        let tables = [elf::SHT_SYMTAB, elf::SHT_DYNSYM].into_iter();
        let tables = tables.filter_map(|kind| self.sections.symbols(LE, self.bytes, kind).ok());
        let named = tables.flat_map(|table| {
            // Compared where they lie: to look for the end of each name may take as long as there are bytes of names.
            let names = self.sections.section(table.string_section()).and_then(|section| section.data(LE, self.bytes));
            let names = names.unwrap_or_default();
            let wanted = wanted.as_bytes();
            let is_it = move |symbol: &&Sym64<LE>| {
                let name = usize::try_from(symbol.st_name(LE)).ok().and_then(|start| names.get(start..));
                !symbol.is_undefined(LE) && name.is_some_and(|name| name.starts_with(wanted))
            };
            table.iter().filter(is_it)
        });
        named.min_by_key(|symbol| symbol.is_local()).map(|symbol| symbol.st_value(LE))
    }
}

/// The header of an executable for this machine.
fn header(file: &[u8]) -> Result<&Header, ProgramError> {
    if !file.starts_with(&elf::ELFMAG) {
        return Err(ProgramError::NotElf);
    }
    // The bytes after the magic number: class, and order of bytes.
    match file.get(4..6) {
        Some(&[2, 1]) => {}
        Some(&[1, 1]) => return Err(ProgramError::Machine("32 bits".into())),
        Some(&[1 | 2, 2]) => return Err(ProgramError::Machine("a big-endian machine".into())),
        _ => return Err(ProgramError::Damaged("its header")),
    }
    let header = Header::parse(file).map_err(|_| ProgramError::Damaged("its header"))?;
    match header.e_machine(LE) {
        elf::EM_X86_64 => {}
        other => return Err(ProgramError::Machine(format!("another machine (number {})", other.0))),
    }
    match header.e_type(LE) {
        elf::ET_EXEC | elf::ET_DYN => Ok(header),
        elf::ET_REL => Err(ProgramError::Kind {
            what: "an object file, which is not linked yet",
            help: "link it (`cc -static -nostdlib -e efibed_map mapper.o -o mapper.elf`)",
        }),
        elf::ET_CORE => Err(ProgramError::Kind { what: "a core dump", help: "name the program itself" }),
        _ => Err(ProgramError::Damaged("its type")),
    }
}

/// What a segment is made of.
struct Extent<'a> {
    virt: u64,
    memory_bytes: u64,
    contents: &'a [u8],
    flags: elf::ProgramFlags,
}

impl<'a> Extent<'a> {
    fn of(header: &ProgramHeader64<LE>, file: &File<'a>) -> Result<Self, ProgramError> {
        let (virt, memory_bytes) = (header.p_vaddr(LE), header.p_memsz(LE));
        let refused = |problem: &str| ProgramError::Segment { virt, bytes: memory_bytes, problem: problem.to_owned() };
        if header.p_filesz(LE) > memory_bytes {
            return Err(refused("has more bytes in the file than in memory: the file is damaged, link it again"));
        }
        let contents = header
            .data(LE, file.bytes)
            .map_err(|()| refused("is not all in the file: the file was cut off, copy it or link it again"))?;
        let virt = virt.checked_add(file.bias).ok_or_else(|| refused(WRAPS))?;
        let end = virt.checked_add(memory_bytes).ok_or_else(|| refused(WRAPS))?;
        match () {
            () if virt < PAGE_BYTES => {
                Err(refused("lies in page 0, which catches null pointers: link it at 4 MiB, as is usual"))
            }
            () if end > PROGRAM_END => Err(refused(
                "reaches past 0x3000_0000_0000, where the memory lies that mapping code is given: link it below 2 GiB, as is usual",
            )),
            () => Ok(Self { virt, memory_bytes, contents, flags: header.p_flags(LE) }),
        }
    }

    fn first_page(&self) -> u64 {
        self.virt & !PAGE_MASK
    }

    /// The end of its last byte, and of its last page. It lies in the lower half, so nothing overflows.
    fn ends(&self) -> [u64; 2] {
        let end = self.virt.saturating_add(self.memory_bytes);
        [end, end.saturating_add(PAGE_MASK) & !PAGE_MASK]
    }

    /// Why it cannot lie right after another one, which starts no later.
    fn conflict(&self, before: &Self) -> Option<ProgramError> {
        let [end, page_end] = before.ends();
        let problem = match () {
            () if self.virt < end => format!("overlaps the one at {:#x}: correct the linker script", before.virt),
            () if self.first_page() < page_end => format!(
                "shares a page with the one at {:#x}, and a page has one set of permissions: link it with whole pages (no \
                 `-n`, no `-N`)",
                before.virt
            ),
            () => return None,
        };
        Some(ProgramError::Segment { virt: self.virt, bytes: self.memory_bytes, problem })
    }

    /// Its pages, as they lie in memory. None: more than this process can address.
    fn load(&self) -> Option<Segment> {
        let [_, page_end] = self.ends();
        let virt = self.first_page();
        let mut bytes = vec![0; usize::try_from(page_end.checked_sub(virt)?).ok()?];
        let start = usize::try_from(self.virt.checked_sub(virt)?).ok()?;
        bytes.get_mut(start..)?.get_mut(..self.contents.len())?.copy_from_slice(self.contents);
        let [writable, executable] = [elf::PF_W, elf::PF_X].map(|flag| self.flags.contains(flag));
        Some(Segment { virt, bytes, writable, executable })
    }
}

const WRAPS: &str = "reaches past the end of the address space: link it below 2 GiB, as is usual";

const PAGE_MASK: u64 = 0xfff;

/// The segments, by address.
struct Memory(Vec<Segment>);

impl Memory {
    /// Loads segments, sorted by address.
    fn lay_out(extents: Vec<Extent>) -> Result<Self, ProgramError> {
        let mut neighbours = extents.iter().zip(extents.iter().skip(1));
        if let Some(conflict) = neighbours.find_map(|(before, extent)| extent.conflict(before)) {
            return Err(conflict);
        }
        // Before there is memory for any of them.
        let bytes = extents.iter().map(|extent| extent.ends()[1].saturating_sub(extent.first_page()));
        if bytes.fold(0, u64::saturating_add) > MAX_BYTES {
            return Err(ProgramError::TooLarge);
        }
        extents.iter().map(Extent::load).collect::<Option<_>>().map(Self).ok_or(ProgramError::TooLarge)
    }

    fn segment(&mut self, virt: u64) -> Option<&mut Segment> {
        let index = self.0.partition_point(|segment| segment.end() <= virt);
        self.0.get_mut(index).filter(|segment| segment.virt <= virt)
    }

    /// Eight bytes, at any address.
    fn word(&mut self, virt: u64) -> Option<&mut [u8; 8]> {
        let segment = self.segment(virt)?;
        let start = usize::try_from(virt.checked_sub(segment.virt)?).ok()?;
        segment.bytes.get_mut(start..)?.first_chunk_mut()
    }

    /// Applies relocations: those in sections that are loaded. A program for fixed addresses has none, unless there are
    /// functions of a C library in it that choose their code at the start.
    fn relocate(&mut self, file: &File) -> Result<(), ProgramError> {
        let damaged = |_| ProgramError::Damaged("its table of relocations");
        let sections = file.sections.iter().filter(|section| {
            section.sh_flags(LE).contains(elf::SHF_ALLOC)
                && matches!(section.sh_type(LE), elf::SHT_RELA | elf::SHT_RELR | elf::SHT_REL)
        });
        // Sections may overlap: all together may be far more than the file.
        let bytes = sections.clone().map(|section| section.sh_size(LE)).fold(0, u64::saturating_add);
        if bytes > MAX_RELOCATION_BYTES {
            return Err(ProgramError::Kind {
                what: "a program with more than 16 MiB of relocations",
                help: "link it for fixed addresses (`-static`), which takes none",
            });
        }
        for section in sections {
            let (relocations, symbols) =
                section.rela(LE, file.bytes).map_err(damaged)?.unwrap_or((&[], section.link(LE)));
            for relocation in relocations {
                self.apply(relocation, symbols, file)?;
            }
            // These have no addend of their own: the word holds it.
            for virt in section.relr(LE, file.bytes).map_err(damaged)?.into_iter().flatten() {
                self.change(virt, file.bias, |word| word.wrapping_add(file.bias))?;
            }
            // The ABI of x86-64 knows no others (System V ABI, AMD64 supplement, section 4.4.1).
            if section.sh_type(LE) == elf::SHT_REL {
                return Err(ProgramError::Damaged("its table of relocations"));
            }
        }
        Ok(())
    }

    fn apply(&mut self, relocation: &Rela64<LE>, symbols: SectionIndex, file: &File) -> Result<(), ProgramError> {
        let virt = relocation.r_offset(LE);
        match relocation.r_type(LE, false) {
            elf::R_X86_64_NONE => Ok(()),
            elf::R_X86_64_RELATIVE => {
                self.change(virt, file.bias, |_| file.bias.wrapping_add_signed(relocation.r_addend(LE)))
            }
            kind => {
                let symbol = relocation.symbol(LE, false).and_then(|index| file.symbol_name(symbols, index));
                Err(ProgramError::Relocation { kind: kind.0, virt: virt.wrapping_add(file.bias), symbol })
            }
        }
    }

    /// Changes a word, if it is loaded.
    fn change(&mut self, virt: u64, bias: u64, new: impl Fn(u64) -> u64) -> Result<(), ProgramError> {
        let virt = virt.wrapping_add(bias);
        let word = self.word(virt).ok_or(ProgramError::StrayRelocation { virt })?;
        *word = new(u64::from_le_bytes(*word)).to_le_bytes();
        Ok(())
    }

    /// Where counters are that can be counted in. They steer campaigns, and no verdict depends on them.
    fn counters(&mut self, file: &File) -> Range<u64> {
        let section = file.sections.section_by_name(LE, COUNTERS.as_bytes());
        let section = section.filter(|(_, section)| section.sh_flags(LE).contains(elf::SHF_ALLOC));
        let Some((_, section)) = section else { return 0..0 };
        let start = section.sh_addr(LE).wrapping_add(file.bias);
        let end = start.saturating_add(section.sh_size(LE).min(MAX_COUNTERS));
        match self.segment(start) {
            Some(segment) if segment.writable => start..end.min(segment.end()),
            _ => 0..0,
        }
    }

    /// The address of a function, if there is a symbol of that name.
    fn function(&mut self, name: &'static str, file: &File) -> Result<Option<u64>, ProgramError> {
        let Some(value) = file.symbol(name) else { return Ok(None) };
        let virt = value.wrapping_add(file.bias);
        match self.segment(virt) {
            Some(segment) if segment.executable => Ok(Some(virt)),
            _ => Err(ProgramError::NoCode { name, virt }),
        }
    }
}

/// What works, but not as its owner may think.
fn notes(memory: &Memory, file: &File) -> Vec<String> {
    let both = memory.0.iter().filter(|segment| segment.writable && segment.executable).map(|segment| {
        format!(
            "the segment at {:#x} can be both written and executed: a stray write may change code, and no fault tells; link \
             it without `-N`",
            segment.virt
        )
    });
    let has_locals = file.segments.iter().any(|header| header.p_type(LE) == elf::PT_TLS);
    // What counts has constructors that tell where the counters are.
    let has_constructors = file.sections.section_by_name(LE, COUNTERS.as_bytes()).is_none()
        && file.sections.iter().any(|section| section.sh_type(LE) == elf::SHT_INIT_ARRAY && section.sh_size(LE) != 0);
    let others = [
        (has_locals, "it has thread-local variables, and there are no threads: an access to one is a fault"),
        (has_constructors, "it has constructors, such as those of C++ for global variables, and nothing calls them"),
    ];
    both.chain(others.into_iter().filter(|(has, _)| *has).map(|(_, note)| note.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::compiled::{C, compile};
    use super::*;
    use crate::random::Random;

    const STATIC: [&str; 2] = ["-static", "-nostdlib"];
    const STATIC_PIE: [&str; 2] = ["-static-pie", "-nostdlib"];

    /// A mapper with code, constants, data, zeros, and pointers that need relocation in a PIE.
    const MAPPER: &str = r#"
        static const char text[] = "constant";
        static int counter = 7;
        static char zeros[10000];
        const char *volatile pointer = text;
        int *volatile pointers[] = { &counter, &counter };
        long efibed_finish(void *context) { return counter + zeros[9999]; }
        long efibed_map(void *context) { zeros[1] = *pointer; return *pointers[1]; }
    "#;

    fn mapper(flags: &[&str]) -> Vec<u8> {
        compile(C, MAPPER, &[&["-O2", "-ffreestanding", "-e", MAP], flags].concat())
    }

    #[track_caller]
    fn refused(file: &[u8], parts: &[&str]) {
        let error = Program::load(file).expect_err("it is a program").to_string();
        for part in parts {
            assert!(error.contains(part), "no `{part}`: {error}");
        }
    }

    fn word(program: &Program, virt: u64) -> u64 {
        let segment = program.segments.iter().find(|segment| (segment.virt..segment.end()).contains(&virt)).unwrap();
        let start = (virt - segment.virt) as usize;
        u64::from_le_bytes(segment.bytes[start..start + 8].try_into().unwrap())
    }

    fn address(file: &[u8], symbol: &str) -> u64 {
        let file = File::read(file).unwrap();
        file.symbol(symbol).unwrap() + file.bias
    }

    #[track_caller]
    fn is_laid_out(program: &Program) {
        assert!(program.segments.windows(2).all(|pair| pair[0].end() <= pair[1].virt), "{program:#x?}");
        for segment in &program.segments {
            assert!(segment.virt >= PAGE_BYTES && segment.end() <= PROGRAM_END, "{segment:#x?}");
            assert!(segment.virt.is_multiple_of(PAGE_BYTES) && (segment.bytes.len() as u64).is_multiple_of(PAGE_BYTES));
        }
        for function in [Some(program.map), program.finish].into_iter().flatten() {
            let holds = |segment: &Segment| segment.executable && (segment.virt..segment.end()).contains(&function);
            assert!(program.segments.iter().any(holds), "{function:#x}");
        }
    }

    #[test]
    fn a_static_program_lies_where_it_was_linked() {
        let file = mapper(&STATIC);
        let program = Program::load(&file).unwrap();
        is_laid_out(&program);
        assert_eq!((program.bias, program.map), (0, address(&file, MAP)));
        assert_eq!(program.finish, Some(address(&file, FINISH)));
        assert_eq!(program.notes, Vec::<String>::new());
        assert!(program.segments.iter().all(|segment| !(segment.writable && segment.executable)));
        assert_eq!(word(&program, address(&file, "counter")) as u32, 7);
        assert_eq!(word(&program, address(&file, "pointers")), address(&file, "counter"));
        assert_eq!(word(&program, address(&file, "zeros") + 9992), 0);
        assert_eq!(&word(&program, word(&program, address(&file, "pointer"))).to_le_bytes(), b"constant");
    }

    #[test]
    fn a_static_pie_is_relocated() {
        let relative = ["-Wl,-z,pack-relative-relocs"].as_slice();
        for flags in [[].as_slice(), relative] {
            let file = mapper(&[&STATIC_PIE, flags].concat());
            let program = Program::load(&file).unwrap();
            is_laid_out(&program);
            assert_eq!((program.bias, program.map), (PIE_BASE, address(&file, MAP)));
            assert!(program.segments[0].virt >= PIE_BASE);
            for index in [0, 8] {
                assert_eq!(word(&program, address(&file, "pointers") + index), address(&file, "counter"), "{flags:?}");
            }
            assert_eq!(&word(&program, word(&program, address(&file, "pointer"))).to_le_bytes(), b"constant");
        }
    }

    #[test]
    fn a_file_may_lie_at_any_address_of_this_process() {
        let shifted = [b"x".as_slice(), &mapper(&STATIC)].concat();
        assert_eq!(Program::load(&shifted[1..]), Program::load(&mapper(&STATIC)));
    }

    #[test]
    fn finish_is_optional_and_map_is_not() {
        let only_map = "void efibed_map(void) {}";
        let program = Program::load(&compile(C, only_map, &[&STATIC, ["-e", MAP].as_slice()].concat())).unwrap();
        assert_eq!(program.finish, None);
        let no_map = compile(C, "void _start(void) {}", &STATIC);
        refused(&no_map, &["no symbol `efibed_map`", "extern \"C\"", "keep the symbols"]);
        refused(&mapper(&[&STATIC, ["-s"].as_slice()].concat()), &["no symbol `efibed_map`", "strip"]);
        let data = compile(C, "int efibed_map = 1; void _start(void) {}", &STATIC);
        refused(&data, &["has `efibed_map` at 0x", "must be a function"]);
    }

    #[test]
    fn what_is_no_static_program_is_told_what_it_is() {
        refused(b"#!/bin/sh\n", &["is no ELF file", "efibed build"]);
        refused(b"", &["is no ELF file"]);
        refused(&mapper(&["-c"]), &["object file", "link it"]);
        let library = "int puts(const char *); void efibed_map(void) { puts(\"mapped\"); }";
        let library = compile(C, library, &["-shared", "-fPIC"]);
        refused(&library, &["shared library, or a program that is linked with one", "-static"]);
        refused(&compile(C, "int main(void) {}", &[]), &["shared library, or a program that is linked with one"]);
        let mut other = mapper(&STATIC);
        other[18] = 183; // e_machine: AArch64
        refused(&other, &["another machine (number 183)", "compile it for x86-64"]);
        other[4] = 1; // EI_CLASS: 32 bits
        refused(&other, &["for 32 bits, not for 64-bit x86", "-m64"]);
        other[5] = 2; // EI_DATA: the highest byte first
        refused(&other, &["big-endian"]);
    }

    #[test]
    fn relocations_for_a_dynamic_linker_are_refused_by_name() {
        let calls = "extern void elsewhere(void); void efibed_map(void) { elsewhere(); }";
        let file = compile(C, calls, &["-shared", "-fPIC", "-nostdlib"]);
        // R_X86_64_JUMP_SLOT, and of a variable that another library may have too, R_X86_64_GLOB_DAT.
        refused(&mapper(&["-shared", "-fPIC", "-nostdlib"]), &["relocation of type 6 at 0x1000", "for `pointer"]);
        refused(&file, &["relocation of type 7 at 0x1000", "for `elsewhere`", "-static"]);
        let chooses = r#"
            static void one(void) {}
            static void (*choose(void))(void) { return one; }
            void chosen(void) __attribute__((ifunc("choose")));
            void efibed_map(void) { chosen(); }
        "#;
        let file = compile(C, chooses, &[&STATIC, ["-e", MAP].as_slice()].concat());
        // R_X86_64_IRELATIVE
        refused(&file, &["relocation of type 37 at 0x"]);
    }

    /// 24 bytes for each pointer, unless they are packed.
    #[test]
    fn tables_of_relocations_are_bounded() {
        let many =
            ".globl efibed_map\n efibed_map: ret\n .data\n .balign 8\n all: .rept 800000\n .quad efibed_map\n .endr\n";
        let made = |flags: &[&str]| compile("mapper.s", many, &[&["-nostdlib", "-e", MAP], flags].concat());
        refused(&made(&["-static-pie"]), &["more than 16 MiB of relocations", "link it for fixed addresses"]);
        for flags in [["-static"].as_slice(), &["-static-pie", "-Wl,-z,pack-relative-relocs"]] {
            let file = made(flags);
            let program = Program::load(&file).unwrap();
            assert_eq!(word(&program, address(&file, "all") + 8 * 799_999), program.map, "{flags:?}");
        }
    }

    #[test]
    fn what_needs_care_is_noted() {
        let file = mapper(&[&STATIC, ["-Wl,-N"].as_slice()].concat());
        let program = Program::load(&file).unwrap();
        assert_eq!(program.notes.len(), 1, "{:?}", program.notes);
        assert!(program.notes[0].contains("both written and executed"));
        let locals = "__thread int local = 3; int efibed_map(void) { return local; }";
        let file = compile(C, locals, &[&STATIC, ["-e", MAP].as_slice()].concat());
        assert!(Program::load(&file).unwrap().notes[0].contains("thread-local"));
        let constructor = "__attribute__((constructor)) void start(void) {} void efibed_map(void) {}";
        let file = compile(C, constructor, &[&STATIC, ["-e", MAP].as_slice()].concat());
        assert!(Program::load(&file).unwrap().notes[0].contains("constructors"));
    }

    /// The headers of the segments that are loaded, to be changed.
    fn change_segment(file: &[u8], index: usize, field: usize, value: u64) -> Vec<u8> {
        let mut file = file.to_vec();
        let headers = 64; // the table follows the file's header
        let loaded = (0..file[56] as usize).map(|header| headers + 56 * header).filter(|at| file[*at] == 1);
        let at = loaded.clone().nth(index).unwrap() + field;
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        file
    }

    #[test]
    fn segments_that_cannot_be_loaded_are_refused() {
        const VIRT: usize = 16;
        const FILE_BYTES: usize = 32;
        const MEMORY_BYTES: usize = 40;
        let file = mapper(&STATIC);
        for (index, field, value, part) in [
            (1, VIRT, 0x40_0000, "overlaps the one at 0x400000"),
            (1, VIRT, 0x40_0e00, "shares a page with the one at 0x400000"),
            (1, VIRT, 0, "page 0"),
            (1, VIRT, 0x3000_0000_0000, "reaches past 0x3000"),
            (1, VIRT, 0xffff_ffff_8000_0000, "reaches past 0x3000"),
            (1, VIRT, u64::MAX, "past the end of the address space"),
            (3, MEMORY_BYTES, u64::MAX, "past the end of the address space"),
            (3, MEMORY_BYTES, 1 << 30, "takes more than 32 MiB"),
            (3, MEMORY_BYTES, 1 << 40, "takes more than 32 MiB"),
            (0, FILE_BYTES, 1 << 20, "more bytes in the file than in memory"),
        ] {
            refused(&change_segment(&file, index, field, value), &[part]);
        }
        let cut = change_segment(&change_segment(&file, 0, FILE_BYTES, 1 << 20), 0, MEMORY_BYTES, 1 << 20);
        refused(&cut, &["segment at 0x400000", "was cut off"]);
        let pie = mapper(&STATIC_PIE);
        refused(&change_segment(&pie, 1, VIRT, u64::MAX - 0x1000), &["past the end of the address space"]);
    }

    #[test]
    fn a_cut_file_is_damaged() {
        let file = mapper(&STATIC);
        for bytes in [5, 63, 64, 120, file.len() / 2, file.len() - 1] {
            refused(&file[..bytes], &["is damaged", "link it again"]);
        }
    }

    /// Whatever a file holds, it is loaded as [`is_laid_out`] says or refused, and nothing panics.
    #[test]
    fn damaged_files_are_loaded_soundly_or_refused() {
        const SEED: u64 = 2013;
        let files = [mapper(&STATIC), mapper(&STATIC_PIE), mapper(&["-shared", "-fPIC", "-nostdlib"])];
        let (mut random, mut loaded) = (Random::new(SEED), 0);
        for run in 0..6000 {
            let mut file = files[run % files.len()].clone();
            for _ in 0..=random.below(3) {
                damage(&mut file, &mut random);
            }
            let told = std::panic::catch_unwind(|| Program::load(&file));
            match told.unwrap_or_else(|_| panic!("run {run} of seed {SEED}")) {
                Ok(program) => {
                    loaded += 1;
                    is_laid_out(&program);
                }
                Err(error) => assert!(error.to_string().len() < 400, "{error}"),
            }
        }
        assert!((500..5500).contains(&loaded), "{loaded} of 6000 loaded");
    }

    /// Changes what is read: the headers, the tables of segments and of sections; or something anywhere; or cuts it off.
    fn damage(file: &mut Vec<u8>, random: &mut Random) {
        let length = file.len() as u64;
        let area = match random.below(8) {
            0..3 => 0..length.min(0x400),
            3..5 => length.saturating_sub(0x500)..length,
            5 | 6 => 0..length,
            _ => return file.truncate(random.below(length + 1) as usize),
        };
        if area.is_empty() {
            return;
        }
        let at = (area.start + random.below(area.end - area.start)) as usize;
        let odd = [0, 1, 0xfff, 0x1000, 1 << 31, 1 << 46, 1 << 63, u64::MAX, u64::MAX - 0xfff];
        match random.below(3) {
            0 => file[at] ^= 1 << random.below(8),
            1 => file[at] = random.number() as u8,
            _ => {
                let word = odd[random.below(odd.len() as u64) as usize].to_le_bytes();
                let start = at & !7;
                let end = file.len().min(start + 8);
                file[start..end].copy_from_slice(&word[..end - start]);
            }
        }
    }
}
