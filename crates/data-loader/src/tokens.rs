//! How long captions are in tokens, and which of them a text encoder cannot read to the end.

use std::fmt;
use std::path::PathBuf;
use std::thread;

use sdtrain_recipe::Subset;
use sdtrain_tokenizer::Tokenizer;

use crate::caption;
use crate::scan::Image;

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
    pub(crate) fn count(images: &[Image], subsets: &[Subset], tokenizer: &dyn Tokenizer, limit: usize) -> TokenReport {
        /// Fewer captions than this are not worth a thread.
        const PER_THREAD: usize = 256;
        let threads =
            thread::available_parallelism().map_or(1, usize::from).min(images.len().div_ceil(PER_THREAD)).max(1);
        let share = images.len().div_ceil(threads).max(1);
        let mut report = TokenReport { limit, ..TokenReport::default() };
        thread::scope(|scope| {
            let count = |images| move || TokenReport::of_part(images, subsets, tokenizer, limit);
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

    fn of_part(images: &[Image], subsets: &[Subset], tokenizer: &dyn Tokenizer, limit: usize) -> TokenReport {
        let mut report = TokenReport { limit, ..TokenReport::default() };
        for image in images {
            let captions = caption::longest_of_each(&image.captions, &subsets[image.subset]);
            let counts: Vec<usize> = captions.iter().map(|caption| tokenizer.token_count(caption)).collect();
            let longest = counts.iter().copied().max().unwrap_or(0);
            report.captions += counts.len();
            report.tokens += counts.iter().sum::<usize>();
            report.longest = report.longest.max(longest);
            report.too_long += counts.iter().filter(|&&count| count > limit).count();
            if longest > limit {
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
