//! What a check has found, and how it is shown. Pure.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Verdict {
    /// As it should be.
    #[serde(rename = "ok")]
    Ok,
    /// Nothing is wrong; somebody may want to know, or it could not be looked at.
    #[serde(rename = "note")]
    Note,
    /// It may work, or not always.
    #[serde(rename = "warn")]
    Warning,
    /// It does not work.
    #[serde(rename = "fail")]
    Fault,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warn",
            Self::Fault => "FAIL",
        }
    }
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// The command that cures it, or what else to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), cure: None }
    }

    /// Nothing is wrong.
    pub fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::ok(check, found) }
    }

    /// It may work.
    pub fn warning(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::fault(check, found, cure) }
    }

    /// It does not work.
    pub fn fault(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fault, cure: Some(cure.into()), ..Self::ok(check, found) }
    }

    /// The same with a command that helps.
    #[must_use]
    pub fn with_cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }
}

/// A line for each finding, and one more for each cure.
pub fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, verdict, found, cure } in findings {
        let _ = writeln!(text, "{:<4}  {check:<width$}  {}", verdict.word(), one_line(found));
        if let Some(cure) = cure {
            let _ = writeln!(text, "      {:<width$}  cure: {}", "", one_line(cure));
        }
    }
    text
}

/// What files and other programs say may have control characters in it.
fn one_line(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' => ' ',
        character if character.is_control() => '\u{fffd}',
        character => character,
    };
    text.trim().chars().map(shown).collect()
}

/// All of it for programs: `{"findings": […], "verdict": …}`.
pub fn json(findings: &[Finding]) -> String {
    format!("{:#}\n", json!({ "findings": findings, "verdict": worst(findings) }))
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_cure_another() {
        let findings = [
            Finding::ok("driver", "the kernel has it"),
            Finding::fault("device node", "not\nthere\u{1b}[0m", "mknod x"),
            Finding::note("clock", "n"),
        ];
        let expected = "ok    driver       the kernel has it\nFAIL  device node  not there\u{fffd}[0m\n                   \
                        cure: mknod x\nnote  clock        n\n";
        assert_eq!(text(&findings), expected);
        assert_eq!(worst(&findings), Verdict::Fault);
        assert_eq!(worst(&findings[..1]), Verdict::Ok);
    }

    #[test]
    fn programs_get_the_same() {
        let findings = [Finding::warning("clock", "late", "timedatectl")];
        let value: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(value["verdict"], "warn");
        assert_eq!(value["findings"][0]["cure"], "timedatectl");
    }
}
