//! A mapper behind the C ABI, linked into the test process: the functions of `efibed.h`, or of another build of this crate.

use super::error::MapStatus;
use super::page_table::AddressSpace;
use super::request::{MapRequest, MapResult};
use super::{MapContext, MapError, Mapper, Step};

/// A function of `efibed.h`.
pub type CFunction = unsafe extern "C" fn(request: *const MapRequest, result: *mut MapResult) -> i32;

/// Mapping code in C.
///
/// ```ignore
/// unsafe extern "C" {
///     fn efibed_map(request: *const MapRequest, result: *mut MapResult) -> i32;
/// }
/// // SAFETY: the function is written to efibed.h.
/// let mapper = unsafe { CMapper::new(efibed_map, None) };
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CMapper {
    map: CFunction,
    finish: Option<CFunction>,
}

impl CMapper {
    /// The functions for the two phases.
    ///
    /// # Safety
    /// They keep to what `efibed.h` says. In the guest the rest of the process is out of their reach; natively, under the
    /// walker engine, it is not.
    pub unsafe fn new(map: CFunction, finish: Option<CFunction>) -> Self {
        Self { map, finish }
    }
}

impl Mapper for CMapper {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let space = context.space;
        call(self.map, context, space)
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        match self.finish {
            Some(finish) => call(finish, context, space),
            None => Ok(space),
        }
    }
}

fn call(function: CFunction, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
    context.hand_over(space, |request, result| {
        // SAFETY: as the mapper's maker vouches. The context's own references into that memory are not used meanwhile.
        let value = unsafe { function(request, result) };
        result.conclude(if value == 0 { Ok(result.root) } else { Err(MapError::Failed) });
    })
}

/// Mapping code that was built apart from this process's own, and answers with a whole [`MapResult`]: what
/// [`carry_out`](super::carry_out) does, there. For campaigns, which have the layouts once more.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Elsewhere<F>(pub F);

impl<F: FnMut(Step, &MapRequest, &mut MapResult)> Mapper for Elsewhere<F> {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let space = context.space;
        context.hand_over(space, |request, result| (self.0)(Step::Map, request, result))
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        context.hand_over(space, |request, result| (self.0)(Step::Finish, request, result))
    }
}

impl MapContext<'_> {
    /// Has somebody else carry out a step, and takes over what came of it.
    fn hand_over(
        &mut self,
        space: AddressSpace,
        carry_out: impl FnOnce(&MapRequest, &mut MapResult),
    ) -> Result<AddressSpace, MapError> {
        let mut result = MapResult {
            root: space.root(),
            mapped: self.virtual_map.count as u64,
            table_pages: self.tables.used_pages(),
            log_used: *self.log.used,
            ..MapResult::default()
        };
        carry_out(self.request, &mut result);
        self.virtual_map.count = result.mapped as usize;
        self.tables.set_used_pages(result.table_pages);
        *self.log.used = result.log_used;
        *self.region_at_hand = result.region_at_hand;
        match MapError::from_status(result.status, result.detail) {
            Some(error) => Err(error),
            None if result.status == MapStatus::Done as u64 => Ok(AddressSpace::existing(result.root, space.levels())),
            None => Err(self.fail(format_args!("the mapping code ended with status {}", result.status))),
        }
    }
}
