//! What Google bills a picture, by model.

use crate::metering::ImageFormula;

/// Google's models with a published formula; a name means itself and its versions. All of them listen.
///
/// Source: Google, "Understand and count tokens" and "Image understanding" (2026-10): until 2.5 258 tokens for each crop; recorded
/// were 258 and 1,806, which is six crops and the whole. "Gemini 3 developer guide": 1,120 at the default resolution, which no request
/// changes; recorded were 1,085 and 1,088.
const FORMULAS: [(&str, ImageFormula); 10] = [
    ("gemini-2.0-flash", ImageFormula::Crops { crop: 258 }),
    ("gemini-2.0-flash-lite", ImageFormula::Crops { crop: 258 }),
    ("gemini-2.5-flash", ImageFormula::Crops { crop: 258 }),
    ("gemini-2.5-flash-lite", ImageFormula::Crops { crop: 258 }),
    ("gemini-2.5-pro", ImageFormula::Crops { crop: 258 }),
    ("gemini-3-pro", ImageFormula::Each { most: 1120 }),
    ("gemini-3-flash", ImageFormula::Each { most: 1120 }),
    ("gemini-3.1-pro", ImageFormula::Each { most: 1120 }),
    ("gemini-3.1-flash-lite", ImageFormula::Each { most: 1120 }),
    ("gemini-3.5-flash", ImageFormula::Each { most: 1120 }),
];

/// The formula of the model called `name`, with or without its collection.
pub(crate) fn pictures(name: &str) -> Option<ImageFormula> {
    let bare = ["models/", "publishers/google/models/"].iter().find_map(|collection| name.strip_prefix(collection));
    let bare = bare.unwrap_or(name);
    let is_of = |family: &str| bare.strip_prefix(family).is_some_and(is_version);
    FORMULAS.iter().find(|(family, _)| is_of(family)).map(|(_, formula)| *formula)
}

/// Nothing, `-001`, `-preview` or a dated preview such as `-preview-09-2025`.
fn is_version(rest: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    rest.is_empty() || is_number(rest.strip_prefix("-preview").unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use crate::metering::{ImageFormula, of};
    use crate::openai::content::Picture;
    use crate::picture::Size;

    #[test]
    fn pictures_cost_at_least_what_was_recorded() {
        let tokens = |model: &str, width, height| {
            let size = Some(Size { width, height });
            of("google", model).images.tokens(Picture { size, is_low_detail: false, value_bytes: 9 })
        };
        for (model, width, height, billed) in [
            ("gemini-2.0-flash", 384, 384, 258),
            ("models/gemini-2.5-flash-preview-09-2025", 385, 384, 5 * 258),
            ("gemini-2.0-flash-001", 960, 540, 7 * 258),
            ("gemini-2.5-pro", 4000, 3000, 25 * 258),
            ("gemini-3-pro-preview", 4000, 3000, 1120),
        ] {
            assert_eq!(tokens(model, width, height), Some(billed), "{model} {width}x{height}");
        }
        let unknown = Picture { size: None, is_low_detail: true, value_bytes: 9 };
        assert_eq!(of("google", "gemini-2.5-flash").images.tokens(unknown), None);
        assert_eq!(of("google", "gemini-3-flash-preview").images.tokens(unknown), None);
    }

    #[test]
    fn only_googles_own_names_have_a_formula() {
        for (provider, name) in
            [("google", "gemini-2.5-flash-image"), ("google", "gemini-9-pro"), ("openrouter", "gemini-2.5-pro")]
        {
            assert_eq!(of(provider, name).images, ImageFormula::Unpublished, "{provider} {name}");
        }
    }
}
