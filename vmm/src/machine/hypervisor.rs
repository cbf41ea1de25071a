//! `/dev/kvm`: opened once, asked what it can do, and why it cannot be used.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS};
use kvm_ioctls::{Cap, Kvm};
use vmm_sys_util::errno;

use super::cpuid::CpuidSeen;
use super::reset;

/// Where KVM is to be found.
const DEV_KVM: &str = "/dev/kvm";

/// What every machine needs of KVM. The youngest is KVM_CAP_SYNC_REGS (Linux 4.17, 2018): a second
/// way through GET/SET ioctls would be one that no machine exercises.
const NEEDED: [(Cap, &str); 12] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::CoalescedMmio, "KVM_CAP_COALESCED_MMIO"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
];

/// `/dev/kvm`, opened once. Clones share it; threads may.
#[derive(Clone)]
pub struct Hypervisor(Arc<Inner>);

struct Inner {
    kvm: Kvm,
    supported_cpuid: CpuId,
    msrs: Vec<u32>,
    run_bytes: usize,
}

impl Hypervisor {
    /// Opens `/dev/kvm`.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_at(Path::new(DEV_KVM))
    }

    /// Opens KVM at another path.
    pub fn open_at(path: &Path) -> Result<Self, OpenError> {
        let not_working = |cause| OpenError::NotWorking { path: path.to_owned(), cause };
        let kvm = open_device(path)?;
        check_api(&kvm).map_err(not_working)?;
        check_capabilities(&kvm).map_err(not_working)?;
        Inner::query(kvm).map(|inner| Self(Arc::new(inner))).map_err(not_working)
    }

    /// What KVM could tell a guest: the CPUID of an empty [`CpuidRequest`](super::CpuidRequest).
    pub fn supported_cpuid(&self) -> &CpuId {
        &self.0.supported_cpuid
    }

    /// The same in the few words that concern paging. Told is not checked: see the caller's
    /// own detection of what the MMU enforces.
    pub fn supported(&self) -> CpuidSeen {
        CpuidSeen::read(self.0.supported_cpuid.as_slice())
    }

    /// Physical-address width of this host as KVM tells it, in bits.
    pub fn maxphyaddr(&self) -> u8 {
        self.supported().maxphyaddr
    }

    /// Memory slots a machine may have.
    pub fn max_slots(&self) -> usize {
        self.0.kvm.get_nr_memslots()
    }

    pub(super) fn kvm(&self) -> &Kvm {
        &self.0.kvm
    }

    /// The model-specific registers whose values make up a vCPU's state.
    pub(super) fn msrs(&self) -> &[u32] {
        &self.0.msrs
    }

    /// Bytes of the area KVM shares for each vCPU (`struct kvm_run` and what follows it).
    pub(super) fn run_bytes(&self) -> usize {
        self.0.run_bytes
    }
}

impl Inner {
    fn query(kvm: Kvm) -> Result<Self, NotWorking> {
        let query = |query| move |cause| NotWorking::Query { query, cause };
        let supported_cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(query("KVM_GET_SUPPORTED_CPUID"))?;
        let listed = kvm.get_msr_index_list().map_err(query("KVM_GET_MSR_INDEX_LIST"))?;
        let run_bytes = kvm.get_vcpu_mmap_size().map_err(query("KVM_GET_VCPU_MMAP_SIZE"))?;
        Ok(Self { kvm, supported_cpuid, msrs: reset::msrs_of_state(listed.as_slice()), run_bytes })
    }
}

fn open_device(path: &Path) -> Result<Kvm, OpenError> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| open_error(path, libc::ENOENT))?;
    Kvm::new_with_path(&name).map_err(|cause| open_error(path, cause.errno()))
}

/// Three different situations, three different things to do about them.
fn open_error(path: &Path, errno: i32) -> OpenError {
    let path = path.to_owned();
    match errno {
        libc::ENOENT | libc::ENOTDIR => OpenError::Missing { path },
        libc::EACCES | libc::EPERM => OpenError::NotPermitted { path, cause: errno::Error::new(errno) },
        _ => OpenError::NotWorking { path, cause: NotWorking::Open { cause: errno::Error::new(errno) } },
    }
}

fn check_api(kvm: &Kvm) -> Result<(), NotWorking> {
    let found = kvm.get_api_version();
    if found < 0 {
        let cause = errno::Error::last();
        return Err(NotWorking::NotKvm { cause });
    }
    if found != KVM_API_VERSION as i32 {
        return Err(NotWorking::ApiVersion { found });
    }
    Ok(())
}

fn check_capabilities(kvm: &Kvm) -> Result<(), NotWorking> {
    for (cap, name) in NEEDED {
        if !kvm.check_extension(cap) {
            return Err(NotWorking::Capability { name });
        }
    }
    let synced = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS) as i32;
    if kvm.check_extension_int(Cap::SyncRegs) & synced != synced {
        return Err(NotWorking::Capability { name: "KVM_SYNC_X86_REGS and KVM_SYNC_X86_SREGS" });
    }
    Ok(())
}

/// Why KVM cannot be used. [`OpenError::help`] says what to do, and so does its `Debug`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such device.
    #[error("{} does not exist", path.display())]
    Missing {
        /// What was opened.
        path: PathBuf,
    },
    /// The device is there, but not for this user.
    #[error("{} may not be opened for reading and writing: {cause}", path.display())]
    NotPermitted {
        /// What was opened.
        path: PathBuf,
        /// What the system said.
        cause: errno::Error,
    },
    /// The device is there and may be opened, but cannot be used.
    #[error("{} is not a KVM that works here: {cause}", path.display())]
    NotWorking {
        /// What was opened.
        path: PathBuf,
        /// What is wrong with it.
        cause: NotWorking,
    },
}

impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}\n  {}", self.help())
    }
}

impl OpenError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "load KVM (`modprobe kvm_intel` or `modprobe kvm_amd`) and check that virtualization is \
                 enabled in the firmware's setup; in a container, pass the device on (`--device /dev/kvm`); \
                 in a virtual machine, enable nested virtualization"
            }
            Self::NotPermitted { .. } => {
                "join the group that owns the device (`sudo usermod -aG kvm $USER`, then log in again), or \
                 grant yourself access until the next boot (`sudo setfacl -m u:$USER:rw /dev/kvm`); in a \
                 container, its device rules must allow it too"
            }
            Self::NotWorking { cause, .. } => cause.help(),
        }
    }
}

/// What is wrong with a KVM that could be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotWorking {
    /// Opening it failed.
    #[error("opening it failed: {cause}")]
    Open {
        /// What the system said.
        cause: errno::Error,
    },
    /// It does not answer as KVM does.
    #[error("it does not answer KVM_GET_API_VERSION: {cause}")]
    NotKvm {
        /// What the system said.
        cause: errno::Error,
    },
    /// Another API than the one there has been since Linux 2.6.22.
    #[error("it speaks version {found} of KVM's API, not {KVM_API_VERSION}")]
    ApiVersion {
        /// The version it answered.
        found: i32,
    },
    /// A capability every machine needs is absent.
    #[error("it lacks {name}")]
    Capability {
        /// Its name in `linux/kvm.h`.
        name: &'static str,
    },
    /// It would not answer a question.
    #[error("{query} failed: {cause}")]
    Query {
        /// The ioctl.
        query: &'static str,
        /// What KVM said.
        cause: errno::Error,
    },
}

impl NotWorking {
    fn help(&self) -> &'static str {
        match self {
            Self::Open { .. } => {
                "the device exists but nothing drives it: load `kvm_intel` or `kvm_amd`, and see `dmesg` for why it refused"
            }
            Self::NotKvm { .. } => "this is some other device or file: the path should be /dev/kvm",
            Self::ApiVersion { .. } => "this needs KVM on x86-64 Linux",
            Self::Capability { .. } => "this needs Linux 4.17 or later on x86-64",
            Self::Query { .. } => "see `dmesg` for why KVM refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_missing() {
        let error = Hypervisor::open_at(Path::new("/dev/no-such-kvm")).err();
        assert!(matches!(error, Some(OpenError::Missing { .. })));
    }

    #[test]
    fn a_device_that_is_not_kvm_does_not_work() {
        let error = Hypervisor::open_at(Path::new("/dev/null")).err();
        let Some(OpenError::NotWorking { cause, .. }) = error else {
            panic!("{error:?}");
        };
        assert!(matches!(cause, NotWorking::NotKvm { .. }), "{cause}");
    }

    /// Root may open anything, so the answer to EACCES is tested without the system.
    #[test]
    fn errno_chooses_the_answer() {
        let at = |errno| open_error(Path::new("/dev/kvm"), errno);
        assert!(matches!(at(libc::ENOENT), OpenError::Missing { .. }));
        assert!(matches!(at(libc::EACCES), OpenError::NotPermitted { .. }));
        assert!(matches!(at(libc::EPERM), OpenError::NotPermitted { .. }));
        assert!(matches!(at(libc::ENODEV), OpenError::NotWorking { .. }));
        assert!(matches!(at(libc::EBUSY), OpenError::NotWorking { .. }));
    }

    #[test]
    fn each_answer_says_what_to_do() {
        let answers = [libc::ENOENT, libc::EACCES, libc::ENODEV].map(|errno| open_error(Path::new("/dev/kvm"), errno));
        for error in &answers {
            assert!(error.to_string().contains("/dev/kvm"));
        }
        let [missing, not_permitted, not_working] = answers.map(|error| error.help());
        assert!(missing.contains("modprobe"));
        assert!(not_permitted.contains("usermod"));
        assert!(not_working.contains("dmesg"));
    }

    #[test]
    fn a_path_with_a_nul_is_missing() {
        let error = Hypervisor::open_at(Path::new("/dev/k\0vm")).err();
        assert!(matches!(error, Some(OpenError::Missing { .. })));
    }
}
