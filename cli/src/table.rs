//! What lists print: an aligned table, JSON, or a template for each row.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::stdio;
use crate::template::Template;

/// A row: its fields by the names that templates use.
pub(crate) type Row = Map<String, Value>;

/// A list's columns, in order: the header and the template of the cell.
pub(crate) type Columns<'a> = &'a [(&'a str, &'a str)];

/// In the place of what nobody counts, as Docker has it.
pub(crate) const UNKNOWN: &str = "N/A";

/// How a list is printed, as `--format` says.
#[derive(Debug)]
pub(crate) enum Format {
    /// The table that the command has.
    Table,
    /// `json`: an object a line.
    Json,
    /// `table TEMPLATE`
    TableOf(Template),
    /// `TEMPLATE`
    Each(Template),
}

impl Format {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None | Some("" | "table") => Self::Table,
            Some("json") => Self::Json,
            Some(text) => match text.strip_prefix("table") {
                Some(template) => Self::TableOf(Template::parse(
                    &template.trim_start_matches(' ').replace("\\t", "\t"),
                )?),
                None => Self::Each(Template::parse(
                    &text.replace("\\t", "\t").replace("\\n", "\n"),
                )?),
            },
        })
    }

    /// Prints a list.
    pub(crate) fn print(&self, columns: Columns<'_>, rows: &[Row]) -> Result<()> {
        stdio::out(self.text(columns, rows)?);
        Ok(())
    }

    fn text(&self, columns: Columns<'_>, rows: &[Row]) -> Result<String> {
        match self {
            Self::Table => {
                let cells: Vec<String> = columns
                    .iter()
                    .map(|(_, field)| format!("{{{{.{field}}}}}"))
                    .collect();
                let header = columns
                    .iter()
                    .map(|(title, _)| (*title).to_owned())
                    .collect();
                table(header, &Template::parse(&cells.join("\t"))?, rows)
            }
            Self::Json => {
                let lines = rows.iter().map(|row| format!("{}\n", object(row)));
                Ok(lines.collect())
            }
            Self::TableOf(template) => table(header(template, columns)?, template, rows),
            Self::Each(template) => {
                let mut text = String::new();
                for row in rows {
                    text.push_str(&template.render_row(row)?);
                    text.push('\n');
                }
                Ok(text)
            }
        }
    }
}

/// A row as JSON has it: sorted by the names of its fields, as Docker's.
pub(crate) fn object(row: &Row) -> Value {
    let mut object = Value::Object(row.clone());
    object.sort_all_objects();
    object
}

/// The header of a table template: the template itself, on a row of the columns' titles.
fn header(template: &Template, columns: Columns<'_>) -> Result<Vec<String>> {
    let titles: Row = template
        .fields()
        .into_iter()
        .map(|field| {
            let known = columns.iter().find(|(_, name)| *name == field);
            let title = known.map_or_else(|| words(&field), |(title, _)| (*title).to_owned());
            (field, title.into())
        })
        .collect();
    let line = template.render_row(&titles)?;
    Ok(line.split('\t').map(str::to_owned).collect())
}

/// `CreatedAt` → `CREATED AT`
fn words(field: &str) -> String {
    let mut words = String::new();
    let mut before = 'A';
    for character in field.chars() {
        if character.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.extend(character.to_uppercase());
        before = character;
    }
    words
}

fn table(header: Vec<String>, template: &Template, rows: &[Row]) -> Result<String> {
    let mut lines = vec![header];
    for row in rows {
        let line = template.render_row(row)?;
        lines.push(line.split('\t').map(stdio::escape_line).collect());
    }
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // As Docker aligns them: three spaces between columns, and none of less than ten characters.
            let width = (width + 3).max(10);
            padded.push_str(&format!("{cell:width$}"));
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// The first `length` characters, with an ellipsis where some are missing.
pub(crate) fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The 12 digits that people use for an ID.
pub(crate) fn short_id(id: &str) -> String {
    id.strip_prefix("sha256:")
        .unwrap_or(id)
        .chars()
        .take(12)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<Row> {
        [
            json!({"Tag": "1", "Size": "1MB"}),
            json!({"Tag": "latest", "Size": "10MB"}),
        ]
        .into_iter()
        .map(|row| row.as_object().unwrap().clone())
        .collect()
    }

    const COLUMNS: Columns<'_> = &[("TAG", "Tag"), ("DISK", "Size")];

    #[test]
    fn lists_in_every_format() {
        let one = |format| {
            Format::parse(format)
                .unwrap()
                .text(COLUMNS, &rows())
                .unwrap()
        };
        assert_eq!(one(None), "TAG       DISK\n1         1MB\nlatest    10MB\n");
        assert_eq!(
            one(Some("json")),
            "{\"Size\":\"1MB\",\"Tag\":\"1\"}\n{\"Size\":\"10MB\",\"Tag\":\"latest\"}\n"
        );
        assert_eq!(one(Some("{{json .}}")), one(Some("json")));
        assert_eq!(one(Some("{{.Tag}}\\t{{.Size}}")), "1\t1MB\nlatest\t10MB\n");
        assert_eq!(
            one(Some("table {{.Size}}\\t{{.Tag}}")),
            "DISK      TAG\n1MB       1\n10MB      latest\n"
        );
        let unknown = Format::parse(Some("{{.Nope}}")).unwrap();
        assert!(unknown.text(COLUMNS, &rows()).is_err());
    }

    #[test]
    fn text_is_cut_to_length() {
        assert_eq!(words("CreatedAt"), "CREATED AT");
        assert_eq!(words("ID"), "ID");
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abcde…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
