//! Replays the corpora of the fuzz targets, so that what fuzzing once found stays found.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks/frame_decoder.rs"]
mod frame_decoder;
#[path = "../fuzz/checks/key_text.rs"]
mod key_text;
#[path = "../fuzz/checks/merge.rs"]
mod merge;
#[path = "../fuzz/checks/secure_endpoint.rs"]
mod secure_endpoint;
#[path = "../fuzz/checks/secure_pair.rs"]
mod secure_pair;
#[path = "../fuzz/checks/split.rs"]
mod split;
#[path = "../fuzz/checks/virtio_header.rs"]
mod virtio_header;

#[test]
fn the_frame_decoder_passes_its_corpus() {
    assert!(replay("frame_decoder", frame_decoder::check) > 5, "the corpus is there");
}

#[test]
fn splitting_passes_its_corpus() {
    assert!(replay("split", split::check) > 5, "the corpus is there");
}

#[test]
fn merging_passes_its_corpus() {
    assert!(replay("merge", merge::check) > 5, "the corpus is there");
}

#[test]
fn the_virtio_header_passes_its_corpus() {
    assert!(replay("virtio_header", virtio_header::check) > 5, "the corpus is there");
}

#[test]
fn the_text_of_keys_passes_its_corpus() {
    assert!(replay("key_text", key_text::check) > 5, "the corpus is there");
}

#[test]
fn an_end_of_a_secure_link_passes_its_corpus() {
    assert!(replay("secure_endpoint", secure_endpoint::check) > 5, "the corpus is there");
}

#[test]
fn two_ends_of_a_secure_link_pass_their_corpus() {
    assert!(replay("secure_pair", secure_pair::check) > 5, "the corpus is there");
}

/// Runs the check on every file of the corpus and returns how many there are.
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("a corpus");
    files.map(|file| check(&fs::read(file.expect("an entry").path()).expect("a readable file"))).count()
}
