//! Tables: columns as wide as their widest cell, two blanks before each. On a terminal that is too narrow for all columns
//! some stand on a line below.

use super::style::{visible, wrapped};

/// The columns of a table.
pub(crate) struct Columns<const N: usize> {
    titles: [&'static str; N],
    /// Those whose numbers are aligned at the right.
    right: [bool; N],
    widths: [usize; N],
    /// Those that stand on the line below.
    below: [bool; N],
    /// What a line may take.
    width: usize,
}

/// Blanks before a column.
const GAP: usize = 2;

impl<const N: usize> Columns<N> {
    /// Columns that hold all of these rows.
    pub fn of(titles: [&'static str; N], right: [bool; N], rows: &[[String; N]]) -> Self {
        let widths = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| visible(&row[column]));
            cells.chain([titles[column].len()]).max().unwrap_or(0)
        });
        Self { titles, right, widths, below: [false; N], width: usize::MAX }
    }

    /// Keeps to a width: of `order`, the first columns go onto a line below, as many as it takes.
    pub fn within(mut self, width: usize, order: &[usize]) -> Self {
        self.width = width;
        for column in order {
            if self.start(N) - GAP <= width {
                break;
            }
            self.below[*column] = true;
        }
        self
    }

    /// The lines above the rows.
    pub fn titles(&self) -> Vec<String> {
        self.lines(&self.titles.map(String::from))
    }

    /// A row, and below it what found no room.
    pub fn lines(&self, row: &[String; N]) -> Vec<String> {
        let mut first = String::new();
        for column in (0..N).filter(|column| !self.below[*column]) {
            let (cell, blanks) = (&row[column], self.widths[column].saturating_sub(visible(&row[column])));
            let (before, after) = if self.right[column] { (blanks, 0) } else { (0, blanks) };
            first += &format!("{:GAP$}{:before$}{cell}{:after$}", "", "", "");
        }
        let mut lines = vec![first.trim_end().to_owned()];
        let says_something = |cell: &&String| !matches!(cell.as_str(), "" | "-");
        let rest = row.iter().zip(self.below).filter(|(_, is_below)| *is_below).map(|(cell, _)| cell);
        let rest: Vec<&str> = rest.filter(says_something).map(String::as_str).collect();
        if !rest.is_empty() {
            let indent = self.start(1);
            let below = wrapped(&rest.join("; "), self.width.saturating_sub(indent), 0);
            lines.extend(below.iter().map(|line| format!("{:indent$}{line}", "")));
        }
        lines
    }

    /// Where the cells of a column begin.
    pub fn start(&self, column: usize) -> usize {
        // What stands below begins beside the first column, which never does.
        let column = if self.below.get(column) == Some(&true) { 1 } else { column };
        let before = self.widths.iter().zip(self.below).take(column).filter(|(_, is_below)| !is_below);
        before.map(|(width, _)| width + GAP).sum::<usize>() + GAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: [&str; 4] = ["#", "type", "pages", "what"];

    fn columns(width: usize) -> (Columns<4>, [String; 4]) {
        let row = ["10", "Reserved", "7", "ok"].map(String::from);
        (Columns::of(TITLES, [true, false, true, false], std::slice::from_ref(&row)).within(width, &[1, 3]), row)
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let (columns, row) = columns(usize::MAX);
        assert_eq!(columns.titles(), ["   #  type      pages  what"]);
        assert_eq!(columns.lines(&row), ["  10  Reserved      7  ok"]);
        assert_eq!(columns.start(2), 16);
    }

    #[test]
    fn what_has_no_room_stands_below() {
        // 27 columns are all it takes.
        assert_eq!(columns(27).0.titles().len(), 1);
        let (one, row) = columns(26);
        assert_eq!(one.titles(), ["   #  pages  what", "      type"]);
        assert_eq!(one.lines(&row), ["  10      7  ok", "      Reserved"]);
        let (both, row) = columns(16);
        assert_eq!(both.titles(), ["   #  pages", "      type; what"]);
        assert_eq!(both.lines(&row), ["  10      7", "      Reserved;", "      ok"]);
        assert_eq!((both.start(1), both.start(2)), (6, 6));
        let nothing = ["1", "", "7", "-"].map(String::from);
        assert_eq!(both.lines(&nothing), ["   1      7"]);
    }
}
