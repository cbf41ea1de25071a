//! Variable Services (UEFI 2.10, 8.2), after ExitBootServices.
//!
//! Where the specification leaves the status open, EDK II decides (MdeModulePkg/Universal/Variable/RuntimeDxe/Variable.c).

use uefi_raw::table::runtime::VariableAttributes;

use super::variable_store::{
    MAX_NAME_UNITS, MAX_VARIABLE_BYTES, STORE_BYTES, Variable, VariableStore, Vendor, bytes_of,
};
use super::{Caller, Refusal, not_null};
use crate::mmu::Va;

const NAME: &str = "VariableName";
const VENDOR: &str = "VendorGuid";
const ACCESS: VariableAttributes = VariableAttributes::BOOTSERVICE_ACCESS.union(VariableAttributes::RUNTIME_ACCESS);

/// GetVariable(*VariableName, *VendorGuid, *Attributes OPTIONAL, *DataSize, *Data OPTIONAL) (8.2.1).
pub(super) fn get_variable(store: &VariableStore, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [name, vendor, attributes, data_size] = caller.args();
    let data = caller.fifth()?;
    let (name, vendor) = (not_null(NAME, name)?, not_null(VENDOR, vendor)?);
    let data_size = not_null("DataSize", data_size)?;
    // No variable has a longer name.
    let name = caller.string(NAME, name, MAX_NAME_UNITS)?.ok_or(Refusal::NoVariable)?;
    let vendor = caller.array(VENDOR, vendor)?;
    let found = caller.u64("DataSize", data_size)?;
    let variable = store.visible(&name, &vendor).ok_or(Refusal::NoVariable)?;

    let needed = variable.data.len() as u64;
    if found >= needed {
        not_null("Data", data)?;
    }
    if attributes != 0 {
        caller.write("Attributes", Va(attributes), &variable.attributes.bits().to_le_bytes())?;
    }
    caller.write("DataSize", data_size, &needed.to_le_bytes())?;
    if found < needed {
        return Err(Refusal::BufferTooSmall { argument: "DataSize", found, needed });
    }
    caller.write("Data", Va(data), &variable.data)
}

/// GetNextVariableName(*VariableNameSize, *VariableName, *VendorGuid) (8.2.2).
pub(super) fn get_next_variable_name(store: &VariableStore, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [name_size, name_at, vendor_at, _] = caller.args();
    let name_size = not_null("VariableNameSize", name_size)?;
    let name_at = not_null(NAME, name_at)?;
    let vendor_at = not_null(VENDOR, vendor_at)?;
    let found = caller.u64("VariableNameSize", name_size)?;
    // No variable has a longer name.
    let limit = (found / 2).min(MAX_NAME_UNITS as u64);
    let name =
        caller.string(NAME, name_at, limit as usize)?.ok_or(Refusal::EndlessName { bytes: limit.saturating_mul(2) })?;
    let next = if name.is_empty() {
        store.first_visible()
    } else {
        let vendor = caller.array(VENDOR, vendor_at)?;
        store.visible(&name, &vendor).ok_or(Refusal::UnknownName)?;
        store.visible_after(&name, &vendor)
    };
    let next = next.ok_or(Refusal::NoNextVariable)?;

    let bytes: Vec<u8> = next.name.iter().chain(&[0]).flat_map(|unit| unit.to_le_bytes()).collect();
    let needed = bytes.len() as u64;
    caller.write("VariableNameSize", name_size, &needed.to_le_bytes())?;
    if found < needed {
        return Err(Refusal::BufferTooSmall { argument: "VariableNameSize", found, needed });
    }
    caller.write(NAME, name_at, &bytes)?;
    caller.write(VENDOR, vendor_at, &next.vendor)
}

/// SetVariable(*VariableName, *VendorGuid, Attributes, DataSize, *Data) (8.2.3).
pub(super) fn set_variable(store: &mut VariableStore, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let request = Request::read(caller)?;
    let Request { name, vendor, attributes, data_size, .. } = &request;
    let is_append = attributes.contains(VariableAttributes::APPEND_WRITE);
    let is_deletion = (*data_size == 0 && !is_append) || !attributes.intersects(ACCESS);
    let kept = attributes.difference(VariableAttributes::APPEND_WRITE);

    let Some(existing) = store.writable(name, vendor)? else {
        return match (is_deletion, data_size) {
            (true, _) => Err(Refusal::NoVariable),
            // Nothing is appended to nothing.
            (false, 0) => Ok(()),
            (false, _) => {
                check_creation(kept)?;
                let data = request.data(caller, 0)?;
                store.put(request.variable(kept, data))
            }
        };
    };
    if attributes.intersects(ACCESS) && kept != existing.attributes {
        return Err(Refusal::OtherAttributes { found: kept.bits(), expected: existing.attributes.bits() });
    }
    if is_deletion {
        store.delete(name, vendor);
        return Ok(());
    }
    let mut data = if is_append { existing.data.clone() } else { Vec::new() };
    data.extend(request.data(caller, data.len() as u64)?);
    store.put(request.variable(kept, data))
}

/// SetVariable's arguments, found to make sense in themselves.
struct Request {
    name: Vec<u16>,
    vendor: Vendor,
    attributes: VariableAttributes,
    data_size: u64,
    data_at: Va,
}

impl Request {
    fn read(caller: &mut Caller<'_>) -> Result<Self, Refusal> {
        let [name, vendor, attributes, data_size] = caller.args();
        let data_at = Va(caller.fifth()?);
        let (name, vendor) = (not_null(NAME, name)?, not_null(VENDOR, vendor)?);
        if data_size != 0 {
            not_null("Data", data_at.0)?;
        }
        let attributes = check_attributes(attributes as u32)?;
        let bytes = (MAX_NAME_UNITS as u64).saturating_mul(2);
        let name = caller.string(NAME, name, MAX_NAME_UNITS)?.ok_or(Refusal::EndlessName { bytes })?;
        if name.is_empty() {
            return Err(Refusal::EmptyName);
        }
        let vendor = caller.array(VENDOR, vendor)?;
        Ok(Self { name, vendor, attributes, data_size, data_at })
    }

    /// The data, if there is not too much of it on top of `before` bytes.
    fn data(&self, caller: &mut Caller<'_>, before: u64) -> Result<Vec<u8>, Refusal> {
        let bytes = bytes_of(&self.name, before.saturating_add(self.data_size));
        if bytes > MAX_VARIABLE_BYTES {
            return Err(Refusal::VariableTooLarge { bytes, limit: MAX_VARIABLE_BYTES });
        }
        caller.bytes("Data", self.data_at, self.data_size as usize)
    }

    fn variable(&self, attributes: VariableAttributes, data: Vec<u8>) -> Variable {
        Variable { name: self.name.clone(), vendor: self.vendor, attributes, data }
    }
}

/// QueryVariableInfo(Attributes, *MaximumVariableStorageSize, *RemainingVariableStorageSize, *MaximumVariableSize)
/// (8.2.4).
pub(super) fn query_variable_info(store: &VariableStore, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    let [bits, ..] = caller.args();
    let [_, maximum_storage, remaining, maximum] = caller.args();
    let maximum_storage = not_null("MaximumVariableStorageSize", maximum_storage)?;
    let remaining = not_null("RemainingVariableStorageSize", remaining)?;
    let maximum = not_null("MaximumVariableSize", maximum)?;
    let attributes = check_attributes(bits as u32)?;
    if !attributes.contains(VariableAttributes::RUNTIME_ACCESS) {
        let why = "at runtime there are only variables with RUNTIME_ACCESS";
        return Err(Refusal::Attributes { attributes: attributes.bits(), why });
    }
    let left = store.remaining(attributes);
    caller.write("MaximumVariableStorageSize", maximum_storage, &STORE_BYTES.to_le_bytes())?;
    caller.write("RemainingVariableStorageSize", remaining, &left.to_le_bytes())?;
    caller.write("MaximumVariableSize", maximum, &MAX_VARIABLE_BYTES.min(left).to_le_bytes())
}

/// Bits that make sense together (8.2.1, Related Definitions, and 8.2.3), and that this firmware does.
fn check_attributes(bits: u32) -> Result<VariableAttributes, Refusal> {
    let wrong = |why| Err(Refusal::Attributes { attributes: bits, why });
    let Some(attributes) = VariableAttributes::from_bits(bits) else {
        return wrong("there are no such bits");
    };
    if attributes.contains(VariableAttributes::RUNTIME_ACCESS)
        && !attributes.contains(VariableAttributes::BOOTSERVICE_ACCESS)
    {
        return wrong("RUNTIME_ACCESS needs BOOTSERVICE_ACCESS");
    }
    let unsupported = |what| Err(Refusal::UnsupportedAttributes { attributes: bits, what });
    if attributes.contains(VariableAttributes::HARDWARE_ERROR_RECORD) {
        if !attributes.contains(ACCESS | VariableAttributes::NON_VOLATILE) {
            return wrong("HARDWARE_ERROR_RECORD needs NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS");
        }
        return unsupported("hardware error records");
    }
    let authenticated = VariableAttributes::AUTHENTICATED_WRITE_ACCESS
        | VariableAttributes::TIME_BASED_AUTHENTICATED_WRITE_ACCESS
        | VariableAttributes::ENHANCED_AUTHENTICATED_ACCESS;
    if attributes.intersects(authenticated) {
        return unsupported("authenticated variables");
    }
    Ok(attributes)
}

/// After ExitBootServices only non-volatile variables for runtime can be made (8.2.3).
fn check_creation(attributes: VariableAttributes) -> Result<(), Refusal> {
    if attributes == ACCESS | VariableAttributes::NON_VOLATILE {
        return Ok(());
    }
    let why = "a variable made at runtime needs NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS";
    Err(Refusal::Attributes { attributes: attributes.bits(), why })
}

#[cfg(test)]
#[path = "variables_tests.rs"]
mod tests;
