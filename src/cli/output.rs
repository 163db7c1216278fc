//! How answers are printed: tables for people, JSON and YAML for programs, names for shells. Used
//! by every command that prints things; asks nobody.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, Color, Table};
use serde::Serialize;

use super::args::{Global, Output};
use super::failure::Failure;

/// How this run prints.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// Form of the answer.
    pub form: Output,
    /// Whether tables have a heading.
    pub header: bool,
    /// Whether remarks are left out.
    pub quiet: bool,
    /// Whether stdout may be coloured.
    pub colour: bool,
}

/// Heading and content of a column.
pub type Column<T> = (&'static str, fn(&T) -> String);

/// A kind of table: columns for everybody, more for wide windows.
pub struct Columns<'a, T> {
    /// Heading and content.
    pub narrow: &'a [Column<T>],
    /// Shown with `-o wide` as well.
    pub wide: &'a [Column<T>],
    /// What `-o name` prints.
    pub name: fn(&T) -> String,
}

impl Printer {
    /// As the flags, the environment and stdout say.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            form: global.output,
            header: !global.no_header,
            quiet: global.quiet,
            colour: !plain && std::io::stdout().is_terminal(),
        }
    }

    /// Prints a list: `whole` for programs, `items` for people.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn list<T>(
        &self,
        whole: &impl Serialize,
        items: &[T],
        columns: &Columns<'_, T>,
    ) -> Result<(), Failure> {
        match self.form {
            Output::Json | Output::Yaml => self.data(whole),
            Output::Name => {
                let names: String = items
                    .iter()
                    .map(|item| (columns.name)(item) + "\n")
                    .collect();
                out(&names)
            }
            Output::Table => self.table(items, columns.narrow),
            Output::Wide => self.table(items, &[columns.narrow, columns.wide].concat()),
        }
    }

    /// Prints a value for programs.
    ///
    /// # Errors
    /// When stdout is closed.
    pub fn data(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = if self.form == Output::Yaml {
            serde_yaml::to_string(value).map_err(|error| Failure::new(error, ""))?
        } else {
            serde_json::to_string_pretty(value).map_err(|error| Failure::new(error, ""))? + "\n"
        };
        out(&text)
    }

    /// A remark for people, on stderr.
    pub fn remark(&self, text: &str) {
        if !self.quiet {
            note(text);
        }
    }

    fn table<T>(&self, items: &[T], columns: &[Column<T>]) -> Result<(), Failure> {
        let mut grid = Grid::new(self.colour);
        if self.header {
            grid.row(columns.iter().map(|(heading, _)| (*heading).to_owned()));
        }
        for item in items {
            grid.row(columns.iter().map(|(_, content)| content(item)));
        }
        out(&grid.text(""))
    }
}

/// Aligned columns without lines.
pub struct Grid {
    table: Table,
    colour: bool,
}

impl Grid {
    /// An empty grid.
    #[must_use]
    pub fn new(colour: bool) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        Self { table, colour }
    }

    /// Adds a row; words that say how things are get their colour.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|text| {
            let text = clean(&text);
            match colour_of(&text).filter(|_| self.colour) {
                Some(colour) => Cell::new(text).fg(colour),
                None => Cell::new(text),
            }
        });
        self.table.add_row(cells.collect::<Vec<Cell>>());
    }

    /// The lines, each after `indent`.
    #[must_use]
    pub fn text(&mut self, indent: &str) -> String {
        if self.table.is_empty() {
            return String::new();
        }
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines = self.table.lines();
        lines
            .map(|line| format!("{indent}{}\n", line.trim_end()))
            .collect()
    }
}

fn colour_of(word: &str) -> Option<Color> {
    match word {
        "healthy" | "synced" | "live" => Some(Color::Green),
        "behind" | "progressing" | "assigned" | "pulling" | "starting" | "waiting"
        | "superseded" => Some(Color::Yellow),
        "quarantined" | "unknown" | "degraded" | "blocked" | "unhealthy" | "backoff" | "failed"
        | "exited" => Some(Color::Red),
        _ => None,
    }
}

/// A word in its colour, outside of a grid.
#[must_use]
pub fn paint(word: &str, colour: bool) -> String {
    let code = match colour_of(word).filter(|_| colour) {
        Some(Color::Green) => 32,
        Some(Color::Yellow) => 33,
        Some(Color::Red) => 31,
        _ => return word.to_owned(),
    };
    format!("\u{1b}[{code}m{word}\u{1b}[0m")
}

/// A text from a repository or a job, without what could move a terminal's cursor.
#[must_use]
pub fn clean(text: &str) -> String {
    let plain = |c: char| if c == '\t' { ' ' } else { c };
    text.chars()
        .map(plain)
        .filter(|c| !c.is_control())
        .collect()
}

/// Writes data. A reader that has gone away (`viking events | head`) is an error like any other.
///
/// # Errors
/// When stdout is closed.
pub fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes progress or a remark; nobody to read it is fine.
pub fn note(text: &str) {
    let written = writeln!(std::io::stderr().lock(), "{text}");
    drop(written);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cannot_move_the_cursor() {
        let mut grid = Grid::new(false);
        grid.row(["STACK".to_owned(), "WHY".to_owned()]);
        grid.row(["a".to_owned(), "\u{1b}[2Jfine\n".to_owned()]);
        assert_eq!(grid.text("  "), "  STACK  WHY\n  a      [2Jfine\n");
    }
}
