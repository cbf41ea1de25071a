//! How much is checked, and for how long.

use std::time::Duration;

use clap::Args;

use crate::Scenario;

const LIMITS: &str = "Limits";

/// Limits of a run, in place of the usual ones.
#[derive(Args)]
pub struct Limits {
    /// How long the whole run may take; past that it is `incomplete` and says what is left [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = LIMITS)]
    limit: Option<u64>,

    /// Pages of regions to reach one by one; the rest is sampled [default: 2359296, which is 9 GiB]
    #[arg(long, value_name = "PAGES", help_heading = LIMITS)]
    sweep_limit: Option<u64>,
}

impl Limits {
    /// The scenario, within these limits.
    pub fn apply(&self, mut scenario: Scenario) -> Scenario {
        if let Some(seconds) = self.limit {
            scenario = scenario.limit(Duration::from_secs(seconds));
        }
        if let Some(pages) = self.sweep_limit {
            scenario = scenario.sweep_limit(pages);
        }
        scenario
    }
}

/// A length of time as options have it: 90s, 10m, 8h.
pub fn time(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let found = units.into_iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let seconds = found.and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
    let seconds = seconds.filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "expected a number and s, m, h or d, such as 90s or 10m".into())
}
