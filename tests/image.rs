//! The guest image holds no instruction that a KVM without hardware virtualization cannot execute in ring 0, and all of its
//! segments are loaded.

use efibed::unstable::guest::{Image, ImageError, PAGE_BYTES};
use efibed_guest::protocol::IMAGE_BASE;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Formatter, GasFormatter, Instruction, Mnemonic};
use object::{Object, ObjectSection, ObjectSegment, SegmentFlags, elf};

/// Instruction sets that such a KVM ends with an internal error; LZCNT it silently runs as BSR.
fn is_foreign(feature: CpuidFeature) -> bool {
    let name = format!("{feature:?}");
    let sets =
        ["SSE", "AVX", "MMX", "FPU", "BMI", "POPCNT", "LZCNT", "FMA", "F16C", "AES", "PCLMUL", "SHA", "AMX", "XOP"];
    sets.iter().any(|set| name.contains(set))
}

const NOT_EXECUTABLE: [Mnemonic; 22] = [
    Mnemonic::Cmpxchg16b,
    Mnemonic::Int,
    Mnemonic::Int3,
    Mnemonic::Stac,
    Mnemonic::Clac,
    Mnemonic::Xgetbv,
    Mnemonic::Rdtscp,
    Mnemonic::Invpcid,
    Mnemonic::Wrpkru,
    Mnemonic::Lar,
    Mnemonic::Lsl,
    Mnemonic::Verr,
    Mnemonic::Verw,
    Mnemonic::Mwait,
    // They spin for ever.
    Mnemonic::Vmcall,
    Mnemonic::Vmmcall,
    // From ring 3 they do not do what the probes would need.
    Mnemonic::Syscall,
    Mnemonic::Sysenter,
    // No decoder should have come here.
    Mnemonic::INVALID,
    Mnemonic::Into,
    Mnemonic::Tzcnt,
    Mnemonic::Lzcnt,
];

/// Instructions that must not be there, as text.
fn offenders(code: &[u8], ip: u64) -> Vec<String> {
    let decoder = Decoder::with_ip(64, code, ip, DecoderOptions::NONE);
    decoder.into_iter().filter(|i| is_offender(i) && !is_padding(i, code, ip)).map(|i| describe(&i)).collect()
}

fn is_offender(instruction: &Instruction) -> bool {
    NOT_EXECUTABLE.contains(&instruction.mnemonic())
        || instruction.cpuid_features().iter().any(|feature| is_foreign(*feature))
}

/// What the compiler puts between functions: int3 up to the next multiple of 16.
fn is_padding(instruction: &Instruction, code: &[u8], ip: u64) -> bool {
    let at = (instruction.ip() - ip) as usize;
    let end = ((instruction.ip() + 1).next_multiple_of(16) - ip) as usize;
    instruction.mnemonic() == Mnemonic::Int3 && code[at..end.min(code.len())].iter().all(|byte| *byte == 0xcc)
}

fn describe(instruction: &Instruction) -> String {
    let mut text = format!("{:#x}: ", instruction.ip());
    GasFormatter::new().format(instruction, &mut text);
    text
}

#[test]
fn every_instruction_can_be_executed() {
    let elf = object::File::parse(Image::built_in_elf()).unwrap();
    let mut instructions = 0;
    for name in [".text", ".user"] {
        let section = elf.section_by_name(name).unwrap();
        let (code, ip) = (section.data().unwrap(), section.address());
        instructions += Decoder::with_ip(64, code, ip, DecoderOptions::NONE).into_iter().count();
        let offenders = offenders(code, ip);
        assert!(offenders.is_empty(), "in {name}:\n{}", offenders.join("\n"));
    }
    assert!(instructions > 500, "only {instructions} instructions were looked at");
}

#[test]
fn no_relocations_are_left() {
    let elf = object::File::parse(Image::built_in_elf()).unwrap();
    assert!(elf.sections().all(|section| !section.name().unwrap().starts_with(".rel")));
}

#[test]
fn every_segment_is_loaded_with_its_contents() {
    let image = Image::load(Image::built_in_elf()).unwrap();
    let elf = object::File::parse(Image::built_in_elf()).unwrap();
    let loaded = [image.read_only(), image.initialised()].concat();
    // The host fills this page: the file has zeros for it.
    let tables = (image.header().descriptor_tables - IMAGE_BASE) as usize;
    let tables = tables..tables + PAGE_BYTES as usize;
    assert!(loaded[tables.clone()].iter().any(|byte| *byte != 0));
    let mut writable_bytes = 0;
    for segment in elf.segments() {
        let (at, contents) = ((segment.address() - IMAGE_BASE) as usize, segment.data().unwrap());
        let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { panic!("{:?}", segment.flags()) };
        let is_writable = p_flags.contains(elf::PF_W);
        assert_eq!(is_writable, at >= image.read_only().len(), "{segment:?}");
        // Zeros at the end are left to the memory, which is zeroed.
        let there = loaded.get(at..).unwrap().iter().copied().chain(std::iter::repeat(0)).take(contents.len());
        let same = |(offset, (there, byte)): (usize, (u8, u8))| match tables.contains(&offset) {
            true => byte == 0,
            false => there == byte,
        };
        assert!((at..).zip(there.zip(contents.iter().copied())).all(same), "{segment:?}");
        writable_bytes += if is_writable { contents.len() } else { 0 };
    }
    assert!(writable_bytes > 0, "no initialised data: nothing was compared");
}

/// The negative control: what lies past the image's end would be lost.
#[test]
fn a_segment_past_the_end_is_refused() {
    let mut elf = Image::built_in_elf().to_vec();
    let header_at = 64 + 56; // of the second segment, behind the file's header and the first's (ELF-64, figures 2 and 3)
    let in_memory = header_at + 40..header_at + 48; // p_memsz
    let bytes = u64::from_le_bytes(elf[in_memory.clone()].try_into().unwrap()) + 1;
    elf[in_memory].copy_from_slice(&bytes.to_le_bytes());
    assert!(
        matches!(Image::load(&elf), Err(ImageError::Segment { segment_end, image_end }) if segment_end == image_end + 1)
    );
}

#[test]
fn offenders_are_recognized() {
    let cases: [&[u8]; 10] = [
        &[0xf3, 0x0f, 0xb8, 0xc1], // popcnt eax, ecx
        &[0xf3, 0x0f, 0xbd, 0xc1], // lzcnt eax, ecx
        &[0x0f, 0x10, 0x07],       // movups xmm0, [rdi]
        &[0x66, 0x0f, 0xef, 0xc0], // pxor xmm0, xmm0
        &[0xc5, 0xf8, 0x57, 0xc0], // vxorps xmm0, xmm0, xmm0
        &[0xd8, 0xc1],             // fadd st, st(1)
        &[0x48, 0x0f, 0xc7, 0x0f], // cmpxchg16b [rdi]
        &[0x0f, 0x01, 0xcb],       // stac
        &[0x0f, 0x01, 0xd9],       // vmmcall
        &[0xcc, 0x90, 0x90],       // int3, not padding
    ];
    for code in cases {
        assert_eq!(offenders(code, 0x1000).len(), 1, "{code:x?}");
    }
    assert!(offenders(&[0x48, 0x89, 0x3f, 0xc3], 0x1000).is_empty(), "mov [rdi], rdi; ret");
}
