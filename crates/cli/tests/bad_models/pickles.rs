//! Pickles that name, call or make what is no tensor, end in nothing or without end, or lie about their tensors.

use crate::corpus::Case;
use crate::zips::zip;

pub const FILE: &str = "a.pt";

/// A file whose pickle this is, beside a storage of four floats.
pub fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zip(&[("archive/data.pkl", pickle), ("archive/data/0", &[0; 16])])
}

/// The instructions for a text.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Those for a number.
fn number(number: i64) -> Vec<u8> {
    [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
}

/// What a file says of a tensor and of its storage.
#[derive(Clone)]
struct Lie {
    kind: &'static str,
    class: &'static str,
    key: &'static str,
    elements: i64,
    behind: &'static [u8],
    offset: i64,
    shape: &'static [i64],
    stride: &'static [i64],
}

/// The truth about four floats.
const TRUTH: Lie = Lie {
    kind: "storage",
    class: "torch\nFloatStorage",
    key: "0",
    elements: 4,
    behind: b"",
    offset: 0,
    shape: &[2, 2],
    stride: &[2, 1],
};

impl Lie {
    fn tensor(&self) -> Vec<u8> {
        let lengths = |all: &[i64]| {
            [b"(", &all.iter().flat_map(|&length| number(length)).collect::<Vec<u8>>()[..], b"t"].concat()
        };
        let class = format!("c{}\n", self.class);
        let storage = [
            b"(",
            &text(self.kind)[..],
            class.as_bytes(),
            &text(self.key),
            &text("cpu"),
            &number(self.elements),
            self.behind,
            b"tQ",
        ];
        let view = [&number(self.offset)[..], &lengths(self.shape), &lengths(self.stride), b"\x89NtR"].concat();
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage.concat()[..], &view].concat()
    }

    fn pickle(&self) -> Vec<u8> {
        [b"\x80\x02}", &text("a")[..], &self.tensor(), b"s."].concat()
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = programs();
    cases.extend(instructions());
    cases.extend(endless());
    cases.extend(tensors());
    cases
}

/// What would be run if pickles were.
fn programs() -> Vec<Case> {
    let case = |name: &str, pickle: &[u8], says: &str| {
        Case::file(name, FILE, with_pickle(&[b"\x80\x02", pickle, b"."].concat()), says).and("no code in them is run")
    };
    vec![
        case("a call of os.system", b"cos\nsystem\n(X\x04\0\0\0truetR", "it asks for `os.system`"),
        case("a call of posix.system", b"cposix\nsystem\n(X\x04\0\0\0truetR", "it asks for `posix.system`"),
        case("a call of subprocess.Popen", b"csubprocess\nPopen\n(]tR", "it asks for `subprocess.Popen`"),
        case("a call of eval", b"cbuiltins\neval\n(X\x01\0\0\x001tR", "it asks for `builtins.eval`"),
        case("a call of Python 2's eval", b"c__builtin__\neval\n(X\x01\0\0\x001tR", "it asks for `__builtin__.eval`"),
        case("a call of getattr", b"cbuiltins\ngetattr\n(tR", "it asks for `builtins.getattr`"),
        case("a call of torch.load", b"ctorch\nload\n(X\x01\0\0\0atR", "it asks for `torch.load`"),
        case("a name of a module that begins like torch", b"ctorch.hub\nload\n", "it asks for `torch.hub.load`"),
        case("a name put together on the stack", b"\x8c\x02os\x8c\x06system\x93", "it asks for `os.system`"),
        case("a name of numbers", b"K\x01K\x02\x93", "it names something that is no text"),
        case("a class that colours the terminal", b"c\x1b[31mos\nsystem\n", "it asks for `\\u{1b}[31mos.system`"),
        case("an object of a class", b"cpytorch_lightning.callbacks\nA\n)\x81", "it makes objects of the class"),
        case("an object of protocol 0", b"(ios\nsystem\n", "it makes objects of classes of its own"),
        case("a class of Lightning that is called", b"cpytorch_lightning.callbacks\nA\n)R", "which makes no tensor"),
        case(
            "a call of a tensor's class",
            b"ctorch\nFloatStorage\n)R",
            "it calls `torch.FloatStorage`, which makes no tensor",
        ),
        case("a call of a text", b"X\x01\0\0\0a)R", "it calls what is no function"),
        case("attributes of a class", b"ctorch\nSize\n}b", "it sets attributes of an object"),
        case("a code of an extension", b"\x82\x01", "it uses the instruction 0x82"),
        case("a buffer out of band", b"\x97", "it uses the instruction 0x97"),
    ]
}

fn instructions() -> Vec<Case> {
    let case = |name: &str, pickle: &[u8], says: &str| Case::file(name, FILE, with_pickle(pickle), says);
    vec![
        case("an empty pickle", b"", "it ends in the middle of an instruction"),
        case("a pickle without an end", b"\x80\x02}", "it ends in the middle of an instruction"),
        case("a text that is longer than the file", b"X\xff\xff\xff\x7fa.", "it ends in the middle of an instruction"),
        case("a text of 2^64 bytes", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "it ends in the middle"),
        case("an instruction that nobody knows", b"\x80\x02\xff.", "it has the unknown instruction 0xff"),
        case("a value that was never made", b"0.", "it takes more values than it has made"),
        case("a mark that was never set", b"t.", "it closes what it never opened"),
        case("a value that was never kept", b"h\x05.", "it recalls a value that it never remembered"),
        case("a key without a value", b"}(K\x01u.", "a key without a value"),
        case("an entry of a number", b"K\x01K\x02a.", "it appends to what is no list"),
        case("an end in nothing", b".", "it takes more values than it has made"),
        case("a list for a model", b"].", "it holds no tensors"),
        case("a dictionary of words", b"}X\x01\0\0\0aX\x01\0\0\0bs.", "it holds no tensors"),
    ]
}

/// Few bytes that become many values.
fn endless() -> Vec<Case> {
    let case = |name: &str, pickle: Vec<u8>, says: &str| Case::file(name, FILE, with_pickle(&pickle), says);
    let nested = [vec![b']'; 2_000_000], vec![b'a'; 1_999_999], vec![b'.']].concat();
    let doubling = [&b"]q\0"[..], &b"(h\0h\0e".repeat(100), b"."].concat();
    let pairs = [
        &b"]q\x01("[..],
        &b"K\x01K\x02\x86".repeat(500_000),
        b"e",
        &b"ccollections\nOrderedDict\nh\x01\x85R".repeat(50),
        b".",
    ]
    .concat();
    let ones = [&b"("[..], &b"K\x01".repeat(64), b"tq\x02"].concat();
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x04tQ"].concat();
    let many_views = [
        &b"}q\0ctorch._utils\n_rebuild_tensor_v2\nq\x01("[..],
        &storage,
        b"K\0",
        &ones,
        b"h\x02tq\x03",
        &b"h\x01h\x03R0".repeat(100_000),
        b"h\0.",
    ];
    let long_key = [b"}(", &text(&"k".repeat(4000))[..], b"}", &text("a"), &TRUTH.tensor(), b"su."].concat();
    let long = [&text(&"k".repeat(1 << 20))[..], b"q\x01"].concat();
    let class = [b"](", &text("pytorch_lightning")[..], b"q\x05", &text(&"k".repeat(1 << 20)), b"q\x06"].concat();
    let classes = [&class[..], &b"h\x05h\x06\x93".repeat(20_000), b"e."].concat();
    let long_storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text(&"k".repeat(4000)), &text("cpu"), b"K\x04tQ."];
    let attributes = [
        &b"}q\x07("[..],
        &b"K\x01N".repeat(1000),
        b"u0ctorch.nn.modules.container\nParameterDict\n)\x81",
        &b"h\x07b".repeat(10_000),
        b".",
    ];
    let one_tensor = [b"](", &TRUTH.tensor()[..], b"q\x08", &b"h\x08".repeat(100_000), b"e."];
    let keys: Vec<u8> = (0..1000).flat_map(|key| [&text(&format!("{key:04}"))[..], b"h\x01"].concat()).collect();
    let texts = [b"}", &text("a")[..], &TRUTH.tensor(), b"s", &long, b"0(", &keys, b"u."].concat();
    let cycle = [
        &b"}q\0("[..],
        &(0..2000).flat_map(|key| [&text(&format!("{key:04}"))[..], b"h\0"].concat()).collect::<Vec<u8>>(),
        b"u.",
    ]
    .concat();
    vec![
        case("two million lists in each other", nested, "it holds no tensors"),
        case("five million values", vec![b'N'; 5_000_000], "it holds more than 4000000 values"),
        case("a list that doubles a hundred times", doubling, "it holds no tensors"),
        case("a list that becomes fifty dictionaries", pairs, "it holds more than 4000000 values"),
        case(
            "a tensor of 64 dimensions a hundred thousand times",
            many_views.concat(),
            "it holds more than 4000000 values",
        ),
        case("a name of 4000 bytes", long_key, "a name in it is longer than 512 bytes"),
        case("a gigabyte of one text", texts, "its texts have more than 16 MB"),
        case("a class of a megabyte, twenty thousand times", classes, "1048594 bytes, the limit is 512"),
        case("a storage with a key of 4000 bytes", long_storage.concat(), "a key of 4000 bytes, the limit is 512"),
        case("attributes that are set ten thousand times", attributes.concat(), "it holds more than 4000000 values"),
        case("a list of one tensor, a hundred thousand times", one_tensor.concat(), "it holds more than 65536 tensors"),
        case("dictionaries that hold themselves", cycle, "more than 1000000 entries"),
    ]
}

fn tensors() -> Vec<Case> {
    let case = |name: &str, lie: Lie, says: &str| Case::file(name, FILE, with_pickle(&lie.pickle()), says);
    let no_tensor = [b"\x80\x02}", &text("a")[..], b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tRs."].concat();
    let no_storage = [b"\x80\x02}", &text("a")[..], b"X\x01\0\0\0aQs."].concat();
    let out = [b"\x80\x02}", &text("../../a")[..], &TRUTH.tensor(), b"s."].concat();
    let empty = [b"\x80\x02}", &text("")[..], &TRUTH.tensor(), b"s."].concat();
    let file = |name: &str, pickle: &[u8], says: &str| Case::file(name, FILE, with_pickle(pickle), says);
    vec![
        case("a storage that is not in the file", Lie { key: "7", ..TRUTH }, "tensor `a` has no numbers in the file"),
        case("a storage outside the file", Lie { key: "../0", ..TRUTH }, "tensor `a` has no numbers in the file"),
        case(
            "a storage that says more numbers than it has",
            Lie { elements: 5, ..TRUTH },
            "5 numbers of type F32, but the file has 16 bytes",
        ),
        case(
            "a storage that says fewer",
            Lie { elements: 3, ..TRUTH },
            "3 numbers of type F32, but the file has 16 bytes",
        ),
        case(
            "a storage of a wider type",
            Lie { class: "torch\nDoubleStorage", ..TRUTH },
            "4 numbers of type F64, but the file has 16 bytes",
        ),
        case(
            "a storage of 2^63 - 1 numbers",
            Lie { elements: i64::MAX, ..TRUTH },
            "numbers of type F32, but the file has 16 bytes",
        ),
        case("a storage of minus one number", Lie { elements: -1, ..TRUTH }, "a storage in it has a negative length"),
        case(
            "a storage of complex numbers",
            Lie { class: "torch\nComplexFloatStorage", ..TRUTH },
            "it asks for `torch.ComplexFloatStorage`",
        ),
        case(
            "a storage of a class that stores nothing",
            Lie { class: "torch\nSize", ..TRUTH },
            "numbers of the type `torch.Size`",
        ),
        case(
            "a storage that is a view",
            Lie { behind: b"K\x01", ..TRUTH },
            "a view of another, which is not supported",
        ),
        case("a storage that is a module", Lie { kind: "module", ..TRUTH }, "is not supported"),
        case(
            "more numbers than the storage has",
            Lie { shape: &[1 << 30, 1 << 30], ..TRUTH },
            "tensor `a` has more numbers than the file holds",
        ),
        case(
            "strides past the storage",
            Lie { stride: &[3, 1], offset: 1, ..TRUTH },
            "tensor `a` reaches past its storage",
        ),
        case(
            "strides that overflow",
            Lie { stride: &[i64::MAX, i64::MAX], ..TRUTH },
            "tensor `a` reaches past its storage",
        ),
        case("an offset past the storage", Lie { offset: 4, ..TRUTH }, "tensor `a` reaches past its storage"),
        case("an offset of 2^63 - 1", Lie { offset: i64::MAX, ..TRUTH }, "tensor `a` reaches past its storage"),
        case("an offset before the storage", Lie { offset: -1, ..TRUTH }, "begins before its storage"),
        case("a negative length", Lie { shape: &[-2, 2], ..TRUTH }, "a negative length"),
        case("a negative stride", Lie { stride: &[-2, 1], ..TRUTH }, "a negative length"),
        case(
            "a million of one number",
            Lie { shape: &[1000, 1000], stride: &[0, 0], ..TRUTH },
            "tensor `a` has more numbers than",
        ),
        case("a stride too few", Lie { stride: &[1], ..TRUTH }, "not as many strides as dimensions"),
        case(
            "a huge dimension beside an empty one of a pickle",
            Lie { shape: &[0, i64::MAX], ..TRUTH },
            "has the impossible shape",
        ),
        file("a tensor of two numbers", &no_tensor, "is not described by a storage"),
        file("a storage that is a word", &no_storage, "a storage in it is not described as PyTorch does it"),
        file("a tensor whose name leads out", &out, "has a name that leads out of its folder"),
        file("a tensor without a name", &empty, "has an empty name"),
    ]
}
