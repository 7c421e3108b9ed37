//! The hash that the hub states for a file, and whether a file has it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// A file's entity tag: the SHA-256 of a large one (git-lfs), or git's SHA-1 of a small one. It is the name of its blob, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hash(String);

impl Hash {
    /// From a header's value, in quotes or not; none where it is neither of the two.
    pub(crate) fn from_header(value: &str) -> Option<Hash> {
        let value = value.trim();
        let value = value.strip_prefix("W/").unwrap_or(value).trim_matches('"');
        let is_hash = [40, 64].contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| Hash(value.to_owned()))
    }

    /// As the hub writes it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What a file has where this is expected.
    pub(crate) fn of_same_kind(&self, path: &Path) -> io::Result<Hash> {
        let mut file = File::open(path)?;
        let mut context = match self.0.len() {
            64 => Context::new(&SHA256),
            _ => {
                // git hashes a header in front of the content.
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {}\0", file.metadata()?.len()).as_bytes());
                context
            }
        };
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => context.update(&buffer[..count]),
            }
        }
        let digest = context.finish();
        Ok(Hash(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub(crate) fn equals(&self, other: &Hash) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_in_every_way_of_writing_it() {
        let hash = "ce013625030ba8dba906f756967f9e9ca394464a";
        for value in [hash.to_owned(), format!("\"{hash}\""), format!("W/\"{hash}\""), format!(" \"{hash}\" ")] {
            assert_eq!(Hash::from_header(&value).expect("a hash").as_str(), hash);
        }
        for value in ["", "\"\"", "../../../etc/passwd", &hash[1..], &format!("g{}", &hash[1..])] {
            assert_eq!(Hash::from_header(value), None);
        }
    }

    #[test]
    fn files_are_hashed_as_git_and_git_lfs_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same file.
        let git = Hash::from_header("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let lfs = Hash::from_header("5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03").unwrap();
        assert_eq!(git.of_same_kind(&path).unwrap(), git);
        assert!(lfs.of_same_kind(&path).unwrap().equals(&lfs));
        assert!(!git.of_same_kind(&path).unwrap().equals(&lfs));
    }
}
