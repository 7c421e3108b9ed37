//! Python pickles as data: tensors and plain containers, and everything else refused by its name. Nothing is imported, called or run; what
//! a pickle asks for is compared with the few names that PyTorch writes for a tensor.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::Dtype;
use crate::header::MAX_NAME_BYTES;
use crate::pickle_names::{DISCARDED, PARAMETER_DICT, is_known, storage_dtype};

/// What a pickle may grow to before it is refused, some hundred megabytes: a model's has some hundred thousand values.
const MOST_VALUES: usize = 4_000_000;
/// More than any function takes.
const MOST_ARGUMENTS: usize = 16;
/// Bytes of a name that take as much memory as a value.
const NAME_BYTES_PER_VALUE: usize = 64;
/// How the reason begins where a pickle ends too early.
pub(crate) const ENDS_EARLY: &str = "it ends in the middle of";
/// torch's own limit.
const MOST_DIMENSIONS: usize = 64;

/// A value on the stack. Containers are places in [`Pickle::containers`], so that one that holds itself, or a million that hold each
/// other, cost nothing to let go.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    /// A list, tuple or set.
    Sequence(usize),
    /// A dictionary of any kind.
    Dictionary(usize),
    /// A class or function, by module and name.
    Global(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorView>),
    /// Something of no use here: a float, bytes, a number past 64 bits.
    Other,
}

/// Numbers of a tensor in the file, or of several.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) dtype: Dtype,
    /// Its name inside the file.
    pub(crate) key: Rc<str>,
    /// How many numbers it should have.
    pub(crate) elements: usize,
}

/// A part of a storage; all numbers count elements.
#[derive(Debug)]
pub(crate) struct TensorView {
    pub(crate) storage: Rc<Storage>,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) stride: Vec<usize>,
}

#[derive(Debug)]
pub(crate) enum Container {
    Sequence(Vec<Value>),
    Dictionary(Vec<(Value, Value)>),
}

/// One pickle, read.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) root: Value,
    containers: Vec<Container>,
    /// Bytes up to the end of its last instruction.
    pub(crate) length: usize,
    /// Every storage that it names.
    pub(crate) storages: Vec<Rc<Storage>>,
}

impl Pickle {
    /// The entries of a dictionary; none of another value.
    pub(crate) fn entries(&self, value: &Value) -> &[(Value, Value)] {
        dictionary(&self.containers, value)
    }

    /// The values of a list or tuple; none of another value.
    pub(crate) fn values(&self, value: &Value) -> &[Value] {
        match value {
            Value::Sequence(place) => sequence(&self.containers[*place]),
            _ => &[],
        }
    }
}

fn dictionary<'c>(containers: &'c [Container], value: &Value) -> &'c [(Value, Value)] {
    match value {
        Value::Dictionary(place) => match &containers[*place] {
            Container::Dictionary(entries) => entries,
            Container::Sequence(_) => &[],
        },
        _ => &[],
    }
}

fn sequence(container: &Container) -> &[Value] {
    match container {
        Container::Sequence(values) => values,
        Container::Dictionary(_) => &[],
    }
}

/// Reads the pickle at the beginning of `bytes`; the reason where it is refused.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine =
        Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), made: Made::default() };
    let root = machine.run()?;
    let Made { containers, storages, .. } = machine.made;
    Ok(Pickle { root, containers, length: machine.at, storages })
}

#[derive(Default)]
struct Made {
    containers: Vec<Container>,
    storages: Vec<Rc<Storage>>,
    /// Those of the dictionaries that are `torch.nn.ParameterDict`s.
    parameter_dicts: HashSet<usize>,
    values: usize,
}

struct Machine<'b> {
    bytes: &'b [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    made: Made,
}

type Step<T = ()> = Result<T, String>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Value> {
        loop {
            let code = self.byte()?;
            match code {
                b'.' => return self.pop(),
                // PROTO, FRAME
                0x80 => _ = self.byte()?,
                0x95 => _ = self.take(8)?,
                b'(' => {
                    self.count(1)?;
                    self.marks.push(self.stack.len());
                }
                b'0' => _ = self.pop()?,
                b'1' => _ = self.above_mark()?,
                b'2' => {
                    let top = self.stack.last().cloned().ok_or_else(empty)?;
                    self.push(top)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'I' | b'L' | b'F' | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.number(code)?,
                b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.text(code)?,
                b']' | b')' | 0x8f => self.new_sequence(Vec::new())?,
                b'l' | b't' | 0x91 => {
                    let values = self.above_mark()?;
                    self.new_sequence(values)?;
                }
                0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(usize::from(code - 0x84)).ok_or_else(empty)?;
                    let values = self.stack.split_off(from.max(self.marks.last().copied().unwrap_or(0)));
                    self.new_sequence(values)?;
                }
                b'}' => self.new_dictionary(Vec::new())?,
                b'd' => {
                    let entries = pairs(self.above_mark()?)?;
                    self.new_dictionary(entries)?;
                }
                b'a' => {
                    let value = self.pop()?;
                    self.extend(vec![value])?;
                }
                b'e' | 0x90 => {
                    let values = self.above_mark()?;
                    self.extend(values)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![(key, value)])?;
                }
                b'u' => {
                    let entries = pairs(self.above_mark()?)?;
                    self.insert(entries)?;
                }
                b'p' | b'q' | b'r' | 0x94 => self.remember(code)?,
                b'g' | b'h' | b'j' => self.recall(code)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (module, name) {
                        (Value::Text(module), Value::Text(name)) => self.global(&module, &name)?,
                        _ => return Err("it names something that is no text".to_string()),
                    }
                }
                b'R' => self.call()?,
                b'b' => self.set_state()?,
                b'Q' => self.persistent()?,
                0x81 => self.new_object()?,
                b'i' | b'o' | 0x92 => return Err("it makes objects of classes of its own".to_string()),
                b'P' | 0x82..=0x84 | 0x97 | 0x98 => {
                    return Err(format!("it uses the instruction {code:#04x}, which no file of tensors does"));
                }
                _ => return Err(format!("it has the unknown instruction {code:#04x}")),
            }
        }
    }

    fn take(&mut self, length: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("{ENDS_EARLY} an instruction"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number without a sign.
    fn unsigned(&mut self, bytes: usize) -> Step<usize> {
        let number = self.take(bytes)?.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).map_err(|_| "a length in it is too large".to_string())
    }

    /// Up to the end of the line, which old instructions have.
    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| format!("{ENDS_EARLY} a line"))?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Step {
        self.count(1)?;
        self.stack.push(value);
        Ok(())
    }

    /// Counts what takes memory.
    fn count(&mut self, values: usize) -> Step {
        self.made.values += values;
        match self.made.values > MOST_VALUES {
            true => Err(format!("it holds more than {MOST_VALUES} values")),
            false => Ok(()),
        }
    }

    fn pop(&mut self) -> Step<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(empty),
            false => Err(empty()),
        }
    }

    fn above_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or("it closes what it never opened")?;
        Ok(self.stack.split_off(mark))
    }

    fn new_sequence(&mut self, values: Vec<Value>) -> Step {
        self.made.containers.push(Container::Sequence(values));
        self.push(Value::Sequence(self.made.containers.len() - 1))
    }

    fn new_dictionary(&mut self, entries: Vec<(Value, Value)>) -> Step {
        self.made.containers.push(Container::Dictionary(entries));
        self.push(Value::Dictionary(self.made.containers.len() - 1))
    }

    fn extend(&mut self, values: Vec<Value>) -> Step {
        match self.stack.last() {
            Some(Value::Sequence(place)) => match &mut self.made.containers[*place] {
                Container::Sequence(there) => there.extend(values),
                Container::Dictionary(_) => return Err("it appends to a dictionary".to_string()),
            },
            _ => return Err("it appends to what is no list".to_string()),
        }
        Ok(())
    }

    fn insert(&mut self, entries: Vec<(Value, Value)>) -> Step {
        match self.stack.last() {
            Some(Value::Dictionary(place)) => match &mut self.made.containers[*place] {
                Container::Dictionary(there) => there.extend(entries),
                Container::Sequence(_) => return Err("it sets keys of a list".to_string()),
            },
            _ => return Err("it sets keys of what is no dictionary".to_string()),
        }
        Ok(())
    }

    fn number(&mut self, code: u8) -> Step {
        let value = match code {
            b'I' => match self.line()?.trim() {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => digits.parse().map_or(Value::Other, Value::Int),
            },
            b'L' => self.line()?.trim().trim_end_matches('L').parse().map_or(Value::Other, Value::Int),
            b'F' => {
                self.line()?;
                Value::Other
            }
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            b'J' => Value::Int(i64::from(self.unsigned(4)? as u32 as i32)),
            _ => {
                let length = self.unsigned(if code == 0x8a { 1 } else { 4 })?;
                let bytes = self.take(length)?;
                match bytes.last() {
                    None => Value::Int(0),
                    Some(last) if bytes.len() <= 8 => {
                        let sign = if last & 0x80 == 0 { 0u8 } else { 0xff };
                        let mut whole = [sign; 8];
                        whole[..bytes.len()].copy_from_slice(bytes);
                        Value::Int(i64::from_le_bytes(whole))
                    }
                    Some(_) => Value::Other,
                }
            }
        };
        self.push(value)
    }

    fn text(&mut self, code: u8) -> Step {
        let length = match code {
            b'S' | b'V' => {
                let line = self.line()?;
                let quoted = line.trim_matches(['\'', '"']);
                return self.push(Value::Text(quoted.into()));
            }
            b'U' | 0x8c | b'C' => self.unsigned(1)?,
            b'T' | b'X' | b'B' => self.unsigned(4)?,
            _ => self.unsigned(8)?,
        };
        let is_bytes = matches!(code, b'B' | b'C' | 0x8e | 0x96);
        let bytes = self.take(length)?;
        let value = match is_bytes {
            true => Value::Other,
            false => Value::Text(String::from_utf8_lossy(bytes).into()),
        };
        self.push(value)
    }

    fn remember(&mut self, code: u8) -> Step {
        let place = match code {
            b'p' => self.line()?.trim().parse().map_err(|_| "it remembers a value under no number")?,
            b'q' => u32::from(self.byte()?),
            b'r' => self.unsigned(4)? as u32,
            _ => self.memo.len() as u32,
        };
        let top = self.stack.last().cloned().ok_or_else(empty)?;
        self.count(1)?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Step {
        let place = match code {
            b'g' => self.line()?.trim().parse().map_err(|_| "it recalls a value under no number")?,
            b'h' => u32::from(self.byte()?),
            _ => self.unsigned(4)? as u32,
        };
        let value = self.memo.get(&place).cloned().ok_or("it recalls a value that it never remembered")?;
        self.push(value)
    }

    fn global(&mut self, module: &str, name: &str) -> Step {
        // Both can be long texts that a few bytes name again and again.
        let length = module.len() + 1 + name.len();
        if length > MAX_NAME_BYTES {
            return Err(format!("it asks for something with a name of {length} bytes, the limit is {MAX_NAME_BYTES}"));
        }
        self.count(length / NAME_BYTES_PER_VALUE)?;
        let full = format!("{module}.{name}");
        match is_known(&full) {
            true => self.push(Value::Global(full.into())),
            false => Err(format!("it asks for `{}`, which is no part of a file of tensors", shown(&full))),
        }
    }

    /// An object of a class, before its state is set. Only PyTorch's containers of parameters are known.
    fn new_object(&mut self) -> Step {
        let (_, class) = (self.pop()?, self.pop()?);
        match class {
            Value::Global(class) if &*class == PARAMETER_DICT => {
                self.made.parameter_dicts.insert(self.made.containers.len());
                self.new_dictionary(Vec::new())
            }
            Value::Global(class) => Err(format!("it makes objects of the class `{}`", shown(&class))),
            _ => Err("it makes objects of what is no class".to_string()),
        }
    }

    fn call(&mut self) -> Step {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = function else { return Err("it calls what is no function".to_string()) };
        let arguments = match arguments {
            Value::Sequence(place) => sequence(&self.made.containers[place]),
            _ => return Err(format!("it calls `{}` without a list of arguments", shown(&function))),
        };
        // No function here has more; those of NumPy and codecs are not looked at.
        let arguments = arguments[..arguments.len().min(MOST_ARGUMENTS)].to_vec();
        match &*function {
            "collections.OrderedDict" => {
                let entries = match arguments.first() {
                    None => Vec::new(),
                    Some(Value::Sequence(place)) => {
                        let listed = sequence(&self.made.containers[*place]);
                        let pair = |value: &Value| match value {
                            Value::Sequence(place) => match sequence(&self.made.containers[*place]) {
                                [key, value] => Some((key.clone(), value.clone())),
                                _ => None,
                            },
                            _ => None,
                        };
                        let entries: Option<Vec<(Value, Value)>> = listed.iter().map(pair).collect();
                        let entries = entries.ok_or("it makes a dictionary of what are no pairs")?;
                        self.count(entries.len())?;
                        entries
                    }
                    Some(_) => return Err("it makes a dictionary of what is no list".to_string()),
                };
                self.new_dictionary(entries)
            }
            "torch.Size" => match arguments.first() {
                Some(Value::Sequence(place)) => self.push(Value::Sequence(*place)),
                _ => self.new_sequence(Vec::new()),
            },
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                let tensor = self.tensor(&arguments)?;
                self.count(tensor.shape.len() + tensor.stride.len())?;
                self.push(Value::Tensor(Rc::new(tensor)))
            }
            "torch._utils._rebuild_parameter"
            | "torch._utils._rebuild_parameter_with_state"
            | "torch.nn.parameter.Parameter" => match arguments.first() {
                Some(Value::Tensor(tensor)) => self.push(Value::Tensor(tensor.clone())),
                _ => Err("a parameter in it is no tensor".to_string()),
            },
            // What a module has beside its parameters.
            "builtins.set" | "__builtin__.set" => self.new_sequence(Vec::new()),
            // How bytes and devices are written; neither is of use here.
            name if name == "torch.device" || DISCARDED.contains(&name) => self.push(Value::Other),
            other => Err(format!("it calls `{}`, which makes no tensor", shown(other))),
        }
    }

    fn tensor(&self, arguments: &[Value]) -> Step<TensorView> {
        let [Value::Storage(storage), Value::Int(offset), Value::Sequence(shape), Value::Sequence(stride), ..] =
            arguments
        else {
            return Err("a tensor in it is not described by a storage, an offset, a shape and strides".to_string());
        };
        let lengths = |place: usize| -> Step<Vec<usize>> {
            let length = |value: &Value| match value {
                Value::Int(length) => {
                    usize::try_from(*length).map_err(|_| "a tensor in it has a negative length".to_string())
                }
                _ => Err("a length of a tensor in it is no number".to_string()),
            };
            sequence(&self.made.containers[place]).iter().take(MOST_DIMENSIONS + 1).map(length).collect()
        };
        let (shape, stride) = (lengths(*shape)?, lengths(*stride)?);
        if shape.len() != stride.len() || shape.len() > MOST_DIMENSIONS {
            return Err("a tensor in it has not as many strides as dimensions, or too many".to_string());
        }
        let offset = usize::try_from(*offset).map_err(|_| "a tensor in it begins before its storage")?;
        Ok(TensorView { storage: storage.clone(), offset, shape, stride })
    }

    /// What is set on an ordered dictionary is its `_metadata`, which no tensor depends on; on a dtype of NumPy, how it is laid out. A
    /// `ParameterDict` is a module, whose parameters lie in one of its attributes.
    fn set_state(&mut self) -> Step {
        let state = self.pop()?;
        match self.stack.last() {
            Some(&Value::Dictionary(place)) if self.made.parameter_dicts.contains(&place) => {
                let attributes = dictionary(&self.made.containers, &state);
                // The same ones can be looked through again and again.
                let looked_through = attributes.len();
                let parameters =
                    attributes.iter().find(|(key, _)| matches!(key, Value::Text(key) if &**key == "_parameters"));
                let parameters =
                    parameters.map_or(&[][..], |(_, value)| dictionary(&self.made.containers, value)).to_vec();
                self.count(looked_through + parameters.len())?;
                self.insert(parameters)
            }
            Some(Value::Dictionary(_) | Value::Tensor(_) | Value::Other) => Ok(()),
            _ => Err("it sets attributes of an object".to_string()),
        }
    }

    /// The place of a tensor's numbers: `("storage", type, key, device, length)`, with `None` behind it in old files.
    fn persistent(&mut self) -> Step {
        let description = self.pop()?;
        let described = match description {
            Value::Sequence(place) => {
                let all = sequence(&self.made.containers[place]);
                all[..all.len().min(MOST_ARGUMENTS)].to_vec()
            }
            _ => Vec::new(),
        };
        let [Value::Text(kind), Value::Global(class), Value::Text(key), _, Value::Int(elements), rest @ ..] =
            &described[..]
        else {
            return Err("a storage in it is not described as PyTorch does it".to_string());
        };
        if &**kind != "storage" || !matches!(rest, [] | [Value::None]) {
            return Err("a storage in it is a view of another, which is not supported".to_string());
        }
        if key.len() > MAX_NAME_BYTES {
            let length = key.len();
            return Err(format!("a storage in it has a key of {length} bytes, the limit is {MAX_NAME_BYTES}"));
        }
        let dtype = storage_dtype(class).ok_or_else(|| format!("it stores numbers of the type `{}`", shown(class)))?;
        let elements = usize::try_from(*elements).map_err(|_| "a storage in it has a negative length")?;
        let storage = Rc::new(Storage { dtype, key: key.clone(), elements });
        self.made.storages.push(storage.clone());
        self.push(Value::Storage(storage))
    }
}

fn pairs(values: Vec<Value>) -> Step<Vec<(Value, Value)>> {
    if !values.len().is_multiple_of(2) {
        return Err("a dictionary in it has a key without a value".to_string());
    }
    let mut values = values.into_iter();
    Ok(std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect())
}

fn empty() -> String {
    "it takes more values than it has made".to_string()
}

fn shown(name: &str) -> String {
    crate::error::shown(name)
}
