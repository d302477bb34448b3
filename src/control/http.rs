//! As much of HTTP/1.1 (RFC 9112) as a scrape of the metrics needs: one GET or HEAD, one answer, then the end. Pure.

use super::request::{Parsed, Request};

/// The longest head of a request in bytes.
pub const MAX_HEAD: usize = 4096;

/// Header fields that are looked at.
const MAX_FIELDS: usize = 64;

/// The type of the OpenMetrics text format.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// Reads the head of a request; `is_all` says that nothing more will come. The second value is true if only the head of the
/// answer is wanted.
pub fn parse(input: &[u8], is_all: bool) -> (Parsed, bool) {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let wrong = |status, text| (Parsed::Mistake(answer(status, "", TEXT_TYPE, text)), false);
    match head.parse(input) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if input.len() >= MAX_HEAD => {
            return wrong("431 Request Header Fields Too Large", b"The request is too long\n");
        }
        Ok(httparse::Status::Partial) if is_all => return wrong("400 Bad Request", b"The request is cut off\n"),
        Ok(httparse::Status::Partial) => return (Parsed::Incomplete, false),
        Err(_) => return wrong("400 Bad Request", b"This is not HTTP/1.1\n"),
    }
    let path = head.path.unwrap_or_default();
    match (head.method.unwrap_or_default(), path.split(['?', '#']).next().unwrap_or_default()) {
        ("GET", "/metrics") => (Parsed::Request(Request::OpenMetrics), false),
        ("HEAD", "/metrics") => (Parsed::Request(Request::OpenMetrics), true),
        ("GET" | "HEAD", _) => wrong("404 Not Found", b"The metrics are at /metrics\n"),
        _ => {
            let text = answer("405 Method Not Allowed", "Allow: GET, HEAD\r\n", TEXT_TYPE, b"Only GET and HEAD\n");
            (Parsed::Mistake(text), false)
        }
    }
}

/// The answer with the metrics, or only its head.
pub fn metrics(text: &[u8], head_only: bool) -> Vec<u8> {
    let mut answer = answer("200 OK", "", METRICS_TYPE, text);
    if head_only {
        answer.truncate(answer.len() - text.len());
    }
    answer
}

fn answer(status: &str, fields: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\n{fields}Cache-Control: \
         no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(input: &[u8], is_all: bool) -> String {
        match parse(input, is_all).0 {
            Parsed::Mistake(answer) => String::from_utf8(answer).unwrap().lines().next().unwrap().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_scrape_is_understood_however_it_is_cut() {
        let request = b"GET /metrics?x=1 HTTP/1.1\r\nHost: 127.0.0.1:9586\r\nAccept: */*\r\n\r\n";
        for len in 0..request.len() {
            assert_eq!(parse(&request[..len], false), (Parsed::Incomplete, false), "{len}");
        }
        assert_eq!(parse(request, false), (Parsed::Request(Request::OpenMetrics), false));
        assert_eq!(parse(b"HEAD /metrics HTTP/1.0\r\n\r\n", true), (Parsed::Request(Request::OpenMetrics), true));
    }

    #[test]
    fn everything_else_gets_the_status_for_it() {
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n", false), "HTTP/1.1 404 Not Found");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n", false), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status(b"status\n", false), "HTTP/1.1 400 Bad Request");
        assert_eq!(status(b"GET /met", true), "HTTP/1.1 400 Bad Request");
        let long = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; MAX_HEAD]].concat();
        assert_eq!(status(&long, false), "HTTP/1.1 431 Request Header Fields Too Large");
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(status(many.as_bytes(), false), "HTTP/1.1 400 Bad Request");
    }

    #[test]
    fn the_length_is_that_of_the_text_also_where_only_the_head_is_sent() {
        let [whole, head] = [false, true].map(|head_only| String::from_utf8(metrics(b"abc\n", head_only)).unwrap());
        assert!(whole.contains("\r\nContent-Length: 4\r\n") && whole.ends_with("\r\n\r\nabc\n"), "{whole}");
        assert_eq!(format!("{head}abc\n"), whole);
    }

    proptest! {
        #[test]
        fn no_input_is_too_strange(input in prop::collection::vec(any::<u8>(), 0..5000), is_all: bool) {
            parse(&input, is_all);
        }
    }
}
