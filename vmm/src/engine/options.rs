//! How firmware and the kernel deviate from the usual behaviour.

use efibed_stub::{DESCRIPTOR_STRIDE, DESCRIPTOR_VERSION, Service};

use crate::check::Phase;
use crate::firmware::Offence;

/// How firmware behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareOptions {
    /// Whether runtime services are called at all.
    pub calls: bool,
    /// The DescriptorSize that it reports with its memory map: 48, as EDK II's; U-Boot's is 40. A multiple of 8, and at
    /// least 40 ([`DESCRIPTOR_SIZES`]).
    pub descriptor_size: usize,
    /// The DescriptorVersion: 1; U-Boot has been seen to report 0. SetVirtualAddressMap accepts only 1.
    pub descriptor_version: u32,
    /// What it does that it must not.
    pub misbehaves: Vec<Offence>,
}

/// DescriptorSizes that firmware may report: a descriptor has 40 bytes (UEFI 2.10, 7.2.3), and no firmware uses a page.
pub const DESCRIPTOR_SIZES: std::ops::RangeInclusive<usize> = 40..=4096;

impl Default for FirmwareOptions {
    fn default() -> Self {
        Self {
            calls: true,
            descriptor_size: DESCRIPTOR_STRIDE,
            descriptor_version: DESCRIPTOR_VERSION,
            misbehaves: Vec::new(),
        }
    }
}

/// The largest variable that a kernel writes: firmware accepts somewhat more.
pub const MAX_VARIABLE_BYTES: usize = 64 << 10;

macro_rules! miscalls {
    ($($variant:ident, $name:literal, $summary:literal;)*) => {
        /// A mistake of a kernel in calling a runtime service.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Miscall { $(#[doc = $summary] $variant,)* }

        impl Miscall {
    /// The call that is made wrongly: its phase and its service.
    pub const fn call(self) -> (Phase, Service) {
        match self {
            Self::OtherTables => (Phase::Map, Service::GetTime),
            Self::Interrupts => (Phase::Map, Service::SetVirtualAddressMap),
            Self::PhysicalAddress | Self::MisalignedStack | Self::UnmappedBuffer => (Phase::Finish, Service::GetTime),
        }
    }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As scenarios and options name it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }
        }
    };
}

miscalls! {
    PhysicalAddress, "physical-address", "Calls GetTime at its physical address after SetVirtualAddressMap.";
    OtherTables, "other-tables", "Calls GetTime before the switch on other tables than the other services.";
    MisalignedStack, "misaligned-stack", "Calls GetTime after the switch with RSP 8 below a multiple of 16.";
    UnmappedBuffer, "unmapped-buffer", "Calls GetTime after the switch with a Time that is not mapped.";
    Interrupts, "interrupts", "Calls SetVirtualAddressMap with interrupts on.";
}

impl Miscall {
    /// The one of that name; the error says which there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().copied().find(|each| each.name() == name);
        let names = || Self::ALL.iter().map(|each| each.name()).collect::<Vec<_>>().join(", ");
        known.ok_or_else(|| format!("the kernel knows no mistake `{name}`; it knows {}", names()))
    }
}

/// What the kernel around the mapping code does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// Whether phase `finish` is run, in which Linux drops boot services and tightens permissions. With `efi=debug` it
    /// keeps them.
    pub finish: bool,
    /// GetTime's first argument lies at the very end of a page after which nothing is mapped.
    pub guard_page: bool,
    /// The DescriptorSize that it uses, whatever firmware reports.
    pub descriptor_size: Option<usize>,
    /// The DescriptorVersion that it uses, whatever firmware reports.
    pub descriptor_version: Option<u32>,
    /// Bytes of the variable that it writes before the switch and reads after it, 1 to [`MAX_VARIABLE_BYTES`]; by default a
    /// line of text.
    pub variable_bytes: Option<usize>,
    /// How it calls services wrongly.
    pub miscalls: Vec<Miscall>,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            finish: true,
            guard_page: false,
            descriptor_size: None,
            descriptor_version: None,
            variable_bytes: None,
            miscalls: Vec::new(),
        }
    }
}
