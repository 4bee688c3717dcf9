//! A catalogue entry as options of a command line, or as a file.

use std::path::Path;

use clap::{Args, ValueEnum};
use keyforge_shared::catalog::{Model, Operation, Prices, ProviderName, Rates};
use keyforge_shared::money::PicoUsdPerToken;

use crate::errors::Failure;
use crate::limit_syntax;
use crate::price_syntax::dollars_per_million;

/// One entry. Prices are US dollars per million tokens.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "entry", multiple = true)]
pub(super) struct EntryArgs {
    /// Who serves it, such as openai
    #[arg(long, required_unless_present = "file")]
    provider: Option<String>,
    /// The name that the provider knows it by [default: the name that agents use]
    #[arg(long, value_name = "NAME")]
    upstream_name: Option<String>,
    /// What it is called through
    #[arg(long, value_enum, default_value_t)]
    operation: OperationArg,
    /// Most input tokens of a request
    #[arg(long, value_name = "TOKENS")]
    context: Option<u64>,
    /// Most output tokens of a request
    #[arg(long, value_name = "TOKENS")]
    max_output: Option<u64>,
    /// Dollars per million input tokens, such as 2.50; without prices, keys with a spend limit cannot use the model
    #[arg(long, value_name = "USD", value_parser = dollars_per_million, requires = "output_price")]
    input_price: Option<PicoUsdPerToken>,
    /// Dollars per million output tokens, such as 10
    #[arg(long, value_name = "USD", value_parser = dollars_per_million, requires = "input_price")]
    output_price: Option<PicoUsdPerToken>,
    /// Dollars per million input tokens read from the provider's cache [default: the input price]
    #[arg(long, value_name = "USD", value_parser = dollars_per_million, requires = "input_price")]
    cached_input_price: Option<PicoUsdPerToken>,
    /// Where limits and prices were read, such as the URL of a price list
    #[arg(long, required_unless_present = "file")]
    source: Option<String>,
    /// When they were read, such as 2026-11-22 [default: today, UTC]
    #[arg(long, value_name = "DAY", value_parser = limit_syntax::day)]
    as_of: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OperationArg {
    /// Chat completions
    #[default]
    Chat,
    /// The provider's responses API only
    Responses,
    /// Embeddings
    Embedding,
}

impl EntryArgs {
    /// The entry called `name`, as of `today` unless another day is given.
    pub(super) fn model(self, name: String, today: &str) -> Result<Model, Failure> {
        let missing = |option: &str| Failure::usage(format!("{option} is missing"));
        let standard = self.input_price.zip(self.output_price).map(|(input, output)| Rates {
            input,
            output,
            cache_read: self.cached_input_price,
            ..Rates::default()
        });
        Ok(Model {
            upstream_name: self.upstream_name.unwrap_or_else(|| name.clone()),
            name,
            provider: ProviderName(self.provider.ok_or_else(|| missing("--provider"))?),
            operation: match self.operation {
                OperationArg::Chat => Operation::Chat,
                OperationArg::Responses => Operation::Responses,
                OperationArg::Embedding => Operation::Embedding,
            },
            context_tokens: self.context,
            max_output_tokens: self.max_output,
            prices: standard.map(|standard| Prices { standard, priority: None, flex: None, long_context: Vec::new() }),
            source: self.source.ok_or_else(|| missing("--source"))?,
            as_of: self.as_of.unwrap_or_else(|| today.to_owned()),
        })
    }
}

/// Reads one entry or an array of them.
pub(super) fn read_file(path: &Path) -> Result<Vec<Model>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::refused(format!("--file: cannot read {shown}: {error}")))?;
    parse(&text).map_err(|error| {
        Failure::usage(format!("--file: {shown}: {error}"))
            .hint("`keyforge model show NAME --output json` shows what an entry looks like")
    })
}

fn parse(text: &str) -> Result<Vec<Model>, serde_json::Error> {
    // Asked for by its first character: an untagged attempt at both would hide which field is wrong.
    if text.trim_start().starts_with('[') { serde_json::from_str(text) } else { Ok(vec![serde_json::from_str(text)?]) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{ModelAction, ModelArgs, entries};
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        model: ModelArgs,
    }

    fn set(words: &str) -> Result<Vec<Model>, String> {
        let words = ["model", "set"].into_iter().chain(words.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let ModelAction::Set(set) = line.model.action else { panic!("set") };
        entries(set).map_err(|failure| failure.to_string())
    }

    #[test]
    fn options_become_an_entry_with_exact_prices() {
        let words = "m --provider openai --upstream-name gpt-4o --context 128000 --max-output 16384 --input-price 2.50 \
                     --output-price 10 --cached-input-price 1.25 --source list --as-of 2026-11-01";
        let model = set(words).unwrap().remove(0);
        let rates = model.prices.unwrap().standard;
        assert_eq!((rates.input.0, rates.output.0), (2_500_000, 10_000_000));
        assert_eq!(rates.cache_read, Some(PicoUsdPerToken(1_250_000)));
        assert_eq!((model.upstream_name.as_str(), model.as_of.as_str()), ("gpt-4o", "2026-11-01"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_by_its_option() {
        for (words, option) in [
            ("m --source s", "--provider"),
            ("m --provider openai", "--source"),
            ("m --provider openai --source s --input-price 1", "--output-price"),
            ("m --provider openai --source s --input-price cheap --output-price 1", "--input-price"),
            ("m --provider openai --source s --as-of yesterday", "--as-of"),
            ("m --file f", "--file"),
            ("--file /does/not/exist.json", "/does/not/exist.json"),
        ] {
            let error = set(words).unwrap_err();
            assert!(error.contains(option), "{words}: {error}");
        }
    }

    #[test]
    fn a_file_holds_one_entry_or_many_and_a_misspelt_field_is_named() {
        let one = r#"{"name":"m","provider":"openai","upstream_name":"m","source":"s","as_of":"2026-11-01"}"#;
        assert_eq!(parse(one).unwrap().len(), 1);
        assert_eq!(parse(&format!("[{one},{one}]")).unwrap().len(), 2);
        let error = parse(&one.replace("as_of", "asof")).unwrap_err().to_string();
        assert!(error.contains("asof"), "{error}");
    }
}
