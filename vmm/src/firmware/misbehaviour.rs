//! Firmware that does what it must not: what real firmware has been caught at, each on demand.
//!
//! Three words are used, from the general to the particular. A [`Misbehaviour`] is a kind: a row of the list here. A
//! [`ServiceMisbehaviour`] is what a scenario asks for: a kind, by a service that can be guilty of it. A [`Misdeed`] is what
//! such a service then does in one call: an access of its own, at an address. Whether that faults is up to the mapping; if it
//! does, the fault is firmware's, and the misdeed says what a kernel would have had to map to survive it.

use std::fmt;
use std::str::FromStr;

use efibed_stub::{Service, UnknownName};
use uefi_raw::Status;
use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};

use super::caller::{Access, parts};
use super::ranges::Range;
use super::{Firmware, GuestMemory, PAGE_SIZE, StubCall, placement};
use crate::mmu::{self, Pa, Va};

macro_rules! misbehaviours {
    ($($variant:ident, $name:literal, $service:ident, $summary:literal, $remedy:literal;)*) => {
        /// What firmware can be made to do, whichever service does it. See [`ServiceMisbehaviour`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Misbehaviour { $(#[doc = $summary] $variant,)* }

        efibed_stub::names! { Misbehaviour, "misbehaviour": $($variant $name),* }

        impl Misbehaviour {
            /// One sentence.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }

            /// What a kernel would have to do to survive it, as an instruction.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }

            /// The service that does it, where none is named.
            pub const fn usual_service(self) -> Service {
                match self { $(Self::$variant => Service::$service,)* }
            }
        }
    };
}

misbehaviours! {
    ReadsBootServices, "reads-boot-services", SetVirtualAddressMap,
        "Reads boot-services memory, at its physical address.",
        "keep boot-services regions, mapped 1:1, for as long as firmware may run";
    WritesBootServices, "writes-boot-services", SetVirtualAddressMap,
        "Writes to boot-services memory, at its physical address.",
        "keep boot-services regions, mapped 1:1 and writable, for as long as firmware may run";
    WritesPageZero, "writes-page-zero", SetVirtualAddressMap,
        "Writes to page 0.",
        "map page 0 1:1, as Linux does";
    PhysicalPointer, "physical-pointer", GetTime,
        "Reads its data by a pointer that it has not converted.",
        "keep the 1:1 aliases of RUNTIME regions after the switch";
    EarlyPointer, "early-pointer", SetVirtualAddressMap,
        "Reads its data by its new address before SetVirtualAddressMap has returned.",
        "map the new addresses beside the 1:1 aliases, on the tables that SetVirtualAddressMap runs on";
    WritesCode, "writes-code", GetTime,
        "Writes to its own code.",
        "map runtime code writable, and ignore the Memory Attributes Table";
    ExecutesData, "executes-data", GetTime,
        "Executes its own data.",
        "map runtime data executable";
    PastArgument, "past-argument", GetTime,
        "Reads past the page of its first argument.",
        "map a page after that of each argument";
    Seam, "seam", GetTime,
        "Reads across the end of its data, into the region that follows it in physical memory.",
        "map RUNTIME regions that are adjacent in physical memory at adjacent virtual addresses";
    AttributesTable, "attributes-table", GetTime,
        "Says in the Memory Attributes Table that its code must not be executed.",
        "map runtime code executable, and ignore the Memory Attributes Table";
    Errors, "errors", GetTime,
        "Answers EFI_DEVICE_ERROR to every call.",
        "none: the caller has to be ready for errors";
    NeverReturns, "never-returns", GetTime,
        "Never returns.",
        "none: the caller has to stop waiting";
    JumpsWild, "jumps-wild", GetTime,
        "Jumps to its own code's other address: the physical one after the switch, the virtual one in it.",
        "map both addresses of runtime code, executable";
    Faults, "faults", GetTime,
        "Reads where nothing is mapped, in the middle of its work.",
        "none: no mapping survives a wild pointer";
}

/// A misbehaviour of one service: SetVirtualAddressMap's when it is called first, any other's in each call after the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceMisbehaviour {
    pub(crate) what: Misbehaviour,
    pub(crate) service: Service,
    /// Of `faults`: the access, in place of its own wild one.
    pub(crate) access: Option<WildAccess>,
}

impl From<Misbehaviour> for ServiceMisbehaviour {
    fn from(what: Misbehaviour) -> Self {
        Self { what, service: what.usual_service(), access: None }
    }
}

/// An access that firmware is told to make, wherever it leads: one that a real log tells of, for example.
///
/// As text it is `KIND:ADDRESS`: `read:0x800000`, `write:0x400` or `fetch:0xfffffffef694b1b9`. The address is hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WildAccess {
    /// What it does. A read or a write is of 8 bytes.
    pub kind: mmu::Kind,
    /// At which virtual address.
    pub at: u64,
}

impl WildAccess {
    const KINDS: [(mmu::Kind, &'static str); 3] =
        [(mmu::Kind::Read, "read"), (mmu::Kind::Write, "write"), (mmu::Kind::Fetch, "fetch")];

    /// From its text.
    fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.split_once(':')?;
        let (kind, _) = Self::KINDS.into_iter().find(|(_, name)| *name == kind)?;
        let digits = address.strip_prefix("0x")?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let at = u64::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
        Some(Self { kind, at })
    }

    const fn deed(self) -> Deed {
        match self.kind {
            mmu::Kind::Read => Deed::Read,
            mmu::Kind::Write => Deed::Write,
            mmu::Kind::Fetch => Deed::Execute,
        }
    }
}

impl fmt::Display for WildAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = Self::KINDS.into_iter().find(|(kind, _)| *kind == self.kind);
        write!(f, "{}:{:#x}", kind.map_or("read", |(_, name)| name), self.at)
    }
}

/// A text or a pair that is no misbehaviour.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceMisbehaviourError {
    /// There is no misbehaviour or service of that name.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// The service cannot be guilty of it.
    #[error("`{what}@{service}`: {why}")]
    Impossible {
        /// What it was to do.
        what: Misbehaviour,
        /// Which service.
        service: Service,
        /// Why it cannot.
        why: &'static str,
    },
    /// What stands after `=` is no access, or the misbehaviour takes none.
    #[error("`{0}`: only `faults` takes an access, as in faults=write:0x386aae88; it is read, write or fetch")]
    Access(String),
}

/// What a test prints that ends with this error.
impl fmt::Debug for ServiceMisbehaviourError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// From `MISBEHAVIOUR`, for its usual service, or `MISBEHAVIOUR@SERVICE`; `faults` may be told its access: `faults=ACCESS`.
impl FromStr for ServiceMisbehaviour {
    type Err = ServiceMisbehaviourError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, service) = text.split_once('@').map_or((text, None), |(kind, service)| (kind, Some(service)));
        let (what, access) = kind.split_once('=').map_or((kind, None), |(what, access)| (what, Some(access)));
        let what: Misbehaviour = what.parse()?;
        let misbehaviour = match service {
            Some(service) => Self::new(what, service.parse()?)?,
            None => what.into(),
        };
        match access {
            None => Ok(misbehaviour),
            Some(access) => {
                let access = WildAccess::parse(access).filter(|_| what == Misbehaviour::Faults);
                access
                    .map(|access| misbehaviour.with_access(access))
                    .ok_or_else(|| ServiceMisbehaviourError::Access(kind.to_owned()))
            }
        }
    }
}

/// As `MISBEHAVIOUR@SERVICE` or `faults=ACCESS@SERVICE`.
impl fmt::Display for ServiceMisbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.access {
            Some(access) => write!(f, "{}={access}@{}", self.what, self.service),
            None => write!(f, "{}@{}", self.what, self.service),
        }
    }
}

impl ServiceMisbehaviour {
    /// A misbehaviour by a service. The error says why that service cannot be guilty of it.
    pub fn new(what: Misbehaviour, service: Service) -> Result<Self, ServiceMisbehaviourError> {
        let misbehaviour = Self { what, service, access: None };
        misbehaviour
            .objection()
            .map_or(Ok(misbehaviour), |why| Err(ServiceMisbehaviourError::Impossible { what, service, why }))
    }

    /// `faults` with this access by a service.
    pub fn faults(access: WildAccess, service: Service) -> Result<Self, ServiceMisbehaviourError> {
        Ok(Self::new(Misbehaviour::Faults, service)?.with_access(access))
    }

    fn with_access(self, access: WildAccess) -> Self {
        Self { access: Some(access), ..self }
    }

    /// What.
    pub const fn what(self) -> Misbehaviour {
        self.what
    }

    /// By which service.
    pub const fn service(self) -> Service {
        self.service
    }

    /// Why the service cannot be guilty of it.
    fn objection(self) -> Option<&'static str> {
        let in_switch = self.service == Service::SetVirtualAddressMap;
        match (self.what, self.service) {
            (_, Service::ConvertPointer | Service::ResetSystem) => {
                Some("ConvertPointer is firmware's own, and ResetSystem ends the run")
            }
            (Misbehaviour::EarlyPointer, _) if !in_switch => Some("only SetVirtualAddressMap can be too early"),
            (Misbehaviour::PhysicalPointer, _) if in_switch => {
                Some("before SetVirtualAddressMap returns, its pointers are physical")
            }
            (Misbehaviour::AttributesTable, service) if service != self.what.usual_service() => Some(
                "the Memory Attributes Table concerns all services, and GetTime is the first that is called after it",
            ),
            (Misbehaviour::PastArgument, _) if in_switch => {
                Some("the first argument of SetVirtualAddressMap is no pointer")
            }
            _ => None,
        }
    }
}

/// What a misbehaving service does that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misdeed {
    /// Why.
    pub what: Misbehaviour,
    /// The access that it was told to make, if it was told.
    pub access: Option<WildAccess>,
    /// What it does.
    pub deed: Deed,
    /// At which address, as firmware has it.
    pub at: Va,
    /// The physical address that it means by this, if it means any.
    pub meant: Option<Pa>,
    /// The physical address that the last byte is at, on the tables that are loaded; None: it faults.
    pub reached: Option<Pa>,
}

impl Misdeed {
    /// What was asked for, if a service does this.
    pub const fn by(&self, service: Service) -> ServiceMisbehaviour {
        ServiceMisbehaviour { what: self.what, service, access: self.access }
    }

    /// Whether an access at this address is part of it.
    pub fn is_at(&self, virt: Va) -> bool {
        virt.wrapping_offset_from(self.at) < self.deed.bytes()
    }

    /// The address of the last byte.
    pub fn last(&self) -> Va {
        self.at.wrapping_add(self.deed.bytes().saturating_sub(1))
    }

    /// The physical address of the last byte, as firmware means it.
    pub fn last_meant(&self) -> Option<Pa> {
        self.meant.map(|phys| phys.wrapping_add(self.last().wrapping_offset_from(self.at)))
    }
}

/// A deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Reads 8 bytes.
    Read,
    /// Writes 8 bytes.
    Write,
    /// Executes.
    Execute,
    /// Never comes to an end.
    Hang,
    /// Answers so, and does nothing.
    Answer(Status),
}

impl Deed {
    const fn bytes(self) -> u64 {
        match self {
            Self::Read | Self::Write => 8,
            Self::Execute => 1,
            Self::Hang | Self::Answer(_) => 0,
        }
    }

    /// The access of it, if it is one.
    pub fn access(self) -> Option<mmu::Access> {
        match self {
            Self::Read => Some(mmu::Access::read()),
            Self::Write => Some(mmu::Access::write()),
            Self::Execute => Some(mmu::Access::fetch()),
            Self::Hang | Self::Answer(_) => None,
        }
    }
}

/// A Memory Attributes Table that says of all runtime code that it is not to be executed: firmware's own, otherwise.
pub fn lying_attributes_table(map: &[MemoryDescriptor], table: &[MemoryDescriptor]) -> Vec<MemoryDescriptor> {
    let is_code = |it: &&MemoryDescriptor| it.ty == MemoryType::RUNTIME_SERVICES_CODE;
    let code = map.iter().filter(is_code).filter(|it| it.att.contains(MemoryAttribute::RUNTIME) && it.page_count > 0);
    let att = MemoryAttribute::RUNTIME | MemoryAttribute::EXECUTE_PROTECT;
    let lies = code.map(|region| MemoryDescriptor { att, virt_start: 0, ..*region });
    let mut entries: Vec<_> = table.iter().filter(|it| !is_code(it)).copied().chain(lies).collect();
    entries.sort_by_key(|entry| entry.phys_start);
    entries
}

/// In the lower half, where only 1:1 aliases are mapped. Those lie below this.
const WILD: Va = Va(0x0000_6666_dead_b000);
/// In the BIOS data area, which old firmware is known to write to.
const IN_PAGE_ZERO: Pa = Pa(0x400);
/// Where in firmware's page of code nothing is, and in both its pages a `ret` (the stamp's).
const CODE_SCRATCH: u64 = 0xf00;
const RET: u64 = 10;

/// Places in the map that misbehaviours are about.
#[derive(Clone, Debug)]
pub(super) struct Haunts {
    /// The first page of boot services that can be touched.
    boot_services: Option<Pa>,
    /// Where the region of firmware's data ends and another RUNTIME region begins.
    seam: Option<Pa>,
}

impl Haunts {
    pub fn find(map: &[MemoryDescriptor], data: placement::Place, usable: impl Fn(Pa) -> bool) -> Self {
        let is_boot_services =
            |it: &&MemoryDescriptor| matches!(it.ty, MemoryType::BOOT_SERVICES_CODE | MemoryType::BOOT_SERVICES_DATA);
        let pages =
            map.iter().filter(is_boot_services).filter_map(|it| Range::of_pages(Pa(it.phys_start), it.page_count));
        let mut pages = pages.map(|range| range.first);
        let region = &map[data.region];
        let end = region.page_count.checked_mul(PAGE_SIZE).and_then(|bytes| Pa(region.phys_start).checked_add(bytes));
        let follows = |it: &MemoryDescriptor| {
            Some(Pa(it.phys_start)) == end && it.page_count > 0 && it.att.contains(MemoryAttribute::RUNTIME)
        };
        Self {
            boot_services: pages.find(|phys| *phys >= Pa(PAGE_SIZE) && phys.page_offset() == 0 && usable(*phys)),
            seam: end.filter(|_| map.iter().any(follows)),
        }
    }
}

/// Whether a service is guilty of its misbehaviour in a call that is made now.
pub(super) fn is_due(service: Service, is_virtual: bool) -> bool {
    is_virtual != (service == Service::SetVirtualAddressMap)
}

/// What firmware, in the state that it is in once `service` has been played, makes of a misbehaviour in that call; or why it
/// cannot.
pub(super) fn misdeed(
    firmware: &Firmware,
    asked: ServiceMisbehaviour,
    regs: &StubCall,
) -> Result<Misdeed, &'static str> {
    let ServiceMisbehaviour { what, access, .. } = asked;
    let (code, data) = (firmware.code.phys, firmware.data.phys);
    let in_switch = firmware.moved.is_some();
    let (virtual_code, virtual_data) = match (firmware.virtual_entry(Service::GetTime), firmware.virtual_mode) {
        (Some(entry), Some(mode)) => (entry.page(), mode.data),
        _ => (code.one_to_one(), data.one_to_one()),
    };
    // The pages where the running service is. Before the switch it runs 1:1.
    let (code_now, data_now) =
        if in_switch { (code.one_to_one(), data.one_to_one()) } else { (virtual_code, virtual_data) };
    let (deed, at, meant) = match what {
        Misbehaviour::ReadsBootServices | Misbehaviour::WritesBootServices => {
            let at = firmware.haunts.boot_services.ok_or("the map has no boot services that it could reach")?;
            (if what == Misbehaviour::ReadsBootServices { Deed::Read } else { Deed::Write }, at.one_to_one(), Some(at))
        }
        Misbehaviour::WritesPageZero => (Deed::Write, IN_PAGE_ZERO.one_to_one(), Some(IN_PAGE_ZERO)),
        Misbehaviour::PhysicalPointer => (Deed::Read, data.one_to_one(), Some(data)),
        Misbehaviour::EarlyPointer if !in_switch => return Err("SetVirtualAddressMap has not succeeded"),
        Misbehaviour::EarlyPointer => (Deed::Read, virtual_data, Some(data)),
        Misbehaviour::WritesCode => {
            (Deed::Write, code_now.wrapping_add(CODE_SCRATCH), Some(code.wrapping_add(CODE_SCRATCH)))
        }
        Misbehaviour::ExecutesData => (Deed::Execute, data_now.wrapping_add(RET), Some(data.wrapping_add(RET))),
        Misbehaviour::PastArgument => (Deed::Read, Va(regs.rcx).page().wrapping_add(PAGE_SIZE), None),
        Misbehaviour::Seam => {
            let end = firmware.haunts.seam.ok_or("no RUNTIME region follows that of firmware's data")?;
            let at = end.wrapping_sub(Deed::Read.bytes() / 2);
            (Deed::Read, data_now.wrapping_add(at.wrapping_offset_from(data)), Some(at))
        }
        // The table itself is the misdeed: that it was believed shows when the service is called.
        Misbehaviour::AttributesTable => (Deed::Execute, code_now, Some(code)),
        Misbehaviour::Errors => (Deed::Answer(Status::DEVICE_ERROR), Va(0), None),
        Misbehaviour::NeverReturns => (Deed::Hang, Va(0), None),
        Misbehaviour::JumpsWild => {
            let other = if in_switch { virtual_code } else { code.one_to_one() };
            (Deed::Execute, other.wrapping_add(RET), Some(code.wrapping_add(RET)))
        }
        Misbehaviour::Faults => {
            (access.map_or(Deed::Read, WildAccess::deed), access.map_or(WILD, |it| Va(it.at)), None)
        }
    };
    Ok(Misdeed { what, access, deed, at, meant, reached: None })
}

impl Misdeed {
    /// Looks where it will get on the caller's tables.
    pub(super) fn look(&mut self, memory: &dyn GuestMemory, cr3: u64) {
        self.reached = self.deed.access().and_then(|access| memory.translate(Pa(cr3), self.last(), access));
    }

    /// Adds it to what the service does. `status` is what the service returns.
    pub(super) fn join(&self, accesses: &mut Vec<Access>, status: Status) {
        match self.deed {
            _ if self.what == Misbehaviour::AttributesTable => {}
            Deed::Read => {
                let reads = parts(self.at, self.deed.bytes() as usize);
                let reads = reads.map(|(at, part)| Access::Read { at, bytes: part.len() as u64 });
                let middle = accesses.len() / 2;
                let place = if self.what == Misbehaviour::Faults { middle } else { accesses.len() };
                accesses.splice(place..place, reads);
            }
            // The address: no memory test has it there by chance.
            Deed::Write => accesses.push(Access::Write { at: self.at, data: self.at.0.to_le_bytes().to_vec() }),
            Deed::Execute => accesses.push(Access::Jump { at: self.at, status }),
            Deed::Hang => accesses.push(Access::Hang),
            Deed::Answer(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::super::test_memory::{Bed, Played, WINDOW, code_and_data, descriptor, trap, virtual_map};
    use super::*;

    const TIME_AT: u64 = 0x2_0000;

    /// Firmware with this misbehaviour alone, before the switch.
    fn bed(misbehaviour: &str) -> Bed {
        let mut boot = descriptor(MemoryType::BOOT_SERVICES_DATA, 0x60_0000, 4);
        boot.att = MemoryAttribute::WRITE_BACK;
        let mut bed = Bed::over(&[&code_and_data()[..], &[boot]].concat());
        bed.memory.put(0x60_0000, &[0; 16]);
        bed.memory.put(TIME_AT, &[0; 16]);
        bed.memory.put(0, &[0; 0x500]);
        bed.firmware.misbehave(&[misbehaviour.parse().unwrap()]);
        bed
    }

    /// The call of a service, and what its stub did.
    fn call(bed: &mut Bed, service: Service, args: [u64; 4]) -> (super::super::Call, Played) {
        let entry = bed.firmware.virtual_entry(service).unwrap_or(bed.firmware.entry(service).one_to_one());
        let [rcx, rdx, r8, r9] = args;
        let mut regs = StubCall { rcx, rdx, r8, r9, rsp: 0xF_0F58, rflags: 2, ..trap(entry.0) };
        let Ok(Answer::Called(call)) = bed.firmware.answer(&regs, &mut bed.memory) else { panic!("{service}") };
        let played = bed.play_stub(&mut regs);
        (call, played)
    }

    fn get_time(bed: &mut Bed) -> (super::super::Call, Played) {
        call(bed, Service::GetTime, [TIME_AT, 0, 0, 0])
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for what in Misbehaviour::ALL {
            let misbehaviour = ServiceMisbehaviour::from(*what);
            assert_eq!(what.name().parse(), Ok(misbehaviour));
            assert_eq!(misbehaviour.to_string().parse(), Ok(misbehaviour));
            assert_eq!(misbehaviour.objection(), None);
            let summary = what.summary();
            assert!(summary.ends_with('.') && summary.starts_with(char::is_uppercase), "{summary}");
        }
        for (text, says) in [
            ("sulks", "no misbehaviour `sulks`; there are reads-boot-services, "),
            ("seam@Nobody", "there are GetTime, "),
            ("seam@ResetSystem", "ends the run"),
            ("early-pointer@GetTime", "too early"),
            ("physical-pointer@SetVirtualAddressMap", "are physical"),
            ("past-argument@SetVirtualAddressMap", "no pointer"),
            ("attributes-table@SetTime", "concerns all services"),
            ("faults=jump:0x10", "it is read, write or fetch"),
            ("faults=read:10@GetTime", "only `faults` takes an access"),
            ("faults=read:0x+1", "takes an access"),
            ("faults=read:0x10000000000000000", "takes an access"),
            ("seam=read:0x10", "only `faults` takes an access"),
        ] {
            let error = text.parse::<ServiceMisbehaviour>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn faults_may_be_told_its_access() {
        for (text, kind, at) in [
            ("faults=read:0x66660000@GetTime", mmu::Kind::Read, 0x6666_0000),
            ("faults=write:0xffffa79840068000@SetVariable", mmu::Kind::Write, 0xffff_a798_4006_8000),
            ("faults=fetch:0xfffffffef694b1b9@SetVirtualAddressMap", mmu::Kind::Fetch, 0xffff_fffe_f694_b1b9),
        ] {
            let asked: ServiceMisbehaviour = text.parse().unwrap();
            assert_eq!(asked, ServiceMisbehaviour::faults(WildAccess { kind, at }, asked.service).unwrap());
            assert_eq!(asked.to_string(), text);
        }
        for (misbehaviour, expected) in [
            ("faults=read:0x777000", Played::Faulted(0x77_7000)),
            ("faults=write:0x777010", Played::Faulted(0x77_7010)),
            ("faults=fetch:0x777020", Played::Jumped(0x77_7020)),
        ] {
            let mut bed = bed(misbehaviour);
            bed.switch();
            bed.memory.map(0x77_7000, None);
            let (call, played) = get_time(&mut bed);
            assert_eq!((call.misdeeds[0].reached, played), (None, expected), "{misbehaviour}");
            assert_eq!(call.misdeeds[0].by(Service::GetTime).to_string(), format!("{misbehaviour}@GetTime"));
        }
    }

    #[test]
    fn a_service_is_guilty_after_the_switch_and_the_switch_in_itself() {
        let mut well = bed("reads-boot-services@GetTime");
        assert_eq!(get_time(&mut well).0.misdeeds, []);
        well.switch();
        assert_eq!(well.last().misdeeds, []);
        let (call, played) = get_time(&mut well);
        let [misdeed] = call.misdeeds[..] else { panic!("{call:?}") };
        assert_eq!((misdeed.deed, misdeed.at, misdeed.meant), (Deed::Read, Va(0x60_0000), Some(Pa(0x60_0000))));
        assert_eq!((misdeed.reached, misdeed.last_meant()), (Some(Pa(0x60_0007)), Some(Pa(0x60_0007))));
        assert_eq!(played, Played::Returned(Status::SUCCESS));

        let mut bed = bed("writes-boot-services");
        bed.switch();
        let [misdeed] = bed.last().misdeeds[..] else { panic!("{:?}", bed.last()) };
        assert_eq!((misdeed.deed, misdeed.at), (Deed::Write, Va(0x60_0000)));
        assert_eq!(bed.memory.u64(0x60_0000), 0x60_0000);
        assert_eq!(get_time(&mut bed).0.misdeeds, []);
    }

    /// Where the stub stops if nothing is mapped at an address, after how much of its work.
    #[test]
    fn what_is_not_mapped_ends_the_service_there() {
        for (misbehaviour, at) in [
            ("reads-boot-services@GetTime", 0x60_0000),
            ("writes-page-zero@GetTime", 0x400),
            ("physical-pointer", 0x7C00_0000),
            ("past-argument", TIME_AT + 0x1000),
            ("faults", WILD.0),
        ] {
            let mut bed = bed(misbehaviour);
            bed.switch();
            bed.memory.map(at, None);
            let (call, played) = get_time(&mut bed);
            assert_eq!((call.misdeeds[0].reached, played), (None, Played::Faulted(at)), "{misbehaviour}");
            let is_done = bed.memory.u64(TIME_AT) != 0;
            // A wild pointer is met in the middle: of one write, before it.
            assert_eq!(is_done, misbehaviour != "faults", "{misbehaviour}");
        }
    }

    #[test]
    fn jumps_go_to_the_other_address_of_firmwares_code() {
        let mut after = bed("jumps-wild");
        after.switch();
        let (_, played) = get_time(&mut after);
        assert_eq!(played, Played::Jumped(0x80_0000 + RET));

        let mut bed = bed("jumps-wild@SetVirtualAddressMap");
        let bytes = virtual_map(&code_and_data());
        bed.memory.put(0xE_0000, &bytes);
        let args = [bytes.len() as u64, 48, 1, 0xE_0000];
        let (_, played) = call(&mut bed, Service::SetVirtualAddressMap, args);
        assert_eq!(played, Played::Jumped(WINDOW + 0x80_0000 + RET));
        // The image's own pointer is converted anyway.
        assert_eq!(get_time(&mut bed).1, Played::Returned(Status::SUCCESS));
    }

    #[test]
    fn answers_and_hangs_are_what_they_say() {
        let mut errs = bed("errors");
        errs.switch();
        let (call, played) = get_time(&mut errs);
        assert_eq!((call.status, played), (Status::DEVICE_ERROR, Played::Returned(Status::DEVICE_ERROR)));
        assert_eq!(errs.memory.u64(TIME_AT), 0);

        let mut hangs = bed("never-returns");
        hangs.switch();
        assert_eq!(get_time(&mut hangs).1, Played::Hangs);
    }

    #[test]
    fn a_seam_is_where_a_runtime_region_follows_firmwares_data() {
        let device = |phys| descriptor(MemoryType::MMIO, phys, 1);
        for (phys, found) in [(0x7C00_2000, Some(Pa(0x7C00_2000))), (0x7C00_3000, None)] {
            let map = [&code_and_data()[..3], &[device(phys)]].concat();
            let firmware = Firmware::lay_out(&map, &[], |_| true).unwrap();
            assert_eq!(firmware.haunts.seam, found);
            let reason = found.is_none().then_some("no RUNTIME region follows that of firmware's data");
            assert_eq!(firmware.obstacle(Misbehaviour::Seam.into()), reason);
        }
        let at = misdeed(
            &Firmware::lay_out(&code_and_data(), &[], |_| true).unwrap(),
            Misbehaviour::Seam.into(),
            &trap(0x10),
        );
        assert!(at.is_err());
    }

    #[test]
    fn the_table_lies_about_code_alone() {
        let data = descriptor(MemoryType::RUNTIME_SERVICES_DATA, 0x7C00_0000, 2);
        let code = descriptor(MemoryType::RUNTIME_SERVICES_CODE, 0x80_0000, 3);
        let said = MemoryDescriptor { att: MemoryAttribute::RUNTIME | MemoryAttribute::READ_ONLY, ..code };
        let table = lying_attributes_table(&code_and_data(), &[data, said]);
        let entries: Vec<_> = table.iter().map(|it| (it.ty, it.phys_start, it.page_count, it.att)).collect();
        let lie = MemoryAttribute::RUNTIME | MemoryAttribute::EXECUTE_PROTECT;
        assert_eq!(entries, [(code.ty, 0x80_0000, 3, lie), (data.ty, 0x7C00_0000, 2, data.att)]);
    }
}
