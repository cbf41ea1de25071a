//! How firmware and the kernel behave, where not as usual.

use efibed_stub::{DESCRIPTOR_STRIDE, DESCRIPTOR_VERSION};

use crate::firmware::Offence;

/// How firmware behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareOptions {
    /// Whether runtime services are called at all.
    pub calls: bool,
    /// The DescriptorSize that it reports with its memory map: 48, as EDK II's; U-Boot's is 40. A multiple of 8, and at
    /// least 40 ([`DESCRIPTOR_SIZES`]).
    pub descriptor_size: usize,
    /// The DescriptorVersion: 1; U-Boot has been seen to report 0. It takes no other than 1 back.
    pub descriptor_version: u32,
    /// What it does that it must not.
    pub misbehaves: Vec<Offence>,
}

/// DescriptorSizes that firmware may report: a descriptor has 40 bytes (UEFI 2.10, 7.2.3), and no firmware a page for each.
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

/// What the kernel around the mapping code does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// Whether phase `finish` is run, in which Linux drops boot services and tightens permissions. With `efi=debug` it
    /// keeps them.
    pub finish: bool,
    /// GetTime's first argument lies at the very end of a page after which nothing is mapped.
    pub guard_page: bool,
    /// What it takes for the DescriptorSize, whatever firmware reports.
    pub descriptor_size: Option<usize>,
    /// What it takes for the DescriptorVersion, whatever firmware reports.
    pub descriptor_version: Option<u32>,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self { finish: true, guard_page: false, descriptor_size: None, descriptor_version: None }
    }
}
