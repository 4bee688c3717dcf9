//! What of a request its provider is not told, or only as nearly as it can be, although the answer may depend on it.
//!
//! Only for wishes that are best effort by their nature, such as `seed`, and that many clients send with every request: to refuse them would
//! break agents, and to pass over them in silence would deceive. Whatever is a promise is kept or refused instead.

/// A wish that may be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That sampling be repeatable.
    Seed,
    /// How freely the next token is chosen.
    Temperature,
    /// From how much of the probability it is chosen.
    TopP,
    /// From how many tokens it is chosen.
    TopK,
    /// How long the answer should be.
    Verbosity,
    /// How much to think.
    Reasoning,
    /// How closely to look at pictures.
    Detail,
    /// Who of several participants speaks.
    ParticipantName,
    /// That arguments of a function fit its schema exactly.
    StrictTool,
    /// That the answer fit its schema exactly.
    StrictAnswer,
    /// What the answer's form is for.
    FormDescription,
}

const ALL: [Wish; 11] = [
    Wish::Seed,
    Wish::Temperature,
    Wish::TopP,
    Wish::TopK,
    Wish::Verbosity,
    Wish::Reasoning,
    Wish::Detail,
    Wish::ParticipantName,
    Wish::StrictTool,
    Wish::StrictAnswer,
    Wish::FormDescription,
];

impl Wish {
    /// The field in which a chat completion says it; of several such fields the one that OpenAI has.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::TopK => "top_k",
            Self::Verbosity => "verbosity",
            Self::Reasoning => "reasoning_effort",
            Self::Detail => "messages.content.image_url.detail",
            Self::ParticipantName => "messages.name",
            Self::StrictTool => "tools.function.strict",
            Self::StrictAnswer => "response_format.json_schema.strict",
            Self::FormDescription => "response_format.json_schema.description",
        }
    }
}

/// A set of wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored(u16);

impl Ignored {
    /// Adds a wish, if it `is_ignored`.
    pub fn note(&mut self, wish: Wish, is_ignored: bool) {
        self.0 |= u16::from(is_ignored) << (wish as u16);
    }

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The wishes, always in the same order.
    pub fn iter(self) -> impl Iterator<Item = Wish> {
        ALL.into_iter().filter(move |wish| self.0 & (1 << (*wish as u16)) != 0)
    }

    /// The fields of a chat completion that say them, as a header lists them; empty for none.
    #[must_use]
    pub fn fields(self) -> String {
        self.iter().map(Wish::field).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_has_a_place_of_its_own_and_is_listed_once() {
        for wish in ALL {
            let mut one = Ignored::default();
            one.note(wish, false);
            assert_eq!(one, Ignored::default());
            one.note(wish, true);
            one.note(wish, true);
            assert_eq!((one.iter().collect::<Vec<_>>(), one.fields()), (vec![wish], wish.field().to_owned()));
        }
        let all = ALL.into_iter().fold(Ignored::default(), |mut all, wish| {
            all.note(wish, true);
            all.and(all)
        });
        assert!(all.iter().eq(ALL), "those that are missing here are never told");
        assert_eq!(Ignored::default().fields(), "");
    }
}
