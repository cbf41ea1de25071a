//! The built-in layouts, in code that counts what it runs. `build.rs` compiles them a second time: see `efibed_guest::build`.

use std::sync::{Mutex, PoisonError};

use efibed_guest::mapper::{Elsewhere, MapRequest, MapResult, Step};
use efibed_guest::{Layout, LayoutMapper, LeafRule, Mapper};

unsafe extern "C" {
    /// In guest-kernel's `layouts/door.rs`.
    fn efibed_counted_layout(
        layout: usize,
        leaf_rule: usize,
        finishes: bool,
        request: *const MapRequest,
        result: *mut MapResult,
    );
}

/// What such a mapper does, natively, in code that counts. One thread at a time.
pub fn layout(mapper: LayoutMapper) -> impl Mapper + Clone + Send + Sync + 'static {
    static TURN: Mutex<()> = Mutex::new(());
    let layout = place(Layout::ALL, mapper.layout);
    let leaf_rule = place(LeafRule::ALL, mapper.leaf_rule);
    Elsewhere(move |step: Step, request: &MapRequest, result: &mut MapResult| {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the request is one of `carry_out`'s, whose caller vouches for it, and the context that it made of it waits.
        unsafe { efibed_counted_layout(layout, leaf_rule, step == Step::Finish, request, result) }
    })
}

/// Where a value is in its list.
fn place<T: PartialEq>(all: &[T], value: T) -> usize {
    all.iter().position(|each| *each == value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::counters;
    use super::*;
    use crate::check::Rule;
    use crate::memory_map::synthesize::{Class, synthesize};
    use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};
    use crate::{EngineName, Scenario, TestBed};

    /// It does what the layout does: the same tables, the same words.
    #[test]
    fn what_counts_maps_alike() {
        let _turn = counters::turn();
        let bed = TestBed::without_kvm();
        let told = |scenario: &Scenario| {
            let mut report = bed.run(scenario).unwrap();
            report.timing = crate::report::Timing::default();
            report.to_json()
        };
        for layout in Layout::ALL {
            for leaf_rule in LeafRule::ALL {
                for seed in 0..6 {
                    let class = [Class::Valid, Class::Odd, Class::Hostile][seed as usize % 3];
                    let scenario = Scenario::new(synthesize(seed, class)).layout(*layout).leaf_rule(*leaf_rule);
                    let scenario = scenario.engine(EngineName::Walker);
                    assert_eq!(
                        told(&scenario.clone().layout_in(super::layout)),
                        told(&scenario),
                        "{layout} {leaf_rule} {seed}"
                    );
                }
            }
        }
        assert!(counters::count() > 100, "the layouts have no counters");
    }

    /// Nothing unwinds from there.
    #[test]
    fn a_panic_there_is_a_panic_of_the_mapping_code() {
        let _turn = counters::turn();
        let absent = Elsewhere(|step: Step, request: &MapRequest, result: &mut MapResult| {
            // SAFETY: as in `layout`.
            unsafe { efibed_counted_layout(99, 0, step == Step::Finish, request, result) }
        });
        let scenario = Scenario::new(MemoryMap::from_descriptors("", Vec::new())).mapper(absent);
        let report = TestBed::without_kvm().run(&scenario.engine(EngineName::Walker)).unwrap();
        let [finding] = &report.findings[..] else { panic!("{report}") };
        let account = "index out of bounds: the len is 5 but the index is 99";
        assert!(finding.rule == Rule::GuestPanic && finding.message.contains(account), "{report}");
    }

    /// Other maps, other counters: what a campaign is steered by.
    #[test]
    fn counters_change_with_the_map() {
        let _turn = counters::turn();
        let bed = TestBed::without_kvm();
        let counted = |layout: Layout, regions: &[(u64, u64)]| {
            let region = |(phys_start, page_count): &(u64, u64)| MemoryDescriptor {
                ty: MemoryType::RUNTIME_SERVICES_DATA,
                phys_start: *phys_start,
                page_count: *page_count,
                att: MemoryAttribute::WRITE_BACK | MemoryAttribute::RUNTIME,
                ..MemoryDescriptor::default()
            };
            let map = MemoryMap::from_descriptors("", regions.iter().map(region).collect());
            let scenario = Scenario::new(map).layout(layout).engine(EngineName::Walker).layout_in(super::layout);
            let mut counters = vec![0; counters::count()];
            counters::clear();
            bed.run(&scenario).unwrap();
            counters::collect(&mut counters, [].into_iter());
            counters
        };
        let none = counted(Layout::Window, &[]);
        let page = counted(Layout::Window, &[(2 << 20, 1)]);
        let large = counted(Layout::Window, &[(2 << 20, 512)]);
        let linux = counted(Layout::Linux, &[(2 << 20, 1)]);
        assert!([&page, &large, &none, &linux].iter().all(|counters| counters.iter().any(|counter| *counter != 0)));
        assert!(page != large && page != none && page != linux && large != none);
    }
}
