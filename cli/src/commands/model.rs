//! `keyforge model`: the catalogue of models, their limits and prices.
//!
//! JSON output is the catalogue's own form, prices in pico-dollars (1e-12 US dollars) per token; `model set --file` reads what `model show`
//! and `model list` write.

mod entry;
mod view;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::catalog::Model;
use keyforge_shared::clock::{Clock as _, SystemClock};

use self::entry::EntryArgs;
use self::view::ModelView;
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::limit_syntax;

/// What `keyforge model` takes.
#[derive(Args, Debug)]
pub struct ModelArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: ModelAction,
}

#[derive(Debug, Subcommand)]
enum ModelAction {
    /// Show the models of the catalogue
    List {
        /// Only those of this provider
        #[arg(long)]
        provider: Option<String>,
        /// Show at most this many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one model
    Show(NameArgs),
    /// Create or replace entries: one by its options, or many by a file
    #[command(after_help = "Examples:\n  \
        keyforge model set my-model --provider openai --upstream-name gpt-4o --context 128000 --max-output 16384 \\\n    \
        --input-price 2.50 --output-price 10 --source https://example.com/prices\n  \
        keyforge model set --file models.json")]
    Set(SetArgs),
    /// Remove a model
    Remove(NameArgs),
}

#[derive(Args, Debug)]
struct NameArgs {
    /// The name that agents use
    name: String,
}

#[derive(Args, Debug)]
struct SetArgs {
    /// The name that agents use
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// Entries in the form of `keyforge model list --output json`: one object, or an array
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "entry"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    entry: EntryArgs,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: ModelArgs) -> Result<(), Failure> {
    let output = args.admin.output;
    match args.action {
        ModelAction::List { provider, limit } => {
            let client = AdminClient::find(&args.admin).await?;
            let mut models = all(&client).await?;
            models.retain(|model| provider.as_ref().is_none_or(|provider| model.provider.0 == *provider));
            models.truncate(limit.unwrap_or(usize::MAX));
            output.list(&models.into_iter().map(ModelView).collect::<Vec<_>>())
        }
        ModelAction::Show(NameArgs { name }) => {
            let client = AdminClient::find(&args.admin).await?;
            let found = all(&client).await?.into_iter().find(|model| model.name == name);
            let found = found.ok_or_else(|| {
                Failure::refused(format!("there is no model {name}")).hint("`keyforge model list` shows every model")
            })?;
            output.one(&ModelView(found))
        }
        ModelAction::Set(set) => {
            let entries = entries(set)?;
            let client = AdminClient::find(&args.admin).await?;
            let mut stored = Vec::new();
            for entry in &entries {
                let request = proto::SetModelRequest { model: Some(entry.into()) };
                stored.push(ModelView(decoded(client.models().set_model(request).await?.into_inner())?));
            }
            match stored.as_slice() {
                [one] => output.one(one),
                many => output.list(many),
            }
        }
        ModelAction::Remove(NameArgs { name }) => {
            let client = AdminClient::find(&args.admin).await?;
            client.models().remove_model(proto::RemoveModelRequest { name: name.clone() }).await?;
            output.either(|| format!("removed {name}"), &serde_json::json!({ "removed": name }))
        }
    }
}

/// Every model of the catalogue.
pub(super) async fn all(client: &AdminClient) -> Result<Vec<Model>, Failure> {
    let mut models = client.models();
    let found = pages(None, async |page_size, page_token| {
        let answer = models.list_models(proto::ListModelsRequest { page_size, page_token }).await?.into_inner();
        Ok((answer.models, answer.next_page_token))
    });
    found.await?.into_iter().map(decoded).collect()
}

fn decoded(model: proto::Model) -> Result<Model, Failure> {
    let name = model.name.clone();
    Model::try_from(model)
        .map_err(|error| Failure::refused(format!("the server's entry of {name} cannot be read: {error}")))
}

/// The entries that a command line names, checked, so that a file is taken whole or not at all.
fn entries(set: SetArgs) -> Result<Vec<Model>, Failure> {
    let entries = match (set.file, set.name) {
        (Some(file), _) => entry::read_file(&file)?,
        (None, name) => vec![set.entry.model(name.unwrap_or_default(), &limit_syntax::day_of(SystemClock.now()))?],
    };
    let problems = |model: &Model| {
        let found = model.problems();
        (!found.is_empty()).then(|| format!("{}: {}", model.name, found.join("; ")))
    };
    let found: Vec<String> = entries.iter().filter_map(problems).collect();
    if found.is_empty() { Ok(entries) } else { Err(Failure::usage(found.join("\n"))) }
}
