//! Where examples come from: tables, folders of folders, and what they say about what is wrong.

use std::path::Path;

use sdtrain_data_loader::{CONDITIONING_IMAGE, DataError, DataSet};
use sdtrain_recipe::{DataConfig, SourceFormat, Subset};

use crate::folder::{Folder, picture};

fn with_pictures(names: &[&str]) -> Folder {
    let folder = Folder::new();
    for (index, name) in names.iter().enumerate() {
        folder.image(name, &picture(64, 48, index as u8));
    }
    folder
}

fn open(config: &DataConfig) -> Result<DataSet, DataError> {
    DataSet::open(&DataConfig { batch_size: 1, ..config.clone() }, 1, 16)
}

fn of(subset: Subset) -> DataConfig {
    DataConfig { subsets: vec![subset], ..Folder::new().config() }
}

/// Name below `folder` and caption of every image.
pub fn captions(data: &DataSet, folder: &Path) -> Vec<(String, String)> {
    let name = |image| data.path(image).strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
    (0..data.images()).map(|image| (name(image), data.caption(image))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn a_table_in_the_folder_names_images_and_captions() {
    let folder = with_pictures(&["b.png", "in/a.png", "c.png"]);
    folder.file(
        "metadata.jsonl",
        b"\xef\xbb\xbf{\"file_name\": \"in/a.png\", \"text\": \"first\"}\r\n\n{\"file_name\": \"b.png\", \"text\": [\"second\"], \"n\": 3}\n",
    );
    let data = open(&folder.config()).unwrap();
    assert_eq!(captions(&data, folder.path()), pairs(&[("b.png", "second"), ("in/a.png", "first")]));
    let warnings = &data.report().warnings;
    assert!(warnings[0].starts_with("1 images are not named in the table and left out"), "{warnings:?}");
    // The caption file beside an image is another source.
    folder.file("c.txt", b"third");
    for name in ["b.txt", "in/a.txt"] {
        folder.file(name, b"x");
    }
    let plain = of(Subset { format: SourceFormat::Folder, ..folder.subset() });
    assert_eq!(open(&plain).unwrap().images(), 3);
}

#[test]
fn a_csv_table_is_read_with_the_columns_asked_for() {
    let folder = with_pictures(&["a.png", "b.png", "edges/a.png", "edges/b.png"]);
    let table = "picture,words,edge_file_name\na.png,\"one, \"\"two\"\"\nthree\",edges/a.png\nb.png,four,edges/b.png\n";
    folder.file("metadata.csv", table.as_bytes());
    let column = |name: &str| Some(name.to_owned());
    let subset = Subset {
        image_column: column("picture"),
        caption_column: column("words"),
        conditioning_image_column: column("edge"),
        ..folder.subset()
    };
    let data = open(&of(subset.clone())).unwrap();
    assert_eq!(captions(&data, folder.path())[0].1, "one, \"two\"");
    let warnings = &data.report().warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("1 captions in "), "{warnings:?}");
    let listing = sdtrain_data_loader::open_source(&subset).list().unwrap();
    assert_eq!(listing.examples[0].captions[0].text, "one, \"two\"\nthree");
    assert_eq!(listing.examples[1].extra_images[CONDITIONING_IMAGE].path(), folder.join("edges/b.png"));

    let error = open(&of(Subset { caption_column: column("wrods"), ..subset.clone() })).unwrap_err();
    assert!(
        error.to_string().ends_with("metadata.csv`: has no column `wrods`, which `caption_column` names"),
        "{error}"
    );
    assert_eq!(error.hint().unwrap(), "its columns are `edge_file_name`, `picture`, `words`");
    let error = open(&of(Subset { image_column: None, ..subset.clone() })).unwrap_err();
    assert!(error.to_string().contains("metadata.csv`:2: names no image: there is no `file_name`"), "{error}");
    let error = open(&of(Subset { caption_column: None, ..subset })).unwrap_err();
    assert!(error.hint().unwrap().contains("`caption_column`"), "{error}");
}

#[test]
fn every_faulty_line_of_a_table_is_named() {
    let folder = with_pictures(&["a.png"]);
    folder.file(
        "metadata.jsonl",
        b"{\"file_name\": \"a.png\", \"text\": \"a\"}\n{\"file_name\": \"a.png\", \"text\": NaN}\n[1]\n{\"text\": \"a\"}\n\xff\n",
    );
    let error = open(&folder.config()).unwrap_err().to_string();
    for line in ["metadata.jsonl`:2: is no JSON", "`:3: is JSON but no table", "`:4: names no image", "`:5: is no JSON"]
    {
        assert!(error.contains(line), "{line}: {error}");
    }
    folder.file("metadata.jsonl", &b"{\"file_name\": ".repeat(200_000));
    assert!(open(&folder.config()).unwrap_err().to_string().contains("longer than 1048576 bytes"));
    folder.file("metadata.jsonl", b"");
    assert!(open(&folder.config()).unwrap_err().to_string().contains("names no image"));
    folder.file("metadata.csv", b"file_name,text\na.png,a,b\n");
    let error = open(&folder.config()).unwrap_err();
    assert!(error.to_string().contains("only one of them can be meant"), "{error}");
    let csv = Subset { metadata_file: Some(folder.join("metadata.csv")), ..folder.subset() };
    let error = open(&of(csv)).unwrap_err().to_string();
    assert!(error.contains("metadata.csv`:2: has 3 cells, and the first line names 2 columns"), "{error}");
}

#[test]
fn a_table_leads_nowhere_outside_its_folder() {
    let folder = with_pictures(&["in/a.png", "out.png"]);
    let rows = ["a.png", "../out.png", "gone.png", "a.png"];
    let out = folder.join("out.png").display().to_string();
    let line = |name: &str| format!("{{\"file_name\": \"{name}\", \"text\": \"a\"}}\n");
    let table: String = rows.into_iter().chain([out.as_str()]).map(line).collect();
    folder.file("in/metadata.jsonl", table.as_bytes());
    let error = open(&of(Subset { path: folder.join("in"), ..Subset::default() })).unwrap_err().to_string();
    assert!(error.starts_with("4 of 5 images cannot be read"), "{error}");
    for reason in ["`../out.png` leads out of", "metadata.jsonl:5`", "named by several rows", "gone.png`: No such file"]
    {
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn kohyas_table_joins_caption_and_tags() {
    let folder = with_pictures(&["a.png", "b.PNG", "in/c.png", "d.png", "e.png"]);
    let absolute = folder.join("d.png").display().to_string();
    let table = serde_json::json!({
        "a": {"caption": "a cat", "tags": "cat, red", "train_resolution": [512, 384]},
        "b": {"tags": "dog"},
        "in/c.png": {"caption": "one\ntwo"},
        absolute: {"caption": ""},
        "e": {"caption": "five", "tags": ""},
    });
    folder.file("meta_cap.json", table.to_string().as_bytes());
    let expected =
        pairs(&[("a.png", "a cat,cat, red"), ("b.PNG", "dog"), ("d.png", ""), ("e.png", "five"), ("in/c.png", "one")]);
    let beside = of(Subset { path: folder.join("meta_cap.json"), ..Subset::default() });
    let listing = sdtrain_data_loader::open_source(&beside.subsets[0]).list().unwrap();
    assert_eq!(listing.examples[4].captions[0].text, "one\ntwo");
    assert_eq!(captions(&open(&beside).unwrap(), folder.path()), expected);

    let elsewhere = Folder::new();
    elsewhere.file("meta.json", table.to_string().as_bytes());
    let subset = Subset { metadata_file: Some(elsewhere.join("meta.json")), ..folder.subset() };
    assert_eq!(captions(&open(&of(subset)).unwrap(), folder.path()), expected);

    let lines = "{\"image_path\": \"a.png\", \"caption\": \"x\", \"tags\": \"y\", \"image_size\": [64, 48]}\n";
    folder.file("table.jsonl", lines.as_bytes());
    let path = folder.join("table.jsonl");
    let subset = Subset { path, format: SourceFormat::KohyaMetadata, ..Subset::default() };
    assert_eq!(captions(&open(&of(subset)).unwrap(), folder.path()), pairs(&[("a.png", "x,y")]));
}

/// The warning about images that no table names, if there is one: how many, and the first.
fn unnamed(subset: Subset) -> Option<String> {
    let data = open(&of(subset)).unwrap();
    data.report().warnings.iter().find(|warning| warning.contains("not named in the table")).cloned()
}

#[test]
fn images_beside_a_table_that_it_does_not_name_are_said_whichever_table_it_is() {
    let folder = with_pictures(&["a.png", "b.png", "in/c.png", "in/d.png", "far/e.png"]);
    let elsewhere = Folder::new();
    let named = |name: &str| Some(elsewhere.join(name));
    let rows = "{\"file_name\": \"a.png\", \"text\": \"a\"}\n{\"file_name\": \"in/c.png\", \"text\": \"c\"}\n";
    let entries = b"{\"a\": {\"caption\": \"a\"}, \"in/../in/c.png\": {\"caption\": \"c\"}}";
    elsewhere.file("rows.jsonl", rows.as_bytes());
    elsewhere.file("meta.json", entries);
    for metadata_file in [named("rows.jsonl"), named("meta.json")] {
        let all = unnamed(Subset { metadata_file: metadata_file.clone(), ..folder.subset() }).unwrap();
        assert!(all.starts_with("3 images are not named") && all.contains("b.png"), "{all}");
        let flat = unnamed(Subset { metadata_file, recursive: false, ..folder.subset() }).unwrap();
        assert!(flat.starts_with("1 images are not named") && flat.contains("b.png"), "{flat}");
    }
    // A table without a folder speaks of where it lies and of the folders that it names.
    folder.file("rows.jsonl", rows.as_bytes());
    folder.file("meta.json", entries);
    folder.file("in/f.heic", b"x");
    for table in ["rows.jsonl", "meta.json"] {
        let path = folder.join(table);
        let around = unnamed(Subset { path: path.clone(), ..Subset::default() }).unwrap();
        assert!(around.starts_with("2 images are not named") && around.contains("b.png"), "{around}");
        let data = open(&of(Subset { path, ..Subset::default() })).unwrap();
        assert!(
            data.report().warnings.iter().any(|warning| warning.contains("f.heic")),
            "{:?}",
            data.report().warnings
        );
    }
    std::fs::remove_file(folder.join("b.png")).unwrap();
    std::fs::remove_file(folder.join("in/d.png")).unwrap();
    assert_eq!(unnamed(Subset { path: folder.join("meta.json"), ..Subset::default() }), None);
}

#[test]
fn kohyas_table_names_what_is_wrong() {
    let folder = with_pictures(&["a.png"]);
    let refused = |table: &str| {
        folder.file("meta.json", table.as_bytes());
        open(&of(Subset { path: folder.join("meta.json"), ..Subset::default() })).unwrap_err()
    };
    assert!(
        refused("{\n\"a\": {\n").to_string().contains("meta.json`:3: is no JSON: EOF"),
        "{}",
        refused("{\n\"a\": {\n")
    );
    assert!(refused("[]").to_string().contains("is a list, not a table"));
    assert!(refused("{}").to_string().contains("names no image"));
    let error = refused("{\"a\": 3, \"gone\": {}}").to_string();
    assert!(error.contains("its entry is the number 3") && error.contains("there is no such image"), "{error}");
    assert!(refused("{\"a\": {\"caption\": 3}}").to_string().contains("its `caption` is the number 3, not text"));
    assert!(refused("{\"a\": {}}").hint().unwrap().contains("neither `caption` nor `tags`"));
}

#[test]
fn folders_named_for_their_repeats_are_subsets() {
    let folder = with_pictures(&["3_sks dog/a.png", "1_dog/b.png", "1_dog/c.png"]);
    folder.file("1_dog/c.txt", b"another");
    let data = open(&folder.config()).unwrap();
    let expected = [("1_dog/b.png", "dog"), ("1_dog/c.png", "another"), ("3_sks dog/a.png", "sks dog")];
    assert_eq!(captions(&data, folder.path()), pairs(&expected));
    assert_eq!(data.report().visits_per_epoch, 5);
    assert!(data.report().warnings[0].contains("`3_sks dog` × 3"));
    let (training, held_out) = DataSet::open_split(&folder.config(), 1, 16, 0.3).unwrap();
    assert_eq!(training.images() + held_out.images(), 3);
}

#[test]
fn a_table_says_how_much_each_image_counts() {
    let folder = with_pictures(&["a.png", "b.png", "c.png"]);
    folder.file("metadata.csv", b"file_name,text,quality\na.png,a,0.5\nb.png,b,\nc.png,c,2\n");
    let subset = Subset { loss_weight_column: Some("quality".to_owned()), loss_weight: 3.0, ..folder.subset() };
    let data = open(&of(subset.clone())).unwrap();
    assert_eq!([0, 1, 2].map(|image| data.loss_weight(image)), [1.5, 3.0, 6.0]);
    let plan = &data.epoch_plan(0)[0];
    assert_eq!(data.load(plan, 0).unwrap().loss_weights, [data.loss_weight(plan.visits[0].image)]);
    let plain = open(&of(folder.subset())).unwrap();
    assert_eq!([0, 1, 2].map(|image| plain.loss_weight(image)), [1.0; 3]);
    assert_ne!(data.fingerprint().unwrap(), plain.fingerprint().unwrap());

    let error = open(&of(Subset { loss_weight_column: Some("qualty".to_owned()), ..folder.subset() })).unwrap_err();
    assert!(error.to_string().contains("has no column `qualty`, which `loss_weight_column` names"), "{error}");
    folder.file("metadata.csv", b"file_name,text,quality\na.png,a,-1\n");
    let error = open(&of(subset.clone())).unwrap_err();
    assert!(error.to_string().contains("`quality` is -1; a loss is multiplied by 0 or more"), "{error}");

    let images = Folder::with_images(2);
    let error = open(&of(Subset { path: images.path().to_owned(), ..subset })).unwrap_err();
    assert!(
        error.to_string().contains("has `loss_weight_column`, which is not read where `format` is \"folder\""),
        "{error}"
    );
}
