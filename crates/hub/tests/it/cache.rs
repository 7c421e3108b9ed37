//! The cache: what is in it is used, and lies where the hub's other tools look for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sdtrain_hub::{Error, Wanted, fetch, prepare};

use crate::server::{COMMIT, git_sha1, sha256};
use crate::{MODEL, Told, bytes_of, get, hub, model, name};

fn blobs(cache: &Path) -> PathBuf {
    cache.join("models--org--repo/blobs")
}

#[test]
fn files_lie_where_the_hubs_own_library_has_them() {
    let (server, folder) = hub();
    let (path, _) = get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap();
    let repository = folder.path().join("models--org--repo");
    assert_eq!(path, repository.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let (config, unet) = (bytes_of(MODEL[15].1), bytes_of("@300000"));
    let links = [
        ("unet/config.json", format!("../../../blobs/{}", git_sha1(&config))),
        ("unet/diffusion_pytorch_model.safetensors", format!("../../../blobs/{}", sha256(&unet))),
        ("model_index.json", format!("../../blobs/{}", git_sha1(MODEL[0].1.as_bytes()))),
    ];
    for (name, target) in links {
        assert_eq!(fs::read_link(path.join(name)).unwrap(), Path::new(&target));
        assert!(path.join(name).is_file());
    }
    let names = fs::read_dir(blobs(folder.path())).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("incomplete")));
}

#[test]
fn what_is_there_is_not_asked_for() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let (path, _) = get("hf:org/repo", &model(), &settings).unwrap();
    let asked = server.requests().len();
    let offline = sdtrain_hub::Settings { offline: true, ..settings.clone() };
    assert_eq!(get("hf:org/repo", &model(), &offline).unwrap().0, path);
    assert_eq!(get(&format!("hf:org/repo@{COMMIT}"), &model(), &settings).unwrap().0, path);
    assert_eq!(server.requests().len(), asked);
    // Of another branch with the same content only what the files are is asked.
    let (again, _) = get("hf:org/repo@refs/pr/1", &model(), &settings).unwrap();
    assert_eq!(again, path);
    assert_eq!(fs::read_to_string(folder.path().join("models--org--repo/refs/refs/pr/1")).unwrap(), COMMIT);
    assert!(server.requests()[asked..].iter().all(|line| line.contains("/api/")), "{:?}", &server.requests()[asked..]);
}

/// Puts a commit that the hub does not know any more into the cache, as `main`, with this file.
fn earlier_commit(cache: &Path, file: &str) -> String {
    let (repository, commit) = (cache.join("models--org--repo"), "e".repeat(40));
    let path = repository.join("snapshots").join(&commit).join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "earlier").unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), &commit).unwrap();
    commit
}

#[test]
fn a_branch_is_another_commit_only_once_its_file_is_here() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let earlier = earlier_commit(folder.path(), "lora.safetensors");
    let main = || fs::read_to_string(folder.path().join("models--org--repo/refs/main")).unwrap();
    let [there, new] = ["lora.safetensors", "v1-5-pruned.safetensors"].map(|file| name(&format!("hf:org/repo/{file}")));
    let prepared = prepare(&there, &Wanted::File, &settings).unwrap();
    assert_eq!((prepared.commit(), prepared.moves()), (earlier.as_str(), false));
    let prepared = prepare(&new, &Wanted::File, &settings).unwrap();
    assert_eq!((prepared.commit(), prepared.moves(), main()), (COMMIT, true, earlier));
    fetch(&new, &prepared, &settings, &Told::default()).unwrap();
    assert_eq!(main(), COMMIT);
}

#[test]
fn a_branch_stays_at_the_commit_that_is_here() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    get("hf:org/repo/vae/config.json", &Wanted::File, &settings).unwrap();
    let asked = server.requests().len();
    get("hf:org/repo", &model(), &settings).unwrap();
    let lists: Vec<String> = server.requests()[asked..].iter().filter(|line| line.contains("/api/")).cloned().collect();
    assert!(lists.len() == 1 && lists[0].contains(&format!("/revision/{COMMIT}")), "{lists:?}");
}

#[test]
fn what_another_program_has_fetched_is_used_and_only_the_rest_comes() {
    let (server, folder) = hub();
    let snapshot = folder.path().join("models--org--repo/snapshots").join(COMMIT);
    // Without links, as on a disk that has none.
    fs::create_dir_all(snapshot.join("vae")).unwrap();
    fs::write(snapshot.join("vae/diffusion_pytorch_model.safetensors"), "theirs").unwrap();
    // The content is there under another commit's name.
    let unet = bytes_of("@300000");
    fs::create_dir_all(blobs(folder.path())).unwrap();
    fs::write(blobs(folder.path()).join(sha256(&unet)), &unet).unwrap();
    let (path, _) = get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap();
    assert_eq!(fs::read(path.join("vae/diffusion_pytorch_model.safetensors")).unwrap(), b"theirs");
    assert_eq!(fs::read(path.join("unet/diffusion_pytorch_model.safetensors")).unwrap(), unet);
    let large: Vec<String> = server.requests().into_iter().filter(|line| line.starts_with("content")).collect();
    assert_eq!(large, ["content GET /text_encoder/model.safetensors"]);
}

#[test]
fn a_part_is_continued_where_another_process_left_it() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let unet = bytes_of("@300000");
    let part = blobs(folder.path()).join(format!("{}.incomplete", sha256(&unet)));
    fs::create_dir_all(blobs(folder.path())).unwrap();
    fs::write(&part, &unet[..100_000]).unwrap();
    let name = name("hf:org/repo/unet/diffusion_pytorch_model.safetensors");
    let prepared = prepare(&name, &Wanted::File, &settings).unwrap();
    let told = Told::default();
    let path = fetch(&name, &prepared, &settings, &told).unwrap();
    assert_eq!(fs::read(path).unwrap(), unet);
    assert!(!part.exists());
    let last = "content GET /unet/diffusion_pytorch_model.safetensors bytes=100000-";
    assert_eq!(server.requests().last().unwrap(), last);
    assert_eq!(told.begun.take(), [(1, 300_000)]);
    let at = told.at.take();
    assert_eq!((at[0], at.last()), (100_000, Some(&300_000)));
    assert!(at.is_sorted());
}

#[test]
fn a_part_that_is_something_else_is_begun_anew() {
    let (server, folder) = hub();
    let unet = bytes_of("@300000");
    fs::create_dir_all(blobs(folder.path())).unwrap();
    let part = blobs(folder.path()).join(format!("{}.incomplete", sha256(&unet)));
    for wrong in [vec![7; 100_000], vec![7; 300_000], vec![7; 400_000]] {
        fs::write(&part, wrong).unwrap();
        let file = "hf:org/repo/unet/diffusion_pytorch_model.safetensors";
        let (path, _) = get(file, &Wanted::File, &server.settings(folder.path())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), unet);
        fs::remove_file(path).unwrap();
        fs::remove_file(blobs(folder.path()).join(sha256(&unet))).unwrap();
    }
}

#[test]
fn several_processes_share_one_download() {
    let (server, folder) = hub();
    server.set().delay = Duration::from_millis(300);
    let settings = server.settings(folder.path());
    thread::scope(|scope| {
        let get = || scope.spawn(|| get("hf:org/repo", &model(), &settings).map(|(path, _)| path));
        let paths = [get(), get(), get()].map(|thread| thread.join().unwrap().unwrap());
        assert!(paths.iter().all(|path| *path == paths[0]));
    });
    let large = server.requests().into_iter().filter(|line| line.starts_with("content")).count();
    assert_eq!(large, 3, "one for each file of weights");
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let (server, folder) = hub();
    let cache = folder.path().join("cache");
    fs::write(&cache, "a file").unwrap();
    let error = get("hf:org/repo", &model(), &server.settings(&cache)).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.is_storage(), "{error}");
    assert!(error.hint().unwrap().contains("HF_HUB_CACHE"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_is_refused_before_anything_comes() {
    let (server, _) = hub();
    // It has no room at all.
    let error = get("hf:org/repo", &model(), &server.settings(Path::new("/proc/models"))).unwrap_err();
    assert!(matches!(error, Error::NoRoom { needed: 1.., free: 0, .. }), "{error}");
    assert!(server.requests().iter().all(|line| !line.contains(" GET /cache")), "{:?}", server.requests());
}
