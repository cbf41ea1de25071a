//! Tables: columns as wide as their widest cell, two blanks before each.

/// The columns of a table.
pub(super) struct Columns<const N: usize> {
    titles: [&'static str; N],
    /// Those whose numbers are aligned at the right.
    right: [bool; N],
    widths: [usize; N],
}

impl<const N: usize> Columns<N> {
    /// Columns that hold all of these rows.
    pub fn of(titles: [&'static str; N], right: [bool; N], rows: &[[String; N]]) -> Self {
        let widths = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([titles[column].len()]).max().unwrap_or(0)
        });
        Self { titles, right, widths }
    }

    /// The line above the rows.
    pub fn titles(&self) -> String {
        self.line(&self.titles.map(String::from)).trim_end().into()
    }

    /// A row. What comes last is not padded: it may hold colour.
    pub fn line(&self, row: &[String; N]) -> String {
        let mut text = String::new();
        for (column, (cell, width)) in row.iter().zip(self.widths).enumerate() {
            text += "  ";
            text += &match (column + 1 == N, self.right[column]) {
                (true, _) => cell.clone(),
                (_, true) => format!("{cell:>width$}"),
                (_, false) => format!("{cell:<width$}"),
            };
        }
        text
    }

    /// Where the cells of a column begin.
    pub fn start(&self, column: usize) -> usize {
        self.widths[..column].iter().map(|width| width + 2).sum::<usize>() + 2
    }
}
