//! `keyforge import`: a configuration of another gateway becomes credentials and models.

use serde_json::Value;

use crate::command::Dev;

const CONFIG: &str = "
model_list:
- model_name: gpt-4o
  litellm_params: {model: openai/gpt-4o, api_key: os.environ/FIRST_KEY, rpm: 100}
- model_name: ours
  litellm_params: {model: openai/gpt-4o, api_key: os.environ/SECOND_KEY}
- model_name: elsewhere
  litellm_params: {model: bedrock/some-model}
general_settings: {master_key: sk-1234}
";
const ENV: [(&str, &str); 2] = [("FIRST_KEY", "sk-first-of-two"), ("SECOND_KEY", "sk-second-of-two")];

fn outcomes(lines: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(|line| (text(&line["outcome"]), text(&line["what"]))).collect()
}

#[test]
fn a_configuration_of_litellm_is_taken_over_once_and_what_is_not_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"), &[]);
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, CONFIG).unwrap();
    let words = ["import", "litellm", file.to_str().unwrap(), "--output", "json"];
    let import = |more: &[&str]| {
        let finished = dev.run_with(&[&words, more].concat(), &ENV);
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert!(!finished.stdout.contains("sk-"), "no key is shown: {}", finished.stdout);
        outcomes(&finished.json())
    };
    let count = |lines: &[(String, String)], outcome: &str| lines.iter().filter(|(is, _)| is == outcome).count();

    let planned = import(&["--dry-run"]);
    assert_eq!(
        (count(&planned, "would_add"), count(&planned, "kept"), count(&planned, "left_out")),
        (3, 1, 3),
        "{planned:?}"
    );
    assert_eq!(dev.json(&["credential", "list"]).as_array().unwrap().len(), 3, "only the sandbox's own");
    let done = import(&[]);
    assert_eq!((count(&done, "added"), count(&done, "kept"), count(&done, "left_out")), (3, 1, 3), "{done:?}");
    assert!(done.iter().any(|(is, what)| is == "left_out" && what.contains("bedrock")), "{done:?}");
    let credentials = dev.json(&["credential", "list"]);
    let groups: Vec<_> =
        credentials.as_array().unwrap().iter().map(|one| one["limit_group"].as_str().unwrap()).collect();
    assert!(groups.contains(&"FIRST_KEY") && groups.contains(&"SECOND_KEY"), "{groups:?}");
    let again = import(&[]);
    assert_eq!((count(&again, "added"), count(&again, "kept")), (0, 4), "{again:?}");

    let ours = dev.json(&["model", "show", "ours"]);
    assert_eq!((&ours["provider"], &ours["upstream_name"]), (&"openai".into(), &"gpt-4o".into()));
    assert_eq!(ours["prices"], dev.json(&["model", "show", "gpt-4o"])["prices"]);
}
