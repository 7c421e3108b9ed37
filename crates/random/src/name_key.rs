//! Names as stream coordinates, so that a parameter's first values depend on what it is called and not on its place.

/// A number for `name` that is the same on every machine and in every version: 64-bit FNV-1a
/// (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub fn key_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::key_of;

    #[test]
    fn keys_are_those_of_the_published_function() {
        assert_eq!(key_of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(key_of("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(key_of("foobar"), 0x8594_4171_f739_67e8);
    }
}
