//! The names that a pickle of tensors may have: what PyTorch writes, and what lies harmlessly beside it. Every other is refused.

use crate::Dtype;

/// Whether a pickle may name this class or function, of which nothing is imported. How long a name may be is seen before.
pub(crate) fn is_known(full: &str) -> bool {
    REBUILDERS.contains(&full)
        || INERT.contains(&full)
        || DISCARDED.contains(&full)
        || storage_dtype(full).is_some()
        // Lightning writes the classes of its callbacks as keys of a dictionary; nothing is made of them.
        || full.starts_with("pytorch_lightning.")
}

/// What may be called.
const REBUILDERS: [&str; 10] = [
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
    "torch.device",
    "builtins.set",
    "__builtin__.set",
];
/// The one class of which objects are made: how the first textual inversions keep their words.
pub(crate) const PARAMETER_DICT: &str = "torch.nn.modules.container.ParameterDict";
/// What may be named and comes to nothing.
const INERT: [&str; 9] = [
    PARAMETER_DICT,
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "torch.float64",
    "torch.int64",
    "torch.int32",
    "torch.uint8",
    "torch.bool",
];

/// What may be called and comes to nothing: single numbers of NumPy and bytes, which checkpoints have beside their tensors.
pub(crate) const DISCARDED: [&str; 4] =
    ["_codecs.encode", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"];

/// The type of a storage's numbers, by its class.
pub(crate) fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class.strip_prefix("torch.")?.strip_suffix("Storage")? {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::Bf16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::Bool,
        _ => return None,
    })
}
