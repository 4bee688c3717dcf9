//! What is shown of a model: in tables dollars per million tokens, in JSON the catalogue's own form.

use keyforge_shared::catalog::{Model, Rates};
use keyforge_shared::money::PicoUsdPerToken;
use serde::Serialize;

use crate::output::{Row, or_dash};
use crate::price_syntax;

/// An entry of the catalogue.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct ModelView(pub(super) Model);

impl Row for ModelView {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "provider",
        "upstream name",
        "context",
        "max output",
        "input $/M",
        "cached $/M",
        "output $/M",
        "source",
        "as of",
    ];

    fn cells(&self) -> Vec<String> {
        let model = &self.0;
        let standard = model.prices.as_ref().map(|prices| &prices.standard);
        let price = |of: fn(&Rates) -> Option<PicoUsdPerToken>| or_dash(standard.and_then(of).map(price_syntax::show));
        vec![
            model.name.clone(),
            model.provider.to_string(),
            model.upstream_name.clone(),
            or_dash(model.context_tokens),
            or_dash(model.max_output_tokens),
            price(|rates| Some(rates.input)),
            price(|rates| rates.cache_read),
            price(|rates| Some(rates.output)),
            model.source.clone(),
            model.as_of.clone(),
        ]
    }
}
