//! The mapping code, run in this process on a guest's memory.

use efibed_guest::page_table::AddressSpace;
use efibed_guest::protocol::MapRequest;
use efibed_guest::{LayoutMapper, MapContext, MapError, Mapper};

use crate::guest::{Loaded, MappedTables};
use crate::memory_map::MemoryDescriptor;

/// A mapper between its phases.
pub struct Native<'a> {
    mapper: LayoutMapper,
    context: MapContext<'a>,
    space: AddressSpace,
    virtual_map: Vec<MemoryDescriptor>,
}

impl<'a> Native<'a> {
    /// Runs phase `map` of a request made for this memory, which is as new.
    pub fn map(mut mapper: LayoutMapper, loaded: &'a Loaded, request: &'a MapRequest) -> Result<Self, MapError> {
        // SAFETY: all that the request names is this guest's memory, mapped in this process at that offset for as long
        // as `loaded` lives; the guest does not run meanwhile, and the pool is as new.
        let context = unsafe { MapContext::from_request(request, loaded.memory.host_offset()) };
        let mut context = context.ok_or(MapError::TooManyRegions { index: 0 })?;
        let space = mapper.map(&mut context)?;
        let virtual_map = loaded.virtual_map(context.mapped_count() as u64);
        Ok(Self { mapper, context, space, virtual_map })
    }

    /// Runs phase `finish`.
    pub fn finish(&mut self) -> Result<MappedTables, MapError> {
        self.space = self.mapper.finish(&mut self.context, self.space)?;
        Ok(self.tables())
    }

    /// What the last phase made.
    pub fn tables(&self) -> MappedTables {
        MappedTables {
            root: self.space.root(),
            mapped: self.context.mapped_count() as u64,
            table_pages: self.context.tables.used_pages(),
        }
    }

    /// The map for SetVirtualAddressMap, as phase `map` left it.
    pub fn virtual_map(&self) -> &[MemoryDescriptor] {
        &self.virtual_map
    }
}
