//! How long captions are in tokens, and which of them a text encoder cannot read to the end.

use std::fmt;
use std::path::PathBuf;
use std::thread;

use sdtrain_recipe::Subset;
use sdtrain_tokenizer::Tokenizer;

use crate::caption;
use crate::scan::Image;

/// How a text encoder reads captions.
#[derive(Clone, Copy)]
pub struct TokenWindow<'a> {
    /// What makes tokens of them.
    pub tokenizer: &'a dyn Tokenizer,
    /// How many tokens are read, marks not counted: 75 for one window of CLIP.
    pub limit: usize,
    /// Whether brackets say how much their words weigh, as with `model.prompt_weights`, and are not text.
    pub prompt_weights: bool,
}

impl TokenWindow<'_> {
    /// Tokens of a caption, also those that are not read, marks not counted.
    pub fn tokens_of(&self, caption: &str) -> usize {
        match self.prompt_weights {
            true => self.tokenizer.weighted_token_count(caption),
            false => self.tokenizer.token_count(caption),
        }
    }
}

/// Captions counted in tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenReport {
    /// How many tokens a text encoder reads, its marks not counted.
    pub limit: usize,
    /// Captions counted: all that images can be trained on, with prefix and suffix, each with the longest of its choices.
    pub captions: usize,
    /// Tokens of all captions together.
    pub tokens: usize,
    /// Tokens of the longest one.
    pub longest: usize,
    /// Captions of more tokens than the limit.
    pub too_long: usize,
    /// Images that have such a caption, the longest first.
    pub images: Vec<LongCaption>,
}

/// An image with a caption that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongCaption {
    /// The image.
    pub path: PathBuf,
    /// Tokens of its longest caption.
    pub tokens: usize,
}

impl TokenReport {
    /// Counts on as many threads as the machine has; the result does not depend on them.
    pub(crate) fn count(images: &[Image], subsets: &[Subset], window: TokenWindow<'_>) -> TokenReport {
        /// Fewer captions than this are not worth a thread.
        const PER_THREAD: usize = 256;
        let threads =
            thread::available_parallelism().map_or(1, usize::from).min(images.len().div_ceil(PER_THREAD)).max(1);
        let share = images.len().div_ceil(threads).max(1);
        let mut report = TokenReport { limit: window.limit, ..TokenReport::default() };
        thread::scope(|scope| {
            let count = |images| move || TokenReport::of_part(images, subsets, window);
            let parts: Vec<_> = images.chunks(share).map(|images| scope.spawn(count(images))).collect();
            for part in parts {
                // A panic goes on as if the work had been done here.
                let part = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                report.captions += part.captions;
                report.tokens += part.tokens;
                report.longest = report.longest.max(part.longest);
                report.too_long += part.too_long;
                report.images.extend(part.images);
            }
        });
        report.images.sort_by_key(|image| std::cmp::Reverse(image.tokens));
        report
    }

    fn of_part(images: &[Image], subsets: &[Subset], window: TokenWindow<'_>) -> TokenReport {
        let mut report = TokenReport { limit: window.limit, ..TokenReport::default() };
        for image in images {
            let captions = caption::longest_of_each(&image.captions, &subsets[image.subset]);
            let counts: Vec<usize> = captions.iter().map(|caption| window.tokens_of(caption)).collect();
            let longest = counts.iter().copied().max().unwrap_or(0);
            report.captions += counts.len();
            report.tokens += counts.iter().sum::<usize>();
            report.longest = report.longest.max(longest);
            report.too_long += counts.iter().filter(|&&count| count > window.limit).count();
            if longest > window.limit {
                report.images.push(LongCaption { path: image.location.path().to_owned(), tokens: longest });
            }
        }
        report
    }

    /// Tokens of a caption on average.
    pub fn mean(&self) -> f64 {
        self.tokens as f64 / self.captions.max(1) as f64
    }
}

impl fmt::Display for TokenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A list of thousands helps nobody.
        const SHOWN: usize = 10;
        let TokenReport { limit, captions, longest, too_long, images, .. } = self;
        write!(f, "{captions} captions of {:.1} tokens on average, the longest has {longest}", self.mean())?;
        if *too_long == 0 {
            return write!(f, "; all fit into {limit}");
        }
        write!(f, "\n  warning: {too_long} captions lose what is behind their first {limit} tokens:")?;
        for LongCaption { path, tokens } in images.iter().take(SHOWN) {
            write!(f, "\n  `{}`: {tokens} tokens", path.display())?;
        }
        if images.len() > SHOWN {
            write!(f, "\n  … and those of {} more images", images.len() - SHOWN)?;
        }
        Ok(())
    }
}
