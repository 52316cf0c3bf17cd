//! Tables that look right at 80 columns: what people copy is never cut, what they only read is, and what they can do
//! without is left out first.
//!
//! It knows columns and text. Which text is `workflow.rs`'s and `execution.rs`'s to say.

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Width, presets};

use super::text;

/// What happens to a column when the terminal is narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Never cut: an id that is copied.
    Whole(&'static str),
    /// Cut with `…`.
    Flexible(&'static str),
    /// Left out, the last one first, before anything is cut.
    Optional(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Whole(name) | Self::Flexible(name) | Self::Optional(name) => name,
        }
    }
}

/// Rows of text under named columns.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell per column. Its text may come from outside: it is escaped here.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for every column");
        self.rows.push(cells.iter().map(|cell| text::escape(cell)).collect());
    }

    /// The table in lines of at most `width` characters where the columns that are never cut allow it; without a width
    /// (no terminal) everything in full. It has ANSI colours: the stream that it is written to keeps or drops them.
    pub fn render(&self, width: Option<u16>) -> String {
        let shown = self.shown_columns(width);
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).enforce_styling();
        match width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let heading = |index: &usize| Cell::new(self.columns[*index].name()).add_attribute(Attribute::Bold);
        table.set_header(shown.iter().map(heading).collect::<Vec<_>>());
        for row in &self.rows {
            let mut cells = comfy_table::Row::from(shown.iter().map(|index| painted(&row[*index])).collect::<Vec<_>>());
            cells.max_height(1);
            table.add_row(cells);
        }
        for (position, index) in shown.iter().enumerate() {
            let column = table.column_mut(position).expect("the header has given the table all its columns");
            column.set_padding((0, if position + 1 == shown.len() { 0 } else { GAP }));
            match (self.columns[*index], width) {
                (Column::Flexible(_), Some(width)) => {
                    column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(width)));
                }
                _ => {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// Indices of the columns that have room, if flexible ones are cut to a readable rest.
    fn shown_columns(&self, width: Option<u16>) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let Some(width) = width.map(usize::from) else { return shown };
        while shown.iter().map(|index| self.least_width(*index) + usize::from(GAP)).sum::<usize>()
            > width + usize::from(GAP)
        {
            let Some(last) = shown.iter().rposition(|index| matches!(self.columns[*index], Column::Optional(_))) else {
                break;
            };
            shown.remove(last);
        }
        shown
    }

    fn least_width(&self, index: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[index].chars().count());
        let widest = cells.chain([self.columns[index].name().len()]).max().unwrap_or(0);
        if matches!(self.columns[index], Column::Flexible(_)) { widest.min(FLEXIBLE_LEAST) } else { widest }
    }
}

/// Statuses have the same colours everywhere.
fn painted(text: &str) -> Cell {
    let cell = Cell::new(text);
    match text.split(' ').next().unwrap_or_default() {
        "COMPLETED" => cell.fg(Color::Green),
        "FAILED" | "TIMED_OUT" => cell.fg(Color::Red),
        "BLOCKED" | "CANCELLED" | "PAUSED" | "DRAFT" => cell.fg(Color::Yellow),
        "RUNNING" | "RETRYING" => cell.fg(Color::Cyan),
        _ => cell,
    }
}

const GAP: u16 = 2;
const FLEXIBLE_LEAST: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table, width: Option<u16>) -> String {
        anstream::adapter::strip_str(&table.render(width))
            .to_string()
            .lines()
            .map(|line| line.trim_end().to_owned() + "\n")
            .collect()
    }

    fn executions() -> Table {
        let mut table = Table::new(&[
            Column::Whole("EXECUTION"),
            Column::Flexible("WORKFLOW"),
            Column::Whole("STATUS"),
            Column::Whole("STARTED"),
            Column::Optional("TOOK"),
        ]);
        let row = |id: &str, workflow: &str, status: &str| {
            vec![id.into(), workflow.into(), status.into(), "14:03:12, 2m ago".into(), "1m 04s".into()]
        };
        table.row(row("0199f3c1-7d2e-7000-8000-000000000001", "nightly-release-of-everything", "RUNNING 45%"));
        table.row(row("0199f3c1-7d2e-7000-8000-000000000002", "b\x1b[2J", "FAILED"));
        table
    }

    #[test]
    fn at_80_columns_ids_stay_whole_and_names_are_cut() {
        let shown = plain(&executions(), Some(80));
        assert_eq!(
            shown,
            "EXECUTION                             WORKFLOW     STATUS       STARTED\n\
             0199f3c1-7d2e-7000-8000-000000000001  nightly-re…  RUNNING 45%  14:03:12, 2m ago\n\
             0199f3c1-7d2e-7000-8000-000000000002  b\\x1b[2J     FAILED       14:03:12, 2m ago\n"
        );
        assert!(shown.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn in_a_pipe_nothing_is_cut_or_left_out() {
        let shown = plain(&executions(), None);
        assert!(shown.contains("nightly-release-of-everything  RUNNING 45%  14:03:12, 2m ago  1m 04s\n"), "{shown}");
    }
}
