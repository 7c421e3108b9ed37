//! Names of models on the Hugging Face hub, and where they lie in the cache that all its tools share.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// What a name of the hub begins with.
const PREFIX: &str = "hf:";
/// The revision of a repository that is meant where none is named.
const MAIN: &str = "main";

/// `hf:ORG/REPO[/PATH][@REVISION]`: a model repository of the hub, or a file or folder in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `ORG/REPO`.
    pub repository: String,
    /// The file or folder in it, with `/` between its parts. None for all of it.
    pub path: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl HubName {
    /// Whether this is meant to name something on the hub.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// [`HubName::is_one`] for what may be a path as well.
    pub fn is_at(path: &Path) -> bool {
        path.to_str().is_some_and(HubName::is_one)
    }

    /// Takes a name apart.
    ///
    /// # Errors
    /// A message and a hint, where it is not of the form.
    pub fn parse(text: &str) -> Result<HubName, (String, Option<String>)> {
        let wrong = || {
            let hint = "as `hf:ORG/REPO`, `hf:ORG/REPO/FILE`, or either with `@REVISION` behind it";
            (format!("`{text}` names nothing on the Hugging Face hub"), Some(hint.to_owned()))
        };
        let name = text.strip_prefix(PREFIX).ok_or_else(wrong)?;
        let (place, revision) = name.split_once('@').unwrap_or((name, MAIN));
        let parts: Vec<&str> = place.split('/').collect();
        let [organisation, repository, inside @ ..] = parts.as_slice() else { return Err(wrong()) };
        let is_id = |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !parts.iter().all(|part| is_plain(part)) || ![organisation, repository].into_iter().all(is_id) {
            return Err(wrong());
        }
        // Hidden files are none of a model's, and those that it is told by git never are.
        if !revision.split('/').all(|part| is_plain(part) && !part.starts_with('.')) {
            return Err(wrong());
        }
        Ok(HubName {
            repository: format!("{organisation}/{repository}"),
            path: (!inside.is_empty()).then(|| inside.join("/")),
            revision: revision.to_owned(),
        })
    }

    /// The repository's folder in a cache.
    pub fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(self.folder_name())
    }

    /// What the folder is called: `models--ORG--REPO`.
    pub fn folder_name(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }

    /// The folder of a cache in which the revision's files lie, those that are there.
    pub fn snapshot(&self, cache: &Path) -> Option<PathBuf> {
        let folder = self.folder(cache);
        // `refs/REVISION` holds a commit, `snapshots/COMMIT` its files.
        let commit = match std::fs::read_to_string(folder.join("refs").join(&self.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => self.revision.clone(),
        };
        let snapshot = is_plain(&commit).then(|| folder.join("snapshots").join(commit))?;
        snapshot.is_dir().then_some(snapshot)
    }

    /// The file or folder that is named, in the cache of this machine.
    ///
    /// # Errors
    /// A message and a hint, where it is not there.
    pub fn find(&self) -> Result<PathBuf, (String, Option<String>)> {
        self.find_in(&hub_cache())
    }

    fn find_in(&self, cache: &Path) -> Result<PathBuf, (String, Option<String>)> {
        let inside = self.path.as_deref().unwrap_or_default();
        let found = self.snapshot(cache).map(|snapshot| snapshot.join(inside)).filter(|path| path.exists());
        found.ok_or_else(|| {
            let message = format!("`{self}` is not in the Hugging Face cache `{}`", cache.display());
            (message, Some(format!("`sdtrain` fetches it before a run; so does `hf download {}`", self.repository)))
        })
    }
}

impl fmt::Display for HubName {
    /// As it is written; `main` goes without saying.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.repository)?;
        if let Some(path) = &self.path {
            write!(formatter, "/{path}")?;
        }
        match self.revision.as_str() {
            MAIN => Ok(()),
            revision => write!(formatter, "@{revision}"),
        }
    }
}

/// The file or folder that a path stands for: itself, or what the hub's name that it is stands for in the cache.
///
/// # Errors
/// A message and a hint, where the name is wrong or nothing of it in the cache.
pub fn local_path(path: &Path) -> Result<PathBuf, (String, Option<String>)> {
    match path.to_str().filter(|text| HubName::is_one(text)) {
        Some(name) => HubName::parse(name)?.find(),
        None => Ok(path.to_owned()),
    }
}

/// Home of the hub's tools on this machine, with the token beside the cache. The variables are those of `huggingface_hub`.
pub fn hub_home() -> PathBuf {
    home_from(&|name| std::env::var_os(name))
}

/// Folder of what was fetched from the hub, by this program or another.
pub fn hub_cache() -> PathBuf {
    cache_from(&|name| std::env::var_os(name))
}

fn home_from(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let caches = || folder_of("XDG_CACHE_HOME", variable).unwrap_or_else(|| user_home().join(".cache"));
    folder_of("HF_HOME", variable).unwrap_or_else(|| caches().join("huggingface"))
}

fn cache_from(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let stated = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(|name| folder_of(name, variable));
    stated.unwrap_or_else(|| home_from(variable).join("hub"))
}

fn folder_of(name: &str, variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
    Some(match folder.strip_prefix("~") {
        Ok(rest) => user_home().join(rest),
        Err(_) => folder,
    })
}

fn user_home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"))
}

/// One part of a path that leads down.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HubName {
        HubName::parse(text).unwrap_or_else(|(message, _)| panic!("{message}"))
    }

    #[test]
    fn a_name_has_a_repository_and_may_have_a_path_and_a_revision() {
        let all = name("hf:org/repo-1.5/unet/x.safetensors@refs/pr/3");
        assert_eq!(all.repository, "org/repo-1.5");
        assert_eq!((all.path.as_deref(), all.revision.as_str()), (Some("unet/x.safetensors"), "refs/pr/3"));
        assert_eq!(all.folder_name(), "models--org--repo-1.5");
        for text in ["hf:org/repo", "hf:org/repo@v1", "hf:org/repo/a b.ckpt", "hf:org/repo/a/b@0123abc"] {
            assert_eq!(name(text).to_string(), text);
        }
        assert_eq!(name("hf:org/repo@main").to_string(), "hf:org/repo");
    }

    #[test]
    fn what_leads_out_of_a_repository_is_no_name() {
        for text in [
            "hf:",
            "hf:repo",
            "hf:org/",
            "hf:/repo",
            "hf:../..",
            "hf:org/repo/../x",
            "hf:org/repo//x",
            "hf:org/repo@",
            "hf:org/repo@../main",
            "hf:org/repo@/etc",
            "hf:or?g/repo",
            "hf:org/re po",
            "hf:org/repo@.lock",
            "org/repo",
        ] {
            let (message, hint) = HubName::parse(text).expect_err(text);
            assert_eq!(message, format!("`{text}` names nothing on the Hugging Face hub"));
            assert!(hint.is_some_and(|hint| hint.contains("hf:ORG/REPO")));
        }
    }

    #[test]
    fn a_repository_is_found_in_the_cache_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--org--repo");
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::create_dir_all(model.join("snapshots/abc/vae")).unwrap();
        std::fs::write(model.join("refs/main"), "abc\n").unwrap();
        let snapshot = model.join("snapshots/abc");
        assert_eq!(name("hf:org/repo").find_in(cache.path()), Ok(snapshot.clone()));
        assert_eq!(name("hf:org/repo@abc").find_in(cache.path()), Ok(snapshot.clone()));
        assert_eq!(name("hf:org/repo/vae").find_in(cache.path()), Ok(snapshot.join("vae")));
        let (message, hint) = name("hf:org/repo/unet").find_in(cache.path()).unwrap_err();
        assert!(message.starts_with("`hf:org/repo/unet` is not in the Hugging Face cache"), "{message}");
        assert!(hint.unwrap().ends_with("`hf download org/repo`"));
        // A file of somebody else's making does not lead elsewhere.
        std::fs::write(model.join("refs/main"), "../../..").unwrap();
        assert_eq!(name("hf:org/repo").snapshot(cache.path()), None);
    }

    #[test]
    fn the_cache_lies_where_the_variables_of_the_hub_say() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            move |name: &str| set.iter().find(|(there, _)| *there == name).map(|(_, value)| OsString::from(value))
        };
        let all = with(&[("HF_HUB_CACHE", "/a"), ("HUGGINGFACE_HUB_CACHE", "/b"), ("HF_HOME", "/c")]);
        assert_eq!(cache_from(&all), Path::new("/a"));
        assert_eq!(cache_from(&with(&[("HUGGINGFACE_HUB_CACHE", "/b"), ("HF_HOME", "/c")])), Path::new("/b"));
        assert_eq!(cache_from(&with(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/c")])), Path::new("/c/hub"));
        assert_eq!(cache_from(&with(&[("XDG_CACHE_HOME", "/d")])), Path::new("/d/huggingface/hub"));
        assert_eq!(home_from(&with(&[("HF_HOME", "~/x")])), user_home().join("x"));
        assert_eq!(cache_from(&with(&[])), user_home().join(".cache/huggingface/hub"));
    }
}
