//! Helpers of the integration tests: the maps, and tests that need what not every machine has.

pub mod confined;
pub mod forger;
pub mod hostile;

use std::sync::OnceLock;

use efibed::check::{Phase, Rule};
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType};
use efibed::report::{Report, Verdict};
use efibed::unstable::machine::Hypervisor;
use efibed::{CpuidRequest, EngineError, Layout, MemoryMap, Scenario, TestBed};
use libtest_mimic::{Failed, Trial};

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// /dev/kvm.
    Kvm,
    /// 1 GiB leaves that work.
    GbPages,
    /// Five-level paging that works.
    La57,
}

/// The one bed of all tests.
pub fn bed() -> &'static TestBed {
    static BED: OnceLock<TestBed> = OnceLock::new();
    BED.get_or_init(TestBed::without_kvm)
}

/// /dev/kvm, opened once.
pub fn hypervisor() -> &'static Hypervisor {
    static OPEN: OnceLock<Hypervisor> = OnceLock::new();
    OPEN.get_or_init(|| Hypervisor::open().unwrap_or_else(|error| panic!("{error}: {}", error.help())))
}

/// A test that is ignored, by name, where the machine lacks what it needs. With `EFIBED_REQUIRE_KVM=1` lacking /dev/kvm
/// is no excuse, and the test fails; what a KVM does not do stays an excuse.
pub fn trial(name: impl Into<String>, need: Need, run: impl FnOnce() + Send + 'static) -> Trial {
    let name = name.into();
    let excuse = confined::excuse(&name);
    let kind = excuse.unwrap_or(match need {
        Need::Kvm => "kvm",
        Need::GbPages => "kvm with 1G leaves",
        Need::La57 => "kvm with five levels",
    });
    let run = move || -> Result<(), Failed> {
        if confined::is_asked_for() {
            return confined::run(run);
        }
        run();
        Ok(())
    };
    Trial::test(name, run).with_kind(kind).with_ignored_flag(excuse.is_some() || !has(need))
}

/// A test of something that not every KVM does: ignored, by name, where trying says so. It is tried only where there is
/// a KVM; without one the test is as one that needs [`Need::Kvm`].
pub fn trial_where(
    name: impl Into<String>,
    need: impl Into<String>,
    does: impl FnOnce() -> bool,
    run: impl FnOnce() + Send + 'static,
) -> Trial {
    let lacks = Hypervisor::open().is_ok() && !does();
    let trial = trial(name, Need::Kvm, run).with_kind(need);
    if lacks { trial.with_ignored_flag(true) } else { trial }
}

fn has(need: Need) -> bool {
    static HAS: OnceLock<(bool, bool, bool)> = OnceLock::new();
    let (kvm, gbpages, la57) = HAS.get_or_init(|| {
        let cpu = CpuidRequest::default().la57(true);
        match bed().abilities(&cpu) {
            Ok(abilities) => (true, abilities.checks.gbpages, abilities.checks.la57),
            Err(EngineError::Open(_)) => {
                (std::env::var_os("EFIBED_REQUIRE_KVM").is_some_and(|value| value == "1"), false, false)
            }
            // There is a KVM: that a guest cannot be run on it is for the tests to fail on.
            Err(_) => (true, false, false),
        }
    });
    match need {
        Need::Kvm => *kvm,
        Need::GbPages => *gbpages,
        Need::La57 => *la57,
    }
}

/// A number that a variable of the environment gives, such as a seed; another one without it.
pub fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        $($(#[$doc])* pub const $name: (&str, &str) = ($path, include_str!(concat!("../", $path)));)*
    };
}

maps! {
    /// The five ranges of the mail of October 2013.
    OVMF_2013 = "maps/ovmf-2013.toml";
    /// One region a page out of step under `packed-down`.
    OFF_BY_PAGE = "maps/off-by-page.toml";
    /// More than 2 GiB to map.
    OVER_2G = "maps/over-2g.toml";
    /// A region past 64 GiB.
    OVER_64G = "maps/over-64g.toml";
    /// Two descriptors share pages.
    OVERLAP = "maps/bad/overlap.toml";
    /// A region reaches past 2^64.
    WRAP = "maps/bad/wrap.toml";
    /// A region starts within a page.
    UNALIGNED = "maps/bad/unaligned.toml";
    /// A region at 2^51.
    PAST_MAXPHYADDR = "maps/bad/past-maxphyaddr.toml";
    /// A descriptor without pages.
    ZERO_PAGES = "maps/bad/zero-pages.toml";
    /// OVMF on QEMU's q35 with 2 GiB, as Linux printed it.
    Q35_2G = "truth/q35-2g.memmap.txt";
    /// The same with SMM: the highest mapped end is not 2 MiB aligned.
    Q35_SMM_2G = "truth/q35-smm-2g.memmap.txt";
    /// And with other sizes of memory.
    Q35_256M = "truth/q35-256m.memmap.txt";
    /// And with other sizes of memory.
    Q35_512M = "truth/q35-512m.memmap.txt";
    /// And with other sizes of memory.
    Q35_8G = "truth/q35-8g.memmap.txt";
    /// OVMF on QEMU's pc.
    PC_1G_2MFW = "truth/pc-1g-2mfw.memmap.txt";
    /// OVMF on QEMU's pc.
    PC_3G = "truth/pc-3g.memmap.txt";
    /// What Linux mapped on [`Q35_2G`], and where.
    Q35_2G_MAPPED = "truth/q35-2g.runtime-map.txt";
    /// What Linux mapped on [`Q35_SMM_2G`], and where.
    Q35_SMM_2G_MAPPED = "truth/q35-smm-2g.runtime-map.txt";
    /// What Linux mapped on [`Q35_256M`], and where.
    Q35_256M_MAPPED = "truth/q35-256m.runtime-map.txt";
    /// What Linux mapped on [`Q35_512M`], and where.
    Q35_512M_MAPPED = "truth/q35-512m.runtime-map.txt";
    /// What Linux mapped on [`Q35_8G`], and where.
    Q35_8G_MAPPED = "truth/q35-8g.runtime-map.txt";
    /// What Linux mapped on [`PC_1G_2MFW`], and where.
    PC_1G_2MFW_MAPPED = "truth/pc-1g-2mfw.runtime-map.txt";
    /// What Linux mapped on [`PC_3G`], and where.
    PC_3G_MAPPED = "truth/pc-3g.runtime-map.txt";
    /// Apple M2 under m1n1 and U-Boot: regions that are not aligned to 16 KiB.
    APPLE_02_ARM64 = "maps/apple-02-arm64.txt";
    /// ASUS N56VZ: Reserved with RUNTIME and nothing else; a region that ends at 4 GiB.
    ASUS_01 = "maps/asus-01.txt";
    /// ASUS UX391FA.
    ASUS_04 = "maps/asus-04.txt";
    /// What Linux mapped on [`ASUS_04`].
    ASUS_04_KERNEL = "maps/asus-04-kernel.txt";
    /// HP Superdome2: 12 TiB of memory in one region, RUNTIME MMIO near 16 TiB.
    HP_01 = "maps/hp-01.txt";
    /// ThinkPad X240, Linux 3.13: seven descriptors without pages.
    LENOVO_01 = "maps/lenovo-01.txt";
    /// ThinkPad T14 Gen3, Linux 6.0.
    LENOVO_07 = "maps/lenovo-07.txt";
    /// What Linux mapped on [`LENOVO_07`].
    LENOVO_07_KERNEL = "maps/lenovo-07-kernel.txt";
    /// Nutanix AHV, an OVMF.
    NUTANIX_01 = "maps/nutanix-01.txt";
    /// QEMU's q35 OVMF: runtime data and code that are not aligned to 2 MiB.
    OVMF_01 = "maps/ovmf-01.txt";
    /// OVMF of 32 bits on QEMU's pc: runtime code and data in turns, in pieces of 16 to 28 KiB.
    OVMF_03 = "maps/ovmf-03.txt";
    /// Supermicro H13: the MMIO regions only, up to 64 TiB.
    SUPERMICRO_01_PARTIAL = "maps/supermicro-01-partial.txt";
    /// ASRock B650M, UEFI shell: RUNTIME MMIO of 514 MiB at 1 TiB.
    ASROCK_02 = "maps/asrock-02.txt";
    /// A desktop PC, UEFI shell.
    HACKPC_01 = "maps/hackpc-01.txt";
    /// A desktop PC, UEFI shell: RUNTIME MMIO of 1532 MiB.
    HACKPC_03 = "maps/hackpc-03.txt";
    /// Intel Atom C2000, Xen.
    XEN_AVOTON_01 = "maps/xen-avoton-01.txt";
    /// NXP LX2160A, FreeBSD: RUNTIME MMIO that starts within a page.
    FREEBSD_LX2160A_01 = "maps/freebsd-lx2160a-01.txt";
    /// A board of ARM, U-Boot.
    UBOOT_01 = "maps/uboot-01.txt";
    /// OVMF, MikanLoader.
    OVMF_02_MIKAN = "maps/ovmf-02-mikan.csv.txt";
}

/// What Linux made of each of [`TRUTH`]: /sys/firmware/efi/runtime-map, one line an entry.
pub const RUNTIME_MAPS: [&str; 7] = [
    include_str!("../truth/q35-2g.runtime-map.txt"),
    include_str!("../truth/q35-smm-2g.runtime-map.txt"),
    include_str!("../truth/q35-256m.runtime-map.txt"),
    include_str!("../truth/q35-512m.runtime-map.txt"),
    include_str!("../truth/q35-8g.runtime-map.txt"),
    include_str!("../truth/pc-1g-2mfw.runtime-map.txt"),
    include_str!("../truth/pc-3g.runtime-map.txt"),
];

/// One of [`RUNTIME_MAPS`], read here and by nobody else: index, phys_addr, virt_addr, num_pages, type, attribute.
pub fn runtime_map(text: &str) -> Vec<MemoryDescriptor> {
    let number = |digits: &str| u64::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap();
    let entries = text.lines().filter(|line| !line.starts_with('#'));
    entries
        .map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            MemoryDescriptor {
                ty: MemoryType(number(fields[4]) as u32),
                padding: 0,
                phys_start: number(fields[1]),
                virt_start: number(fields[2]),
                page_count: number(fields[3]),
                att: MemoryAttribute::from_bits_retain(number(fields[5])),
            }
        })
        .collect()
}

/// Real maps of x86 machines, with Linux's own lists of two of them.
pub const X86_MAPS: [(&str, &str); 16] = [
    ASROCK_02,
    ASUS_01,
    ASUS_04,
    ASUS_04_KERNEL,
    HACKPC_01,
    HACKPC_03,
    HP_01,
    LENOVO_01,
    LENOVO_07,
    LENOVO_07_KERNEL,
    NUTANIX_01,
    OVMF_01,
    OVMF_02_MIKAN,
    OVMF_03,
    SUPERMICRO_01_PARTIAL,
    XEN_AVOTON_01,
];

/// All the real maps.
pub const TRUTH: [(&str, &str); 7] = [Q35_2G, Q35_SMM_2G, Q35_256M, Q35_512M, Q35_8G, PC_1G_2MFW, PC_3G];

/// A map by its constant.
pub fn map((name, text): (&str, &str)) -> MemoryMap {
    MemoryMap::parse_named(name, text).unwrap_or_else(|error| panic!("{error}"))
}

/// A scenario over such a map, under `window`.
pub fn scenario(map: (&str, &str)) -> Scenario {
    Scenario::new(self::map(map)).layout(Layout::Window)
}

/// A runtime map as if Linux had not split off and tagged the page of boot-services data that holds the Memory Attributes
/// Table.
pub fn without_the_tagged_page(entries: Vec<MemoryDescriptor>) -> Vec<MemoryDescriptor> {
    let mut all: Vec<MemoryDescriptor> = Vec::new();
    for mut entry in entries {
        if entry.ty == MemoryType::BOOT_SERVICES_DATA {
            entry.att.remove(MemoryAttribute::RUNTIME);
        }
        match all.last_mut() {
            Some(above)
                if (above.ty, above.att) == (entry.ty, entry.att)
                    && entry.phys_start + entry.page_count * 4096 == above.phys_start =>
            {
                above.page_count += entry.page_count;
                (above.phys_start, above.virt_start) = (entry.phys_start, entry.virt_start);
            }
            _ => all.push(entry),
        }
    }
    all
}

/// What a report says of the calls of one phase: on whose tables, the service, and what it returned.
pub fn calls(report: &Report, phase: Phase) -> Vec<(&'static str, &'static str, Option<u64>)> {
    let of_phase = report.calls.iter().filter(|call| call.phase == phase);
    of_phase.map(|call| (call.tables, call.service, call.status)).collect()
}

/// EFI_UNSUPPORTED and EFI_INVALID_PARAMETER (UEFI 2.10, appendix D).
pub const UNSUPPORTED: Option<u64> = Some(1 << 63 | 3);
/// See [`UNSUPPORTED`].
pub const INVALID_PARAMETER: Option<u64> = Some(1 << 63 | 2);

/// The calls before the switch, in their order, and what each returns: good calls succeed, ConvertPointer is not for
/// operating systems, and the ResetType of the one ResetSystem does not exist.
pub const CALLS_BEFORE: [(&str, Option<u64>); 14] = [
    ("GetTime", Some(0)),
    ("SetTime", Some(0)),
    ("GetWakeupTime", Some(0)),
    ("SetWakeupTime", Some(0)),
    ("ConvertPointer", UNSUPPORTED),
    ("SetVariable", Some(0)),
    ("GetVariable", Some(0)),
    ("GetNextVariableName", Some(0)),
    ("GetNextHighMonotonicCount", Some(0)),
    ("UpdateCapsule", Some(0)),
    ("QueryCapsuleCapabilities", Some(0)),
    ("QueryVariableInfo", Some(0)),
    ("ResetSystem", INVALID_PARAMETER),
    ("SetVirtualAddressMap", Some(0)),
];

/// Those after it. The two that stay physical need the 1:1 aliases, which not every layout has; ResetSystem ends the run.
pub const CALLS_AFTER: [(&str, Option<u64>); 14] = [
    ("GetTime", Some(0)),
    ("SetTime", Some(0)),
    ("GetWakeupTime", Some(0)),
    ("SetWakeupTime", Some(0)),
    ("GetVariable", Some(0)),
    ("SetVariable", Some(0)),
    ("GetNextVariableName", Some(0)),
    ("GetNextHighMonotonicCount", Some(0)),
    ("UpdateCapsule", Some(0)),
    ("QueryCapsuleCapabilities", Some(0)),
    ("QueryVariableInfo", Some(0)),
    ("ConvertPointer", UNSUPPORTED),
    ("SetVirtualAddressMap", UNSUPPORTED),
    ("ResetSystem", None),
];

/// Every service was called on either side of the switch, as it should be: at its physical address on `tables`, then at
/// its virtual one on the mapper's.
pub fn assert_all_called(report: &Report, tables: &str, has_aliases: bool) {
    let before = CALLS_BEFORE.map(|(service, status)| (tables, service, status));
    assert_eq!(calls(report, Phase::Map), before);
    assert_called_after(report, has_aliases);
}

/// The calls after the switch alone.
pub fn assert_called_after(report: &Report, has_aliases: bool) {
    let stays = |service| matches!(service, "ConvertPointer" | "SetVirtualAddressMap");
    let after = CALLS_AFTER.map(|(service, status)| match stays(service) && !has_aliases {
        true => ("mapper", service, None),
        false => ("mapper", service, status),
    });
    assert_eq!(calls(report, Phase::Finish), after);
    for call in &report.calls {
        let is_called = call.phase == Phase::Map || !stays(call.service) || has_aliases;
        assert_eq!((call.rip.is_some(), call.cr3.is_some()), (is_called, is_called), "{call:x?}");
        assert_eq!(call.reason.is_some(), call.status.is_none(), "{call:?}");
    }
}

/// The rows of the regions and the findings say the same: what is `ok` is named by no finding of an error, and what is
/// named by one is `wrong`, or `unmapped`, and so is nothing else.
pub fn assert_rows_agree(report: &Report) {
    for region in &report.regions {
        let index = region.region.index;
        let is_named = report
            .findings
            .iter()
            .any(|finding| finding.region == Some(index) && finding.rule.severity() == efibed::check::Severity::Error);
        let agrees = match region.verdict {
            Verdict::Wrong => is_named,
            Verdict::Unmapped => !report.findings.is_empty(),
            Verdict::Ok | Verdict::NotOwed | Verdict::Skipped => !is_named,
            // A new verdict needs a row here.
            _ => false,
        };
        assert!(agrees, "region {index} is {:?}\n{}", region.verdict, efibed::report::text::Text::plain(report));
    }
}

/// A RUNTIME region that can be written back.
pub const fn runtime(ty: MemoryType, phys_start: u64, page_count: u64) -> MemoryDescriptor {
    let att = MemoryAttribute::RUNTIME.union(MemoryAttribute::WRITE_BACK);
    MemoryDescriptor { ty, padding: 0, phys_start, virt_start: 0, page_count, att }
}

/// RuntimeServicesCode and RuntimeServicesData.
pub const CODE: MemoryType = MemoryType::RUNTIME_SERVICES_CODE;
/// See [`CODE`].
pub const DATA: MemoryType = MemoryType::RUNTIME_SERVICES_DATA;

/// Boot services with page 0, and one image: code, then data.
pub fn image() -> Vec<MemoryDescriptor> {
    let boot = |ty, phys, pages| MemoryDescriptor { att: MemoryAttribute::WRITE_BACK, ..runtime(ty, phys, pages) };
    vec![
        boot(MemoryType::BOOT_SERVICES_CODE, 0, 1),
        boot(MemoryType::BOOT_SERVICES_DATA, 0x40_0000, 0x400),
        runtime(CODE, 0x7e00_0000, 0x400),
        runtime(DATA, 0x7e40_0000, 0x20),
    ]
}

/// An entry of the Memory Attributes Table.
pub fn attributes(ty: MemoryType, phys: u64, pages: u64, att: MemoryAttribute) -> MemoryDescriptor {
    MemoryDescriptor { att: att | MemoryAttribute::RUNTIME, ..runtime(ty, phys, pages) }
}

/// The rules of what was found, in the order of their documentation, each once.
pub fn rules(report: &Report) -> Vec<Rule> {
    let mut rules: Vec<_> = report.findings.iter().map(|finding| finding.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// What the first finding says.
pub fn first_message(report: &Report) -> &str {
    report.findings.first().map_or("nothing", |finding| &finding.message)
}

/// Runtime code at 0x7e000000, so many pages of runtime data at 0x7e729000, and room for the guest.
pub fn small_map(data_pages: u64) -> MemoryMap {
    let text = format!(
        r#"
        [[descriptor]]
        type = "RuntimeServicesCode"
        phys = 0x7e000000
        pages = 0x20
        attribute = "RUNTIME|WB"
        [[descriptor]]
        type = "RuntimeServicesData"
        phys = 0x7e729000
        pages = {data_pages}
        attribute = "RUNTIME|WB"
        [[descriptor]]
        type = "ConventionalMemory"
        phys = 0x1000000
        pages = 0x6000
        attribute = "WB"
        "#
    );
    MemoryMap::parse(&text).expect("it is a good one")
}
