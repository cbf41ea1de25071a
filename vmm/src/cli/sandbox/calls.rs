//! The system calls and KVM's ioctls that a run in the sandbox may make.
//!
//! The list is what runs were traced to call (`strace`), with what the C library calls in cases that did not come up. A call
//! that creates, opens, connects or executes anything has no place here, except for the shared memory of a campaign. Nor has
//! `clone`: the run has one thread.

use std::mem::size_of;

use kvm_bindings::{
    kvm_coalesced_mmio_zone, kvm_cpuid2, kvm_debugregs, kvm_enable_cap, kvm_guest_debug, kvm_msrs, kvm_regs, kvm_sregs,
    kvm_translation, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

use super::message::{BESIDE, PIPE};
use crate::guest::process::PROCMAP_QUERY;

/// A system call that is allowed.
pub struct Call {
    /// The name in the kernel's table.
    pub name: &'static str,
    number: i64,
    arguments: Arguments,
}

/// The arguments with which it is.
enum Arguments {
    Any,
    /// The argument of this index is one of these.
    OneOf(u8, &'static [u64]),
    /// The argument of this index has none of these bits.
    Without(u8, u64),
    /// The second argument is one of [`KVM_REQUESTS`], or [`PROCMAP_QUERY`].
    Requests,
    /// The first argument is the number of the process that makes the filter.
    ThisProcess,
}

use Arguments::{Any, OneOf, Requests, ThisProcess, Without};

/// A row: the name is the number's.
macro_rules! calls {
    ($($number:ident $arguments:expr,)*) => {
        [$(Call { name: stringify!($number), number: libc::$number, arguments: $arguments },)*]
    };
}

/// Every call that is allowed.
pub const CALLS: [Call; 28] = calls![
    // The machine; what this process has mapped at an address.
    SYS_ioctl Requests,
    // A vCPU's shared page, guest memory, and the allocator's. No memory can be executed that could not be before.
    SYS_mmap Without(2, libc::PROT_EXEC as u64),
    SYS_mprotect Without(2, libc::PROT_EXEC as u64),
    SYS_munmap Any,
    SYS_mremap Any,
    SYS_madvise Any,
    SYS_brk Any,
    // Which pages of a guest's memory were touched: it is locked as it is.
    SYS_mlock2 Any,
    SYS_mincore Any,
    // Machines that are dropped. In debug builds the standard library asks first whether the file is open.
    SYS_close Any,
    SYS_fcntl OneOf(1, &[libc::F_GETFD as u64]),
    // The watchdog: its signal, sent to this thread by a timer, and the way back from its handler.
    SYS_gettid Any,
    SYS_timer_create Any,
    SYS_timer_settime Any,
    SYS_timer_delete Any,
    SYS_rt_sigaction Any,
    SYS_rt_sigprocmask Any,
    SYS_rt_sigreturn Any,
    // Deadlines, where the kernel's clock cannot be read without a call.
    SYS_clock_gettime Any,
    // Keys of hash maps.
    SYS_getrandom Any,
    // Whether machines are of this process, or of the one that it was forked from.
    SYS_getpid Any,
    // The messages to the parent; the last words of the standard library before it aborts.
    SYS_write OneOf(0, &[PIPE as u64, libc::STDERR_FILENO as u64]),
    // The debugger, over a socket of this command's own.
    SYS_sendto OneOf(0, &[BESIDE as u64]),
    SYS_recvfrom OneOf(0, &[BESIDE as u64]),
    // This process's own pages, and the list of them, for mapping code in ring 3.
    SYS_process_vm_readv ThisProcess,
    SYS_pread64 Any,
    // The end, and an abort, which is a signal to this thread.
    SYS_exit_group Any,
    SYS_tgkill OneOf(2, &[libc::SIGABRT as u64]),
];

/// What a process of a campaign may call besides: it exchanges maps with the others through shared memory of System V.
#[cfg(any(feature = "fuzz", test))]
pub const CLIENT_CALLS: [Call; 7] = calls![
    // A segment of its own, which has no key; those of others, by their numbers, without SHM_EXEC; and the end of any.
    SYS_shmget OneOf(0, &[libc::IPC_PRIVATE as u64]),
    SYS_shmat Without(2, libc::SHM_EXEC as u64),
    SYS_shmdt Any,
    SYS_shmctl OneOf(1, &[libc::IPC_RMID as u64]),
    // It waits until what it has sent was taken, and ends as any program.
    SYS_clock_nanosleep Any,
    SYS_sched_yield Any,
    SYS_sigaltstack Any,
];

/// An ioctl of KVM's that is allowed: its name, and its number.
type KvmRequest = (&'static str, u64);

/// Their type in `linux/kvm.h`.
const KVMIO: u32 = 0xae;

const fn plain(name: &'static str, number: u32) -> KvmRequest {
    request(name, _IOC_NONE, number, 0)
}

const fn reads<T>(name: &'static str, number: u32) -> KvmRequest {
    request(name, _IOC_READ, number, size_of::<T>())
}

const fn writes<T>(name: &'static str, number: u32) -> KvmRequest {
    request(name, _IOC_WRITE, number, size_of::<T>())
}

const fn both<T>(name: &'static str, number: u32) -> KvmRequest {
    request(name, _IOC_READ | _IOC_WRITE, number, size_of::<T>())
}

const fn request(name: &'static str, direction: u32, number: u32, bytes: usize) -> KvmRequest {
    (name, ioctl_expr(direction, KVMIO, number, bytes as u32))
}

/// Every ioctl that `machine` makes once /dev/kvm is open, by the number of its documentation (`Documentation/virt/kvm/api.rst`).
/// The filter compares in this order, so the one that is called most comes first.
pub const KVM_REQUESTS: [KvmRequest; 29] = [
    plain("KVM_RUN", 0x80),
    both::<kvm_translation>("KVM_TRANSLATE", 0x85),
    writes::<kvm_guest_debug>("KVM_SET_GUEST_DEBUG", 0x9b),
    // A machine, and its vCPU.
    plain("KVM_CREATE_VM", 0x01),
    plain("KVM_CHECK_EXTENSION", 0x03),
    plain("KVM_GET_VCPU_MMAP_SIZE", 0x04),
    // To have KVM forget less with a slot. What it asks for is behind a pointer, so it may ask for any capability of its own VM.
    writes::<kvm_enable_cap>("KVM_ENABLE_CAP", 0xa3),
    plain("KVM_CREATE_VCPU", 0x41),
    plain("KVM_SET_TSS_ADDR", 0x47),
    writes::<u64>("KVM_SET_IDENTITY_MAP_ADDR", 0x48),
    writes::<kvm_cpuid2>("KVM_SET_CPUID2", 0x90),
    both::<kvm_cpuid2>("KVM_GET_CPUID2", 0x91),
    // Its memory, and zones whose writes are collected.
    writes::<kvm_userspace_memory_region>("KVM_SET_USER_MEMORY_REGION", 0x46),
    writes::<kvm_coalesced_mmio_zone>("KVM_REGISTER_COALESCED_MMIO", 0x67),
    writes::<kvm_coalesced_mmio_zone>("KVM_UNREGISTER_COALESCED_MMIO", 0x68),
    // Its state: taken when it is new, put back for the next use.
    reads::<kvm_regs>("KVM_GET_REGS", 0x81),
    writes::<kvm_regs>("KVM_SET_REGS", 0x82),
    reads::<kvm_sregs>("KVM_GET_SREGS", 0x83),
    writes::<kvm_sregs>("KVM_SET_SREGS", 0x84),
    both::<kvm_msrs>("KVM_GET_MSRS", 0x88),
    writes::<kvm_msrs>("KVM_SET_MSRS", 0x89),
    reads::<kvm_vcpu_events>("KVM_GET_VCPU_EVENTS", 0x9f),
    writes::<kvm_vcpu_events>("KVM_SET_VCPU_EVENTS", 0xa0),
    reads::<kvm_debugregs>("KVM_GET_DEBUGREGS", 0xa1),
    writes::<kvm_debugregs>("KVM_SET_DEBUGREGS", 0xa2),
    reads::<kvm_xsave>("KVM_GET_XSAVE", 0xa4),
    writes::<kvm_xsave>("KVM_SET_XSAVE", 0xa5),
    reads::<kvm_xcrs>("KVM_GET_XCRS", 0xa6),
    writes::<kvm_xcrs>("KVM_SET_XCRS", 0xa7),
];

/// The filter that allows these, and some more. Anything else, and any call of another ABI, is a SIGSYS instead.
pub fn filter(more: &[Call]) -> Result<BpfProgram, BackendError> {
    let rules = CALLS.iter().chain(more).map(|call| Ok((call.number, call.arguments.rules()?)));
    let rules = rules.collect::<Result<_, BackendError>>()?;
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

impl Arguments {
    /// Rules of which one must hold; none: nothing need.
    fn rules(&self) -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |index, operator, value| {
            // What all of these arguments take is a 32-bit number, and the kernel ignores what is above it.
            SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
        };
        match *self {
            Any => Ok(Vec::new()),
            OneOf(index, values) => values.iter().map(|value| rule(index, SeccompCmpOp::Eq, *value)).collect(),
            Without(index, bits) => Ok(vec![rule(index, SeccompCmpOp::MaskedEq(bits), 0)?]),
            ThisProcess => Ok(vec![rule(0, SeccompCmpOp::Eq, std::process::id().into())?]),
            Requests => {
                let numbers = KVM_REQUESTS.iter().map(|(_, number)| *number).chain([PROCMAP_QUERY]);
                numbers.map(|number| rule(1, SeccompCmpOp::Eq, number)).collect()
            }
        }
    }
}

/// A refused call, by its number and its second argument.
pub fn in_words(call: i64, second: u64) -> String {
    match CALLS.iter().find(|known| known.number == call) {
        Some(Call { name, arguments: Requests, .. }) => format!("{name} with request {second:#x}"),
        Some(Call { name, .. }) => format!("{name} with these arguments (the second is {second:#x})"),
        None => format!("system call {call}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of `linux/kvm.h` as compiled by a C compiler.
    #[test]
    fn requests_have_the_numbers_that_the_kernel_knows() {
        for (name, number) in [
            ("KVM_RUN", 0xae80),
            ("KVM_CREATE_VM", 0xae01),
            ("KVM_SET_USER_MEMORY_REGION", 0x4020_ae46),
            ("KVM_ENABLE_CAP", 0x4068_aea3),
            ("KVM_GET_REGS", 0x8090_ae81),
            ("KVM_SET_SREGS", 0x4138_ae84),
            ("KVM_TRANSLATE", 0xc018_ae85),
            ("KVM_GET_CPUID2", 0xc008_ae91),
            ("KVM_SET_XSAVE", 0x5000_aea5),
        ] {
            assert!(KVM_REQUESTS.contains(&(name, number)), "{name}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut numbers: Vec<_> = CALLS.iter().chain(&CLIENT_CALLS).map(|call| call.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), CALLS.len() + CLIENT_CALLS.len());
        let mut requests: Vec<_> = KVM_REQUESTS.iter().map(|request| request.1).collect();
        requests.sort_unstable();
        requests.dedup();
        assert_eq!(requests.len(), KVM_REQUESTS.len());
    }

    #[test]
    fn a_refused_call_is_named_as_far_as_it_is_known() {
        assert_eq!(in_words(libc::SYS_ioctl, 0x5413), "SYS_ioctl with request 0x5413");
        assert_eq!(in_words(libc::SYS_openat, 0), "system call 257");
        assert!(in_words(libc::SYS_mmap, 0x1000).contains("SYS_mmap"));
    }
}
