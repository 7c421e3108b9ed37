//! The short way gives the tokens that the `tokenizers` crate gives, whatever is in a caption.

use sdtrain_random::{Purpose, Stream};
use sdtrain_test_support::fixture_folder;
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

const PIECES: &[&str] = &[
    "masterpiece",
    "best quality",
    "1girl",
    "Portrait of a Woman",
    "it's",
    "they'll",
    "DON'T",
    "'s",
    "café",
    "naïve",
    "Ünïcödé",
    "cafe\u{301}",
    "ΣΊΣΥΦΟΣ",
    "ΟΔΟΣ",
    "İstanbul",
    "straße",
    "ﬁne ﬂow",
    "Ⅷ",
    "½",
    "x²",
    "٣٤",
    "१२",
    "12345",
    "8k",
    "f/1.8",
    "--ar 16:9",
    "(word:1.2)",
    "[a|b]",
    "!!!",
    "...",
    "…",
    "“quoted”",
    "‘s",
    "’s",
    "a_b-c",
    "<lora:x:1>",
    "<|endoftext|>",
    "<|STARTOFTEXT|>",
    "<|",
    "|>",
    "$&*",
    "山水画",
    "一个女孩站在樱花树下",
    "水墨，高清",
    "着物を着た女性",
    "桜の木の下",
    "がギぐゲご",
    "か\u{3099}",
    "ﾊﾝｶｸ",
    "한국어",
    "각",
    "मानक हिन्दी",
    "ภาษาไทย",
    "עברית",
    "العربية",
    "🎨",
    "👩‍🎨",
    "🏳️‍🌈",
    "🇯🇵",
    "👍🏽",
    "\u{200b}",
    "\u{a0}",
    "\u{3000}",
    "\u{feff}",
    "\t",
    "\r\n",
    "\u{85}",
    "\0",
    "\u{1c}",
    "\u{fffd}",
    "\u{10ffff}",
    "Å",
    "Å",
    "Ω",
    "pneumonoultramicroscopicsilicovolcanoconiosisandsomemoreletterstobetoolong",
];

fn captions(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|number| {
        let mut stream = Stream::new(7, Purpose::Order, 0, number);
        let mut caption = String::new();
        for _ in 0..1 + stream.below(30) {
            if stream.below(6) == 0 {
                // Any character at all.
                caption.extend(char::from_u32(stream.below(0x11_0000) as u32));
            }
            caption.push_str(PIECES[stream.below(PIECES.len() as u64) as usize]);
            caption.push_str([", ", " ", "", "."][stream.below(4) as usize]);
        }
        caption
    })
}

fn agree(tokenizer: &PromptTokenizer, count: u64) {
    for caption in captions(count) {
        assert_eq!(tokenizer.tokens(&caption), tokenizer.tokens_the_long_way(&caption), "{caption:?}");
    }
}

#[test]
fn ten_thousand_captions_have_the_tokens_of_the_long_way() {
    agree(&PromptTokenizer::builtin(), 10_000);
}

#[test]
fn so_have_captions_in_other_vocabularies() {
    for folder in ["tiny_sd1/tokenizer", "words_tokenizer", "words_tokenizer_v5"] {
        agree(&PromptTokenizer::from_folder(fixture_folder().join(folder)).unwrap(), 2_000);
    }
}

#[test]
fn threads_share_what_was_seen() {
    let tokenizer = PromptTokenizer::builtin();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| agree(&tokenizer, 500));
        }
    });
}
