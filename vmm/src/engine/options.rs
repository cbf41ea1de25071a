//! How firmware and the kernel deviate from the usual behaviour.

use efibed_stub::{DESCRIPTOR_STRIDE, DESCRIPTOR_VERSION, Service};

use crate::bounded::bounded;
use crate::check::Phase;
use crate::firmware::ServiceMisbehaviour;

bounded! {
    /// The DescriptorSize of a memory map, in bytes: a multiple of 8 from 40 to 4096.
    ///
    /// A descriptor has 40 bytes, and may be followed by more (UEFI 2.10, 7.2.3). Its fields are aligned to 8. No firmware
    /// uses a page.
    ///
    /// ```
    /// use efibed::{DescriptorSize, FirmwareOptions};
    ///
    /// let firmware = FirmwareOptions::default().descriptor_size(DescriptorSize::try_from(56)?);
    /// assert!(DescriptorSize::try_from(44).is_err());
    /// # let _ = firmware;
    /// # Ok::<(), efibed::OutOfRange>(())
    /// ```
    DescriptorSize(usize): 40 to 4096 by 8, "bytes", "DescriptorSize", Some("UEFI 2.10, 7.2.3")
}

impl DescriptorSize {
    /// That of EDK II, and so of nearly every machine: 48.
    pub const EDK2: Self = Self(DESCRIPTOR_STRIDE);
    /// That of U-Boot: 40, as the structure.
    pub const U_BOOT: Self = Self::MIN;
}

bounded! {
    /// The size of a variable that a kernel writes, in bytes: 1 to 65536. Firmware accepts somewhat more.
    VariableBytes(usize): 1 to 65_536 by 1, "bytes", "size of a variable", None
}

/// How firmware behaves. [`FirmwareOptions::default`] is what most firmware does; each method changes one thing.
///
/// ```
/// use efibed::{DescriptorSize, FirmwareOptions, Misbehaviour};
///
/// let firmware = FirmwareOptions::default().descriptor_size(DescriptorSize::U_BOOT).misbehave(Misbehaviour::Seam);
/// assert!(firmware.calls);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirmwareOptions {
    /// Whether runtime services are called at all.
    pub calls: bool,
    /// The DescriptorSize that it reports with its memory map.
    pub descriptor_size: DescriptorSize,
    /// The DescriptorVersion that it reports: 1; U-Boot has been seen to report 0. SetVirtualAddressMap accepts only 1.
    pub descriptor_version: u32,
    /// What it does that it must not.
    pub misbehaves: Vec<ServiceMisbehaviour>,
}

impl Default for FirmwareOptions {
    fn default() -> Self {
        Self {
            calls: true,
            descriptor_size: DescriptorSize::EDK2,
            descriptor_version: DESCRIPTOR_VERSION,
            misbehaves: Vec::new(),
        }
    }
}

impl FirmwareOptions {
    /// Whether runtime services are called at all.
    #[must_use]
    pub fn calls(self, calls: bool) -> Self {
        Self { calls, ..self }
    }

    /// The DescriptorSize that it reports with its memory map.
    #[must_use]
    pub fn descriptor_size(self, descriptor_size: DescriptorSize) -> Self {
        Self { descriptor_size, ..self }
    }

    /// The DescriptorVersion that it reports. SetVirtualAddressMap accepts only 1.
    #[must_use]
    pub fn descriptor_version(self, descriptor_version: u32) -> Self {
        Self { descriptor_version, ..self }
    }

    /// Has it do something that it must not, besides what it does already.
    #[must_use]
    pub fn misbehave(mut self, misbehaviour: impl Into<ServiceMisbehaviour>) -> Self {
        self.misbehaves.push(misbehaviour.into());
        self
    }
}

macro_rules! miscalls {
    ($($variant:ident, $name:literal, $summary:literal;)*) => {
        /// A mistake of a kernel in calling a runtime service.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Miscall { $(#[doc = $summary] $variant,)* }

        efibed_stub::names! { Miscall, "mistake of a kernel": $($variant $name),* }

        impl Miscall {
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
    /// The call that is made wrongly: its phase and its service.
    pub const fn call(self) -> (Phase, Service) {
        match self {
            Self::OtherTables => (Phase::Map, Service::GetTime),
            Self::Interrupts => (Phase::Map, Service::SetVirtualAddressMap),
            Self::PhysicalAddress | Self::MisalignedStack | Self::UnmappedBuffer => (Phase::Finish, Service::GetTime),
        }
    }
}

/// What the kernel around the mapping code does. [`KernelOptions::default`] is a kernel without mistakes; each method changes
/// one thing.
///
/// ```
/// use efibed::{KernelOptions, Miscall};
///
/// let kernel = KernelOptions::default().guard_page(true).miscall(Miscall::Interrupts);
/// assert!(kernel.finish);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelOptions {
    /// Whether phase `finish` is run, in which Linux drops boot services and tightens permissions. With `efi=debug` it
    /// keeps them.
    pub finish: bool,
    /// GetTime's first argument lies at the very end of a page after which nothing is mapped.
    pub guard_page: bool,
    /// The DescriptorSize that it uses, whatever firmware reports.
    pub descriptor_size: Option<DescriptorSize>,
    /// The DescriptorVersion that it uses, whatever firmware reports.
    pub descriptor_version: Option<u32>,
    /// The size of the variable that it writes before the switch and reads after it; by default a line of text.
    pub variable_bytes: Option<VariableBytes>,
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

impl KernelOptions {
    /// Whether phase `finish` is run.
    #[must_use]
    pub fn finish(self, finish: bool) -> Self {
        Self { finish, ..self }
    }

    /// Whether GetTime's first argument lies at the very end of a page after which nothing is mapped.
    #[must_use]
    pub fn guard_page(self, guard_page: bool) -> Self {
        Self { guard_page, ..self }
    }

    /// The DescriptorSize that it uses, whatever firmware reports.
    #[must_use]
    pub fn descriptor_size(self, bytes: DescriptorSize) -> Self {
        Self { descriptor_size: Some(bytes), ..self }
    }

    /// The DescriptorVersion that it uses, whatever firmware reports.
    #[must_use]
    pub fn descriptor_version(self, version: u32) -> Self {
        Self { descriptor_version: Some(version), ..self }
    }

    /// The size of the variable that it writes before the switch and reads after it.
    #[must_use]
    pub fn variable_bytes(self, bytes: VariableBytes) -> Self {
        Self { variable_bytes: Some(bytes), ..self }
    }

    /// Has it call a service wrongly, besides what it does already.
    #[must_use]
    pub fn miscall(mut self, miscall: Miscall) -> Self {
        self.miscalls.push(miscall);
        self
    }
}
