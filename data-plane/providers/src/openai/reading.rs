//! What an answer and every chunk of a stream say of themselves at the top level: usage, model, class of service.

use keyforge_shared::usage::{ServiceTier, Usage};

use super::usage;
use crate::credible::brief;
use crate::json::{Cursor, JsonError, Kind, Text};

/// What has been read so far; of a member that comes again, the last that is not null counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// The last usage given; `None` also if that could not be trusted.
    pub(super) usage: Option<Usage>,
    /// The model that answered, by its dated name.
    pub(super) model: Option<String>,
    /// The class of service that was billed.
    pub(super) tier: Option<ServiceTier>,
}

impl Reading {
    /// Reads the value of a top-level member if it is one of these. False: the value is still to be read.
    pub(super) fn member(&mut self, key: Text<'_>, cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
        let kind = cursor.peek()?;
        if key.is("usage") {
            self.usage(cursor)?;
        } else if key.is("x_groq") && kind == Kind::Object {
            let mut members = cursor.enter();
            while let Some(key) = cursor.key(&mut members)? {
                if key.is("usage") {
                    self.usage(cursor)?;
                } else {
                    cursor.skip()?;
                }
            }
        } else if key.is("model") && kind == Kind::String {
            let name = cursor.string()?.decode();
            let name = name.as_deref().map(brief);
            if name != self.model.as_deref() {
                self.model = name.map(str::to_owned);
            }
        } else if key.is("service_tier") && kind == Kind::String {
            self.tier = cursor.string()?.decode().and_then(|name| usage::tier(&name));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn usage(&mut self, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
        let given = cursor.peek()? != Kind::Null;
        let span = cursor.value()?;
        if given {
            self.usage = usage::read(cursor.slice(span));
        }
        Ok(())
    }
}
