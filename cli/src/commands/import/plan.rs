//! What an import would do: which credentials and models are new, and which are there already.

use std::collections::BTreeSet;

use keyforge_control_plane::admin::credentials::NewCredential;
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::catalog::{Model, Prices, ProviderName, Rates};
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::provider;
use keyforge_shared::secret::SecretBytes;

use super::deployment::{Config, Deployment, KeySource, LeftOut};
use crate::limit_syntax;

/// What the catalogue says of an entry that only the file knows.
const OWN_SOURCE: &str = "the imported configuration";
const NO_PRICES: &str = "it has no prices, so keys with a spend limit cannot use it";

/// What the server has.
pub(super) struct Known {
    pub(super) credentials: Vec<proto::Credential>,
    pub(super) models: Vec<Model>,
}

/// One thing to do.
pub(super) enum Step {
    Credential {
        place: String,
        new: NewCredential,
    },
    Model {
        place: String,
        entry: Box<Model>,
        note: Option<String>,
    },
    /// It is there already.
    Kept {
        place: String,
        what: String,
    },
}

/// All that an import does and does not do.
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A provider key is taken once for each address.
type Taken = BTreeSet<(String, String, KeySource)>;

impl Plan {
    /// What carries `config` over to a server that has `known`. `env` reads the environment.
    pub(super) fn of(mut config: Config, known: &Known, env: impl Fn(&str) -> Option<String>) -> Self {
        let mut steps = Vec::new();
        let (mut taken, mut named) = (Taken::new(), Vec::<Deployment>::new());
        for deployment in std::mem::take(&mut config.deployments) {
            if let Some(first) =
                named.iter().find(|first| first.name == deployment.name && !same_model(first, &deployment))
            {
                let why = format!(
                    "{} is already {} of {}: a name stands for one model of one provider",
                    deployment.name, first.upstream_name, first.provider
                );
                config.leave_out(deployment.place, why);
                continue;
            }
            if taken.insert((deployment.provider.clone(), deployment.base_url.clone(), deployment.key.clone())) {
                match credential(&deployment, known, &env) {
                    Ok(step) => steps.push(step),
                    Err(why) => config.leave_out(deployment.place.clone(), why),
                }
            }
            if deployment.is_wildcard() {
                if deployment.name != "*" && deployment.name != format!("{}/*", deployment.provider) {
                    let why = format!(
                        "{}: models answer to their own names and to {}/NAME",
                        deployment.name, deployment.provider
                    );
                    config.leave_out(deployment.place, why);
                }
                continue;
            }
            if !named.iter().any(|first| first.name == deployment.name) {
                steps.push(model(&deployment, &known.models));
                named.push(deployment);
            }
        }
        // A provider that only the file knows is one from its first model on, which needs no credential.
        steps.sort_by_key(
            |step| !matches!(step, Step::Model { entry, .. } if provider::known(&entry.provider.0).is_none()),
        );
        let (mut steps, mut left_out) = unless_unknown(steps, &known.models);
        say_without_credential(&mut steps, &known.credentials);
        left_out.splice(0..0, config.left_out);
        Self { steps, left_out }
    }
}

/// Leaves out credentials of hosts that no model names.
fn unless_unknown(steps: Vec<Step>, catalogue: &[Model]) -> (Vec<Step>, Vec<LeftOut>) {
    let own = |step: &Step| match step {
        Step::Model { entry, .. } => Some(entry.provider.0.clone()),
        Step::Credential { .. } | Step::Kept { .. } => None,
    };
    let named: BTreeSet<String> =
        steps.iter().filter_map(own).chain(catalogue.iter().map(|model| model.provider.0.clone())).collect();
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Credential { place, new: NewCredential { provider, .. } }
                if provider::known(&provider).is_none() && !named.contains(&provider) =>
            {
                let why = format!(
                    "{provider} serves no model that the file names: add one to the file, or with `keyforge model set`"
                );
                left_out.push(LeftOut { place, why });
            }
            step => kept.push(step),
        }
    }
    (kept, left_out)
}

/// Says it at new models whose provider has no credential. They are added all the same: a host of one's own can be given a credential only when a model
/// names it, and its key may be written in the file, from where it is not copied.
fn say_without_credential(steps: &mut [Step], credentials: &[proto::Credential]) {
    let new = steps.iter().filter_map(|step| match step {
        Step::Credential { new, .. } => Some(new.provider.clone()),
        Step::Model { .. } | Step::Kept { .. } => None,
    });
    let supplied: BTreeSet<String> =
        credentials.iter().filter(|one| one.enabled).map(|one| one.provider.clone()).chain(new).collect();
    for step in steps {
        if let Step::Model { entry, note, .. } = step
            && !supplied.contains(&entry.provider.0)
        {
            let provider = &entry.provider;
            let lacking = format!(
                "{provider} has no credential yet, so nothing can use it: add one with `keyforge credential add --provider {provider}`"
            );
            *note = Some(note.take().map_or(lacking.clone(), |note| format!("{note}; {lacking}")));
        }
    }
}

fn same_model(one: &Deployment, other: &Deployment) -> bool {
    (&one.provider, &one.upstream_name) == (&other.provider, &other.upstream_name)
}

fn credential(deployment: &Deployment, known: &Known, env: impl Fn(&str) -> Option<String>) -> Result<Step, String> {
    let Deployment { place, provider, base_url, key, weight, .. } = deployment;
    let variable = match key {
        KeySource::Env(variable) => variable,
        KeySource::Literal(path) => {
            return Err(format!(
                "{path}: a key that is written in a file is not copied; add it with `keyforge credential add --provider {provider} --secret -`"
            ));
        }
    };
    // One name in the environment is one key, so whoever has the same name shares its limits. It also tells a repeated import.
    let public = provider::known(provider).and_then(|known| known.base_url);
    let address = if base_url.is_empty() { public.unwrap_or_default() } else { base_url };
    let is_there = known.credentials.iter().any(|credential| {
        credential.provider == *provider && credential.base_url == address && credential.limit_group == *variable
    });
    if is_there {
        return Ok(Step::Kept { place: place.clone(), what: format!("credential of {provider} from {variable}") });
    }
    let Some(secret) = env(variable) else {
        return Err(format!("{variable} is not set here: set it to import the credential of {provider}"));
    };
    if secret.starts_with("vk_") {
        return Err(format!("{variable} holds a virtual key, which is no key of {provider}"));
    }
    let new = NewCredential {
        provider: provider.clone(),
        secret: SecretBytes::new(secret.into_bytes()),
        pool: String::new(),
        base_url: base_url.clone(),
        limit_group: variable.clone(),
        weight: (*weight).min(1_000),
    };
    let problems = new.problems();
    if !problems.is_empty() {
        return Err(format!("credential of {provider} from {variable}: {}", problems.join("; ")));
    }
    Ok(Step::Credential { place: place.clone(), new })
}

fn model(deployment: &Deployment, catalogue: &[Model]) -> Step {
    let Deployment { place, name, provider, upstream_name, .. } = deployment;
    let there = catalogue.iter().find(|model| model.name == *name);
    if there.is_some_and(|model| model.provider.0 == *provider && model.upstream_name == *upstream_name) {
        return Step::Kept { place: place.clone(), what: format!("model {name}") };
    }
    // The deployment of a known model under a name of one's own costs what that model costs.
    let wanted = deployment.base_model.as_deref().unwrap_or(upstream_name);
    let wanted = wanted.split_once('/').map_or(wanted, |(_, model)| model);
    let like = |model: &&Model| {
        model.provider.0 == *provider && (model.upstream_name == *upstream_name || model.name == wanted)
    };
    let like = catalogue.iter().find(like);
    let today = || limit_syntax::day_of(SystemClock.now());
    let (prices, source, as_of) = match (deployment.prices, like) {
        (Some((input, output)), _) => {
            let standard = Rates { input, output, ..Rates::default() };
            let prices = Prices { standard, priority: None, flex: None, long_context: Vec::new() };
            (Some(prices), OWN_SOURCE.to_owned(), today())
        }
        (None, Some(model)) => (model.prices.clone(), model.source.clone(), model.as_of.clone()),
        (None, None) => (None, OWN_SOURCE.to_owned(), today()),
    };
    let was = there.map(|model| format!("it was {} of {}", model.upstream_name, model.provider));
    let note = if prices.is_none() { Some(NO_PRICES.to_owned()) } else { was };
    let entry = Model {
        name: name.clone(),
        provider: ProviderName(provider.clone()),
        upstream_name: upstream_name.clone(),
        operation: deployment.operation,
        context_tokens: deployment.context_tokens.or_else(|| like.and_then(|model| model.context_tokens)),
        max_output_tokens: deployment.max_output_tokens.or_else(|| like.and_then(|model| model.max_output_tokens)),
        prices,
        source,
        as_of,
    };
    Step::Model { place: place.clone(), entry: Box::new(entry), note }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
