//! A page of indented rows whose cells stand in columns.

use crate::commands::printable;

const INDENT: &str = "  ";
/// Between a column's widest cell and the next column.
const PADDING: usize = 2;

/// Rows of cells. A column reaches over neighbouring rows that have it, and no further: each block has widths of its own.
#[derive(Debug, Default)]
pub(super) struct Page {
    rows: Vec<Vec<String>>,
}

impl Page {
    /// Adds a row; what the cells hold is made fit for a terminal.
    pub(super) fn row(&mut self, level: usize, cells: &[&str]) {
        let mut row: Vec<String> = cells.iter().map(|cell| printable(cell)).collect();
        if let Some(first) = row.first_mut() {
            first.insert_str(0, &INDENT.repeat(level));
        }
        self.rows.push(row);
    }

    /// Text of several lines, each a row of its own; `head` stands before the first.
    pub(super) fn lines(&mut self, level: usize, head: &str, text: &str) {
        for (at, line) in text.split('\n').enumerate() {
            match (at, head) {
                (_, "") => self.row(level, &[line]),
                (0, head) => self.row(level, &[head, line]),
                _ => self.row(level, &["", line]),
            }
        }
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths: Vec<Vec<usize>> = self.rows.iter().map(|row| vec![0; row.len()]).collect();
        for column in 0..columns {
            // The last cell of a row has no column: nothing stands to its right.
            let has = |row: &Vec<String>| row.len() > column + 1;
            let mut start = 0;
            for block in self.rows.chunk_by(|a, b| has(a) == has(b)) {
                if has(&block[0]) {
                    let widest = block.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
                    widths[start..start + block.len()].iter_mut().for_each(|row| row[column] = widest + PADDING);
                }
                start += block.len();
            }
        }
        let mut out = String::new();
        for (row, widths) in self.rows.iter().zip(&widths) {
            let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_has_columns_of_its_own() {
        let mut page = Page::default();
        page.row(0, &["Name:", "web"]);
        page.row(0, &["Start Time:", "now"]);
        page.row(0, &["Containers:"]);
        page.row(1, &["a:"]);
        page.row(2, &["Image:", "nginx"]);
        page.lines(2, "Text:", "one\ntwo");
        let expected = "Name:        web\nStart Time:  now\nContainers:\n  a:\n    Image:  nginx\n    Text:   one\n            two\n";
        assert_eq!(page.render(), expected);
    }

    #[test]
    fn s_c11_cells_cannot_command_the_terminal() {
        let mut page = Page::default();
        page.row(0, &["Name:", "a\x1b[2Jb\tc"]);
        assert_eq!(page.render(), "Name:  a\u{fffd}[2Jb\u{fffd}c\n");
    }
}
