//! The same rate throughout.

/// 1.
pub(super) fn factor() -> f64 {
    1.0
}
