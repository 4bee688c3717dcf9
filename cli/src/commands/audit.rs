//! `keyforge audit`: chains are read, and verified from their genesis on. A broken chain is exit code 1.

mod changes;
mod view;

use clap::{ArgGroup, Args, Subcommand};
use keyforge_proto::admin::v1 as proto;

use self::view::{EntryView, VerdictView};
use super::key_id;
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::output::OutputFormat;

/// What `keyforge audit` takes.
#[derive(Args, Debug)]
pub struct AuditArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: AuditAction,
}

#[derive(Debug, Subcommand)]
enum AuditAction {
    /// Show the entries of a chain, oldest first unless told otherwise
    #[command(group = ArgGroup::new("chain").required(true))]
    List {
        /// The chain of this key: vk_ and 12 characters
        #[arg(group = "chain")]
        key: Option<String>,
        /// The administrators' chain
        #[arg(long, group = "chain")]
        admin: bool,
        /// Show the newest first
        #[arg(long)]
        newest: bool,
        /// Show at most this many: the oldest, or with --newest the newest
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Recompute chains from their genesis; exit code 1 when any is broken
    #[command(group = ArgGroup::new("chain").required(true))]
    Verify {
        /// The chain of this key: vk_ and 12 characters
        #[arg(group = "chain")]
        key: Option<String>,
        /// Every chain
        #[arg(long, group = "chain")]
        all: bool,
        /// The administrators' chain
        #[arg(long, group = "chain")]
        admin: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a broken chain is one.
pub async fn run(args: AuditArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    match args.action {
        AuditAction::List { key, newest, limit, .. } => {
            let first = proto::ListEntriesRequest {
                chain: Some(selector(key.as_deref())?),
                newest_first: newest,
                ..proto::ListEntriesRequest::default()
            };
            let client = AdminClient::find(&args.admin).await?;
            list(&client, first, limit, output).await
        }
        AuditAction::Verify { key, all, .. } => {
            let chain = if all { None } else { Some(selector(key.as_deref())?) };
            let client = AdminClient::find(&args.admin).await?;
            verify(&client, chain, output).await
        }
    }
}

/// The chain of a key, or without one the administrators'.
fn selector(key: Option<&str>) -> Result<proto::ChainSelector, Failure> {
    let chain = match key {
        Some(key) => proto::chain_selector::Chain::KeyId(key_id(key)?),
        None => proto::chain_selector::Chain::Admin(true),
    };
    Ok(proto::ChainSelector { chain: Some(chain) })
}

async fn list(
    client: &AdminClient,
    first: proto::ListEntriesRequest,
    limit: Option<usize>,
    output: OutputFormat,
) -> Result<(), Failure> {
    let mut audit = client.audit();
    let entries = pages(limit, async |page_size, page_token| {
        let request = proto::ListEntriesRequest { page_size, page_token, ..first.clone() };
        let answer = audit.list_entries(request).await?.into_inner();
        Ok((answer.entries, answer.next_page_token))
    });
    let views: Vec<EntryView> = entries.await?.into_iter().map(EntryView::of).collect();
    output.list(&views)
}

async fn verify(
    client: &AdminClient,
    chain: Option<proto::ChainSelector>,
    output: OutputFormat,
) -> Result<(), Failure> {
    let request = proto::VerifyChainsRequest { chain };
    let mut stream = client.audit().verify_chains(request).await?.into_inner();
    let mut verdicts = Vec::new();
    while let Some(verdict) = stream.message().await? {
        let verdict = VerdictView::of(verdict);
        if output == OutputFormat::Table {
            crate::output::print(&verdict.line())?;
        }
        verdicts.push(verdict);
    }
    if output == OutputFormat::Json {
        output.either(String::new, &verdicts)?;
    }
    if verdicts.is_empty() {
        return Err(Failure::refused("no chain was verified").hint("the log of the control plane says more"));
    }
    if verdicts.iter().all(VerdictView::holds) { Ok(()) } else { Err(Failure::already_said()) }
}
