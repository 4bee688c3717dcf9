//! The models that are known from the start: limits and list prices by provider, each entry with its source and date.
//!
//! A model has its maker's name; what a host serves of others' models is called by the host's name and a slash in front of its own.
//!
//! They are imported when a deployment is made; from then on the catalogue belongs to its operators. A model without a known price has none:
//! it is never free by accident. Where a price list says nothing about a kind of token in a dearer tier or for long inputs, the entry holds
//! the ordinary price raised by as much as the tier's other prices are, so that it errs on the dear side.

use keyforge_shared::catalog::Model;

const LISTS: [(&str, &str); 12] = [
    ("anthropic", include_str!("anthropic.json")),
    ("azure", include_str!("azure.json")),
    ("cerebras", include_str!("cerebras.json")),
    ("deepseek", include_str!("deepseek.json")),
    ("fireworks", include_str!("fireworks.json")),
    ("google", include_str!("google.json")),
    ("groq", include_str!("groq.json")),
    ("mistral", include_str!("mistral.json")),
    ("openai", include_str!("openai.json")),
    ("perplexity", include_str!("perplexity.json")),
    ("together", include_str!("together.json")),
    ("xai", include_str!("xai.json")),
];

/// Why the built-in lists cannot be read: the program was built wrongly.
#[derive(Debug, thiserror::Error)]
#[error("the built-in models of {provider} cannot be read: {source}")]
pub struct CatalogError {
    provider: &'static str,
    source: serde_json::Error,
}

/// Every built-in model.
///
/// # Errors
/// [`CatalogError`] when a list that was compiled in is not what this version reads.
pub fn built_in() -> Result<Vec<Model>, CatalogError> {
    let mut models = Vec::new();
    for (provider, list) in LISTS {
        let read: Vec<Model> = serde_json::from_str(list).map_err(|source| CatalogError { provider, source })?;
        models.extend(read);
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keyforge_shared::catalog::{Operation, Rates};
    use keyforge_shared::money::PicoUsdPerToken;
    use keyforge_shared::provider::known;

    use super::*;

    #[test]
    fn every_entry_is_valid_and_has_a_limit_a_source_and_a_date() {
        let models = built_in().unwrap();
        assert!(models.len() > 150, "{}", models.len());
        for model in &models {
            assert_eq!(model.problems(), Vec::<String>::new(), "{}", model.name);
            assert!(model.context_tokens.is_some() || model.max_output_tokens.is_some(), "{}", model.name);
        }
    }

    #[test]
    fn every_list_is_of_one_known_provider_and_what_others_made_is_called_by_its_host() {
        for (provider, list) in LISTS {
            assert!(known(provider).is_some(), "{provider}");
            let makers = ["anthropic", "deepseek", "google", "mistral", "openai", "xai"];
            for model in serde_json::from_str::<Vec<Model>>(list).unwrap() {
                assert_eq!(model.provider.0, provider, "{}", model.name);
                let is_hosted = model.name.strip_prefix(provider).is_some_and(|name| name.starts_with('/'));
                assert!(is_hosted || makers.contains(&provider), "{}", model.name);
            }
        }
    }

    #[test]
    fn a_snapshot_of_the_catalogue_stays_small() {
        let bytes: usize = LISTS.iter().map(|(_, list)| list.len()).sum();
        assert!(bytes < 192 * 1024, "{bytes} bytes");
    }

    #[test]
    fn no_name_stands_twice() {
        let models = built_in().unwrap();
        let names: BTreeSet<_> = models.iter().map(|model| &model.name).collect();
        assert_eq!(names.len(), models.len());
    }

    #[test]
    fn nothing_is_free_by_accident() {
        let zero = PicoUsdPerToken(0);
        for model in built_in().unwrap() {
            let Some(prices) = model.prices else { continue };
            let tiers = [Some(&prices.standard), prices.priority.as_ref(), prices.flex.as_ref()];
            let long = prices.long_context.iter().map(|long| &long.rates);
            for rates in tiers.into_iter().flatten().chain(long) {
                assert!(rates.input > zero, "{}", model.name);
                assert!(rates.output > zero || model.operation == Operation::Embedding, "{}", model.name);
            }
        }
    }

    #[test]
    fn dearer_tiers_are_dearer_in_every_kind_of_token() {
        let kinds = |rates: &Rates| {
            let input = [rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.input_audio];
            let output = [rates.output_audio, rates.reasoning];
            let input = input.map(|price| price.unwrap_or(rates.input));
            let output = output.map(|price| price.unwrap_or(rates.output));
            [vec![rates.input, rates.output], input.to_vec(), output.to_vec()].concat()
        };
        for model in built_in().unwrap() {
            let Some(prices) = &model.prices else { continue };
            let dearer = prices.priority.iter().chain(prices.long_context.iter().map(|long| &long.rates));
            for rates in dearer {
                for (special, standard) in kinds(rates).into_iter().zip(kinds(&prices.standard)) {
                    assert!(special >= standard, "{}: {special:?} < {standard:?}", model.name);
                }
            }
        }
    }
}
