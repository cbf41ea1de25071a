//! Helpers of the integration tests: the maps, and tests that need what not every machine has.

use std::sync::OnceLock;

use efibed::machine::Hypervisor;
use efibed::{CpuidRequest, EngineError, MemoryMap, Scenario, TestBed};
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

/// A test that is ignored, by name, where the machine lacks what it needs. With `EFIBED_REQUIRE_KVM=1` lacking /dev/kvm
/// is no excuse, and the test fails; what a KVM does not do stays an excuse.
pub fn trial(name: impl Into<String>, need: Need, run: impl FnOnce() + Send + 'static) -> Trial {
    let kind = match need {
        Need::Kvm => "kvm",
        Need::GbPages => "kvm with 1G leaves",
        Need::La57 => "kvm with five levels",
    };
    let run = move || -> Result<(), Failed> {
        run();
        Ok(())
    };
    Trial::test(name, run).with_kind(kind).with_ignored_flag(!has(need))
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
        let cpu = CpuidRequest { la57: Some(true), ..CpuidRequest::default() };
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
}

/// All the real maps.
pub const TRUTH: [(&str, &str); 7] = [Q35_2G, Q35_SMM_2G, Q35_256M, Q35_512M, Q35_8G, PC_1G_2MFW, PC_3G];

/// A map by its constant.
pub fn map((name, text): (&str, &str)) -> MemoryMap {
    MemoryMap::parse_named(name, text).unwrap_or_else(|error| panic!("{error}"))
}

/// A scenario over such a map.
pub fn scenario(map: (&str, &str)) -> Scenario {
    Scenario::new(self::map(map))
}
