//! The mapping code, run in this process on a guest's memory.

use efibed_guest::Mapper;
use efibed_guest::mapper::{CpuAbilities, Step};

use super::mapping::Outcome;
use crate::guest::Case;
use crate::guest::process::{Called, call_natively};

/// Carries out one of a mapper's calls. For phase `map` the memory is as new.
pub fn call(mapper: &mut Box<dyn Mapper>, step: Step, case: &Case, cpu: CpuAbilities) -> Outcome {
    if step == Step::Map && !case.ask(cpu, case.memory.host_offset()) {
        return Outcome::Absurd(vec!["there is no room for the request to the mapping code".into()]);
    }
    call_natively(Called::new(mapper, step, case));
    Outcome::read(case)
}
