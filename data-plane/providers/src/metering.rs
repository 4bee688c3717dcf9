//! What is known of how a host counts a model's input: framing, pictures, sound, and what no request shows.
//!
//! A table by provider and by the provider's name of the model. Each figure says where it was read; what is in no row gets
//! the generous figures of an unknown host. Nothing is guessed from a name that only resembles one in the table.

use crate::anthropic;
use crate::chat::request::MAX_FUNCTION_BYTES;
use crate::google;
use crate::openai::content::Picture;
use crate::openai::rewrite::MaxTokensField;

/// How a host counts one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metering {
    /// What the host writes around the messages.
    pub framing: Framing,
    /// What a picture is billed.
    pub images: ImageFormula,
    /// What sound is billed.
    pub sound: SoundFormula,
    /// Whether a file or a picture of which the body does not say the type may be sound or a film: the host takes all of them in the same
    /// place.
    pub takes_any_medium: bool,
    /// Whether the host writes the prompt to a cache, at a price of its own, where the request marks it.
    pub caches_on_demand: bool,
    /// Tokens billed at most for each token of the context window: more than 1 where pictures are billed at a multiple.
    pub per_window_token: u64,
    /// Whether the host searches without being asked to, so that neither request nor window bounds what it bills.
    pub searches: bool,
    /// Whether the input that a stream reports first is the input that it reports last.
    pub reports_input_early: bool,
    /// The output limit that the host is known to obey.
    pub limit_field: MaxTokensField,
    /// Whether a stream may be asked for its usage by `stream_options.include_usage`. A host that refuses the option is known to count
    /// in every stream.
    pub usage_option: bool,
    /// Whether the host's tokenizers may change a text before they cut it, so that a character can become several.
    pub normalises: bool,
    /// What the host adds to the prices of all tokens, in percent, where it serves within one region: the account's own setting may ask for that.
    pub region_percent: u64,
}

/// Tokens that a host's template adds to what the request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Once: a preamble, the opening of the answer.
    pub once: u64,
    /// Once if there are tools or a schema for the answer: their heading and how to use them.
    pub with_tools: u64,
    /// To each message: control tokens. The name of its role is counted with what the message says.
    pub per_message: u64,
    /// To each tool.
    pub per_tool: u64,
    /// To each part of a message whose content is a list.
    pub per_part: u64,
    /// To each result of a function: its name, where the host wants that repeated.
    pub per_result: u64,
}

impl Framing {
    const fn new(once: u64, with_tools: u64) -> Self {
        Self { once, with_tools, per_message: 8, per_tool: 16, per_part: 4, per_result: 0 }
    }
}

/// OpenAI writes 3 tokens around a message and 3 before the answer ("How to count tokens with tiktoken", OpenAI Cookbook, 2025).
/// In 129 recordings no prompt had more tokens than its text and role names have bytes; with tools at least 120 fewer.
const OPENAI: Framing = Framing::new(32, 128);
/// Hosts whose recordings show no preamble, or one of some tens of tokens such as Llama's date and gpt-oss's settings (44 at most).
const PLAIN: Framing = Framing::new(128, 1024);
/// As before, and each result of a function says of which function it is. Google wants the name, which no message of a tool needs to say.
const GOOGLE: Framing = Framing { per_result: MAX_FUNCTION_BYTES as u64, ..PLAIN };
/// Anthropic documents 313 to 804 tokens of its own when there are tools ("Tool use", pricing, 2026), and none otherwise.
const ANTHROPIC: Framing = Framing::new(128, 1024);
/// Anybody else. The longest preamble recorded had 591 tokens more than the request has text: an undisclosed system prompt.
const UNKNOWN: Framing = Framing::new(1024, 1024);

/// What a picture is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormula {
    /// Not published.
    Unpublished,
    /// Not published for this model, or contradicted by what was billed; but no more than the dearest that the host publishes,
    /// or than its data URL has as a text.
    Dearest,
    /// A base and as much again for each tile of 512 x 512 pixels; the base alone at low detail.
    Tiles {
        /// Tokens of any picture.
        base: u64,
        /// Tokens of a tile.
        tile: u64,
    },
    /// So many thousandths of a token for each patch of 32 x 32 pixels, of which there are at most 1,536.
    Patches {
        /// Thousandths of a token.
        milli: u64,
    },
    /// A token for each patch of 28 x 28 pixels, after a picture that is larger than the model sees has been made smaller.
    Grid {
        /// Most patches.
        most: u64,
    },
    /// Google's up to its generation 2.5: as much for each crop of 256 to 768 pixels, two thirds of the shorter side, and once more for
    /// the whole; once alone if neither side is longer than 384.
    Crops {
        /// Tokens of a crop.
        crop: u64,
    },
    /// The same for every picture at most, whatever its size. The host takes sound, films and files in the same place, so nothing is known
    /// of what was not looked at.
    Each {
        /// Tokens.
        most: u64,
    },
}

/// What a picture costs at most by any formula published for any model: gpt-4o-mini's, in tokens.
pub const DEAREST_PICTURE: u64 = 2_833 + 8 * 5_667;
/// Most patches that a picture is cut into.
const MOST_PATCHES: u64 = 1536;
/// Most tiles that a picture of at most 2,048 x 768 pixels is cut into.
const MOST_TILES: u64 = 4 * 2;

impl ImageFormula {
    /// The most tokens that `picture` is billed; `None` without a formula.
    ///
    /// Source: OpenAI, "Images and vision", calculating costs (2026-01). A picture beyond 1,536 patches counts as 1,536: its
    /// published reduction ends below that, but bills have shown the whole.
    #[must_use]
    pub fn tokens(self, picture: Picture) -> Option<u64> {
        match self {
            Self::Unpublished => None,
            Self::Dearest => Some(DEAREST_PICTURE.saturating_add(picture.value_bytes)),
            Self::Tiles { base, .. } if picture.is_low_detail => Some(base),
            Self::Tiles { base, tile } => {
                let tiles = picture.size.map_or(MOST_TILES, |size| tiles(size.width, size.height));
                Some(base.saturating_add(tile.saturating_mul(tiles)))
            }
            Self::Patches { milli } => {
                let patches = picture.size.map_or(MOST_PATCHES, |size| patches(size.width, size.height));
                Some(patches.saturating_mul(milli).div_ceil(1000))
            }
            // There is no most of crops that is known, and what was not looked at may be no picture.
            Self::Crops { crop } => picture.size.map(|size| crop.saturating_mul(crops(size.width, size.height))),
            Self::Each { most } => picture.size.map(|_| most),
            // Patches of the whole picture: making it smaller takes some away.
            Self::Grid { most } => Some(picture.size.map_or(most, |size| cells(size.width, size.height).min(most))),
        }
    }
}

fn cells(width: u32, height: u32) -> u64 {
    u64::from(width.div_ceil(28)).saturating_mul(u64::from(height.div_ceil(28)))
}

fn patches(width: u32, height: u32) -> u64 {
    let across = |pixels: u32| u64::from(pixels.div_ceil(32));
    across(width).saturating_mul(across(height)).min(MOST_PATCHES)
}

/// The crops of a picture, the whole counted as one.
fn crops(width: u32, height: u32) -> u64 {
    if width.max(height) <= 384 {
        return 1;
    }
    let side = (u64::from(width.min(height)) * 2 / 3).clamp(256, 768);
    let across = |pixels: u32| u64::from(pixels).div_ceil(side);
    across(width).saturating_mul(across(height)).saturating_add(1)
}

/// The picture is made to fit into 2,048 x 2,048, then its shorter side to 768; neither makes it larger.
fn tiles(width: u32, height: u32) -> u64 {
    let (width, height) = (u64::from(width), u64::from(height));
    // Rounded up: a host rounds to the nearest pixel.
    let scaled = |pixels: u64, side: u64, to: u64| if side > to { (pixels * to).div_ceil(side) } else { pixels };
    let longer = width.max(height);
    let (width, height) = (scaled(width, longer, 2048), scaled(height, longer, 2048));
    let shorter = width.min(height);
    let (width, height) = (scaled(width, shorter, 768), scaled(height, shorter, 768));
    (width.div_ceil(512) * height.div_ceil(512)).min(MOST_TILES)
}

/// What sound is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundFormula {
    /// Not published.
    Unpublished,
    /// A token for each begun tenth of a second.
    TenPerSecond,
    /// 32 tokens for each second.
    ThirtyTwoPerSecond,
}

impl SoundFormula {
    /// The most tokens of `recordings` recordings that last at most `millis` milliseconds together; `None` without a formula.
    ///
    /// Source: OpenAI, "Managing costs" of the realtime guide (2025-12): one token for 100 ms of a user's sound. Two recordings
    /// of chat completions agree: 0.2 s had 2 tokens, 4.5 s had 44. Google, "Understand and count tokens" (2026-10): 32 tokens for a
    /// second; the sound of a recorded minute had 1,917.
    #[must_use]
    pub const fn tokens(self, millis: u64, recordings: u64) -> Option<u64> {
        match self {
            Self::Unpublished => None,
            Self::TenPerSecond => Some(millis.div_ceil(100).saturating_add(recordings)),
            Self::ThirtyTwoPerSecond => Some(millis.saturating_mul(32).div_ceil(1000).saturating_add(recordings)),
        }
    }
}

/// OpenAI's models with a published picture formula; a name means itself and its dated versions.
///
/// Source: OpenAI, "Images and vision" (2026-01). Later models are left out: not all figures are known, and gpt-5.4-mini was seen
/// to bill the text of a data URL instead.
const IMAGES: [(&str, ImageFormula); 16] = [
    ("gpt-4-turbo", ImageFormula::Tiles { base: 85, tile: 170 }),
    ("gpt-4-vision-preview", ImageFormula::Tiles { base: 85, tile: 170 }),
    ("gpt-4o", ImageFormula::Tiles { base: 85, tile: 170 }),
    ("gpt-4o-mini", ImageFormula::Tiles { base: 2833, tile: 5667 }),
    ("gpt-4.1", ImageFormula::Tiles { base: 85, tile: 170 }),
    ("gpt-4.1-mini", ImageFormula::Patches { milli: 1620 }),
    ("gpt-4.1-nano", ImageFormula::Patches { milli: 2460 }),
    ("gpt-4.5-preview", ImageFormula::Tiles { base: 85, tile: 170 }),
    ("gpt-5", ImageFormula::Tiles { base: 70, tile: 140 }),
    ("gpt-5-chat-latest", ImageFormula::Tiles { base: 70, tile: 140 }),
    ("gpt-5-mini", ImageFormula::Patches { milli: 1620 }),
    ("gpt-5-nano", ImageFormula::Patches { milli: 2460 }),
    ("computer-use-preview", ImageFormula::Tiles { base: 65, tile: 129 }),
    ("o1", ImageFormula::Tiles { base: 75, tile: 150 }),
    ("o3", ImageFormula::Tiles { base: 75, tile: 150 }),
    ("o4-mini", ImageFormula::Patches { milli: 1720 }),
];

/// Anthropic's pictures. Its documents ("Vision", 2026) give width x height / 750 and at most some 1,600 tokens, or 4,784 at the high
/// resolution of models from 4.7 on, with longer edges of 1,568 and 2,576 pixels at most; its bills count patches of 28 x 28 pixels. Patches
/// at the edges that are not whole add at most as many as the two edges together have, so these are more than any bill.
const STANDARD_GRID: ImageFormula = ImageFormula::Grid { most: 1_640 };
const FINE_GRID: ImageFormula = ImageFormula::Grid { most: 4_930 };

/// How the names of OpenAI's own models begin. Another host may be called by OpenAI's name because it speaks the same dialect; it
/// serves other models, among them OpenAI's open ones (`gpt-oss-…`), which OpenAI itself does not serve.
const OWN_NAMES: [&str; 10] =
    ["gpt-", "chatgpt-", "ft:gpt-", "o1", "o3", "o4-", "ft:o4-", "chat-latest", "computer-use-", "daybreak-"];

/// OpenAI's models that listen.
const LISTENERS: [&str; 4] = ["gpt-4o-audio-preview", "gpt-4o-mini-audio-preview", "gpt-audio", "gpt-audio-mini"];

/// What gpt-4o-mini bills for a token of its window at most: a picture's 2,833 for the 85 that it takes, rounded up.
const DEAREST_WINDOW_TOKEN: u64 = 34;

/// What is known of `upstream_name`, the provider's own name of a model, at `provider`.
#[must_use]
pub fn of(provider: &str, upstream_name: &str) -> Metering {
    let is_own =
        OWN_NAMES.iter().any(|begin| upstream_name.starts_with(begin)) && !upstream_name.starts_with("gpt-oss");
    let is_openai = provider == "openai" && is_own;
    let (framing, limit_field) = match provider {
        "openai" if is_openai => (OPENAI, MaxTokensField::Current),
        "openai" => (UNKNOWN, MaxTokensField::Current),
        "azure" => (PLAIN, MaxTokensField::Current),
        "anthropic" => (ANTHROPIC, MaxTokensField::Current),
        "google" => (GOOGLE, MaxTokensField::Current),
        "cerebras" => (PLAIN, MaxTokensField::Current),
        "mistral" | "deepseek" | "together" | "bedrock" => (PLAIN, MaxTokensField::Legacy),
        "groq" | "openrouter" | "xai" => (UNKNOWN, MaxTokensField::Current),
        _ => (UNKNOWN, MaxTokensField::Legacy),
    };
    let published = IMAGES.iter().find(|(family, _)| is_openai && is_version(upstream_name, family));
    let gemini = google::pictures(upstream_name).filter(|_| provider == "google");
    let otherwise = match provider {
        "openai" if is_openai => ImageFormula::Dearest,
        "anthropic" if anthropic::sees_finely(upstream_name) => FINE_GRID,
        "anthropic" => STANDARD_GRID,
        _ => gemini.unwrap_or(ImageFormula::Unpublished),
    };
    let images = published.map_or(otherwise, |(_, formula)| *formula);
    let listens = is_openai && LISTENERS.iter().any(|family| is_version(upstream_name, family));
    let sound = match (listens, gemini) {
        (true, _) => SoundFormula::TenPerSecond,
        (false, Some(_)) => SoundFormula::ThirtyTwoPerSecond,
        (false, None) => SoundFormula::Unpublished,
    };
    Metering {
        framing,
        images,
        sound,
        takes_any_medium: provider == "google",
        caches_on_demand: provider != "google",
        per_window_token: per_window_token(images),
        searches: searches(provider, upstream_name),
        // In their recorded streams every count is the same; Anthropic's, unless it runs a tool of its own, which it is never asked to.
        // Gemini's first counts are lower than its last.
        reports_input_early: matches!(provider, "anthropic" | "deepseek"),
        limit_field,
        // It answers 422, "extra inputs are not permitted" (2025); all its recorded streams end with usage.
        usage_option: provider != "mistral",
        // The others' tokens are made of the text's own bytes.
        normalises: !matches!(provider, "openai" | "azure" | "mistral" | "google"),
        // "Data residency", pricing (Anthropic, 2026): 1.1 times, from Opus 4.6 and Sonnet 4.6 on.
        region_percent: if provider == "anthropic" && anthropic::has_regions(upstream_name) { 10 } else { 0 },
    }
}

/// Files hold pictures, so what they are billed can exceed the window where pictures are billed at a multiple.
const fn per_window_token(images: ImageFormula) -> u64 {
    match images {
        // Where nobody says how pictures are billed, the host may serve the model that bills them dearest.
        ImageFormula::Tiles { base: 2833, .. } | ImageFormula::Dearest | ImageFormula::Unpublished => {
            DEAREST_WINDOW_TOKEN
        }
        // The largest published factor is 2.46.
        ImageFormula::Patches { .. } => 3,
        ImageFormula::Tiles { .. }
        | ImageFormula::Grid { .. }
        | ImageFormula::Crops { .. }
        | ImageFormula::Each { .. } => 1,
    }
}

/// Whether `name` is `family` or a dated version of it, such as `gpt-4o-2024-08-06`.
fn is_version(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix("-20").is_some_and(|date| date.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    })
}

/// Models that look things up on their own, by the providers' model lists (2026-11): OpenAI's search and deep research models, Groq's
/// compound systems, Perplexity's, and OpenRouter's `:online` variants.
fn searches(provider: &str, name: &str) -> bool {
    let has = |word: &str| name.split(['/', '-', ':', '_']).any(|part| part == word);
    provider == "perplexity"
        || has("search")
        || has("compound")
        || has("sonar")
        || has("online")
        || (has("deep") && has("research"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::picture::Size;

    fn picture(width: u32, height: u32) -> Picture {
        Picture { size: Some(Size { width, height }), is_low_detail: false, value_bytes: 9 }
    }

    fn tokens(model: &str, picture: Picture) -> u64 {
        of("openai", model).images.tokens(picture).unwrap()
    }

    #[test]
    fn pictures_in_tiles_cost_what_openai_publishes_and_bills() {
        for (model, width, height, billed) in [
            ("gpt-4o", 1024, 1024, 765),
            ("gpt-4o", 2048, 4096, 1105),
            ("gpt-4o", 128, 64, 255),
            ("gpt-4o-mini", 128, 64, 8500),
            ("gpt-4.1-2025-04-14", 2049, 513, 1445),
            ("gpt-5", 512, 513, 350),
            ("o3", 128, 64, 225),
            ("computer-use-preview", 100, 100, 194),
        ] {
            assert_eq!(tokens(model, picture(width, height)), billed, "{model} {width}x{height}");
        }
        let low = Picture { size: None, is_low_detail: true, value_bytes: 9 };
        assert_eq!((tokens("gpt-4o", low), tokens("gpt-4o-mini", low), tokens("gpt-5", low)), (85, 2833, 70));
        let unknown = Picture { size: None, is_low_detail: false, value_bytes: 9 };
        assert_eq!((tokens("gpt-4o", unknown), tokens("gpt-4o-mini", unknown)), (1445, 48_169));
    }

    #[test]
    fn pictures_in_patches_cost_what_openai_publishes_and_never_less_than_it_bills() {
        for (model, width, height, billed) in [
            ("gpt-4.1-mini", 1024, 1024, 1659),
            ("gpt-4.1-mini", 4000, 1474, 2489),
            ("gpt-4.1-nano", 128, 64, 20),
            ("o4-mini-2025-04-16", 33, 32, 4),
            ("gpt-5-mini", 1800, 2400, 2489),
        ] {
            assert_eq!(tokens(model, picture(width, height)), billed, "{model} {width}x{height}");
        }
        let low = Picture { size: None, is_low_detail: true, value_bytes: 9 };
        assert_eq!(tokens("gpt-5-nano", low), 3779, "patches know no detail");
    }

    #[test]
    fn anthropics_pictures_cost_what_it_bills_at_most() {
        let tokens = |model, width, height| of("anthropic", model).images.tokens(picture(width, height));
        // Recorded: the input of a request less its text.
        for (model, width, height, billed) in [
            ("claude-3-opus-20240229", 405, 405, 225),
            ("claude-3-opus-20240229", 1001, 1001, 1296),
            ("claude-sonnet-5", 300, 346, 143),
            ("claude-sonnet-4-5", 166, 282, 66),
        ] {
            assert_eq!(tokens(model, width, height), Some(billed), "{model} {width}x{height}");
        }
        assert_eq!(tokens("claude-haiku-4-5", 8000, 8000), Some(1640));
        assert_eq!(tokens("claude-opus-4-8", 8000, 8000), Some(4930));
        let unknown = Picture { size: None, is_low_detail: true, value_bytes: 9 };
        assert_eq!(of("anthropic", "claude-opus-4-8").images.tokens(unknown), Some(4930));
        assert_eq!(of("anthropic", "claude-opus-4-8").per_window_token, 1);
    }

    #[test]
    fn sound_costs_what_was_recorded() {
        let tokens = |millis| of("openai", "gpt-4o-audio-preview").sound.tokens(millis, 1);
        assert_eq!((tokens(200), tokens(4488), tokens(0)), (Some(3), Some(46), Some(1)));
        assert_eq!(of("openai", "gpt-4o").sound.tokens(200, 1), None);
        assert_eq!(of("google", "gemini-2.5-flash").sound.tokens(60_000, 1), Some(1921));
    }

    #[test]
    fn only_a_models_own_names_have_its_formula() {
        for name in ["gpt-5.4", "gpt-5.4-mini", "gpt-4o-audio-preview", "gpt-4o-2024-x"] {
            let formula = of("openai", name).images;
            assert_eq!(formula.tokens(picture(1, 1)), Some(48_169 + 9), "{name}");
        }
        for (provider, name) in
            [("azure", "gpt-4o"), ("openrouter", "gpt-4o"), ("openai", "llama-4"), ("openai", "gpt-oss-120b")]
        {
            let host = of(provider, name);
            assert_eq!(host.images, ImageFormula::Unpublished, "{provider} {name}");
            assert_ne!(host.framing, OPENAI, "{provider} {name}");
        }
        assert_eq!(of("openai", "gpt-4o-2024-08-06").images, ImageFormula::Tiles { base: 85, tile: 170 });
    }

    #[test]
    fn models_that_search_are_known() {
        for (provider, name) in [
            ("openai", "gpt-4o-mini-search-preview-2025-03-11"),
            ("openai", "gpt-5-search-api"),
            ("openai", "o3-deep-research"),
            ("groq", "compound-beta"),
            ("groq", "groq/compound-mini"),
            ("perplexity", "r1-1776"),
            ("openrouter", "perplexity/sonar-pro"),
            ("openrouter", "openai/gpt-4o:online"),
            ("google", "deep-research-pro-preview-12-2025"),
        ] {
            assert!(of(provider, name).searches, "{name}");
        }
        for name in ["gpt-4o", "gpt-5.6-sol", "o3", "deepseek-reasoner", "claude-sonnet-5", "llama-4-researcher"] {
            assert!(!of("openai", name).searches, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_picture_costs_more_than_one_of_unknown_size(width: u32, height: u32, model in 0..IMAGES.len()) {
            let formula = IMAGES[model].1;
            let known = formula.tokens(picture(width.max(1), height.max(1)));
            let unknown = Picture { size: None, is_low_detail: false, value_bytes: 9 };
            prop_assert!(known <= formula.tokens(unknown));
            prop_assert!(known > Some(0));
        }
    }
}
