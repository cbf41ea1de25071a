//! What is put to the test.

use std::fmt;
use std::sync::Arc;

use efibed_guest::{LayoutMapper, Mapper};

/// Mapping code of this process, and how a run gets its own.
#[derive(Clone)]
pub struct Subject {
    make: Arc<dyn Fn() -> Box<dyn Mapper> + Send + Sync>,
}

impl Subject {
    /// A mapper: each run works on a copy.
    pub fn new(mapper: impl Mapper + Clone + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(move || Box::new(mapper.clone())) }
    }

    /// One for a run.
    pub fn make(&self) -> Box<dyn Mapper> {
        (self.make)()
    }
}

impl From<LayoutMapper> for Subject {
    fn from(mapper: LayoutMapper) -> Self {
        Self::new(mapper)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}
