use super::decode::Error;
use super::*;
use proptest::prelude::*;

fn there_and_back(encoder: &mut Encoder, page: &[u8]) -> Vec<u8> {
    // Room for any page: that the caller gives less is another matter.
    let mut out = vec![0; page.len() + page.len() / 8 + 64];
    let len = encoder.encode(page, &mut out).unwrap();
    out.truncate(len);
    let mut back = vec![0xee; page.len()];
    assert_eq!(decode(&out, &mut back), Ok(page.len()));
    assert!(back == page);
    out
}

/// A page as a kernel has it: words of few kinds, some of them pointers, runs, and noise.
fn structured() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => (any::<u16>(), 1_usize..40).prop_map(|(low, n)| {
            (0..n).flat_map(|i| (0xffff_8880_0000_0000 + u64::from(low) + (i as u64) * 64).to_le_bytes()).collect()
        }),
        3 => (any::<u8>(), 1_usize..700).prop_map(|(b, n)| vec![b; n]),
        3 => prop::collection::vec(any::<u8>(), 1..300),
        2 => (prop::collection::vec(any::<u8>(), 1..12), 1_usize..60).prop_map(|(unit, n)| unit.repeat(n)),
        1 => Just(b"the quick brown fox jumps over the lazy dog".to_vec()),
    ];
    let len = prop_oneof![5 => Just(4096_usize), 1 => Just(65536), 1 => Just(16384), 2 => 1_usize..600];
    (prop::collection::vec(piece, 1..400), len).prop_map(|(pieces, len)| {
        let mut page = pieces.concat();
        while page.len() < len {
            page.extend_from_within(..(len - page.len()).min(page.len()));
        }
        page.truncate(len);
        page
    })
}

proptest! {
    #[test]
    fn pages_come_back(pages in prop::collection::vec(structured(), 1..8)) {
        // One encoder: what it keeps of a page must not show in the next.
        let mut encoder = Encoder::default();
        for page in &pages {
            let out = there_and_back(&mut encoder, page);
            prop_assert!(out.len() <= page.len() + page.len() / 255 + 7);
            prop_assert_eq!(&there_and_back(&mut Encoder::default(), page), &out);
        }
    }

    #[test]
    fn any_bytes_end(stream in prop::collection::vec(any::<u8>(), 0..600), len in 0_usize..5000) {
        let mut page = vec![0; len];
        if let Ok(got) = decode(&stream, &mut page) {
            prop_assert!(got <= len);
        }
    }

    /// Too little room is no harm, and no result.
    #[test]
    fn room_is_respected(page in structured(), room in 0_usize..5000) {
        let whole = there_and_back(&mut Encoder::default(), &page);
        let mut out = vec![0xcc; room + 10];
        let outcome = Encoder::default().encode(&page, &mut out[..room]);
        prop_assert!(out[room..].iter().all(|b| *b == 0xcc));
        match outcome {
            Some(len) => prop_assert_eq!(&out[..len], &whole[..]),
            // It gives up early where a wide store does not fit; never with more than that to spare.
            None => prop_assert!(room < whole.len() + 32),
        }
    }
}

#[test]
fn lengths_at_the_edges_of_the_forms() {
    let mut encoder = Encoder::default();
    let noise: Vec<u8> =
        (0_u32..70_000).map(|i| (i.wrapping_mul(2_654_435_761) >> 15).to_le_bytes()[0]).collect();
    for literals in [1, 2, 3, 4, 5, 17, 18, 19, 20, 237, 238, 239, 272, 273, 274, 528, 529] {
        for run in [4, 5, 8, 9, 32, 33, 34, 35, 263, 264, 265, 288, 289, 290, 542, 543] {
            for gap in [
                0, 1, 3, 4, 18, 19, 2000, 2047, 2048, 2049, 16380, 16383, 16384, 16385, 40000, 49140, 49151,
                49152,
            ] {
                // Noise, a gap of other noise, the first bytes again, and a tail.
                let mut page = noise[..literals.max(run)].to_vec();
                page.extend(noise[1000..1000 + gap].iter().map(|b| b ^ 0x5a));
                page.extend_from_within(..run);
                page.extend(&noise[..literals % 5]);
                there_and_back(&mut encoder, &page);
                there_and_back(&mut encoder, &vec![0x41; run + literals]);
            }
        }
    }
    for len in 1..40 {
        there_and_back(&mut encoder, &vec![0; len]);
        there_and_back(&mut encoder, &noise[..len]);
    }
    assert_eq!(encoder.encode(&[0; 65537], &mut [0; 70000]), None);
    assert_eq!(there_and_back(&mut encoder, &[]), END);
}

/// Each instruction, by hand from the description of the format.
#[test]
fn instructions() {
    let end = [0x11_u8, 0, 0];
    let mut ramp: Vec<u8> = (0_u16..3000).map(|i| (i / 7).to_le_bytes()[0]).collect();
    for (name, stream, expected) in [
        ("nothing", vec![], Ok(vec![])),
        ("one literal", vec![18, b'a'], Ok(b"a".to_vec())),
        ("four literals", vec![21, b'a', b'b', b'c', b'd'], Ok(b"abcd".to_vec())),
        ("a long run of literals at the start", [vec![0, 3], vec![9; 21]].concat(), Ok(vec![9; 21])),
        ("3 bytes, short form", vec![20, b'a', b'b', b'c', 0x48, 0], Ok(b"abcabc".to_vec())),
        ("and two literals", vec![20, b'a', b'b', b'c', 0x4a, 0, b'x', b'y'], Ok(b"abcabcxy".to_vec())),
        ("8 bytes, overlapping", vec![18, b'a', 0xe0, 0], Ok(b"aaaaaaaaa".to_vec())),
        ("near form", vec![18, b'a', 0x20, 1, 0, 0], Ok(vec![b'a'; 35])),
        ("near form, longer", vec![18, b'a', 0x20, 0, 1, 0, 0], Ok(vec![b'a'; 290])),
        ("2 bytes after a literal", vec![18, b'a', 0x00, 0], Ok(b"aaa".to_vec())),
        (
            "literals after no literals",
            vec![18, b'a', 0x40, 0, 1, 1, 2, 3, 4],
            Ok(b"aaaa\x01\x02\x03\x04".to_vec()),
        ),
        ("before the start", vec![18, b'a', 0x44, 0], Err(Error::Distance(4))),
        ("far before the start", vec![18, b'a', 0x19, 4, 0], Err(Error::Distance(5))),
        ("a match at the very start", vec![0x10, 1, 4, 0], Err(Error::Distance(4))),
        ("no literals left", vec![22, b'a'], Err(Error::Truncated(5))),
    ] {
        let mut page = [0; 4000];
        let outcome = decode(&[&stream[..], &end].concat(), &mut page).map(|len| page[..len].to_vec());
        assert_eq!(outcome, expected, "{name}");
    }
    // 3 bytes from 2049 to 3072 after 4 or more literals, here a long run of 3000.
    let mut stream = vec![0];
    stream.extend([0; 11]);
    stream.push(u8::try_from(3000 - 18 - 11 * 255).unwrap());
    stream.extend(&ramp);
    stream.extend([0x04, 0x10]);
    stream.extend(end);
    let mut page = vec![0; 3003];
    assert_eq!(decode(&stream, &mut page), Ok(3003));
    ramp.extend_from_within(3000 - 2114..3000 - 2111);
    assert!(page == ramp);
    // Damaged ends, and pages too small.
    assert_eq!(decode(&[], &mut page), Err(Error::Truncated(0)));
    assert_eq!(decode(&[18, b'a', 0x11, 0], &mut page), Err(Error::Truncated(4)));
    assert_eq!(decode(&[18, b'a', 0x11, 0, 0, 0], &mut page), Err(Error::Trailing(1)));
    assert_eq!(decode(&[18, b'a', 0x20, 0, 0, 0, 0], &mut page), Err(Error::Truncated(7)));
    assert_eq!(decode(&[20, 1, 2, 3, 0x11, 0, 0], &mut [0; 2]), Err(Error::Overrun(1)));
    assert_eq!(decode(&[18, b'a', 0x20, 1, 0, 0, 0x11, 0, 0], &mut [0; 34]), Err(Error::Overrun(6)));
}
