//! The guest image with the built-in layouts.
#![no_std]
#![no_main]

use efibed_guest::protocol::MapRequest;
use efibed_guest::{Layout, LayoutMapper, LeafRule};

efibed_guest::image!(|request: &MapRequest| {
    let layout = Layout::from_number(request.layout)?;
    let leaf_rule = LeafRule::from_number(request.leaf_rule)?;
    Some(LayoutMapper { layout, leaf_rule })
});
