//! Dataset files of kohya's scripts with keys that are unknown, misplaced, of a wrong kind, or cannot be honoured.

use crate::corpus::{Case, Verdict};
use crate::images::png;

const CONFIG: &str = "[data]\nkohya_config = \"d.toml\"\n[train]\nmax_steps = 1\n";

fn file(name: &str, verdict: Verdict, text: impl Into<Vec<u8>>) -> Case {
    let case = Case::new(format!("kohya: {name}"), verdict).data("a.png", png()).data("a.caption", "a");
    case.file("d.toml", text).config(CONFIG).names("d.toml")
}

/// A file with one line too many in `[general]`, in `[[datasets]]` and in `[[datasets.subsets]]`.
fn lines(name: &str, part: &'static str, [general, dataset, subset]: [&str; 3]) -> Case {
    let text = format!(
        "[general]\n{general}\n[[datasets]]\nresolution = 64\n{dataset}\n[[datasets.subsets]]\nimage_dir = 'data'\n{subset}\n"
    );
    file(name, Verdict::Refused(2, part), text)
}

pub fn cases() -> Vec<Case> {
    let refused = |name: &str, part, text: &str| file(name, Verdict::Refused(2, part), text);
    let general = |name: &str, part, line: &str| lines(name, part, [line, "", ""]);
    let dataset = |name: &str, part, line: &str| lines(name, part, ["", line, ""]);
    let subset = |name: &str, part, line: &str| lines(name, part, ["", "", line]);
    let whole = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'data'\n";
    vec![
        file("a right file", Verdict::Accepted("1 kept"), whole),
        file("a file of Windows", Verdict::Accepted("1 kept"), whole.replace('\n', "\r\n")),
        refused("nothing", "there is no `[[datasets]]`", ""),
        refused("no TOML", "", "{\"datasets\": []}"),
        file("not UTF-8", Verdict::Refused(2, ""), b"[general]\ncaption_prefix = 'caf\xe9'\n"),
        refused("cut off", "", "[[datasets]]\nresolution = "),
        refused("lists in lists", "", &format!("a = {}", "[".repeat(20_000))),
        refused("a table twice", "", "[general]\n[general]\n[[datasets]]\n"),
        refused("a key twice", "", "[general]\nkeep_tokens = 1\nkeep_tokens = 2\n"),
        refused("a dataset without subsets", "has no `[[datasets.subsets]]`", "[[datasets]]\nresolution = 64\n"),
        refused("datasets that are a table", "must be written as `[[datasets]]`", "[datasets]\nresolution = 64\n"),
        refused(
            "subsets that are a table",
            "must be written as `[[datasets.subsets]]`",
            "[[datasets]]\n[datasets.subsets]\n",
        ),
        refused("general as a list", "must be written as `[general]`", "[[general]]\nkeep_tokens = 1\n"),
        refused("an unknown section", "unknown key `generals`", &format!("[generals]\n{whole}")),
        refused("no resolution", "`resolution` is not set", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'data'\n"),
        refused(
            "no folder",
            "has neither `image_dir` nor `metadata_file`",
            "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nnum_repeats = 1\n",
        ),
        refused(
            "a folder twice",
            "is named twice in this dataset",
            &format!("{whole}[[datasets.subsets]]\nimage_dir = 'data'\n"),
        ),
        refused("a folder that is not there", "does not exist", &whole.replace("'data'", "'gone'")),
        general("an unknown key", "unknown key `general.keep_token`", "keep_token = 1"),
        general("a key of a subset", "belongs into `[[datasets.subsets]]`", "image_dir = 'data'"),
        subset("a key of a dataset", "holds for a whole dataset", "batch_size = 2"),
        dataset("text for a number", "must be", "batch_size = 'two'"),
        dataset("a negative batch size", "", "batch_size = -1"),
        dataset("a batch size of zero", "", "batch_size = 0"),
        dataset("a huge batch size", "", "batch_size = 9223372036854775807")
            .verdict(Verdict::Refused(3, "batch_size"))
            .names(""),
        dataset("a resolution of three numbers", "", "bucket_reso_steps = [1, 2, 3]"),
        dataset("a step of buckets of zero", "", "enable_bucket = true\nbucket_reso_steps = 0"),
        dataset("a negative longest side", "", "max_bucket_reso = -64"),
        dataset(
            "a strength of LoRAs",
            "the strength of a LoRA is not changed for some images",
            "network_multiplier = 0.5",
        ),
        dataset("a strength that is no number", "network_multiplier", "network_multiplier = nan"),
        dataset("a split", "validation images are chosen once for the whole run", "validation_split = 0.1"),
        subset("repeats of zero", "must be greater than 0", "num_repeats = 0"),
        subset("repeats without end", "100000 repeats are the most", "num_repeats = 4000000000"),
        subset("more repeats than a number holds", "", "num_repeats = 9223372036854775807"),
        subset("negative repeats", "", "num_repeats = -3"),
        subset("a rate that is no number", "caption_dropout_rate", "caption_dropout_rate = nan"),
        subset("a rate above one", "must be between 0 and 1", "caption_dropout_rate = 1.5"),
        subset("a warm-up that is no number", "must be a number, not NaN", "token_warmup_step = nan"),
        subset("a warm-up without end", "must be a number, not inf", "token_warmup_step = inf"),
        subset("a negative warm-up", "must not be negative", "token_warmup_step = -1.0"),
        subset("crops around faces", "images are not cut around faces", "face_crop_aug_range = [1.0, 2.0]"),
        subset(
            "masks of the command line",
            "only the scripts' command line says which",
            "conditioning_data_dir = 'data'",
        ),
        subset("regularisation that is no switch", "is_reg", "is_reg = 'yes'"),
        subset("a path with a NUL", "", "metadata_file = \"a\\u0000b\""),
        refused("sides of a resolution that are no numbers", "", &whole.replace("64", "'64,x'")),
        refused("a negative resolution", "", &whole.replace("64", "-64")),
        refused("a resolution without end", "", &whole.replace("64", "4000000000")),
    ]
}
