//! `keyforge operator`: who may administer. A token is printed when its operator is made or gets a new one, and never again.

use clap::{Args, Subcommand, ValueEnum};
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::clock::{Clock as _, SystemClock, Timestamp};
use keyforge_shared::id::OperatorId;
use serde::Serialize;

use super::workspace_name;
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::limit_syntax::{self, Expiry};
use crate::output::{Row, lines, moment, or_dash};

/// What `keyforge operator` takes.
#[derive(Args, Debug)]
pub struct OperatorArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: OperatorAction,
}

#[derive(Debug, Subcommand)]
enum OperatorAction {
    /// Make an operator and print their token, this once
    #[command(after_help = "Example:\n  keyforge operator create ada --role auditor --expires 90d --workspace team")]
    Create(CreateArgs),
    /// Show all operators, by name, revoked ones included
    List {
        /// Show at most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Give an operator another role
    Update(UpdateArgs),
    /// Replace an operator's token and print the new one, this once; the old one is refused at once
    #[command(after_help = "Example:\n  keyforge operator rotate ada --expires 90d")]
    Rotate(RotateArgs),
    /// Refuse an operator for ever
    Revoke(OperatorArg),
}

#[derive(Args, Debug)]
struct OperatorArg {
    /// The operator's name, or their id: op_ and 32 hexadecimal digits
    #[arg(value_name = "ID|NAME")]
    operator: String,
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// Who it is: a person, or the program that will hold the token; no other operator has this name
    name: String,
    /// What they may do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// The only workspace that they see [default: all]
    #[arg(long, value_name = "ID|NAME")]
    workspace: Option<String>,
    /// When the token ends: at the first moment of a date such as 2026-12-04 (UTC), at 2026-12-04T18:00:00Z, or after 12h or 90d [default: never]
    #[arg(long, value_name = "WHEN", value_parser = limit_syntax::expiry)]
    expires: Option<Expiry>,
}

#[derive(Args, Debug)]
struct UpdateArgs {
    #[command(flatten)]
    which: OperatorArg,
    /// What they may do from now on
    #[arg(long, value_enum)]
    role: RoleArg,
}

#[derive(Args, Debug)]
struct RotateArgs {
    #[command(flatten)]
    which: OperatorArg,
    /// When the new token ends, as in `create` [default: when the old one would have]
    #[arg(long, value_name = "WHEN", value_parser = limit_syntax::expiry)]
    expires: Option<Expiry>,
    /// The new token has no end
    #[arg(long, conflicts_with = "expires")]
    no_expires: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// Sees keys, workspaces, credentials and models, and what is left of limits
    Viewer,
    /// Also reads usage and audit chains, and verifies them
    Auditor,
    /// Also changes everything but operators and the vault
    Admin,
    /// Everything
    Owner,
}

impl From<RoleArg> for proto::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Auditor => Self::Auditor,
            RoleArg::Admin => Self::Admin,
            RoleArg::Owner => Self::Owner,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: OperatorArgs) -> Result<(), Failure> {
    let (output, now) = (args.admin.output, SystemClock.now());
    let call = Call::of(args.action, now)?;
    let client = AdminClient::find(&args.admin).await?;
    let mut operators = client.operators();
    let operator = match call {
        Call::Create(request) => {
            let proto::CreateOperatorResponse { operator, token } =
                operators.create_operator(request).await?.into_inner();
            let given = GivenView { operator: OperatorView::of(operator.unwrap_or_default(), now), token };
            return output.either(|| given.text(), &given);
        }
        Call::Rotate(request) => {
            let proto::RotateOperatorResponse { operator, token } =
                operators.rotate_operator(request).await?.into_inner();
            let given = GivenView { operator: OperatorView::of(operator.unwrap_or_default(), now), token };
            return output.either(|| given.text(), &given);
        }
        Call::List(limit) => {
            let found = pages(limit, async |page_size, page_token| {
                let request = proto::ListOperatorsRequest { page_size, page_token };
                let answer = operators.list_operators(request).await?.into_inner();
                Ok((answer.operators, answer.next_page_token))
            });
            let views: Vec<OperatorView> =
                found.await?.into_iter().map(|operator| OperatorView::of(operator, now)).collect();
            return output.list(&views);
        }
        Call::SetRole(request) => operators.set_operator_role(request).await?,
        Call::Revoke(operator) => operators.revoke_operator(proto::RevokeOperatorRequest { operator }).await?,
    };
    output.one(&OperatorView::of(operator.into_inner(), now))
}

/// What to ask the server for.
#[derive(Debug)]
enum Call {
    Create(proto::CreateOperatorRequest),
    List(Option<usize>),
    SetRole(proto::SetOperatorRoleRequest),
    Rotate(proto::RotateOperatorRequest),
    Revoke(String),
}

impl Call {
    /// Everything that can be wrong with a command line is found before a server is looked for.
    fn of(action: OperatorAction, now: Timestamp) -> Result<Self, Failure> {
        let end = |expires: Option<Expiry>| {
            expires.map(|expiry| expiry.millis(now, "--expires").map_err(Failure::usage)).transpose()
        };
        Ok(match action {
            OperatorAction::Create(CreateArgs { name, role, workspace, expires }) => {
                let workspace = workspace.map(workspace_name).transpose()?.unwrap_or_default();
                let role = proto::Role::from(role).into();
                Self::Create(proto::CreateOperatorRequest { name, role, workspace, expires_at_ms: end(expires)? })
            }
            OperatorAction::List { limit } => Self::List(limit),
            OperatorAction::Update(UpdateArgs { which, role }) => {
                let (operator, role) = (operator_name(which.operator)?, proto::Role::from(role).into());
                Self::SetRole(proto::SetOperatorRoleRequest { operator, role })
            }
            OperatorAction::Rotate(RotateArgs { which, expires, no_expires }) => {
                let expires_at_ms = if no_expires { Some(0) } else { end(expires)? };
                Self::Rotate(proto::RotateOperatorRequest { operator: operator_name(which.operator)?, expires_at_ms })
            }
            OperatorAction::Revoke(OperatorArg { operator }) => Self::Revoke(operator_name(operator)?),
        })
    }
}

/// Checks how an operator is named: by their id, or by their name, which does not begin like an id.
fn operator_name(text: String) -> Result<String, Failure> {
    if text.starts_with("kfo_") {
        return Err(Failure::usage("an operator is named by their name or id, not by their token")
            .hint("the token has been written down here: think of `keyforge operator rotate`"));
    }
    if !text.starts_with("op_") || text.parse::<OperatorId>().is_ok() {
        return Ok(text);
    }
    Err(Failure::usage("an operator is named by their name, or by their id: op_ and 32 hexadecimal digits")
        .hint("`keyforge operator list` shows every operator"))
}

/// An operator.
#[derive(Debug, Serialize)]
struct OperatorView {
    id: String,
    name: String,
    role: &'static str,
    /// `null` for an operator of the whole deployment.
    workspace: Option<String>,
    status: &'static str,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl OperatorView {
    fn of(operator: proto::Operator, now: Timestamp) -> Self {
        let role = match operator.role() {
            proto::Role::Viewer => "viewer",
            proto::Role::Auditor => "auditor",
            proto::Role::Admin => "admin",
            proto::Role::Owner => "owner",
            proto::Role::Unspecified => "unknown",
        };
        let is_expired = operator.expires_at_ms.is_some_and(|at| at <= now.millis());
        let status = match (operator.revoked_at_ms, is_expired) {
            (Some(_), _) => "revoked",
            (None, true) => "expired",
            (None, false) => "active",
        };
        let named = if operator.workspace_name.is_empty() { operator.workspace_id } else { operator.workspace_name };
        Self {
            id: operator.id,
            name: operator.name,
            role,
            workspace: Some(named).filter(|name| !name.is_empty()),
            status,
            created_at: moment(operator.created_at_ms),
            expires_at: operator.expires_at_ms.map(moment),
            revoked_at: operator.revoked_at_ms.map(moment),
        }
    }
}

impl Row for OperatorView {
    const COLUMNS: &'static [&'static str] = &["id", "name", "role", "workspace", "status", "expires", "created"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.role.to_owned(),
            or_dash(self.workspace.as_ref()),
            self.status.to_owned(),
            or_dash(self.expires_at.as_ref()),
            self.created_at.clone(),
        ]
    }
}

/// An operator and the token that they were just given.
#[derive(Serialize)]
struct GivenView {
    operator: OperatorView,
    token: String,
}

impl GivenView {
    fn text(&self) -> String {
        format!(
            "{}\n\nThe token is shown this once and stored nowhere; hand it to {} now, who uses it with\n\
             KEYFORGE_ADMIN_TOKEN or --admin-token file:PATH:\n\n  {}",
            lines(&self.operator),
            self.operator.name,
            self.token
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_327_200_000);

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        operator: OperatorArgs,
    }

    fn call(words: &str) -> Result<Call, Failure> {
        let words = std::iter::once("operator").chain(words.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| Failure::usage(error.to_string()))?;
        Call::of(line.operator.action, NOW)
    }

    #[test]
    fn an_operator_is_made_with_a_role_an_end_and_a_workspace() {
        let Call::Create(request) = call("create ada --role auditor --expires 90d --workspace team").unwrap() else {
            panic!("not a creation")
        };
        assert_eq!(
            (request.name.as_str(), request.role(), request.workspace.as_str()),
            ("ada", proto::Role::Auditor, "team")
        );
        assert_eq!(request.expires_at_ms, Some(NOW.millis() + 90 * 86_400_000));
    }

    #[test]
    fn a_rotation_keeps_the_end_unless_it_is_told_otherwise() {
        for (words, expected) in [
            ("rotate ada", None),
            ("rotate ada --no-expires", Some(0)),
            ("rotate ada --expires 1d", Some(NOW.millis() + 86_400_000)),
        ] {
            let Call::Rotate(request) = call(words).unwrap() else { panic!("{words}") };
            assert_eq!(request.expires_at_ms, expected, "{words}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_a_server_is_looked_for() {
        for (words, part) in [
            ("create ada", "--role"),
            ("create ada --role root", "viewer"),
            ("create ada --role admin --expires 2020-01-01", "in the past"),
            ("create ada --role admin --workspace ws_1", "32 hexadecimal digits"),
            ("update ada", "--role"),
            ("rotate ada --expires 1d --no-expires", "--no-expires"),
            ("revoke op_1", "32 hexadecimal digits"),
        ] {
            let error = call(words).unwrap_err().to_string();
            assert!(error.contains(part), "{words}: {error}");
        }
        let error = call("revoke kfo_topsecret").unwrap_err().to_string();
        assert!(error.contains("not by their token") && !error.contains("topsecret"), "{error}");
    }

    #[test]
    fn status_says_whether_the_token_works() {
        let of = |expires_at_ms, revoked_at_ms| {
            let role = proto::Role::Owner.into();
            let operator = proto::Operator { role, expires_at_ms, revoked_at_ms, ..Default::default() };
            OperatorView::of(operator, NOW)
        };
        let later = NOW.millis() + 1;
        let seen = [of(None, None), of(Some(later), None), of(Some(NOW.millis()), None), of(Some(1), Some(1))];
        assert_eq!(seen.each_ref().map(|view| view.status), ["active", "active", "expired", "revoked"]);
        assert_eq!(seen[0].cells().len(), OperatorView::COLUMNS.len());
        assert_eq!(seen[0].cells()[2..6], ["owner", "-", "active", "-"]);
    }
}
