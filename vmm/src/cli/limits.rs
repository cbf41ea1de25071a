//! How much is asked, and for how long.

use std::time::Duration;

use clap::Args;

use crate::Scenario;

const LIMITS: &str = "Limits";

/// Limits of a run, where they are not to be the usual ones.
#[derive(Args)]
pub struct Limits {
    /// How long the whole run may take; what is not done by then is said, and the run is `incomplete` [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = LIMITS)]
    limit: Option<u64>,

    /// Pages of tables built in the guest; what takes more is mapped natively, and the run is `incomplete` [default: 1280]
    #[arg(long, value_name = "PAGES", help_heading = LIMITS)]
    table_limit: Option<u64>,

    /// Pages of regions reached one by one; of what is past them, a sample [default: 2359296, which are 9 GiB]
    #[arg(long, value_name = "PAGES", help_heading = LIMITS)]
    sweep_limit: Option<u64>,
}

impl Limits {
    /// The scenario, within these limits.
    pub fn apply(&self, mut scenario: Scenario) -> Scenario {
        if let Some(seconds) = self.limit {
            scenario = scenario.limit(Duration::from_secs(seconds));
        }
        if let Some(pages) = self.table_limit {
            scenario = scenario.table_limit(pages);
        }
        if let Some(pages) = self.sweep_limit {
            scenario = scenario.sweep_limit(pages);
        }
        scenario
    }
}
