//! All bugs, by number.

mod first;
mod second;
mod third;

use super::bug::Bug;
#[cfg(test)]
use super::bug::Exhibit;

/// All of them, in the order of their numbers, which begin with 1.
pub fn bugs() -> impl Iterator<Item = &'static Bug> + Clone {
    [first::BUGS, second::BUGS, third::BUGS].into_iter().flatten()
}

/// The bug of that number.
pub fn bug(number: u32) -> Option<&'static Bug> {
    bugs().find(|bug| bug.number == number)
}

/// All exhibits, each with its bug.
#[cfg(test)]
pub fn exhibits() -> impl Iterator<Item = (&'static Bug, &'static Exhibit)> + Clone {
    bugs().flat_map(|bug| bug.exhibits().iter().map(move |exhibit| (bug, exhibit)))
}

/// An exhibit's name, and the text of its scenario.
macro_rules! scenario {
    ($name:literal) => {
        ($name, include_str!(concat!("../exhibits/", $name, ".toml")))
    };
}

use scenario;

/// Why exhibits of firmware's own mistakes ask nothing of a visitor.
const FIRMWARES: &str = "it is about what firmware does, and not about mapping code";
/// Why what firmware does needs a guest.
const CALLS: &str = "the walker calls no firmware";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::museum::bug::{Asks, Shown};

    #[test]
    fn the_numbers_are_those_of_the_list() {
        assert_eq!(bugs().map(|bug| bug.number).collect::<Vec<_>>(), (1..=43).collect::<Vec<_>>());
    }

    #[test]
    fn every_row_says_something_and_what_is_not_shown_says_why() {
        let mut names = HashSet::new();
        for bug in bugs() {
            assert!(names.insert(bug.name), "{}", bug.name);
            for text in [bug.title, bug.code, bug.source, bug.wrong, bug.looks, bug.mends] {
                assert!(text.len() > 2 && !text.contains("  "), "{}: {text}", bug.number);
            }
            assert!(bug.wrong.matches(". ").count() <= 2, "{}: more than three sentences", bug.number);
            match bug.shown {
                Shown::By(exhibits) => assert!(!exhibits.is_empty(), "{}", bug.number),
                Shown::ToldOnly(why) => assert!(why.len() > 30, "{}", bug.number),
            }
        }
    }

    #[test]
    fn every_exhibit_is_a_scenario_of_its_bug_that_says_where_its_numbers_are_from() {
        let mut names = HashSet::new();
        for (bug, exhibit) in exhibits() {
            assert!(names.insert(exhibit.name), "{}", exhibit.name);
            assert!(exhibit.name.starts_with(&format!("{:02}-", bug.number)), "{}", exhibit.name);
            assert!(exhibit.toml.contains(&format!("name = \"{}\"", exhibit.name)), "{}", exhibit.name);
            let comment = exhibit.toml.lines().filter(|line| line.starts_with("# ")).count();
            assert!(comment >= 2, "{}: no comment", exhibit.name);
            assert!(exhibit.wrong().is_ok() && exhibit.mended().is_ok(), "{}", exhibit.name);
            if let Asks::ToMap(terms) = exhibit.asks {
                assert!(terms.iter().all(|term| crate::check::ContractItem::parse(term).is_ok()), "{}", exhibit.name);
            }
            // What is written in the comment is what must be found.
            for number in [exhibit.found.virt, exhibit.found.frames.map(|(_, reached)| reached)].into_iter().flatten() {
                let told = exhibit.toml.replace("\n# ", " ").to_lowercase();
                assert!(told.contains(&format!("{number:#x}")), "{}: {number:#x} is not in it", exhibit.name);
            }
        }
    }
}
