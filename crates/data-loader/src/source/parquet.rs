//! Parquet files that hold the images themselves, as Hugging Face's data sets do.
//!
//! Captions are read when the set is opened, images one at a time: pages in front of a row are skipped without being unpacked, so
//! memory holds no more than a page or two a thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::basic::{Compression, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;
use sdtrain_recipe::{SourceFormat, Subset};

use super::columns::{self, CAPTION_COLUMNS};
use super::metadata::listed;
use super::{Container, ExampleSource, ImageLocation, Listing, SourceCaption, SourceExample, SourceKind, shards};
use crate::caption::sidecar;
use crate::{DataError, ImageProblem};

const ENDING: &str = "parquet";
/// Usual names of the column that holds the images.
const IMAGE_COLUMNS: [&str; 7] = ["image", "img", "jpg", "png", "jpeg", "webp", "image_bytes"];
/// Rows whose captions are read at a time.
const ROWS_AT_A_TIME: usize = 1024;
/// Rows of which it is looked at a time whether they hold an image.
const IMAGES_AT_A_TIME: usize = 16;

pub(super) const KIND: SourceKind = SourceKind {
    format: SourceFormat::Parquet,
    recognises: |subset| shards::recognises(subset, ENDING),
    open: |subset| Box::new(Parquet { subset: subset.clone() }),
};

/// Parquet files of images and captions. The image column is Hugging Face's struct of `bytes` and `path`, or plain bytes.
pub struct Parquet {
    subset: Subset,
}

impl ExampleSource for Parquet {
    fn list(&self) -> Result<Listing, DataError> {
        let (files, warnings) = shards::files_of(&self.subset, ENDING)?;
        let mut listing = Listing { warnings, ..Listing::default() };
        let mut errors = Vec::new();
        for path in &files {
            let table = match Table::open(path) {
                Ok(table) => Arc::new(table),
                Err(reason) => {
                    errors.push(DataError::source_file(path, None, reason));
                    continue;
                }
            };
            if let Err(error) = self.take(table, &mut listing) {
                errors.push(error);
            }
        }
        DataError::all(errors)?;
        if listing.examples.is_empty() {
            return Err(DataError::source_file(&self.subset.path, None, "has no rows"));
        }
        Ok(listing)
    }
}

impl Parquet {
    fn take(&self, table: Arc<Table>, listing: &mut Listing) -> Result<(), DataError> {
        let image_column = &self.subset.image_column;
        let fault = |reason: String| DataError::source_file(&table.path, None, reason);
        let names = || format!("its columns are {}", listed(&table.names()));
        let no_column = |key: &str, column: &str| {
            fault(format!("has no column `{column}`, which `{key}` names")).with_hint(names())
        };

        let image = match image_column {
            Some(column) => table.bytes_column(column).ok_or_else(|| no_column("image_column", column))?,
            None => table.usual_image_column().ok_or_else(|| {
                fault("has no column of images that is called as usual".to_owned())
                    .with_hint(format!("set `image_column`; {}", names()))
            })?,
        };
        let mut extras = Vec::new();
        for extra in columns::extra_columns(&self.subset) {
            let column = table.bytes_column(extra.column).ok_or_else(|| no_column(extra.key, extra.column))?;
            extras.push((extra, column));
        }
        // The column of each source of captions.
        let mut captions = Vec::new();
        for (key, column) in columns::caption_columns(&self.subset) {
            captions.push(table.text_column(column).ok_or_else(|| no_column(key, column))?);
        }
        if captions.is_empty() {
            captions.extend(CAPTION_COLUMNS.iter().find_map(|column| table.text_column(column)));
        }
        let read = extras.iter().map(|(_, column)| *column).chain(captions.iter().copied());
        for column in read.chain([image]) {
            table.check_compression(column)?;
        }
        listing.caption_hint = Some(format!("set `caption_column`; {}", names()));

        let images: Arc<dyn Container> = Arc::new(Column::new(table.clone(), image));
        let mut extra_columns: Vec<(&str, Arc<dyn Container>, BTreeSet<u64>)> = Vec::new();
        for (extra, column) in &extras {
            let absent =
                if extra.may_be_absent() { table.rows_without(*column).map_err(&fault)? } else { BTreeSet::new() };
            extra_columns.push((extra.name, Arc::new(Column::new(table.clone(), *column)), absent));
        }
        let mut of_rows: Vec<Vec<SourceCaption>> = vec![Vec::new(); table.rows as usize];
        for (source, column) in captions.into_iter().enumerate() {
            for (row, texts) in
                table.texts(column).map_err(&fault)?.into_iter().enumerate().filter(|(_, t)| !t.is_empty())
            {
                match columns::checked(&texts.join("\n")) {
                    Ok(text) => of_rows[row].push(SourceCaption { source, text }),
                    Err(reason) => {
                        listing.broken_captions.push(ImageProblem { path: path_of(&table, row), reason });
                    }
                }
            }
        }
        for (row, captions) in of_rows.into_iter().enumerate() {
            let path = path_of(&table, row);
            let mut extra_images = BTreeMap::new();
            for (name, container, absent) in &extra_columns {
                if !absent.contains(&(row as u64)) {
                    let location = ImageLocation::part(path.join(name), container.clone(), row as u64);
                    extra_images.insert((*name).to_owned(), location);
                }
            }
            listing.examples.push(SourceExample {
                image: ImageLocation::part(path, images.clone(), row as u64),
                captions,
                extra_images,
            });
        }
        Ok(())
    }
}

/// The name of a row: as many digits as every file can need, so that byte order is the order of the rows.
fn path_of(table: &Table, row: usize) -> PathBuf {
    table.path.join(format!("{row:09}"))
}

/// A file and what its footer says.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    metadata: ParquetMetaData,
    /// First row of each row group.
    starts: Vec<u64>,
    rows: u64,
}

impl Table {
    fn open(path: &Path) -> Result<Table, String> {
        let metadata = without_panic(|| {
            let file = File::open(path).map_err(|e| e.to_string())?;
            let length = file.metadata().map_err(|e| e.to_string())?.len();
            let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(reason_of)?;
            check_claims(&metadata, length)?;
            Ok(metadata)
        })?;
        let mut starts = Vec::new();
        let mut rows = 0;
        for group in metadata.row_groups() {
            starts.push(rows);
            rows += group.num_rows() as u64;
        }
        Ok(Table { path: path.to_owned(), metadata, starts, rows })
    }

    /// Names of all columns, those of a struct as one.
    fn names(&self) -> Vec<String> {
        let schema = self.metadata.file_metadata().schema_descr();
        schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect()
    }

    /// The leaves of a column, by number, with what their path adds to its name.
    fn leaves<'a>(&'a self, column: &'a str) -> impl Iterator<Item = (usize, String)> + 'a {
        let leaves = self.metadata.file_metadata().schema_descr().columns().iter().enumerate();
        leaves.filter(|(_, leaf)| leaf.physical_type() == Type::BYTE_ARRAY).filter_map(move |(number, leaf)| {
            let rest = leaf.path().string();
            let rest = rest.strip_prefix(column)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| (number, rest.to_owned()))
        })
    }

    /// The leaf with the bytes of the images in a column.
    fn bytes_column(&self, column: &str) -> Option<usize> {
        let is_single =
            |number: usize| self.metadata.file_metadata().schema_descr().column(number).max_rep_level() == 0;
        self.leaves(column)
            .find(|(number, rest)| (rest.is_empty() || rest == ".bytes") && is_single(*number))
            .map(|(number, _)| number)
    }

    /// The first column with a usual name, or else the only struct with `bytes`.
    fn usual_image_column(&self) -> Option<usize> {
        if let Some(number) = IMAGE_COLUMNS.iter().find_map(|column| self.bytes_column(column)) {
            return Some(number);
        }
        let names = self.names();
        let mut structs = names.iter().filter_map(|name| {
            self.leaves(name).find(|(number, rest)| rest == ".bytes" && self.bytes_column(name) == Some(*number))
        });
        let only = structs.next()?.0;
        structs.next().is_none().then_some(only)
    }

    /// The leaf of a column of texts, or of lists of texts.
    fn text_column(&self, column: &str) -> Option<usize> {
        let mut leaves = self.leaves(column);
        let (number, _) = leaves.next()?;
        leaves.next().is_none().then_some(number)
    }

    fn check_compression(&self, column: usize) -> Result<(), DataError> {
        for group in self.metadata.row_groups() {
            if group.column(column).compression() == Compression::LZO {
                let reason = "is compressed with LZO, which is not read";
                let hint = "write it anew with `compression=\"snappy\"`; images do not get smaller anyway".to_owned();
                return Err(DataError::source_file(&self.path, None, reason).with_hint(hint));
            }
        }
        Ok(())
    }

    /// The rows of a column of images that hold none. The footer mostly says that there are none of these; else the column is read.
    fn rows_without(&self, column: usize) -> Result<BTreeSet<u64>, String> {
        let has_none = |group: &RowGroupMetaData| {
            let nulls = group.column(column).statistics().and_then(|statistics| statistics.null_count_opt());
            nulls == Some(0)
        };
        let full = self.metadata.file_metadata().schema_descr().column(column).max_def_level();
        if full == 0 || self.metadata.row_groups().iter().all(has_none) {
            return Ok(BTreeSet::new());
        }
        without_panic(|| {
            let mut without = BTreeSet::new();
            for (group, &start) in self.starts.iter().enumerate() {
                let mut reader = self.reader(group, column).map_err(|e| e.to_string())?;
                let mut row = start;
                loop {
                    let (mut present, mut values) = (Vec::new(), Vec::new());
                    let (records, ..) = reader
                        .read_records(IMAGES_AT_A_TIME, Some(&mut present), None, &mut values)
                        .map_err(reason_of)?;
                    if records == 0 {
                        break;
                    }
                    without.extend((row..).zip(&present).filter(|(_, depth)| **depth < full).map(|(row, _)| row));
                    row += records as u64;
                }
            }
            Ok(without)
        })
    }

    /// The texts of every row: none where the cell is empty, several for a list.
    fn texts(&self, column: usize) -> Result<Vec<Vec<String>>, String> {
        without_panic(|| {
            let mut rows: Vec<Vec<String>> = Vec::new();
            for (group, &start) in self.starts.iter().enumerate() {
                let mut reader = self.reader(group, column).map_err(|e| e.to_string())?;
                let full = self.metadata.file_metadata().schema_descr().column(column).max_def_level();
                loop {
                    let (mut present, mut nested, mut values) = (Vec::new(), Vec::new(), Vec::new());
                    let (records, _, levels) = reader
                        .read_records(ROWS_AT_A_TIME, Some(&mut present), Some(&mut nested), &mut values)
                        .map_err(reason_of)?;
                    if records == 0 {
                        break;
                    }
                    let mut values = values.into_iter();
                    for level in 0..levels {
                        if nested.get(level).is_none_or(|&depth| depth == 0) {
                            rows.push(Vec::new());
                        }
                        if present.get(level).is_none_or(|&depth| depth == full) {
                            let value: Option<ByteArray> = values.next();
                            let place = || format!("row {} of its captions", rows.len());
                            let text = value.as_ref().and_then(|value| std::str::from_utf8(value.data()).ok());
                            let text = text.ok_or_else(|| format!("{} is not UTF-8 text", place()))?;
                            // One text can stand for a million rows; it is refused further on for being too long.
                            let text: String = text.chars().take(sidecar::LARGEST as usize + 1).collect();
                            rows.last_mut().ok_or("its lists of captions have no beginning")?.push(text);
                        }
                    }
                }
                let expected = start + self.metadata.row_group(group).num_rows() as u64;
                if rows.len() as u64 != expected {
                    return Err(format!("has {} captions for {expected} rows", rows.len()));
                }
            }
            Ok(rows)
        })
    }

    fn reader(&self, group: usize, column: usize) -> io::Result<ColumnReaderImpl<ByteArrayType>> {
        let file = Arc::new(File::open(&self.path)?);
        let group = self.metadata.row_group(group);
        let rows = group.num_rows() as usize;
        let pages = SerializedPageReader::new(file, group.column(column), rows, None).map_err(io::Error::other)?;
        let leaf = self.metadata.file_metadata().schema_descr().column(column);
        Ok(ColumnReaderImpl::new(leaf, Box::new(pages)))
    }

    fn cell(&self, column: usize, row: u64) -> io::Result<Vec<u8>> {
        let group = self.starts.partition_point(|&start| start <= row).saturating_sub(1);
        let in_group = (row - self.starts[group]) as usize;
        let read = || {
            let mut reader = self.reader(group, column)?;
            let skipped = reader.skip_records(in_group).map_err(io::Error::other)?;
            let (mut present, mut values) = (Vec::new(), Vec::new());
            let (records, ..) =
                reader.read_records(1, Some(&mut present), None, &mut values).map_err(io::Error::other)?;
            if skipped != in_group || records != 1 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before this row"));
            }
            let bytes: Option<ByteArray> = values.pop();
            bytes.map(|bytes| bytes.data().to_vec()).ok_or_else(|| io::Error::other("the row holds no image"))
        };
        without_panic(|| Ok(read())).unwrap_or_else(|reason| Err(io::Error::other(reason)))
    }
}

/// Holds the numbers of the footer against the file, before anything is allocated by them.
fn check_claims(metadata: &ParquetMetaData, length: u64) -> Result<(), String> {
    let mut rows = 0_u64;
    for group in metadata.row_groups() {
        rows = rows.saturating_add(u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
        for column in group.columns() {
            let (start, size) = column.byte_range();
            if start.saturating_add(size) > length {
                return Err("says that columns lie behind its end: it is cut off or damaged".to_owned());
            }
        }
    }
    // Every row holds an image, and no image is a single byte.
    if rows > length {
        return Err(format!("says that it has {rows} rows and is only {length} bytes long"));
    }
    Ok(())
}

/// One column of images. The last few that were read stay in memory, since the scan asks for an image's length and for its size.
#[derive(Debug)]
struct Column {
    table: Arc<Table>,
    column: usize,
    recent: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl Column {
    /// Two a thread of a large machine would be wasted on a small one; a miss costs only time.
    const RECENT: usize = 8;

    fn new(table: Arc<Table>, column: usize) -> Column {
        Column { table, column, recent: Mutex::default() }
    }

    fn cell(&self, row: u64) -> io::Result<Arc<Vec<u8>>> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = recent().iter().find(|(known, _)| *known == row) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(self.table.cell(self.column, row)?);
        let mut recent = recent();
        recent.truncate(Column::RECENT - 1);
        recent.push_front((row, bytes.clone()));
        Ok(bytes)
    }
}

impl Container for Column {
    fn file(&self) -> &Path {
        &self.table.path
    }

    fn read(&self, entry: u64) -> io::Result<Vec<u8>> {
        self.cell(entry).map(|bytes| bytes.to_vec())
    }

    fn length(&self, entry: u64) -> io::Result<u64> {
        self.cell(entry).map(|bytes| bytes.len() as u64)
    }

    fn number_in_file(&self, row: u64) -> u64 {
        // A row has an entry in each column; no file has as many rows as a column is given numbers.
        ((self.column as u64) << 40) + row
    }
}

fn reason_of(error: parquet::errors::ParquetError) -> String {
    format!("is damaged or no Parquet file: {error}")
}

/// The reader's panics on hostile files as errors.
fn without_panic<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("is damaged: its reader gave up".to_owned()))
}
