//! The layouts behind the C ABI: the way into a second build of this crate, whose code counts what it runs.

use super::{Layout, LayoutMapper};
use crate::mapper::{LeafRule, MapRequest, MapResult, MapStatus, Step, carry_out};

/// Carries out a step of the mapper with that layout and leaf rule, by their places in `Layout::ALL` and `LeafRule::ALL`.
/// A panic of the mapping code leaves this function.
///
/// # Safety
/// As [`carry_out`], for what `request` and `result` point to.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn efibed_counted_layout(
    layout: usize,
    leaf_rule: usize,
    finishes: bool,
    request: *const MapRequest,
    result: *mut MapResult,
) {
    // SAFETY: as the caller vouches.
    let (request, result) = unsafe { (&*request, &mut *result) };
    let (Some(layout), Some(leaf_rule)) = (Layout::ALL.get(layout), LeafRule::ALL.get(leaf_rule)) else {
        result.status = MapStatus::BadRequest as u64;
        return;
    };
    let mut mapper = LayoutMapper { layout: *layout, leaf_rule: *leaf_rule };
    let step = if finishes { Step::Finish } else { Step::Map };
    // SAFETY: as the caller vouches.
    unsafe { carry_out(&mut mapper, step, request, result) };
}
