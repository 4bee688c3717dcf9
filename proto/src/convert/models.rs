//! [`Model`] with its prices.

use keyforge_shared::catalog::{LongContext, Model, Operation, Prices, ProviderName, Rates};
use keyforge_shared::money::PicoUsdPerToken;

use super::{ConvertError, each, required, unspecified};
use crate::admin::v1 as proto;

impl From<Operation> for proto::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Chat => Self::Chat,
            Operation::Responses => Self::Responses,
            Operation::Embedding => Self::Embedding,
        }
    }
}

impl TryFrom<proto::Operation> for Operation {
    type Error = ConvertError;
    fn try_from(operation: proto::Operation) -> Result<Self, ConvertError> {
        match operation {
            proto::Operation::Chat => Ok(Self::Chat),
            proto::Operation::Responses => Ok(Self::Responses),
            proto::Operation::Embedding => Ok(Self::Embedding),
            proto::Operation::Unspecified => Err(unspecified("operation")),
        }
    }
}

impl From<&Rates> for proto::Rates {
    fn from(rates: &Rates) -> Self {
        let number = |price: Option<PicoUsdPerToken>| price.map(|price| price.0);
        Self {
            input: rates.input.0,
            output: rates.output.0,
            cache_read: number(rates.cache_read),
            cache_write_5m: number(rates.cache_write_5m),
            cache_write_1h: number(rates.cache_write_1h),
            input_audio: number(rates.input_audio),
            output_audio: number(rates.output_audio),
            reasoning: number(rates.reasoning),
        }
    }
}

impl From<proto::Rates> for Rates {
    fn from(rates: proto::Rates) -> Self {
        let price = |number: Option<u64>| number.map(PicoUsdPerToken);
        Self {
            input: PicoUsdPerToken(rates.input),
            output: PicoUsdPerToken(rates.output),
            cache_read: price(rates.cache_read),
            cache_write_5m: price(rates.cache_write_5m),
            cache_write_1h: price(rates.cache_write_1h),
            input_audio: price(rates.input_audio),
            output_audio: price(rates.output_audio),
            reasoning: price(rates.reasoning),
        }
    }
}

impl From<&LongContext> for proto::LongContext {
    fn from(long: &LongContext) -> Self {
        Self { above_input_tokens: long.above_input_tokens, rates: Some((&long.rates).into()) }
    }
}

impl TryFrom<proto::LongContext> for LongContext {
    type Error = ConvertError;
    fn try_from(long: proto::LongContext) -> Result<Self, ConvertError> {
        Ok(Self { above_input_tokens: long.above_input_tokens, rates: required(long.rates, "rates")?.into() })
    }
}

impl From<&Prices> for proto::Prices {
    fn from(prices: &Prices) -> Self {
        Self {
            standard: Some((&prices.standard).into()),
            priority: prices.priority.as_ref().map(Into::into),
            flex: prices.flex.as_ref().map(Into::into),
            long_context: prices.long_context.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Prices> for Prices {
    type Error = ConvertError;
    fn try_from(prices: proto::Prices) -> Result<Self, ConvertError> {
        Ok(Self {
            standard: required(prices.standard, "standard")?.into(),
            priority: prices.priority.map(Into::into),
            flex: prices.flex.map(Into::into),
            long_context: each(prices.long_context, "long_context")?,
        })
    }
}

impl From<&Model> for proto::Model {
    fn from(model: &Model) -> Self {
        Self {
            name: model.name.clone(),
            provider: model.provider.0.clone(),
            upstream_name: model.upstream_name.clone(),
            operation: proto::Operation::from(model.operation).into(),
            context_tokens: model.context_tokens,
            max_output_tokens: model.max_output_tokens,
            prices: model.prices.as_ref().map(Into::into),
            source: model.source.clone(),
            as_of: model.as_of.clone(),
        }
    }
}

impl TryFrom<proto::Model> for Model {
    type Error = ConvertError;
    fn try_from(model: proto::Model) -> Result<Self, ConvertError> {
        let operation = proto::Operation::try_from(model.operation);
        let prices = model.prices.map(Prices::try_from).transpose();
        let decoded = Self {
            name: model.name,
            provider: ProviderName(model.provider),
            upstream_name: model.upstream_name,
            operation: operation.map_err(|error| ConvertError::new("operation", error))?.try_into()?,
            context_tokens: model.context_tokens,
            max_output_tokens: model.max_output_tokens,
            prices: prices.map_err(|error| error.within("prices"))?,
            source: model.source,
            as_of: model.as_of,
        };
        ConvertError::unless_valid(decoded.problems())?;
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_valid_model_survives_the_wire(model in samples::model()) {
            prop_assert_eq!(Model::try_from(proto::Model::from(&model)), Ok(model));
        }

        #[test]
        fn a_model_with_a_hole_is_refused_by_path(model in samples::model()) {
            let whole = proto::Model::from(&model);
            let long = proto::LongContext { above_input_tokens: 1, rates: None };
            let rates = Some(proto::Rates::default());
            let cases = [
                ("operation", proto::Model { operation: 0, ..whole.clone() }),
                ("operation", proto::Model { operation: -3, ..whole.clone() }),
                ("prices.standard", proto::Model { prices: Some(proto::Prices::default()), ..whole.clone() }),
                (
                    "prices.long_context[0].rates",
                    proto::Model {
                        prices: Some(proto::Prices { standard: rates, long_context: vec![long], ..Default::default() }),
                        ..whole.clone()
                    },
                ),
                ("name", proto::Model { name: String::new(), ..whole.clone() }),
                ("as_of", proto::Model { as_of: "yesterday".to_owned(), ..whole }),
            ];
            for (field, broken) in cases {
                prop_assert_eq!(Model::try_from(broken).unwrap_err().field, field);
            }
        }
    }
}
