//! Diffs of logs: what a line is in one.
//!
//! ```text
//! @@ -9,3 +9,3 @@
//!  efi: mem08: [Boot Data   |   |...] range=[...] (0MB)
//! -efi: mem09: [Conventional|   |...] range=[...] (3MB)
//! +efi: mem09: [Conventional|   |...] range=[...] (2MB)
//! ```
//!
//! What a diff adds or keeps is of the newer text and is read; what it removes is not. A hunk is a part of a map, and no
//! more of the same list than what stands outside of it. Hunks are also found without their `@@`, and as the old
//! `diff` prints them (`9c9`, `< ...`, `---`, `> ...`).

use super::offset::Offset;

/// Where in a diff, or outside of one, the reading is.
#[derive(Clone, Copy, Default)]
pub(super) struct Diff {
    state: State,
    /// Goes up where a hunk begins, and where one ends.
    part: usize,
    is_removed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Outside,
    /// In a hunk with so many lines of the older and of the newer text to come.
    Unified {
        old: u64,
        new: u64,
        is_all: bool,
    },
    /// Behind `9c9`, which any text may have in a line, and in what it announces.
    Announced,
    Classic,
    /// At lines with `+` or `-`, but no `@@` before them.
    Signed,
}

impl Diff {
    /// Takes the next line and gives the length of what the diff puts before it.
    pub(super) fn take(&mut self, line: &str, is_row: impl Fn(&str) -> bool) -> usize {
        self.is_removed = false;
        match self.state {
            State::Unified { old, new, is_all } if old > 0 || new > 0 => self.unified(line, [old, new], is_all),
            State::Announced | State::Classic => self.classic(line),
            _ => None,
        }
        .unwrap_or_else(|| self.outside(line, is_row))
    }

    /// Which hunk this is, or which text between hunks.
    pub(super) fn part(&self) -> usize {
        self.part
    }

    /// Whether the last line is one that the diff removes.
    pub(super) fn is_removed(&self) -> bool {
        self.is_removed
    }

    /// Why what is read here is not a whole text, if it is not.
    pub(super) fn why_partial(&self) -> Option<&'static str> {
        match self.state {
            State::Outside | State::Announced | State::Unified { is_all: true, .. } => None,
            _ => Some("these are the rows of a hunk of a diff"),
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.part = self.part.plus(1);
    }

    fn unified(&mut self, line: &str, [old, new]: [u64; 2], is_all: bool) -> Option<usize> {
        let (of_old, of_new, prefix) = match line.bytes().next() {
            Some(b' ') => (1, 1, 1),
            None | Some(b'\r') => (1, 1, 0),
            Some(b'-') => (1, 0, 1),
            Some(b'+') => (0, 1, 1),
            Some(b'\\') => (0, 0, 0),
            _ => return None,
        };
        self.is_removed = of_new == 0 && prefix == 1;
        let (old, new) = (old.saturating_sub(of_old), new.saturating_sub(of_new));
        self.state = State::Unified { old, new, is_all };
        Some(prefix)
    }

    fn classic(&mut self, line: &str) -> Option<usize> {
        if matches!(line.trim_end(), "---") || line.starts_with('\\') {
            return Some(0);
        }
        self.is_removed = line.starts_with("< ");
        if !self.is_removed && !line.starts_with("> ") {
            return None;
        }
        if self.state == State::Announced {
            self.enter(State::Classic);
        }
        Some(2)
    }

    fn outside(&mut self, line: &str, is_row: impl Fn(&str) -> bool) -> usize {
        if let Some(hunk) = hunk(line) {
            self.enter(hunk);
            return 0;
        }
        let is_signed = line.starts_with(['+', '-']) && !line[1..].starts_with(['+', '-', ' ']) && is_row(&line[1..]);
        match self.state {
            _ if is_signed => {
                if self.state != State::Signed {
                    self.enter(State::Signed);
                }
                self.is_removed = line.starts_with('-');
                1
            }
            // Context begins with a blank.
            State::Signed if line.starts_with(' ') || !is_row(line) => usize::from(line.starts_with(' ')),
            State::Outside => {
                if is_classic_head(line) {
                    self.state = State::Announced;
                }
                0
            }
            State::Announced => {
                self.state = State::Outside;
                0
            }
            _ => {
                self.enter(State::Outside);
                if is_classic_head(line) {
                    self.state = State::Announced;
                }
                0
            }
        }
    }
}

/// `@@ -9,3 +9,3 @@`, and whatever diff found to say behind it. A text that was nothing before is whole.
fn hunk(line: &str) -> Option<State> {
    let (ranges, _) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let count = |range: &str| match range.split_once(',') {
        Some((start, count)) => start.parse::<u64>().ok().and(count.parse().ok()),
        None => range.parse::<u64>().ok().map(|_| 1),
    };
    let (old, new) = (count(old)?, count(new)?);
    Some(State::Unified { old, new, is_all: old == 0 && ranges.starts_with("0,") })
}

/// Whether a text has a hunk of a diff that is not a unified one.
pub(super) fn has_classic_hunk(text: &str) -> bool {
    let is_signed = |line: &str| line.starts_with("< ") || line.starts_with("> ");
    text.lines().zip(text.lines().skip(1)).any(|(head, next)| is_signed(next) && is_classic_head(head))
}

/// `9c9`, `9,12d8`
fn is_classic_head(line: &str) -> bool {
    let is_range = |text: &str| {
        text.split(',').count() <= 2
            && text.split(',').all(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    line.trim_end().split_once(['a', 'c', 'd']).is_some_and(|(old, new)| is_range(old) && is_range(new))
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, ReadOptions, oddities};

    /// A row of Linux on ARM, which has no number.
    fn row(first: u64, last: u64) -> String {
        format!("efi:   {:#014x}-{:#014x} [Conventional|   |WB]\n", first << 12, (last << 12) + 0xfff)
    }

    fn log() -> String {
        row(0, 3) + &row(4, 7) + &row(8, 9) + &row(10, 20)
    }

    /// Of each list: its starts in pages, whether it is partial, and how many lines were skipped.
    fn lists(text: &str) -> Vec<(Vec<u64>, bool, usize)> {
        let list = |map: &MemoryMap| {
            let starts = map.regions().map(|region| region.phys >> 12).collect();
            let skipped = oddities(map).iter().filter(|odd| odd.kind.name() == "skipped-line").count();
            (starts, map.partial().is_some(), skipped)
        };
        let maps = MemoryMap::parse_all("log", text, &ReadOptions::default());
        maps.unwrap_or_else(|error| panic!("{error}\n{text}")).iter().map(list).collect()
    }

    #[test]
    fn a_hunk_and_the_log_are_two_lists() {
        let (kept, old, new) = (row(4, 7), row(8, 8), row(8, 9));
        let whole = (vec![0, 4, 8, 10], false, 0);
        for hunk in [
            format!("@@ -2,2 +2,2 @@\n {kept}-{old}+{new}"),
            format!("--- a\n+++ b\n@@ -2,3 +2,3 @@ head\n {kept}-{old}+{new}\n"),
            format!("+{kept}-{old}+{new}"),
            format!("+{kept}-{old} {new}"),
            format!("2,3c2,3\n< {old}---\n> {kept}> {new}"),
        ] {
            let part = (vec![4, 8], true, 1);
            assert_eq!(lists(&(hunk.clone() + &log())), [part.clone(), whole.clone()], "{hunk}");
            assert_eq!(lists(&(log() + &hunk)), [whole.clone(), part.clone()], "{hunk}");
            let chosen = MemoryMap::parse(&(hunk + &log())).unwrap();
            assert_eq!((chosen.descriptors().len(), chosen.partial()), (4, None));
        }
    }

    #[test]
    fn a_new_file_is_whole() {
        let added: String = log().lines().map(|line| format!("+{line}\n")).collect();
        assert_eq!(lists(&format!("@@ -0,0 +1,4 @@\n{added}")), [(vec![0, 4, 8, 10], false, 0)]);
    }

    #[test]
    fn rows_of_bare_tables_are_known_behind_signs() {
        let row = "RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F\n";
        for hunk in [format!("+{row}"), format!("@@ -1 +1 @@\n-{row}+{row}")] {
            assert_eq!(MemoryMap::parse(&hunk).unwrap().descriptors().len(), 1, "{hunk}");
        }
    }

    #[test]
    fn what_only_looks_like_a_diff_is_none() {
        let whole = [(vec![0, 4, 8, 10], false, 0)];
        assert_eq!(lists(&log().replacen('\n', "\n9c9\n- a note\n@@ home\n+5\n", 2)), whole);
        // A cut hunk ends where no line of it can be.
        assert_eq!(lists(&format!("@@ -1,90 +1,90 @@\n{}", log())), whole);
    }

    #[test]
    fn rows_that_are_removed_are_no_map() {
        let error = |text: &str| MemoryMap::parse_named("log", text).unwrap_err().to_string();
        let message = "no EFI memory map: the diff removes this row, and adds or keeps none";
        assert_eq!(error(&format!("-{}", row(0, 3))), format!("log:1:9: {message}"));
    }
}
