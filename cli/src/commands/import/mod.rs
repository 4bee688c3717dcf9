//! `keyforge import`: what another gateway's configuration says, as credentials and catalogue entries.
//!
//! Nothing is overwritten that is there already under the same name with the same content, so an import can be repeated. What cannot be carried over
//! is listed, each with its reason, and never dropped in silence.

mod deployment;
mod litellm;
mod plan;
mod report;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyforge_proto::admin::v1 as proto;
use keyforge_runtime::config::env_var;
use tonic::Code;

use self::plan::{Plan, Step};
use self::report::Line;
use super::{credential, model};
use crate::client::{AdminArgs, AdminClient};
use crate::errors::Failure;

/// What `keyforge import` takes.
#[derive(Args, Debug)]
pub struct ImportArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    source: Source,
}

#[derive(Debug, Subcommand)]
enum Source {
    /// Read a LiteLLM proxy configuration: its models, and provider keys from the environment
    #[command(after_help = "Example:\n  keyforge import litellm config.yaml --dry-run")]
    Litellm(LitellmArgs),
}

#[derive(Args, Debug)]
struct LitellmArgs {
    /// The proxy's configuration file
    file: PathBuf,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; what was done before stays done, and is kept when the import is repeated.
pub async fn run(args: ImportArgs) -> Result<(), Failure> {
    let Source::Litellm(LitellmArgs { file, dry_run }) = args.source;
    let shown = file.display();
    let text =
        std::fs::read_to_string(&file).map_err(|error| Failure::refused(format!("cannot read {shown}: {error}")))?;
    let config = litellm::read(&text).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let client = AdminClient::find(&args.admin).await?;
    let known = plan::Known { credentials: credential::list(&client, None).await?, models: model::all(&client).await? };
    let plan = Plan::of(config, &known, env_var);
    let mut lines = Vec::new();
    for step in plan.steps {
        lines.push(if dry_run { Line::planned(&step) } else { carry_out(&client, step).await? });
    }
    lines.extend(plan.left_out.into_iter().map(Line::left_out));
    args.admin.output.list(&lines)?;
    if lines.iter().any(Line::is_refused) { Err(Failure::already_said()) } else { Ok(()) }
}

async fn carry_out(client: &AdminClient, step: Step) -> Result<Line, Failure> {
    let line = Line::done(&step);
    let carried = match step {
        Step::Credential { new, .. } => {
            let request = proto::AddCredentialRequest {
                provider: new.provider,
                secret: new.secret.expose().to_vec(),
                pool: new.pool,
                base_url: new.base_url,
                limit_group: new.limit_group,
                weight: new.weight,
            };
            client.credentials().add_credential(request).await.map(drop)
        }
        Step::Model { entry, .. } => {
            let request = proto::SetModelRequest { model: Some((&*entry).into()) };
            client.models().set_model(request).await.map(drop)
        }
        Step::Kept { .. } => Ok(()),
    };
    match carried {
        Ok(()) => Ok(line),
        // For what it says, which the next one may not.
        Err(status)
            if matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition) =>
        {
            Ok(line.refused(status.message()))
        }
        Err(status) => Err(status.into()),
    }
}
