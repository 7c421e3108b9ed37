//! Whether a folder can be moved aside: given another name beside the one that it has.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a folder cannot be moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmovable {
    /// It is a symbolic link to this folder: the link alone would have another name, and what is made in its place lies elsewhere.
    Link(PathBuf),
    /// Its path does not end with a name, as `.`, `..` and `run/.`; it is this folder.
    Nameless(PathBuf),
    /// A disk is mounted there, and the name is that of its place.
    MountPoint,
}

impl Unmovable {
    /// What speaks against moving `folder` aside, as far as it is known before it is tried. A folder that is not there is no matter.
    pub fn of(folder: &Path) -> Option<Unmovable> {
        // `run/.`: the system neither renames nor makes it.
        let ends_with_a_point = folder.as_os_str().as_bytes().ends_with(b"/.");
        // With a `/` at its end the path would be that of the folder that a link points at.
        let folder: PathBuf = folder.components().collect();
        let found = fs::symlink_metadata(&folder).ok()?;
        if folder.file_name().is_none() || ends_with_a_point {
            return Some(Unmovable::Nameless(folder.canonicalize().unwrap_or(folder)));
        }
        if found.is_symlink() {
            let target = folder.canonicalize().or_else(|_| fs::read_link(&folder));
            return Some(Unmovable::Link(target.unwrap_or(folder)));
        }
        is_mount_point(&folder).then_some(Unmovable::MountPoint)
    }

    /// Which folder it is, and why it cannot be moved.
    pub fn in_words(&self, folder: &Path) -> String {
        let why = match self {
            Unmovable::Link(target) => {
                format!("it is a symbolic link to `{}`, which would stay where it is", target.display())
            }
            Unmovable::Nameless(_) => "this path does not end with a name that could be changed".to_owned(),
            Unmovable::MountPoint => "a disk is mounted there".to_owned(),
        };
        format!("`{}` cannot be moved aside: {why}", folder.display())
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Unmovable::Link(target) => {
                format!("name the folder that the link points at: `--output {}`", target.display())
            }
            Unmovable::Nameless(folder) => match (folder.parent(), folder.file_name()) {
                (Some(above), Some(name)) => format!(
                    "name the folder from the one above it, `--output {}` in `{}`, or choose another with `--output`",
                    name.display(),
                    above.display()
                ),
                _ => "choose another folder with `--output`".to_owned(),
            },
            Unmovable::MountPoint => {
                "move away what lies in it, or name a folder on that disk with `--output`".to_owned()
            }
        }
    }
}

/// Whether a disk, or another folder, is mounted at `folder`. The number of its disk does not tell: a folder of the same disk may be mounted
/// there, and a part of a btrfs has a number of its own and can be moved.
fn is_mount_point(folder: &Path) -> bool {
    // There on Linux alone; elsewhere the error of moving says no more than that the folder is busy.
    let (Ok(folder), Ok(mounts)) = (folder.canonicalize(), fs::read("/proc/self/mountinfo")) else { return false };
    let folder = escaped(folder.as_os_str());
    // 36 35 98:0 /root /place options …
    mounts.split(|&byte| byte == b'\n').any(|mount| mount.split(|&byte| byte == b' ').nth(4) == Some(&folder[..]))
}

/// A path as the kernel writes it in a table.
fn escaped(path: &OsStr) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in path.as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => text.push(byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_cannot_be_moved_aside_and_the_folder_that_it_points_at_can() {
        let scratch = tempfile::tempdir().unwrap();
        let (run, link) = (scratch.path().join("big/run"), scratch.path().join("sl"));
        fs::create_dir_all(&run).unwrap();
        symlink("big/run", &link).unwrap();
        assert_eq!(Unmovable::of(&run), None);
        assert_eq!(Unmovable::of(&scratch.path().join("nothing")), None);
        let target = run.canonicalize().unwrap();
        for path in [link.clone(), link.join("")] {
            assert_eq!(Unmovable::of(&path), Some(Unmovable::Link(target.clone())), "{}", path.display());
        }
        // The link is not the folder that is meant.
        symlink("big", scratch.path().join("outputs")).unwrap();
        assert_eq!(Unmovable::of(&scratch.path().join("outputs/run")), None);
        let found = Unmovable::of(&link).unwrap();
        assert!(found.in_words(&link).contains("sl` cannot be moved aside: it is a symbolic link to `"));
        assert!(found.hint().ends_with(&format!("`--output {}`", target.display())));
    }

    #[test]
    fn a_path_without_a_name_cannot_be_moved_aside() {
        let here = Path::new(".").canonicalize().unwrap();
        let found = Unmovable::of(Path::new(".")).unwrap();
        assert_eq!(found, Unmovable::Nameless(here.clone()));
        let named = format!("`--output {}` in `", here.file_name().unwrap().display());
        assert!(found.hint().contains(&named), "{}", found.hint());
        for path in ["src/..", "src/../."] {
            assert_eq!(Unmovable::of(Path::new(path)), Some(Unmovable::Nameless(here.clone())), "{path}");
        }
        assert_eq!(Unmovable::of(Path::new("src/.")), Some(Unmovable::Nameless(here.join("src"))));
        assert_eq!(Unmovable::of(Path::new("./src/")), None);
        assert!(matches!(Unmovable::of(Path::new("/")), Some(Unmovable::Nameless(_))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mount_point_cannot_be_moved_aside() {
        assert_eq!(Unmovable::of(Path::new("/proc")), Some(Unmovable::MountPoint));
        assert!(matches!(Unmovable::of(Path::new("/proc/self/")), Some(Unmovable::Link(_))));
    }

    #[test]
    fn a_path_is_written_as_in_the_table_of_mounts() {
        assert_eq!(escaped(OsStr::new("/a b\\c")), b"/a\\040b\\134c");
    }
}
