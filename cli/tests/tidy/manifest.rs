//! Manifests: which crate may depend on which, and what every crate takes from the workspace. Migrations are names in a row, too.

/// Our crates, and those of ours that each may use.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("keyforge-shared", &[]),
    ("keyforge-loadtest", &[]),
    (
        "keyforge-fleetload",
        &[
            "keyforge-control-plane",
            "keyforge-counters",
            "keyforge-data-plane",
            "keyforge-loadtest",
            "keyforge-proto",
            "keyforge-runtime",
            "keyforge-shared",
        ],
    ),
    ("keyforge-proto", &["keyforge-shared"]),
    ("keyforge-runtime", &["keyforge-shared"]),
    ("keyforge-providers", &["keyforge-shared"]),
    ("keyforge-control-plane", &["keyforge-proto", "keyforge-runtime", "keyforge-shared"]),
    ("keyforge-counters", &["keyforge-runtime", "keyforge-shared"]),
    (
        "keyforge-data-plane",
        &["keyforge-counters", "keyforge-proto", "keyforge-providers", "keyforge-runtime", "keyforge-shared"],
    ),
    (
        "keyforge-cli",
        &[
            "keyforge-control-plane",
            "keyforge-data-plane",
            "keyforge-loadtest",
            "keyforge-proto",
            "keyforge-providers",
            "keyforge-runtime",
            "keyforge-shared",
        ],
    ),
];

/// Crates that touch the world, which these of ours must not do. `hyper` stands for `hyper-util` as well. Redis is the counters' alone.
const FOREIGN: [(&str, &[&str]); 8] = [
    ("keyforge-shared", &["tokio", "tonic", "sqlx", "hyper", "redis", "deadpool"]),
    ("keyforge-loadtest", &["redis", "deadpool"]),
    ("keyforge-proto", &["redis", "deadpool"]),
    ("keyforge-runtime", &["redis", "deadpool"]),
    ("keyforge-providers", &["tokio", "tonic", "sqlx", "hyper", "redis", "deadpool"]),
    ("keyforge-control-plane", &["redis", "deadpool"]),
    ("keyforge-counters", &["tonic", "sqlx", "hyper"]),
    ("keyforge-data-plane", &["sqlx", "redis", "deadpool"]),
];

/// The same, but for the tests of these crates.
const FOREIGN_BUT_FOR_TESTS: [(&str, &[&str]); 1] = [("keyforge-cli", &["sqlx", "redis", "deadpool"])];

/// What every crate takes from the workspace.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

/// A line of a manifest: its section, key and value.
struct Line<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            return None;
        }
        let (key, value) = line.split_once('=')?;
        (!line.starts_with('#')).then_some(Line { section, key: key.trim(), value: value.trim() })
    })
}

fn package(text: &str) -> &str {
    let name = lines(text).find(|line| line.section == "package" && line.key == "name");
    name.map_or("", |line| line.value.trim_matches('"'))
}

/// What a manifest depends on: the section, and the name.
fn dependencies(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let of = |line: &Line<'_>| line.section.ends_with("dependencies") && line.section != "workspace.dependencies";
    lines(text).filter(of).map(|line| (line.section, line.key.split('.').next().unwrap_or(line.key)))
}

fn list_of<'a>(lists: &[(&str, &'a [&'a str])], name: &str) -> &'a [&'a str] {
    lists.iter().find(|(known, _)| *known == name).map_or(&[], |(_, list)| list)
}

/// Whether a manifest is a workspace's root: the repository's, or that of fuzz targets, which are no part of the product and need
/// another compiler.
pub fn is_workspace(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "[workspace]")
}

/// Dependencies against the direction of the architecture.
pub fn direction(path: &str, text: &str) -> Vec<String> {
    let name = package(text);
    if name.is_empty() || is_workspace(text) {
        return Vec::new();
    }
    if !ALLOWED.iter().any(|(known, _)| *known == name) {
        return vec![format!("{path}: {name} has no place in the architecture yet: give it one")];
    }
    let (allowed, foreign) = (list_of(&ALLOWED, name), list_of(&FOREIGN, name));
    let product_only = list_of(&FOREIGN_BUT_FOR_TESTS, name);
    let of_family = |dependency: &str, families: &[&str]| {
        let rest = |family: &&str| dependency.strip_prefix(*family);
        families.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let wrong = |(section, dependency): &(&str, &str)| {
        // A crate may name itself to switch features on for its own tests.
        let itself = *dependency == name && *section == "dev-dependencies";
        // The scripted provider is the one stand-in of every crate's tests.
        let stand_in = *dependency == "keyforge-loadtest" && *section == "dev-dependencies";
        let ours = dependency.starts_with("keyforge-") && !itself && !stand_in;
        (ours && !allowed.contains(dependency))
            || of_family(dependency, foreign)
            || (*section == "dependencies" && of_family(dependency, product_only))
    };
    let found = dependencies(text).filter(wrong);
    found.map(|(_, dependency)| format!("{path}: {name} must not depend on {dependency}")).collect()
}

/// What a crate's manifest says itself though the workspace says it.
pub fn inheritance(path: &str, text: &str) -> Vec<String> {
    let has = |section: &str, key: &str, value: &str| {
        lines(text).any(|line| line.section == section && line.key == key && line.value == value)
    };
    let mut problems = Vec::new();
    if is_workspace(text) {
        return problems;
    }
    if !has("lints", "workspace", "true") {
        problems.push(format!("{path}: [lints] must say workspace = true"));
    }
    for key in INHERITED {
        if !has("package", &format!("{key}.workspace"), "true") {
            problems.push(format!("{path}: {key}.workspace = true is missing"));
        }
    }
    for line in lines(text).filter(|line| line.section.ends_with("dependencies")) {
        if !line.key.ends_with(".workspace") && !line.value.contains("workspace = true") {
            problems.push(format!("{path}: {} must take its version from the workspace", line.key));
        }
    }
    problems
}

/// Dependencies of the workspace that bring more than is asked for, or stand out of order.
pub fn root(text: &str) -> Vec<String> {
    let all: Vec<_> = lines(text).filter(|line| line.section == "workspace.dependencies").collect();
    let greedy =
        all.iter().filter(|line| !line.value.contains("path =") && !line.value.contains("default-features = false"));
    let greedy = greedy.map(|line| format!("Cargo.toml: {} must say default-features = false", line.key));
    let names: Vec<&str> = all.iter().filter(|line| !line.key.starts_with("keyforge-")).map(|line| line.key).collect();
    let unordered = names.windows(2).filter(|pair| pair[0] >= pair[1]);
    greedy.chain(unordered.map(|pair| format!("Cargo.toml: {} stands behind {}", pair[1], pair[0]))).collect()
}

/// The directories that the workspace names as its members.
pub fn members(text: &str) -> impl Iterator<Item = &str> {
    let from = text.find("members = [").unwrap_or(text.len());
    let list = text[from..].split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2)
}

/// Migrations that are not called `0001_word.sql`, `0002_word.sql` and so on, and released ones that are gone.
pub fn migrations(names: &[&str], released: &[&str]) -> Vec<String> {
    let mut problems: Vec<String> = released
        .iter()
        .filter(|name| !names.contains(name))
        .map(|name| format!("{name} was released: it must stay as it is; add another one"))
        .collect();
    for (index, name) in names.iter().enumerate() {
        let (number, word) = name.split_once('_').unwrap_or((name, ""));
        let word = word.strip_suffix(".sql").unwrap_or_default();
        let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if number != format!("{:04}", index + 1) || !plain {
            problems.push(format!("{name}: number {} must be called {:04}_what_it_does.sql", index + 1, index + 1));
        }
    }
    if names.is_empty() {
        problems.push("there are none".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_with(name: &str, dependency: &str) -> String {
        format!("[package]\nname = \"{name}\"\n[dependencies]\nbytes.workspace = true\n{dependency}\n")
    }

    #[test]
    fn dependencies_against_the_direction_are_found() {
        for (name, dependency, wrong) in [
            ("keyforge-shared", "tokio.workspace = true", true),
            ("keyforge-shared", "tokio-util = { workspace = true, features = [\"rt\"] }", true),
            ("keyforge-shared", "tokiox.workspace = true", false),
            ("keyforge-providers", "hyper-util.workspace = true", true),
            ("keyforge-proto", "keyforge-runtime.workspace = true", true),
            ("keyforge-control-plane", "keyforge-data-plane.workspace = true", true),
            ("keyforge-data-plane", "keyforge-control-plane.workspace = true", true),
            ("keyforge-data-plane", "keyforge-providers.workspace = true", false),
            ("keyforge-data-plane", "keyforge-counters.workspace = true", false),
            ("keyforge-data-plane", "deadpool-redis.workspace = true", true),
            ("keyforge-counters", "redis.workspace = true", false),
            ("keyforge-counters", "keyforge-data-plane.workspace = true", true),
            ("keyforge-counters", "keyforge-counters.workspace = true", true),
            ("keyforge-counters", "[dev-dependencies]\nkeyforge-counters.workspace = true", false),
            ("keyforge-loadtest", "keyforge-shared.workspace = true", true),
            ("keyforge-cli", "keyforge-loadtest.workspace = true", false),
            ("keyforge-cli", "sqlx.workspace = true", true),
            ("keyforge-cli", "[dev-dependencies]\nsqlx.workspace = true", false),
            ("keyforge-shared", "[dev-dependencies]\ntokio.workspace = true", true),
            ("keyforge-new", "bytes.workspace = true", true),
        ] {
            assert_eq!(
                direction("Cargo.toml", &crate_with(name, dependency)).len(),
                usize::from(wrong),
                "{name} {dependency}"
            );
        }
        let alone = crate_with("keyforge-new", "bytes = \"1\"\n[workspace]");
        assert_eq!((direction("Cargo.toml", &alone).len(), inheritance("Cargo.toml", &alone).len()), (0, 0));
        let for_tests = "[package]\nname = \"keyforge-proto\"\n[dev-dependencies]\nkeyforge-cli.workspace = true";
        assert_eq!(direction("Cargo.toml", for_tests).len(), 1);
    }

    #[test]
    fn a_crate_that_does_not_inherit_is_found() {
        let package = "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
                       license.workspace = true\npublish.workspace = true\n";
        let good = format!(
            "{package}[lints]\nworkspace = true\n[dependencies]\na.workspace = true\nb = {{ workspace = true }}\n"
        );
        assert_eq!(inheritance("Cargo.toml", &good), Vec::<String>::new());
        assert_eq!(inheritance("Cargo.toml", package).len(), 1);
        assert_eq!(inheritance("Cargo.toml", &good.replace("edition.workspace = true", "edition = \"2021\"")).len(), 1);
        assert_eq!(inheritance("Cargo.toml", &good.replace("a.workspace = true", "a = \"1\"")).len(), 1);
    }

    #[test]
    fn greedy_and_unordered_dependencies_of_the_workspace_are_found() {
        let text = "[workspace.dependencies]\nkeyforge-z = { path = \"z\" }\na = { version = \"1\", default-features = false }\nb = \"1\"\n";
        assert_eq!(root(text).len(), 1);
        let swapped = "[workspace.dependencies]\nb = { default-features = false }\na = { default-features = false }";
        assert_eq!(root(swapped).len(), 1);
        assert_eq!(
            members("[workspace]\nmembers = [\n \"a\",\n \"b/c\",\n]\ndefault-members = [\"d\"]").collect::<Vec<_>>(),
            ["a", "b/c"]
        );
    }

    #[test]
    fn gaps_odd_names_and_removed_migrations_are_found() {
        assert_eq!(
            migrations(&["0001_initial.sql", "0002_more_of_it.sql"], &["0001_initial.sql"]),
            Vec::<String>::new()
        );
        for wrong in
            [&["0001_initial.sql", "0003_x.sql"][..], &["0001_initial.sql", "0002_X.sql"], &["1_initial.sql"], &[]]
        {
            assert!(!migrations(wrong, &[]).is_empty(), "{wrong:?}");
        }
        assert_eq!(migrations(&["0001_begin.sql"], &["0001_initial.sql"]).len(), 1);
    }
}
