//! Broken and hostile files are refused with a message that names the file, the tensor and the reason.

use std::fmt::Write as _;

use proptest::prelude::*;
use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, write_to};

use crate::fixtures::{entry, no_metadata};

fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn message(bytes: Vec<u8>) -> String {
    match SafetensorsFile::from_bytes(bytes, "model.safetensors") {
        Ok(file) => panic!("accepted, with {:?}", file.names()),
        Err(error) => {
            let mut message = error.to_string();
            if let Some(hint) = error.hint() {
                write!(message, " | hint: {hint}").unwrap();
            }
            message
        }
    }
}

#[track_caller]
fn refused(json: &str, data: &[u8], expected: &str) {
    let message = message(with_header(json, data));
    assert!(message.contains("`model.safetensors`"), "{message}");
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_truncated_file_is_refused_with_both_lengths() {
    let mut bytes = Vec::new();
    write_to(&mut bytes, [entry("a.weight", Dtype::F32, &[4, 4])].as_slice(), &no_metadata()).unwrap();
    let whole = bytes.len();
    bytes.truncate(whole - 5);
    let message = message(bytes);
    assert!(
        message.contains(&format!("truncated: its tensors need {whole} bytes, the file has {}", whole - 5)),
        "{message}"
    );
    assert!(message.contains("hint: the download may be incomplete"), "{message}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let mut bytes = Vec::new();
    write_to(&mut bytes, [entry("a", Dtype::F32, &[3])].as_slice(), &no_metadata()).unwrap();
    for length in 0..bytes.len() {
        message(bytes[..length].to_vec());
    }
}

#[test]
fn header_lengths_are_checked_before_anything_is_read() {
    assert!(message(Vec::new()).contains("it is empty"));
    assert!(message(vec![1, 2, 3]).contains("only 3 bytes long"));
    let huge = u64::MAX.to_le_bytes().to_vec();
    assert!(message(huge).contains("it is no safetensors file"));
    let longer_than_file = 1000u64.to_le_bytes().to_vec();
    assert!(message(longer_than_file).contains("should be 1000 bytes long but the file ends after 0"));
    assert!(message(0u64.to_le_bytes().to_vec()).contains("its header is 0 bytes long"));
}

#[test]
fn other_formats_are_named() {
    let starts: [(&[u8], &str); 4] = [
        (b"PK\x03\x04\0\0\x08\x08 archive/data.pkl", "PyTorch pickle"),
        (b"\x80\x02}q\x00(X\x0a\0\0\0state_dict", "PyTorch pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!doctype html><html>", "web page"),
    ];
    for (start, expected) in starts {
        assert!(message(start.to_vec()).contains(expected));
    }
}

#[test]
fn names_that_appear_twice_are_refused() {
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    refused(twice, &[0], "tensor `a` appears twice");
    // The same name in two spellings.
    let escaped = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    refused(escaped, &[0], "tensor `a` appears twice");
    refused(r#"{"__metadata__":{"x":"1","x":"2"}}"#, &[], "metadata key `x` appears twice");
    refused(r#"{"__metadata__":{},"__metadata__":{}}"#, &[], "`__metadata__` appears twice");
    refused(r#"{"a":{"dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1]}}"#, &[0], "duplicate field `shape`");
}

#[test]
fn offsets_that_overlap_leave_holes_or_run_out_are_refused() {
    let two = |first: [u64; 2], second: [u64; 2]| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[{}],"data_offsets":{first:?}}},"b":{{"dtype":"U8","shape":[{}],"data_offsets":{second:?}}}}}"#,
            first[1] - first[0],
            second[1] - second[0]
        )
    };
    refused(
        &two([0, 4], [2, 6]),
        &[0; 6],
        "tensor `b` overlaps the tensor before it: it begins at byte 2 of the data, not at 4",
    );
    refused(&two([0, 2], [4, 6]), &[0; 6], "tensor `b` leaves a hole before it");
    refused(&two([1, 2], [2, 6]), &[0; 6], "tensor `a` leaves a hole before it");
    refused(&two([0, 2], [2, 6]), &[0; 5], "truncated");
    refused(&two([0, 2], [2, 6]), &[0; 7], "1 bytes follow after its last tensor");
    refused(
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[5,4]}}"#,
        &[0; 5],
        "tensor `a` ends at byte 4, before it begins at 5",
    );
    refused(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        &[0; 4],
        "tensor `a` of shape [2] and type F32 needs 8 bytes but has 4",
    );
}

#[test]
fn impossible_shapes_are_refused() {
    let shaped = |shape: &str| format!(r#"{{"layer.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
    refused(&shaped("[9223372036854775808]"), &[], "tensor `layer.weight` has the impossible shape");
    refused(&shaped("[4294967296,4294967296]"), &[], "impossible shape");
    refused(&shaped("[0,9223372036854775807]"), &[], "impossible shape");
    refused(&shaped("[3037000500,3037000500]"), &[], "impossible shape");
    refused(&shaped("[1,1,1,1,1,1,1,1,0]"), &[], "has 9 dimensions, the limit is 8");
    refused(&shaped("[-1]"), &[], "tensor `layer.weight`: invalid value");
    refused(&shaped("[18446744073709551616]"), &[], "tensor `layer.weight`: invalid");
    refused(&shaped("[1.5]"), &[], "tensor `layer.weight`: invalid type");
    refused(&shaped("\"4\""), &[], "tensor `layer.weight`: invalid type");
}

#[test]
fn names_that_lead_out_of_a_folder_are_refused() {
    for name in ["../evil", "a/../../evil", "/etc/passwd", r"..\\evil", r"a\\..\\evil", r"\\server"] {
        let json = format!(r#"{{"{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#);
        refused(&json, &[], "leads out of its folder");
    }
    refused(r#"{"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, &[], "has an empty name");
    refused(
        r#"{"a\u001b[31m":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
        &[],
        r"tensor `a\u{1b}[31m` has control characters",
    );
    let long = "x".repeat(600);
    refused(
        &format!(r#"{{"{long}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#),
        &[],
        "has a name of 600 bytes",
    );
}

#[test]
fn unknown_types_and_fields_are_refused() {
    refused(r#"{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#, &[0], "tensor `a` has the unknown type `F4`");
    refused(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}"#, &[0], "tensor `a`: unknown field `x`");
    refused(r#"{"a":{"dtype":"U8","shape":[1]}}"#, &[0], "tensor `a`: missing field `data_offsets`");
    refused(r#"{"a":3}"#, &[], "tensor `a`: invalid type");
    refused(r#"[1]"#, &[], "does not begin with `{`");
    refused(r#"{"a":"#, &[], "its header is refused");
    refused(&"{\"a\":".repeat(5000), &[], "its header is refused");
    let not_text = [&b"{\"\xff\":"[..], b"{}}"].concat();
    let mut bytes = (not_text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(not_text);
    assert!(message(bytes).contains("its header is refused"));
}

#[test]
fn too_many_tensors_are_refused() {
    let mut json = String::from("{");
    for index in 0..70_000 {
        let comma = if index == 0 { "" } else { "," };
        write!(json, r#"{comma}"{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#).unwrap();
    }
    json.push('}');
    refused(&json, &[], "it lists 70000 tensors, the limit is 65536");
}

#[test]
fn a_folder_or_a_missing_file_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = SafetensorsFile::open(folder.path()).err().expect("a folder is no file");
    assert!(error.to_string().contains("is not a regular file"), "{error}");
    let error = SafetensorsFile::open(folder.path().join("none.safetensors")).err().expect("there is no file");
    assert!(error.to_string().starts_with("cannot open `"), "{error}");
}

#[test]
fn empty_and_scalar_tensors_are_fine() {
    let json = r#"{"empty":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]},"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let file = SafetensorsFile::from_bytes(with_header(json, &1.5f32.to_le_bytes()), "x").unwrap();
    assert_eq!(sdtrain_state_dict::read_floats(&file, "scalar").unwrap(), [1.5]);
    assert!(file.bytes("empty").unwrap().is_empty());
    assert!(file.bytes("other").is_err());
}

#[test]
fn tensors_at_odd_addresses_are_handed_over_aligned() {
    // Written by early versions of the reference implementation, whose headers were not padded.
    for spaces in 0..8 {
        let json = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}}"#;
        let json = format!("{json}{}", " ".repeat(spaces));
        let data = [&[7][..], &2.5f64.to_le_bytes()].concat();
        let file = SafetensorsFile::from_bytes(with_header(&json, &data), "x").unwrap();
        assert_eq!(file.bytes("b").unwrap().as_ptr().addr() % 8, 0);
        assert_eq!(sdtrain_state_dict::read_floats(&file, "b").unwrap(), [2.5]);
    }
}

fn a_file() -> Vec<u8> {
    let tensors: Vec<TensorEntry> = vec![
        entry("down_blocks.0.weight", Dtype::F32, &[2, 3]),
        entry("down_blocks.0.bias", Dtype::F16, &[3]),
        entry("step", Dtype::I64, &[]),
    ];
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors.as_slice(), &[("ss_epoch".to_string(), "3".to_string())].into()).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_changed_file_leads_outside_its_bytes(position in 0usize..400, value: u8, cut in 0usize..64) {
        let mut bytes = a_file();
        let position = position % bytes.len();
        bytes[position] = value;
        bytes.truncate(bytes.len() - cut.saturating_sub(32));
        if let Ok(file) = SafetensorsFile::from_bytes(bytes, "x") {
            for name in file.names() {
                let info = file.info(name).unwrap().clone();
                prop_assert_eq!(file.bytes(name).unwrap().len(), info.byte_length());
            }
        }
    }

    #[test]
    fn no_random_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut with_length = (bytes.len() as u64 / 2).to_le_bytes().to_vec();
        with_length.extend(&bytes);
        let _ = SafetensorsFile::from_bytes(bytes, "x");
        let _ = SafetensorsFile::from_bytes(with_length, "x");
    }
}
