//! Names of processes in certificates: `spiffe://keyforge/<deployment>/control-plane` and `spiffe://keyforge/<deployment>/node/<node>`.
//!
//! A certificate carries exactly one such name, as a URI. The form is that of SPIFFE ids: a trust domain, and a path below it.

use std::fmt;
use std::str::FromStr;

use crate::id::{DeploymentId, NodeId};

const PREFIX: &str = "spiffe://keyforge/";
const CONTROL_PLANE: &str = "control-plane";
const NODE: &str = "node/";

/// What kind of process a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A control plane of the deployment.
    ControlPlane,
    /// This node.
    Node(NodeId),
}

/// A process of a deployment, as its certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The installation.
    pub deployment: DeploymentId,
    /// What it is there.
    pub role: Role,
}

/// The text is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a KeyForge process (spiffe://keyforge/<deployment>/node/<node> or .../control-plane)")]
pub struct IdentityError;

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/", self.deployment)?;
        match self.role {
            Role::ControlPlane => f.write_str(CONTROL_PLANE),
            Role::Node(node) => write!(f, "{NODE}{node}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (deployment, role) =
            text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')).ok_or(IdentityError)?;
        let role = match role.strip_prefix(NODE) {
            Some(node) => Role::Node(node.parse().map_err(|_| IdentityError)?),
            None if role == CONTROL_PLANE => Role::ControlPlane,
            None => return Err(IdentityError),
        };
        let identity = Self { deployment: deployment.parse().map_err(|_| IdentityError)?, role };
        // Ids are read in either case of their digits; a name has one form only.
        if identity.to_string() == text { Ok(identity) } else { Err(IdentityError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nothing_else_is_one() {
        let deployment = DeploymentId::from_bytes([0xab; 16]);
        for role in [Role::ControlPlane, Role::Node(NodeId::from_bytes([2; 16]))] {
            let identity = Identity { deployment, role };
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        let node = Identity { deployment, role: Role::Node(NodeId::from_bytes([2; 16])) }.to_string();
        for wrong in [
            String::new(),
            node.replace("keyforge/", "keyforge2/"),
            node.replace("spiffe", "https"),
            format!("{node}/"),
            format!("{node}0"),
            node.replace("/node/", "/"),
            node.replace("/node/", "/nodes/"),
            node.replacen("abab", "ABAB", 1),
            format!("{PREFIX}{deployment}/control-plane/x"),
        ] {
            assert_eq!(wrong.parse::<Identity>(), Err(IdentityError), "{wrong}");
        }
    }
}
