//! Defines aligned text tables.

/// The widest a cell may be that others stand behind; `--json` has all of it.
const MAX_CELL_CHARS: usize = 120;

/// A table with a heading; columns are as wide as their widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row. An empty cell shows as `-`, and a long one that is not the last ends early.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: &String| if cell.is_empty() { "-".to_owned() } else { printable(cell) };
        let mut cells = Vec::from_iter(cells.iter().map(shown));
        if let Some((_, before)) = cells.split_last_mut() {
            before.iter_mut().for_each(shorten);
        }
        self.rows.push(cells);
    }

    /// The lines, without a newline at the end.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column > 0 {
                    line.push_str("  ");
                }
                line.push_str(cell);
                // The last column has no end to align, however long its cells are; a format's width ends at 65,535.
                if column + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
                }
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn shorten(cell: &mut String) {
    if let Some((end, _)) = cell.char_indices().nth(MAX_CELL_CHARS)
        && let Some((end, _)) = cell[..end].char_indices().next_back()
    {
        cell.truncate(end);
        cell.push('\u{2026}');
    }
}

/// A text that cannot steer the terminal: names and labels come from registries.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|character| if steers(character) { '?' } else { character }).collect()
}

/// Whether a character does something on a terminal instead of being shown: controls, and those that change the order,
/// the lines or the look of what stands around them.
pub(super) fn steers(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    character.is_control() || is_format
}

/// `100 %`, `33.33 %`, `5 %`; what is possible is never shown as 0, and what is not sure never as 100.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 {
        return "<0.01 %".to_owned();
    }
    if percent > 99.99 && percent < 100.0 {
        return ">99.99 %".to_owned();
    }
    let text = format!("{percent:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_ends_early_and_the_last_one_does_not() {
        let mut table = Table::new(&["LABELS", "STATE", "REASONS"]);
        let long = "\u{e4}".repeat(MAX_CELL_CHARS + 1);
        table.row([long.clone(), "ok".into(), long.clone()]);
        table.row([long[..2 * MAX_CELL_CHARS].to_owned(), "ok".into(), String::new()]);
        let shortened = format!("{}\u{2026}", &long[..2 * (MAX_CELL_CHARS - 1)]);
        let rendered = table.render();
        let rows: Vec<&str> = rendered.lines().skip(1).collect();
        assert_eq!(rows[0], format!("{shortened}  ok     {long}"));
        assert_eq!(rows[1], format!("{}  ok     -", &long[..2 * MAX_CELL_CHARS]));
    }

    #[test]
    fn no_cell_is_too_long_for_a_table() {
        let mut table = Table::new(&["NAME", "REASONS"]);
        let long = "x".repeat(200_000);
        table.row([long.clone(), long.clone()]);
        assert!(table.render().ends_with(&long));
    }

    #[test]
    fn columns_are_aligned_and_cannot_steer_the_terminal() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["users".into(), "ok".into()]);
        table.row(["a\u{1b}[2J".into(), String::new()]);
        insta::assert_snapshot!(table.render(), @"
NAME   STATE
users  ok
a?[2J  -
");
    }
}
