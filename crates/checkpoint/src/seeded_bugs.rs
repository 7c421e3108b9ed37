//! Bugs on purpose, one at a time: `tests/crash` shows with them that it would notice a writer that is wrong.
//!
//! Without the feature `seeded-bugs` nothing of them is compiled. With it, the environment variable
//! `SDTRAIN_SEEDED_BUG` names the one that this process has.

/// Declares the bugs that a crate can be told to have, for a crate with the feature `seeded-bugs`: the variable of the environment that
/// names one of them, then each as a variant, its name there, what is wrong with it, and the test that notices it, unless that is a row
/// of `tests/crash`. Gives the module `Bug`, `seeded` and `chosen`.
#[macro_export]
macro_rules! seeded_bugs {
    ($variable:literal: $($bug:ident $name:literal $what:literal $($test:literal)?,)*) => {
        /// A bug that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $(#[doc = $what] $bug,)* }

        #[cfg(feature = "seeded-bugs")]
        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

            /// As the environment names it.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)* }
            }

            /// What is wrong.
            pub fn what(self) -> &'static str {
                match self { $(Bug::$bug => $what,)* }
            }

            /// The test of this crate that notices it; empty where it is a row of `tests/crash`.
            pub fn test(self) -> &'static str {
                match self { $(Bug::$bug => concat!($($test)?),)* }
            }
        }

        /// Whether this process has the bug.
        #[cfg(not(feature = "seeded-bugs"))]
        #[inline(always)]
        pub(crate) const fn seeded(_: Bug) -> bool {
            false
        }

        /// Whether this process has the bug.
        #[cfg(feature = "seeded-bugs")]
        pub(crate) fn seeded(bug: Bug) -> bool {
            chosen() == Some(bug)
        }

        /// The bug that the environment names. A name that there is not ends the process: it would pass for a build without bugs.
        #[cfg(feature = "seeded-bugs")]
        pub fn chosen() -> Option<Bug> {
            static CHOSEN: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
            *CHOSEN.get_or_init(|| {
                let name = std::env::var($variable).ok()?;
                let bug = Bug::ALL.iter().find(|bug| bug.name() == name);
                Some(*bug.unwrap_or_else(|| panic!("{} names `{name}`, which is no seeded bug", $variable)))
            })
        }
    };
}

seeded_bugs! {
    "SDTRAIN_SEEDED_BUG":
    FileSync "file-sync" "a file written through the publication is not forced to disk",
    AdoptedSync "adopted-sync" "a file written through its path is not forced to disk",
    ManifestSync "manifest-sync" "the manifest is not forced to disk",
    FolderSync "folder-sync" "the names in a checkpoint are not forced to disk before it is renamed",
    ParentSync "parent-sync" "the checkpoint's new name is not forced to disk before it is acknowledged",
    MadeFolderSync "made-folder-sync" "the name of a folder that was made is not forced to disk",
    ReplacedFileSync "replaced-file-sync" "a small file takes another's place before it is forced to disk",
    ReplacedFileFolderSync "replaced-file-folder-sync" "the name of a replaced small file is not forced to disk",
    InPlace "in-place" "a checkpoint is written under its final name",
    ManifestLast "manifest-last" "a checkpoint gets its name before its manifest",
    DeleteFirst "delete-first" "older checkpoints are deleted before the new one is written",
    LatestFirst "latest-first" "`latest` names a checkpoint that is not there yet",
    LatestWrong "latest-wrong" "`latest` names the temporary folder",
    LatestBehind "latest-behind" "`latest` goes on naming an older checkpoint where its writer was killed",
    SwallowSync "swallow-sync" "an error while forcing a file to disk is dropped",
    SwallowRename "swallow-rename" "an error while renaming a checkpoint is dropped",
    SwallowReplace "swallow-replace" "an error while writing a small file is dropped",
    KeepAttempt "keep-attempt" "a failed attempt stays on the full disk",
    RemoveReplaced "remove-replaced" "a checkpoint of the same name is deleted before the new one is in its place",
    ShortFile "short-file" "a file that is too short is accepted",
    AnyContent "any-content" "hashes are not compared",
    AnyManifest "any-manifest" "a changed manifest is accepted",
    NewestByName "newest-by-name" "the newest checkpoint is the last of the sorted names",
    KeepLeftovers "keep-leftovers" "what an interrupted writer left is not cleared away",
    ClearUnsynced "clear-unsynced" "what is cleared away may still have its old name on the disk",
    ForgetReplaced "forget-replaced" "a checkpoint that was set aside for a newer one is deleted and not put back",
    ReadErrorIsDamage "read-error-is-damage" "a read that fails makes an older checkpoint be used",
    FreshAfterDamage "fresh-after-damage" "a run whose checkpoints are all damaged begins anew",
    KeepOldest "keep-oldest" "pruning keeps the oldest",
    DeleteInPlace "delete-in-place" "pruning deletes a checkpoint under its own name",
    CountDamaged "count-damaged" "a damaged checkpoint of a later step counts towards those that are kept",
    NoLock "no-lock" "two runs may write to one folder",
}
