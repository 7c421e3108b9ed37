//! Rows of a table in a file: JSON Lines or CSV, read one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::columns::Row;
use super::open_regular;
use crate::DataError;

/// No line of a table is longer; a file without line ends is not read into memory.
const LONGEST_LINE: u64 = 1 << 20;

/// Problems of a table that are told one by one; after so many the file is not what it should be.
const MOST_PROBLEMS: usize = 20;

/// Gives every row with its line number to `take`, which may find fault with it. All faulty lines are in the one error.
pub(super) fn for_each_row(
    path: &Path,
    mut take: impl FnMut(usize, Row) -> Result<(), String>,
) -> Result<(), DataError> {
    let file = open_regular(path).map_err(|e| DataError::source_file(path, None, e.to_string()))?;
    let mut problems = Problems { path, errors: Vec::new(), more: 0 };
    let is_csv = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    match is_csv {
        true => {
            check_quotes(BufReader::new(&file), &mut problems);
            match (&file).seek(SeekFrom::Start(0)) {
                Ok(_) if problems.errors.is_empty() => csv_rows(file, &mut problems, &mut take),
                Ok(_) => {}
                Err(error) => problems.add(1, error.to_string()),
            }
        }
        false => json_lines(BufReader::new(file), &mut problems, &mut take),
    }
    problems.into_result()
}

struct Problems<'a> {
    path: &'a Path,
    errors: Vec<DataError>,
    more: usize,
}

impl Problems<'_> {
    fn add(&mut self, line: usize, reason: String) {
        match self.errors.len() < MOST_PROBLEMS {
            true => self.errors.push(DataError::source_file(self.path, Some(line), reason)),
            false => self.more += 1,
        }
    }

    fn into_result(mut self) -> Result<(), DataError> {
        if self.more > 0 {
            let reason = format!("{} more lines are faulty", self.more);
            self.errors.push(DataError::source_file(self.path, None, reason));
        }
        DataError::all(self.errors)
    }
}

type Take<'a> = &'a mut dyn FnMut(usize, Row) -> Result<(), String>;

fn json_lines(mut reader: impl BufRead, problems: &mut Problems<'_>, take: Take<'_>) {
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes) {
            Ok(0) => return,
            Ok(length) if length as u64 == LONGEST_LINE && !bytes.ends_with(b"\n") => {
                return problems.add(number, format!("the line is longer than {LONGEST_LINE} bytes"));
            }
            Ok(_) => {}
            Err(error) => return problems.add(number, error.to_string()),
        }
        let line = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes).trim_ascii();
        if line.is_empty() {
            continue;
        }
        let outcome = match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(row)) => take(number, row),
            Ok(_) => Err("is JSON but no table: a line is `{\"file_name\": …, \"text\": …}`".to_owned()),
            Err(error) => Err(format!("is no JSON: {}", without_place(&error))),
        };
        if let Err(reason) = outcome {
            problems.add(number, reason);
        }
    }
}

/// serde_json's message without its "at line 1 column 7"; the line would be that of the line alone.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("{reason}, at character {}", error.column())
}

/// Finds quotes that are never closed, or closed in the middle of a cell. The reader of the rows takes either for text, up to the
/// next quote or the end of the file, and the rows in between are gone.
fn check_quotes(mut reader: impl BufRead, problems: &mut Problems<'_>) {
    #[derive(PartialEq)]
    enum At {
        CellStart,
        Plain,
        /// In quotes that were opened on this line.
        Quoted(usize),
        /// Behind a quote that ends the cell or is the first half of one that is text; where the cell's quotes were opened.
        Quote(usize),
        /// Behind it and blanks.
        Behind(usize),
    }
    let (mut at, mut line) = (At::CellStart, 1);
    loop {
        let bytes = match reader.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) => return problems.add(line, error.to_string()),
        };
        if bytes.is_empty() {
            break;
        }
        for &byte in bytes {
            at = match (at, byte) {
                (At::Quoted(opened), b'"') => At::Quote(opened),
                (At::Quoted(opened), _) => At::Quoted(opened),
                (At::Quote(opened), b'"') => At::Quoted(opened),
                (_, b',' | b'\n' | b'\r') => At::CellStart,
                (At::Quote(opened) | At::Behind(opened), b' ' | b'\t') => At::Behind(opened),
                (At::Quote(opened) | At::Behind(opened), _) => {
                    let reason =
                        "begins a cell with a quote that is closed before its end: a quote within quotes is doubled";
                    problems.add(opened, reason.to_owned());
                    At::Plain
                }
                (At::CellStart, b'"') => At::Quoted(line),
                // A byte order mark.
                (At::CellStart, 0xEF | 0xBB | 0xBF) if line == 1 => At::CellStart,
                (At::CellStart | At::Plain, _) => At::Plain,
            };
            line += usize::from(byte == b'\n');
        }
        let length = bytes.len();
        reader.consume(length);
    }
    if let At::Quoted(opened) = at {
        problems.add(opened, "opens a quote that is never closed".to_owned());
    }
}

fn csv_rows(file: File, problems: &mut Problems<'_>, take: Take<'_>) {
    // The reader skips a byte order mark by itself.
    let mut reader = csv::ReaderBuilder::new().from_reader(file);
    let columns: Vec<String> = match reader.headers() {
        Ok(headers) => headers.iter().map(|name| name.trim().to_owned()).collect(),
        Err(error) => return problems.add(1, csv_reason(&error)),
    };
    if let Some((_, twice)) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
        return problems.add(1, format!("names the column `{twice}` twice"));
    }
    let mut record = csv::StringRecord::new();
    loop {
        let outcome = match reader.read_record(&mut record) {
            Ok(false) => return,
            Ok(true) => {
                let cells = columns.iter().cloned().zip(record.iter().map(|cell| Value::String(cell.to_owned())));
                let line = record.position().map_or(0, |position| position.line() as usize);
                take(line, cells.collect()).map_err(|reason| (line, reason))
            }
            Err(error) => {
                let line = error.position().map_or(0, |position| position.line() as usize);
                let reason = csv_reason(&error);
                if matches!(error.kind(), csv::ErrorKind::Io(_)) {
                    return problems.add(line, reason);
                }
                Err((line, reason))
            }
        };
        if let Err((line, reason)) = outcome {
            problems.add(line, reason);
        }
    }
}

fn csv_reason(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} cells, and the first line names {expected_len} columns")
        }
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let mut problems = Problems { path: Path::new("t.csv"), errors: Vec::new(), more: 0 };
        check_quotes(text.as_bytes(), &mut problems);
        problems
            .errors
            .iter()
            .map(|error| error.to_string().chars().skip("`t.csv`:".len()).take(10).collect())
            .collect()
    }

    #[test]
    fn quotes_that_end_where_their_cells_do_are_fine() {
        for text in [
            "a,b\nc,\"d\"\n",
            "a,b\r\n\"c\",\"d, \"\"e\"\" \nf\"\r\n",
            "\u{feff}\"a\",b\nc,\"\"",
            "a,b\nc,5\" disk\nd,e\"\n",
            "a,b\n\"c\" ,\"d\" \n",
            "",
        ] {
            assert_eq!(faults(text), [""; 0], "{text:?}");
        }
    }

    #[test]
    fn a_quote_that_takes_in_the_rows_behind_it_is_named_with_its_line() {
        assert_eq!(faults("a,b\nc,\"d\ne,f\n"), ["2: opens a"]);
        assert_eq!(faults("a,b\nc,\"d\ne,\"f\"\ng,\"h\n"), ["2: begins ", "4: opens a"]);
        assert_eq!(faults("a,b\n\"c\" \"d\",e\n"), ["2: begins "]);
        assert_eq!(faults("a,b\nc,\"d\"\"\n"), ["2: opens a"]);
    }
}
