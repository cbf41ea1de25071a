//! Where variables are kept: in the host, for as long as the run lasts.

use uefi_raw::table::runtime::{VariableAttributes, VariableVendor};
use uefi_raw::{Guid, guid};

use super::Refusal;

/// MaximumVariableSize (UEFI 2.10, 8.2.4): 64 KiB of data, and 4 KiB for the name and what a store needs besides.
pub(in super::super) const MAX_VARIABLE_BYTES: u64 = 68 << 10;

/// Units of the longest name, its null included: 2 KiB, far more than anyone uses.
pub(super) const MAX_NAME_UNITS: usize = 1024;

/// MaximumVariableStorageSize of non-volatile variables: what OVMF's flash has room for. That of the volatile ones is as
/// large; after ExitBootServices nobody can write there.
pub(in super::super) const STORE_BYTES: u64 = 256 << 10;

/// Bytes that each variable takes besides its name and data: EDK II's AUTHENTICATED_VARIABLE_HEADER
/// (MdeModulePkg/Include/Guid/VariableFormat.h).
pub(in super::super) const HEADER_BYTES: u64 = 60;

/// This firmware's own vendor GUID.
pub(crate) const VENDOR: Guid = guid!("e1fbed00-0f3b-4c0e-9d2a-5a0c6f6e8a4c");

/// A vendor's GUID, as it lies in memory.
pub(super) type Vendor = [u8; 16];

/// All variables, in the order in which they were made.
#[derive(Clone, Debug)]
pub(in super::super) struct VariableStore {
    variables: Vec<Variable>,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub name: Vec<u16>,
    pub vendor: Vendor,
    pub attributes: VariableAttributes,
    pub data: Vec<u8>,
}

impl Variable {
    /// Whether it can be seen after ExitBootServices.
    fn is_visible(&self) -> bool {
        self.attributes.contains(VariableAttributes::RUNTIME_ACCESS)
    }

    fn bytes(&self) -> u64 {
        bytes_of(&self.name, self.data.len() as u64)
    }
}

/// What a variable takes of its store: its header, its name with the null, its data.
pub(super) fn bytes_of(name: &[u16], data_bytes: u64) -> u64 {
    let name_bytes = (name.len() as u64).saturating_add(1).saturating_mul(2);
    data_bytes.saturating_add(HEADER_BYTES).saturating_add(name_bytes)
}

impl Default for VariableStore {
    /// What a machine has when its operating system comes: a boot order, a variable that is read-only at runtime, and one
    /// that only boot services show (UEFI 2.10, 3.3).
    fn default() -> Self {
        let boot = VariableAttributes::BOOTSERVICE_ACCESS;
        let runtime = boot | VariableAttributes::RUNTIME_ACCESS;
        let variable = |name: &str, vendor: Guid, attributes, data: &[u8]| Variable {
            name: name.encode_utf16().collect(),
            vendor: vendor.to_bytes(),
            attributes,
            data: data.into(),
        };
        let global = VariableVendor::GLOBAL_VARIABLE.0;
        let variables = vec![
            variable("Setup", VENDOR, boot | VariableAttributes::NON_VOLATILE, &[1]),
            variable("BootOrder", global, runtime | VariableAttributes::NON_VOLATILE, &[0, 0]),
            variable("SecureBoot", global, runtime, &[0]),
        ];
        Self { variables }
    }
}

impl VariableStore {
    /// The variable, if it can be seen at runtime.
    pub(super) fn visible(&self, name: &[u16], vendor: &Vendor) -> Option<&Variable> {
        self.find(name, vendor).map(|index| &self.variables[index]).filter(|variable| variable.is_visible())
    }

    /// The first one that can be seen.
    pub(super) fn first_visible(&self) -> Option<&Variable> {
        self.variables.iter().find(|variable| variable.is_visible())
    }

    /// The one that can be seen after this one.
    pub(super) fn visible_after(&self, name: &[u16], vendor: &Vendor) -> Option<&Variable> {
        let index = self.find(name, vendor)?;
        self.variables[index..].iter().skip(1).find(|variable| variable.is_visible())
    }

    /// The variable, no matter who can see it, if it may be written at runtime; None: there is none.
    pub(super) fn writable(&mut self, name: &[u16], vendor: &Vendor) -> Result<Option<&mut Variable>, Refusal> {
        let Some(index) = self.find(name, vendor) else { return Ok(None) };
        let variable = &mut self.variables[index];
        let attributes = variable.attributes;
        if !variable.is_visible() {
            let why = "a variable of that name is for boot services only";
            return Err(Refusal::Attributes { attributes: attributes.bits(), why });
        }
        if !attributes.contains(VariableAttributes::NON_VOLATILE) {
            return Err(Refusal::ReadOnly);
        }
        Ok(Some(variable))
    }

    /// Takes a variable away.
    pub(super) fn delete(&mut self, name: &[u16], vendor: &Vendor) {
        self.variables.retain(|variable| variable.name != name || variable.vendor != *vendor);
    }

    /// Stores a variable in the place of the one it replaces, or as the last one; its size has been found to be allowed.
    pub(super) fn put(&mut self, variable: Variable) -> Result<(), Refusal> {
        let old = self.find(&variable.name, &variable.vendor);
        let freed = old.map_or(0, |index| self.variables[index].bytes());
        let left = self.remaining(variable.attributes).saturating_add(freed);
        let needed = variable.bytes();
        if needed > left {
            return Err(Refusal::StoreFull { needed, left });
        }
        match old {
            Some(index) => self.variables[index] = variable,
            None => self.variables.push(variable),
        }
        Ok(())
    }

    /// RemainingVariableStorageSize of variables with these attributes.
    pub(super) fn remaining(&self, attributes: VariableAttributes) -> u64 {
        let kept = |variable: &&Variable| {
            let differ = variable.attributes ^ attributes;
            !differ.contains(VariableAttributes::NON_VOLATILE)
        };
        let used: u64 = self.variables.iter().filter(kept).map(Variable::bytes).sum();
        STORE_BYTES.saturating_sub(used)
    }

    /// What all variables take.
    #[cfg(test)]
    pub(in super::super) fn stored_bytes(&self) -> u64 {
        self.variables.iter().map(Variable::bytes).sum()
    }

    fn find(&self, name: &[u16], vendor: &Vendor) -> Option<usize> {
        self.variables.iter().position(|variable| variable.name == name && variable.vendor == *vendor)
    }
}
