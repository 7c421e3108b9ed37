//! Where a model is: built in, in a file or folder, or in the Hugging Face cache.

use std::fmt;
use std::path::{Path, PathBuf};

/// The models that come with the program.
pub const BUILTIN_MODELS: [&str; 1] = ["poster-tiny"];

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLocation {
    /// In the program itself, by this name.
    Builtin(String),
    /// A file or a folder.
    Path(PathBuf),
}

impl ModelLocation {
    /// Whether this way to name a model is a path of a file or folder.
    pub fn is_file_path(text: &str) -> bool {
        !text.is_empty() && !text.starts_with("builtin:") && !text.starts_with("hf:")
    }

    /// Finds `builtin:NAME`, `hf:ORG/REPO[@REVISION]` (in the cache only) or a path.
    /// The error is a message and a hint.
    pub fn find(text: &str) -> Result<ModelLocation, (String, Option<String>)> {
        if let Some(name) = text.strip_prefix("builtin:") {
            if BUILTIN_MODELS.contains(&name) {
                return Ok(ModelLocation::Builtin(name.to_owned()));
            }
            let known = BUILTIN_MODELS.map(|name| format!("`builtin:{name}`")).join(", ");
            return Err((format!("there is no built-in model `{name}`"), Some(format!("there is {known}"))));
        }
        if let Some(repository) = text.strip_prefix("hf:") {
            return find_in_cache(repository, &hub_cache()).map(ModelLocation::Path);
        }
        let path = Path::new(text);
        match path.exists() {
            true => Ok(ModelLocation::Path(path.to_owned())),
            false => Err((format!("`{text}` does not exist"), nearest_folder_hint(path))),
        }
    }
}

impl fmt::Display for ModelLocation {
    /// As `find` takes it and as models are loaded: `builtin:NAME`, or the path.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelLocation::Builtin(name) => write!(formatter, "builtin:{name}"),
            ModelLocation::Path(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// Names the deepest folder on the way that does exist.
pub(crate) fn nearest_folder_hint(path: &Path) -> Option<String> {
    let existing = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
    let missing = path.strip_prefix(existing).ok()?.components().next()?;
    let missing = missing.as_os_str().to_string_lossy();
    Some(format!("`{}` has no `{missing}`", existing.display()))
}

fn hub_cache() -> PathBuf {
    let from_variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    from_variable("HF_HUB_CACHE").or_else(|| from_variable("HF_HOME").map(|home| home.join("hub"))).unwrap_or_else(
        || {
            let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
            home.join(".cache/huggingface/hub")
        },
    )
}

/// The cache's layout: `models--ORG--REPO/refs/REVISION` holds a commit, `snapshots/COMMIT` its files.
fn find_in_cache(repository: &str, cache: &Path) -> Result<PathBuf, (String, Option<String>)> {
    let (name, revision) = repository.split_once('@').unwrap_or((repository, "main"));
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if name.split('/').count() != 2 || !name.split('/').all(plain) {
        return Err((format!("`hf:{repository}` is not of the form `hf:ORG/REPO` or `hf:ORG/REPO@REVISION`"), None));
    }
    let folder = cache.join(format!("models--{}", name.replace('/', "--")));
    let commit = std::fs::read_to_string(folder.join("refs").join(revision))
        .map(|commit| commit.trim().to_owned())
        .unwrap_or_else(|_| revision.to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    match snapshot.is_dir() {
        true => Ok(snapshot),
        false => Err((
            format!("`hf:{repository}` is not in the Hugging Face cache `{}`", cache.display()),
            Some(format!("download it with `hf download {name}`")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{ModelLocation, find_in_cache};

    #[test]
    fn a_builtin_model_is_known_by_name() {
        assert_eq!(ModelLocation::find("builtin:poster-tiny"), Ok(ModelLocation::Builtin("poster-tiny".to_owned())));
        let (message, hint) = ModelLocation::find("builtin:poster").unwrap_err();
        assert_eq!(message, "there is no built-in model `poster`");
        assert_eq!(hint.as_deref(), Some("there is `builtin:poster-tiny`"));
    }

    #[test]
    fn a_repository_is_found_in_the_cache_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--org--repo");
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::create_dir_all(model.join("snapshots/abc")).unwrap();
        std::fs::write(model.join("refs/main"), "abc\n").unwrap();
        let snapshot = model.join("snapshots/abc");
        assert_eq!(find_in_cache("org/repo", cache.path()), Ok(snapshot.clone()));
        assert_eq!(find_in_cache("org/repo@abc", cache.path()), Ok(snapshot));
        let (message, hint) = find_in_cache("org/other", cache.path()).unwrap_err();
        assert!(message.starts_with("`hf:org/other` is not in the Hugging Face cache"), "{message}");
        assert_eq!(hint.as_deref(), Some("download it with `hf download org/other`"));
        assert!(find_in_cache("../..", cache.path()).is_err());
    }
}
