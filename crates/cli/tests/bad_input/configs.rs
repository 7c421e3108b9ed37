//! Configurations with numbers that are none, keys that are unknown, and text that is no TOML.

use crate::corpus::{Case, Verdict};
use crate::images::png;

/// A configuration with one line more in a section.
fn line(name: &str, part: &'static str, section: &str, line: &str) -> Case {
    let sections = [("data", "resolution = 64"), ("data.subsets", "path = \"data\""), ("train", "max_steps = 1")];
    let mut text = String::new();
    for (known, usual) in sections {
        let header = if known == "data.subsets" { format!("[[{known}]]") } else { format!("[{known}]") };
        // A key that the line sets is not set twice.
        let key = line.split(' ').next().unwrap_or_default();
        let usual = if known == section && usual.starts_with(&format!("{key} ")) { "" } else { usual };
        let more = if known == section { line } else { "" };
        text += &format!("{header}\n{usual}\n{more}\n");
    }
    if !sections.iter().any(|(known, _)| *known == section) {
        text += &format!("[{section}]\n{line}\n");
    }
    whole(name, Verdict::Refused(2, part), text)
}

fn whole(name: &str, verdict: Verdict, text: impl Into<String>) -> Case {
    Case::new(format!("configuration: {name}"), verdict).image("a.png", png()).config(text)
}

pub fn cases() -> Vec<Case> {
    let data = |name: &str, part, text: &str| line(name, part, "data", text);
    let subset = |name: &str, part, text: &str| line(name, part, "data.subsets", text);
    let validation = |name: &str, part, text: &str| line(name, part, "validation", text);
    let refused = |name: &str, part, text: &str| whole(name, Verdict::Refused(2, part), text);
    let usual = "[data]\nresolution = 64\n[[data.subsets]]\npath = \"data\"\n[train]\nmax_steps = 1\n";
    vec![
        whole("a right one", Verdict::Accepted("1 kept"), usual),
        refused("no images", "missing section `[data]`", "[train]\nmax_steps = 1\n"),
        refused(
            "no subsets",
            "there is no image folder to train on",
            "[data]\nresolution = 64\n[train]\nmax_steps = 1\n",
        ),
        refused("no TOML", "", "data: {}\n"),
        refused("cut off", "", "[data]\nresolution ="),
        refused("a section twice", "", &format!("{usual}[data]\n")),
        refused("lists in lists", "", &format!("{usual}x = {}", "[".repeat(50_000))),
        refused("tables in tables", "", &format!("{usual}x = {}", "{a=".repeat(50_000))),
        refused("a dotted key of fifty thousand parts", "", &format!("{usual}{}a = 1", "a.".repeat(50_000))),
        refused("zeros", "", &"\0".repeat(1000)),
        refused("it extends itself", "", &format!("extends = \"run.toml\"\n{usual}")),
        refused("it extends what is not there", "gone.toml", &format!("extends = \"gone.toml\"\n{usual}")),
        line("a discount of NaN", "`noise.multires_discount`", "noise", "multires_discount = nan"),
        line("a huge number of levels", "is at most 100", "noise", "multires_iterations = 4294967295"),
        line("an endless offset", "`noise.offset` must be a number", "noise", "offset = inf"),
        line(
            "a slope without end",
            "must be between -500 and 500",
            "timesteps",
            "distribution = { type = \"sigmoid\", slope = 1e9 }",
        ),
        line("timesteps behind the last", "unknown key `timesteps.last`", "timesteps", "last = 5"),
        line("a Huber loss of nothing", "must be greater than 0", "loss", "type = \"huber\"\nhuber_c = 0"),
        subset("a weight of NaN", "`data.subsets.0.loss_weight` must be a number", "loss_weight = nan"),
        data("a batch size of zero", "must be at least 1", "batch_size = 0"),
        data("a negative batch size", "`data.batch_size`", "batch_size = -4"),
        data("half a batch", "`data.batch_size`", "batch_size = 1.5"),
        data("a batch size that is no number", "`data.batch_size`", "batch_size = nan"),
        data("a huge batch size", "batch_size", "batch_size = 9223372036854775807")
            .verdict(Verdict::Refused(3, "an epoch has only 1 images"))
            .names("data.batch_size"),
        data("a resolution of zero", "must be positive", "resolution = 0"),
        data("a negative resolution", "`data.resolution`", "resolution = -512"),
        data("a resolution without end", "`data.resolution` is at most 16384", "resolution = 4294967295"),
        data("a resolution that is no number", "`data.resolution`", "resolution = nan"),
        data("a resolution of three sides", "`data.resolution`", "resolution = [64, 64, 64]"),
        data(
            "a resolution of one side without end",
            "`data.resolution` is at most 16384",
            "resolution = [64, 4294967295]",
        ),
        data("a step of zero", "must be at least 1", "bucketing.step = 0"),
        data("a step larger than the image", "hold no bucket", "bucketing.step = 4294967295")
            .verdict(Verdict::Refused(3, "hold no bucket"))
            .names("data.resolution"),
        data("a longest side without end", "", "bucketing.max = 4294967295\nbucketing.step = 1\nbucketing.min = 1")
            .verdict(Verdict::Accepted("1 kept")),
        data("buckets without number", "", "resolution = 16000\nbucketing.step = 1\nbucketing.min = 1")
            .verdict(Verdict::Refused(3, "make more than 4096 buckets"))
            .names("data.bucketing.step"),
        data(
            "a shortest side above the longest",
            "is longer than the longest",
            "bucketing.min = 128\nbucketing.max = 64",
        ),
        data("workers without number", "`data.workers` is at most 1024", "workers = 9223372036854775807"),
        data("negative workers", "`data.workers`", "workers = -1"),
        data("an unknown key", "unknown key `data.batchsize`", "batchsize = 1"),
        data("a background of four colours", "`data.alpha.background`", "alpha.background = [0, 0, 0, 0]"),
        data("a colour above 255", "`data.alpha.background", "alpha.background = [0, 0, 256]"),
        data("an unknown way to resize", "`data.resize`", "resize = \"stretch\""),
        data("an unknown kernel", "`data.resize_kernel`", "resize_kernel = \"sinc\""),
        data("a limit of cleaning that is no number", "`data.clean.min_dpi`", "clean.min_dpi = nan"),
        data("a negative limit of cleaning", "min_kilobytes_per_pixel", "clean.min_kilobytes_per_pixel = -1.0"),
        subset("repeats of zero", "must be greater than 0", "repeats = 0"),
        subset("repeats without end", "100000 repeats are the most", "repeats = 4294967295"),
        subset("more repeats than a number of 32 bits holds", "100000 repeats are the most", "repeats = 4294967296"),
        subset("a rate that is no number", "caption_dropout_rate`", "caption_dropout_rate = nan"),
        subset("a rate without end", "caption_dropout_rate`", "caption_dropout_rate = inf"),
        subset("a negative rate", "must be between 0 and 1", "caption_tag_dropout_rate = -0.1"),
        subset("a warm-up that is no number", "token_warmup_step`", "token_warmup_step = nan"),
        subset("an ending of nothing", "caption_extension` is empty", "caption_extension = \".\""),
        subset("an ending without a dot", "must begin with a dot", "caption_extension = \"txt\""),
        subset(
            "weights that are all zero",
            "none could be chosen",
            "captions = [{ extension = \".txt\", weight = 0 }]",
        ),
        subset("an unknown format", "format`", "format = \"lmdb\""),
        subset("a separator of nothing", "must not be empty", "shuffle_caption = true\ncaption_separator = \"\""),
        validation("a split that is no number", "`validation.split`", "split = nan"),
        validation("a split of everything", "must be between 0 and 1, not 1", "split = 1.0"),
        validation("a negative split", "must be between 0 and 1", "split = -0.5"),
        validation("a split of one image", "", "split = 0.5")
            .verdict(Verdict::Refused(3, "`validation.split`: there is only one image"))
            .names("validation.split"),
        validation("a folder that is not there", "does not exist", "path = \"gone\""),
        validation("bands of zero", "must be at least 1", "split = 0.5\ntimestep_bands = 0"),
        line("steps of zero", "must be at least 1", "train", "max_steps = 0"),
        line("negative steps", "`train.max_steps`", "train", "max_steps = -1"),
        line("epochs without end", "", "train", "max_steps = 9223372036854775807").verdict(Verdict::Accepted("1 kept")),
        refused(
            "epochs that overflow",
            "`train.max_epochs` is at most 1000000",
            &usual
                .replace("max_steps = 1", "max_epochs = 9223372036854775807")
                .replace("\"data\"\n", "\"data\"\nrepeats = 10\n"),
        ),
        refused(
            "a thousand million epochs that differ",
            "`train.max_epochs` is at most 1000000",
            &usual
                .replace("max_steps = 1", "max_epochs = 1000000000")
                .replace("resolution = 64\n", "resolution = 64\nleftovers = \"carry\"\n")
                .replace("\"data\"\n", "\"data\"\nrepeats = 1.5\n"),
        ),
        whole(
            "as many epochs as there may be",
            Verdict::Accepted("10000000 of up to 1 images"),
            usual.replace("max_steps = 1", "max_epochs = 1000000").replace("\"data\"\n", "\"data\"\nrepeats = 10\n"),
        ),
        line(
            "a learning rate that is no number",
            "`optimizer.learning_rate`",
            "optimizer",
            "type = \"adamw\"\nlearning_rate = nan",
        ),
        line(
            "a negative learning rate",
            "`optimizer.learning_rate`",
            "optimizer",
            "type = \"adamw\"\nlearning_rate = -1e-4",
        ),
    ]
}
