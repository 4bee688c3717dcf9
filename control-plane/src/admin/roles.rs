//! Which call asks for which role: one table, and nothing is decided anywhere else.
//!
//! A call without a row is refused to everybody. A test walks the descriptors, so that no call of the API is without one.

use keyforge_shared::role::Role;

use super::AdminError;
use crate::store::operators::Operator;

/// Whom a call is for, beside the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Also for operators who are bound to a workspace. They see nothing but that workspace.
    Workspace,
    /// Only for operators of the whole deployment: what it is about belongs to no workspace.
    Deployment,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Service and method of `keyforge.admin.v1`.
    pub rpc: &'static str,
    /// The call as entries name it.
    pub method: &'static str,
    /// The least role that may make it.
    pub least: Role,
    /// Whom it is for.
    pub reach: Reach,
}

const fn rule(rpc: &'static str, method: &'static str, least: Role, reach: Reach) -> Rule {
    Rule { rpc, method, least, reach }
}

use Reach::{Deployment, Workspace};
use Role::{Admin, Auditor, Owner, Viewer};

/// Every call of the API.
pub const RULES: [Rule; 40] = [
    rule("KeyService/CreateKey", "keys/Create", Admin, Workspace),
    rule("KeyService/GetKey", "keys/Get", Viewer, Workspace),
    rule("KeyService/ListKeys", "keys/List", Viewer, Workspace),
    rule("KeyService/UpdateKey", "keys/Update", Admin, Workspace),
    rule("KeyService/RotateKey", "keys/Rotate", Admin, Workspace),
    rule("KeyService/RaiseKey", "keys/Raise", Admin, Workspace),
    rule("KeyService/ExplainKey", "keys/Explain", Viewer, Workspace),
    rule("KeyService/RevokeKey", "keys/Revoke", Admin, Workspace),
    rule("KeyService/PauseKey", "keys/Pause", Admin, Workspace),
    rule("KeyService/ResumeKey", "keys/Resume", Admin, Workspace),
    rule("KeyService/ZeroKey", "keys/Zero", Admin, Workspace),
    rule("WorkspaceService/CreateWorkspace", "workspaces/Create", Admin, Deployment),
    rule("WorkspaceService/GetWorkspace", "workspaces/Get", Viewer, Workspace),
    rule("WorkspaceService/ListWorkspaces", "workspaces/List", Viewer, Workspace),
    // Of its own workspace a bound operator changes the limits only, neither name nor plan.
    rule("WorkspaceService/UpdateWorkspace", "workspaces/Update", Admin, Workspace),
    rule("WorkspaceService/DeleteWorkspace", "workspaces/Delete", Admin, Deployment),
    rule("CredentialService/AddCredential", "credentials/Add", Admin, Deployment),
    rule("CredentialService/ListCredentials", "credentials/List", Viewer, Deployment),
    rule("CredentialService/UpdateCredential", "credentials/Update", Admin, Deployment),
    rule("CredentialService/RotateCredential", "credentials/Rotate", Admin, Deployment),
    rule("CredentialService/RemoveCredential", "credentials/Remove", Admin, Deployment),
    rule("VaultService/GetVaultStatus", "vault/Status", Auditor, Deployment),
    rule("VaultService/RotateVault", "vault/Rotate", Owner, Deployment),
    rule("NodeService/CreateJoinToken", "nodes/CreateJoinToken", Admin, Deployment),
    rule("NodeService/ListNodes", "nodes/List", Viewer, Deployment),
    rule("NodeService/RemoveNode", "nodes/Remove", Admin, Deployment),
    rule("NodeService/GetAuthority", "nodes/GetAuthority", Viewer, Deployment),
    rule("ModelService/ListModels", "models/List", Viewer, Workspace),
    rule("ModelService/SetModel", "models/Set", Admin, Deployment),
    rule("ModelService/RemoveModel", "models/Remove", Admin, Deployment),
    // The administrators' chain is the deployment's; what is refused of it to bound operators is refused where chains are selected.
    rule("AuditService/ListEntries", "audit/ListEntries", Auditor, Workspace),
    rule("AuditService/VerifyChains", "audit/VerifyChains", Auditor, Workspace),
    rule("UsageService/QueryUsage", "usage/Query", Auditor, Workspace),
    // How much of its limits is left belongs to what is shown of a key or a workspace.
    rule("UsageService/GetBalance", "usage/GetBalance", Viewer, Workspace),
    rule("UsageService/GetWorkspaceBalance", "usage/GetWorkspaceBalance", Viewer, Workspace),
    rule("OperatorService/CreateOperator", "operators/Create", Owner, Deployment),
    rule("OperatorService/ListOperators", "operators/List", Owner, Deployment),
    rule("OperatorService/SetOperatorRole", "operators/SetRole", Owner, Deployment),
    rule("OperatorService/RotateOperator", "operators/Rotate", Owner, Deployment),
    rule("OperatorService/RevokeOperator", "operators/Revoke", Owner, Deployment),
];

/// The call at a path of the API, as entries name it.
#[must_use]
pub fn method_at(path: &str) -> Option<&'static str> {
    let rpc = path.strip_prefix("/keyforge.admin.v1.")?;
    RULES.iter().find(|rule| rule.rpc == rpc).map(|rule| rule.method)
}

/// Refuses a call that the operator may not make.
///
/// # Errors
/// [`AdminError::Denied`], naming the role that it asks for.
pub fn permit(operator: &Operator, method: &str) -> Result<(), AdminError> {
    let Some(rule) = RULES.iter().find(|rule| rule.method == method) else {
        return Err(AdminError::Denied("this call asks for no role that anybody has".to_owned()));
    };
    let Operator { role, workspace, .. } = operator;
    if *role < rule.least {
        return Err(AdminError::Denied(format!("this call asks for the role {} or more: you are {role}", rule.least)));
    }
    if rule.reach == Deployment && workspace.is_some() {
        return Err(AdminError::Denied(format!(
            "this call asks for an operator of the whole deployment with the role {} or more: you are bound to a workspace",
            rule.least
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::id::{OperatorId, WorkspaceId};
    use keyforge_shared::token::TokenDigest;

    use super::*;

    fn operator(role: Role, workspace: Option<WorkspaceId>) -> Operator {
        Operator {
            id: OperatorId::from_bytes([1; 16]),
            name: "somebody".to_owned(),
            digest: TokenDigest([1; 32]),
            created_at: Timestamp::from_nanos(0),
            role,
            workspace,
            expires_at: None,
            revoked_at: None,
        }
    }

    #[test]
    fn each_call_is_for_its_role_and_greater_ones_and_deployment_calls_for_nobody_who_is_bound() {
        for rule in RULES {
            for role in Role::ALL {
                let allowed = permit(&operator(role, None), rule.method);
                assert_eq!(allowed.is_ok(), role >= rule.least, "{rule:?} as {role}");
                if let Err(error) = allowed {
                    assert!(error.to_string().contains(rule.least.as_str()), "{error}");
                }
                let bound = operator(role, Some(WorkspaceId::from_bytes([2; 16])));
                let expected = role >= rule.least && rule.reach == Workspace;
                assert_eq!(permit(&bound, rule.method).is_ok(), expected, "{rule:?} as bound {role}");
            }
        }
    }

    #[test]
    fn call_without_a_row_is_refused_to_everybody() {
        assert!(matches!(permit(&operator(Owner, None), "keys/Conjure"), Err(AdminError::Denied(_))));
    }

    #[test]
    fn no_call_has_two_rows() {
        for (index, rule) in RULES.iter().enumerate() {
            let twice = RULES[..index].iter().any(|other| other.method == rule.method || other.rpc == rule.rpc);
            assert!(!twice, "{rule:?}");
        }
    }
}
