//! A mapper in C, linked into the test process: the functions of `efibed.h`.

use super::page_table::AddressSpace;
use super::request::{MapRequest, MapResult};
use super::{MapContext, MapError, Mapper};

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
    let mut result = MapResult {
        root: space.root(),
        mapped: context.virtual_map.count as u64,
        table_pages: context.tables.used_pages(),
        log_used: *context.log.used,
        ..MapResult::default()
    };
    // SAFETY: as the mapper's maker vouches. The context's own references into that memory are not used meanwhile.
    let value = unsafe { function(context.request, &mut result) };
    context.virtual_map.count = result.mapped as usize;
    context.tables.set_used_pages(result.table_pages);
    *context.log.used = result.log_used;
    *context.region_at_hand = result.region_at_hand;
    match value {
        0 => Ok(AddressSpace::existing(result.root, space.levels())),
        _ => Err(MapError::Failed),
    }
}
