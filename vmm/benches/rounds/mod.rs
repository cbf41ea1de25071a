//! What two benches tell at their end: maps a second, and the time beside the floor's.

use std::time::Duration;

/// Runs all maps in so many rounds, each with the floor (the first time of a round) and the whole, and tells the medians.
pub fn tell(what: &str, rounds: usize, maps: usize, mut round: impl FnMut() -> [Duration; 2], more: &str) {
    let mut rounds: Vec<_> = (0..rounds).map(|_| round()).collect();
    rounds.sort_by_key(|[_, whole]| *whole);
    let [floor, whole] = rounds[rounds.len() / 2].map(|all| all.as_secs_f64() * 1e6 / maps as f64);
    println!(
        "{what}: {:.0} maps/s, {whole:.1} us a map; floor {floor:.2} us: {:.1} of the floor's time; {more}",
        1e6 / whole,
        whole / floor,
    );
}
