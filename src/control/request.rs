//! What a client of the control socket asks for: one line with one word, and for some numbers behind it. Pure.

use super::capture::MAX_SNAP;

/// The longest request in bytes, with its end of line.
pub const MAX_LINE: usize = 1024;

/// How long each direction of a link is loaded if nothing else is asked for.
const DEFAULT_TEST_MS: u32 = 2000;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The status, once.
    Status,
    /// The status each second.
    Watch,
    /// The metrics, once.
    OpenMetrics,
    /// The versions of program and schema.
    Version,
    /// The packets that cross, from now on.
    Dump {
        /// Bytes of each packet at most.
        snap: usize,
    },
    /// A measurement of the link.
    Test {
        /// How long each direction is loaded, in milliseconds.
        ms: u32,
        /// The greatest rate in kbit/s; 0 is as fast as it goes.
        kbit: u32,
    },
    /// What there is to go on with; no client writes it, its connection asks so by itself.
    More,
}

impl Request {
    /// True if the answer holds what is not for everybody who may see the status.
    pub fn is_confidential(self) -> bool {
        matches!(self, Self::Dump { .. } | Self::Test { .. })
    }
}

/// What has been read so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More has to come.
    Incomplete,
    /// A question.
    Request(Request),
    /// Something else, with the whole answer to it.
    Mistake(Vec<u8>),
}

const VERBS: [(&str, Request); 6] = [
    ("status", Request::Status),
    ("watch", Request::Watch),
    ("openmetrics", Request::OpenMetrics),
    ("version", Request::Version),
    ("dump", Request::Dump { snap: MAX_SNAP }),
    ("test", Request::Test { ms: DEFAULT_TEST_MS, kbit: 0 }),
];

/// Reads a request; `is_all` says that nothing more will come, which ends a line, too.
pub fn parse(input: &[u8], is_all: bool) -> Parsed {
    let end = input.iter().position(|byte| *byte == b'\n');
    if end.unwrap_or(input.len()) >= MAX_LINE {
        return Parsed::Mistake(error(&format!("A request is one line of less than {MAX_LINE} bytes")));
    }
    let line = match end {
        Some(end) => &input[..end],
        None if is_all => input,
        None => return Parsed::Incomplete,
    };
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let word = words.next().unwrap_or_default();
    let request = VERBS.iter().find(|(verb, _)| verb.as_bytes() == word).map(|(_, request)| *request);
    let numbers: Option<Vec<u32>> = words.map(parse_number).collect();
    match (request, numbers.as_deref()) {
        (Some(request), Some([])) => Parsed::Request(request),
        (Some(Request::Dump { .. }), Some([snap])) => Parsed::Request(Request::Dump { snap: *snap as usize }),
        (Some(Request::Test { .. }), Some([ms])) => Parsed::Request(Request::Test { ms: *ms, kbit: 0 }),
        (Some(Request::Test { .. }), Some([ms, kbit])) => Parsed::Request(Request::Test { ms: *ms, kbit: *kbit }),
        (Some(Request::Dump { .. }), _) => {
            Parsed::Mistake(error("dump takes the number of bytes that are wanted of each packet"))
        }
        (Some(Request::Test { .. }), _) => {
            Parsed::Mistake(error("test takes a time in milliseconds and a rate in kbit/s"))
        }
        _ => {
            let verbs = VERBS.map(|(verb, _)| verb).join(", ");
            Parsed::Mistake(error(&format!("Unknown request; this version knows {verbs}")))
        }
    }
}

fn parse_number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The answer that says what is wrong.
pub fn error(sentence: &str) -> Vec<u8> {
    format!("{}\n", serde_json::json!({ "error": sentence })).into_bytes()
}

/// The answer to [`Request::Version`].
pub fn version(schema: u32) -> String {
    format!("{}\n", serde_json::json!({ "schema": schema, "version": env!("CARGO_PKG_VERSION") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_a_verb_and_nothing_else() {
        for (verb, request) in VERBS {
            for line in [format!("{verb}\n"), format!("  {verb}\r\n"), format!("{verb}\nrest")] {
                assert_eq!(parse(line.as_bytes(), false), Parsed::Request(request), "{line:?}");
            }
            assert_eq!(parse(verb.as_bytes(), false), Parsed::Incomplete);
            assert_eq!(parse(verb.as_bytes(), true), Parsed::Request(request), "the end ends a line, too");
        }
        for line in ["\n", "status now\n", "STATUS\n", "\0\n", "statu\u{e4}\n"] {
            assert!(matches!(parse(line.as_bytes(), false), Parsed::Mistake(_)), "{line:?}");
        }
        assert!(matches!(parse(b"", true), Parsed::Mistake(_)));
    }

    #[test]
    fn a_capture_may_be_asked_for_with_a_length() {
        assert_eq!(parse(b"dump 96\n", false), Parsed::Request(Request::Dump { snap: 96 }));
        assert_eq!(parse(b"dump\n", false), Parsed::Request(Request::Dump { snap: MAX_SNAP }));
        for wrong in ["dump -1\n", "dump 1 2\n", "dump x\n", "dump 99999999999999999999999\n"] {
            assert!(matches!(parse(wrong.as_bytes(), false), Parsed::Mistake(_)), "{wrong:?}");
        }
    }

    #[test]
    fn a_measurement_may_be_asked_for_with_time_and_rate() {
        let request = |ms, kbit| Parsed::Request(Request::Test { ms, kbit });
        assert_eq!(parse(b"test\n", false), request(DEFAULT_TEST_MS, 0));
        assert_eq!(parse(b"test 5000\n", false), request(5000, 0));
        assert_eq!(parse(b"test 5000 64\n", false), request(5000, 64));
        for wrong in ["test x\n", "test 1 2 3\n", "test 4294967296\n"] {
            assert!(matches!(parse(wrong.as_bytes(), false), Parsed::Mistake(_)), "{wrong:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_before_its_end() {
        assert_eq!(parse(&[b'x'; MAX_LINE - 1], false), Parsed::Incomplete);
        assert!(matches!(parse(&[b'x'; MAX_LINE], false), Parsed::Mistake(_)));
        let padded = [vec![b' '; MAX_LINE - 7], b"status\n".to_vec()].concat();
        assert_eq!(padded.len(), MAX_LINE);
        assert_eq!(parse(&padded, false), Parsed::Request(Request::Status));
    }

    proptest! {
        #[test]
        fn whatever_comes_draws_one_line_or_none(input in prop::collection::vec(any::<u8>(), 0..1100), is_all: bool) {
            if let Parsed::Mistake(answer) = parse(&input, is_all) {
                let text = String::from_utf8(answer).unwrap();
                prop_assert_eq!(text.lines().count(), 1);
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"].is_string());
            }
        }
    }
}
