//! What has to hold for the text form of keys whatever is read: no parser panics, at most one kind of key is seen in a text,
//! what is seen is written as that text again, and no error shows any of it.

use simpletun::tunnel::keys::{KEY_LEN, KeyError, PrivateKey, PublicKey, SharedSecret};

/// The bytes are a text; and if there are enough, a key.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = [
        PrivateKey::parse(&text).map(|key| key.to_text().to_string()),
        PublicKey::parse(&text).map(|key| key.to_string()),
        SharedSecret::parse(&text).map(|key| key.to_text().to_string()),
    ];
    assert!(read.iter().filter(|read| read.is_ok()).count() <= 1, "one kind of key at most");
    for read in read {
        match read {
            Ok(written) => assert_eq!(written, text.trim()),
            Err(error) => check_silence(&text, error),
        }
    }
    if let Some(bytes) = data.first_chunk::<KEY_LEN>() {
        let key = PublicKey::from_bytes(*bytes);
        assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        let secret = SharedSecret::from_bytes(*bytes);
        let again = SharedSecret::parse(&secret.to_text());
        assert_eq!(again.is_ok(), *bytes != [0; KEY_LEN], "all but zeros is a secret");
        assert!(again.is_err() || again == Ok(secret));
    }
}

/// An error says nothing that is the same for one text only.
fn check_silence(text: &str, error: KeyError) {
    let said = error.to_string();
    let mut words = text.split_whitespace().filter(|word| word.len() >= 20);
    assert!(!words.any(|word| said.contains(word)), "{said}");
}
