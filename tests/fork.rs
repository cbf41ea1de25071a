//! A child process after a fork: KVM lets it use none of its parent's machines, and it gets its own.
//!
//! Forking is for processes of one thread, so the tests run one after another on the only one.

use std::time::Duration;

use efibed::Pa;
use efibed::unstable::machine::{Backing, Hypervisor, Internals, Machine, RunError};
use efibed::{CpuidRequest, Layout, Scenario, TestBed};
use efibed_tests::*;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let trials: [Trial; 4] = [
        trial("a_child_has_machines_of_its_own", Need::Kvm, a_child_has_machines_of_its_own),
        trial("a_bed_that_was_not_used_yet_works_in_a_child", Need::Kvm, a_bed_that_was_not_used_yet_works_in_a_child),
        trial("a_machine_runs_only_where_it_was_made", Need::Kvm, a_machine_runs_only_where_it_was_made),
        Trial::test("what_was_touched_is_told_where_it_is_locked", || {
            what_was_touched_is_told_where_it_is_locked();
            Ok(())
        }),
    ];
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials.into()).exit();
}

fn window() -> Scenario {
    scenario(OVMF_2013).layout(Layout::Window)
}

/// Three generations, each with a machine that waits when the next one is forked; and afterwards the parent's still run.
fn a_child_has_machines_of_its_own() {
    let bed = TestBed::new().unwrap();
    bed.run(&window()).unwrap().assert_clean();
    in_child(|| {
        bed.run(&window()).unwrap().assert_clean();
        bed.run(&window().layout(Layout::Linux)).unwrap().assert_clean();
        in_child(|| bed.run(&window()).unwrap().assert_clean());
        bed.run(&window()).unwrap().assert_clean();
    });
    bed.run(&window()).unwrap().assert_clean();
}

fn a_bed_that_was_not_used_yet_works_in_a_child() {
    for bed in [TestBed::new().unwrap(), TestBed::without_kvm()] {
        in_child(|| bed.run(&window()).unwrap().assert_clean());
        bed.run(&window()).unwrap().assert_clean();
    }
}

fn a_machine_runs_only_where_it_was_made() {
    let hypervisor = Hypervisor::open().unwrap();
    let internals = Internals { tss_pages_at: Pa(0xf000_0000), identity_map_page_at: Pa(0xf001_0000) };
    let mut machine = Machine::new(&hypervisor, &CpuidRequest::default(), internals).unwrap();
    let parent = std::process::id();
    assert!(machine.is_of_this_process());
    in_child(|| {
        assert!(!machine.is_of_this_process());
        let refused = machine.session(Duration::from_secs(1)).unwrap().run();
        assert!(matches!(refused, Err(RunError::OtherProcess { process }) if process == parent), "{refused:?}");
    });
    // It has no memory to run from, which is the answer that the parent gets.
    let ran = machine.session(Duration::from_secs(1)).unwrap().run();
    assert!(!matches!(ran, Err(RunError::OtherProcess { .. })), "{ran:?}");
}

/// A child has a copy of its parent's memory, and no lock on it.
fn what_was_touched_is_told_where_it_is_locked() {
    /// Few enough for any system to lock them, and more than are read without being asked about.
    const BYTES: u64 = 12 << 12;
    let touched =
        |backing: &Backing| backing.touched(0..BYTES).into_iter().map(|part| part.end - part.start).sum::<u64>();
    let backing = Backing::that_tells_touched(BYTES).unwrap();
    assert!(backing.tells_touched(), "so little may be locked");
    in_child(|| {
        assert!(!backing.tells_touched() && touched(&backing) == BYTES);
        let own = Backing::that_tells_touched(BYTES).unwrap();
        in_child(|| assert!(!own.tells_touched() && !backing.tells_touched()));
        assert!(own.tells_touched() && touched(&own) == 0);
    });
    assert!(backing.tells_touched() && touched(&backing) == 0);
    assert!(backing.write(5 << 12, &[1]));
    assert_eq!(touched(&backing), 1 << 12);
}

/// Runs something in a child, which must not panic.
fn in_child(run: impl FnOnce()) {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_ok();
            // SAFETY: what the parent would do at its end is not the child's to do.
            unsafe { libc::_exit(if passed { 0 } else { 1 }) }
        }
        pid => {
            let mut status = -1;
            // SAFETY: the status outlives the call.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0, "the child failed");
        }
    }
}
