//! Where the program keeps what it can make or fetch again.

use std::path::{Path, PathBuf};

/// Folder of this program in the user's cache folder: below `$XDG_CACHE_HOME` where that is an absolute path, otherwise below
/// `~/.cache`. None where the user has no home. It need not exist, and may be deleted at any time.
pub fn cache_folder() -> Option<PathBuf> {
    let stated = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    below(stated.as_deref(), std::env::home_dir().as_deref())
}

fn below(stated: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let usual = || home.map(|home| home.join(".cache"));
    // The XDG base directory specification has relative paths ignored.
    let folder = stated.filter(|stated| stated.is_absolute()).map(Path::to_owned).or_else(usual)?;
    Some(folder.join("sdtrain"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stated_folder_counts_where_it_is_absolute() {
        let home = Some(Path::new("/home/u"));
        assert_eq!(below(Some(Path::new("/cache")), home), Some("/cache/sdtrain".into()));
        assert_eq!(below(Some(Path::new("cache")), home), Some("/home/u/.cache/sdtrain".into()));
        assert_eq!(below(None, home), Some("/home/u/.cache/sdtrain".into()));
        assert_eq!(below(Some(Path::new("")), None), None);
    }
}
