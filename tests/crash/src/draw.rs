//! Random numbers as a function of what they are for, so that any of a million cases can be tried again by itself.

/// A number below `below`, decided by the row, the case and the purpose.
pub fn draw(row: &str, case: u64, purpose: &str, below: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(row.as_bytes()).update(&case.to_le_bytes()).update(purpose.as_bytes());
    let bytes = hasher.finalize();
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("eight bytes")) % below.max(1)
}
