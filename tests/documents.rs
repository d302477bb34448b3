//! What the documents say about the tree is true: the tests, files and messages that they name exist.

use std::fs;
use std::path::{Path, PathBuf};

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

/// A file of tests that no program has would be passed by nobody and missed by nobody.
#[test]
fn every_file_of_tests_is_part_of_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).expect("the file");
    let (manifest, suite) = (read("Cargo.toml"), read("tests/suite.rs"));
    let mut files = 0;
    for entry in fs::read_dir(root.join("tests")).expect("the tests") {
        let path = entry.expect("an entry").path();
        let Some(name) = path.extension().filter(|it| *it == "rs").and(path.file_stem()) else { continue };
        let name = name.to_string_lossy();
        files += 1;
        let is_own = manifest.contains(&format!("path = \"tests/{name}.rs\""));
        assert!(is_own || suite.contains(&format!("\nmod {name};\n")), "{name}.rs is in no program");
    }
    assert!(files > 40, "{files} files");
}

/// Who looks for a line of the log in docs/TROUBLESHOOTING.md finds it as the program says it. A `…` stands for what differs.
#[test]
fn the_troubleshooting_page_quotes_messages_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/TROUBLESHOOTING.md")).expect("the document");
    let program: Vec<String> = sources(&root.join("src")).iter().flat_map(|file| messages(file)).collect();
    // Code in headings is, and code in the text if it has a gap or begins as a sentence does.
    let (headings, others): (Vec<&str>, Vec<&str>) = prose(&text).partition(|line| line.starts_with('#'));
    let code =
        |lines: &[&str]| -> Vec<String> { lines.join(" ").split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let quoted: Vec<String> =
        code(&headings).into_iter().chain(code(&others).into_iter().filter(|code| is_message(code))).collect();
    assert!(quoted.len() > 40, "{} messages", quoted.len());
    let missing: Vec<&String> =
        quoted.iter().filter(|message| !program.iter().any(|line| says(line, message))).collect();
    assert!(missing.is_empty(), "the program does not say {missing:#?}");
}

/// A reader who follows a link of a document arrives at a file, and at a heading in it.
#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents =
        fs::read_dir(root.join("docs")).expect("the documents").map(|entry| entry.expect("an entry").path());
    let documents = documents.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut links = 0;
    for document in documents.chain([root.join("README.md")]) {
        let text = fs::read_to_string(&document).expect("the document");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if file.contains(':') {
                continue;
            }
            links += 1;
            let path = if file.is_empty() { document.clone() } else { document.with_file_name(file) };
            assert!(path.exists(), "{}: {target}", document.display());
            let there = || fs::read_to_string(&path).expect("a document");
            assert!(
                anchor.is_empty() || prose(&there()).any(|line| line.starts_with('#') && slug(line) == anchor),
                "{}: {target}",
                document.display()
            );
        }
    }
    assert!(links > 20, "{links} links");
}

/// The lines outside of blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    })
}

/// The name by which a heading is linked to.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Code in the text that is a quotation of the program.
fn is_message(code: &str) -> bool {
    code.contains('…') && code.contains(' ') || code.starts_with("The ") || code.starts_with("A ")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// True if the line has what is between the gaps of the message, in this order.
fn says(line: &str, message: &str) -> bool {
    let mut parts = message.split('…').map(str::trim);
    parts.try_fold(line, |rest, part| rest.split_once(part).map(|(_, rest)| rest)).is_some()
}

/// The lines of a file of the program without its comments and tests; a string that goes on in the next line is one.
fn messages(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a source file");
    let program = text.split("#[cfg(test)]\nmod tests {").next().expect("a first part");
    let lines = program.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let joined: String =
        lines.map(|line| line.strip_suffix('\\').map_or_else(|| format!("{line}\n"), str::to_owned)).collect();
    joined.lines().map(str::to_owned).collect()
}
