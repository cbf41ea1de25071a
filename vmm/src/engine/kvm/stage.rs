//! What a run does one after another, and so what one that is cut has not done.

use std::time::Duration;

use super::super::left_out;
use crate::check::Skipped;

/// What a run does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Mapping,
    Switch,
    Probes,
    Finishing,
    LastProbes,
    Calls,
}

impl Stage {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Mapping, "the mapping code"),
        (Self::Switch, "calls of runtime services before the switch"),
        (Self::Probes, "probes of the mapping"),
        (Self::Finishing, "phase `finish`"),
        (Self::LastProbes, "probes after phase `finish`"),
        (Self::Calls, "calls of runtime services after the switch"),
    ];

    /// What a run that has come no further has not done, or not to the end.
    pub fn not_done(self, limit: Duration) -> impl Iterator<Item = Skipped> {
        self.open().map(move |what| left_out::out_of_time(what, limit))
    }

    /// The same of a run that a debugger has ended.
    pub fn killed(self) -> impl Iterator<Item = Skipped> {
        self.open().map(|what| Skipped::not_done(what, "the debugger ended the run"))
    }

    fn open(self) -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(move |(stage, _)| *stage >= self).map(|(_, what)| what)
    }
}
