//! What is put to the test.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use efibed_guest::{LayoutMapper, Mapper};

use crate::check::Contract;
use crate::report::MapperName;

/// Mapping code of this process, and how a run gets its own.
#[derive(Clone)]
pub struct Subject {
    name: MapperName,
    contract: Contract,
    make: Arc<dyn Fn() -> Box<dyn Mapper> + Send + Sync>,
}

impl Subject {
    /// Somebody's mapper. Each run works on a copy.
    pub fn function<M: Mapper + Clone + Send + Sync + 'static>(mapper: M) -> Self {
        Self::new(MapperName::Function(type_name::<M>().into()), Contract::default(), mapper)
    }

    fn new<M: Mapper + Clone + Send + Sync + 'static>(name: MapperName, contract: Contract, mapper: M) -> Self {
        Self { name, contract, make: Arc::new(move || Box::new(mapper.clone())) }
    }

    /// As reports have it.
    pub fn name(&self) -> &MapperName {
        &self.name
    }

    /// What must hold of its result, if nobody says otherwise.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// One for a run.
    pub fn make(&self) -> Box<dyn Mapper> {
        (self.make)()
    }
}

impl From<LayoutMapper> for Subject {
    fn from(mapper: LayoutMapper) -> Self {
        Self::new(mapper.into(), Contract::of(mapper.layout), mapper)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.name).finish()
    }
}
