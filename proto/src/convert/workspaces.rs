//! [`WorkspaceRecord`], its plan, and limits outside of a policy.

use keyforge_shared::id::WorkspaceId;
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{RequestLimit, SpendLimit, limit_problems};
use keyforge_shared::state::WorkspaceRecord;

use super::{ConvertError, each, id};
use crate::admin::v1 as admin;
use crate::fleet::v1 as proto;

/// Limits that are fields of their own in a message: `request_limits` and `spend_limits`.
///
/// # Errors
/// [`ConvertError`] naming the limit whose window is unspecified or unknown, or every problem that the domain finds.
pub fn limits(
    requests: Vec<admin::RequestLimit>,
    spend: Vec<admin::SpendLimit>,
) -> Result<(Vec<RequestLimit>, Vec<SpendLimit>), ConvertError> {
    let (requests, spend) = (each(requests, "request_limits")?, each(spend, "spend_limits")?);
    ConvertError::unless_valid(limit_problems(&requests, &spend))?;
    Ok((requests, spend))
}

impl From<Plan> for admin::Plan {
    fn from(plan: Plan) -> Self {
        match plan {
            Plan::Unlimited => Self::Unlimited,
            Plan::Free => Self::Free,
        }
    }
}

/// A plan out of the enum's number. Unspecified is the unlimited one: that is what there was before there were plans.
///
/// # Errors
/// [`ConvertError`] naming `field` when no plan has this number.
pub fn plan(number: i32, field: &str) -> Result<Plan, ConvertError> {
    match admin::Plan::try_from(number) {
        Ok(admin::Plan::Unspecified | admin::Plan::Unlimited) => Ok(Plan::Unlimited),
        Ok(admin::Plan::Free) => Ok(Plan::Free),
        Err(_) => Err(ConvertError::new(field, format!("no plan has the number {number}"))),
    }
}

impl From<&WorkspaceRecord> for proto::WorkspaceRecord {
    fn from(workspace: &WorkspaceRecord) -> Self {
        Self {
            id: workspace.id.as_bytes().to_vec(),
            name: workspace.name.clone(),
            request_limits: workspace.request_limits.iter().copied().map(Into::into).collect(),
            spend_limits: workspace.spend_limits.iter().copied().map(Into::into).collect(),
            plan: admin::Plan::from(workspace.plan).into(),
        }
    }
}

impl TryFrom<proto::WorkspaceRecord> for WorkspaceRecord {
    type Error = ConvertError;
    fn try_from(workspace: proto::WorkspaceRecord) -> Result<Self, ConvertError> {
        let (request_limits, spend_limits) = limits(workspace.request_limits, workspace.spend_limits)?;
        if workspace.name.is_empty() {
            return Err(ConvertError::new("name", "missing"));
        }
        Ok(Self {
            id: id(&workspace.id, "id", WorkspaceId::from_slice)?,
            name: workspace.name,
            request_limits,
            spend_limits,
            plan: plan(workspace.plan, "plan")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_workspace_survives_the_wire(workspace in samples::workspace()) {
            prop_assert_eq!(WorkspaceRecord::try_from(proto::WorkspaceRecord::from(&workspace)), Ok(workspace));
        }

        #[test]
        fn a_workspace_with_any_field_missing_or_wrong_is_refused_by_name(workspace in samples::workspace()) {
            let whole = proto::WorkspaceRecord::from(&workspace);
            let limit = |window| admin::SpendLimit { nano_usd: 1, window };
            let cases = [
                ("id", proto::WorkspaceRecord { id: vec![1; 15], ..whole.clone() }),
                ("name", proto::WorkspaceRecord { name: String::new(), ..whole.clone() }),
                ("spend_limits[0].window", proto::WorkspaceRecord { spend_limits: vec![limit(0)], ..whole.clone() }),
                ("plan", proto::WorkspaceRecord { plan: 99, ..whole.clone() }),
                ("spend_limits", proto::WorkspaceRecord { spend_limits: vec![limit(1); 2], ..whole }),
            ];
            for (field, broken) in cases {
                prop_assert_eq!(WorkspaceRecord::try_from(broken).unwrap_err().field, field);
            }
        }
    }
}
