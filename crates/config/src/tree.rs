//! TOML values that remember the file and line they were written in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeFloat, DeInteger, DeTable, DeValue};
use toml::{Spanned, Value};

use crate::problem::Problem;

/// Where a value was written.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// In a file, named as the user named it.
    File(Arc<Path>),
    /// On the command line; holds the whole `key=value`.
    Override(Arc<str>),
}

/// Source and line of a value.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub source: Source,
    pub line: Option<usize>,
    /// 0 on the command line, 1 in the file itself, 2 in a file that it extends, and so on; of a file with layers as `Layers` says.
    pub distance: usize,
}

impl Origin {
    /// A problem at this place.
    pub fn problem(&self, message: String) -> Problem {
        match &self.source {
            Source::File(path) => Problem { file: Some(PathBuf::from(&**path)), line: self.line, message, hint: None },
            Source::Override(text) => Problem::new(format!("`--set {}`: {message}", printable(text))),
        }
    }

    pub fn is_override(&self) -> bool {
        matches!(self.source, Source::Override(_))
    }

    /// Folder that relative paths written here are relative to.
    pub fn folder(&self) -> PathBuf {
        let current = || std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        match &self.source {
            Source::File(path) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                std::path::absolute(current().join(folder)).unwrap_or_else(|_| folder.to_owned())
            }
            Source::Override(_) => current(),
        }
    }
}

/// `text` with its control characters escaped, line breaks left aside: what was typed must not move the cursor of who reads the message.
fn printable(text: &str) -> String {
    let escaped = |letter: char| match letter.is_control() && letter != '\n' {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub origin: Origin,
    pub value: NodeValue,
}

#[derive(Debug, Clone)]
pub(crate) enum NodeValue {
    /// Text, a number, true or false, or a date.
    Leaf(Value),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

/// The key that chooses what a table is; another choice starts the table afresh when configurations are merged.
const TYPE_KEY: &str = "type";

impl Node {
    pub fn empty_table(origin: Origin) -> Node {
        Node { origin, value: NodeValue::Table(BTreeMap::new()) }
    }

    /// The plain value, without places.
    pub fn to_value(&self) -> Value {
        match &self.value {
            NodeValue::Leaf(value) => value.clone(),
            NodeValue::List(nodes) => Value::Array(nodes.iter().map(Node::to_value).collect()),
            NodeValue::Table(entries) => {
                Value::Table(entries.iter().map(|(key, node)| (key.clone(), node.to_value())).collect())
            }
        }
    }

    /// The value at a dotted key, or as much of the way as exists.
    pub fn nearest(&self, key: &str) -> &Node {
        let mut node = self;
        for segment in key.split('.').filter(|segment| !segment.is_empty()) {
            let Some(child) = node.child(segment) else { break };
            node = child;
        }
        node
    }

    /// The entry of a table, or the element of a list by its number.
    pub fn child(&self, segment: &str) -> Option<&Node> {
        match &self.value {
            NodeValue::Leaf(_) => None,
            NodeValue::List(nodes) => nodes.get(segment.parse::<usize>().ok()?),
            NodeValue::Table(entries) => entries.get(segment),
        }
    }

    /// The value at a key, given by its segments.
    pub fn find(&self, key: &[&str]) -> Option<&Node> {
        key.iter().try_fold(self, |node, segment| node.child(segment))
    }

    /// Puts everything in it `by` further from the command line.
    pub fn move_away(&mut self, by: usize) {
        self.for_each(&mut |origin| origin.distance += by);
    }

    /// Puts what the command line says one further away.
    pub fn move_overrides_away(&mut self) {
        self.for_each(&mut |origin| origin.distance += usize::from(origin.is_override()));
    }

    /// Puts everything in it at one distance from the command line.
    pub fn set_distance(&mut self, distance: usize) {
        self.for_each(&mut |origin| origin.distance = distance);
    }

    fn for_each(&mut self, change: &mut dyn FnMut(&mut Origin)) {
        change(&mut self.origin);
        match &mut self.value {
            NodeValue::Leaf(_) => {}
            NodeValue::List(nodes) => nodes.iter_mut().for_each(|node| node.for_each(change)),
            NodeValue::Table(entries) => entries.values_mut().for_each(|node| node.for_each(change)),
        }
    }

    /// This value with `over` on top: tables are merged, anything else is replaced.
    pub fn merged_with(self, over: Node) -> Node {
        let same_type = match (self.child(TYPE_KEY), over.child(TYPE_KEY)) {
            (Some(mine), Some(theirs)) => mine.to_value() == theirs.to_value(),
            _ => true,
        };
        match (self.value, over.value) {
            (NodeValue::Table(mut entries), NodeValue::Table(over_entries)) if same_type => {
                for (key, node) in over_entries {
                    let merged = match entries.remove(&key) {
                        Some(mine) => mine.merged_with(node),
                        None => node,
                    };
                    entries.insert(key, merged);
                }
                Node { origin: over.origin, value: NodeValue::Table(entries) }
            }
            (_, value) => Node { origin: over.origin, value },
        }
    }
}

/// More than this say nothing new: the file is something else, or one slip runs through all of it.
const MOST_SYNTAX_ERRORS: usize = 5;

/// Reads a whole file; every mistake of syntax is reported.
pub(crate) fn parse_file(text: &str, path: &Path, distance: usize) -> Result<Node, Vec<Problem>> {
    let source = Source::File(Arc::from(path));
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = errors
        .iter()
        .map(|error| Problem {
            file: Some(path.to_owned()),
            line: error.span().map(|span| lines.line_at(span.start)),
            message: error.message().trim().replace('\n', ", "),
            hint: None,
        })
        .collect();
    // One slip can be met twice, once by the parser and once behind it.
    problems.dedup_by(|a, b| a.line == b.line);
    if !problems.is_empty() {
        let more = problems.len().saturating_sub(MOST_SYNTAX_ERRORS);
        if more > 0 {
            problems.truncate(MOST_SYNTAX_ERRORS);
            let message = format!("{more} more lines are no TOML");
            let hint = Some("is it a configuration at all?".to_owned());
            problems.push(Problem { file: Some(path.to_owned()), line: None, message, hint });
        }
        return Err(problems);
    }
    let mut reader = TreeReader { source: &source, lines: Some(&lines), distance, problems };
    let entries = reader.entries(table.get_ref());
    match reader.problems.is_empty() {
        true => Ok(Node { origin: Origin { source, line: None, distance }, value: NodeValue::Table(entries) }),
        false => Err(reader.problems),
    }
}

/// Reads one value of the command line.
pub(crate) fn parse_override_value(text: &str, argument: &Arc<str>) -> Result<Node, Problem> {
    let source = Source::Override(argument.clone());
    let text = text.trim();
    let quoted_or_nested = text.starts_with(['[', '{', '"', '\'']);
    let mut reader = TreeReader { source: &source, lines: None, distance: 0, problems: Vec::new() };
    let node = match DeValue::parse(text) {
        Ok(value) => reader.node(&value),
        Err(error) if quoted_or_nested => {
            let message = error.message().trim().replace('\n', ", ");
            return Err(Problem::new(format!("`--set {argument}`: {message}"))
                .hint("the value is TOML, and the shell takes away quotes that are not quoted themselves"));
        }
        Err(_) => Node {
            origin: Origin { source: source.clone(), line: None, distance: 0 },
            value: NodeValue::Leaf(Value::String(text.to_owned())),
        },
    };
    match reader.problems.pop() {
        Some(problem) => Err(problem),
        None => Ok(node),
    }
}

struct TreeReader<'a> {
    source: &'a Source,
    lines: Option<&'a Lines>,
    distance: usize,
    problems: Vec<Problem>,
}

impl TreeReader<'_> {
    fn origin(&self, start: usize) -> Origin {
        Origin {
            source: self.source.clone(),
            line: self.lines.map(|lines| lines.line_at(start)),
            distance: self.distance,
        }
    }

    fn entries(&mut self, table: &DeTable<'_>) -> BTreeMap<String, Node> {
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            let mut node = self.node(value);
            // A key's own line is where people look; it differs from the value's in `key =⏎ [ …`
            // and in a table that is only known by its children.
            if !matches!(node.value, NodeValue::Table(_)) {
                node.origin = self.origin(key.span().start);
            }
            entries.insert(key.get_ref().to_string(), node);
        }
        entries
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>) -> Node {
        let origin = self.origin(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => NodeValue::Leaf(Value::String(text.to_string())),
            DeValue::Boolean(truth) => NodeValue::Leaf(Value::Boolean(*truth)),
            DeValue::Datetime(moment) => NodeValue::Leaf(Value::Datetime(*moment)),
            DeValue::Integer(number) => self.leaf(&origin, integer(number), number.as_str()),
            DeValue::Float(number) => self.leaf(&origin, float(number), number.as_str()),
            DeValue::Array(values) => NodeValue::List(values.iter().map(|value| self.node(value)).collect()),
            DeValue::Table(table) => NodeValue::Table(self.entries(table)),
        };
        Node { origin, value }
    }

    fn leaf(&mut self, origin: &Origin, value: Option<Value>, text: &str) -> NodeValue {
        if value.is_none() {
            self.problems.push(origin.problem(format!("the number {text} is too large")));
        }
        NodeValue::Leaf(value.unwrap_or(Value::Integer(0)))
    }
}

fn integer(number: &DeInteger<'_>) -> Option<Value> {
    i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Integer)
}

fn float(number: &DeFloat<'_>) -> Option<Value> {
    number.as_str().parse().ok().map(Value::Float)
}

/// Byte positions to line numbers.
pub(crate) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub fn new(text: &str) -> Lines {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Lines { starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    pub fn line_at(&self, position: usize) -> usize {
        self.starts.partition_point(|&start| start <= position)
    }
}
