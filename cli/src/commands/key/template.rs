//! Templates: presets of the options of `keyforge key create`, built in or from a file of the operator's.
//!
//! A template says what the options would say, in the same words, and is read by the same rules. An option on the command line takes its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use keyforge_runtime::config;
use serde::{Deserialize, Serialize};

use super::limits::LimitArgs;
use crate::errors::Failure;
use crate::output::{OutputFormat, Row};

const BUILT_IN: &str = include_str!("templates.toml");

#[derive(Debug, Subcommand)]
pub(super) enum TemplateAction {
    /// Show the templates for `key create --template`
    List(FileArgs),
}

#[derive(Args, Debug, Default)]
pub(super) struct FileArgs {
    /// A TOML file with templates of your own, beside those that are built in
    #[arg(long, value_name = "FILE")]
    template_file: Option<PathBuf>,
}

/// One table of a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Template {
    description: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Options by their names, without the dashes.
    #[serde(flatten)]
    options: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
    List(Vec<String>),
}

impl Value {
    fn texts(&self) -> Vec<String> {
        match self {
            Self::Number(number) => vec![number.to_string()],
            Self::Text(text) => vec![text.clone()],
            Self::List(texts) => texts.clone(),
        }
    }
}

/// The options of a template as they would be written.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    limits: LimitArgs,
}

/// What a key is made with by a template.
#[derive(Debug, Default)]
pub(super) struct Preset {
    pub(super) limits: LimitArgs,
    pub(super) labels: BTreeMap<String, String>,
}

impl FileArgs {
    /// The template of this name.
    ///
    /// # Errors
    /// A usage failure when there is none, or when it says something that no option takes.
    pub(super) fn preset(&self, name: &str) -> Result<Preset, Failure> {
        let mut templates = self.templates()?;
        let template = templates.remove(name).ok_or_else(|| {
            let names: Vec<_> = templates.into_keys().collect();
            Failure::usage(format!("--template: there is no template `{name}`, but {}", names.join(", ")))
                .hint("`keyforge key template list` shows what they say")
        })?;
        if let Some(option) = template.empty_option() {
            return Err(Failure::usage(format!(
                "--template: in `{name}`: {option} is an empty list: leave it out for no restriction"
            )));
        }
        let line = Line::try_parse_from(template.words()).map_err(|error| {
            let error = error.to_string();
            let first = error.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Failure::usage(format!("--template: in `{name}`: {first}"))
        })?;
        Ok(Preset { limits: line.limits, labels: template.labels })
    }

    /// By name; one of the file takes the place of a built-in one.
    fn templates(&self) -> Result<BTreeMap<String, Template>, Failure> {
        let mut templates: BTreeMap<_, _> =
            config::parse(Path::new("templates.toml"), BUILT_IN).map_err(Failure::refused)?;
        if let Some(path) = &self.template_file {
            let own: BTreeMap<String, Template> = config::load(path).map_err(Failure::refused)?;
            templates.extend(own);
        }
        Ok(templates)
    }
}

impl Template {
    /// An option with no value at all, which would say nothing where somebody may have meant "none".
    fn empty_option(&self) -> Option<&str> {
        self.options.iter().find(|(_, value)| value.texts().is_empty()).map(|(name, _)| name.as_str())
    }

    fn words(&self) -> Vec<String> {
        let words = self.options.iter().map(|(name, value)| (name, value.texts()));
        words.flat_map(|(name, texts)| texts.into_iter().map(move |text| format!("--{name}={text}"))).collect()
    }
}

/// A template in a list.
#[derive(Serialize)]
struct TemplateView {
    name: String,
    #[serde(flatten)]
    template: Template,
}

impl Row for TemplateView {
    const COLUMNS: &'static [&'static str] = &["name", "for", "options"];

    fn cells(&self) -> Vec<String> {
        let labels = self.template.labels.iter().map(|(name, value)| format!("--label={name}={value}"));
        let words: Vec<_> = self.template.words().into_iter().chain(labels).collect();
        vec![self.name.clone(), self.template.description.clone(), words.join(" ")]
    }
}

/// Runs a command about templates. No server is asked.
pub(super) fn run(action: TemplateAction, output: OutputFormat) -> Result<(), Failure> {
    let TemplateAction::List(file) = action;
    let templates = file.templates()?.into_iter();
    let views: Vec<_> = templates.map(|(name, template)| TemplateView { name, template }).collect();
    output.list(&views)
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::Timestamp;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_327_200_000);

    #[test]
    fn every_template_that_is_built_in_limits_money_ends_and_is_valid() {
        let file = FileArgs::default();
        let names: Vec<_> = file.templates().unwrap().into_keys().collect();
        assert!(names.contains(&"ci-bot".to_owned()) && names.contains(&"research-agent".to_owned()), "{names:?}");
        for name in names {
            let preset = file.preset(&name).unwrap();
            assert_eq!(preset.labels["kind"], name);
            let (policy, _) = preset.limits.policy(NOW).unwrap();
            assert!(!policy.spend_limits.is_empty() && policy.expires_at_ms.is_some(), "{name}");
            keyforge_shared::policy::Policy::try_from(policy).unwrap();
        }
    }

    #[test]
    fn a_file_adds_templates_and_what_no_option_takes_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.toml");
        let own = "[nightly]\ndescription = 'd'\nrpm = 5\nnetwork = ['10.0.0.0/8']\n[ci-bot]\ndescription = 'ours'\n\
                   [wrong]\ndescription = 'd'\nspend = ['5/year']\n[odd]\ndescription = 'd'\nbudget = 5\n";
        std::fs::write(&path, own).unwrap();
        let file = FileArgs { template_file: Some(path) };
        let (policy, _) = file.preset("nightly").unwrap().limits.policy(NOW).unwrap();
        assert_eq!((policy.requests_per_minute, policy.networks), (Some(5), vec!["10.0.0.0/8".to_owned()]));
        let (policy, paths) = file.preset("ci-bot").unwrap().limits.policy(NOW).unwrap();
        assert!(paths.is_empty() && policy.spend_limits.is_empty(), "the operator's takes its place as a whole");
        for (name, said) in [("wrong", "--spend"), ("odd", "--budget"), ("none", "there is no template `none`")] {
            let error = file.preset(name).unwrap_err().to_string();
            assert!(error.contains("--template: ") && error.contains(said), "{error}");
        }
    }
}
