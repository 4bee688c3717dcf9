//! [`Role`].

use keyforge_shared::role::Role;

use super::{ConvertError, unspecified};
use crate::admin::v1 as proto;

impl From<Role> for proto::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Auditor => Self::Auditor,
            Role::Admin => Self::Admin,
            Role::Owner => Self::Owner,
        }
    }
}

/// A role out of the enum's number.
///
/// # Errors
/// [`ConvertError`] naming `field` when it is unspecified or no role has this number.
pub fn role(number: i32, field: &str) -> Result<Role, ConvertError> {
    match proto::Role::try_from(number) {
        Ok(proto::Role::Viewer) => Ok(Role::Viewer),
        Ok(proto::Role::Auditor) => Ok(Role::Auditor),
        Ok(proto::Role::Admin) => Ok(Role::Admin),
        Ok(proto::Role::Owner) => Ok(Role::Owner),
        Ok(proto::Role::Unspecified) => Err(unspecified(field)),
        Err(_) => Err(ConvertError::new(field, format!("no role has the number {number}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_survives_the_wire_and_nothing_else_is_one() {
        for expected in Role::ALL {
            assert_eq!(role(proto::Role::from(expected).into(), "role"), Ok(expected));
        }
        for wrong in [0, 5, -1] {
            assert_eq!(role(wrong, "role").unwrap_err().field, "role");
        }
    }
}
