//! Raw partitions: what the next boot finds on a disk that anybody may have written.

use crate::Bases;
use collector::target::raw::layout::{CHUNK, DIRECTORY_LEN, DIRECTORY_MAGIC, crc_of};
use collector::target::raw::{Chunk, Directory, Found, Label};

/// Puts the sum there that the reader expects: without it no input gets past it.
fn sealed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    if let Some(head) = bytes.get_mut(..at) {
        let crc = crc_of(head).to_le_bytes();
        if let Some(to) = head.last_chunk_mut::<4>() {
            *to = crc;
        }
    }
    bytes
}

/// The input is a label, a directory or a chunk, as its first byte says, from behind the magic and the UUID on.
pub fn raw(_: &Bases, data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let label = Label { length: 64 << 20, uuid: [7; 16], prepared: 0 };
    match how % 3 {
        0 => {
            let bytes = sealed(data.to_vec(), 4096.min(data.len()));
            if let Found::Label(label) = Label::parse(&bytes) {
                assert!(label.length >= Label::LEAST && label.chunks() < label.length / CHUNK);
                assert_eq!(Label::parse(&label.to_bytes()), Found::Label(label));
            }
        }
        1 => {
            let mut bytes = [DIRECTORY_MAGIC.as_slice(), &label.uuid, data].concat();
            bytes.resize(DIRECTORY_LEN, 0);
            let Some(directory) = Directory::parse(&sealed(bytes, DIRECTORY_LEN), &label) else { return };
            let chunks = label.chunks();
            assert!(directory.next <= chunks);
            assert!(directory.dumps.iter().all(|dump| dump.first <= chunks && plain(&dump.name)));
            for file in &directory.files {
                assert!(plain(&file.name) && file.first.is_none_or(|first| first < chunks));
                assert!(directory.dumps.iter().any(|dump| dump.id == file.dump));
            }
            assert_eq!(Directory::parse(&directory.to_bytes(&label), &label), Some(directory));
        }
        _ => {
            let bytes = [b"vmcored raw data".as_slice(), &label.uuid, data].concat();
            if let Some(chunk) = Chunk::parse(&sealed(bytes, 512), &label) {
                assert!(chunk.data.len() <= data.len() && i64::try_from(chunk.index).is_ok());
            }
        }
    }
}

fn plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0', '\n', '\u{1b}'])
}
