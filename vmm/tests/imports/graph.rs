//! Which file imports which.

use std::collections::{BTreeMap, BTreeSet};

/// Arrows from each name to others.
#[derive(Debug, Default)]
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// Adds an arrow. One from a name to itself is none.
    pub fn add(&mut self, from: &str, to: &str) {
        if from != to {
            self.0.entry(from.to_owned()).or_default().insert(to.to_owned());
        }
    }

    /// All arrows.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(from, all)| all.iter().map(|to| (from.as_str(), to.as_str())))
    }

    /// How many there are.
    pub fn edges(&self) -> usize {
        self.iter().count()
    }

    /// The same between groups of names.
    pub fn between(&self, group: impl Fn(&str) -> String) -> Self {
        let mut grouped = Self::default();
        self.iter().for_each(|(from, to)| grouped.add(&group(from), &group(to)));
        grouped
    }

    /// A shortest circle through each name that is in one, each circle once.
    pub fn circles(&self) -> Vec<String> {
        let mut told = BTreeSet::new();
        let mut circles = Vec::new();
        for name in self.0.keys() {
            let Some(circle) = self.circle_through(name).filter(|_| !told.contains(name)) else { continue };
            circles.push([circle.join(" -> "), name.clone()].join(" -> "));
            told.extend(circle);
        }
        circles
    }

    /// The names from this one around to it.
    fn circle_through(&self, start: &str) -> Option<Vec<String>> {
        let mut paths = std::collections::VecDeque::from([vec![start.to_owned()]]);
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            for next in path.last().and_then(|last| self.0.get(last)).into_iter().flatten() {
                if next == start {
                    return Some(path);
                }
                if seen.insert(next.clone()) {
                    paths.push_back([path.clone(), vec![next.clone()]].concat());
                }
            }
        }
        None
    }
}
