//! The runtime services, in the order of the runtime-services table (UEFI 2.10, 4.5.1 and chapter 8).

use core::fmt;

use crate::table::TableHeader;

/// A runtime service. Its number is its place in the table, and what its stub tells the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the services' own names")]
pub enum Service {
    GetTime,
    SetTime,
    GetWakeupTime,
    SetWakeupTime,
    SetVirtualAddressMap,
    ConvertPointer,
    GetVariable,
    GetNextVariableName,
    SetVariable,
    GetNextHighMonotonicCount,
    ResetSystem,
    UpdateCapsule,
    QueryCapsuleCapabilities,
    QueryVariableInfo,
}

impl Service {
    /// How many services there are.
    pub const COUNT: usize = 14;

    /// All services, in the order of the table.
    pub const ALL: [Self; Self::COUNT] = [
        Self::GetTime,
        Self::SetTime,
        Self::GetWakeupTime,
        Self::SetWakeupTime,
        Self::SetVirtualAddressMap,
        Self::ConvertPointer,
        Self::GetVariable,
        Self::GetNextVariableName,
        Self::SetVariable,
        Self::GetNextHighMonotonicCount,
        Self::ResetSystem,
        Self::UpdateCapsule,
        Self::QueryCapsuleCapabilities,
        Self::QueryVariableInfo,
    ];

    /// The service's place in the table.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The service with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Offset of the service's pointer in the runtime-services table.
    pub const fn table_offset(self) -> usize {
        size_of::<TableHeader>() + self as usize * size_of::<u64>()
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GetTime => "GetTime",
            Self::SetTime => "SetTime",
            Self::GetWakeupTime => "GetWakeupTime",
            Self::SetWakeupTime => "SetWakeupTime",
            Self::SetVirtualAddressMap => "SetVirtualAddressMap",
            Self::ConvertPointer => "ConvertPointer",
            Self::GetVariable => "GetVariable",
            Self::GetNextVariableName => "GetNextVariableName",
            Self::SetVariable => "SetVariable",
            Self::GetNextHighMonotonicCount => "GetNextHighMonotonicCount",
            Self::ResetSystem => "ResetSystem",
            Self::UpdateCapsule => "UpdateCapsule",
            Self::QueryCapsuleCapabilities => "QueryCapsuleCapabilities",
            Self::QueryVariableInfo => "QueryVariableInfo",
        }
    }
}

#[cfg(not(efibed_image))]
impl core::str::FromStr for Service {
    type Err = crate::UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        const NAMES: [&str; Service::COUNT] = {
            let mut names = [""; Service::COUNT];
            let mut number = 0;
            while number < Service::COUNT {
                names[number] = Service::ALL[number].name();
                number += 1;
            }
            names
        };
        let known = Self::ALL.into_iter().find(|service| service.name() == name);
        known.ok_or_else(|| crate::UnknownName::new("runtime service", name, &NAMES))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_its_service_and_no_other() {
        for (number, service) in (0u32..).zip(Service::ALL) {
            assert_eq!(service.number(), number);
            assert_eq!(Service::from_number(number), Some(service));
        }
        assert_eq!(Service::from_number(14), None);
        assert_eq!(Service::from_number(u32::MAX), None);
    }
}
