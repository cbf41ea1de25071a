//! Mapping code with one thing wrong each, as it once was.
//!
//! None of it is the code that had the bug. It is the built-in layout with the mistake made, or, where the mistake is in how
//! ranges are written into tables, a short writer of its own ([`populate`]) that does what the function named in `mimics` did.
//! It runs in ring 3 of the guest like any mapper of this process, and under the walker natively.

mod descriptors;
mod populate;
mod rights;

pub use descriptors::*;
pub use populate::*;
pub use rights::*;

use efibed_guest::mapper::page_table::PAGE_BYTES;

use crate::check::Contract;
use crate::mapper::MemoryDescriptor;
use crate::{AddressSpace, Layout, LayoutMapper, MapContext, MapError, Mapper, Scenario};

/// Buggy mapping code. A value: its two calls are functions, and `inner` is the layout of the scenario that it stands in for.
pub struct Code {
    /// What it is called.
    pub name: &'static str,
    /// The function that had the bug.
    pub mimics: &'static str,
    /// Phase `map`.
    pub map: MapCall,
    /// Phase `finish`.
    pub finish: FinishCall,
    /// What it is held to.
    pub contract: fn(Layout) -> Contract,
}

type MapCall = fn(LayoutMapper, &mut MapContext<'_>) -> Result<AddressSpace, MapError>;
type FinishCall = fn(LayoutMapper, &mut MapContext<'_>, AddressSpace) -> Result<AddressSpace, MapError>;

impl Code {
    /// Code whose mistake is in phase `map`.
    const fn new(name: &'static str, mimics: &'static str, map: MapCall) -> Self {
        let finish: FinishCall = |mut inner, context, space| inner.finish(context, space);
        Self { name, mimics, map, finish, contract: Contract::of }
    }

    /// Code whose mistake is in phase `finish`.
    const fn late(name: &'static str, mimics: &'static str, finish: FinishCall) -> Self {
        let map: MapCall = |mut inner, context| inner.map(context);
        Self { name, mimics, map, finish, contract: Contract::of }
    }

    /// Held to what any mapping code is held to, and not to the layout's contract.
    const fn of_anybody(self) -> Self {
        Self { contract: |_| Contract::default(), ..self }
    }

    /// The scenario with this code in place of its layout.
    pub fn put_into(&'static self, scenario: Scenario) -> Scenario {
        let contract = (self.contract)(scenario.built_in().layout);
        scenario.layout_in(|inner| Coded { code: self, inner }).contract(contract)
    }
}

/// Clears flags in the leaves of regions that are mapped, where that is meant.
fn clear(
    context: &mut MapContext<'_>,
    space: AddressSpace,
    flags: u64,
    is_meant: impl Fn(&MemoryDescriptor) -> bool,
) -> Result<(), MapError> {
    for index in 0..context.mapped_count() {
        let Some(mapped) = context.mapped(index) else { break };
        if is_meant(&mapped) {
            space.change(&mut context.tables, mapped.virt_start, mapped.page_count * PAGE_BYTES, 0, flags)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Coded {
    code: &'static Code,
    inner: LayoutMapper,
}

impl Mapper for Coded {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        (self.code.map)(self.inner, context)
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        (self.code.finish)(self.inner, context, space)
    }
}
