//! Tidy: what a compiler does not check about this repository, checked over its files as they lie in the working tree.
//!
//! * [`tree`]: the files; [`source`]: Rust text without comments, strings and tests; [`manifest`]: what crates depend on
//! * [`prose`]: words, links and what documents say about code
//!
//! Each rule is a function from text to problems, tested on small texts beside it, so that a rule that finds nothing still can.
#![expect(clippy::panic, reason = "a test fails by panicking")]

mod manifest;
mod metrics;
mod prose;
mod source;
mod tree;

use std::collections::BTreeSet;

use source::Kind;
use tree::Tree;

/// Most lines of a file without its tests.
const FILE_LINES: usize = 700;
/// Most lines of a function.
const FUNCTION_LINES: usize = 120;
/// Migrations that were released: new ones follow, none is renamed or removed.
const MIGRATIONS: [&str; 1] = ["0001_initial.sql"];

fn must_be_empty(what: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

fn over(tree: &Tree, extension: &str, rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let files = tree.files.iter().filter(|file| file.path.ends_with(extension));
    files.flat_map(|file| rule(&file.path, &file.text)).collect()
}

#[test]
fn crates_depend_only_in_the_direction_of_the_architecture() {
    let tree = Tree::read();
    must_be_empty("dependencies", &over(&tree, "Cargo.toml", manifest::direction));
}

#[test]
fn every_crate_is_a_member_and_inherits_what_the_workspace_says() {
    let tree = Tree::read();
    let root = tree.text("Cargo.toml");
    let mut problems = over(&tree, "/Cargo.toml", manifest::inheritance);
    problems.extend(manifest::root(root));
    let crates = tree.files.iter().filter(|file| !manifest::is_workspace(&file.text));
    let found: BTreeSet<&str> = crates.filter_map(|file| file.path.strip_suffix("/Cargo.toml")).collect();
    let members: BTreeSet<&str> = manifest::members(root).collect();
    problems.extend(
        found
            .symmetric_difference(&members)
            .map(|path| format!("{path}: a member that is no crate, or a crate that is no member")),
    );
    must_be_empty("manifests", &problems);
}

#[test]
fn every_source_file_begins_with_what_it_is() {
    let tree = Tree::read();
    must_be_empty("heads", &over(&tree, ".rs", source::head));
}

#[test]
fn no_source_file_is_unfinished() {
    let tree = Tree::read();
    let mut problems = over(&tree, ".rs", source::unfinished);
    for extension in [".toml", ".md", ".proto", ".sql", ".py", ".sh", ".yml", ".yaml"] {
        problems.extend(over(&tree, extension, prose::unfinished));
    }
    must_be_empty("unfinished", &problems);
}

#[test]
fn no_file_is_a_drawer_for_odds_and_ends() {
    let tree = Tree::read();
    must_be_empty("names", &over(&tree, ".rs", |path, _| source::name(path)));
}

#[test]
fn files_and_functions_can_be_read() {
    let tree = Tree::read();
    let tests = source::test_files(&tree);
    let (mut files, mut functions) = (Vec::new(), Vec::new());
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs")) {
        let kind = if tests.contains(file.path.as_str()) { Kind::Test } else { Kind::Product };
        let lengths = source::lengths(&file.text, kind);
        if kind == Kind::Product {
            files.push((lengths.lines, file.path.clone()));
        }
        functions.extend(lengths.functions.into_iter().map(|(lines, name)| (lines, format!("{}: {name}", file.path))));
    }
    assert!(files.len() > 100 && functions.len() > 500, "the walk lost its way: {} files", files.len());
    println!("{}", source::report("file without tests", &mut files));
    println!("{}", source::report("function", &mut functions));
    let too_long = |limit: usize, all: Vec<(usize, String)>| all.into_iter().filter(move |(lines, _)| *lines > limit);
    let problems: Vec<String> = too_long(FILE_LINES, files)
        .chain(too_long(FUNCTION_LINES, functions))
        .map(|(lines, name)| format!("{name} has {lines} lines"))
        .collect();
    must_be_empty("lengths", &problems);
}

#[test]
fn migrations_are_numbered_without_gaps_and_never_removed() {
    let tree = Tree::read();
    let names: Vec<&str> = tree.under("control-plane/migrations/sqlite/").collect();
    must_be_empty("migrations", &manifest::migrations(&names, &MIGRATIONS));
    // PostgreSQL began when SQLite had three steps; from there on both have the same numbers.
    let numbers = |names: &[&str]| names.iter().map(|name| name[..4].to_owned()).collect::<Vec<_>>();
    let postgres: Vec<&str> = tree.under("control-plane/migrations/postgres/").collect();
    assert_eq!(numbers(&postgres), numbers(&names)[3..], "a step of one store without one of the other");
}

#[test]
fn no_word_stands_anywhere_that_must_not() {
    let tree = Tree::read();
    must_be_empty("words", &over(&tree, "", prose::words));
}

#[test]
fn every_metric_is_declared_where_metrics_are() {
    let tree = Tree::read();
    let tests = source::test_files(&tree);
    let product = |path: &str| !tests.contains(path);
    must_be_empty(
        "metrics",
        &over(&tree, ".rs", |path, text| if product(path) { metrics::stray(path, text) } else { Vec::new() }),
    );
    let names: BTreeSet<String> = tree
        .files
        .iter()
        .filter(|file| metrics::is_home(&file.path))
        .flat_map(|file| metrics::declared(&file.text))
        .collect();
    assert!(names.contains("keyforge.requests"), "no metric was found: {names:?}");
    must_be_empty("metrics in documents", &over(&tree, ".md", |path, text| metrics::unknown(path, text, &names)));
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let tree = Tree::read();
    must_be_empty("links", &over(&tree, ".md", |path, text| prose::links(path, text, &tree)));
}

#[test]
fn every_document_that_is_mentioned_exists() {
    let tree = Tree::read();
    let mentioned = |path: &str, text: &str| prose::documents(path, text, |document| tree.has(document));
    let mut problems = over(&tree, ".rs", mentioned);
    problems.extend(over(&tree, ".toml", mentioned));
    must_be_empty("documents", &problems);
}

#[test]
fn the_list_of_invariants_and_the_tests_agree() {
    let tree = Tree::read();
    let list = tree.text("docs/invariants.md");
    let functions: BTreeSet<&str> = tree
        .files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .flat_map(|file| prose::function_names(&file.text))
        .collect();
    let mut problems = prose::tests_named(list, &functions);
    problems.extend(prose::invariants_cited(list, &functions));
    must_be_empty("docs/invariants.md", &problems);
}

#[test]
fn every_refusal_is_in_the_table_of_errors() {
    let tree = Tree::read();
    let source = tree.text("data-plane/src/rejection.rs");
    assert!(prose::refusals(source).len() > 15, "the refusals were not found");
    must_be_empty("README.md", &prose::refusals_missing(source, tree.text("README.md")));
}
