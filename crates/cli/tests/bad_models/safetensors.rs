//! safetensors files whose length, header, offsets, types or names are wrong.

use crate::corpus::Case;

const FILE: &str = "a.safetensors";

/// A file of this header and so many bytes of data.
pub fn with_header(json: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let json = json.as_ref();
    [&(json.len() as u64).to_le_bytes()[..], json, &vec![0; data]].concat()
}

/// A header of one tensor.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"layer.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

fn two(first: [u64; 2], second: [u64; 2]) -> String {
    let tensor = |[start, end]: [u64; 2]| {
        format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#, end.saturating_sub(start))
    };
    format!(r#"{{"a":{},"b":{}}}"#, tensor(first), tensor(second))
}

fn named(name: &str) -> String {
    format!(r#"{{"{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#)
}

pub fn cases() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(headers());
    cases.extend(offsets());
    cases.extend(shapes_and_types());
    cases.extend(names());
    cases
}

fn lengths() -> Vec<Case> {
    let good = with_header(one("F32", "[2]", "[0,8]"), 8);
    let length = |length: u64, rest: &[u8]| [&length.to_le_bytes()[..], rest].concat();
    vec![
        Case::file("an empty file", FILE, "", "it is empty"),
        Case::file("three bytes", FILE, [1u8, 2, 3], "it is only 3 bytes long"),
        Case::file("cut in the header", FILE, &good[..40], "the file ends after 32").and("incomplete"),
        Case::file("cut in the data", FILE, &good[..good.len() - 3], "it is truncated").and("fetch the file again"),
        Case::file("bytes behind the last tensor", FILE, [&good[..], &[0; 5]].concat(), "5 bytes follow"),
        Case::file(
            "a header of 80 MB that is not there",
            FILE,
            length(80_000_000, b"{}"),
            "should be 80000000 bytes long",
        ),
        Case::file(
            "a header of 80 MB of blanks",
            FILE,
            with_header([&b"{"[..], &vec![b' '; 80_000_000], b"x"].concat(), 0),
            "its header is refused",
        ),
        Case::file("a header of 101 MB", FILE, length(101_000_000, &vec![b' '; 101_000_000]), "the limit is 100000000"),
        Case::file("a header of 2^63 bytes", FILE, length(1 << 63, b"{}"), "not the length of a header"),
        Case::file("a header of no bytes", FILE, length(0, b""), "its header is 0 bytes long"),
        Case::file("a header of one byte", FILE, length(1, b"{"), "its header is 1 bytes long"),
        Case::file("a web page", FILE, "<!doctype html><html>404</html>", "this is a web page"),
        Case::file("a pointer of git-lfs", FILE, "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        Case::file("a GGUF file", FILE, "GGUF\u{3}\0\0\0\0\0\0\0", "this is a GGUF file"),
        Case::file("a text", FILE, "these are no tensors but words", "it is no safetensors file"),
    ]
}

fn headers() -> Vec<Case> {
    let case = |name: &str, json: &[u8], says: &str| Case::file(name, FILE, with_header(json, 0), says);
    let nested = [b"{\"a\":".repeat(100_000), b"}".repeat(100_000)].concat();
    let mut many = String::from("{");
    (0..70_000).for_each(|index| many += &format!(r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#));
    many.replace_range(many.len() - 1.., "}");
    // Each of these is 80 MB that would be a gigabyte once read.
    let zeros = format!("[{}0]", "0,".repeat(40_000_000));
    let mut keys = String::from(r#"{"__metadata__":{"#);
    (0..6_000_000).for_each(|index| keys += &format!(r#""{index:07}":"","#));
    keys.replace_range(keys.len() - 1.., "}}");
    let text = format!(r#"{{"__metadata__":{{"text":"{}"}}}}"#, "x".repeat(80_000_000));
    vec![
        case("a list for a header", b"[1]", "does not begin with `{`"),
        case("a header that stops", b"{\"a\":", "its header is refused"),
        case("a header of blanks behind blanks", b"  {}", "does not begin with `{`"),
        case("a header with a tail", b"{} {}", "its header is refused"),
        case("a header nested 100 000 deep", &nested, "its header is refused"),
        case("a list nested in a tensor", &[&b"{\"a\":"[..], &b"[".repeat(50_000)].concat(), "its header is refused"),
        case("a name that is no UTF-8", b"{\"\xff\xfe\":{}}", "its header is refused"),
        case(
            "half a surrogate",
            br#"{"\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            "its header is refused",
        ),
        case("NaN for a length", one("F32", "[NaN]", "[0,0]").as_bytes(), "`layer.weight`"),
        case("Infinity for an offset", one("F32", "[0]", "[0,Infinity]").as_bytes(), "`layer.weight`"),
        case("a number for a tensor", br#"{"a":3}"#, "tensor `a`: invalid type"),
        case("a tensor without offsets", br#"{"a":{"dtype":"U8","shape":[0]}}"#, "missing field `data_offsets`"),
        case("a tensor with three offsets", one("U8", "[0]", "[0,0,0]").as_bytes(), "`layer.weight`"),
        case(
            "a field that nobody knows",
            br#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"run":"x"}}"#,
            "unknown field `run`",
        ),
        case("metadata that are numbers", br#"{"__metadata__":{"a":1}}"#, "its header is refused"),
        case("metadata twice", br#"{"__metadata__":{},"__metadata__":{}}"#, "`__metadata__` appears twice"),
        case("a key of the metadata twice", br#"{"__metadata__":{"x":"1","x":"2"}}"#, "metadata key `x` appears twice"),
        case(
            "a tensor twice",
            (named("a").replace("}}", "},") + &named("a")[1..]).as_bytes(),
            "tensor `a` appears twice",
        ),
        case(
            "a tensor twice, in two spellings",
            (named("a").replace("}}", "},") + &named("\\u0061")[1..]).as_bytes(),
            "tensor `a` appears twice",
        ),
        case(
            "a shape twice",
            br#"{"a":{"dtype":"U8","shape":[0],"shape":[1],"data_offsets":[0,0]}}"#,
            "duplicate field `shape`",
        ),
        case("70 000 tensors", many.as_bytes(), "it lists 70000 tensors, the limit is 65536"),
        case(
            "a shape of 40 million dimensions",
            one("U8", &zeros, "[0,0]").as_bytes(),
            "has 40000001 dimensions, the limit is 8",
        ),
        case("6 million keys of metadata", keys.as_bytes(), "more keys than the limit of 65536"),
        case("80 MB of metadata", text.as_bytes(), "longer than the limit of 16000000 bytes"),
    ]
}

fn offsets() -> Vec<Case> {
    let case =
        |name: &str, json: String, data: usize, says: &str| Case::file(name, FILE, with_header(json, data), says);
    vec![
        case("tensors that overlap", two([0, 4], [2, 6]), 6, "tensor `b` overlaps the tensor before it"),
        case("the same bytes for two tensors", two([0, 4], [0, 4]), 4, "tensor `b` overlaps"),
        case("a hole between tensors", two([0, 2], [4, 6]), 6, "tensor `b` leaves a hole before it"),
        case("a hole before the first", two([1, 2], [2, 6]), 6, "tensor `a` leaves a hole before it"),
        case("an end before its beginning", one("U8", "[1]", "[5,4]"), 5, "ends at byte 4, before it begins at 5"),
        case(
            "an offset of 2^64 - 1",
            one("U8", "[1]", "[18446744073709551614,18446744073709551615]"),
            0,
            "impossible byte",
        ),
        case(
            "an offset past 64 bits",
            one("U8", "[1]", "[0,18446744073709551616]"),
            0,
            "tensor `layer.weight`: invalid",
        ),
        case("a negative offset", one("U8", "[1]", "[-1,0]"), 0, "tensor `layer.weight`: invalid"),
        case("offsets beyond the file", one("U8", "[8]", "[0,8]"), 4, "its tensors need"),
    ]
}

fn shapes_and_types() -> Vec<Case> {
    let case = |name: &str, dtype: &str, shape: &str, says: &str| {
        Case::file(name, FILE, with_header(one(dtype, shape, "[0,8]"), 8), says)
    };
    vec![
        case("a dimension of 2^63", "F32", "[9223372036854775808]", "tensor `layer.weight` has the impossible shape"),
        case("dimensions that overflow", "F32", "[4294967296,4294967296,2]", "impossible shape"),
        case("a huge dimension beside an empty one", "F32", "[0,9223372036854775807]", "impossible shape"),
        case("nine dimensions", "F32", "[1,1,1,1,1,1,1,1,2]", "has 9 dimensions, the limit is 8"),
        case("a negative dimension", "F32", "[-2]", "tensor `layer.weight`: invalid"),
        case("half a dimension", "F32", "[1.5]", "tensor `layer.weight`: invalid"),
        case("a text for a shape", "F32", "\"2\"", "tensor `layer.weight`: invalid"),
        case("a type that is wider than the data", "F64", "[2]", "of shape [2] and type F64 needs 16 bytes but has 8"),
        case("a type that is narrower", "F16", "[2]", "needs 4 bytes but has 8"),
        case("a type that nobody knows", "F4", "[16]", "has the unknown type `F4`"),
        case("a type in lower case", "f32", "[2]", "has the unknown type `f32`"),
        case("complex numbers", "C64", "[1]", "has the unknown type `C64`"),
    ]
}

fn names() -> Vec<Case> {
    let out = "has a name that leads out of its folder";
    let case = |name: &str, tensor: &str, says: &str| Case::file(name, FILE, with_header(named(tensor), 0), says);
    vec![
        case("a name up and out", "../evil", out),
        case("a name up from below", "a/../../evil", out),
        case("a name from the root", "/etc/passwd", out),
        case("a name with backslashes", r"..\\evil", out),
        case("a name of a share", r"\\\\server\\x", out),
        case("an empty name", "", "has an empty name"),
        case("a name that colours the terminal", r"a\u001b[31m", "has control characters in its name"),
        case("a name of 600 bytes", &"x".repeat(600), "has a name of 600 bytes, the limit is 512"),
        case("a name with a line break", r"a\nerror: b", "has control characters in its name"),
    ]
}
