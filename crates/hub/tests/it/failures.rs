//! What goes wrong, and what is said of it.

use std::fs;
use std::time::{Duration, Instant};

use sdtrain_hub::{Error, Settings, Token, Wanted, prepare};

use crate::server::{TOKEN, sha256};
use crate::{bytes_of, files_below, get, hub, model, name};

const UNET: &str = "hf:org/repo/unet/diffusion_pytorch_model.safetensors";

#[test]
fn the_token_goes_to_the_hub_alone_and_is_never_shown() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    server.set().wants_token = Some(TOKEN);
    get("hf:org/repo", &model(), &settings).unwrap();
    let requests = server.requests();
    let (hub, others): (Vec<_>, Vec<_>) = requests.iter().partition(|line| line.starts_with("hub"));
    assert!(hub.iter().all(|line| line.ends_with(&format!(" Bearer {TOKEN}"))), "{hub:?}");
    assert_eq!(others.len(), 3);
    assert!(others.iter().all(|line| !line.contains(TOKEN)), "{others:?}");
    assert!(!format!("{settings:?}").contains(TOKEN));
    // Nor where the header itself cannot be made.
    let settings = Settings { token: Token::new("hf_very\nsecret"), ..settings };
    let error = get("hf:org/repo@other", &model(), &settings).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
}

#[test]
fn a_gated_model_says_to_accept_its_licence() {
    let (server, folder) = hub();
    server.set().wants_token = Some("another");
    let settings = server.settings(folder.path());
    let error = get("hf:org/repo", &model(), &settings).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo` may not be read with this token");
    let address = format!("{}/org/repo", server.endpoint);
    assert!(error.hint().unwrap().starts_with(&format!("accept its licence at {address} with the token's account")));
    let error = get("hf:org/repo", &model(), &Settings { token: None, ..settings.clone() }).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo` may not be read without a token");
    assert!(error.hint().unwrap().contains("then set `HF_TOKEN`"));
    for status in [401, 403] {
        server.set().refusals.push_back((status, ""));
        let error = get("hf:org/repo", &model(), &settings).unwrap_err();
        assert!(error.hint().unwrap().contains("is not valid any more or may not read it"), "{error}");
    }
    assert_eq!(server.requests().len(), 4, "none is asked for twice");
}

#[test]
fn what_is_not_there_is_told_apart() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let error = get("hf:org/other", &model(), &settings).unwrap_err();
    let said = format!("`hf:org/other`: `{}` has no repository `org/other`", server.endpoint);
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().contains("may not read it"));
    let error = get("hf:org/other", &model(), &Settings { token: None, ..settings.clone() }).unwrap_err();
    assert_eq!(error.to_string(), format!("{said}, or does not show it to everybody"));
    assert!(error.hint().unwrap().contains("`HF_TOKEN`"));
    let error = get("hf:org/repo@v9", &model(), &settings).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo@v9`: the repository has no revision `v9`");
    assert!(matches!(get("hf:org/repo/no", &Wanted::File, &settings).unwrap_err(), Error::NoFile { .. }));
    server.set().refusals.extend([(200, ""), (404, "EntryNotFound")]);
    let error = get("hf:org/repo", &model(), &settings).unwrap_err();
    assert!(error.to_string().contains("something else than a list of files"), "{error}");
    let small = |error: &Error| error.is_request() && !error.is_storage();
    assert!(!small(&error));
    assert!(small(&get("hf:org/repo", &model(), &settings).unwrap_err()));
    assert!(!folder.path().join("models--org--other").exists(), "nothing is left behind");
}

#[test]
fn a_broken_transfer_is_continued_and_not_for_ever() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    // More attempts than are made in vain: each one brings more.
    server.set().cuts.extend([50_000, 50_000, 50_000, 50_000, 50_000]);
    let (path, _) = get(UNET, &Wanted::File, &settings).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes_of("@300000"));
    let ranges: Vec<String> =
        server.requests().iter().filter_map(|line| Some(line.split_once("bytes=")?.1.to_owned())).collect();
    let hub_and_host =
        |from: &str| [format!("{from}- Bearer {TOKEN}"), format!("{from}- Bearer {TOKEN}"), format!("{from}-")];
    let expected: Vec<String> =
        ["50000", "100000", "150000", "200000", "250000"].iter().flat_map(|from| hub_and_host(from)).collect();
    assert_eq!(ranges, expected);

    let other = tempfile::tempdir().unwrap();
    server.set().cuts.extend([100_000, 0, 0, 0]);
    let settings = server.settings(other.path());
    let error = get(UNET, &Wanted::File, &settings).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("`{UNET}`: `unet/diffusion_pytorch_model.safetensors` cannot be fetched from"))
    );
    assert_eq!(error.hint().unwrap(), "the same command goes on behind the 97.7 KiB that are here");
    assert_eq!(server.set().cuts.len(), 1, "the one that brought something, and two more");
    server.set().cuts.clear();
    get(UNET, &Wanted::File, &settings).unwrap();
    assert!(server.requests().last().unwrap().ends_with("bytes=100000-"));
}

#[test]
fn a_host_without_ranges_sends_it_whole_again() {
    let (server, folder) = hub();
    server.set().has_ranges = false;
    server.set().cuts.push_back(100_000);
    let (path, _) = get(UNET, &Wanted::File, &server.settings(folder.path())).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes_of("@300000"));
}

#[test]
fn what_has_another_hash_is_refused_and_removed() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let file = "unet/diffusion_pytorch_model.safetensors";
    server.set().instead.insert(file.to_owned(), vec![7; 300_000]);
    let error = get(UNET, &Wanted::File, &settings).unwrap_err();
    let (expected, found) = (sha256(&bytes_of("@300000")), sha256(&vec![7; 300_000]));
    let said = format!("`{UNET}`: `{file}` came with the hash {found}, and the hub states {expected}; it was removed");
    assert_eq!(error.to_string(), said);
    // Of another length it is not even taken.
    server.set().instead.insert(file.to_owned(), vec![7; 300_001]);
    let error = get(UNET, &Wanted::File, &settings).unwrap_err();
    assert!(error.to_string().contains("300001 bytes, where the hub states 300000"), "{error}");
    // So with the small ones.
    server.set().instead.insert("unet/config.json".to_owned(), br#"{"sample_size": 9}"#.to_vec());
    let error = get("hf:org/repo", &model(), &settings).unwrap_err();
    assert!(matches!(error, Error::WrongHash { .. }), "{error}");
    let left = files_below(&folder.path().join("models--org--repo"));
    let wrong = left.iter().filter(|name| name.contains(&expected) || name.ends_with("unet/config.json"));
    assert_eq!(wrong.collect::<Vec<_>>(), [&format!("blobs/{expected}.incomplete")]);
    assert_eq!(
        fs::metadata(folder.path().join(format!("models--org--repo/blobs/{expected}.incomplete"))).unwrap().len(),
        0
    );
}

#[test]
fn hashes_are_read_with_and_without_quotes_and_must_be_there() {
    for quotes in [("", ""), ("\"", "\""), ("W/\"", "\"")] {
        let (server, folder) = hub();
        server.set().quotes = quotes;
        get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap();
    }
    let (server, folder) = hub();
    server.set().is_silent = true;
    let error = get(UNET, &Wanted::File, &server.settings(folder.path())).unwrap_err();
    assert!(error.to_string().contains("does not say what length and hash"), "{error}");
    server.set().is_silent = false;
    server.set().quotes = ("\"../../", "\"");
    let error = get(UNET, &Wanted::File, &server.settings(folder.path())).unwrap_err();
    assert!(error.to_string().contains("does not say what length and hash"), "{error}");
}

#[test]
fn a_hub_that_is_out_of_order_for_a_while_is_waited_for() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    server.set().refusals.extend([(500, ""), (429, "")]);
    prepare(&name(UNET), &Wanted::File, &settings).unwrap();
    server.set().refusals.extend([(503, ""); 3]);
    let error = prepare(&name(UNET), &Wanted::File, &settings).unwrap_err();
    let said =
        format!("`{UNET}`: the list of its files cannot be fetched from `{}`: the server answers 503", server.endpoint);
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().starts_with("is the network there?"));
}

#[test]
fn a_hub_that_asks_to_wait_is_not_asked_before() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    server.set().refusals.push_back((429, ""));
    server.set().retry_after = Some(1);
    let began = Instant::now();
    prepare(&name(UNET), &Wanted::File, &settings).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // Where there is no further attempt nobody waits.
    server.set().refusals.push_back((503, ""));
    let other = tempfile::tempdir().unwrap();
    let once = Settings { attempts: 1, ..server.settings(other.path()) };
    let error = prepare(&name(UNET), &Wanted::File, &once).unwrap_err();
    assert!(error.to_string().ends_with("the server answers 503"), "{error}");
}

#[test]
fn without_a_network_what_is_missing_is_said_at_once() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let offline = Settings { offline: true, ..settings.clone() };
    let error = get("hf:org/repo", &model(), &offline).unwrap_err();
    let cache = folder.path().display();
    let said = format!(
        "`hf:org/repo` is not in the Hugging Face cache `{cache}`, or not all of it, and `HF_HUB_OFFLINE` forbids to fetch it"
    );
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().contains("`hf download org/repo`"));
    assert!(server.requests().is_empty());
    // Nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = Settings { endpoint: format!("http://127.0.0.1:{port}"), ..settings };
    let error = get("hf:org/repo", &model(), &nowhere).unwrap_err();
    assert!(matches!(error, Error::Unreachable { here: 0, .. }), "{error}");
    for wrong in ["huggingface.co", "ftp://host", "https://me:secret@host"] {
        let error =
            get("hf:org/repo", &model(), &Settings { endpoint: wrong.to_owned(), ..nowhere.clone() }).unwrap_err();
        assert!(matches!(error, Error::Setup(_)) && !error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_list_without_end_is_asked_for_once() {
    let (server, folder) = hub();
    server.set().files.insert("x".repeat(65 << 20), Vec::new());
    let error = get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap_err();
    assert!(error.to_string().ends_with("answers with a list of files of more than 64 MB"), "{error}");
    assert_eq!(server.requests().len(), 1);
}
