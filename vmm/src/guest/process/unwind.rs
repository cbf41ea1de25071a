//! From a frame to the one that called it, by the tables with which exceptions are unwound (.eh_frame; System V ABI for
//! x86-64, 3.7). Compiled code keeps no frame pointers.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameOffset, EndianSlice, LittleEndian, Register, RegisterRule,
    UnwindContext, UnwindSection, X86_64,
};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use super::exception::Exception;

/// A function that runs, or that has called one that does.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The instruction it is at, or comes back to.
    pub rip: u64,
    /// Whether it comes back to it: the call is before it.
    pub has_called: bool,
    /// By their numbers in DWARF (System V ABI, figure 3.36). None: nobody knows what it had there.
    registers: [Option<u64>; REGISTERS],
}

/// All general registers.
const REGISTERS: usize = 16;

/// Those of large programs have some MiB; of a file that is anybody's they may have as much as the file.
const MAX_TABLE_BYTES: usize = 16 << 20;

/// Where a file's tables are about which instructions: looked for once, since a large program has some 100,000, and each can
/// only be found from the one before it.
#[derive(Debug, Default)]
pub struct Tables {
    /// By the first instruction.
    places: Vec<TablePlace>,
}

#[derive(Clone, Copy, Debug)]
struct TablePlace {
    first: u64,
    end: u64,
    /// In the section.
    offset: usize,
}

impl Tables {
    /// Of a file; none where it has none that can be read. What comes behind one that cannot is left out.
    pub fn of(file: &ElfFile64<'_, object::LittleEndian>) -> Self {
        let mut places = Vec::new();
        let Some((frames, bases)) = section(file) else { return Self::default() };
        let mut entries = frames.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(table) = entry else { continue };
            let Ok(table) = table.parse(EhFrame::cie_from_offset) else { break };
            places.push(TablePlace {
                first: table.initial_address(),
                end: table.end_address(),
                offset: table.offset(),
            });
        }
        places.sort_by_key(|place| place.first);
        Self { places }
    }

    /// The table about an instruction.
    fn about(&self, address: u64) -> Option<EhFrameOffset> {
        let behind = self.places.partition_point(|place| place.first <= address);
        let place = self.places[..behind].last().filter(|place| address < place.end)?;
        Some(EhFrameOffset(place.offset))
    }
}

fn section<'a>(
    file: &ElfFile64<'a, object::LittleEndian>,
) -> Option<(EhFrame<EndianSlice<'a, LittleEndian>>, BaseAddresses)> {
    let section = file.section_by_name(".eh_frame")?;
    let data = section.data().ok().filter(|data| data.len() <= MAX_TABLE_BYTES)?;
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let text = file.section_by_name(".text").map(|text| text.address());
    Some((EhFrame::new(data, LittleEndian), text.map_or(bases.clone(), |text| bases.set_text(text))))
}

impl Frame {
    /// The one that met an exception at an instruction.
    pub fn at(exception: &Exception, rip: u64) -> Self {
        let r = &exception.registers;
        let registers = [
            r.rax,
            r.rdx,
            r.rcx,
            r.rbx,
            r.rsi,
            r.rdi,
            r.rbp,
            exception.rsp,
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r12,
            r.r13,
            r.r14,
            r.r15,
        ];
        Self { rip, has_called: false, registers: registers.map(Some) }
    }

    /// Of one that has just been called, and has not run yet: where there is no code, say.
    pub fn caller_at_entry(&self, word: &dyn Fn(u64) -> Option<u64>) -> Option<Self> {
        let rsp = self.register(X86_64::RSP)?;
        let mut caller = Self { rip: word(rsp)?, has_called: true, ..self.clone() };
        caller.registers[usize::from(X86_64::RSP.0)] = Some(rsp.wrapping_add(8));
        Some(caller)
    }

    /// The frame that called this one, whose code is in this file, `bias` above the file's own addresses, with these tables.
    /// `word` is what is in memory. None: the file does not say, or there is none.
    pub fn caller(
        &self,
        file: &ElfFile64<'_, object::LittleEndian>,
        tables: &Tables,
        bias: u64,
        word: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<Self> {
        let (frames, bases) = section(file)?;
        // A call may be the last instruction of its function.
        let address = self.rip.wrapping_sub(bias).wrapping_sub(self.has_called.into());
        let table = frames.fde_from_offset(&bases, tables.about(address)?, EhFrame::cie_from_offset).ok()?;
        let mut context = UnwindContext::new();
        let row = table.unwind_info_for_address(&frames, &bases, &mut context, address).ok()?;
        let &CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
        let cfa = self.register(register)?.wrapping_add_signed(offset);
        let value = |register| match row.register(register) {
            Some(RegisterRule::Offset(offset)) => word(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => self.register(other),
            None | Some(RegisterRule::SameValue) => self.register(register),
            Some(_) => None,
        };
        let mut registers = [None; REGISTERS];
        for (number, slot) in (0..).zip(&mut registers) {
            *slot = value(Register(number));
        }
        registers[usize::from(X86_64::RSP.0)] = Some(cfa);
        Some(Self { rip: value(X86_64::RA)?, has_called: true, registers })
    }

    fn register(&self, register: Register) -> Option<u64> {
        *self.registers.get(usize::from(register.0))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_that_a_search_from_the_start_finds() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let file = ElfFile64::parse(&*bytes).unwrap();
        let tables = Tables::of(&file);
        let (frames, bases) = section(&file).unwrap();
        let searched = |address| frames.fde_for_address(&bases, address, EhFrame::cie_from_offset).ok();
        let found = |address| tables.about(address).map(|at| at.0);
        // Each search is as long as the section.
        const SAMPLES: usize = 12;
        let places: Vec<_> = tables.places.iter().filter(|place| place.first < place.end).collect();
        assert!(places.len() > 1000, "{}", places.len());
        for place in places.iter().step_by(places.len() / SAMPLES) {
            for address in [place.first, place.end - 1, place.end] {
                assert_eq!(found(address), searched(address).map(|table| table.offset()), "{address:#x}");
            }
        }
        assert_eq!([0, u64::MAX].map(found), [None; 2]);
    }
}
