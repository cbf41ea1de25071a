//! What page tables are checked against.

use std::ops::{Range, RangeInclusive};

use super::budget::Budget;
use super::expectation::Expectation;
use crate::mmu::{Pa, Paging, TableMemory, Va};

/// What the tables are checked against.
#[derive(Clone, Copy)]
pub struct TableCheck<'a> {
    /// Where the tables are.
    pub memory: &'a dyn TableMemory,
    /// The mapper's root.
    pub root: Pa,
    /// The kernel's root.
    pub kernel_root: Pa,
    /// Where tables may lie: the kernel's, and those of the mapper.
    pub reach: &'a Range<Pa>,
    /// The kernel's own ranges.
    pub kernel: &'a [RangeInclusive<Va>],
    /// What the CPU was told.
    pub told: &'a Paging,
    /// What must be.
    pub expectation: &'a Expectation,
    /// What all walks of the run may cost.
    pub budget: &'a Budget,
}
