//! Names and patterns of modules, as modprobe compares them.

/// A module's name as the kernel writes it: underscores for dashes, the file's name without directory, `.ko` and
/// compression.
pub(super) fn module_name(file_or_name: &str) -> String {
    let name = file_or_name.rsplit('/').next().unwrap_or(file_or_name);
    let (name, _) = crate::compress::by_name(name);
    name.strip_suffix(".ko").unwrap_or(name).replace('-', "_")
}

/// An alias or a pattern for aliases with underscores for dashes, but for those inside brackets, where a dash is a
/// range.
pub(super) fn normal(alias: &str) -> String {
    let mut brackets = false;
    let underscore = |c| {
        match c {
            '[' => brackets = true,
            ']' => brackets = false,
            '-' if !brackets => return '_',
            _ => {}
        }
        c
    };
    alias.chars().map(underscore).collect()
}

/// fnmatch(3) without flags, for `*`, `?`, `[abc]`, `[a-c]`, `[!a]`; both sides [`normal`]. Takes time proportional to
/// the product of the lengths at worst, whatever the pattern.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the match fails: behind the last star, with one more byte given to it.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'['), Some(byte)) => bracket(&pattern[p..], *byte),
            (Some(want), Some(byte)) => (want == byte).then_some(1),
            (None, Some(_)) | (Some(_), None) => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                retry = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            (None, _) => return false,
        }
    }
}

/// Matches one byte with the bracket expression that `pattern` begins with; its length if it does.
fn bracket(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A closing bracket in first place is an ordinary member.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == b']')?;
    let mut members = pattern.get(first..end)?;
    let mut found = false;
    loop {
        members = match members {
            [] => break,
            [low, b'-', high, rest @ ..] => {
                found |= (*low..=*high).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
        };
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for (from, to) in [
            ("kernel/fs/ext4/ext4.ko.xz", "ext4"),
            ("crc32c-intel.ko", "crc32c_intel"),
            ("a-b.ko.zst", "a_b"),
            ("nvme-core", "nvme_core"),
        ] {
            assert_eq!(module_name(from), to);
        }
        assert_eq!(normal("crypto-crc32c-[a-z]-x"), "crypto_crc32c_[a-z]_x");
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i00", false),
            ("usb:v07ABpFC01d00[4-9]*", "usb:v07ABpFC01d0021x", false),
            ("usb:v07ABpFC01d0[0-3]*", "usb:v07ABpFC01d0021x", true),
            ("a[!b]c", "abc", false),
            ("a[!b]c", "axc", true),
            ("a[]]c", "a]c", true),
            ("a[b", "a[b", false),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("**a", "bba", true),
            ("fs_ext4", "fs_ext4", true),
            ("fs_ext4", "fs_ext", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_ends(pattern in "[-a-c*?\\[\\]!]{0,40}", text in "[a-c]{0,60}") {
            matches(&pattern, &text);
        }

        #[test]
        fn plain_text_matches_itself_alone(a in "[a-c]{0,3}", b in "[a-c]{0,3}") {
            prop_assert_eq!(matches(&a, &b), a == b);
            let surrounded = format!("*{a}*");
            prop_assert_eq!(matches(&surrounded, &b), b.contains(&a));
        }
    }
}
