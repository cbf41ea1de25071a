//! Writing maps in formats that read back as the same map.
//!
//! Nothing is lost: what a format cannot hold is refused, unless the options say to leave it out.

use std::fmt;

use miette::Diagnostic;

use super::error::write_help;
use super::formats::{Unwritable, binary, grub, json, linux_x86, toml_format, uefi_shell};
use super::{ListKind, MemoryDescriptor, MemoryMap, ReadOptions, type_name};

/// Writes a map.
///
/// ```
/// use efibed::memory_map::{MemoryMap, WriteFormat, WriteOptions, write};
///
/// let map = MemoryMap::parse("RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F")?;
/// let grub = write(&map, WriteFormat::Grub, &WriteOptions::default())?;
/// assert!(grub.ends_with(b"RT-data   000000008ea34000-000000008ef3dfff 0000050a   5160KiB RT UC WC WT WB\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write(map: &MemoryMap, format: WriteFormat, options: &WriteOptions) -> Result<Vec<u8>, WriteError> {
    let map = &fitted(map, format, options)?;
    let named = |unwritable| WriteError::of_descriptor(map, format, unwritable);
    Ok(match format {
        WriteFormat::Toml => toml_format::write(map).into_bytes(),
        WriteFormat::Json => json::write(map).into_bytes(),
        WriteFormat::Linux => {
            let mut text = String::new();
            linux_x86::write(&mut text, map).map_err(named)?;
            proved(text, map, format)?
        }
        WriteFormat::Shell => proved(uefi_shell::write(map.descriptors()), map, format)?,
        WriteFormat::Grub => proved(grub::write(map.descriptors()).map_err(named)?, map, format)?,
        WriteFormat::Binary => {
            let stride = options.stride.unwrap_or(binary::USUAL_STRIDE);
            if !binary::is_stride(stride) || stride > MAX_STRIDE {
                return Err(WriteError::Stride { stride });
            }
            binary::write(map.descriptors(), stride)
        }
    })
}

/// The formats that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteFormat {
    /// TOML, the format of this project. It holds everything.
    Toml,
    /// The boot log of Linux on x86.
    Linux,
    /// The UEFI shell's `memmap`, with the totals.
    Shell,
    /// GRUB's `lsefimmap`.
    Grub,
    /// An array of EFI_MEMORY_DESCRIPTOR.
    Binary,
    /// JSON. It holds everything.
    Json,
}

efibed_stub::names! {
    WriteFormat, "format to write":
    Toml "toml",
    Linux "linux",
    Shell "shell",
    Grub "grub",
    Binary "binary",
    Json "json",
}

impl WriteFormat {
    fn has_virtual_addresses(self) -> bool {
        matches!(self, Self::Toml | Self::Json | Self::Binary)
    }

    /// Whether it has a place for the Memory Attributes Table, and for what kind of list it is.
    fn is_more_than_descriptors(self) -> bool {
        matches!(self, Self::Toml | Self::Json | Self::Linux)
    }
}

/// How a map is written. The default: nothing is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// The size of a descriptor in the binary format; 48, as on nearly every machine, if not given.
    pub stride: Option<usize>,
    /// Whether virtual addresses are left out where a format has no place for them.
    pub drop_virtual: bool,
    /// Whether the Memory Attributes Table is left out where a format has no place for it.
    pub drop_attributes_table: bool,
}

/// A map cannot be written in a format. Its `Debug` says what to do, too.
#[derive(thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum WriteError {
    /// The format has no place for something about a descriptor.
    #[error("{format} cannot hold this map: descriptor {index} ({ty} at {phys:#x}): {what}")]
    #[diagnostic(help("{help}"))]
    Descriptor {
        /// The format's name.
        format: &'static str,
        /// The first such descriptor's place in the list, from 0.
        index: usize,
        /// Its type.
        ty: String,
        /// Its PhysicalStart.
        phys: u64,
        /// What there is no place for.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// The format has no place for something about the whole map.
    #[error("{format} cannot hold this map: {what}")]
    #[diagnostic(help("{help}"))]
    Map {
        /// The format's name.
        format: &'static str,
        /// What there is no place for.
        what: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// It would not read back as the same map: readers take descriptors that come again for copies, of a list that a log holds
    /// twice, or each of its rows.
    #[error("{format} cannot hold this map: it would not read back as the same")]
    #[diagnostic(help("readers take descriptors that come again for copies; write toml or json"))]
    ReadsOtherwise {
        /// The format's name.
        format: &'static str,
    },
    /// No descriptor has this size.
    #[error("{stride} bytes are no size of a descriptor")]
    #[diagnostic(help("there are multiples of 8 from 40 to 4096; nearly every machine has 48"))]
    Stride {
        /// The size.
        stride: usize,
    },
}

/// The largest DescriptorSize that is written: a page, far beyond any.
const MAX_STRIDE: usize = 4096;

impl fmt::Debug for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        write_help(self, f)
    }
}

impl WriteError {
    fn of_descriptor(map: &MemoryMap, format: WriteFormat, unwritable: Unwritable) -> Self {
        let Unwritable { index, what } = unwritable;
        let descriptor = map.descriptors().get(index).copied().unwrap_or_default();
        let ty = type_name(descriptor.ty).into_owned();
        let help = match descriptor.virt_start {
            0 => "toml and json hold everything",
            _ => "toml, json and binary hold virtual addresses; --drop-virtual leaves them out",
        };
        Self::Descriptor { format: format.name(), index, ty, phys: descriptor.phys_start, what, help }
    }
}

/// The text, if it reads back as this map.
fn proved(text: String, map: &MemoryMap, format: WriteFormat) -> Result<Vec<u8>, WriteError> {
    let without_padding = |list: &[MemoryDescriptor]| -> Vec<_> {
        list.iter().map(|descriptor| MemoryDescriptor { padding: 0, ..*descriptor }).collect()
    };
    let is_same = |again: &MemoryMap| {
        without_padding(again.descriptors()) == without_padding(map.descriptors())
            && without_padding(again.attributes_table()) == without_padding(map.attributes_table())
    };
    let lists = MemoryMap::parse_all("", &text, &ReadOptions::default()).unwrap_or_default();
    match lists.as_slice() {
        // Linux's log does not mark firmware's list. A list of mapped regions only, with falling addresses, reads as its own.
        [again] if again.kind != map.kind => {
            let what = "its addresses fall as in Linux's own list, so it would read as that";
            Err(WriteError::Map { format: format.name(), what, help: "write toml or json" })
        }
        [again] if is_same(again) => Ok(text.into_bytes()),
        _ => Err(WriteError::ReadsOtherwise { format: format.name() }),
    }
}

/// The map without what the options leave out; an error if the format cannot hold the rest.
fn fitted(map: &MemoryMap, format: WriteFormat, options: &WriteOptions) -> Result<MemoryMap, WriteError> {
    let mut map = map.clone();
    let refused = |what, help| Err(WriteError::Map { format: format.name(), what, help });
    if !format.has_virtual_addresses() && options.drop_virtual {
        map.descriptors.iter_mut().for_each(|descriptor| descriptor.virt_start = 0);
        map.attributes_table = map.attributes_table.iter().map(without_virtual_address).collect();
    }
    if !format.has_virtual_addresses() {
        let has_one = |descriptor: &MemoryDescriptor| descriptor.virt_start != 0;
        if let Some(index) = map.descriptors.iter().position(has_one) {
            let what = format!("there is no place for the virtual address {:#x}", map.descriptors[index].virt_start);
            return Err(WriteError::of_descriptor(&map, format, Unwritable { index, what }));
        }
        if map.attributes_table.iter().any(has_one) {
            return refused("its Memory Attributes Table has virtual addresses", "write toml or json");
        }
    }
    if !format.is_more_than_descriptors() {
        if options.drop_attributes_table {
            map.attributes_table = [].into();
        }
        if !map.attributes_table.is_empty() {
            return refused(
                "it has a Memory Attributes Table",
                "write toml, json or linux, or leave the table out (--drop-table)",
            );
        }
        if map.kind != ListKind::Firmware {
            return refused("it is Linux's own list, which would read as firmware's", "write toml, json or linux");
        }
    }
    Ok(map)
}

fn without_virtual_address(descriptor: &MemoryDescriptor) -> MemoryDescriptor {
    MemoryDescriptor { virt_start: 0, ..*descriptor }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{MemoryAttribute, MemoryType, oddities};
    use super::*;

    fn any_descriptor() -> impl Strategy<Value = MemoryDescriptor> {
        let ty = prop_oneof![0_u32..17, any::<u32>()];
        let number = || prop_oneof![any::<u64>(), (1_u64 << 63) - 2..(1 << 63) + 2, Just(0), 0..1_u64 << 20];
        let attribute = prop_oneof![any::<u64>(), Just(0x8000_0000_0000_000f), Just(0)];
        (ty, number(), number(), number(), attribute).prop_map(|(ty, phys_start, virt_start, page_count, attribute)| {
            MemoryDescriptor {
                ty: MemoryType(ty),
                padding: 0,
                phys_start,
                virt_start,
                page_count,
                att: MemoryAttribute::from_bits_retain(attribute),
            }
        })
    }

    prop_compose! {
        fn any_map()(
            descriptors in prop::collection::vec(any_descriptor(), 1..12),
            table in prop::collection::vec(any_descriptor(), 0..4),
            is_runtime in any::<bool>(),
            partial in prop::option::of("\\PC{0,8}|\"\n\\\\"),
        ) -> MemoryMap {
            let kind = if is_runtime { ListKind::Runtime } else { ListKind::Firmware };
            let map = MemoryMap::from_descriptors("a\nname\u{1b}", descriptors);
            MemoryMap { kind, attributes_table: table.into(), ..map }.marked_partial(partial)
        }
    }

    fn read_back(bytes: Vec<u8>, options: &ReadOptions) -> MemoryMap {
        let mut maps = MemoryMap::parse_bytes("written", bytes, options).unwrap();
        assert_eq!(maps.len(), 1);
        maps.remove(0)
    }

    fn assert_same(map: &MemoryMap, again: &MemoryMap) {
        assert_eq!(map.descriptors(), again.descriptors());
        assert_eq!(map.attributes_table(), again.attributes_table());
        assert_eq!(map.kind(), again.kind());
    }

    proptest! {
        #[test]
        fn what_holds_everything_reads_back(map in any_map()) {
            for format in [WriteFormat::Toml, WriteFormat::Json] {
                let bytes = write(&map, format, &WriteOptions::default()).unwrap();
                let again = read_back(bytes, &ReadOptions::default());
                assert_same(&map, &again);
                prop_assert_eq!(map.partial(), again.partial());
            }
        }

        #[test]
        fn what_is_not_refused_reads_back(map in any_map(), drop in any::<bool>()) {
            let options = WriteOptions { drop_virtual: drop, drop_attributes_table: drop, stride: None };
            for format in [WriteFormat::Linux, WriteFormat::Shell, WriteFormat::Grub] {
                if let Ok(bytes) = write(&map, format, &options) {
                    let expected = fitted(&map, format, &options).unwrap();
                    assert_same(&expected, &read_back(bytes, &ReadOptions::default()));
                }
            }
        }

        #[test]
        fn any_descriptors_go_through_shell_and_binary(
            descriptors in prop::collection::vec(any_descriptor(), 1..12), words in 5_usize..20,
        ) {
            let map = MemoryMap::from_descriptors("map", descriptors);
            let options = WriteOptions { drop_virtual: true, stride: Some(words * 8), ..Default::default() };
            let shell = read_back(write(&map, WriteFormat::Shell, &options).unwrap(), &ReadOptions::default());
            assert_same(&fitted(&map, WriteFormat::Shell, &options).unwrap(), &shell);
            prop_assert!(!oddities(&shell).iter().any(|oddity| oddity.message.contains("rows are missing")));
            let read = ReadOptions { stride: options.stride, ..Default::default() };
            assert_same(&map, &read_back(write(&map, WriteFormat::Binary, &options).unwrap(), &read));
        }
    }

    /// One descriptor that any format holds.
    fn plain() -> MemoryDescriptor {
        MemoryDescriptor {
            ty: MemoryType::RUNTIME_SERVICES_DATA,
            phys_start: 0x1000,
            page_count: 1,
            att: MemoryAttribute::RUNTIME | MemoryAttribute::WRITE_BACK,
            ..Default::default()
        }
    }

    fn refusal(map: &MemoryMap, format: WriteFormat) -> String {
        write(map, format, &WriteOptions::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_map_goes_through_every_format() {
        let map =
            MemoryMap::from_descriptors("map", vec![plain(), MemoryDescriptor { phys_start: 0x10_0000, ..plain() }]);
        for format in WriteFormat::ALL.iter().copied() {
            let bytes = write(&map, format, &WriteOptions::default()).unwrap();
            assert_same(&map, &read_back(bytes, &ReadOptions::default()));
            assert_eq!(format.name().parse(), Ok(format));
        }
    }

    #[test]
    fn the_first_descriptor_without_a_place_is_named() {
        let virt = MemoryDescriptor { phys_start: 0x3000, virt_start: 0xffff_fffe_0000_3000, ..plain() };
        let map = MemoryMap::from_descriptors("map", vec![plain(), virt, virt]);
        for format in [WriteFormat::Linux, WriteFormat::Shell, WriteFormat::Grub] {
            assert_eq!(
                refusal(&map, format),
                format!(
                    "{} cannot hold this map: descriptor 1 (RuntimeServicesData at 0x3000): there is no place for the \
                     virtual address 0xfffffffe00003000",
                    format.name()
                )
            );
            let options = WriteOptions { drop_virtual: true, ..Default::default() };
            assert!(write(&map, format, &options).is_ok());
        }
        let oem = MemoryDescriptor { att: MemoryAttribute::from_bits_retain(1 << 40 | 1), ..plain() };
        assert_eq!(
            refusal(&MemoryMap::from_descriptors("map", vec![oem]), WriteFormat::Grub),
            "grub cannot hold this map: descriptor 0 (RuntimeServicesData at 0x1000): GRUB has no word for the \
             attributes 0x10000000000"
        );
    }

    #[test]
    fn tables_and_kinds_without_a_place_are_refused() {
        let table =
            MemoryMap { attributes_table: [plain()].into(), ..MemoryMap::from_descriptors("map", vec![plain()]) };
        let own = MemoryMap { kind: ListKind::Runtime, ..MemoryMap::from_descriptors("map", vec![plain()]) };
        for format in [WriteFormat::Shell, WriteFormat::Grub, WriteFormat::Binary] {
            assert!(refusal(&table, format).ends_with("it has a Memory Attributes Table"));
            assert!(refusal(&own, format).ends_with("it is Linux's own list, which would read as firmware's"));
            let options = WriteOptions { drop_attributes_table: true, ..Default::default() };
            assert!(write(&table, format, &options).is_ok());
        }
    }

    #[test]
    fn what_linux_would_take_for_its_own_list_is_refused() {
        let higher = MemoryDescriptor { phys_start: 0x10_0000, ..plain() };
        let map = MemoryMap::from_descriptors("map", vec![higher, plain()]);
        assert!(refusal(&map, WriteFormat::Linux).ends_with("so it would read as that"));
        assert!(
            write(&MemoryMap { kind: ListKind::Runtime, ..map }, WriteFormat::Linux, &WriteOptions::default()).is_ok()
        );
    }

    /// Found by a fuzzer: a list that is there twice, and one of which each row is there twice, read as one copy.
    #[test]
    fn what_would_not_read_back_as_the_same_map_is_refused() {
        let [one, other] = [plain(), MemoryDescriptor { phys_start: 0x2000, ty: MemoryType(3), ..plain() }];
        let last = MemoryDescriptor { phys_start: 0x3000, ..plain() };
        for list in [vec![one, other, one, other], vec![one, one, other, other, last]] {
            let map = MemoryMap::from_descriptors("map", list);
            for format in [WriteFormat::Shell, WriteFormat::Grub] {
                let refused = write(&map, format, &WriteOptions::default());
                assert!(matches!(refused, Err(WriteError::ReadsOtherwise { .. })), "{format:?}");
            }
            for format in [WriteFormat::Toml, WriteFormat::Json, WriteFormat::Binary] {
                let written = write(&map, format, &WriteOptions::default()).unwrap();
                let options =
                    ReadOptions { stride: (format == WriteFormat::Binary).then_some(48), ..Default::default() };
                let again = MemoryMap::parse_bytes("map", written, &options).unwrap();
                assert_eq!((again.len(), again[0].descriptors()), (1, map.descriptors()), "{format:?}");
            }
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let map = MemoryMap::from_descriptors("map", vec![plain()]);
        for stride in [0, 8, 39, 44, usize::MAX, usize::MAX - 7] {
            let options = WriteOptions { stride: Some(stride), ..Default::default() };
            assert!(matches!(write(&map, WriteFormat::Binary, &options), Err(WriteError::Stride { .. })), "{stride}");
        }
    }
}
