//! `keyforge credential`: real provider keys go into the vault, by reference, and never come out again.

use clap::{Args, Subcommand};
use keyforge_proto::admin::v1 as proto;
use prost_types::FieldMask;
use serde::Serialize;

use super::secret;
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::output::{OutputFormat, Row, moment};

/// What `keyforge credential` takes.
#[derive(Args, Debug)]
pub struct CredentialArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: CredentialAction,
}

#[derive(Debug, Subcommand)]
enum CredentialAction {
    /// Put a provider key into the vault
    #[command(after_help = "Example:\n  keyforge credential add --provider openai --secret env:OPENAI_API_KEY")]
    Add(AddArgs),
    /// Show all credentials, newest first, without their secrets
    List {
        /// Show at most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Change what is said of a credential; its secret and what was learnt of it stay
    #[command(after_help = "Example:\n  keyforge credential update cred_… --weight 3")]
    Update(UpdateArgs),
    /// Use a credential no more, until it is enabled again
    Disable(IdArgs),
    /// Use a disabled credential again
    Enable(IdArgs),
    /// Replace the secret of a credential
    #[command(after_help = "Example:\n  keyforge credential rotate cred_… --secret file:/run/secrets/openai")]
    Rotate(RotateArgs),
    /// Remove a credential and its secret
    Remove(IdArgs),
}

#[derive(Args, Debug)]
struct AddArgs {
    /// Whose key it is: openai, anthropic, google, or the provider of a model in the catalogue
    #[arg(long)]
    provider: String,
    /// The key by reference: env:NAME, file:PATH, or - for the standard input; never the key itself
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    secret: String,
    /// Which pool of the provider's credentials it joins [default: default]
    #[arg(long)]
    pool: Option<String>,
    /// Where the provider's API is, such as https://llm.internal/v1 [default: the provider's public API]
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Name of the limit at the provider that it shares with others of the same name [default: its own]
    #[arg(long, value_name = "NAME")]
    limit_group: Option<String>,
    /// How often it is chosen compared with the others of its provider, from 1 to 1000 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
}

#[derive(Args, Debug)]
struct UpdateArgs {
    /// The credential's id, as `keyforge credential list` shows it
    id: String,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Changes {
    /// Which pool of the provider's credentials it joins
    #[arg(long)]
    pool: Option<String>,
    /// Where the provider's API is, such as https://llm.internal/v1
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Name of the limit at the provider that it shares with others of the same name
    #[arg(long, value_name = "NAME")]
    limit_group: Option<String>,
    /// How often it is chosen compared with the others of its provider, from 1 to 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
}

#[derive(Args, Debug)]
struct IdArgs {
    /// The credential's id, as `keyforge credential list` shows it
    id: String,
}

#[derive(Args, Debug)]
struct RotateArgs {
    /// The credential's id, as `keyforge credential list` shows it
    id: String,
    /// The new key by reference: env:NAME, file:PATH, or - for the standard input; never the key itself
    #[arg(long, value_name = "REF", allow_hyphen_values = true)]
    secret: String,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: CredentialArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    // A literal secret is refused before anything else happens.
    let secret = match &args.action {
        CredentialAction::Add(AddArgs { secret: reference, .. })
        | CredentialAction::Rotate(RotateArgs { secret: reference, .. }) => secret(reference)?.expose().to_vec(),
        _ => Vec::new(),
    };
    let client = AdminClient::find(&args.admin).await?;
    let mut credentials = client.credentials();
    let credential = match args.action {
        CredentialAction::Add(add) => {
            let request = proto::AddCredentialRequest {
                provider: add.provider,
                secret,
                pool: add.pool.unwrap_or_default(),
                base_url: add.base_url.unwrap_or_default(),
                limit_group: add.limit_group.unwrap_or_default(),
                weight: add.weight.unwrap_or_default(),
            };
            credentials.add_credential(request).await?
        }
        CredentialAction::List { limit } => return output.list(&all(&client, limit).await?),
        CredentialAction::Update(UpdateArgs { id, changes }) => {
            credentials.update_credential(update(id, changes)).await?
        }
        CredentialAction::Disable(IdArgs { id }) => credentials.update_credential(enabled(id, false)).await?,
        CredentialAction::Enable(IdArgs { id }) => credentials.update_credential(enabled(id, true)).await?,
        CredentialAction::Rotate(RotateArgs { id, .. }) => {
            credentials.rotate_credential(proto::RotateCredentialRequest { id, secret }).await?
        }
        CredentialAction::Remove(IdArgs { id }) => {
            credentials.remove_credential(proto::RemoveCredentialRequest { id: id.clone() }).await?;
            return removed(output, &id);
        }
    };
    output.one(&CredentialView::of(credential.into_inner()))
}

async fn all(client: &AdminClient, limit: Option<usize>) -> Result<Vec<CredentialView>, Failure> {
    let found = list(client, limit).await?;
    Ok(found.into_iter().map(CredentialView::of).collect())
}

/// Every credential, newest first.
pub(super) async fn list(client: &AdminClient, limit: Option<usize>) -> Result<Vec<proto::Credential>, Failure> {
    let mut credentials = client.credentials();
    pages(limit, async |page_size, page_token| {
        let request = proto::ListCredentialsRequest { page_size, page_token };
        let answer = credentials.list_credentials(request).await?.into_inner();
        Ok((answer.credentials, answer.next_page_token))
    })
    .await
}

/// The request that changes what was named, and nothing else.
fn update(id: String, changes: Changes) -> proto::UpdateCredentialRequest {
    let Changes { pool, base_url, limit_group, weight } = changes;
    let named = [
        ("pool", pool.is_some()),
        ("base_url", base_url.is_some()),
        ("limit_group", limit_group.is_some()),
        ("weight", weight.is_some()),
    ];
    let paths = named.into_iter().filter(|(_, is_named)| *is_named).map(|(path, _)| path.to_owned()).collect();
    proto::UpdateCredentialRequest {
        id,
        enabled: false,
        base_url: base_url.unwrap_or_default(),
        limit_group: limit_group.unwrap_or_default(),
        pool: pool.unwrap_or_default(),
        update_mask: Some(FieldMask { paths }),
        weight: weight.unwrap_or_default(),
    }
}

/// The request that enables or disables a credential.
pub(super) fn enabled(id: String, enabled: bool) -> proto::UpdateCredentialRequest {
    let update_mask = Some(FieldMask { paths: vec!["enabled".to_owned()] });
    proto::UpdateCredentialRequest { id, enabled, update_mask, ..proto::UpdateCredentialRequest::default() }
}

fn removed(output: OutputFormat, id: &str) -> Result<(), Failure> {
    output.either(|| format!("removed {id}"), &serde_json::json!({ "removed": id }))
}

/// A credential, without its secret.
#[derive(Debug, Serialize)]
struct CredentialView {
    id: String,
    provider: String,
    pool: String,
    enabled: bool,
    base_url: String,
    limit_group: String,
    secret_version: u32,
    weight: u32,
    created_at: String,
    /// How the nodes find it; absent when none has used it lately.
    standing: Option<StandingView>,
    /// Why the vault cannot open its secret; absent when it can. Only in lists.
    unreadable: Option<String>,
}

/// How the nodes find a credential.
#[derive(Debug, Serialize)]
struct StandingView {
    state: &'static str,
    /// Until when no node uses it.
    ready_at: Option<String>,
    headroom_percent: u32,
    last_error: Option<LastErrorView>,
    nodes: u32,
}

/// The last refusal by its provider.
#[derive(Debug, Serialize)]
struct LastErrorView {
    class: String,
    code: String,
    at: String,
}

impl StandingView {
    fn of(standing: proto::CredentialStanding) -> Self {
        let last_error = (standing.last_error_ms > 0).then(|| LastErrorView {
            class: standing.last_error_class.clone(),
            code: standing.last_error_code.clone(),
            at: moment(standing.last_error_ms),
        });
        Self {
            state: word(standing.state()),
            ready_at: (standing.ready_at_ms > 0).then(|| moment(standing.ready_at_ms)),
            headroom_percent: standing.headroom_percent,
            last_error,
            nodes: standing.nodes,
        }
    }

    fn cell(&self) -> String {
        self.ready_at.as_ref().map_or_else(|| self.state.to_owned(), |at| format!("{} until {at}", self.state))
    }
}

const fn word(state: proto::CredentialState) -> &'static str {
    match state {
        proto::CredentialState::Unspecified => "unknown",
        proto::CredentialState::Healthy => "healthy",
        proto::CredentialState::SlowStart => "slow start",
        proto::CredentialState::Probing => "probing",
        proto::CredentialState::Cooling => "cooling",
        proto::CredentialState::Closed => "closed",
        proto::CredentialState::Dead => "dead",
    }
}

impl CredentialView {
    fn of(credential: proto::Credential) -> Self {
        Self {
            id: credential.id,
            provider: credential.provider,
            pool: credential.pool,
            enabled: credential.enabled,
            base_url: credential.base_url,
            limit_group: credential.limit_group,
            secret_version: credential.secret_version,
            weight: credential.weight,
            created_at: moment(credential.created_at_ms),
            standing: credential.standing.map(StandingView::of),
            unreadable: Some(credential.unreadable).filter(|reason| !reason.is_empty()),
        }
    }
}

impl Row for CredentialView {
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "provider",
        "pool",
        "enabled",
        "state",
        "headroom",
        "last error",
        "weight",
        "base url",
        "limit group",
        "secret version",
        "created",
    ];

    fn cells(&self) -> Vec<String> {
        let standing = |show: &dyn Fn(&StandingView) -> String| self.standing.as_ref().map_or_else(String::new, show);
        let error = |error: &LastErrorView| format!("{} {} at {}", error.class, error.code, error.at);
        vec![
            self.id.clone(),
            self.provider.clone(),
            self.pool.clone(),
            if self.enabled { "yes" } else { "no" }.to_owned(),
            self.unreadable.as_ref().map_or_else(|| standing(&StandingView::cell), |_| "unreadable".to_owned()),
            standing(&|standing| format!("{} %", standing.headroom_percent)),
            standing(&|standing| standing.last_error.as_ref().map_or_else(String::new, error)),
            self.weight.to_string(),
            self.base_url.clone(),
            self.limit_group.clone(),
            self.secret_version.to_string(),
            self.created_at.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_shown_without_any_secret() {
        let credential = proto::Credential { id: "cred_1".to_owned(), enabled: true, ..Default::default() };
        let view = CredentialView::of(credential);
        assert_eq!(view.cells().len(), CredentialView::COLUMNS.len());
        let json = serde_json::to_value(&view).unwrap();
        assert!(json.as_object().unwrap().keys().all(|field| field != "secret"), "{json}");
        assert_eq!(json["enabled"], true);
    }

    #[test]
    fn disabling_changes_nothing_but_enabled() {
        let request = enabled("cred_1".to_owned(), false);
        assert_eq!((request.enabled, request.update_mask.unwrap().paths), (false, vec!["enabled".to_owned()]));
    }
}
