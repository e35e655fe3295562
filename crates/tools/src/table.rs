//! Tables that programs print for people: columns two spaces apart, numbers to the right, no frame, and no
//! line that the library wraps.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Row, Table, presets};

/// Spaces between two columns.
const GAP: u16 = 2;

/// A column: its title, and the side that its cells keep to.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }

    fn alignment(self) -> CellAlignment {
        match self {
            Self::Left(_) => CellAlignment::Left,
            Self::Right(_) => CellAlignment::Right,
        }
    }
}

/// The lines of a table, each ended, without spaces at the end. The titles are left out unless
/// `has_titles`; control characters in cells become spaces.
#[must_use]
pub fn table<const N: usize>(
    columns: [Column; N],
    rows: impl IntoIterator<Item = [String; N]>,
    has_titles: bool,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if has_titles {
        table.add_row(row(columns, columns.map(|column| column.title().to_owned())));
    }
    for cells in rows {
        table.add_row(row(columns, cells));
    }
    if table.is_empty() {
        return String::new();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn row<const N: usize>(columns: [Column; N], cells: [String; N]) -> Row {
    let cells = columns.into_iter().zip(cells).map(|(column, text)| {
        Cell::new(text.replace(char::is_control, " ")).set_alignment(column.alignment())
    });
    Row::from(cells.collect::<Vec<_>>())
}

/// A text of at most `chars_max` characters: the end of a longer one is left out, which `…` shows.
#[must_use]
pub fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
            format!("{kept}…")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_two_spaces_apart_and_numbers_keep_to_the_right() {
        let columns = [Column::Left("NAME"), Column::Right("COUNT"), Column::Left("WORDS")];
        let rows = || {
            [["a", "7", "x y\nz"], ["longer", "123456", ""]].map(|cells| cells.map(str::to_owned))
        };
        let with_titles = "NAME     COUNT  WORDS\na            7  x y z\nlonger  123456\n";
        assert_eq!(table(columns, rows(), true), with_titles);
        assert_eq!(table(columns, rows(), false), "a            7  x y z\nlonger  123456\n");
        assert_eq!(table(columns, [], false), "");
    }

    #[test]
    fn texts_are_cut_at_their_end() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("äöüß", 2), "ä…");
    }
}
