//! What the documents say about the tree is true: the tests that they name exist.

use std::fs;
use std::path::Path;

/// Every `file::test` between backticks in docs/THREAT-MODEL.md is a test of that file.
#[test]
fn the_threat_model_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/THREAT-MODEL.md")).expect("the document");
    let code = text.split('`').skip(1).step_by(2);
    let named: Vec<(&str, &str)> =
        code.filter_map(|code| code.split_once("::")).filter(|(file, _)| file.ends_with(".rs")).collect();
    assert!(named.len() > 30, "{} names of tests", named.len());
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(file, test)| {
            let directory = if file.starts_with("src/") { root.to_owned() } else { root.join("tests") };
            let source = fs::read_to_string(directory.join(file)).unwrap_or_default();
            !source.contains(&format!("fn {test}(")) && !source.contains(&format!("{test} =>"))
        })
        .map(|(file, test)| format!("{file}::{test}"))
        .collect();
    assert_eq!(missing, [] as [String; 0]);
}
