//! Replays the corpora of the fuzz targets, so that what fuzzing once found stays found.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks/frame_decoder.rs"]
mod frame_decoder;
#[path = "../fuzz/checks/merge.rs"]
mod merge;
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

/// Runs the check on every file of the corpus and returns how many there are.
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("a corpus");
    files.map(|file| check(&fs::read(file.expect("an entry").path()).expect("a readable file"))).count()
}
